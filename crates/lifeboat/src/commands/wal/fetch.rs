//! `lifeboat wal fetch`: the restore command of a server.

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::retry::{self, Retry};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::control::DataDirectory;
use lifeboat_postgres::wal::{Fetched, WalFile, ahead};

use super::exit::{self, Rule};
use super::limit::Limit;
use super::{SourceArgs, Subject, all_of, helper, spool};
use crate::session::Session;
use crate::signals;

/// What may pass by itself is tried again so often, within about ten seconds.
const RETRY: Retry = Retry { times: 4, delay_ms: 500, delay_ms_max: 4_000 };

/// Get a file of the log: restore_command = 'lifeboat wal fetch %f %p'
///
/// The exit code is 0 when the file is there, synced; 1 only when every repository of the source
/// answered that it holds no such file; 126 or more for everything else, also for a repository that
/// does nothing for as long as --limit, which stops the recovery before it takes an outage for the
/// end of the log.
///
/// What will be asked for next is fetched meanwhile by a helper, which ends by itself.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the file: %f
    #[arg(value_name = "FILE")]
    file: String,
    /// Where it goes: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// The cluster's data directory, where it is not the current one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let _limit = Limit::begin(session, args.source.limit, Rule::Restore);
    let file = WalFile::parse(&args.file).ok_or_else(|| {
        let name = crate::ui::units::one_line(&args.file);
        Error::new(Kind::Usage, format!("`{name}` is not the name of a file of the log"))
            .hint("restore_command = 'lifeboat wal fetch %f %p'")
    })?;
    let data = match &args.data {
        Some(data) => DataDirectory::at(data)?,
        None => DataDirectory::of_file(&args.path)?,
    };
    let subject = Subject::of(session, &env, args.source.source.as_deref())?;
    let found = retry::run(&env, &RETRY, &args.file, || {
        let (archive, failures) = subject.for_reading(&env, data.system)?;
        let spool = match args.source.no_helper {
            true => None,
            false => spool(session, &env, &archive),
        };
        let found = match &spool {
            Some(spool) => ahead::fetch(&env, &archive, spool, file, &args.path)?,
            None => archive.fetch(&env, file, &args.path)?,
        };
        match found {
            // What could not be opened may hold it.
            Fetched::Absent => all_of(failures)?,
            Fetched::Whole | Fetched::Pieces => {
                let bytes = std::fs::metadata(&args.path).map_or(0, |found| found.len());
                if let Some(spool) = &spool
                    && ahead::wants_fetcher(spool, file, bytes)
                {
                    let work = helper::Work::Fetch;
                    helper::start(session, &env, &args.source, work, &data.path);
                }
            }
        }
        Ok(found)
    })?;
    match found {
        Fetched::Whole | Fetched::Pieces => Ok(ExitCode::SUCCESS),
        Fetched::Absent => Ok(ExitCode::from(exit::ABSENT)),
    }
}
