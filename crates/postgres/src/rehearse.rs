//! A full check: the dump is loaded into a throw-away cluster, and its rows are counted there.
//!
//! Roles that the dump names are made there without rights of their own; an extension that is not
//! installed on this host makes the check a partial one, which says so.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::restore::Origin;
use lifeboat_core::{Error, Kind, Result};

use crate::client::{Client, ClientOptions};
use crate::cluster::ThrowAwayCluster;
use crate::quote::identifier;
use crate::restore::{self, RestoreRequest};
use crate::session::Session;

/// The database that is made in the cluster.
const DATABASE: &str = "rehearsal";

/// What a rehearsal showed.
pub(crate) enum Rehearsed {
    /// It was loaded; rows per table.
    Loaded(BTreeMap<String, u64>),
    /// It could not be loaded here: why, although nothing says that it is damaged.
    NotHere(String),
}

/// Loads a dump, plain or compressed, into a cluster of our own.
pub(crate) fn rehearse(
    env: &Env,
    options: &ClientOptions,
    dump: &Path,
    scratch_folder: &Path,
) -> Result<Rehearsed> {
    let origin = Origin::File { path: dump, keys: None };
    let head = restore::head(env, origin)?;
    let major = match head.server_major {
        Some(wanted) => match ThrowAwayCluster::major_for(options, wanted)? {
            Some(major) => Some(major),
            None => {
                return Ok(Rehearsed::NotHere(format!(
                    "no server of version {wanted} or newer is on this host \
                     (apt-get install postgresql-{wanted})"
                )));
            }
        },
        None => None,
    };
    let cluster = ThrowAwayCluster::start(env, options, major, scratch_folder, &[])?;
    make_roles(&cluster.client("postgres")?, &head.roles)?;
    let target = cluster.client(DATABASE)?;
    let request = RestoreRequest {
        origin,
        target: &target,
        with_owners: true,
        schemas: &[],
        tables: &[],
        scratch_folder,
    };
    let plan = match restore::plan(env, &request) {
        Err(error) if error.kind() == Kind::Refused => {
            return Ok(Rehearsed::NotHere(error.message().to_owned()));
        }
        plan => plan?,
    };
    match restore::apply(env, &request, &plan) {
        Ok(outcome) => Ok(Rehearsed::Loaded(outcome.rows)),
        Err(error) if error.kind() == Kind::Failed => {
            Err(Error::new(Kind::CheckFailed, error.message().to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn make_roles(server: &Client, roles: &[String]) -> Result<()> {
    let mut session = Session::open(server, "cannot make roles in a throw-away cluster")?;
    for role in roles.iter().filter(|role| *role != "postgres") {
        session.execute(&format!("CREATE ROLE {}", identifier(role)))?;
    }
    Ok(())
}
