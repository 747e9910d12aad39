//! Seeded simulation of the runs of core: the same code, in a world that fails.
//!
//! A seed decides a history: what is written to a real SQLite database, when it is backed up, and
//! what the repository's store, the clock and the power do meanwhile. [`history::run`] plays it
//! and holds every result against a model that knows what each backup must contain. A seed that
//! breaks a promise is printed, and plays the same way again. [`rotation::run`] plays another kind:
//! years of backups in several repositories, and what prunes make of them. [`hosts::run`] lets
//! several hosts prune one repository, and sleep in between. [`pagelog::run`] plays logs that grow
//! behind a database, and are thinned out. [`places::run`] backs up to several repositories at
//! once, of which some fail, and copies between them.
//!
//! Simulated are the store, the clock, randomness and the crash points. The database, the file
//! system of a restore and the threads of the pipeline are real; what real kills do is tested
//! with the real program.

pub mod clock;
pub mod crash;
pub mod history;
pub mod hosts;
mod model;
pub mod pagelog;
pub mod places;
pub mod rotation;
pub mod store;

pub use history::{Report, run};
