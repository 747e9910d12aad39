//! Who did what: a line of JSON for each, in a private file of the state folder.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::sessions::Who;
use crate::ui::units;

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

/// What was written down, the oldest first. A line that a full disk cut off is left out.
pub(crate) fn read(folder: &Path) -> std::io::Result<Vec<Value>> {
    let mut lines = Vec::new();
    for name in ["audit.log.1", "audit.log"] {
        let text = match fs::read_to_string(folder.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        lines.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
    }
    Ok(lines)
}

/// A deed for people: when, who, from where, what, to what, and how it went.
pub(crate) fn in_words(deed: &Value) -> String {
    let part = |name: &str| units::one_line(deed[name].as_str().unwrap_or_default());
    let who = if deed["who"].is_null() { "nobody".to_owned() } else { part("who") };
    let detail = match part("detail") {
        detail if detail.is_empty() => detail,
        detail => format!(" {detail}"),
    };
    let (at, from, action, outcome) = (part("at"), part("from"), part("action"), part("outcome"));
    format!("{at} {who} ({from}): {action}{detail}: {outcome}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_are_read_back_in_words_and_no_name_breaks_a_line() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let deed =
            Deed { who: None, from: "::1", action: "enter", detail: "a\nb", outcome: "refused" };
        note(folder.path(), at, &deed).unwrap();
        fs::copy(folder.path().join("audit.log"), folder.path().join("audit.log.1")).unwrap();
        fs::write(folder.path().join("audit.log"), "{\"at\":\"cut o").unwrap();
        let lines = read(folder.path()).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(in_words(&lines[0]), "2026-01-02T03:04:05Z nobody (::1): enter a\\nb: refused");
    }
}
