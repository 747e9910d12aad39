//! Everything at once: each source in each repository, the repositories, who is told, and all that
//! is wrong.

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::store::Space;
use lifeboat_core::{Error, Kind, Result};
use serde::Serialize;
use serde_json::json;

use super::disk::{self, Disk};
use super::row::{self, Row};
use super::{Args, Format};
use crate::attempts;
use crate::config::Config;
use crate::config::values::Period;
use crate::notify;
use crate::repositories::{self, Opened, Place};
use crate::selection::{self, Found};
use crate::session::Session;
use crate::sources::{self, Target};
use crate::standing::{self, Alert, Code, Facts, Forecast, Promise, Severity, of_disk};
use crate::ui::units;

/// Two clocks may differ by so much.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);

/// How everything stands.
pub(crate) struct Standing {
    /// When that was measured.
    pub(crate) now: Timestamp,
    /// Each source in each repository that takes it.
    pub(crate) rows: Vec<Row>,
    /// The disks below repositories.
    pub(crate) disks: Vec<Disk>,
    /// All repositories.
    pub(crate) reached: Vec<Reached>,
    /// Why some could not be read.
    pub(crate) failures: Vec<Error>,
    /// Those that could.
    pub(crate) opened: Vec<Opened>,
    /// All that is wrong, the worst first, and since when as far as that is known.
    pub(crate) alerts: Vec<Alert>,
    /// Who is told, and how deliveries went.
    pub(crate) notifiers: Vec<Notifier>,
}

/// A notifier, how deliveries to it went, and how many messages wait.
pub(crate) type Notifier = (String, notify::Deliveries, usize);

/// What is told of it to programs.
pub(crate) struct Told<'a> {
    /// When it was measured.
    pub(crate) now: Timestamp,
    /// Each source in each repository that takes it.
    pub(crate) rows: &'a [Row],
    /// The disks below repositories.
    pub(crate) disks: &'a [Disk],
    /// All repositories.
    pub(crate) reached: &'a [Reached],
    /// All that is wrong.
    pub(crate) alerts: &'a [Alert],
    /// Who is told.
    pub(crate) notifiers: &'a [Notifier],
}

/// A repository, whether it could be read or not.
#[derive(Debug, Serialize)]
pub(crate) struct Reached {
    /// Its URL.
    pub(crate) repository: String,
    /// Its name in the configuration.
    pub(crate) name: Option<String>,
    /// Whether it could be opened and read.
    pub(crate) is_up: bool,
    /// Why not.
    pub(crate) error: Option<String>,
    /// How far its clock is ahead of ours, where it tells the time.
    pub(crate) clock_ahead_ms: Option<i64>,
    /// When its disk will be full, where that can be foretold.
    pub(crate) forecast: Option<Forecast>,
    #[serde(skip)]
    kind: Option<Kind>,
}

/// How all that is configured, or is kept in a repository, stands. What was read before is not read
/// once more as far as it is the same.
pub(crate) fn of_all(session: &Session, env: &Env, before: &[Opened]) -> Result<Standing> {
    standing_or_blind_after(session, env, &Args::everything(), before)
}

/// Looks at everything that the arguments name. Fails where no repository can be read at all.
pub(super) fn standing(session: &Session, env: &Env, args: &Args) -> Result<Standing> {
    standing_after(session, env, args, &[])
}

fn standing_after(
    session: &Session,
    env: &Env,
    args: &Args,
    before: &[Opened],
) -> Result<Standing> {
    let (opened, failures) = repositories::look_briefly(session, env, before)?;
    let disks = disk::of(session, env, &opened);
    let mut lost = Vec::new();
    let mut rows = rows(session, env, &opened, args, &mut lost)?;
    for row in &mut rows {
        let disk = disks.iter().find(|disk| disk.repository == row.repository);
        row.disk_used_percent = disk.map(|disk| disk.space.used_percent());
    }
    let mut more = absent(session, env, args)?;
    more.extend(lost.into_iter().map(|(name, error)| {
        let kind = (Code::SourceLost, Severity::Broken);
        let what = units::one_line(&notify::in_one(&error));
        Alert::new(kind, (&name, ""), what, "lifeboat doctor")
    }));
    let standing = Standing { disks, opened, ..Standing::new(env, rows, failures) };
    standing.judged(session, more)
}

/// The same where no repository can be read: that is what is told then.
pub(super) fn standing_or_blind(session: &Session, env: &Env, args: &Args) -> Result<Standing> {
    standing_or_blind_after(session, env, args, &[])
}

fn standing_or_blind_after(
    session: &Session,
    env: &Env,
    args: &Args,
    before: &[Opened],
) -> Result<Standing> {
    let blind =
        |rows, failures: Vec<Error>| Standing::new(env, rows, failures).judged(session, Vec::new());
    match standing_after(session, env, args, before) {
        Err(error) if error.kind() == Kind::Usage => Err(error),
        // Before the first backup there is none: then that is what is told.
        Err(error) if error.kind() == Kind::NoRepository => {
            let now = env.clock.now();
            blind(rows_without_repository(session, args, now)?, Vec::new())
        }
        Err(error) => {
            env.warn("", &error.to_string());
            let mut failures = vec![error];
            let count = repositories::places(session)?.len();
            let again = || Error::new(Kind::StoreUnavailable, "the repository cannot be read");
            failures.resize_with(count.max(1), again);
            blind(Vec::new(), failures)
        }
        standing => standing,
    }
}

/// The names of all sources, and all that is wrong with everything. What servers said that only
/// this host can ask is left in their repositories, for whoever watches these.
pub(crate) fn alerts(
    session: &Session,
    env: &Env,
    max_age: Option<Period>,
) -> Result<(Vec<String>, Vec<Alert>)> {
    let args = Args { max_age, ..Args::everything() };
    let standing = standing_or_blind(session, env, &args)?;
    standing.leave_notes(session, env);
    let mut names: Vec<String> = standing.rows.iter().map(|row| row.source.clone()).collect();
    names.sort();
    names.dedup();
    Ok((names, standing.alerts))
}

impl Standing {
    fn new(env: &Env, rows: Vec<Row>, failures: Vec<Error>) -> Self {
        Standing {
            now: env.clock.now(),
            rows,
            disks: Vec::new(),
            reached: Vec::new(),
            failures,
            opened: Vec::new(),
            alerts: Vec::new(),
            notifiers: Vec::new(),
        }
    }

    /// The same with the repositories, and with all that is wrong; `more` is what only those know
    /// who looked.
    fn judged(mut self, session: &Session, more: Vec<Alert>) -> Result<Self> {
        self.reached = reached(session, &self.opened, &self.failures, &self.disks)?;
        self.notifiers = notify::standing(session).unwrap_or_default();
        let of_rows = self.rows.iter().flat_map(|row| row.alerts.iter().cloned());
        let mut alerts: Vec<Alert> = of_rows.chain(more).collect();
        for disk in &self.disks {
            let forecast = disk.forecast.as_ref();
            alerts.extend(of_disk(&disk.repository, disk.space, forecast, self.now));
        }
        alerts.extend(self.reached.iter().filter_map(Reached::unreadable));
        alerts.extend(self.reached.iter().filter_map(Reached::clock));
        for (name, deliveries, waiting) in &self.notifiers {
            if let Some(what) = notify::complaint(deliveries, *waiting) {
                let what = units::one_line(&format!("notifier {name} {what}"));
                let command = format!("lifeboat notify test {}", units::shell_word(name));
                let kind = (Code::NotTold, Severity::Warning);
                alerts.push(Alert::new(kind, ("", ""), what, command));
            }
        }
        let known = standing::known(session);
        // What is asked of servers is asked by `watch` alone.
        alerts.extend(known.of_servers(self.now));
        known.date(&mut alerts);
        standing::sort(&mut alerts);
        self.alerts = alerts;
        Ok(self)
    }

    fn leave_notes(&self, session: &Session, env: &Env) {
        for row in &self.rows {
            let opened = self.opened.iter().find(|one| one.repository.url() == row.repository);
            if let (Some((source, asked)), Some(opened), Some(folder)) =
                (row.asked, opened, &row.folder)
            {
                let place = (folder.as_str(), source);
                let left = asked.leave(&opened.repository, place, (&env.host, self.now));
                if let Err(error) = left {
                    // Who watches from elsewhere takes it for one that may be lost.
                    let what = format!("{}: that it rests is not noted: {error}", row.source);
                    session.printer.detail(&units::one_line(&what));
                }
            }
        }
    }

    /// What is told of it to programs.
    pub(crate) fn told(&self) -> Told<'_> {
        Told {
            now: self.now,
            rows: &self.rows,
            disks: &self.disks,
            reached: &self.reached,
            alerts: &self.alerts,
            notifiers: &self.notifiers,
        }
    }

    /// All of it, for programs.
    pub(super) fn as_json(&self) -> serde_json::Value {
        self.told().as_json()
    }
}

impl Told<'_> {
    /// How full the disk of a repository is.
    pub(super) fn space(&self, reached: &Reached) -> Option<Space> {
        let disk = self.disks.iter().find(|disk| disk.repository == reached.repository);
        disk.map(|disk| disk.space)
    }

    /// All of it as one object.
    pub(crate) fn as_json(&self) -> serde_json::Value {
        let notifiers = self.notifiers.iter().map(|(name, deliveries, waiting)| {
            let mut one = json!(deliveries);
            one["name"] = name.as_str().into();
            one["waiting"] = (*waiting).into();
            one
        });
        let repositories = self.reached.iter().map(|one| {
            let mut value = json!(one);
            value["space"] = json!(self.space(one));
            value
        });
        json!({
            "measured_at": self.now,
            "sources": self.rows,
            "repositories": repositories.collect::<Vec<_>>(),
            "alerts": self.alerts,
            "notifiers": notifiers.collect::<Vec<_>>(),
        })
    }
}

impl Reached {
    fn unreadable(&self) -> Option<Alert> {
        let why = self.error.as_ref()?;
        let (severity, command) = match self.kind {
            // A drive that is elsewhere, and comes back.
            Some(Kind::StoreAbsent) => return None,
            Some(Kind::NoRepository) => (Severity::Stale, "lifeboat backup"),
            _ => (Severity::Broken, "lifeboat doctor"),
        };
        let kind = (Code::RepositoryUnreadable, severity);
        let what = units::one_line(&format!("the repository cannot be read: {why}"));
        Some(Alert::new(kind, ("", &self.repository), what, command))
    }

    fn clock(&self) -> Option<Alert> {
        clock_alert(&self.repository, self.clock_ahead_ms?)
    }
}

/// What is wrong with the clock of this host, or with that of a store.
pub(crate) fn clock_alert(repository: &str, ahead_ms: i64) -> Option<Alert> {
    let off = SignedDuration::from_millis(ahead_ms).abs();
    if off <= SKEW_MAX {
        return None;
    }
    let word = if ahead_ms > 0 { "behind" } else { "ahead of" };
    let by = units::duration(u64::try_from(off.as_millis()).unwrap_or(0));
    let what = format!("the clock of this host is {by} {word} that of the store");
    let kind = (Code::ClockSkew, Severity::Warning);
    Some(Alert::new(kind, ("", repository), what, "lifeboat doctor"))
}

/// How far the clock of a store is ahead of ours, in milliseconds, as it told with its answers.
pub(crate) fn clock_ahead_ms(repository: &lifeboat_core::repository::Repository) -> Option<i64> {
    let ahead = repository.store().clock_ahead()?;
    i64::try_from(ahead.as_millis()).ok()
}

fn reached(
    session: &Session,
    opened: &[Opened],
    failures: &[Error],
    disks: &[Disk],
) -> Result<Vec<Reached>> {
    let mut failures = failures.iter();
    let one = |place: Place| {
        let open = opened.iter().find(|one| one.place == place);
        // They failed in the order of the places.
        let failure = if open.is_none() { failures.next() } else { None };
        let url = open.map_or_else(|| place.url.clone(), |one| one.repository.url());
        let disk = disks.iter().find(|disk| disk.repository == url);
        Reached {
            name: place.name,
            is_up: open.is_some(),
            error: failure.map(notify::in_one),
            kind: failure.map(Error::kind),
            clock_ahead_ms: open.and_then(|one| clock_ahead_ms(&one.repository)),
            forecast: disk.and_then(|disk| disk.forecast),
            repository: url,
        }
    };
    Ok(repositories::places(session)?.into_iter().map(one).collect())
}

/// Drives that are not there, and were not for longer than promised.
fn absent(session: &Session, env: &Env, args: &Args) -> Result<Vec<Alert>> {
    let now = env.clock.now();
    let max_age_ms = args.max_age.map(|age| age.milliseconds);
    let mut found = Vec::new();
    for (place, target, missed, since) in missed(session, env, args)? {
        let promise = row::promise_of(session, &target, max_age_ms, now);
        let away_ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(0);
        if promise.age_ms_max.is_some_and(|most| away_ms > most) {
            let age = units::coarse(away_ms);
            let what = format!(
                "{missed} backups missed the drive of `{}`, the first {age} ago",
                units::one_line(place.label())
            );
            let command = format!("lifeboat copy --to {}", units::shell_word(place.label()));
            let kind = (Code::DriveAbsent, Severity::Warning);
            found.push(Alert::new(kind, (&target.name, &place.url), what, command));
        }
    }
    Ok(found)
}

/// The runs that found no drive: where, of which source, how many, since when.
pub(super) fn missed(
    session: &Session,
    env: &Env,
    args: &Args,
) -> Result<Vec<(Place, Target, u64, Timestamp)>> {
    let mut found = Vec::new();
    for place in repositories::places(session)? {
        if place.config.mount.is_none() || place.store(env).is_ok() {
            continue;
        }
        let config = &session.loaded()?.config;
        for target in sources::named(config, &args.sources).unwrap_or_default() {
            let Some(last) = attempts::last(session, env, &target, &place.url) else { continue };
            if let (missed @ 1.., Some(since)) = (last.missed, last.missed_since) {
                found.push((place.clone(), target, missed, since));
            }
        }
    }
    Ok(found)
}

/// The configured sources, none of which was ever backed up.
fn rows_without_repository(session: &Session, args: &Args, now: Timestamp) -> Result<Vec<Row>> {
    let places = repositories::places(session)?;
    let zone = &session.surroundings.time_zone;
    let mut rows = Vec::new();
    for target in sources::named(&session.loaded()?.config, &args.sources)? {
        let takes = |place: &&Place| match (&target.repositories, &place.name) {
            (Some(names), Some(name)) => names.contains(name),
            _ => true,
        };
        for place in places.iter().filter(takes) {
            let max_age_ms = args.max_age.map(|age| age.milliseconds);
            let promise = row::promise_of(session, &target, max_age_ms, now);
            let mut row = Row::of(&Facts::nothing(&target.name, &place.url, promise), None, now);
            row.measured = row.measured.promised(&target, now, zone);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The configured sources that can be found now; why others cannot.
fn there(config: &Config, lost: &mut Vec<(String, Error)>) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (name, source) in &config.source {
        match Target::configured(name, source) {
            Ok(found) => targets.extend(found),
            Err(error) if error.kind() == Kind::Usage => return Err(error),
            Err(error) => lost.push((name.clone(), error)),
        }
    }
    Ok(targets)
}

fn rows(
    session: &Session,
    env: &Env,
    opened: &[Opened],
    args: &Args,
    lost: &mut Vec<(String, Error)>,
) -> Result<Vec<Row>> {
    let max_age_ms = args.max_age.map(|age| age.milliseconds);
    let promise = Promise { age_ms_max: max_age_ms, ..Promise::default() };
    let config = &session.loaded()?.config;
    let mut rows = Vec::new();
    if !args.sources.is_empty() {
        for argument in &args.sources {
            rows_of_argument(session, env, opened, argument, max_age_ms, &mut rows)?;
        }
        return Ok(rows);
    }
    let targets = match args.format {
        // What is told to programs must not be nothing because of one source.
        Format::Table => Target::all(config)?,
        _ => there(config, lost)?,
    };
    for one in opened {
        let mut seen = Vec::new();
        for target in targets.iter().filter(|target| is_kept_in(target, one, session)) {
            let entry = selection::own_entry(env, one, target)?;
            seen.extend(entry.map(|entry| entry.folder.clone()));
            rows.push(Row::of_target(session, env, opened, one, (target, entry), max_age_ms)?);
        }
        for entry in &one.catalog.sources {
            if !seen.contains(&entry.folder) {
                rows.push(Row::of_entry(session, env, one, (&entry.folder, Some(entry)), promise)?);
            }
        }
    }
    Ok(rows)
}

fn rows_of_argument(
    session: &Session,
    env: &Env,
    opened: &[Opened],
    argument: &str,
    max_age_ms: Option<u64>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let config = &session.loaded()?.config;
    if config.source.contains_key(argument) || selection::target_of(session, argument)?.is_some() {
        for target in sources::named(config, &[argument.to_owned()])? {
            for one in opened.iter().filter(|one| is_kept_in(&target, one, session)) {
                let entry = selection::own_entry(env, one, &target)?;
                rows.push(Row::of_target(session, env, opened, one, (&target, entry), max_age_ms)?);
            }
        }
        return Ok(());
    }
    let promise = Promise { age_ms_max: max_age_ms, ..Promise::default() };
    for Found { opened, entry } in selection::entries(session, env, opened, argument)? {
        rows.push(Row::of_entry(session, env, opened, (&entry.folder, Some(entry)), promise)?);
    }
    Ok(())
}

/// Whether the source's backups go to that repository. With `--repo`, that one is asked.
fn is_kept_in(target: &Target, opened: &Opened, session: &Session) -> bool {
    match (&target.repositories, &opened.place.name) {
        _ if session.globals.repo.is_some() => true,
        (Some(names), Some(name)) => names.contains(name),
        _ => true,
    }
}
