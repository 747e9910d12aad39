//! Physical backups: a whole cluster as the server sends it, read while it goes by.

mod capture;
mod damage;
mod engine;
mod facts;
pub(crate) mod page_hashes;
mod parent;
mod relations;
mod rewrite;
mod source;
mod watch;

pub(crate) use damage::{PageName, lines};
pub use engine::ClusterEngine;
pub use parent::Parent;
pub(crate) use relations::names;
pub use source::{CLUSTER_KIND, ClusterSource, PhysicalOptions};

/// The main data directory, as a tar archive.
pub const ROLE_BASE: &str = "base";
/// A tablespace, as a tar archive; its name ends with `ts-OID.tar`.
pub const ROLE_TABLESPACE: &str = "tablespace";
/// The server's own manifest of the backup, as it wrote it.
pub const ROLE_SERVER_MANIFEST: &str = "backup-manifest";
/// The hashes of its blocks, with which the next backup is compared.
pub const ROLE_HASHES: &str = "page-hashes";
