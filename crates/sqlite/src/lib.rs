//! Everything about SQLite files: moments of a live database, checks, facts.
//!
//! [`SqliteSource`] captures a database while its application writes to it. [`SqliteEngine`]
//! checks files and finds who has them open. Neither ever writes to a database, but for the
//! checkpoint that the method of that name is asked to make.
//!
//! What is particular to SQLite is told where it is handled: `snapshot` holds a moment,
//! `held` keeps locks from being dropped, `rows` counts while bytes go by, `check` judges.

mod capture;
mod check;
mod checkpoint;
mod constraints;
mod diff;
mod engine;
mod facts;
mod ffi;
mod glance;
mod header;
mod held;
mod holders;
mod lease;
pub mod litestream;
mod lock_proof;
mod moment;
pub mod pagelog;
mod pinned_check;
mod probe;
mod put_rows;
mod rows;
pub mod sample;
mod schema;
mod snapshot;
mod source;
mod table;
pub mod token;
mod wal_copy;
mod wal_place;

pub use self::diff::compare;
pub use self::engine::SqliteEngine;
pub use self::facts::VERSION_TABLES;
pub use self::glance::{Glance, glance};
pub use self::moment::{Moment, MomentReader};
pub use self::probe::{Applied, Probe};
pub use self::put_rows::{copy_aside, plan_rows, put_rows};
pub use self::source::SqliteSource;
pub use self::wal_copy::WalCopy;
pub use self::wal_place::WalPlace;

/// The kind of source that this crate knows.
pub const KIND: &str = "sqlite";
