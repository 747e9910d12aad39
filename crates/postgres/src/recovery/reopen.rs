//! A server on a data directory that a restore left, to ask it more.

use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use super::server::{FolderServer, ServerPrograms, Standing, server_folder};
use crate::client::ClientOptions;
use crate::control::Control;

/// Starts a server on a cluster that was recovered, and waits until it answers. `owner` is as whom,
/// where we are root.
pub fn open_again(
    env: &Env,
    options: &ClientOptions,
    major: u32,
    data: &Path,
    owner: Option<(u32, u32)>,
) -> Result<FolderServer> {
    let programs = ServerPrograms::find(options, major)?;
    let control = Control::of_folder(data)?;
    let folder = server_folder(data, owner)?;
    let mut server = FolderServer::start(&programs, data, folder, owner, &control.limits, &[])?;
    server.end_with(env);
    match server.wait(env, &mut || Ok(()))? {
        Standing::Ready => Ok(server),
        _ => {
            env.proceed()?;
            let said = server.log();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            let message = format!("the restored cluster does not start: {}", last.join("; "));
            Err(Error::new(Kind::CheckFailed, message))
        }
    }
}
