//! `lifeboat man`: manual pages, made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};

use crate::cli;
use crate::config::diagnose::shown;
use crate::session::Session;

/// Write the manual pages into a folder
///
/// To have them for everyone: lifeboat man /usr/local/share/man/man1
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; made where it does not exist
    folder: PathBuf,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    fs::create_dir_all(&args.folder).map_err(|error| failed(&args.folder, error))?;
    let mut written = 0;
    write_pages(&cli::definition(), "lifeboat", &args.folder, &mut written)?;
    let folder = shown(&args.folder);
    session.printer.note(&format!("{written} manual pages are in {folder}"));
    Ok(ExitCode::SUCCESS)
}

fn write_pages(
    command: &clap::Command,
    name: &str,
    folder: &Path,
    written: &mut usize,
) -> Result<()> {
    let path = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .and_then(|()| fs::write(&path, &page))
        .map_err(|error| failed(&path, error))?;
    *written += 1;
    for inner in command.get_subcommands() {
        if !inner.is_hide_set() && inner.get_name() != "help" {
            write_pages(inner, &format!("{name}-{}", inner.get_name()), folder, written)?;
        }
    }
    Ok(())
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot write the manual to {}", shown(path)), error)
        .hint("name a folder that you may write to")
}
