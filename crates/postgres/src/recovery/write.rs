//! Files of a backup become files of a data directory.
//!
//! Nothing is written outside the folders of the restore: paths have been looked at, and the only
//! links are those of tablespaces, which we make. `pg_control` is held back to the very end:
//! without it no server starts on what is half there. The disk begins with large files while they
//! are written, and they are synced in the background while the next ones are.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use lifeboat_core::{Error, Kind, Result};

use super::increment::IncrementHeader;
use super::member::{Content, Destination};
use super::reuse::Kept;
use super::tar_stream::TarEntry;
use crate::control;

/// Files from this size on are synced as soon as they are written.
const SYNC_AT_ONCE_BYTES: u64 = 1 << 20;
/// How many bytes of a file are written before the disk is asked to begin with them.
const WRITE_BEHIND_BYTES: u64 = 8 << 20;
/// So many files may wait to be synced.
const SYNC_QUEUE: usize = 16;

/// The folders of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The data directory.
    pub data: PathBuf,
    /// Where each tablespace goes, by its number: its own folder, which a link points to.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Owner and group of everything, where we may give files away.
    pub owner: Option<(u32, u32)>,
}

impl Place {
    /// Where a file of the data directory is, also one of a tablespace.
    pub fn path(&self, relative: &str) -> PathBuf {
        let of_tablespace = relative.strip_prefix("pg_tblspc/").and_then(|rest| {
            let (number, rest) = rest.split_once('/').unwrap_or((rest, ""));
            Some((self.tablespaces.get(&number.parse().ok()?)?, rest))
        });
        match of_tablespace {
            Some((folder, "")) => folder.clone(),
            Some((folder, rest)) => folder.join(rest),
            None => self.data.join(relative),
        }
    }

    /// Whether that is the folder of the log, which may be a link to one elsewhere.
    fn is_log(&self, folder: &Path) -> bool {
        folder.is_dir() && folder.parent() == Some(&*self.data) && folder.ends_with("pg_wal")
    }

    /// All folders at which something is written.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&*self.data).chain(self.tablespaces.values().map(PathBuf::as_path))
    }
}

/// What is written of a member of a chain.
pub(super) struct Selection<'a> {
    /// Files that the result has, but for the log: others are not written. `None`: all.
    pub(super) wanted: Option<&'a HashSet<String>>,
    /// The newest member: it brings the log and `pg_control`.
    pub(super) is_last: bool,
}

/// A file that is being written.
struct Open {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Up to where the disk was asked to begin.
    begun: u64,
}

/// A thread that syncs files, and the way to it.
type Syncing = (SyncSender<(File, PathBuf)>, JoinHandle<Result<()>>);

/// Writes members of a chain, the oldest first.
pub(super) struct FolderWriter<'a> {
    place: &'a Place,
    selection: Selection<'a>,
    /// What is there already, and right.
    kept: Option<&'a Kept>,
    open: Option<Open>,
    control_begun: bool,
    folders: BTreeSet<PathBuf>,
    syncing: Option<Syncing>,
    /// `pg_control` of the newest member.
    pub(super) control: Vec<u8>,
    /// Folders of the newest member, relative to the data directory.
    pub(super) folders_of_last: HashSet<String>,
    /// Files that were made of an older state and an increment.
    pub(super) combined: BTreeSet<String>,
}

impl<'a> FolderWriter<'a> {
    pub(super) fn new(place: &'a Place, kept: Option<&'a Kept>) -> Self {
        let (sender, receiver) = sync_channel::<(File, PathBuf)>(SYNC_QUEUE);
        let thread = std::thread::spawn(move || {
            receiver.iter().try_for_each(|(file, path)| {
                file.sync_data().map_err(|error| failed("sync", &path, error))
            })
        });
        FolderWriter {
            place,
            kept,
            selection: Selection { wanted: None, is_last: true },
            open: None,
            control_begun: false,
            folders: BTreeSet::new(),
            syncing: Some((sender, thread)),
            control: Vec::new(),
            folders_of_last: HashSet::new(),
            combined: BTreeSet::new(),
        }
    }

    /// The next member follows.
    pub(super) fn member(&mut self, selection: Selection<'a>) {
        self.selection = selection;
    }

    /// Waits until large files are synced.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some((sender, thread)) = self.syncing.take() else { return Ok(()) };
        drop(sender);
        thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a thread panicked")))
    }

    fn is_wanted(&self, path: &str) -> bool {
        if self.kept.is_some_and(|kept| kept.paths.contains(path)) {
            return false;
        }
        if path.starts_with("pg_wal/") {
            return self.selection.is_last;
        }
        self.selection.wanted.is_none_or(|wanted| wanted.contains(path))
    }

    /// Makes a folder and those above it, as far as they are missing.
    fn make_folder(&mut self, folder: &Path, mode: u32) -> Result<()> {
        if self.folders.contains(folder) || self.place.roots().any(|root| root == folder) {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folder(parent, 0o700)?;
        }
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists
                    && (is_folder(folder) || self.place.is_log(folder)) => {}
            Err(error) => return Err(failed("make", folder, error)),
        }
        let given = fs::set_permissions(folder, Permissions::from_mode(mode & 0o770 | 0o700));
        given.map_err(|error| failed("make", folder, error))?;
        give(folder, self.place.owner)?;
        self.folders.insert(folder.to_owned());
        Ok(())
    }

    fn create(&mut self, path: &str, mode: u32) -> Result<()> {
        let full = self.place.path(path);
        if let Some(parent) = full.parent() {
            self.make_folder(parent, 0o700)?;
        }
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode & 0o660 | 0o600)
            .custom_flags(libc_nofollow())
            .open(&full)
            .and_then(|file| match self.place.owner {
                Some((uid, gid)) => fchown(&file, Some(uid), Some(gid)).map(|()| file),
                None => Ok(file),
            });
        let file = opened.map_err(|error| failed("write", &full, error))?;
        self.open = Some(Open { file, path: full, bytes: 0, begun: 0 });
        Ok(())
    }

    fn reopen(&mut self, path: &str, header: &IncrementHeader) -> Result<()> {
        let full = self.place.path(path);
        let opened = OpenOptions::new().write(true).custom_flags(libc_nofollow()).open(&full);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(
                Kind::CheckFailed,
                format!("{path} is incremental, and no older backup of the chain has that file"),
            )
            .hint("choose another backup: lifeboat list"),
            _ => failed("write", &full, error),
        })?;
        // What lies beyond is obsolete; what is missing there is zeros.
        let kept_bytes = u64::from(header.truncation_blocks) * crate::page::PAGE_BYTES as u64;
        file.set_len(kept_bytes).map_err(|error| failed("write", &full, error))?;
        self.combined.insert(path.to_owned());
        let bytes = header.result_bytes();
        self.open = Some(Open { file, path: full, bytes, begun: bytes });
        Ok(())
    }
}

impl Destination for FolderWriter<'_> {
    fn wants(&self, path: &str) -> bool {
        path == control::PATH || self.is_wanted(path)
    }

    fn folder(&mut self, path: &str, entry: &TarEntry) -> Result<()> {
        if self.selection.is_last {
            self.folders_of_last.insert(path.to_owned());
            self.make_folder(&self.place.path(path), entry.mode)?;
        }
        Ok(())
    }

    fn link(&mut self, path: &str, _target: &str) -> Result<()> {
        // We make the links of tablespaces ourselves, to where they go now.
        let number = path.strip_prefix("pg_tblspc/").and_then(|number| number.parse().ok());
        match number.is_some_and(|number| self.place.tablespaces.contains_key(&number)) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("the base backup has a symbolic link {path}, which is no tablespace's"),
            )
            .hint("choose another backup: lifeboat list")),
        }
    }

    fn begin(&mut self, path: &str, entry: &TarEntry, content: Content<'_>) -> Result<()> {
        if path == control::PATH {
            self.control.clear();
            self.control_begun = true;
            return Ok(());
        }
        match (self.is_wanted(path), content) {
            (false, _) => Ok(()),
            (true, Content::Whole) => {
                self.combined.remove(path);
                self.create(path, entry.mode)
            }
            (true, Content::Increment(header)) => self.reopen(path, header),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.control_begun {
            self.control.extend_from_slice(bytes);
            return match self.control.len() > control::FILE_BYTES {
                true => Err(Error::new(Kind::CheckFailed, "pg_control is too large for one")),
                false => Ok(()),
            };
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.bytes = open.bytes.max(offset + bytes.len() as u64);
        let written = open.file.write_all_at(bytes, offset);
        written.map_err(|error| failed("write", &open.path, error))?;
        if open.bytes - open.begun >= WRITE_BEHIND_BYTES {
            let length = std::num::NonZeroU64::new(open.bytes - open.begun);
            // Advice: the sync at the end is what counts.
            let advice = rustix::fs::Advice::DontNeed;
            let _ = rustix::fs::fadvise(&open.file, open.begun, length, advice);
            open.begun = open.bytes;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.control_begun = false;
        let Some(open) = self.open.take() else { return Ok(()) };
        if open.bytes < SYNC_AT_ONCE_BYTES {
            return Ok(());
        }
        let Some((sender, _)) = &self.syncing else { return Ok(()) };
        if sender.send((open.file, open.path)).is_ok() {
            return Ok(());
        }
        // The thread ended by an error.
        self.settle()
    }
}

/// Gives a file or folder to its owner.
pub(super) fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .map_err(|error| failed("give away", path, error))
}

/// Syncs a folder, or a file.
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed("sync", path, error))
}

/// Syncs everything of the file system below which a folder is.
pub(super) fn sync_all_below(folder: &Path) -> Result<()> {
    let synced =
        File::open(folder).and_then(|file| rustix::fs::syncfs(&file).map_err(io::Error::from));
    synced.map_err(|error| failed("sync", folder, error))
}

/// Writes a small file whole, synced, with our owner.
pub(super) fn write_file(place: &Place, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let written = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc_nofollow())
            .open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = place.owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.write_all_at(bytes, 0)?;
        file.sync_all()
    })();
    written.map_err(|error| failed("write", path, error))
}

fn libc_nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

pub(super) fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot {verb} {}", path.display()), error)
}
