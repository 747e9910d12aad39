//! What a store is opened with beside its URL.

use std::path::PathBuf;

/// Everything that may be said of a place. What a kind of store does not know it ignores; the
/// configuration refuses it before.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration of `ssh` that is used instead of the user's.
    pub ssh_config: Option<PathBuf>,
}
