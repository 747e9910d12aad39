//! Files as a source: a tar stream with mode, owner, times and links.
//!
//! Used for companion files of a database and for sources of kind `files`. Folders are taken with
//! all that is in them; what is neither file, folder nor symbolic link is left out with a warning.
//!
//! Logs are written, rotated and emptied while they are read. `archive` holds all files from one
//! moment on: of each, what it held then is stored, whatever its name is by then.

mod archive;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::glob;
use crate::manifest::{CheckLevel, CheckOutcome};
use crate::source::{Capture, CaptureOptions, CheckReport, Engine, Holder, Inspection, Source};

use archive::FilesCapture;

/// The kind of this source.
pub const KIND: &str = "files";

/// The role of the artifact, also beside a database.
pub const ROLE: &str = "files";

/// One path to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Absolute path of a file or folder, or a pattern.
    pub path: PathBuf,
    /// Whether it is a pattern: `*` and `?` within a name.
    pub is_glob: bool,
    /// Whether it may be missing, or match nothing.
    pub optional: bool,
}

/// A set of files.
#[derive(Clone, Debug)]
pub struct FilesSource {
    entries: Vec<FileEntry>,
    left_out: Vec<PathBuf>,
}

/// What is found when the set is walked.
struct Found {
    path: PathBuf,
    metadata: fs::Metadata,
}

impl FilesSource {
    /// A set of paths, made absolute.
    pub fn new(entries: Vec<FileEntry>) -> Result<Self> {
        let absolute = |entry: FileEntry| {
            let path = std::path::absolute(&entry.path).map_err(|error| {
                let message = format!("cannot use the path {}", entry.path.display());
                Error::io(Kind::Usage, message, error)
            })?;
            Ok(FileEntry { path, ..entry })
        };
        let entries = entries.into_iter().map(absolute).collect::<Result<_>>()?;
        Ok(FilesSource { entries, left_out: Vec::new() })
    }

    /// The same set without some files, whatever their names in it: a database that is backed up
    /// beside it is not copied as a file too. Opening and closing it would even drop the locks
    /// under which it is read.
    #[must_use]
    pub fn without(&self, left_out: Vec<PathBuf>) -> Self {
        FilesSource { entries: self.entries.clone(), left_out }
    }

    /// Walks the set in a fixed order. A missing path is an error unless it is optional.
    fn walk(&self, warnings: &mut Vec<String>) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in &self.entries {
            if entry.is_glob {
                walk_glob(entry, &mut found, warnings)?;
                continue;
            }
            match fs::symlink_metadata(&entry.path) {
                Ok(metadata) => walk_into(entry.path.clone(), metadata, &mut found, warnings)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound && entry.optional => {}
                Err(error) => {
                    return Err(unreadable(&entry.path, error).hint(
                        "mend the path in the configuration, or mark it as `optional = true`",
                    ));
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let left_out: Vec<_> =
            self.left_out.iter().filter_map(|path| fs::metadata(path).ok()).collect();
        found
            .retain(|found| !left_out.iter().any(|out| identity(out) == identity(&found.metadata)));
        if found.is_empty() {
            return Err(Error::new(Kind::SourceUnavailable, "none of the files exists"));
        }
        Ok(found)
    }

    /// Digest of paths, modes, owners and contents: equal exactly when a backup would hold the
    /// same. Times are left out: a file that was only touched is no change.
    pub fn digest(&self) -> Result<String> {
        let mut digest = Digest::default();
        for found in self.walk(&mut Vec::new())? {
            if !found.metadata.is_file() {
                digest.entry(&found.path, &found.metadata)?;
                continue;
            }
            let file = match archive::open(&found.path) {
                Ok(file) => file,
                // Gone since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(&found.path, error)),
            };
            digest.entry(&found.path, &found.metadata)?;
            let mut content = blake3::Hasher::new();
            content.update_reader(file).map_err(|error| unreadable(&found.path, error))?;
            digest.content(&content);
        }
        Ok(digest.finish())
    }
}

/// What a digest of the content is made of, in the order of the walk.
#[derive(Default)]
struct Digest {
    hasher: blake3::Hasher,
}

impl Digest {
    /// A file, a folder, or a link with its target.
    fn entry(&mut self, path: &Path, metadata: &fs::Metadata) -> Result<()> {
        let name = path.as_os_str().as_bytes();
        self.hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
        for fact in [metadata.mode(), metadata.uid(), metadata.gid()] {
            self.hasher.update(&fact.to_le_bytes());
        }
        if metadata.is_symlink() {
            let target = fs::read_link(path).map_err(|error| unreadable(path, error))?;
            self.hasher.update(target.as_os_str().as_bytes());
        }
        Ok(())
    }

    /// The content of the file that was the last entry.
    fn content(&mut self, content: &blake3::Hasher) {
        self.hasher.update(content.finalize().as_bytes());
    }

    fn finish(self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

fn walk_glob(entry: &FileEntry, found: &mut Vec<Found>, warnings: &mut Vec<String>) -> Result<()> {
    let shown = entry.path.display();
    let pattern = entry
        .path
        .to_str()
        .ok_or_else(|| Error::new(Kind::Usage, format!("the pattern {shown} is not UTF-8")))?;
    let matches = glob::find(pattern)?;
    if matches.is_empty() && !entry.optional {
        let message = format!("the pattern {shown} matches no file");
        return Err(Error::new(Kind::SourceUnavailable, message)
            .hint("mend the pattern in the configuration, or mark it as `optional = true`"));
    }
    for one in matches {
        match fs::symlink_metadata(&one.path) {
            Ok(metadata) => walk_into(one.path, metadata, found, warnings)?,
            // Rotated away since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&one.path, error)),
        }
    }
    Ok(())
}

fn walk_into(
    path: PathBuf,
    metadata: fs::Metadata,
    found: &mut Vec<Found>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let kind = metadata.file_type();
    if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
        let path = path.display();
        warnings.push(format!("{path} is neither file, folder nor link: left out"));
        return Ok(());
    }
    if kind.is_dir() {
        for entry in fs::read_dir(&path).map_err(|error| unreadable(&path, error))? {
            let path = entry.map_err(|error| unreadable(&path, error))?.path();
            match fs::symlink_metadata(&path) {
                Ok(metadata) => walk_into(path, metadata, found, warnings)?,
                // Gone since the folder was listed: logs rotate.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&path, error)),
            }
        }
    }
    found.push(Found { path, metadata });
    Ok(())
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
}

impl Source for FilesSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn location(&self) -> Result<String> {
        let paths: Vec<_> =
            self.entries.iter().map(|entry| entry.path.display().to_string()).collect();
        Ok(paths.join(":"))
    }

    fn inspect(&self) -> Result<Inspection> {
        let found = self.walk(&mut Vec::new())?;
        let files = found.iter().filter(|found| found.metadata.is_file());
        let plain_bytes = files.clone().map(|found| found.metadata.len() + 1024).sum::<u64>();
        Ok(Inspection { plain_bytes, description: format!("{} files", files.count()) })
    }

    fn content_digest(&self) -> Result<Option<String>> {
        self.digest().map(Some)
    }

    fn capture<'a>(
        &'a self,
        _env: &'a Env,
        _options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        Ok(Box::new(FilesCapture::begin(self)?))
    }
}

/// The engine of files: nothing to check but that the archive is whole.
pub struct FilesEngine;

impl Engine for FilesEngine {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn recognizes(&self, _first_bytes: &[u8]) -> bool {
        false
    }

    fn check_file(
        &self,
        env: &Env,
        path: &Path,
        level: CheckLevel,
        _memory_bytes: u64,
    ) -> Result<CheckReport> {
        let begun_ms = env.clock.monotonic_ms();
        let damage = match read_whole(path) {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("the archive cannot be read: {error}")],
        };
        Ok(CheckReport {
            level,
            outcome: match damage.is_empty() {
                true => CheckOutcome::Passed,
                false => CheckOutcome::Failed,
            },
            what: vec!["archive".into()],
            damage,
            notes: Vec::new(),
            rows: None,
            elapsed_ms: env.elapsed_ms(begun_ms),
        })
    }

    fn side_files(&self, _path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn holders(&self, _path: &Path) -> Result<Vec<Holder>> {
        Ok(Vec::new())
    }
}

fn read_whole(path: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(File::open(path)?);
    for entry in archive.entries()? {
        io::copy(&mut entry?, &mut io::sink())?;
    }
    Ok(())
}
