//! `lifeboat key`: makes keys for sealed backups, and says to whom they belong.

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::seal::{Identity, protect};
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use crate::private;
use crate::session::Session;
use crate::ui::{passphrase, units};

/// Make a key for sealed backups, or show whose it is
///
/// A key has two halves. The recipient is public: it goes into `encrypt_to` of a repository, and
/// seals what is stored there. The file of the key is secret and opens it again. Keep it away from
/// the host that makes the backups, in two places: without it nobody can restore them. The file is
/// one of `age`, and `age -d` opens every backup with it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    New(NewArgs),
    Show(ShowArgs),
}

/// Make a key, and print its recipient
///
/// The file is readable by its owner alone. A file that exists is never overwritten.
#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Where to
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Protect it by a passphrase, which is asked for, or is the next line of standard input
    #[arg(long)]
    passphrase: bool,
}

/// Print the recipients of keys
///
/// Without a file: those of --identity and of the configuration.
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The files
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::New(args) => new(session, &args),
        Verb::Show(args) => show(session, &args),
    }
}

fn new(session: &Session, args: &NewArgs) -> Result<ExitCode> {
    let file = args.file.display();
    private::must_be_free(&args.file)?;
    let identity = Identity::generate();
    let secret = identity.to_file(&session.env()?.clock.now().to_string());
    let content = match args.passphrase {
        false => secret.expose().to_owned(),
        true => {
            let has_terminal = session.surroundings.stdin_is_terminal;
            let what = format!("passphrase for {file}");
            let passphrase = passphrase::ask_new(&session.printer, has_terminal, &what)?;
            protect(&secret, &passphrase)?
        }
    };
    private::write_new(&args.file, &content)?;
    let recipient = &identity.recipients()[0];
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "file": args.file, "recipient": recipient }))?,
        false => session.printer.data(&format!("{recipient}\n"))?,
    }
    session.printer.note(&format!(
        "the key is in {file}: move it away from the host that makes the backups, and keep a \
         second copy of it\nin the configuration: encrypt_to = [\"{recipient}\"]"
    ));
    Ok(ExitCode::SUCCESS)
}

fn show(session: &Session, args: &ShowArgs) -> Result<ExitCode> {
    let keys = match args.files.is_empty() {
        true => session.keys()?,
        false => session.keys_of(&args.files),
    };
    let Some(keys) = keys else {
        return Err(Error::new(Kind::Usage, "no key was named")
            .hint("lifeboat key show FILE, or --identity FILE"));
    };
    let identity = keys.identity()?;
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "recipients": identity.recipients() }))?,
        false => {
            let lines =
                identity.recipients().iter().map(|name| format!("{}\n", units::one_line(name)));
            session.printer.data(&lines.collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
