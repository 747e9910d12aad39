//! The heart of Lifeboat: words as types, the byte pipeline, the repository, and the runs.
//!
//! Core prints nothing, reads no environment and knows no database: engines and stores come in
//! through the traits of [`source`] and [`store`], time and randomness through [`mod@env`].
//! No module imports one that is listed after it.

// The order of these lines is the order of the house: `cargo xtask tidy` reads it.

pub mod error;
pub mod secret;
pub mod event;
pub mod stop;
pub mod env;
pub mod retry;
pub mod manifest;
pub mod policy;
pub mod marks;
pub mod moment;
pub mod names;
pub mod glob;
pub mod coverage;
pub mod catalog;
pub mod source;
pub mod store;
pub mod seal;
pub mod parallel;
pub mod cache;
pub mod diff;
pub mod owner;
pub mod files;
pub mod service;
pub mod pipeline;
pub mod repository;
pub mod log;
pub mod rested;
pub mod lease;
pub mod retention;
pub mod scratch;
pub mod backup;
pub mod prune;
pub mod copy;
pub mod verify;
pub mod restore;
pub mod drill;
pub mod guard;
pub mod status;
pub mod adopt;

pub use error::{Error, Kind, Result};
