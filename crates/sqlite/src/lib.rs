//! Placeholder.
pub mod sample;
