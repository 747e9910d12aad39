//! Core's own tests over a store in memory and real files.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the injected world")]
#![allow(missing_docs)]

mod pipeline;
mod world;
