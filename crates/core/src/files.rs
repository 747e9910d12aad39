//! Files as a source: a tar stream with mode, owner, times and links.
//!
//! Used for companion files of a database and for sources of kind `files`. Folders are taken with
//! all that is in them; what is neither file, folder nor symbolic link is left out with a warning.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::{CheckLevel, CheckOutcome};
use crate::owner;
use crate::source::{
    ArtifactPlan, Capture, CaptureOptions, CaptureReport, CheckReport, Engine, Holder, Inspection,
    Sink, Source,
};

/// The kind of this source.
pub const KIND: &str = "files";

/// The role of the artifact, also beside a database.
pub const ROLE: &str = "files";

/// One path to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Absolute path of a file or folder.
    pub path: PathBuf,
    /// Whether it may be missing.
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
        let mut hasher = blake3::Hasher::new();
        for found in self.walk(&mut Vec::new())? {
            let path = found.path.as_os_str().as_bytes();
            hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
            for fact in [found.metadata.mode(), found.metadata.uid(), found.metadata.gid()] {
                hasher.update(&fact.to_le_bytes());
            }
            if found.metadata.is_file() {
                let file = File::open(&found.path).map_err(|e| unreadable(&found.path, e))?;
                let mut content = blake3::Hasher::new();
                content.update_reader(file).map_err(|error| unreadable(&found.path, error))?;
                hasher.update(content.finalize().as_bytes());
            } else if found.metadata.is_symlink() {
                let target = fs::read_link(&found.path).map_err(|e| unreadable(&found.path, e))?;
                hasher.update(target.as_os_str().as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
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
        let mut warnings = Vec::new();
        let found = self.walk(&mut warnings)?;
        Ok(Box::new(FilesCapture { source: self, found, warnings }))
    }
}

struct FilesCapture<'a> {
    source: &'a FilesSource,
    found: Vec<Found>,
    warnings: Vec<String>,
}

impl Capture for FilesCapture<'_> {
    fn artifacts(&self) -> Vec<ArtifactPlan> {
        let size = |found: &Found| if found.metadata.is_file() { found.metadata.len() } else { 0 };
        vec![ArtifactPlan {
            role: ROLE,
            extension: "files.tar",
            plain_bytes_estimate: self.found.iter().map(|found| size(found) + 1024).sum(),
            block_bytes: None,
            observer: None,
            file: None,
        }]
    }

    fn write(&mut self, _index: usize, sink: &mut dyn Sink) -> Result<()> {
        let mut builder = Builder::new(SinkWriter { sink, failed: None });
        builder.follow_symlinks(false);
        let mut outcome = Ok(());
        for found in &self.found {
            outcome = append(&mut builder, found);
            if outcome.is_err() {
                break;
            }
        }
        let finished = outcome.and_then(|()| {
            let finished = builder.finish();
            finished.map_err(|error| Error::io(Kind::Failed, "cannot write the archive", error))
        });
        // The sink's own error says more than the I/O error that tar made of it.
        match builder.get_mut().failed.take() {
            Some(error) => Err(error),
            None => finished,
        }
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        let mut facts = serde_json::Map::new();
        let files = self.found.iter().filter(|found| found.metadata.is_file()).count();
        facts.insert("files".into(), files.into());
        Ok(CaptureReport {
            facts,
            content_digest: Some(self.source.digest()?),
            warnings: self.warnings,
            ..CaptureReport::default()
        })
    }
}

fn append(builder: &mut Builder<SinkWriter<'_>>, found: &Found) -> Result<()> {
    let failed = |error| unreadable(&found.path, error);
    let mut header = Header::new_gnu();
    header.set_mtime(found.metadata.mtime().max(0) as u64);
    header.set_mode(found.metadata.permissions().mode() & 0o7777);
    header.set_uid(found.metadata.uid().into());
    header.set_gid(found.metadata.gid().into());
    header.set_size(0);
    // Names outlive numbers on another host. One that has no room in the header is left out.
    for (name, group) in [
        (owner::user_name(found.metadata.uid()), false),
        (owner::group_name(found.metadata.gid()), true),
    ] {
        let Some(name) = name.filter(|name| name.len() < 32) else { continue };
        let set = if group { header.set_groupname(&name) } else { header.set_username(&name) };
        set.map_err(failed)?;
    }
    let name = found.path.strip_prefix("/").unwrap_or(&found.path);
    if found.metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(&found.path).map_err(failed)?;
        return builder.append_link(&mut header, name, target).map_err(failed);
    }
    if found.metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        let name = name.join("");
        return builder.append_data(&mut header, name, io::empty()).map_err(failed);
    }
    let file = File::open(&found.path).map_err(failed)?;
    // A log may have grown since the walk: the size is that of the moment when it is opened, and
    // exactly so many bytes are read.
    let bytes = file.metadata().map_err(failed)?.len();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    let mut exact = Exact { file, left: bytes };
    builder.append_data(&mut header, name, &mut exact).map_err(failed)
}

/// Reads exactly so many bytes of a file; fewer are an error, never padding.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let share = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read(&mut buffer[..share])?;
        self.left -= got as u64;
        match got == 0 && self.left > 0 && share > 0 {
            true => Err(io::Error::other("the file became shorter while it was read")),
            false => Ok(got),
        }
    }
}

/// A sink as a writer.
struct SinkWriter<'a> {
    sink: &'a mut dyn Sink,
    failed: Option<Error>,
}

impl Write for SinkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let buffer = self.sink.buffer();
        let count = buffer.len().min(bytes.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.sink.advance(count).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the pipeline failed")
        })?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
