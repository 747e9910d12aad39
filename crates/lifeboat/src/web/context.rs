//! What a screen gets: what was read, who looks, and what was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::look::Look;
use crate::ui::units;

/// What a screen gets.
pub(crate) struct Ctx {
    /// What was read.
    pub(crate) look: Arc<Look>,
    /// The moment of the drawing, from which ages are counted.
    pub(crate) now: Timestamp,
    /// The path that was asked for.
    pub(crate) path: String,
    /// What stands in the path for `{name}`, and behind its `?`.
    pub(crate) given: BTreeMap<String, String>,
}

impl Ctx {
    /// What was given under that name, if it is not empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A moment in the zone of the host.
    pub(crate) fn moment(&self, at: Timestamp) -> String {
        units::moment(at, &self.look.zone)
    }

    /// How long ago a moment is.
    pub(crate) fn age(&self, at: Timestamp) -> String {
        units::age(at, self.now)
    }
}
