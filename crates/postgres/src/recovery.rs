//! The way back of a physical backup: tar streams become a data directory, and a data directory
//! becomes a cluster at a moment.

pub mod increment;
pub mod member;
pub mod pages;
pub mod scan;
pub mod tar_stream;
