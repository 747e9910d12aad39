//! A look at everything: the configuration, and what the repositories hold. Read by one thread at
//! a time, kept, and read anew when it is old or when something is known to have happened.
//!
//! A repository may answer slowly or never: then what was read before is shown, with its moment.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::Result;
use lifeboat_core::catalog::Catalog;
use lifeboat_core::drill::RightOnes;
use lifeboat_core::event::{Event, Observer};
use rustix::process::setpriority_process;

use crate::commands::status::disk::Disk;
use crate::commands::status::overall::{Notifier, Reached, Told};
use crate::commands::status::{self, Row, metrics};
use crate::config::Loaded;
use crate::memory;
use crate::repositories::Opened;
use crate::session::Session;
use crate::standing::Alert;
use crate::ui::report;

/// What was read is new for so long, where each repository is a folder, and where one is not.
const NEW_MS: (i64, i64) = (10_000, 60_000);
/// For programs that ask again and again: a look has its price, and so has each request of a
/// repository. What is known to have happened is read sooner.
const NEW_MS_FOR_PROGRAMS: (i64, i64) = (30_000, 300_000);
/// The same by what the look took: for them one goes on for no more than such a part of the time.
const PART_FOR_PROGRAMS: u64 = 1_000;
/// How long one who asks waits for a new look, where there is an older one, and where there is
/// none.
const WAIT: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_secs(20));

/// A look that somebody else's page is not waiting for is so far behind: a step of the scheduler's
/// priorities, for its thread alone.
const BEHIND: i32 = 5;

/// What repositories hold is let go when nobody has asked for so long.
const UNASKED: Duration = Duration::from_secs(600);

/// Everything, as it was at a moment.
pub(crate) struct Look {
    /// When it began.
    pub(crate) taken_at: Timestamp,
    /// How long it took, in milliseconds.
    took_ms: u64,
    /// The configuration.
    pub(crate) loaded: Loaded,
    /// Each source in each repository, as `lifeboat status` has it.
    pub(crate) rows: Vec<Row>,
    /// How full the disks of repositories are, and when they will be.
    pub(crate) disks: Vec<Disk>,
    /// All repositories, also those that could not be read.
    pub(crate) reached: Vec<Reached>,
    /// All that is wrong, the worst first.
    pub(crate) alerts: Vec<Alert>,
    /// Who is told, and how deliveries went.
    pub(crate) notifiers: Vec<Notifier>,
    /// The repositories that could be read, with what they hold.
    pub(crate) opened: Vec<Opened>,
    /// Whether what they hold is still there.
    has_catalogs: bool,
    /// What could not be read, and why.
    pub(crate) failures: Vec<String>,
    /// What was to be said while reading: of what, and what.
    pub(crate) warnings: Vec<(String, String)>,
    /// The zone in which moments are shown.
    pub(crate) zone: TimeZone,
    metrics: OnceLock<String>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A person, who waits, and may want to see what repositories hold.
    Person,
    /// A person who looks how everything stands.
    Glance,
    /// A program, which waits as well.
    Program,
    /// A program that comes every few seconds, and gets what there is.
    Scraper,
}

/// The looks that were taken.
pub(crate) struct Looks {
    session: Mutex<Session>,
    attempts: Option<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
    proofs: RightOnes,
}

#[derive(Default)]
struct State {
    newest: Option<Arc<Look>>,
    /// What `attempts` was when it was taken.
    attempts_at: Option<SystemTime>,
    /// Something happened since it was begun.
    is_stale: bool,
    is_looking: bool,
    /// When the last one was begun.
    begun_at: Timestamp,
    /// How often somebody asked.
    asked: u64,
}

impl Looks {
    /// None yet.
    pub(crate) fn new(session: Session) -> Arc<Self> {
        let state = session.folders.locks.as_deref().and_then(|locks| locks.parent());
        Arc::new(Looks {
            attempts: state.map(|state| state.join("attempts")),
            session: Mutex::new(session),
            state: Mutex::default(),
            changed: Condvar::new(),
            proofs: RightOnes::default(),
        })
    }

    /// Something happened: who asks next gets a new look.
    pub(crate) fn forget(&self) {
        self.state().is_stale = true;
    }

    /// A run of its own, with the configuration read anew.
    pub(crate) fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).again()
    }

    /// The proofs whose signatures were found right.
    pub(crate) fn right_proofs(&self) -> &RightOnes {
        &self.proofs
    }

    /// The newest look; a new one where that is old. `None` where there is none within the time
    /// that a person waits.
    pub(crate) fn newest(self: &Arc<Self>, now: Timestamp, asker: Asker) -> Option<Arc<Look>> {
        let attempts_at = self.attempts_at();
        let mut state = self.state();
        state.asked += 1;
        let is_enough = |look: &Arc<Look>| look.has_catalogs || asker != Asker::Person;
        let newest = state.newest.clone().filter(is_enough);
        let is_news = state.attempts_at != attempts_at || state.is_stale;
        let is_young = newest.as_ref().map(|look| look.is_young(now, asker));
        let is_long = state.takes_long(now);
        match turn(asker, is_young, is_news, is_long) {
            Turn::Shown => return newest,
            Turn::ShownOld => {
                self.begin_look(&mut state, attempts_at, now);
                return newest;
            }
            Turn::Waits => {}
        }
        let wait = if newest.is_some() { WAIT.0 } else { WAIT.1 };
        let looking = |state: &mut State| state.is_looking;
        // One that went on already may have been begun before what happened.
        for _ in 0..2 {
            self.begin_look(&mut state, attempts_at, now);
            let waited = self.changed.wait_timeout_while(state, wait, looking);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let is_behind = state.attempts_at != attempts_at || state.is_stale;
            if state.is_looking || !is_behind {
                break;
            }
        }
        state.newest.clone().filter(is_enough)
    }

    /// Begins the first look, before anybody asks.
    pub(crate) fn begin(self: &Arc<Self>, now: Timestamp) {
        let attempts_at = self.attempts_at();
        self.begin_look(&mut self.state(), attempts_at, now);
    }

    /// Waits until the first look has ended, and no longer than that.
    pub(crate) fn wait_for_first(&self, longest: Duration) {
        let nothing = |state: &mut State| state.is_looking && state.newest.is_none();
        drop(self.changed.wait_timeout_while(self.state(), longest, nothing));
    }

    /// One looks at a time.
    fn begin_look(
        self: &Arc<Self>,
        state: &mut State,
        attempts_at: Option<SystemTime>,
        now: Timestamp,
    ) {
        if state.is_looking {
            return;
        }
        state.begun_at = now;
        (state.is_looking, state.is_stale, state.attempts_at) = (true, false, attempts_at);
        self.changed.notify_all();
        let (looks, is_first) = (Arc::clone(self), state.newest.is_none());
        std::thread::spawn(move || {
            if !is_first {
                // Who is shown the one before goes first. Where that is refused, both go on.
                let _ = setpriority_process(None, BEHIND);
            }
            looks.look();
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a backup of this host ended last: each is noted there.
    fn attempts_at(&self) -> Option<SystemTime> {
        std::fs::metadata(self.attempts.as_ref()?).ok()?.modified().ok()
    }

    fn look(&self) {
        let session = self.session();
        let seen = Arc::new(Seen::default());
        let before = self.state().newest.clone();
        let look = take(session, &seen, before.as_ref().map_or(&[], |look| &look.opened));
        drop(before);
        let mut state = self.state();
        state.is_looking = false;
        let older = state.newest.take();
        state.newest = Some(Arc::new(match look {
            Ok(look) => look,
            // What was known stays known no longer, but for when that was.
            Err(error) => Look::failed(older.as_deref(), with_causes(&error)),
        }));
        drop(state);
        self.changed.notify_all();
        drop(older);
        memory::give_back();
        self.forget_unasked();
    }

    /// Lets what repositories hold go where nobody has asked for a while: that takes memory. How
    /// everything stood stays.
    fn forget_unasked(&self) {
        let mut state = self.state();
        loop {
            let asked = state.asked;
            let nobody_looks = |state: &mut State| !state.is_looking;
            let waited = self.changed.wait_timeout_while(state, UNASKED, nobody_looks);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_looking {
                // The next look has a thread of its own, which waits as this one did.
                return;
            }
            if state.asked == asked {
                // Somebody may be shown it at this moment: then nothing is kept of it.
                let older = state.newest.take().map(Arc::try_unwrap);
                state.newest = older.and_then(|older| Some(Arc::new(older.ok()?.bare())));
                drop(state);
                return memory::give_back();
            }
        }
    }
}

impl State {
    /// Whether the look that goes on, or that would be begun, is not worth waiting for: the one
    /// before took long, or this one does.
    fn takes_long(&self, now: Timestamp) -> bool {
        let most_ms = WAIT.0.as_millis();
        let since_ms = now.duration_since(self.begun_at).as_millis();
        let is_late = self.is_looking && u128::try_from(since_ms).is_ok_and(|ms| ms > most_ms);
        let took_ms = self.newest.as_ref().map_or(0, |look| look.took_ms);
        is_late || u128::from(took_ms) > most_ms
    }
}

/// What becomes of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// They get the look that there is.
    Shown,
    /// The same, and a new one is begun for who comes next.
    ShownOld,
    /// They wait for a new one.
    Waits,
}

/// That, where there is a look that is enough for them, and is young or not; where something is
/// known to have happened since; and where a new one takes longer than anybody waits.
fn turn(asker: Asker, is_young: Option<bool>, is_news: bool, is_long: bool) -> Turn {
    match (is_young, is_news) {
        (None, _) => Turn::Waits,
        (Some(true), false) => Turn::Shown,
        (Some(false), false) => Turn::ShownOld,
        // It comes again anyway, and soon.
        (Some(_), true) if asker == Asker::Scraper || is_long => Turn::ShownOld,
        (Some(_), true) => Turn::Waits,
    }
}

/// What is said while it looks.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, String)>>);

impl Observer for Seen {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Warning { subject, message } = event {
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(((*subject).to_owned(), (*message).to_owned()));
        }
    }
}

fn take(session: Session, seen: &Arc<Seen>, before: &[Opened]) -> Result<Look> {
    let mut env = session.env()?;
    env.observer = Arc::clone(seen) as Arc<dyn Observer>;
    let taken_at = env.clock.now();
    let begun_ms = env.clock.monotonic_ms();
    let standing = status::of_all(&session, &env, before)?;
    let warnings = std::mem::take(&mut *seen.0.lock().unwrap_or_else(PoisonError::into_inner));
    let mut look = Look {
        taken_at,
        took_ms: 0,
        rows: standing.rows,
        disks: standing.disks,
        reached: standing.reached,
        alerts: standing.alerts,
        notifiers: standing.notifiers,
        opened: standing.opened,
        has_catalogs: true,
        failures: standing.failures.iter().map(with_causes).collect(),
        warnings,
        zone: session.surroundings.time_zone.clone(),
        loaded: session.into_loaded()?,
        metrics: OnceLock::new(),
    };
    // Whoever asks for them waits for less.
    look.metrics();
    look.took_ms = env.elapsed_ms(begun_ms);
    Ok(look)
}

fn with_causes(error: &lifeboat_core::Error) -> String {
    let causes = report::causes(error);
    let causes: String = causes.iter().map(|cause| format!(": {cause}")).collect();
    format!("{error}{causes}")
}

impl Look {
    /// Nothing could be read, and this is why.
    fn failed(older: Option<&Look>, failure: String) -> Self {
        Look {
            taken_at: older.map_or(Timestamp::UNIX_EPOCH, |older| older.taken_at),
            took_ms: 0,
            loaded: Loaded::default(),
            rows: Vec::new(),
            disks: Vec::new(),
            reached: Vec::new(),
            alerts: Vec::new(),
            notifiers: Vec::new(),
            opened: Vec::new(),
            has_catalogs: true,
            failures: vec![failure],
            warnings: Vec::new(),
            zone: older.map_or(TimeZone::UTC, |older| older.zone.clone()),
            metrics: OnceLock::new(),
        }
    }

    /// The same without what repositories hold.
    fn bare(mut self) -> Self {
        for opened in &mut self.opened {
            opened.catalog = Catalog::default();
        }
        Look { has_catalogs: false, metrics: OnceLock::new(), ..self }
    }

    /// The name of a repository by its URL; the URL where it could not be read.
    pub(crate) fn label_of<'a>(&'a self, url: &'a str) -> &'a str {
        let place = self.opened.iter().map(|opened| &opened.place).find(|place| place.url == url);
        place.map_or(url, |place| place.label())
    }

    /// The text of `lifeboat status --format prometheus`.
    pub(crate) fn metrics(&self) -> &str {
        self.metrics.get_or_init(|| metrics::text(&self.told(), None))
    }

    /// What is told of it to programs.
    pub(crate) fn told(&self) -> Told<'_> {
        Told {
            now: self.taken_at,
            rows: &self.rows,
            disks: &self.disks,
            reached: &self.reached,
            alerts: &self.alerts,
            notifiers: &self.notifiers,
        }
    }

    fn is_young(&self, now: Timestamp, asker: Asker) -> bool {
        let is_near = |opened: &Opened| opened.place.url.starts_with("file://");
        let (is_near, took_ms) = (self.opened.iter().all(is_near), self.took_ms);
        let of = |(near, far): (i64, i64)| if is_near { near } else { far };
        let new_ms = match asker {
            Asker::Person | Asker::Glance => of(NEW_MS),
            Asker::Program | Asker::Scraper => {
                let by_price_ms = i64::try_from(took_ms * PART_FOR_PROGRAMS).unwrap_or(i64::MAX);
                of(NEW_MS_FOR_PROGRAMS).max(by_price_ms.min(NEW_MS_FOR_PROGRAMS.1))
            }
        };
        let age_ms = now.as_millisecond() - self.taken_at.as_millisecond();
        (0..=new_ms).contains(&age_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_what_is_only_old_and_a_scraper_never_where_there_is_something() {
        let people = [Asker::Person, Asker::Glance, Asker::Program];
        for asker in people.into_iter().chain([Asker::Scraper]) {
            for is_long in [true, false] {
                assert_eq!(turn(asker, Some(true), false, is_long), Turn::Shown);
                assert_eq!(turn(asker, Some(false), false, is_long), Turn::ShownOld);
                assert_eq!(turn(asker, None, false, is_long), Turn::Waits);
                assert_eq!(turn(asker, None, true, is_long), Turn::Waits);
            }
        }
        for is_young in [true, false] {
            for one in people {
                assert_eq!(turn(one, Some(is_young), true, false), Turn::Waits);
                assert_eq!(turn(one, Some(is_young), true, true), Turn::ShownOld);
            }
            assert_eq!(turn(Asker::Scraper, Some(is_young), true, false), Turn::ShownOld);
        }
    }

    #[test]
    fn what_takes_long_is_known_by_the_look_before_and_by_the_one_that_goes_on() {
        let begun_at: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let at = |ms: i64| begun_at + jiff::SignedDuration::from_millis(ms);
        let mut state = State { begun_at, is_looking: true, ..State::default() };
        assert!(!state.takes_long(at(1_500)) && state.takes_long(at(1_501)));
        // A clock that went back says nothing.
        assert!(!state.takes_long(at(-9_000)));
        state.is_looking = false;
        assert!(!state.takes_long(at(60_000)));
        let look = Look { took_ms: 1_501, ..Look::failed(None, String::new()) };
        state.newest = Some(Arc::new(look));
        assert!(state.takes_long(at(60_000)));
    }

    #[test]
    fn a_look_for_programs_is_the_older_the_longer_it_took() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let is_young = |took_ms: u64, age_s: i64, asker| {
            let taken_at = now - jiff::SignedDuration::from_secs(age_s);
            Look { took_ms, taken_at, ..Look::failed(None, String::new()) }.is_young(now, asker)
        };
        for asker in [Asker::Program, Asker::Scraper] {
            assert!(is_young(0, 30, asker) && !is_young(0, 31, asker));
            assert!(is_young(90, 90, asker) && !is_young(90, 91, asker));
            assert!(is_young(9_000, 300, asker) && !is_young(9_000, 301, asker));
        }
        assert!(is_young(9_000, 10, Asker::Person) && !is_young(9_000, 11, Asker::Person));
    }

    #[test]
    fn what_repositories_hold_goes_and_how_everything_stood_stays() {
        let look = Look::failed(None, "it is away".to_owned());
        assert!(look.has_catalogs);
        let bare = look.bare();
        assert!(!bare.has_catalogs);
        assert_eq!(bare.failures, ["it is away"]);
        assert!(bare.metrics().contains("lifeboat"));
    }
}
