//! From SQLite to PostgreSQL, verified to the last value.
//!
//! A migration reads one moment of a database. First everything is read once and nothing is loaded:
//! which types the columns get is decided by their values ([`plan()`]). Then the rows are loaded
//! into a schema of their own, keys and indexes follow, all of it is read back and compared, and it
//! takes its place at the end.

mod binary;
mod compare;
mod decide;
mod digest;
mod document;
mod expression;
mod function;
mod ids;
mod keys;
mod layout;
mod load;
mod mapping;
mod names;
mod orphans;
mod plan;
mod profile;
mod read;
mod rejects;
mod report;
mod routine;
mod scan;
mod schema;
mod server;
mod statements;
mod swap;
mod target;
mod time;
mod verify;
mod view;
mod work;

use lifeboat_sqlite::token;

pub use decide::Misfits;
pub use document::Facts;
pub use load::{LoadOptions, load};
pub use mapping::{Mapping, Orphans};
pub use names::NameStyle;
pub use plan::{Options, Plan, plan};
pub use report::{Done, TableDone, TableVerified, Times, Verified};
pub use verify::{is_finished, verify};
