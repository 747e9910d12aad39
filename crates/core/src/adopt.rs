//! Adopting: files that other programs' scripts made become backups like our own.
//!
//! A file is found by its name ([`survey()`]), its moment is decided ([`decide`]), its source is
//! found ([`candidates`]), it is looked into ([`look()`]), and then an [`Adoption`] stores it:
//! compressed files byte for byte, plain ones compressed. As with every backup the artifact is read
//! back before the manifest is written.
//!
//! Nothing of the original is changed. Where it is asked for, each original goes after its backup
//! was read back, one after the other, so that there is never more than one file twice.

mod names;
mod time;
mod belongs;
mod survey;
mod writers;
mod look;
mod store;

pub use belongs::{KnownSource, candidates};
pub use look::{Because, Candidate, Known, KnownBackup, Look, LookOptions, Sound, look};
pub use names::{Content, Occasion, ScriptName, read as read_name};
pub use store::{AdoptRequest, Adoption, Outcome, Removal};
pub use survey::{Seen, Stat, survey};
pub use time::{Decided, decide};
