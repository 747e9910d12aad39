//! Configuration: where it is found, how it is read, what it says, and where each value is from.
//!
//! `model` is what can be said, `values` the small languages in it, `load` finds and reads the
//! files, `environment` makes one of variables where there is no file, `dotenv` reads them out
//! of a `.env`, `diagnose` points at
//! mistakes, `validate` checks what no type can, `schedule` says when a source is backed up
//! (`calendar` reads what systemd has, `moments` knows the clocks),
//! `keys` to whom backups are sealed and what opens them, `repository` where backups live,
//! `runs` how (hooks, retries, overlap), `trust` who else can write what is run, `postgres` where
//! a server is and what of it is dumped,
//! `agent` what the long-running process does, `example` writes the example and the reference from
//! the doc comments, `origin` shows what is in force.

pub(crate) mod diagnose;
pub(crate) mod agent;
pub(crate) mod application;
pub(crate) mod calendar;
pub(crate) mod dotenv;
pub(crate) mod drill;
pub(crate) mod environment;
pub(crate) mod example;
pub(crate) mod keys;
pub(crate) mod listen;
pub(crate) mod load;
pub(crate) mod model;
mod moments;
pub(crate) mod notify;
pub(crate) mod origin;
pub(crate) mod postgres;
pub(crate) mod repository;
pub(crate) mod runs;
pub(crate) mod schedule;
pub(crate) mod trust;
pub(crate) mod validate;
pub(crate) mod values;

pub(crate) use load::{Loaded, load};
pub(crate) use model::{Config, SourceConfig};
