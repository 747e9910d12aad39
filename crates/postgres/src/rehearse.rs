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
use crate::restore::{self, RestoreOutcome, RestoreRequest};
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

/// A dump that was loaded into a cluster of our own, which is there until this is dropped.
pub struct LoadedDump {
    cluster: ThrowAwayCluster,
    /// What the restore did.
    pub outcome: RestoreOutcome,
}

/// A dump that was loaded, or why it could not be.
pub enum Loading {
    /// It is there.
    Loaded(Box<LoadedDump>),
    /// It could not be loaded here: why, although nothing says that it is damaged.
    NotHere(String),
}

impl LoadedDump {
    /// A client of the database.
    pub fn client(&self) -> Result<Client> {
        self.cluster.client(DATABASE)
    }

    /// The major version of the server.
    pub fn major(&self) -> u32 {
        self.cluster.major()
    }
}

/// Loads a dump, plain or compressed, into a cluster of our own.
pub(crate) fn rehearse(
    env: &Env,
    options: &ClientOptions,
    dump: &Path,
    scratch_folder: &Path,
) -> Result<Rehearsed> {
    let origin = Origin::File { path: dump, keys: None };
    Ok(match load(env, options, origin, scratch_folder)? {
        Loading::Loaded(loaded) => Rehearsed::Loaded(loaded.outcome.rows),
        Loading::NotHere(why) => Rehearsed::NotHere(why),
    })
}

/// Restores a dump into a cluster of our own, as it would be into any other server.
pub fn load(
    env: &Env,
    options: &ClientOptions,
    origin: Origin<'_>,
    scratch_folder: &Path,
) -> Result<Loading> {
    let head = restore::head(env, origin)?;
    let major = match head.server_major {
        Some(wanted) => match ThrowAwayCluster::major_for(options, wanted)? {
            Some(major) => Some(major),
            None => {
                return Ok(Loading::NotHere(format!(
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
            return Ok(Loading::NotHere(error.message().to_owned()));
        }
        plan => plan?,
    };
    match restore::apply(env, &request, &plan) {
        Ok(outcome) => Ok(Loading::Loaded(Box::new(LoadedDump { cluster, outcome }))),
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
