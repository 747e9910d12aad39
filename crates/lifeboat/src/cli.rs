//! The command line: the options that every command has, and the way from arguments to exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use lifeboat_core::{Error, Kind, Result};

use crate::commands::Command;
use crate::commands::wal::exit::Rule;
use crate::session::Session;
use crate::ui::printer::{ColorChoice, Level};
use crate::ui::{Printer, report};
use crate::world::Surroundings;
use crate::{addresses, agent};

/// The exit codes, below the help of the program and in its manual.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done; after a backup: it is in the repository, read back and restorable
  1   failed
  2   the command line or the configuration is wrong
  3   incomplete: some sources or copies failed, the others succeeded
  10  there is no repository at that place
  11  locked by another run
  12  the key does not open the repository
  13  the store cannot be reached, or refuses us
  14  no space left
  15  the source cannot be read now: missing, not permitted, or busy
  20  a check failed, or something stored is damaged
  21  stale: the newest good backup is older than promised
  22  the moment asked for is not covered by any backup
  23  refused by a rule of safety
  24  a confirmation is needed and there is no terminal
  75  the store is absent for now, such as a drive that is not mounted
  130, 143  ended by SIGINT, by SIGTERM";

/// Keeps databases recoverable: backs them up while they are written to, proves what was stored,
/// and restores it.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options that every command has.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A file with the variables ADMIN_DB_TYPE, ADMIN_DB_PATH, BACKUP_DIR and RETENTION_DAYS
    /// instead of a configuration; paths in it are relative to its folder. Without a
    /// configuration, .env in the current folder is read
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "config")]
    pub(crate) env_file: Option<PathBuf>,
    /// The repository: a URL such as file:///var/backups, a path, or a configured name
    #[arg(long, global = true, value_name = "URL|NAME")]
    pub(crate) repo: Option<String>,
    /// The file of a key that opens sealed backups: of `lifeboat key new` or age-keygen, or a
    /// private key of SSH. Beside the one that the configuration names; may be given again
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Vec<PathBuf>,
    /// Results as JSON on standard output, progress and errors as JSON lines on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say only what went wrong
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say how it was done
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
    /// The moment that is taken for now, to try `prune --dry-run`, `list` and `status` at another
    #[arg(long, global = true, value_name = "TIME", hide = true, allow_hyphen_values = true)]
    pub(crate) now: Option<String>,
    /// Do what the plan says without asking
    #[arg(long, global = true)]
    pub(crate) yes: bool,
}

impl Globals {
    fn level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::Quiet,
            (_, true) => Level::Verbose,
            _ => Level::Default,
        }
    }
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let rule = Rule::of(&arguments);
    rule.watch(|| run_by(&arguments, rule))
}

/// The same, with the exit codes of a rule.
fn run_by(arguments: &[OsString], rule: Rule) -> ExitCode {
    let surroundings = Surroundings::read();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return not_a_command(&surroundings, arguments, rule, &error),
    };
    let Cli { globals, command } = cli;
    let printer = Printer::new(&surroundings, globals.level(), globals.color, globals.json);
    let session = Session::new(surroundings, printer, globals);
    agent::end_with_parent(&session.surroundings);
    match no_addresses(arguments).and_then(|()| command.run(&session)) {
        Ok(code) => code,
        Err(error) => {
            session.progress.clear();
            report::report(&session.printer, &error);
            ExitCode::from(rule.code(error.kind()))
        }
    }
}

/// Refuses addresses where paths are meant.
fn no_addresses(arguments: &[OsString]) -> Result<()> {
    if !arguments.iter().any(|argument| argument.to_string_lossy().contains("://")) {
        return Ok(());
    }
    let mut definition = definition();
    // They were parsed before: nothing is wrong with them as such.
    let Ok(matches) = definition.try_get_matches_from_mut(arguments) else { return Ok(()) };
    addresses::refuse(&definition, &matches)
}

/// Runs another command within this one, with the same options of every command and without its
/// questions: whoever calls it has asked. Each of its words was chosen by us.
pub(crate) fn within(session: &Session, words: &[String]) -> Result<()> {
    let words = std::iter::once("lifeboat").chain(words.iter().map(String::as_str));
    let parsed = Cli::try_parse_from(words).map_err(|error| {
        Error::new(Kind::Failed, "a step is no command of this program").caused_by(error)
    })?;
    let repo = parsed.globals.repo.or_else(|| session.globals.repo.clone());
    let globals = Globals { repo, yes: true, ..session.globals.clone() };
    let surroundings = Surroundings::read();
    let printer = Printer::new(&surroundings, globals.level(), globals.color, globals.json);
    let inner = Session::new(surroundings, printer, globals);
    let done = parsed.command.run(&inner);
    inner.progress.clear();
    match done? {
        ExitCode::SUCCESS => Ok(()),
        _ => Err(Error::new(Kind::Failed, "a step did not succeed; what it said is above")),
    }
}

/// Help and version are results; everything else that is no command is an error with code 2.
fn not_a_command(
    surroundings: &Surroundings,
    arguments: &[OsString],
    rule: Rule,
    error: &clap::Error,
) -> ExitCode {
    let is_result = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_result || !arguments.iter().any(|argument| argument == "--json") {
        // A reader who went away has seen enough of the help.
        let _ = error.print();
        return ExitCode::from(if is_result { 0 } else { rule.code(Kind::Usage) });
    }
    let printer = Printer::new(surroundings, Level::Default, ColorChoice::Never, true);
    let text = error.render().to_string();
    let message = text.trim().trim_start_matches("error: ");
    let error = Error::new(Kind::Usage, message).hint("lifeboat --help");
    report::report(&printer, &error);
    ExitCode::from(rule.code(Kind::Usage))
}

/// The definition of the command line, for manual pages, completions and the reference.
pub(crate) fn definition() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}
