//! The guard: a backup that a migration can be rolled back to, and what is remembered of it.
//!
//! What runs the command is not here. Here are the copy that lies beside a database under a name
//! which says its version (`beside`), the rule by which such copies go (`rotation`), and the
//! objects that say in a repository what was begun behind a backup and how that ended (`notes`).

mod beside;
mod notes;
mod rotation;

pub use beside::{Beside, BesideRequest, copy_beside};
pub use notes::{begin, end};
pub use rotation::{Rotated, due, rotate};
