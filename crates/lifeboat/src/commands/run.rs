//! `lifeboat run`: the agent, and the follower of SQLite databases, by which new commits are in the
//! repositories at once.

mod ending;
mod rest;
mod retries;
mod telling;
mod thinning;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Duration;

use lifeboat_core::backup::{self, BackupRequest};
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::KIND;
use lifeboat_sqlite::pagelog::{FollowBounds, FollowRequest, Follower, Increment, Pace, Step};
use rustix::process::{Resource, getrlimit, setrlimit};

use self::rest::{Ears, Rest};
use self::retries::Retries;
use self::telling::Teller;
use self::thinning::Thinning;
use self::turns::Turns;
use super::backup::{Choices, chosen, request};
use crate::agent;
use crate::config::values::Period;
use crate::following::Following;
use crate::memory;
use crate::repositories::{self, Place};
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};

/// How often the configuration's globs are looked at again, in milliseconds.
const TARGETS_EVERY_MS: u64 = 10_000;
/// How often a follower asks whether there is a newer backup to follow: a list of all that its
/// source has there.
const CURRENT_EVERY_MS: u64 = 60_000;
/// Who listens to the kernel asks so often whether all is over, and hears together what is told
/// within so long, in milliseconds.
const HEARD_MS: (u32, u64) = (500, 1);

/// Run all that is scheduled, and follow SQLite databases
///
/// Without arguments it is one process for everything: it makes the backups of each source's
/// `schedule`, prunes, copies, verifies and drills when the timers of `lifeboat install` would,
/// follows the SQLite databases, and receives the log of clusters with `receive`. What was missed
/// while it did not run is caught up once. What fails is tried again, what hangs is ended, and
/// neither keeps anything else waiting; `agent` of the configuration has the numbers. SIGTERM lets
/// runs end first, SIGHUP reads the configuration anew if it is right. `lifeboat install systemd
/// --agent` makes a service of it.
///
/// With names or paths, or with --follow or --once, databases are followed and nothing else is
/// done: new commits are in the repository within a second, as states of the log that follows the
/// newest backup; where there is no backup yet, or its log has grown too large, one is made.
/// `lifeboat restore SOURCE --at TIME` goes back to any of these states, and `lifeboat status` says
/// how old the newest one is.
///
/// The application goes on writing: its database gets no table, no checkpoint and no other journal
/// mode. In WAL mode only what was written is read. Where the `-wal` began anew, and in the other
/// journal modes, all pages are compared, for no more than a part of the time. A database that
/// rests, on a file system of this host, is left alone until the kernel tells of a write.
///
/// A log is packed as it grows, and logs are thinned out as `log` and `keep` of the configuration
/// say, some hours' states at once, where the credentials suffice; without both, every state stays.
///
/// Without names every SQLite database of the configuration is followed, those of globs as they
/// come and go. It runs until it gets a signal. One database that fails is told of and tried again;
/// the others go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of sources, or paths of databases
    #[arg(value_name = "SOURCE|PATH")]
    sources: Vec<String>,
    /// The time between two looks at a database
    #[arg(long, value_name = "TIME", default_value = "1s")]
    interval: Period,
    /// After so long without a change, that there was none is written down
    #[arg(long, value_name = "TIME", default_value = "1m")]
    heartbeat: Period,
    /// How large a -wal may become while it is kept from beginning anew, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8)]
    wal_max: u32,
    /// How large a -wal may become while all pages are compared and they cannot be without holding
    /// a state, in MiB; else a quarter of that
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    compare_max: u32,
    /// An application that writes so many MiB a second is in a hurry: its -wal is read as it comes,
    /// and nothing is held until it is stored
    #[arg(long, value_name = "MIB", default_value_t = 4)]
    hurry_from: u32,
    /// Databases smaller than this are compared when their -wal began anew, and never keep it from
    /// that, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    pin_from: u32,
    /// Look at each database once, thin out its log, then end
    #[arg(long)]
    once: bool,
    /// Follow databases, and run no schedules
    #[arg(long)]
    follow: bool,
}

/// A database in a repository.
struct Job<'a> {
    place: &'a Place,
    target: &'a Target,
    request: BackupRequest<'a>,
    /// Where pages are put aside that wait to be stored.
    aside_folder: Option<&'a Path>,
    followed: Mutex<Followed>,
    /// In which it is looked at while it is followed: a look that began is not broken off.
    looking: Env,
}

/// What is known of a database that is followed.
#[derive(Default)]
struct Followed {
    follower: Option<Follower>,
    retries: Retries,
    /// When it asks next whether there is a newer backup.
    current_at_ms: u64,
    /// The last thing that was done was a backup.
    is_backed_up: bool,
    /// There was a repository.
    has_repository: bool,
    /// The last look was made, and all that was committed before is stored.
    is_finished: bool,
    /// Why the last look failed.
    unfinished: Option<Kind>,
    /// Whether it is left alone.
    rest: Rest,
}

/// Who hears what looks lead to.
struct Listener<'a> {
    session: &'a Session,
    args: &'a Args,
    thinning: Thinning,
    teller: Teller<'a>,
    /// The databases that are followed.
    followed: Names,
}

/// What a look led to, for people.
enum Told {
    Nothing,
    Began(Increment, Following),
    Added(Increment, Following),
    BackedUp(String),
    Failed(Error),
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let is_agent = args.sources.is_empty() && !args.once && !args.follow;
    // Without a file there are no schedules: what variables name is followed.
    if is_agent && !session.config_files()?.is_empty() {
        return agent::run(session, &args.options());
    }
    follow_all(session, args)
}

impl Args {
    /// The options as a follower gets them that runs beside the schedules.
    fn options(&self) -> Vec<String> {
        let numbers = [
            ("--wal-max", self.wal_max),
            ("--compare-max", self.compare_max),
            ("--hurry-from", self.hurry_from),
            ("--pin-from", self.pin_from),
        ];
        let periods = [("--interval", self.interval), ("--heartbeat", self.heartbeat)];
        let numbers = numbers.map(|(name, number)| [name.to_owned(), number.to_string()]);
        let periods = periods.map(|(name, period)| [name.to_owned(), period.to_string()]);
        numbers.into_iter().chain(periods).flatten().collect()
    }
}

fn follow_all(session: &Session, args: Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    allow_files();
    memory::share_heaps();
    let places = repositories::places(session)?;
    let bounds = FollowBounds {
        pinned_wal_bytes_max: u64::from(args.wal_max) << 20,
        compared_wal_bytes_max: u64::from(args.compare_max) << 20,
        rush_from_bytes: u64::from(args.hurry_from) << 20,
        store_every_ms: args.interval.milliseconds,
        pinned_from_bytes: u64::from(args.pin_from) << 20,
        heartbeat_ms: args.heartbeat.milliseconds,
        ..FollowBounds::default()
    };
    let mut kept = BTreeMap::new();
    let mut listener = Listener {
        session,
        args: &args,
        thinning: Thinning::begin(&env),
        teller: Teller::of(session),
        followed: Names::new(),
    };
    let ears = Ears::open();
    loop {
        let targets = targets(session, &args)?;
        listener.followed = names_of(&targets)?;
        let mut jobs = jobs(session, &env, &targets, &places, &mut kept)?;
        if jobs.is_empty() && args.once {
            let error = Error::new(Kind::Usage, "there is no SQLite database to follow");
            return Err(error.hint("name one: lifeboat run app.db"));
        }
        let ended = follow(&mut listener, &env, (&jobs, &ears), bounds);
        for job in jobs.drain(..) {
            let key = job.key();
            let followed = job.followed.into_inner().unwrap_or_else(PoisonError::into_inner);
            kept.insert(key, followed);
        }
        match ended {
            Ok(None) => {}
            ended => {
                listener.thinning.end();
                return match ended {
                    // It runs until it is told to end: that is no failure.
                    Err(error) if !args.once && signals::is_end(&error) => {
                        ending::tell(session, &kept).map(|()| ExitCode::SUCCESS)
                    }
                    ended => ended.map(|code| code.unwrap_or(ExitCode::SUCCESS)),
                };
            }
        }
    }
}

/// Each database that is followed has a lock, which is a file: as many may be open as the system
/// allows, and not only the thousand that programs get that do not ask.
fn allow_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is refused, the limit stays what it was.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The databases that are to be followed now.
fn targets(session: &Session, args: &Args) -> Result<Vec<Target>> {
    let config = &session.loaded()?.config;
    let targets = match sources::named(config, &args.sources) {
        // A tenant may be gone for now, and others come: what there is goes on.
        Err(error) if error.kind() == Kind::SourceUnavailable && !args.once => {
            session.printer.warning("", &error.to_string());
            Vec::new()
        }
        named => named?,
    };
    let is_followed = |target: &Target| target.source.kind() == KIND && target.path.is_some();
    if let Some(other) = targets.iter().find(|target| !is_followed(target))
        && !args.sources.is_empty()
    {
        let message = format!("`{}` is no SQLite database", other.name);
        return Err(Error::new(Kind::Usage, message).hint("only SQLite databases are followed"));
    }
    Ok(targets.into_iter().filter(is_followed).collect())
}

fn jobs<'a>(
    session: &'a Session,
    env: &Env,
    targets: &'a [Target],
    places: &'a [Place],
    kept: &mut BTreeMap<(String, String), Followed>,
) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    let looking = ending::looking(env);
    for target in targets {
        let urls: Vec<String> =
            chosen(target, places, session)?.into_iter().map(|place| place.url).collect();
        for place in places.iter().filter(|place| urls.contains(&place.url)) {
            let request = request(session, env, target, place, Choices::default())?;
            let aside_folder = session.folders.aside.as_deref();
            let (looking, followed) = (looking.clone(), Mutex::default());
            let mut job = Job { place, target, request, aside_folder, followed, looking };
            if let Some(followed) = kept.remove(&job.key()) {
                job.followed = Mutex::new(followed);
            }
            jobs.push(job);
        }
    }
    // What is not followed any more lets its database go.
    kept.clear();
    Ok(jobs)
}

/// Looks at each of them when its time has come. `None` when there are others.
fn follow(
    listener: &mut Listener<'_>,
    env: &Env,
    (jobs, ears): (&[Job<'_>], &Ears),
    bounds: FollowBounds,
) -> Result<Option<ExitCode>> {
    if listener.args.once {
        env.proceed()?;
        return once(listener.session, env, jobs, bounds).map(Some);
    }
    let turns = Turns::new(jobs.len(), env, listener.args.interval.milliseconds);
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        for thread in 0..turns.workers(env) {
            let (sender, turns) = (sender.clone(), &turns);
            scope.spawn(move || {
                turns.work(env, thread, |at, is_due| {
                    let job = &jobs[at];
                    hear(env, (ears, jobs, turns));
                    let told = match is_due || job.is_urgent(env) {
                        true => job.look_if_worth(env, bounds, ears),
                        false => Told::Nothing,
                    };
                    // A backup is no end: what it is followed by begins with the next look.
                    let again = match &told {
                        Told::BackedUp(_) => job.look(env, bounds),
                        _ => Told::Nothing,
                    };
                    // Most looks find nothing, and nobody is woken for that.
                    for told in [told, again] {
                        if !matches!(told, Told::Nothing) {
                            // Nobody listens any more only when all is over.
                            let _ = sender.send((at, told));
                        }
                    }
                    job.pace(env)
                });
                if env.proceed().is_err() {
                    while let Some(at) = turns.take_last() {
                        for told in jobs[at].finish(bounds) {
                            let _ = sender.send((at, told));
                        }
                    }
                }
            });
        }
        drop(sender);
        scope.spawn(|| {
            while !turns.are_over(env) {
                if ears.wait(env, HEARD_MS.0) {
                    hear(env, (ears, jobs, &turns));
                    env.clock.sleep_ms(HEARD_MS.1);
                }
            }
        });
        let listened = listener.listen(env, jobs, &receiver);
        turns.end();
        // What the last looks led to is said, too.
        listened.and_then(|()| {
            receiver.iter().try_for_each(|(at, told)| listener.hear(&jobs[at], &told))
        })
    })?;
    env.proceed().map(|()| None)
}

/// Hears who wrote to databases that rested, and calls those that are better looked at at once.
fn hear(env: &Env, (ears, jobs, turns): (&Ears, &[Job<'_>], &Turns)) {
    if ears.hear() {
        let called = jobs.iter().enumerate().filter(|(_, job)| job.is_awoken(env));
        called.for_each(|(at, _)| turns.call(at));
    }
}

impl Listener<'_> {
    /// Says what looks led to, until there are other databases than these, or nobody looks any
    /// more. No look waits for it.
    fn listen(
        &mut self,
        env: &Env,
        jobs: &[Job<'_>],
        receiver: &Receiver<(usize, Told)>,
    ) -> Result<()> {
        loop {
            self.thinning.go_on(self.session, env, jobs);
            if !jobs.iter().any(Job::is_busy) {
                // Each of them may have read much at its beginning, and little since.
                memory::give_back();
            }
            let until_ms = env.clock.monotonic_ms() + TARGETS_EVERY_MS;
            loop {
                let left_ms = until_ms.saturating_sub(env.clock.monotonic_ms());
                match receiver.recv_timeout(Duration::from_millis(left_ms)) {
                    Ok((at, told)) => self.hear(&jobs[at], &told)?,
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
            if names_of(&targets(self.session, self.args)?)? != self.followed {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, job: &Job<'_>, told: &Told) -> Result<()> {
        if matches!(told, Told::Added(..)) {
            self.thinning.added(job);
        }
        self.teller.say(job, told)
    }
}

/// What tells databases apart that are to be followed: name, path, and where that is.
type Names = BTreeSet<(String, Option<PathBuf>, String)>;

fn names_of(targets: &[Target]) -> Result<Names> {
    let of = |target: &Target| Ok((target.name.clone(), target.path.clone(), target.location()?));
    targets.iter().map(of).collect()
}

/// Looks at each of them once.
fn once(session: &Session, env: &Env, jobs: &[Job<'_>], bounds: FollowBounds) -> Result<ExitCode> {
    let mut told = in_parallel(jobs, env.threads, |job| vec![job.look(env, bounds)]);
    if told.iter().flatten().any(|told| matches!(told, Told::BackedUp(_))) {
        let again = in_parallel(jobs, env.threads, |job| job.look(env, bounds));
        told.iter_mut().zip(again).for_each(|(told, again)| told.push(again));
    }
    let mut results = Vec::new();
    let mut failed = None;
    for (job, told) in jobs.iter().zip(told) {
        for told in told {
            results.extend(telling::tell(session, job, &told));
            if let Told::Failed(error) = told {
                failed = failed.or(Some(error));
            }
        }
    }
    thinning::now(session, env, jobs);
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

impl Job<'_> {
    fn key(&self) -> (String, String) {
        (self.target.name.clone(), self.place.url.clone())
    }

    /// Whether its writer is in a hurry, or it is being looked at.
    fn is_busy(&self) -> bool {
        let followed = match self.followed.try_lock() {
            Ok(followed) => followed,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return true,
        };
        followed.follower.as_ref().is_some_and(Follower::is_hurried)
    }

    fn pace(&self, env: &Env) -> Pace {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        match &followed.follower {
            // The kernel says when it is time.
            Some(follower) if !followed.rest.is_heard() => follower.pace(env),
            _ => Pace::Calm,
        }
    }

    /// Whether it rested until somebody wrote, and the sooner it is looked at, the better: while
    /// its `-wal` is at its beginning, a state is held in time. Not one that is looked at now.
    fn is_awoken(&self, env: &Env) -> bool {
        let Ok(followed) = self.followed.try_lock() else { return false };
        let watched = |follower: &Follower| follower.pace(env) == Pace::Watched;
        followed.rest.is_over() && followed.follower.as_ref().is_some_and(watched)
    }

    /// Whether it is to be looked at although its time has not come.
    fn is_urgent(&self, env: &Env) -> bool {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = &followed.rest;
        followed.follower.as_ref().is_some_and(|follower| match follower.pace(env) {
            Pace::Hurried => true,
            Pace::Watched => rest.is_over() || !rest.is_heard() && follower.has_grown(),
            Pace::Calm => false,
        })
    }

    /// Looks at the database, unless it is known to rest.
    fn look_if_worth(&self, env: &Env, bounds: FollowBounds, ears: &Ears) -> Told {
        let now_ms = env.clock.monotonic_ms();
        {
            let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            // Whether there is a newer backup is asked as often as else.
            let is_to_ask = now_ms >= followed.current_at_ms;
            if !is_to_ask && followed.rest.lasts(now_ms, bounds.heartbeat_ms) {
                if let Some(follower) = &mut followed.follower {
                    follower.rests_until(now_ms);
                }
                return Told::Nothing;
            }
        }
        let told = self.look(env, bounds);
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Followed { follower, rest, .. } = &mut *followed;
        let at_rest = follower.as_ref().filter(|it| it.is_at_rest()).map(Follower::path);
        rest.looked(ears, at_rest, now_ms);
        told
    }

    /// Looks at the database once. Fails for itself alone.
    fn look(&self, env: &Env, bounds: FollowBounds) -> Told {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = env.clock.monotonic_ms();
        let path = self.target.path.as_deref().unwrap_or(Path::new(""));
        if followed.follower.is_none() && !followed.retries.is_due(now_ms, path) {
            return Told::Nothing;
        }
        match self.step(env, bounds, &mut followed) {
            Ok(told) => {
                match &told {
                    Told::Began(..) => followed.retries.followed(),
                    _ => followed.retries.passed(),
                }
                told
            }
            Err(error) => {
                // Whatever it knew may be wrong now: it begins anew.
                followed.follower = None;
                let error = error.context(format!("`{}` is not followed", self.target.name));
                let is_damage = error.kind() == Kind::CheckFailed;
                let damage_ms = if is_damage { env.elapsed_ms(now_ms) } else { 0 };
                let times_ms = (env.clock.monotonic_ms(), damage_ms);
                match followed.retries.failed(times_ms, path, &telling::in_full(&error)) {
                    true => Told::Failed(error),
                    false => Told::Nothing,
                }
            }
        }
    }

    fn step(&self, env: &Env, bounds: FollowBounds, followed: &mut Followed) -> Result<Told> {
        if let Some(follower) = &mut followed.follower {
            let now_ms = env.clock.monotonic_ms();
            let is_due = now_ms >= followed.current_at_ms;
            if is_due {
                followed.current_at_ms = now_ms + CURRENT_EVERY_MS;
            }
            if !is_due || follower.is_current()? {
                return match follower.step(&self.looking)? {
                    Step::Unchanged => Ok(Told::Nothing),
                    Step::Added(increment) => {
                        let following = following_of(follower, bounds, &increment.base);
                        Ok(Told::Added(increment, following))
                    }
                    Step::BackupNeeded(why) => {
                        followed.follower = None;
                        self.back_up(env, why, followed)
                    }
                };
            }
            followed.follower = None;
        }
        self.request.source.inspect()?;
        let repository = self.repository(env, followed)?;
        let path = self.target.path.clone().unwrap_or_default();
        let request = FollowRequest {
            path,
            identity: self.request.identity.clone(),
            options: self.request.options.clone(),
            bounds,
            lock_folder: self.request.lock_folder,
            aside_folder: self.aside_folder.map(Path::to_owned),
        };
        match Follower::begin(env, &repository, request)? {
            Ok((follower, increment)) => {
                let following = following_of(&follower, bounds, &increment.base);
                followed.follower = Some(follower);
                followed.current_at_ms = env.clock.monotonic_ms() + CURRENT_EVERY_MS;
                followed.is_backed_up = false;
                Ok(Told::Began(increment, following))
            }
            // Backup upon backup would fill the disk.
            Err(why) if followed.is_backed_up => {
                let message = format!("its newest backup cannot be followed either: {why}");
                Err(Error::new(Kind::Refused, message)
                    .hint("back it up on a schedule instead: lifeboat install"))
            }
            Err(why) => self.back_up(env, why, followed),
        }
    }

    /// Opens the repository, or creates it where none was seen yet. Where one was, there must be
    /// one again: a drive that was unmounted leaves an empty folder. Another drive may have its
    /// own.
    fn repository(&self, env: &Env, followed: &mut Followed) -> Result<Repository> {
        if followed.has_repository {
            self.place.open(env).map_err(|error| match error.kind() {
                Kind::NoRepository => {
                    let url = &self.place.url;
                    let message = format!("the repository that was at {url} is not there");
                    let hint = "mount its drive again; if a new one is meant to be made there, \
                                begin `lifeboat run` anew";
                    Error::new(Kind::StoreAbsent, message).hint(hint)
                }
                _ => error,
            })?;
        }
        let repository = self.place.open_or_create(env)?;
        followed.has_repository = true;
        Ok(repository)
    }

    /// The next look begins to follow this backup.
    fn back_up(&self, env: &Env, why: String, followed: &mut Followed) -> Result<Told> {
        let repository = self.repository(env, followed)?;
        backup::run(env, &repository, &self.request)
            .map_err(|error| error.context(format!("it needs a backup ({why}), which failed")))?;
        followed.is_backed_up = true;
        Ok(Told::BackedUp(why))
    }
}

/// How much may be lost, by what a follower says.
fn following_of(follower: &Follower, bounds: FollowBounds, base: &str) -> Following {
    Following {
        base: base.to_owned(),
        rpo_ms: follower.rpo_ms(),
        is_compared: follower.is_compared(),
        heartbeat_ms: bounds.heartbeat_ms,
    }
}
