//! `lifeboat web`: the page that answers whether everything can be restored.

use std::net::SocketAddr;
use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};

use crate::session::Session;
use crate::web;

/// The web page
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the page until a signal comes
    Serve {
        /// The address, of this host alone
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6464")]
        listen: SocketAddr,
    },
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let Action::Serve { listen } = args.action;
    if !listen.ip().is_loopback() {
        let message = format!("{listen} is an address that others reach");
        return Err(Error::new(Kind::Refused, message).hint("listen on 127.0.0.1"));
    }
    web::serve(session, listen)
}
