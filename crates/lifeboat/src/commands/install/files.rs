//! The plan of an installation: which files are written, which are removed, which stay.
//!
//! Our files begin with a line of ours. Another file under one of our names ends the run before
//! anything was changed; files under other names are not even looked at.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::config::diagnose::shown;

/// The first line of each file that is ours.
pub(crate) const MARK: &str = "# Written by `lifeboat install`: do not edit, run it again.";

/// What is done with one file.
#[derive(Debug)]
enum Change {
    Write { name: String, text: String, is_new: bool },
    Keep { name: String, text: String },
    Remove { name: String },
}

impl Change {
    fn name(&self) -> &str {
        match self {
            Change::Write { name, .. } | Change::Keep { name, .. } | Change::Remove { name } => {
                name
            }
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Change::Write { is_new: true, .. } => "write",
            Change::Write { .. } => "replace",
            Change::Keep { .. } => "keep",
            Change::Remove { .. } => "remove",
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Change::Write { text, .. } | Change::Keep { text, .. } => Some(text),
            Change::Remove { .. } => None,
        }
    }
}

/// What is done in one folder.
#[derive(Debug)]
pub(crate) struct Plan {
    folder: PathBuf,
    changes: Vec<Change>,
    made: Vec<PathBuf>,
}

impl Plan {
    /// What turns the folder into one with just these files of ours: names and texts.
    pub(crate) fn of(
        folder: &Path,
        wanted: Vec<(String, String)>,
        is_our_name: impl Fn(&str) -> bool,
    ) -> Result<Plan> {
        let mut changes = Vec::new();
        for name in names(folder)? {
            let is_wanted = wanted.iter().any(|(wanted, _)| *wanted == name);
            if is_our_name(&name) && !is_wanted && ours(&folder.join(&name))?.is_some() {
                changes.push(Change::Remove { name });
            }
        }
        for (name, text) in wanted {
            let path = folder.join(&name);
            let text = format!("{MARK}\n{text}");
            let change = match (fs::symlink_metadata(&path), ours(&path)?) {
                (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
                    Change::Write { name, text, is_new: true }
                }
                (Err(error), _) => return Err(failed("look at", &path, error)),
                (Ok(_), Some(before)) if before == text => Change::Keep { name, text },
                (Ok(_), Some(_)) => Change::Write { name, text, is_new: false },
                (Ok(_), None) => {
                    let message = format!("{} is not a file of ours", shown(&path));
                    return Err(Error::new(Kind::Refused, message)
                        .hint("move it away: a file that lifeboat did not write is not touched"));
                }
            };
            changes.push(change);
        }
        Ok(Plan { folder: folder.to_owned(), changes, made: Vec::new() })
    }

    /// The same, with folders that runs write to and that do not exist yet.
    pub(crate) fn making(mut self, mut folders: Vec<PathBuf>) -> Plan {
        folders.sort();
        folders.dedup();
        self.made = folders;
        self
    }

    /// Where the files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The names of all files that are there afterwards.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let stays = self.changes.iter().filter(|change| change.text().is_some());
        stays.map(|change| change.name().to_owned())
    }

    /// The names of all files that go.
    pub(crate) fn removed(&self) -> impl Iterator<Item = String> {
        let gone = self.changes.iter().filter(|change| change.text().is_none());
        gone.map(|change| change.name().to_owned())
    }

    /// Whether all is as it should be.
    pub(crate) fn is_done(&self) -> bool {
        self.made.is_empty()
            && self.changes.iter().all(|change| matches!(change, Change::Keep { .. }))
    }

    /// What is done, a line for each step.
    pub(crate) fn steps(&self) -> Vec<String> {
        let made = self.made.iter().map(|folder| format!("make the folder {}", shown(folder)));
        let changes = self.changes.iter().map(|change| {
            let path = self.folder.join(change.name());
            format!("{} {}", change.verb(), shown(&path))
        });
        made.chain(changes).collect()
    }

    /// The steps, each file with its text.
    pub(crate) fn as_text(&self) -> String {
        let mut text = String::new();
        for folder in &self.made {
            text.push_str(&format!("==> make the folder {}\n\n", shown(folder)));
        }
        for change in &self.changes {
            let path = self.folder.join(change.name());
            text.push_str(&format!("==> {} {}\n", change.verb(), shown(&path)));
            text.push_str(change.text().unwrap_or_default());
            text.push('\n');
        }
        text
    }

    /// The same for programs.
    pub(crate) fn as_json(&self, outcome: &str) -> Value {
        let file = |change: &Change| {
            let path = self.folder.join(change.name());
            json!({ "path": path, "action": change.verb(), "text": change.text() })
        };
        let files: Vec<Value> = self.changes.iter().map(file).collect();
        json!({ "outcome": outcome, "folders": self.made, "files": files })
    }

    /// Does it. Each file is whole or not there at any moment.
    pub(crate) fn apply(&self) -> Result<()> {
        for folder in &self.made {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failed("make the folder", folder, error))?;
        }
        fs::create_dir_all(&self.folder)
            .map_err(|error| failed("make the folder", &self.folder, error))?;
        for change in &self.changes {
            let path = self.folder.join(change.name());
            match change {
                Change::Keep { .. } => {}
                Change::Write { text, .. } => write(&path, text)?,
                Change::Remove { .. } => {
                    fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
                }
            }
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read the folder", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("read the folder", folder, error))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// The text of a file of ours; `None` where it is none, or not a file.
fn ours(path: &Path) -> Result<Option<String>> {
    const BYTES_MAX: u64 = 1 << 20;
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| failed("read", path, error))?;
    let text = String::from_utf8(bytes).ok();
    Ok(text.filter(|text| text.lines().next() == Some(MARK)))
}

/// Under a name that neither systemd nor cron reads, then renamed.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    let part = path.with_file_name(name);
    let written = || -> io::Result<()> {
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    written().map_err(|error| failed("write", path, error))
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = Error::io(Kind::Failed, format!("cannot {verb} {}", shown(path)), error);
    match denied {
        true => error.hint("run it as root, or give --user"),
        false => error,
    }
}
