//! Damaged databases that the tests make themselves, salvaged and compared with the truth.
// The clock is real; a test that cannot go on panics.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod fuzz;
mod kinds;
mod names;
mod proved;
mod random;
mod stand_in;
mod structure;
mod world;
