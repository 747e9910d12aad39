//! The way back of a physical backup: tar streams become a data directory, and a data directory
//! becomes a cluster at a moment.

pub mod assemble;
pub mod check;
pub mod increment;
pub mod log_state;
pub mod mark;
pub mod member;
pub mod pages;
mod parts;
pub mod plan;
pub mod recover;
mod reopen;
pub mod restore;
pub mod reuse;
pub mod scan;
pub mod serve;
pub mod server;
pub mod settings;
pub mod tar_stream;
pub mod target;
pub mod undo;
pub mod write;

pub use reopen::open_again;
