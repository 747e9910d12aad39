//! PostgreSQL clusters that are backed up as files, as the configuration and the command line name
//! them.
//!
//! Nothing connects, and no secret is fetched, before a run needs it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use lifeboat_core::env::Env;
use lifeboat_core::names;
use lifeboat_core::source::{Capture, CaptureOptions, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::physical::Parent;
use lifeboat_postgres::replication::Checkpoint;
use lifeboat_postgres::{
    Address, CLUSTER_KIND, Client, ClusterEngine, ClusterSource, PhysicalOptions,
};

use crate::config::Config;
use crate::config::postgres::{CheckpointName, PostgresConfig};
use crate::postgres::{self, Database};
use crate::sources::Target;
use crate::world;

/// So many incremental backups follow a whole one where nothing else is configured.
const CHAIN_MAX: u32 = 14;

/// A cluster: how its server is reached, and how it is backed up.
#[derive(Clone)]
pub(crate) struct Cluster {
    database: Database,
    options: PhysicalOptions,
    chain_max: u32,
    data_directory: Option<PathBuf>,
    /// What was made of it when it was first read: its secrets are fetched once.
    opened: Arc<OnceLock<ClusterSource>>,
}

impl Cluster {
    /// One that nobody configured.
    pub(crate) fn at(address: Address) -> Self {
        let database = Database::at(address);
        let options =
            PhysicalOptions { scratch_folder: Some(world::scratch_folder()), ..Default::default() };
        let (chain_max, data_directory) = (CHAIN_MAX, None);
        Cluster { database, options, chain_max, data_directory, opened: Arc::default() }
    }

    /// What the configuration says.
    pub(crate) fn configured(config: &PostgresConfig) -> Result<Self> {
        let checkpoint = match config.checkpoint {
            Some(CheckpointName::Spread) => Checkpoint::Spread,
            Some(CheckpointName::Fast) | None => Checkpoint::Fast,
        };
        let max_rate_bytes = config.max_rate.map(|rate| rate.0.bytes);
        let scratch_folder = Some(world::scratch_folder());
        let options = PhysicalOptions { checkpoint, max_rate_bytes, scratch_folder };
        let chain_max = config.chain_max.unwrap_or(CHAIN_MAX);
        let data_directory = config.data_directory.clone();
        let database = Database::configured(config)?;
        Ok(Cluster { database, options, chain_max, data_directory, opened: Arc::default() })
    }

    /// Where its server is, whatever database the address names.
    pub(crate) fn location(&self) -> String {
        self.database.server()
    }

    /// Whether its server is the one at that address, whoever asks for which database.
    pub(crate) fn is_server_of(&self, address: &Address) -> bool {
        let own = self.database.address();
        let place = |of: &Address| {
            let part = |name: &str| of.get(name).unwrap_or_default().to_owned();
            let port = Some(part("port")).filter(|port| !port.is_empty());
            (part("host"), part("service"), port.unwrap_or_else(|| "5432".to_owned()))
        };
        place(own) == place(address)
    }

    /// A client of its server, with its password.
    pub(crate) fn client(&self) -> Result<Client> {
        self.database.client()
    }

    /// A client for questions in SQL: of a database that every cluster has, where none is named.
    pub(crate) fn asking(&self) -> Result<Client> {
        match self.database.address().database() {
            Some(name) if !name.is_empty() => self.database.client(),
            _ => self.database.named("postgres").client(),
        }
    }

    /// Where its data directory is, where that is configured.
    pub(crate) fn data_directory(&self) -> Option<&Path> {
        self.data_directory.as_deref()
    }

    /// How many incremental backups may follow a whole one.
    pub(crate) fn chain_max(&self) -> u32 {
        self.chain_max
    }

    /// The next backup holds only what changed since that one; all of it, without one.
    pub(crate) fn build_on(&self, parent: Option<Parent>) -> Result<()> {
        self.open()?.build_on(parent);
        Ok(())
    }

    /// As a source.
    pub(crate) fn source(self) -> LazyCluster {
        LazyCluster { cluster: self }
    }

    fn open(&self) -> Result<&ClusterSource> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let looking = world::looking();
        let source = ClusterSource::new(self.client()?, self.options.clone(), looking);
        Ok(self.opened.get_or_init(|| source))
    }
}

/// A source that fetches its secrets when it is first read.
pub(crate) struct LazyCluster {
    cluster: Cluster,
}

impl Source for LazyCluster {
    fn kind(&self) -> &'static str {
        CLUSTER_KIND
    }

    fn location(&self) -> Result<String> {
        Ok(self.cluster.location())
    }

    fn inspect(&self) -> Result<Inspection> {
        self.cluster.open()?.inspect()
    }

    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        self.cluster.open()?.capture(env, options)
    }
}

/// The engine of these sources.
pub(crate) fn engine() -> &'static ClusterEngine {
    &ClusterEngine
}

/// The clusters that the arguments of `--physical` name: configured names, or addresses.
pub(crate) fn named(config: &Config, arguments: &[String]) -> Result<Vec<Target>> {
    if arguments.is_empty() {
        return Err(Error::new(Kind::Usage, "--physical is for a server that is named")
            .hint("write: lifeboat backup --physical postgresql://HOST/"));
    }
    let mut targets = Vec::new();
    for argument in arguments {
        targets.push(match config.source.get(argument) {
            Some(source) => {
                let mut found = Target::configured(argument, source)?;
                found.pop().filter(|target| target.cluster.is_some()).ok_or_else(|| {
                    let message = format!("`{argument}` is not configured as a whole cluster");
                    Error::new(Kind::Usage, message)
                        .hint("write `physical = true` in its table, or name the server's address")
                })?
            }
            None if postgres::is_address(argument) => at_address(config, argument)?,
            None => {
                let message = format!("`{argument}` is not the address of a PostgreSQL server");
                return Err(Error::new(Kind::Usage, message)
                    .hint("write: lifeboat backup --physical postgresql://HOST/"));
            }
        });
    }
    Ok(targets)
}

/// The cluster at an address: the configured one, else one that nobody configured.
pub(crate) fn at_address(config: &Config, argument: &str) -> Result<Target> {
    let cluster = Cluster::at(postgres::typed(argument)?);
    let location = cluster.location();
    for (name, source) in &config.source {
        let Ok(targets) = Target::configured(name, source) else { continue };
        let is_it = |target: &Target| {
            target.cluster.as_ref().is_some_and(|cluster| cluster.location() == location)
        };
        if let Some(target) = targets.into_iter().find(is_it) {
            return Ok(target);
        }
    }
    let name = name_of(cluster.database.address());
    Ok(Target::of_cluster(name, cluster))
}

/// The name of a cluster that nobody configured: that of its host, where it has one.
fn name_of(address: &Address) -> String {
    let host = address.get("host").or(address.get("service")).unwrap_or_default();
    let local = host.is_empty() || host.starts_with('/') || host == "localhost";
    let mut name = String::from("cluster");
    for part in [host].into_iter().filter(|_| !local).chain(address.get("port")) {
        name.push_str(&format!("-{part}"));
    }
    names::source_name(&name)
}
