//! `lifeboat init`: a configuration of what is on this host, or of a system that we know.

mod found;
mod grouping;
mod off_site;
mod preset;
mod proposal;
mod servers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Clock as _;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use self::off_site::OffSite;
use self::preset::Preset;
use self::proposal::Proposal;
use super::config;
use crate::config::diagnose::shown;
use crate::config::example;
use crate::discover::{self, Search};
use crate::session::Session;
use crate::ui::confirm::confirm;
use crate::world::{self, SystemClock};

/// How long a search may take.
const TIME_MS_MAX: u64 = 20_000;

/// How many names of files a search looks at.
const ENTRIES_MAX: usize = 300_000;

/// Find the databases of this host and write a configuration of them
///
/// It looks for SQLite databases that are open in any process, that lie in well-known places
/// (/var/lib, /var/www, /srv, /opt, /data, homes, the current folder), and that .env files name.
/// They are recognized by their first bytes and not opened by SQLite. Caches, profiles of
/// browsers, what the system makes anew, copies and repositories of backups are left out, and it
/// says so.
///
/// PostgreSQL clusters are found by their files and sockets, databases of other servers by
/// DATABASE_URL and ADMIN_DATABASE_URL of .env files. Those that let us in as we are become
/// sources; the others comments that say what is missing. A password of a .env file goes into a
/// file of its own beside the configuration.
///
/// The configuration is written to the file that --config names, else $LIFEBOAT_CONFIG, else
/// /etc/lifeboat/config.toml for root, else ~/.config/lifeboat/config.toml. A file that exists is
/// never overwritten.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders to look in as well
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Do not search: all that the backup guide of this system asks for, each part with its own
    /// schedule and retention
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["folders", "root"])]
    preset: Option<Preset>,
    /// Do not search: an example with every key explained
    #[arg(long, conflicts_with_all = ["folders", "root", "preset", "copy_to"])]
    example: bool,
    /// Search the system whose root is this folder, such as a mounted disk, and write its
    /// configuration there
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(flatten)]
    off_site: OffSite,
    /// Print the configuration, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    args.off_site.require_sound()?;
    let text = match (args.example, args.preset) {
        (true, _) => example::example(),
        (_, Some(preset)) => {
            args.off_site.added_to(preset::text(&session.surroundings, preset)?)?
        }
        (false, None) => return find(session, &args),
    };
    if args.dry_run {
        match session.printer.json() {
            true => session.printer.json_data(&json!({ "configuration": text }))?,
            false => session.printer.data(&text)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = config::new_path(session, None)?;
    config::write_new(&path, &text)?;
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "path": path }))?,
        false => say_written(session, &path, args.example),
    }
    Ok(ExitCode::SUCCESS)
}

fn find(session: &Session, args: &Args) -> Result<ExitCode> {
    let search = search(session, args)?;
    let path = config::new_path(session, args.root.as_deref())?;
    if !args.dry_run {
        // Before a search that may take a while.
        config::require_absent(&path)?;
    }
    let clock = SystemClock::start();
    let findings = discover::search(&search, &clock);
    let repository =
        world::default_repository(&session.surroundings).ok_or_else(preset::no_home)?;
    let proposal = Proposal::of(&search, &findings, &path, clock.now());
    let text = args.off_site.added_to(proposal.text(&findings, &repository))?;
    let shown = found::Shown { session, findings: &findings, proposal: &proposal };
    if args.dry_run {
        return match session.printer.json() {
            true => session.printer.json_data(&shown.as_json("planned", &path, Some(&text))),
            false => {
                shown.say_doubts();
                session.printer.data(&text)
            }
        }
        .map(|()| ExitCode::SUCCESS);
    }
    if !session.printer.json() {
        session.printer.data(&shown.table())?;
        shown.say_doubts();
    }
    if proposal.is_empty() {
        return Err(none_found(&proposal));
    }
    if !session.globals.yes {
        let count = proposal.sources().len() + proposal.reached().count();
        let sources = if count == 1 { "1 source" } else { &format!("{count} sources") };
        let question = format!("writing {} with {sources}", self::shown(&path));
        confirm(&session.surroundings, &session.printer, &question, "config.toml")?;
    }
    let passwords = write_all(&proposal, &path, &text)?;
    match session.printer.json() {
        true => session.printer.json_data(&shown.as_json("written", &path, None))?,
        false => {
            for file in &passwords {
                session.printer.note(&format!("{} holds a password", self::shown(file)));
            }
            say_written(session, &path, false);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the configuration and, before it, the passwords that it refers to: all or none. Gives
/// back the files of the passwords.
fn write_all(proposal: &Proposal<'_>, path: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut written: Vec<PathBuf> = Vec::new();
    let secrets = proposal.reached().filter_map(|server| server.secret.as_ref());
    let all = || {
        for (file, password) in secrets {
            config::write_new(file, &format!("{}\n", password.expose()))?;
            written.push(file.clone());
        }
        config::write_new(path, text)
    };
    let done = all();
    if done.is_err() {
        // A password without a configuration is of no use to anybody.
        written.iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
    done.map(|()| written)
}

fn say_written(session: &Session, path: &Path, is_example: bool) {
    session.printer.note(&format!("{} is written", shown(path)));
    session.printer.note(match is_example {
        true => "edit it, then run `lifeboat config check`",
        false => "read it, then run `lifeboat doctor` and `lifeboat backup`",
    });
}

/// Where to look: everything on this host, or below the folder that was named as a root.
fn search(session: &Session, args: &Args) -> Result<Search> {
    let resolve = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| {
            Error::io(Kind::Usage, format!("cannot look in {}", shown(path)), error)
        })
    };
    let root = match &args.root {
        Some(root) => resolve(root)?,
        None => PathBuf::from("/"),
    };
    // Below another root, what belongs to this session is another system's.
    let below = |path: PathBuf| {
        let rest = path.strip_prefix(&root).ok()?;
        Some(Path::new("/").join(rest))
    };
    let mut named = Vec::new();
    for folder in &args.folders {
        let outside = || {
            let message = format!("{} is not below {}", shown(folder), shown(&root));
            Error::new(Kind::Usage, message).hint("name folders of the system that --root names")
        };
        let real = resolve(folder)?;
        if !real.is_dir() {
            let message = format!("{} is no folder", shown(folder));
            return Err(Error::new(Kind::Usage, message).hint(
                "name the folder that it is in; or back it up at once: lifeboat backup FILE",
            ));
        }
        named.push(below(real).ok_or_else(outside)?);
    }
    let home = session.surroundings.path("HOME").and_then(|home| resolve(&home).ok());
    let current = std::env::current_dir().ok().and_then(|current| resolve(&current).ok());
    Ok(Search {
        home: home.and_then(below),
        current: current.and_then(below),
        root: root.clone(),
        named,
        time_ms_max: TIME_MS_MAX,
        entries_max: ENTRIES_MAX,
    })
}

fn none_found(proposal: &Proposal<'_>) -> Error {
    let also = match proposal.servers().is_empty() {
        true => "",
        false => ", and no PostgreSQL server lets us in",
    };
    let error = Error::new(Kind::SourceUnavailable, format!("no SQLite database was found{also}"));
    match proposal.servers().is_empty() {
        true => error.hint(
            "name the folders to look in: lifeboat init DIR; or write an example to edit: lifeboat \
             init --example",
        ),
        false => error.hint("lifeboat init --dry-run says how one would let us in"),
    }
}

/// A text as it stands between the quotes of a TOML string.
fn inner(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}
