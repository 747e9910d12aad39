//! A PostgreSQL cluster as a source: all its databases, as files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Method;
use lifeboat_core::source::{Capture, CaptureOptions, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};

use super::capture::ClusterCapture;
use super::facts::ClusterFacts;
use super::parent::Parent;
use crate::client::Client;
use crate::replication::{Checkpoint, ReplicationConnection};

/// The kind of these sources.
pub const CLUSTER_KIND: &str = "postgres-cluster";

/// How a cluster is backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PhysicalOptions {
    /// How the checkpoint before a backup is made.
    pub checkpoint: Checkpoint,
    /// The most that the server sends, in bytes a second.
    pub max_rate_bytes: Option<u64>,
    /// Where hashes of blocks are kept while a backup is made; `None` for `/var/tmp`.
    pub scratch_folder: Option<PathBuf>,
}

impl PhysicalOptions {
    pub(super) fn scratch_folder(&self) -> &Path {
        self.scratch_folder.as_deref().unwrap_or(Path::new("/var/tmp"))
    }
}

/// A cluster.
pub struct ClusterSource {
    /// How its server is reached.
    pub client: Client,
    /// How it is backed up.
    pub options: PhysicalOptions,
    /// The world in which it is looked at without a run.
    looking: Env,
    parent: Mutex<Option<Arc<Parent>>>,
}

impl ClusterSource {
    /// A cluster as a source. `looking` is the world in which it is looked at without a run.
    pub fn new(client: Client, options: PhysicalOptions, looking: Env) -> Self {
        ClusterSource { client, options, looking, parent: Mutex::new(None) }
    }

    /// The next backups hold only what changed since that one.
    pub fn build_on(&self, parent: Option<Parent>) {
        *self.parent.lock().unwrap_or_else(PoisonError::into_inner) = parent.map(Arc::new);
    }

    pub(super) fn parent(&self) -> Option<Arc<Parent>> {
        self.parent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is tried, for errors.
    pub(super) fn attempt(&self) -> String {
        format!("cannot read the PostgreSQL cluster {}", location_of(&self.client))
    }

    pub(super) fn connect(&self, env: &Env) -> Result<ReplicationConnection> {
        ReplicationConnection::open(env, &self.client, &self.attempt())
    }
}

/// Where a cluster is: its server, whatever the database that the address names.
fn location_of(client: &Client) -> String {
    client.address().clone().with_database("").label()
}

impl Source for ClusterSource {
    fn kind(&self) -> &'static str {
        CLUSTER_KIND
    }

    fn location(&self) -> Result<String> {
        Ok(location_of(&self.client))
    }

    fn inspect(&self) -> Result<Inspection> {
        let mut connection = self.connect(&self.looking)?;
        let facts = ClusterFacts::read(&mut connection, &self.attempt())?;
        Ok(Inspection {
            // Only the backup itself says how large it is.
            plain_bytes: 0,
            description: format!(
                "PostgreSQL {}, the whole cluster {}",
                facts.version, facts.identity.system_identifier
            ),
        })
    }

    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        if options.method != Method::Online {
            let message = format!(
                "{} is backed up while it runs: the other methods are for files",
                self.location()?
            );
            return Err(Error::new(Kind::Usage, message)
                .hint("leave `method` away, or write method = \"online\""));
        }
        Ok(Box::new(ClusterCapture::begin(env, self, options)?))
    }
}
