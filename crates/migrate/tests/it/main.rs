//! Migrations of real databases to real servers.

mod faults;
mod random;
mod resume;
mod schema;
mod silent_failures;
mod support;
mod values;
