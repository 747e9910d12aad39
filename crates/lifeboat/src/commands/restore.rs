//! `lifeboat restore`: the way back.

mod all;
mod cluster;
mod follow;
mod replica;
mod rows;
mod server;
mod wal_copy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::{
    self, FilesChoice, Mapping, Origin, Replay, RestoreOutcome, RestorePlan, RestoreRequest,
};
use lifeboat_core::service::Service;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::backup::level_or;
use super::words::{CheckWord, MappingArgs};
use crate::cluster_backups;
use crate::config::values::Period;
use crate::logs;
use crate::postgres;
use crate::replicas;
use crate::selection::{self, Wanted};
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES, Target};
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::units;
use crate::web::secret::hidden;

/// Restore a backup
///
/// Without --to, a database goes back to where it was. It is staged beside that place, checked and
/// synced before anything there is touched; what was there is kept beside it under the name
/// NAME.before_restore.TIME, and `lifeboat undo` goes back to it. As long as others have it open it
/// is refused, and they are named; `lifeboat run`, which follows it, lets go by itself, and is
/// waited for, ten seconds at most.
///
/// Where a log follows a backup (`lifeboat backup --incremental`), it is laid over it up to the
/// moment that is asked for, or up to its end, and the digest of all pages is compared before
/// anything is replaced. A log of which a file is missing, or is another one's, is refused with
/// exit code 22, and what can be restored instead is said.
///
/// A file is a database that something else copied, plain or compressed with gzip or zstd. With
/// --wal a copy of its -wal is laid over it, where it belongs to it.
///
/// A replica of Litestream 0.5, a folder or a URL, is restored to --to: its newest state, the one
/// of --at, or REPLICA+TRANSACTION. Where a file is missing or damaged, that is exit code 22 or 20.
///
/// With --follow, --to becomes a standby: a database for readers, which is brought from state to
/// state of the log as these come, while readers have it open. Each reader sees one state, whole.
///
/// With --all, every source of the configuration goes back, or of the one that the repository keeps
/// where this host has none (see `lifeboat adopt`), each from its newest backup at or
/// before the moment, with its companion files: one plan, one question, then one after the other,
/// sources of files first, so that a service starts with all of them in place, and databases of
/// servers last. A whole cluster goes to its `data_directory`, below a folder to clusters/NAME, and
/// the databases of its server come back with it. It says how long each and all of it took. It
/// stops at the first that fails and says what was done and what was not.
///
/// A dump of PostgreSQL is loaded into a new database beside the old one, counted, and then takes
/// its name; the old one stays as NAME_before_restore_TIME, and `lifeboat undo` goes back to it.
///
/// With --rows-from, what is named is a live database, and rows go back into it while its
/// application runs: those of --table whose keys it lacks, all in one transaction, with foreign
/// keys checked before it commits. Rows that are in the way are listed and left alone. Before that
/// a copy is kept, as NAME.before_restore.TIME beside a file (`lifeboat undo` goes back to it), as
/// a backup that is pinned for a server's database. Columns that are generated follow, sequences
/// are set.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What: SOURCE, SOURCE@TIME, the name of a backup, BACKUP+POSITION of its log, the path of one
    /// of its files, a file, or a replica of Litestream
    #[arg(value_name = "SOURCE|BACKUP|FILE|REPLICA", required_unless_present = "all")]
    what: Option<String>,
    /// Every source of the configuration
    #[arg(long, conflicts_with_all = ["what", "to", "files"])]
    all: bool,
    /// With --all: below this folder, as if it were /, instead of where they were
    #[arg(long, value_name = "DIR", requires = "all", conflicts_with = "what")]
    root: Option<PathBuf>,
    /// With --all and without a configuration: the host whose sources are meant [default: this one,
    /// or the only one of the repository]
    #[arg(long, value_name = "NAME", requires = "all")]
    host: Option<String>,
    /// The newest state at or before this time, of a backup or of the log that follows one:
    /// 2025-01-08T14:03:22, with an offset or local, -2h, or latest. With the name of a backup of a
    /// cluster: from that backup up to this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Where to, instead of where it was: a path, or postgresql://HOST/DATABASE for a dump
    #[arg(long, value_name = "PATH|URL")]
    to: Option<PathBuf>,
    /// A copy of the -wal that a script made beside the FILE: laid over it, where it belongs to it
    #[arg(long, value_name = "FILE")]
    wal: Option<PathBuf>,
    /// Keep --to up to date from the log, as a standby for readers, until a signal comes
    #[arg(long, requires = "to", conflicts_with_all = ["all", "at", "files", "wal", "dry_run"])]
    follow: bool,
    /// With --follow: the time between two looks at the repository
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "follow")]
    interval: Period,
    /// With --follow: bring it up to date once, then end
    #[arg(long, requires = "follow")]
    once: bool,
    /// The companion files as well, or they alone with --files=only
    #[arg(long, value_enum, value_name = "WHICH", num_args = 0..=1, require_equals = true,
          default_missing_value = "also")]
    files: Option<FilesWord>,
    /// How thoroughly the database is checked before it takes its place [default: quick]
    #[arg(long, value_name = "LEVEL")]
    check: Option<CheckWord>,
    #[command(flatten)]
    rows: rows::RowsArgs,
    #[command(flatten)]
    mapping: MappingArgs,
    #[command(flatten)]
    server: server::ServerArgs,
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FilesWord {
    /// The database and its files
    Also,
    /// The files alone
    Only,
}

impl Args {
    /// The address of the server's database to which it is to go.
    fn server_meant(&self) -> Option<&str> {
        self.to.as_deref().and_then(Path::to_str).filter(|to| postgres::is_address(to))
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let (at, to) = (args.at.as_deref(), args.to.as_deref());
    let Some(what) = &args.what else { return all::run(session, &env, &args) };
    if let Some(from) = args.rows.source() {
        return rows::run(session, &args, what, from);
    }
    let server = args.server_meant();
    if let Some(named) = replicas::find(session, &env, what)? {
        refuse_server(server, (what, at), lifeboat_sqlite::KIND)?;
        return replica::run(session, &env, &args, &named);
    }
    if args.follow || args.wal.is_some() {
        refuse_server(server, (what, at), lifeboat_sqlite::KIND)?;
    }
    if args.follow {
        return follow::run(session, &args, what);
    }
    if let Some(wal) = &args.wal {
        return wal_copy::run(session, &env, &args, (what, wal));
    }
    let wanted = selection::wanted(session, &env, what, at, to)
        .map_err(|error| cluster_backups::point_to_cluster(session, &env, what, at, error))?;
    let wanted = match wanted {
        Wanted::Backup(selected) => {
            let state = logs::meant(*selected)?;
            (Wanted::Backup(Box::new(state.selected)), state.replay)
        }
        file => (file, None),
    };
    let (wanted, replay) = wanted;
    let target = target(session, &env, &wanted, to)?;
    let keys = session.keys()?;
    let keys = keys.as_deref();
    let (origin, kind) = match &wanted {
        Wanted::Backup(selected) => {
            let origin = Origin::Backup {
                repository: &selected.repository,
                folder: &selected.folder,
                manifest: &selected.manifest,
            };
            (origin, selected.manifest.source.kind.as_str())
        }
        Wanted::File(path) => (Origin::File { path, keys }, lifeboat_sqlite::KIND),
    };
    if let Wanted::File(path) = &wanted
        && selection::is_database(path)
    {
        refuse_server(server, (what, at), lifeboat_sqlite::KIND)?;
    }
    let kind = match &wanted {
        Wanted::File(path) if server::takes(&env, path, keys, args.to.as_deref()) => postgres::KIND,
        _ => kind,
    };
    if let Wanted::Backup(selected) = &wanted
        && cluster::is_meant(kind)
    {
        args.server.refuse_elsewhere()?;
        refuse_server(server, (what, at), kind)?;
        return cluster::run(session, &env, &args, selected, target.as_ref());
    }
    args.cluster.refuse_elsewhere()?;
    if server::is_meant(kind, args.to.as_deref()) {
        return server::run(session, &env, &args, origin, target.as_ref());
    }
    args.server.refuse_elsewhere()?;
    refuse_server(server, (what, at), kind)?;
    let mapping = args.mapping.read()?;
    let request = RestoreRequest {
        origin,
        replay: replay.as_ref().map(|replay| replay as &dyn Replay),
        engine: sources::engine(kind)?,
        to: args.to.clone(),
        files: match args.files {
            None => FilesChoice::No,
            Some(FilesWord::Also) => FilesChoice::Also,
            Some(FilesWord::Only) => FilesChoice::Only,
        },
        files_root: None,
        mapping: &mapping,
        check: level_or(args.check, CheckLevel::Quick),
        check_memory_bytes: target
            .as_ref()
            .map_or(CHECK_MEMORY_BYTES, |target| target.options.check_memory_bytes),
        service: service(target.as_ref(), args.to.as_deref()),
        scratch_folder: &session.folders.scratch,
    };
    carry_out(session, &env, &request, args.dry_run, &name(&wanted))
}

/// Only a dump goes to a server's database. What is of another kind gets there in another way.
fn refuse_server(
    address: Option<&str>,
    (what, at): (&str, Option<&str>),
    kind: &str,
) -> Result<()> {
    let Some(address) = address else { return Ok(()) };
    let address = hidden(address);
    let (message, hint) = match kind {
        lifeboat_sqlite::KIND => (
            format!("{what} is a SQLite database: it is restored to a file, not to {address}"),
            format!(
                "its rows go to PostgreSQL with: lifeboat migrate {} {}{}",
                units::shell_word(what),
                units::shell_word(&address),
                at.map(|at| format!(" --at {}", units::shell_word(at))).unwrap_or_default()
            ),
        ),
        lifeboat_core::files::KIND => (
            format!("{what} is a set of files: it is not restored to {address}"),
            "restore them to a folder: --to FOLDER".to_owned(),
        ),
        _ => (
            format!("{what} is a whole cluster: it is restored to a folder, not to {address}"),
            "restore it with --to FOLDER, and start a server on it".to_owned(),
        ),
    };
    Err(Error::new(Kind::Usage, message).hint(hint))
}

/// Plans, asks, does and says. `name` answers the question, beside `yes`.
fn carry_out(
    session: &Session,
    env: &Env,
    request: &RestoreRequest<'_>,
    dry_run: bool,
    name: &str,
) -> Result<ExitCode> {
    let plan = restore::plan(env, request)?;
    if dry_run {
        print_plan(session, &plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    agree(session, &plan, name)?;
    let outcome = restore::apply(env, request, &plan)?;
    session.progress.clear();
    say(session, &plan, &outcome)?;
    Ok(ExitCode::SUCCESS)
}

/// A restore of a SQLite database, laid over what the origin holds, and nothing else.
fn plain_request<'a>(
    session: &'a Session,
    args: &Args,
    origin: Origin<'a>,
    replay: &'a dyn Replay,
    mapping: &'a Mapping,
) -> Result<RestoreRequest<'a>> {
    args.server.refuse_elsewhere()?;
    args.cluster.refuse_elsewhere()?;
    if args.files.is_some() {
        return Err(
            Error::new(Kind::Usage, "there are no companion files").hint("leave --files away")
        );
    }
    Ok(RestoreRequest {
        origin,
        replay: Some(replay),
        engine: sources::engine(lifeboat_sqlite::KIND)?,
        to: args.to.clone(),
        files: FilesChoice::No,
        files_root: None,
        mapping,
        check: level_or(args.check, CheckLevel::Quick),
        check_memory_bytes: CHECK_MEMORY_BYTES,
        service: None,
        scratch_folder: &session.folders.scratch,
    })
}

/// The configured source to which the backup belongs, or at whose place a file goes.
fn target(
    session: &Session,
    env: &Env,
    wanted: &Wanted,
    to: Option<&Path>,
) -> Result<Option<Target>> {
    let Wanted::Backup(selected) = wanted else { return target_at(session, to) };
    let record = &selected.manifest.source;
    // A source that cannot be looked at, such as a glob whose folder is gone, is not this one.
    let targets = Target::all(&session.loaded()?.config).unwrap_or_default();
    for target in targets {
        let identity = target.identity(env)?;
        let same = match identity.id {
            Some(id) => id == record.id,
            None => identity.kind == record.kind && identity.location == record.location,
        };
        if same {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

/// The configured database of a place.
fn target_at(session: &Session, place: Option<&Path>) -> Result<Option<Target>> {
    let is_path = |place: &&Path| !postgres::is_address(&place.to_string_lossy());
    let Some(path) = place.filter(is_path) else { return Ok(None) };
    let place = sources::place_of(path)?;
    let Some(text) = place.to_str() else { return Ok(None) };
    let target = sources::configured_at(&session.loaded()?.config, text)?;
    Ok(target.filter(|target| target.is_at(&place)))
}

/// The service is concerned only where the place is its own, whether it was named or not.
fn service<'a>(target: Option<&'a Target>, to: Option<&Path>) -> Option<&'a Service> {
    let is_its_own = |to: &Path| {
        sources::place_of(to).is_ok_and(|place| target.is_some_and(|target| target.is_at(&place)))
    };
    target.filter(|_| to.is_none_or(is_its_own))?.service.as_ref()
}

/// The name that answers the question, beside `yes`.
fn name(wanted: &Wanted) -> String {
    match wanted {
        Wanted::Backup(selected) => selected.manifest.source.name.clone(),
        Wanted::File(path) => sources::name_of(path),
    }
}

fn agree(session: &Session, plan: &RestorePlan, name: &str) -> Result<()> {
    let overwrites = plan.in_place || !plan.kept_aside.is_empty();
    if !overwrites || session.globals.yes {
        plan_text(plan).lines().for_each(|line| session.printer.detail(line));
        return Ok(());
    }
    // The plan is part of the question: it is shown whatever the level is.
    for line in plan_text(plan).lines() {
        session.printer.line(line);
    }
    let question = format!("restoring {}", units::one_line(&plan.what));
    confirm(&session.surroundings, &session.printer, &question, name)
}

fn plan_text(plan: &RestorePlan) -> String {
    let mut text = format!("plan for {}:\n", units::one_line(&plan.what));
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {}\n", index + 1, units::one_line(step)));
    }
    for holder in &plan.holders {
        let path = holder.path.display();
        text.push_str(&format!("  {} ({}) has {path} open\n", holder.name, holder.pid));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("  warning: {warning}\n"));
    }
    text
}

fn print_plan(session: &Session, plan: &RestorePlan) -> Result<()> {
    if !session.printer.json() {
        return session.printer.data(&plan_text(plan));
    }
    session.printer.json_data(&plan_json(plan))
}

fn plan_json(plan: &RestorePlan) -> Value {
    json!({
        "outcome": "planned",
        "what": plan.what,
        "place": plan.place,
        "in_place": plan.in_place,
        "kept_aside": plan.kept_aside.iter()
            .map(|(from, to)| json!({ "from": from, "to": to }))
            .collect::<Vec<_>>(),
        "plain_bytes": plan.plain_bytes,
        "steps": plan.steps,
        "warnings": plan.warnings,
    })
}

/// The command that goes back to what was there before.
fn undo(outcome: &RestoreOutcome) -> Option<String> {
    let place = outcome.place.as_ref().filter(|_| !outcome.kept_aside.is_empty())?;
    Some(format!("lifeboat undo {}", units::shell_word(&place.to_string_lossy())))
}

fn as_json(plan: &RestorePlan, outcome: &RestoreOutcome) -> Value {
    json!({
        "outcome": "restored",
        "what": plan.what,
        "place": outcome.place,
        "kept_aside": outcome.kept_aside,
        "files": outcome.files,
        "checks": outcome.check.as_ref().map(|check| &check.what),
        "check_notes": outcome.check.as_ref().map(|check| &check.notes),
        "elapsed_ms": outcome.elapsed_ms,
        "undo": undo(outcome),
    })
}

fn say(session: &Session, plan: &RestorePlan, outcome: &RestoreOutcome) -> Result<()> {
    let printer = &session.printer;
    for warning in &outcome.warnings {
        printer.warning(&units::one_line(&plan.what), warning);
    }
    if printer.json() {
        return printer.json_data(&as_json(plan, outcome));
    }
    say_text(session, plan, outcome);
    Ok(())
}

fn say_text(session: &Session, plan: &RestorePlan, outcome: &RestoreOutcome) {
    let printer = &session.printer;
    let undo = undo(outcome);
    let good = printer.paint_err(Style::Good, "restored");
    let took = units::duration(outcome.elapsed_ms);
    let mut text = format!("{good} {} in {took}", units::one_line(&plan.what));
    let mut line = |name: &str, value: &str| text.push_str(&format!("\n  {name:<8} {value}"));
    if let Some(place) = &outcome.place {
        line("where", &units::one_line(&place.to_string_lossy()));
    }
    for file in &outcome.files {
        line("file", &units::one_line(&file.to_string_lossy()));
    }
    if outcome.place.is_some() {
        line("checked", &checked(outcome));
    }
    for kept in &outcome.kept_aside {
        line("kept", &units::one_line(&kept.to_string_lossy()));
    }
    if let Some(undo) = &undo {
        line("undo", undo);
    }
    printer.note(&text);
}

fn checked(outcome: &RestoreOutcome) -> String {
    match &outcome.check {
        Some(check) => {
            let notes = match check.notes.first() {
                Some(note) => format!(" ({note})"),
                None => String::new(),
            };
            format!("{}{notes}", check.what.join(", ").replace('_', " "))
        }
        None => "the hashes alone, as asked".to_owned(),
    }
}
