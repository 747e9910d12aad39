//! A client of PostgreSQL's replication protocol: base backups, the stream of the write-ahead log,
//! and the commands around them, on versions 13 and newer; and, with the same first words, sessions
//! that load the rows of tables.
//!
//! `psql` and its relatives cannot do this. One connection, one thread, no runtime: each wait is
//! short and asks [`lifeboat_core::env::Env::proceed`], so that a run can end at any time.

mod base_backup;
mod connection;
mod copy_both;
mod copy_in;
mod copy_out;
mod lsn;
mod parameters;
mod passfile;
mod startup;
mod tls;
mod wire;

pub use base_backup::{
    BackupEnd, BackupStart, BaseBackup, BaseBackupOptions, Checkpoint, Piece, Tablespace,
};
pub(crate) use connection::ServerMessage;
pub use connection::{ReplicationConnection, SlotState, SystemIdentity};
pub use copy_both::{ReplicationEnd, WalMessage};
pub use copy_in::{CopyIn, LoadingConnection};
pub use copy_out::CopyOut;
pub use lsn::Lsn;
pub use parameters::{TlsServer, TlsUse};
