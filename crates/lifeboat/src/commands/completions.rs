//! `lifeboat completions`: completions for a shell.

use std::process::ExitCode;

use clap_complete::Shell;
use lifeboat_core::Result;

use crate::cli;
use crate::session::Session;

/// Print the completions for a shell
///
/// For bash, put them where bash looks for them:
/// lifeboat completions bash > /etc/bash_completion.d/lifeboat
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::definition(), "lifeboat", &mut script);
    session.printer.raw(&script)?;
    Ok(ExitCode::SUCCESS)
}
