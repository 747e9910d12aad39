//! `lifeboat guard`: a migration, or any risky command, run behind a backup that it can be rolled
//! back to.
//!
//! The order is the promise: a look at the database, the backup, its marker, and only then the
//! command. Afterwards what had to hold is asked again; where it does not, or the command failed,
//! the way back is said, or gone.

mod drop_in;
mod invariants;
mod migrations;
mod safety;
mod tell;
mod watch;
mod work;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::marks::Ending;
use lifeboat_core::{Error, Kind, Result};

use self::invariants::{Before, Invariant};
use self::safety::{Safety, Saved};
use self::tell::Report;
use self::work::{Ended, Work};
use super::words::CheckWord;
use crate::config::model::GuardPlace;
use crate::runs::RunArgs;
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::{report, units};

/// Run a migration behind a backup
///
/// Makes a verified backup of a database, then runs the command. If the command fails, or what had
/// to hold afterwards does not, says how to go back; with --rollback, goes back. A command whose
/// backup fails is never run.
///
/// The command has the terminal, or the pipes, of this program. Exit code 0: it succeeded, and what
/// had to hold holds. Anything else: it did not, also where it was rolled back. With --json its
/// standard output goes to standard error, and the result to standard output.
///
/// Asked before and after in any case: the structure of the database, and whether references to
/// rows lead somewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of a source, or the path of a database
    #[arg(value_name = "SOURCE|PATH")]
    what: String,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Where the backup goes [default: repository]
    #[arg(long, value_name = "WHERE")]
    place: Option<GuardPlace>,
    /// The same as --place beside
    #[arg(long, conflicts_with = "place")]
    beside: bool,
    /// Restore the backup if the command fails. Others must not have the database open by then
    #[arg(long)]
    rollback: bool,
    /// A query whose answer must be the same before and after; with `after:` before it, one that
    /// must be true afterwards. May be given several times
    #[arg(long, value_name = "SQL")]
    invariant: Vec<String>,
    /// Fail where there is no database yet, instead of running the command without a backup
    #[arg(long)]
    require_database: bool,
    /// How thoroughly the database is checked before [default: quick]
    #[arg(long, value_name = "LEVEL")]
    check: Option<CheckWord>,
    /// Run no command: make a backup if a folder holds migrations that the database has not had,
    /// for the start hook of a service
    #[arg(long, conflicts_with_all = ["command", "rollback", "invariant"])]
    watch: bool,
    /// The folder of migrations, for --watch
    #[arg(long, value_name = "FOLDER", requires = "watch")]
    pending: Option<PathBuf>,
    /// Print what makes systemd run --watch before that unit starts
    #[arg(long, value_name = "UNIT", requires = "watch")]
    print_drop_in: Option<String>,
    /// Run no command: say in JSON when the backup is there, then wait for `succeeded`, `failed` or
    /// `rollback` on standard input. For the library lifeboat-guard
    #[arg(long, conflicts_with_all = ["command", "watch"])]
    caller: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What one run works with.
struct Guard<'a> {
    session: &'a Session,
    env: &'a Env,
    target: Target,
    /// The database's file, links resolved, whether it is there or not.
    place: PathBuf,
    where_to: GuardPlace,
    rollback: bool,
    invariants: Vec<Invariant>,
    check: CheckLevel,
    run: RunArgs,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let work = Work::of(&args)?;
    let mut env = session.env()?;
    if !args.dry_run && args.print_drop_in.is_none() {
        env.stop = signals::catch();
    }
    let guard = Guard::new(session, &env, &args)?;
    if args.watch {
        return watch::run(&guard, &args);
    }
    let there = guard.there(args.require_database)?;
    if args.dry_run {
        return tell::plan(&guard, there.is_some(), &work.name());
    }
    let _lock = guard.lock()?;
    let (safety, before) = match there {
        None => guard.secure(work.program())?,
        Some(nothing) => {
            session.printer.warning(&guard.target.name, &format!("{nothing}: nothing to back up"));
            (Safety::default(), Before::default())
        }
    };
    session.progress.clear();
    tell::ready(&guard, &safety, &work)?;
    if signals::is_caught() {
        let message = "a signal came when the backup was done, so nothing was run";
        return Err(Error::new(Kind::Interrupted, message));
    }
    let ended = work.run(session, &env)?;
    // Whatever ended the command: what it left is judged, and rolled back, to the end.
    let env = env.unstoppable();
    let guard = Guard { env: &env, ..guard };
    guard.conclude(&safety, &before, ended, &work)
}

impl<'a> Guard<'a> {
    fn new(session: &'a Session, env: &'a Env, args: &Args) -> Result<Guard<'a>> {
        let target = one_database(session, &args.what)?;
        let path = target.path.clone().unwrap_or_default();
        let config = &target.guard;
        let all = config.invariants.iter().chain(&args.invariant);
        let invariants = all.map(|text| Invariant::read(text)).collect::<Result<_>>()?;
        let check = args.check.map_or(target.options.check, CheckLevel::from);
        if args.check == Some(CheckWord::None) {
            return Err(Error::new(Kind::Usage, "a guard's backup is always checked")
                .hint("use --check quick, which is the default"));
        }
        let beside = args.beside.then_some(GuardPlace::Beside);
        Ok(Guard {
            session,
            env,
            place: sources::place_of(&path)?,
            where_to: beside.or(args.place).or(config.place).unwrap_or_default(),
            rollback: args.rollback || config.rollback,
            invariants,
            check: check.max(CheckLevel::Quick),
            run: args.run,
            target,
        })
    }

    /// Why there is nothing to back up; `None` where there is a database. One that the repository
    /// knows and that is gone is an error: no new one may take its place unnoticed.
    fn there(&self, required: bool) -> Result<Option<String>> {
        let shown = units::one_line(&self.place.to_string_lossy());
        let why = match fs::metadata(&self.place) {
            Ok(metadata) if metadata.len() == 0 && self.side_files_are_empty() => {
                format!("{shown} is empty")
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                format!("there is no database at {shown} yet")
            }
            // What cannot be read is the backup's error, which says more.
            _ => return Ok(None),
        };
        if required {
            let message = format!("{why}, and --require-database asks for one");
            return Err(Error::new(Kind::SourceUnavailable, message).hint("check the path"));
        }
        match safety::known_backup(self) {
            None => Ok(Some(why)),
            Some(newest) => {
                let message = format!("{why}, but {newest} is a backup of it");
                Err(Error::new(Kind::SourceUnavailable, message).hint(format!(
                    "was it moved, or lost? lifeboat restore {}",
                    units::shell_word(&newest)
                )))
            }
        }
    }

    fn side_files_are_empty(&self) -> bool {
        let engine = self.target.engine().map(|engine| engine.side_files(&self.place));
        let length = |side: &Path| fs::metadata(side).map_or(0, |metadata| metadata.len());
        engine.is_ok_and(|sides| sides.iter().all(|side| length(side) == 0))
    }

    fn lock(&self) -> Result<SourceLock> {
        let folder = self.session.folders.locks.as_deref();
        let name = format!("guard-{}", safety::lock_name(&self.place));
        let what = format!("another guard of {}", self.place.display());
        SourceLock::named(self.env, folder, &name, &self.target.name, &what)
    }

    /// Looks at the database, then backs it up and says in the repository what for.
    fn secure(&self, program: Option<String>) -> Result<(Safety, Before)> {
        let secured = || {
            // Before the backup: what cannot be asked must not have cost one.
            let before = Before::look(&self.place, &self.invariants)?;
            let safety = Safety::make(self, &before)?;
            safety.begin(self.env, program)?;
            Ok((safety, before))
        };
        let (safety, before) = secured().map_err(|error: Error| self.nothing_was_run(error))?;
        let mut holders = self.target.engine()?.holders(&self.place)?;
        holders.dedup_by_key(|holder| holder.pid);
        for holder in holders {
            let (name, pid) = (units::one_line(&holder.name), holder.pid);
            let message = format!(
                "{name} (process {pid}) has the database open: what it writes from now on is lost \
                 by going back"
            );
            self.session.printer.warning(&self.target.name, &message);
        }
        Ok((safety, before))
    }

    fn nothing_was_run(&self, error: Error) -> Error {
        error.context(format!("no backup of `{}`, so nothing was run", self.target.name))
    }

    /// Judges what the command did, goes back if asked to, and reports.
    fn conclude(
        &self,
        safety: &Safety,
        before: &Before,
        ended: Ended,
        work: &Work,
    ) -> Result<ExitCode> {
        let mut result = Report::new(safety, before, &ended);
        if ended.has_run {
            result.look(self, safety, before);
        }
        let failure = result.failure(self, &ended, work);
        let wants_back = (self.rollback || ended.wants_rollback) && ended.has_run;
        let mut rollback_failed = None;
        if failure.is_some() && wants_back && !safety.saved.is_empty() {
            match safety.restore(self) {
                Ok(outcome) => result.rolled_back(outcome),
                Err(error) => rollback_failed = Some(error),
            }
        }
        result.ending = match (&failure, &result.restored) {
            (None, _) => Ending::Succeeded,
            (Some(_), Some(_)) => Ending::RolledBack,
            (Some(_), None) => Ending::Failed,
        };
        // That nobody noted how it ended does not change how it ended.
        if let Err(error) = safety.end(self.env, &result, &ended) {
            self.session.printer.warning(&self.target.name, &format!("not noted: {error}"));
        }
        if failure.is_none() {
            self.rotate(safety);
        }
        self.session.progress.clear();
        let error = failure.map(|failure| result.explain(self, safety, failure, rollback_failed));
        tell::end(self, &result, safety, error.as_ref(), work)?;
        match (error, ended.interrupted) {
            (None, _) => Ok(ExitCode::SUCCESS),
            (Some(error), None) => Err(error),
            (Some(error), Some(signal)) => {
                report::report(&self.session.printer, &error);
                Ok(ExitCode::from(128 + signal))
            }
        }
    }

    /// Old copies beside the database go, now that a newer one proved to be enough.
    fn rotate(&self, safety: &Safety) {
        if !safety.saved.iter().any(|saved| matches!(saved, Saved::Beside(_))) {
            return;
        }
        let now = self.env.clock.now();
        let engine = self.target.engine();
        let rotated =
            engine.and_then(|engine| lifeboat_core::guard::rotate(engine, &self.place, now));
        match rotated {
            Ok(rotated) => {
                for path in rotated.removed {
                    let path = units::one_line(&path.to_string_lossy());
                    self.session.printer.note(&format!("removed {path}: older than 90 days"));
                }
                for path in rotated.foreign {
                    let path = units::one_line(&path.to_string_lossy());
                    self.session
                        .printer
                        .detail(&format!("{path} is not known to be ours, it stays"));
                }
            }
            Err(error) => self.session.printer.warning(
                &self.target.name,
                &format!("old copies beside the database were not removed: {error}"),
            ),
        }
    }
}

/// The one database that an argument names.
fn one_database(session: &Session, what: &str) -> Result<Target> {
    let mut targets = sources::named(&session.loaded()?.config, &[what.to_owned()])?;
    let shown = units::one_line(what);
    match (targets.pop(), targets.len()) {
        (Some(target), 0) if target.path.is_some() => Ok(target),
        (_, 0) => Err(Error::new(Kind::Usage, format!("`{shown}` is no database"))
            .hint("files have no migrations; name a database")),
        (_, more) => {
            let message = format!("`{shown}` stands for {} databases", more + 1);
            Err(Error::new(Kind::Usage, message).hint("guard one of them: name it by its path"))
        }
    }
}
