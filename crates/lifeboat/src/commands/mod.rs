//! The commands: one line and one file for each verb.

mod completions;
mod config;
mod man;
mod reference;

use std::process::ExitCode;

use lifeboat_core::Result;

use crate::session::Session;

/// Every command with its arguments. The doc comment of each `Args` is its help and its manual.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Config(config::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Reference(reference::Args),
}

impl Command {
    /// Runs the command. Results other than errors may have an exit code of their own.
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode> {
        match self {
            Command::Config(args) => config::run(session, args),
            Command::Completions(args) => completions::run(session, args),
            Command::Man(args) => man::run(session, args),
            Command::Reference(args) => reference::run(session, args),
        }
    }
}
