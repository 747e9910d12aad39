//! `lifeboat wal push`: the archive command of a server.

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::Result;
use lifeboat_core::log::Placed;
use lifeboat_postgres::control::DataDirectory;
use lifeboat_postgres::wal::{PushFile, ahead};

use super::exit::Rule;
use super::limit::Limit;
use super::{SourceArgs, Subject, all_of, helper, spool};
use crate::session::Session;
use crate::signals;

/// Put a file of the log into every repository: archive_command = 'lifeboat wal push %p'
///
/// The exit code is 0 only when the file is durable in every repository of the source and was read
/// back; the server keeps it otherwise, and tries again. The same file a second time is fine, other
/// bytes under its name are refused. Any failure ends with 1 to 125, also that of a repository that
/// does nothing for as long as --limit.
///
/// What waits behind it is pushed meanwhile by a helper, which ends by itself.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let _limit = Limit::begin(session, args.source.limit, Rule::Archive);
    let data = DataDirectory::of_file(&args.path)?;
    let file = PushFile::look(&args.path, &data)?;
    let subject = Subject::of(session, &env, args.source.source.as_deref())?;
    let (archive, failures) = subject.for_writing(session, &env, data.system)?;
    // A helper works for repositories that are all there.
    let spool = match failures.is_empty() && !args.source.no_helper {
        true => spool(session, &env, &archive),
        false => None,
    };
    let pushed = match &spool {
        Some(spool) => {
            if ahead::wants_pusher(spool, &data.path, file.file) {
                helper::start(session, &env, &args.source, helper::Work::Push, &data.path);
            }
            ahead::push(&env, &archive, spool, &file)?
        }
        None => archive.push(&env, &file)?,
    };
    all_of(failures)?;
    if session.printer.json() {
        let stored = |placed: &Placed| match placed {
            Placed::Stored(bytes) => serde_json::json!({ "outcome": "stored", "bytes": bytes }),
            Placed::AlreadyThere => serde_json::json!({ "outcome": "already-there" }),
        };
        let places: Vec<_> = pushed.iter().map(stored).collect();
        session.printer.json_data(&serde_json::json!({
            "file": file.file.to_string(), "places": places,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}
