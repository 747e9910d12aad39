//! Who did what: a line of JSON for each, in a private file of the state folder.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::sessions::Who;

/// Beyond that it begins anew, and the one before is kept.
const BYTES_MAX: u64 = 16 << 20;

/// Something that was done, or was refused.
pub(crate) struct Deed<'a> {
    /// Who did it, where that is known.
    pub(crate) who: Option<&'a Who>,
    /// From which address.
    pub(crate) from: &'a str,
    /// What: "restore".
    pub(crate) action: &'a str,
    /// To what.
    pub(crate) detail: &'a str,
    /// "done", or why not.
    pub(crate) outcome: &'a str,
}

/// Writes it down. What cannot be written down is not to be done: the caller heeds it.
pub(crate) fn note(folder: &Path, at: Timestamp, deed: &Deed<'_>) -> std::io::Result<()> {
    let path = folder.join("audit.log");
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if fs::metadata(&path).is_ok_and(|found| found.len() > BYTES_MAX) {
        fs::rename(&path, folder.join("audit.log.1"))?;
    }
    let mut line = json!({
        "at": at,
        "who": deed.who.map(|who| &who.name),
        "role": deed.who.map(|who| who.role),
        "from": deed.from,
        "action": deed.action,
        "detail": deed.detail,
        "outcome": deed.outcome,
    })
    .to_string();
    line.push('\n');
    // One write, so that lines of two processes do not mix.
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    file.write_all(line.as_bytes())?;
    file.sync_data()
}
