//! `lifeboat status`: how old the newest good backup of each source is, against what was promised.

mod copies;
pub(crate) mod disk;
pub(crate) mod drills;
pub(crate) mod metrics;
mod nagios;

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::prune;
use lifeboat_core::status::{self, Verdict};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::wal::Complaint;
use lifeboat_sqlite::pagelog::Moment;
use serde::{Serialize, Serializer};

use self::disk::Disk;
use self::drills::Drills;
use self::metrics::Measured;
use super::wal;
use crate::attempts::{self, Attempt};
use crate::config::values::Period;
use crate::following::{self, Following};
use crate::logs;
use crate::notify;
use crate::private;
use crate::repositories::{self, Opened, Place};
use crate::rotation::Rule;
use crate::selection::{self, Found};
use crate::session::Session;
use crate::sources::{self, Target};
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// Say how fresh the backups are
///
/// A source is stale if its newest good backup is older than its `rpo` or --max-age, or if it has
/// none. A backup that was made without a check does not
/// count as good; a state of the log that follows a backup does. The exit code is then 21.
///
/// That a repository lacks backups which another one has and its `keep` would keep is told as a
/// warning, with the `copy` that brings them. That the last backup failed is one too, also where
/// the newest good one is fresh; and of a PostgreSQL cluster, where its server answers, that its
/// archiver fails or its pg_wal fills.
///
/// `proven` is how long ago a drill of a backup of the source passed. That the last drill failed,
/// or is overdue by `every` of the source's `drill`, is a warning; with `required` it is exit code
/// 21.
///
/// With `--format nagios` it is a check plugin: one line with numbers, and the exit code is 0 (OK),
/// 1 (WARNING: a doubt, or a disk that is 80 % full), 2 (CRITICAL: stale, or never backed up) or 3
/// (UNKNOWN: it could not be found out). An archiver that fails is a WARNING; CRITICAL when files
/// have waited for ten minutes, or the disk of pg_wal fills.
///
/// With `--format prometheus` it is metrics in the text format of Prometheus, and the exit code is
/// 0 whatever they say; --textfile writes them for node_exporter's textfile collector, whole or not
/// at all. Alert rules and a dashboard for them are in packaging/ of the source.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Names of sources, or paths of databases; all without any
    #[arg(value_name = "SOURCE|PATH")]
    sources: Vec<String>,
    /// How old the newest good backup may be, where the source has no `rpo`: 90s, 15m, 1h, 7d
    #[arg(long, visible_alias = "check-age", value_name = "AGE")]
    max_age: Option<Period>,
    /// How it is said
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Write the metrics to this file, such as
    /// /var/lib/prometheus/node-exporter/lifeboat.prom
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Metrics under a second set of names as well, as alert rules of a chatbot have them:
    /// PREFIX_last_backup_timestamp_seconds, PREFIX_backup_status, PREFIX_last_backup_size_bytes,
    /// PREFIX_backup_count, PREFIX_offsite_backup_status
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    also_as: Option<String>,
}

fn prefix(text: &str) -> Result<String, String> {
    let good = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match good {
        true => Ok(text.to_owned()),
        false => Err("a prefix has lower-case letters, digits and _, such as chatbot".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    /// A table for people, or JSON with --json
    Table,
    /// One line and the exit codes of a check plugin
    Nagios,
    /// Metrics in the text format of Prometheus
    Prometheus,
}

/// A source in one repository.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) source: String,
    pub(crate) repository: String,
    pub(crate) state: State,
    pub(crate) newest_good: Option<String>,
    pub(crate) taken_at: Option<Timestamp>,
    /// The newest state of its log, where that is newer, as `restore` takes it; and its moment.
    pub(crate) log_state: Option<String>,
    pub(crate) log_held: Option<Timestamp>,
    /// How much may be lost, where this host follows it.
    #[serde(serialize_with = "as_json")]
    pub(crate) following: Option<Following>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) age_ms_max: Option<u64>,
    pub(crate) backups: usize,
    pub(crate) newer_doubtful: usize,
    pub(crate) in_future: usize,
    pub(crate) unreadable: usize,
    /// What is wrong with the archiver of its server, where that can be asked.
    pub(crate) archiver: Vec<Complaint>,
    /// Why the prune after its backups waits for an approval, if it does.
    pub(crate) prune_waits: Option<String>,
    pub(crate) stored_bytes: u64,
    pub(crate) disk_used_percent: Option<u8>,
    /// How many backups of another repository it lacks and would keep.
    pub(crate) lacking: usize,
    /// How the last backup ended, where that is known on this host.
    pub(crate) last_attempt: Option<Attempt>,
    /// What drills showed.
    pub(crate) drills: Drills,
    /// What metrics tell besides.
    #[serde(skip)]
    pub(crate) measured: Measured,
}

#[cfg(test)]
impl Row {
    /// One of a source with a backup of which nothing is known.
    pub(crate) fn for_test(source: &str) -> Self {
        Row {
            backups: 1,
            stored_bytes: 1,
            ..row(source, "file:///b".to_owned(), None, None, Timestamp::UNIX_EPOCH)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Fresh,
    Stale,
    Never,
}

fn as_json<S: Serializer>(
    following: &Option<Following>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    following.as_ref().map(Following::as_json).serialize(to)
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    if args.format == Format::Nagios {
        return as_plugin(session, &args);
    }
    if args.format == Format::Prometheus || args.textfile.is_some() {
        return as_metrics(session, &args);
    }
    let Standing { rows, disks, failures, opened } = standing(session, &session.env()?, &args)?;
    match session.printer.json() {
        true => session.printer.json_data(&rows)?,
        false => print(session, &rows, opened.len() > 1)?,
    }
    rows.iter().for_each(|row| warn(session, row));
    warn_of_absent(session, &args)?;
    for (name, deliveries, waiting) in notify::standing(session)? {
        if let Some(complaint) = notify::complaint(&deliveries, waiting) {
            session.printer.warning(&format!("notifier {name}"), &complaint);
        }
    }
    for disk in disks.iter().filter(|disk| disk.space.is_full()) {
        session.printer.warning(&disk.repository, &disk.complaint());
    }
    let stale: Vec<&str> = rows
        .iter()
        .filter(|row| matches!(row.state, State::Stale | State::Never))
        .map(|row| row.source.as_str())
        .collect();
    if stale.is_empty() {
        drills::require(&rows)?;
        // A drive that is elsewhere is told above, and no failure of what is here.
        let is_failure = |error: &Error| error.kind() != Kind::StoreAbsent;
        let failures: Vec<Error> = failures.into_iter().filter(is_failure).collect();
        return super::incomplete(&failures);
    }
    let names: Vec<String> = stale.iter().map(|name| units::shell_word(name)).collect();
    let what = if stale.len() == 1 { "source is" } else { "sources are" };
    let message = format!("{} {what} stale: {}", stale.len(), stale.join(", "));
    Err(Error::new(Kind::Stale, message).hint(format!("lifeboat backup {}", names.join(" "))))
}

/// How everything stands.
pub(crate) struct Standing {
    /// Each source in each repository that takes it.
    pub(crate) rows: Vec<Row>,
    /// The disks below repositories.
    pub(crate) disks: Vec<Disk>,
    /// Why repositories could not be read.
    pub(crate) failures: Vec<Error>,
    /// Those that could.
    pub(crate) opened: Vec<Opened>,
}

/// How all that is configured, or is kept in a repository, stands.
pub(crate) fn of_all(session: &Session, env: &Env) -> Result<Standing> {
    let args = Args::default();
    match standing(session, env, &args) {
        // Before the first backup there is none, and that is what is to be told.
        Err(error) if error.kind() == Kind::NoRepository => Ok(Standing {
            rows: rows_without_repository(session, &args, env.clock.now())?,
            disks: Vec::new(),
            failures: Vec::new(),
            opened: Vec::new(),
        }),
        standing => standing,
    }
}

fn standing(session: &Session, env: &Env, args: &Args) -> Result<Standing> {
    let (opened, failures) = repositories::look_over(session, env)?;
    let disks = disk::of(env, &opened);
    let mut rows = rows(session, env, &opened, args)?;
    for row in &mut rows {
        let disk = disks.iter().find(|disk| disk.repository == row.repository);
        row.disk_used_percent = disk.map(|disk| disk.space.used_percent());
    }
    Ok(Standing { rows, disks, failures, opened })
}

/// Whatever happens, there is one line, and a code that Nagios knows.
fn as_plugin(session: &Session, args: &Args) -> Result<ExitCode> {
    if session.printer.json() {
        return Err(Error::new(Kind::Usage, "--format nagios and --json exclude each other")
            .hint("leave one of them out"));
    }
    let (verdict, line) = match session.env().and_then(|env| standing(session, &env, args)) {
        Ok(standing) => nagios::line(&standing.rows, &standing.disks, &standing.failures),
        Err(error) => nagios::failure(&error),
    };
    session.printer.data(&format!("{line}\n"))?;
    Ok(ExitCode::from(verdict.exit_code()))
}

/// What cannot be read is a metric, too.
fn as_metrics(session: &Session, args: &Args) -> Result<ExitCode> {
    let env = session.env()?;
    let now = env.clock.now();
    let (rows, disks, unreadable) = match standing(session, &env, args) {
        Ok(standing) => (standing.rows, standing.disks, standing.failures.len()),
        // Before the first backup there is none: then that is what is told.
        Err(error) if error.kind() == Kind::NoRepository => {
            (rows_without_repository(session, args, now)?, Vec::new(), 0)
        }
        Err(error) if error.kind() == Kind::Usage => return Err(error),
        Err(error) => {
            session.printer.warning("", &error.to_string());
            (Vec::new(), Vec::new(), repositories::places(session)?.len())
        }
    };
    let text = metrics::text(&rows, &disks, unreadable, (now, args.also_as.as_deref()));
    match &args.textfile {
        None => session.printer.data(&text)?,
        Some(path) => private::replace_for_all(path, text.as_bytes()).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
        })?,
    }
    Ok(ExitCode::SUCCESS)
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
            let mut row = row(&target.name, place.url.clone(), None, target.rpo_ms, now);
            row.measured = row.measured.promised(&target, now, zone);
            rows.push(row);
        }
    }
    Ok(rows)
}

fn rows(session: &Session, env: &Env, opened: &[Opened], args: &Args) -> Result<Vec<Row>> {
    let now = env.clock.now();
    let max_age_ms = args.max_age.map(|age| age.milliseconds);
    let config = &session.loaded()?.config;
    let mut rows = Vec::new();
    if !args.sources.is_empty() {
        for argument in &args.sources {
            rows_of_argument(session, env, opened, argument, max_age_ms, &mut rows)?;
        }
        return Ok(rows);
    }
    let targets = Target::all(config)?;
    for one in opened {
        let mut seen = Vec::new();
        for target in targets.iter().filter(|target| is_kept_in(target, one, session)) {
            let entry = selection::own_entry(env, one, target)?;
            seen.extend(entry.map(|entry| entry.folder.clone()));
            let mut row = row_of_target(session, env, one, target, entry, max_age_ms)?;
            row.lacking = copies::lacking(env, opened, one, target)?;
            rows.push(row);
        }
        for entry in &one.catalog.sources {
            if !seen.contains(&entry.folder) {
                rows.push(row_of_entry(session, &entry.folder, one, Some(entry), max_age_ms, now)?);
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
    let now = env.clock.now();
    let config = &session.loaded()?.config;
    if config.source.contains_key(argument) || selection::target_of(session, argument)?.is_some() {
        for target in sources::named(config, &[argument.to_owned()])? {
            for one in opened.iter().filter(|one| is_kept_in(&target, one, session)) {
                let entry = selection::own_entry(env, one, &target)?;
                let mut row = row_of_target(session, env, one, &target, entry, max_age_ms)?;
                row.lacking = copies::lacking(env, opened, one, &target)?;
                rows.push(row);
            }
        }
        return Ok(());
    }
    for Found { opened, entry } in selection::entries(session, env, opened, argument)? {
        rows.push(row_of_entry(session, &entry.folder, opened, Some(entry), max_age_ms, now)?);
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

/// A configured source: with its own promise, and what its prune waits for.
fn row_of_target(
    session: &Session,
    env: &Env,
    opened: &Opened,
    target: &Target,
    entry: Option<&SourceEntry>,
    max_age_ms: Option<u64>,
) -> Result<Row> {
    let age_ms_max = target.rpo_ms.or(max_age_ms);
    let mut row = row_of_entry(session, &target.name, opened, entry, age_ms_max, env.clock.now())?;
    row.drills = row.drills.promised(&target.drill);
    let zone = &session.surroundings.time_zone;
    row.measured = row.measured.promised(target, env.clock.now(), zone);
    let last = attempts::last(session, env, target, &opened.place.url);
    // One that was made in another way since then is the better news.
    row.last_attempt = last.filter(|last| row.taken_at.is_none_or(|at| at <= last.ended_at));
    if target.is_cluster() {
        // A server that does not answer is for `doctor` to tell.
        let state = wal::state(target);
        row.archiver =
            state.map(|state| state.complaints(wal::free_bytes(&state))).unwrap_or_default();
    }
    let rule = Rule::of(&opened.place, target, None).filter(|_| target.prune_after_backup);
    if let (Some(rule), Some(entry)) = (rule, entry) {
        let request = rule.request(session, env, &opened.repository, &entry.folder);
        let gates = prune::waiting(env, &opened.repository, &request, entry)?;
        row.prune_waits = gates.into_iter().next().map(|gate| gate.message);
    }
    Ok(row)
}

/// The same with the log that follows its newest backups: a state of it counts as one of theirs.
fn row_of_entry(
    session: &Session,
    name: &str,
    opened: &Opened,
    entry: Option<&SourceEntry>,
    age_ms_max: Option<u64>,
    now: Timestamp,
) -> Result<Row> {
    let mut row = row(name, opened.repository.url(), entry, age_ms_max, now);
    let logged = entry.map(|entry| logs::newest(&opened.repository, entry)).transpose()?.flatten();
    let is_newer =
        |(_, moment): &(String, Moment)| moment.held <= now && row.taken_at < Some(moment.held);
    if let Some((state, moment)) = logged.filter(is_newer)
        && row.state != State::Never
    {
        let age = now.duration_since(moment.held).as_millis();
        let age_ms = u64::try_from(age).unwrap_or(0);
        row.state = match age_ms_max.is_some_and(|age_ms_max| age_ms > age_ms_max) {
            true => State::Stale,
            false => State::Fresh,
        };
        let place = (&*opened.place.url, entry.map_or("", |entry| &*entry.folder));
        let base = state.rsplit_once('+').map_or("", |(base, _)| base);
        row.following = following::of(session, place, base, (moment.held, now));
        (row.log_state, row.log_held) = (Some(state), Some(moment.held));
        row.age_ms = Some(age_ms);
    }
    Ok(row)
}

fn row(
    name: &str,
    repository: String,
    entry: Option<&SourceEntry>,
    age_ms_max: Option<u64>,
    now: Timestamp,
) -> Row {
    let age_max = age_ms_max
        .map(|age_ms| SignedDuration::from_millis(i64::try_from(age_ms).unwrap_or(i64::MAX)));
    let status = status::of_source(entry, now, age_max);
    Row {
        source: name.to_owned(),
        repository,
        state: match status.verdict {
            Verdict::Fresh => State::Fresh,
            Verdict::Stale => State::Stale,
            Verdict::Never => State::Never,
        },
        newest_good: status.newest_good.map(|newest| newest.name.clone()),
        taken_at: status.newest_good.map(|newest| newest.taken_at),
        log_state: None,
        log_held: None,
        following: None,
        age_ms: status.age.and_then(|age| u64::try_from(age.as_millis()).ok()),
        age_ms_max,
        backups: status.backups,
        newer_doubtful: status.newer_doubtful,
        in_future: status.in_future,
        unreadable: entry.map_or(0, |entry| entry.unreadable.len()),
        archiver: Vec::new(),
        prune_waits: None,
        stored_bytes: status.stored_bytes,
        disk_used_percent: None,
        lacking: 0,
        last_attempt: None,
        drills: Drills::of(entry, now),
        measured: Measured::of(entry, &status),
    }
}

fn print(session: &Session, rows: &[Row], several: bool) -> Result<()> {
    let mut columns = vec![
        ("source", Align::Left),
        ("state", Align::Left),
        ("newest good", Align::Left),
        ("age", Align::Right),
        ("promised", Align::Right),
        ("backups", Align::Right),
        ("stored", Align::Right),
        ("proven", Align::Right),
    ];
    let is_followed = rows.iter().any(|row| row.following.is_some());
    if is_followed {
        columns.push(("followed", Align::Left));
    }
    if several {
        columns.push(("repository", Align::Left));
    }
    let mut table = Table::new(&columns);
    for row in rows {
        let age = row.age_ms.map_or_else(|| "never".to_owned(), units::coarse);
        let promised = row.age_ms_max.map(|milliseconds| Period { milliseconds }.to_string());
        let mut cells = vec![
            (units::one_line(&row.source), None),
            state(row.state),
            (newest(row), None),
            (age, None),
            (promised.unwrap_or_default(), None),
            (units::count(row.backups as u64), None),
            (units::bytes(row.stored_bytes), None),
            row.drills.cell(),
        ];
        if is_followed {
            let told = row.following.as_ref().map(Following::told);
            cells.push((told.unwrap_or_default(), None));
        }
        if several {
            cells.push((row.repository.clone(), None));
        }
        table.row(cells);
    }
    match rows.is_empty() {
        true => session.printer.note("there are no sources and no backups yet"),
        false => session.printer.data(&table.to_text(&session.printer))?,
    }
    Ok(())
}

/// Repositories on drives that are not there have no row: how many runs missed them, since when.
fn warn_of_absent(session: &Session, args: &Args) -> Result<()> {
    let env = session.env()?;
    let targets = sources::named(&session.loaded()?.config, &args.sources).unwrap_or_default();
    for place in repositories::places(session)?.iter().filter(|place| place.config.mount.is_some())
    {
        if place.store(&env).is_ok() {
            continue;
        }
        for target in &targets {
            let Some(last) = attempts::last(session, &env, target, &place.url) else { continue };
            if let (missed @ 1.., Some(since)) = (last.missed, last.missed_since) {
                let since = units::moment(since, &session.surroundings.time_zone);
                let runs = if missed == 1 { "backup" } else { "backups" };
                let message = format!(
                    "{missed} {runs} missed the drive of `{}`, since {since}",
                    place.label()
                );
                session.printer.warning(&units::one_line(&target.name), &message);
            }
        }
    }
    Ok(())
}

/// The newest state as it is named to `restore`.
fn newest(row: &Row) -> String {
    let state = row.log_state.as_ref().or(row.newest_good.as_ref());
    state.map(|state| units::one_line(state)).unwrap_or_default()
}

/// What a number in the table would hide.
fn warn(session: &Session, row: &Row) {
    let source = units::one_line(&row.source);
    if let Some(failed) = row.last_attempt.as_ref().filter(|last| last.has_failed()) {
        let at = units::moment(failed.ended_at, &session.surroundings.time_zone);
        session
            .printer
            .warning(&source, &format!("the last backup failed at {at}: {}", why(failed)));
    }
    for (count, what) in doubts(row).into_iter().filter(|(count, _)| *count > 0) {
        session.printer.warning(&source, &format!("{count} {what}"));
    }
    if row.lacking > 0 {
        let word = if row.lacking == 1 { "backup" } else { "backups" };
        let message = format!(
            "{} {word} of another repository not in {}: lifeboat copy {} --to {}",
            row.lacking,
            row.repository,
            units::shell_word(&row.source),
            units::shell_word(&row.repository),
        );
        session.printer.warning(&source, &message);
    }
    for complaint in &row.archiver {
        session.printer.warning(&source, &complaint.text);
    }
    if let Some(complaint) = row.drills.complaint(&row.source) {
        session.printer.warning(&source, &complaint);
    }
    if let Some(why) = &row.prune_waits {
        let why = format!("{WAITS}: {why} (lifeboat prune --dry-run)");
        session.printer.warning(&source, &why);
    }
}

/// What is said of a prune that waits.
const WAITS: &str = "a prune waits for an approval";

/// What a failed attempt failed for, on one line.
fn why(failed: &Attempt) -> String {
    units::one_line(failed.error.as_deref().unwrap_or("for a reason that is not known"))
}

/// What may be wrong with a source, and how often.
pub(crate) fn doubts(row: &Row) -> [(usize, &'static str); 3] {
    [
        (row.newer_doubtful, "newer backups were not checked, or are of a damaged database"),
        (row.in_future, "backups are dated in the future: a clock was or is wrong"),
        (row.unreadable, "manifests cannot be read: lifeboat verify says more"),
    ]
}

fn state(state: State) -> (String, Option<Style>) {
    match state {
        State::Fresh => ("fresh".to_owned(), Some(Style::Good)),
        State::Stale => ("stale".to_owned(), Some(Style::Bad)),
        State::Never => ("never".to_owned(), Some(Style::Bad)),
    }
}
