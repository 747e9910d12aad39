//! What the tests of several crates share. No part of the program: only `[dev-dependencies]` name
//! it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests take the time and the environment as they are, and a failure is a panic"
)]

mod executable;
#[cfg(test)]
mod forks;
mod place;
mod port;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
pub mod template;
mod world;

pub use executable::{copied_program, executable};
pub use place::{installed, is_root, skipped};
pub use port::free_port;
pub use world::{SystemClock, env, is_long};
