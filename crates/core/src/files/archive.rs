//! Files as they were at one moment, as a tar stream.
//!
//! All files are opened when the capture begins, and their sizes taken then. A log that grows is
//! stored up to there; one that is renamed or deleted is still the one that was opened. One that
//! is emptied meanwhile is stored as far as it still could be read, with a warning, if it is small;
//! a large one ends the capture, which may be begun again. Nothing is ever padded.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tar::{Builder, EntryType, Header};

use super::{Digest, FilesSource, Found, ROLE, unreadable};
use crate::error::{Error, Kind, Result};
use crate::owner;
use crate::source::{ArtifactPlan, Capture, CaptureReport, Sink};

/// Files that are held open from the beginning; any more are opened when their turn comes.
const HELD_MAX: usize = 256;
/// Files up to this size are read whole before their size is written down.
const WHOLE_BYTES_MAX: u64 = 4 << 20;
/// How often the walk is made again because files were renamed during it.
const WALKS_MAX: usize = 5;

/// Opens a regular file for reading. Neither a link nor a pipe that took its place since the walk
/// is followed or waited for.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// One file, folder or link of the archive.
struct Entry {
    path: PathBuf,
    metadata: Metadata,
    /// The file; `None` for what is none, and for one that is opened later.
    file: Option<File>,
}

pub(super) struct FilesCapture {
    entries: Vec<Entry>,
    warnings: Vec<String>,
    /// Files that were stored.
    files: usize,
    digest: Digest,
}

impl FilesCapture {
    /// Takes hold of all files of the set.
    pub(super) fn begin(source: &FilesSource) -> Result<Self> {
        for _ in 1..WALKS_MAX {
            let mut warnings = Vec::new();
            if let Some(entries) = hold(source.walk(&mut warnings)?, None)? {
                return Ok(FilesCapture::new(entries, warnings));
            }
        }
        // Names that never stand still: what is there is taken, and what is not is told.
        let mut warnings = Vec::new();
        let found = source.walk(&mut warnings)?;
        let entries = hold(found, Some(&mut warnings))?.unwrap_or_default();
        Ok(FilesCapture::new(entries, warnings))
    }

    fn new(entries: Vec<Entry>, warnings: Vec<String>) -> Self {
        FilesCapture { entries, warnings, files: 0, digest: Digest::default() }
    }
}

/// Opens what was found. `None` if a name stands for another file by now, unless `moved` takes
/// note of such.
fn hold(found: Vec<Found>, mut moved: Option<&mut Vec<String>>) -> Result<Option<Vec<Entry>>> {
    let mut entries = Vec::with_capacity(found.len());
    let mut held = 0;
    for Found { path, metadata } in found {
        if !metadata.is_file() || held == HELD_MAX {
            entries.push(Entry { path, metadata, file: None });
            continue;
        }
        let opened = open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match (opened, &mut moved) {
            (Ok((now, file)), _) if is_same(&now, &metadata) => {
                held += 1;
                entries.push(Entry { path, metadata: now, file: Some(file) });
            }
            (Ok((now, file)), Some(_)) if now.is_file() => {
                held += 1;
                entries.push(Entry { path, metadata: now, file: Some(file) });
            }
            (Err(error), _) if !is_moved(&error) => return Err(unreadable(&path, error)),
            (_, None) => return Ok(None),
            (_, Some(warnings)) => warnings.push(gone(&path)),
        }
    }
    Ok(Some(entries))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Whether the name is gone, or stands for a link now.
fn is_moved(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn gone(path: &Path) -> String {
    format!("{} was moved away while the files were read: left out", path.display())
}

impl Capture for FilesCapture {
    fn artifacts(&self) -> Vec<ArtifactPlan> {
        let size = |entry: &Entry| if entry.metadata.is_file() { entry.metadata.len() } else { 0 };
        vec![ArtifactPlan {
            role: ROLE,
            extension: "files.tar".into(),
            plain_bytes_estimate: self.entries.iter().map(|entry| size(entry) + 1024).sum(),
            block_bytes: None,
            observer: None,
            file: None,
        }]
    }

    fn write(&mut self, _index: usize, sink: &mut dyn Sink) -> Result<()> {
        let mut builder = Builder::new(SinkWriter { sink, failed: None });
        builder.follow_symlinks(false);
        let mut outcome = Ok(());
        for entry in std::mem::take(&mut self.entries) {
            outcome = self.append(&mut builder, entry);
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
        facts.insert("files".into(), self.files.into());
        Ok(CaptureReport {
            facts,
            // Of the very bytes that were stored: a change that came later is one.
            content_digest: Some(self.digest.finish()),
            warnings: self.warnings,
            ..CaptureReport::default()
        })
    }
}

impl FilesCapture {
    fn append(&mut self, builder: &mut Builder<SinkWriter<'_>>, entry: Entry) -> Result<()> {
        let Entry { path, mut metadata, mut file } = entry;
        if metadata.is_file() && file.is_none() {
            match open(&path).and_then(|file| Ok((file.metadata()?, file))) {
                Ok((now, opened)) if now.is_file() => (metadata, file) = (now, Some(opened)),
                Ok(_) => return self.leave_out(&path),
                Err(error) if is_moved(&error) => return self.leave_out(&path),
                Err(error) => return Err(unreadable(&path, error)),
            }
        }
        if metadata.is_symlink() && fs::symlink_metadata(&path).is_err_and(|e| is_moved(&e)) {
            return self.leave_out(&path);
        }
        self.digest.entry(&path, &metadata)?;
        let failed = |error| unreadable(&path, error);
        let mut header = header(&metadata).map_err(failed)?;
        let name = path.strip_prefix("/").unwrap_or(&path);
        if let Some(file) = file {
            self.files += 1;
            return self.append_file(builder, header, &path, metadata.len(), file);
        }
        if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(&path).map_err(failed)?;
            return builder.append_link(&mut header, name, target).map_err(failed);
        }
        header.set_entry_type(EntryType::Directory);
        builder.append_data(&mut header, name.join(""), io::empty()).map_err(failed)
    }

    fn leave_out(&mut self, path: &Path) -> Result<()> {
        self.warnings.push(gone(path));
        Ok(())
    }

    /// So many bytes of a file, as it had when it was opened.
    fn append_file(
        &mut self,
        builder: &mut Builder<SinkWriter<'_>>,
        mut header: Header,
        path: &Path,
        bytes: u64,
        file: File,
    ) -> Result<()> {
        let failed = |error| unreadable(path, error);
        let name = path.strip_prefix("/").unwrap_or(path);
        header.set_entry_type(EntryType::Regular);
        let mut content = blake3::Hasher::new();
        if bytes <= WHOLE_BYTES_MAX {
            let mut whole = Vec::with_capacity(bytes as usize);
            file.take(bytes).read_to_end(&mut whole).map_err(failed)?;
            let got = whole.len() as u64;
            if got < bytes {
                let path = path.display();
                self.warnings.push(format!(
                    "{path} became shorter while it was read: {got} of its {bytes} bytes are stored"
                ));
            }
            content.update(&whole);
            header.set_size(got);
            builder.append_data(&mut header, name, &whole[..]).map_err(failed)?;
        } else {
            header.set_size(bytes);
            let mut exact = Exact { file, left: bytes, content: &mut content };
            builder.append_data(&mut header, name, &mut exact).map_err(|error| {
                failed(error).hint("run it again when the file is not emptied meanwhile")
            })?;
        }
        self.digest.content(&content);
        Ok(())
    }
}

fn header(metadata: &Metadata) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_mtime(metadata.mtime().max(0) as u64);
    header.set_mode(metadata.permissions().mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_size(0);
    // Names outlive numbers on another host. One that has no room in the header is left out.
    for (name, group) in
        [(owner::user_name(metadata.uid()), false), (owner::group_name(metadata.gid()), true)]
    {
        let Some(name) = name.filter(|name| name.len() < 32) else { continue };
        match group {
            true => header.set_groupname(&name)?,
            false => header.set_username(&name)?,
        }
    }
    Ok(header)
}

/// Reads exactly so many bytes of a file; fewer are an error, never padding.
struct Exact<'a> {
    file: File,
    left: u64,
    content: &'a mut blake3::Hasher,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let share = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read(&mut buffer[..share])?;
        self.left -= got as u64;
        self.content.update(&buffer[..got]);
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
