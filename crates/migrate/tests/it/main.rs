//! Migrations of real databases to real servers.

#![allow(clippy::disallowed_methods, reason = "tests run on the real clock")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod faults;
mod random;
mod resume;
mod schema;
mod silent_failures;
mod support;
mod traps;
mod values;
