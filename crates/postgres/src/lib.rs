//! Everything about PostgreSQL: where a server is, the client programs that fit it, dumps that are
//! read while they go by, and restores that never touch what is there.
//!
//! All talk with a server goes through PostgreSQL's own client programs: `psql` for questions,
//! `pg_dump`, `pg_dumpall` and `pg_restore` for the data. They are needed anyway, they read service
//! files, password files, certificates and sockets exactly as an administrator expects, and they
//! work behind a prefix such as `docker exec`. A second client library in the process would do each
//! of these a little differently.

mod address;
mod archive;
mod capture;
mod child;
mod client;
mod cluster;
mod engine;
pub mod control;
mod copy_text;
mod diff;
mod facts;
mod failure;
mod leash;
mod mend;
mod moment;
pub mod page;
pub mod physical;
mod put_rows;
mod question;
mod quote;
pub mod recovery;
mod rehearse;
pub mod replication;
pub mod restore;
mod rights;
pub mod salvage;
mod script;
pub mod server_manifest;
mod session;
mod source;
pub mod wal;

pub use address::Address;
pub use archive::ArchiveReader;
pub use client::{Client, ClientOptions, Program};
pub use cluster::{Maker, ThrowAwayCluster};
pub use diff::compare;
pub use engine::PostgresEngine;
pub use facts::ServerFacts;
pub use lifeboat_core::secret::Secret;
pub use moment::MomentGroup;
pub use physical::{CLUSTER_KIND, ClusterEngine, ClusterSource, PhysicalOptions};
pub use put_rows::{plan_rows, put_rows};
pub use question::{first_value, is_true, rows_of_tables, schema_version};
pub use quote::{identifier, literal};
pub use rehearse::{LoadedDump, Loading, load};
pub use rights::Rights;
pub use script::ScriptReader;
pub use session::Session;
pub use source::{DumpFormat, KIND, PostgresSource, Selection};
