//! `lifeboat status`: how old the newest good backup of each source is, against what was promised.

mod agent;
mod copies;
pub(crate) mod disk;
pub(crate) mod drills;
mod measured;
pub(crate) mod metrics;
mod nagios;
pub(crate) mod overall;
mod row;

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};

pub(crate) use self::overall::{Standing, of_all};
pub(crate) use self::row::{Row, State};

use self::overall::standing;
use crate::attempts::Attempt;
use crate::config::values::Period;
use crate::following::Following;
use crate::notify;
use crate::private;
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// Say how fresh the backups are
///
/// A source is stale if the newest moment that can be restored is older than its `rpo`, or if there
/// is none. Without an `rpo`, one and a half times what its `schedule` allows is its promise; else
/// --max-age. A backup that was made without a check does not count as good; a state of the log
/// that follows a backup does, and so does the log of a cluster. The exit code is then 21.
///
/// Where an agent runs, its next backup of each source is told, and what runs now.
///
/// How long a restore takes, against `rto`, is measured by the last drill that passed, and longer
/// in proportion where the newest backup is larger than what was restored then.
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
/// With `--format json` it is one object for programs: `sources` as --json has them, each with its
/// `objectives`, `repositories` with how full they are and when they will be, `notifiers`, and
/// `alerts`, the worst first, each with its `code`, what is wrong and the command that mends it.
/// The exit code is 0 whatever they say.
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

impl Args {
    /// Of all sources, for programs.
    fn everything() -> Self {
        Args { format: Format::Json, ..Args::default() }
    }
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
    /// Everything at once for programs: sources, repositories, notifiers, and all alerts
    Json,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    if args.format == Format::Nagios {
        return as_plugin(session, &args);
    }
    if args.format == Format::Prometheus || args.textfile.is_some() {
        return as_metrics(session, &args);
    }
    if args.format == Format::Json {
        let standing = overall::standing_or_blind(session, &session.env()?, &args)?;
        session.printer.data(&format!("{:#}\n", standing.as_json()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Standing { rows, disks, reached, failures, .. } =
        standing(session, &session.env()?, &args)?;
    match session.printer.json() {
        true => session.printer.json_data(&rows)?,
        false => print(session, &rows, reached.iter().filter(|one| one.is_up).count() > 1)?,
    }
    rows.iter().for_each(|row| warn(session, row));
    agent::tell(session);
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
    let standing = overall::standing_or_blind(session, &session.env()?, args)?;
    let text = metrics::text(&standing.told(), args.also_as.as_deref());
    match &args.textfile {
        None => session.printer.data(&text)?,
        Some(path) => private::replace_for_all(path, text.as_bytes()).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
        })?,
    }
    Ok(ExitCode::SUCCESS)
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
    let next = agent::next(session);
    if !next.is_empty() {
        columns.push(("next", Align::Left));
    }
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
        if !next.is_empty() {
            cells.push((next.get(&row.source).cloned().unwrap_or_default(), None));
        }
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
    for (place, target, missed, since) in overall::missed(session, &env, args)? {
        let since = units::moment(since, &session.surroundings.time_zone);
        let runs = if missed == 1 { "backup" } else { "backups" };
        let message =
            format!("{missed} {runs} missed the drive of `{}`, since {since}", place.label());
        session.printer.warning(&units::one_line(&target.name), &message);
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
