//! A folder of a local file system.
//!
//! An object is written under a hidden name in its own folder (`.NAME.ID.part`), synced, renamed
//! without overwriting, and the folder is synced: after a power cut it is there whole or not at
//! all. Files are 0600 and folders 0700, whatever the umask.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::part;
use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};
use rustix::fs::{Access, CWD, RenameFlags, renameat_with};

/// How many bytes are written before the disk is asked to begin with them, so that the sync at
/// the end has little left to do.
const WRITE_BEHIND_BYTES: u64 = 8 << 20;
/// How many files are looked at, or read, at once. They wait for the disk, not for a core.
const READERS: usize = 8;
/// So many files for each thread, or it is not worth its start.
const FILES_PER_THREAD_MIN: usize = 64;

/// A store in a folder.
pub struct LocalStore {
    root: PathBuf,
    env: Env,
    /// The file system on which the folder is, since it was there.
    device: OnceLock<u64>,
}

/// The path in what follows `file://`: `/var/backups`, with `%20` and the like decoded.
pub fn path_of_url(text: &str) -> Result<PathBuf> {
    let wrong = || {
        Error::new(Kind::Usage, format!("file://{text} does not name a folder on this host"))
            .hint("write file:// and an absolute path: file:///var/backups")
    };
    let text = text.strip_prefix("localhost").unwrap_or(text);
    if !text.starts_with('/') {
        return Err(wrong());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, later)) = rest.split_first() {
        rest = later;
        match byte {
            b'%' => {
                let (digits, later) = rest.split_at_checked(2).ok_or_else(wrong)?;
                let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = later;
            }
            byte => bytes.push(byte),
        }
    }
    Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
}

impl LocalStore {
    /// A store in the folder `root`, which is created when the first object is put.
    pub fn new(env: &Env, root: PathBuf) -> Result<Self> {
        match fs::metadata(&root) {
            Ok(found) if !found.is_dir() => Err(Error::new(
                Kind::StoreUnavailable,
                format!("the repository {} is a file, not a folder", shown(&root).display()),
            )
            .hint("name a folder with --repo, or move the file away")),
            Ok(found) => {
                let device = OnceLock::from(found.dev());
                Ok(LocalStore { root, env: env.clone(), device })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(LocalStore { root, env: env.clone(), device: OnceLock::new() })
            }
            Err(error) => Err(unavailable(&root, "cannot look at the repository", error)),
        }
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Requires that the folder is where it was, once it was there: a drive that is unmounted
    /// leaves an empty one, and what was moved away none. Nothing goes there instead.
    fn require_place(&self) -> Result<()> {
        let gone = || {
            let place = shown(&self.root);
            let message = format!("the repository {} is not there any more", place.display());
            Error::new(Kind::StoreAbsent, message).hint("mount its drive again, or move it back")
        };
        match (fs::metadata(&self.root), self.device.get()) {
            (Ok(found), Some(device)) if found.dev() != *device => Err(gone()),
            (Ok(found), None) => {
                let _ = self.device.set(found.dev());
                Ok(())
            }
            (Ok(_), Some(_)) => Ok(()),
            (Err(error), Some(_)) if error.kind() == io::ErrorKind::NotFound => Err(gone()),
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            (Err(error), _) => Err(unavailable(&self.root, "cannot look at the repository", error)),
        }
    }

    fn walk(&self, folder: &Path, prefix: &str, found: &mut Vec<ObjectInfo>) -> Result<()> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unavailable(folder, "cannot list", error)),
        };
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(|error| unavailable(folder, "cannot list", error))?;
            // Hidden names are objects that are being written; other than UTF-8 is not ours.
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let name = match prefix {
                "" => file_name.to_owned(),
                prefix => format!("{prefix}/{file_name}"),
            };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push((entry.path(), name)),
                Ok(kind) if kind.is_file() => files.push((ObjectName::new(name)?, entry)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unavailable(&entry.path(), "cannot look at", error)),
            }
        }
        // Entries keep their folder open: those of one at a time.
        found.extend(look_at(files)?);
        folders.into_iter().try_for_each(|(folder, name)| self.walk(&folder, &name, found))
    }
}

/// Looks at the files of a folder. Those that are gone meanwhile are left out.
fn look_at(mut files: Vec<(ObjectName, DirEntry)>) -> Result<Vec<ObjectInfo>> {
    // In the order in which they lie on the disk, and several at once: a disk that has to look for
    // each one can then look for the next ones meanwhile.
    files.sort_unstable_by_key(|(_, entry)| entry.ino());
    let threads = READERS.min(files.len() / FILES_PER_THREAD_MIN);
    let looked = in_parallel(&files, threads, |(name, entry)| match entry.metadata() {
        Ok(metadata) => Ok(metadata.is_file().then(|| info(name.clone(), &metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable(&entry.path(), "cannot look at", error)),
    });
    looked.into_iter().filter_map(Result::transpose).collect()
}

fn info(name: ObjectName, metadata: &fs::Metadata) -> ObjectInfo {
    let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    ObjectInfo { name, bytes: metadata.len(), modified: modified.unwrap_or(Timestamp::UNIX_EPOCH) }
}

fn unavailable(path: &Path, what: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Some("run as the user who owns the repository, or choose another one with --repo")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("the file system is mounted read-only"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room there, or choose another repository with --repo")
        }
        _ => None,
    };
    let path = shown(path);
    let error = Error::io(Kind::StoreUnavailable, format!("{what} {}", path.display()), error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A path as people know it: one through a folder that is held open begins with that folder.
fn shown(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let held: PathBuf = parts.by_ref().take(5).collect();
    match held.starts_with("/proc/self/fd").then(|| fs::read_link(&held)) {
        Some(Ok(folder)) => folder.join(parts.as_path()),
        _ => path.to_owned(),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| unavailable(folder, "cannot sync the folder", error))
}

/// Creates the folder and those above it, 0700, and syncs each parent so that they last.
fn create_folders(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folders(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => sync_folder(parent.unwrap_or(Path::new("."))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(unavailable(folder, "cannot create the folder", error)),
    }
}

impl Store for LocalStore {
    fn url(&self) -> String {
        let path = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        format!("file://{}", path.display())
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        self.require_place()?;
        create_folders(&folder)?;
        let part = folder.join(part::name(&self.env, name.file_name()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .map_err(|error| unavailable(&folder, "cannot write to", error))?;
        // As long as it is held, nobody takes this for what a killed writer left. Where the file
        // system knows no locks, its age has to say so.
        let _ = file.try_lock();
        Ok(Box::new(LocalPut { file: Some(file), part, path, folder, written: 0, begun: 0 }))
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        let path = self.path(name);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Kind::NotCovered, format!("there is no {}", shown(&path).display()))
            }
            _ => unavailable(&path, "cannot read", error),
        };
        let mut file = File::open(&path).map_err(failed)?;
        match range {
            None => Ok(Box::new(file)),
            Some(range) => {
                file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
                Ok(Box::new(file.take(range.end.saturating_sub(range.start))))
            }
        }
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then(|| info(name.clone(), &metadata))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(unavailable(&path, "cannot look at", error)),
        }
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        match prefix {
            Some(prefix) => self.walk(&self.root.join(prefix), prefix, &mut found)?,
            None => self.walk(&self.root, "", &mut found)?,
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(path.parent().unwrap_or(&self.root)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unavailable(&path, "cannot delete", error)),
        }
    }

    fn unfinished(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let folder = self.root.join(prefix);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unavailable(&folder, "cannot list", error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| unavailable(&folder, "cannot list", error))?;
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str().filter(|name| part::is_one(name)) else {
                continue;
            };
            // Not through a link: `metadata` of an entry does not follow it.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && !is_written(&entry.path()) {
                found.push(info(ObjectName::new(format!("{prefix}/{file_name}"))?, &metadata));
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn discard(&self, name: &ObjectName) -> Result<bool> {
        let path = self.path(name);
        if !part::is_one(name.file_name()) {
            let message = format!("{name} is no unfinished object");
            return Err(Error::new(Kind::Failed, message));
        }
        match is_written(&path) {
            true => Ok(false),
            false => self.delete(name).map(|()| true),
        }
    }

    fn check_writable(&self) -> Result<()> {
        // What is missing will be made in the nearest folder that exists.
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let place = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::access(place, wanted)
            .map_err(|error| unavailable(place, "cannot write to", error.into()))
    }

    fn space(&self) -> Result<Option<Space>> {
        let existing = self.root.ancestors().find(|path| path.exists());
        let place = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match rustix::fs::statvfs(place) {
            // A file system without a size says nothing by being full.
            Ok(space) if space.f_blocks == 0 => Ok(None),
            Ok(space) => {
                let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
                let used_bytes = bytes(space.f_blocks.saturating_sub(space.f_bfree));
                Ok(Some(Space { used_bytes, free_bytes: bytes(space.f_bavail) }))
            }
            Err(error) => Err(unavailable(place, "cannot ask for free space at", error.into())),
        }
    }

    fn readers(&self) -> usize {
        READERS
    }
}

struct LocalPut {
    file: Option<File>,
    part: PathBuf,
    path: PathBuf,
    folder: PathBuf,
    written: u64,
    begun: u64,
}

impl Write for LocalPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let count = file.write(bytes)?;
        self.written += count as u64;
        if self.written - self.begun >= WRITE_BEHIND_BYTES {
            begin_writing(file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a writer holds it. One that cannot be asked is taken for one that is.
fn is_written(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => file.try_lock().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Asks the kernel to begin with writing a range. Advice: the sync at the end is what counts.
fn begin_writing(file: &File, offset: u64, bytes: u64) {
    let _ = rustix::fs::fadvise(
        file,
        offset,
        std::num::NonZeroU64::new(bytes),
        rustix::fs::Advice::DontNeed,
    );
}

impl Put for LocalPut {
    fn commit(mut self: Box<Self>) -> Result<()> {
        let Some(file) = self.file.take() else {
            return Err(Error::new(Kind::Failed, "an object was committed twice"));
        };
        file.sync_all()
            .map_err(|error| unavailable(&self.path, "cannot write to the disk", error))?;
        drop(file);
        publish(&self.part, &self.path)?;
        sync_folder(&self.folder)
    }
}

/// Gives the finished file its name, unless a file has it.
fn publish(part: &Path, path: &Path) -> Result<()> {
    let taken = || {
        Error::new(
            Kind::Refused,
            format!("{} exists and is never overwritten", shown(path).display()),
        )
    };
    match renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::EXIST) => return Err(taken()),
        // Some file systems (NFS, FUSE) know no exclusive rename: a link is exclusive too.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
        }
        Err(error) => return Err(unavailable(path, "cannot name", error.into())),
    }
    match fs::hard_link(part, path) {
        Ok(()) => {
            let _ = fs::remove_file(part);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
        Err(error) => Err(unavailable(path, "cannot name", error)),
    }
}

impl Drop for LocalPut {
    fn drop(&mut self) {
        // Committed or not, the hidden name must go; after a rename it does not exist.
        self.file = None;
        let _ = fs::remove_file(&self.part);
    }
}
