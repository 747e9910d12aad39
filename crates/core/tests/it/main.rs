//! Core's own tests over a store in memory and real files.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the injected world")]
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]
#![allow(missing_docs)]

mod logs;
mod looks;
mod pipeline;
mod policy;
mod prune;
mod sealed;
mod world;
