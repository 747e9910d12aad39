//! `lifeboat drill`: restores rehearsed into a scratch place, checked, and proved.

mod application;
mod choose;
mod cluster;
mod dump;
mod file;
pub(crate) mod host_keys;
mod kit;
mod making;
mod rows;
pub(crate) mod scratch;

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::drill::{Outcome, Proof};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use self::choose::{Choice, Subject};
use self::making::Made;
use crate::notify::Ended;
use crate::repositories;
use crate::session::Session;
use crate::signals;
use crate::ui::printer::Style;
use crate::ui::{report, units};

/// Rehearse a restore, check it, and keep the proof
///
/// The newest restore point of each source, or another one, is restored to a scratch place, from
/// the repository alone, as `restore` does it. Then it is checked: hashes, the digest of the log's
/// state, integrity, foreign keys, the version of its schema and the rows of each table, against
/// the manifest and the live database where that can be asked; the queries of `assert` in the
/// source's `drill` section; host keys among its files; and the application itself, where `command`
/// names it. PostgreSQL is restored into a server that is thrown away and runs as another user than
/// root: a dump into a new cluster; of a whole cluster the files, with the log up to the moment,
/// every row read, and amcheck. The scratch place is removed, also what a killed drill left. Live
/// data is only read.
///
/// What was found is signed with a key of this installation and stored in the repository, chained
/// to the proof before it: `lifeboat proof` shows and verifies it. It says how long the restore
/// took (RTO) and how old the data was (RPO). A backup whose drill passed counts as proven: the
/// newest proven one is never pruned.
///
/// Sources are restored from each repository that holds them; --repo names one. The exit code is 20
/// if a drill fails; if all fail for a reason outside of the backups, such as a key or a store, the
/// code of that.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Sources; all without any
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// The newest restore point at or before this time: 2025-01-08T14:03:22, or -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "random")]
    at: Option<String>,
    /// A random restore point, of all that there are: of a whole PostgreSQL cluster a place in its
    /// log
    #[arg(long)]
    random: bool,
    /// Use nothing of this host but the way to the repositories: the sources, and what must hold of
    /// them, are those of the configuration that each repository keeps. All sources, as on a new
    /// host; nothing live is asked
    #[arg(long, conflicts_with = "sources")]
    from_repository: bool,
    /// Use nothing but the page of the recovery kit, the text that `lifeboat kit --to FOLDER`
    /// wrote: the repositories and the key that it names. A key that is kept beside the page is
    /// named by
    /// --identity
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sources", "from_repository"])]
    from_kit: Option<PathBuf>,
    /// Said by --from-kit to the run that it starts.
    #[arg(long, hide = true, requires = "from_repository")]
    of_kit: bool,
    /// Leave what was restored in the scratch place, and say where
    #[arg(long)]
    keep: bool,
    /// Store no proof, as with rights to read alone
    #[arg(long)]
    no_proof: bool,
    /// Print what would be restored and checked, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Whether nothing is done, of which somebody could be told.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run || self.from_kit.is_some()
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    if let Some(page) = &args.from_kit {
        return kit::run(session, &env, &args, page);
    }
    let (opened, failures) = repositories::open_all(session, &env)?;
    let subjects = match args.from_repository {
        true => choose::of_repositories(&env, &opened)?,
        false => choose::subjects(session, &env, &opened, &args.sources)?,
    };
    if subjects.is_empty() {
        return Err(Error::new(Kind::NotCovered, "there is nothing to restore")
            .hint("`lifeboat backup` makes a backup; `lifeboat list` shows what there is"));
    }
    let choice = Choice::of(session, &env, args.at.as_deref(), args.random)?;
    if args.dry_run {
        print_plan(session, &env, &subjects, &choice)?;
        return super::incomplete(&failures);
    }
    for left in scratch::remove_leftovers(&session.folders.scratch) {
        session.printer.note(&format!("removed what a killed drill left: {}", left.display()));
    }
    let mut results = Vec::new();
    let (mut errors, mut unrecorded) = (Vec::new(), Vec::new());
    for subject in &subjects {
        env.proceed()?;
        let made = making::drill(session, &env, subject, &choice, &args)?;
        session.progress.clear();
        say(session, &made);
        let url = subject.opened.repository.url();
        session.note_ended(Ended::of("drill", &subject.name, &url, made.failure.as_ref()));
        results.push(as_json(&made));
        errors.extend(made.failure);
        unrecorded.extend(made.unrecorded);
    }
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    conclude(session, subjects.len(), errors, unrecorded)?;
    super::incomplete(&failures)
}

fn print_plan(
    session: &Session,
    env: &Env,
    subjects: &[Subject<'_>],
    choice: &Choice,
) -> Result<()> {
    let mut plans = Vec::new();
    for subject in subjects {
        let state = choice.state(env, subject)?;
        let what = making::name_of(&state);
        let zone = &session.surroundings.time_zone;
        let moment = units::moment(state.taken_at(), zone);
        let bytes = units::bytes(state.selected.manifest.plain_bytes());
        if !session.printer.json() {
            session.printer.data(&format!(
                "{}: restore {what} ({moment}, {bytes}) from {} to a folder in {}, check it, \
                 remove it\n",
                units::one_line(&subject.name),
                subject.opened.repository.url(),
                session.folders.scratch.display(),
            ))?;
        }
        plans.push(json!({
            "outcome": "planned",
            "source": subject.name,
            "repository": subject.opened.repository.url(),
            "what": what,
            "moment": state.taken_at(),
            "plain_bytes": state.selected.manifest.plain_bytes(),
            "scratch": session.folders.scratch,
        }));
    }
    if session.printer.json() {
        session.printer.json_data(&plans)?;
    }
    Ok(())
}

fn say(session: &Session, made: &Made) {
    let printer = &session.printer;
    let record = &made.record;
    let what = record.state.as_deref().or(record.backup.as_deref()).unwrap_or(&record.source.name);
    let mark = match record.passed {
        true => printer.paint_err(Style::Good, "passed"),
        false => printer.paint_err(Style::Bad, "failed"),
    };
    let mut text = format!("{mark} {} from {}", units::one_line(what), record.repository_url);
    if let (Some(restore_ms), Some(age_ms)) = (record.restore_ms, record.data_age_ms) {
        let (took, age) = (units::duration(restore_ms), units::coarse(age_ms));
        text.push_str(&format!("\n  restored in {took}, from data that was {age} old"));
    }
    for check in &record.checks {
        let name = check.name.replace('_', " ");
        let detail = units::one_line(&check.detail);
        text.push_str(&format!("\n  {:<8} {name}: {detail}", check.outcome.word()));
    }
    if let Some(object) = &made.object {
        text.push_str(&format!("\n  proof    {object}"));
    }
    if let Some(kept) = &made.kept {
        text.push_str(&format!("\n  kept     {}", kept.display()));
    }
    match record.passed {
        true => printer.note(&text),
        false if printer.json() => {}
        false => printer.line(&text),
    }
    for check in record.checks.iter().filter(|check| check.outcome == Outcome::Noted) {
        printer.warning(&record.source.name, &check.detail);
    }
}

fn as_json(made: &Made) -> Value {
    let mut value = match &made.proof {
        Some(Proof { record, signature }) => json!({ "record": record, "signature": signature }),
        None => json!({ "record": made.record }),
    };
    value["proof"] = json!(made.object);
    value["kept"] = json!(made.kept);
    if let Some(error) = &made.failure {
        value["error"] = report::as_json(error);
    }
    value
}

/// A backup that is not right decides; else what hindered the drills.
fn conclude(
    session: &Session,
    all: usize,
    mut errors: Vec<Error>,
    mut unrecorded: Vec<Error>,
) -> Result<()> {
    if errors.is_empty() {
        // What was restored is right, and nobody will be able to prove it.
        return unrecorded.pop().map_or(Ok(()), Err);
    }
    unrecorded.iter().for_each(|error| report::report(&session.printer, error));
    let failed = errors.iter().filter(|error| making::is_of_backup(error)).count();
    if failed == 0 {
        let first = errors.remove(0);
        errors.iter().for_each(|error| report::report(&session.printer, error));
        return Err(first);
    }
    errors.iter().for_each(|error| report::report(&session.printer, error));
    let message = format!("{failed} of {all} drills failed");
    Err(Error::new(Kind::CheckFailed, message)
        .hint("make a new backup now, and drill it: lifeboat backup && lifeboat drill"))
}
