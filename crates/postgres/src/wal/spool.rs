//! Working ahead: notes between the program that a server runs for one file and a helper that does
//! the next ones meanwhile.
//!
//! A spool is a private folder for one archive on one host. `pushed/NAME` notes that a file is in
//! every repository, with its inode, its times and a checksum of its bytes; `fetched/NAME` is a
//! segment that will be asked for next, with its hash in `fetched/NAME.hash`. Neither is believed:
//! a note counts only if the file has these bytes now and every repository still holds the object
//! in that size. Bytes are compared, but for a file to which nobody had written for a while when
//! it was read, and nobody has since by its times. `claims/NAME` is locked by whoever works on a
//! file. So a kill at any point leaves notes that are true, or none.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::log;
use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::archive::{Archive, Fetched, PushFile, hash_of};
use super::name::{Kept, Segment, WalFile};
use super::{HEADER_BYTES, SEGMENT_BYTES_MAX};

/// How often a claim of another is looked at, in milliseconds.
const LOOK_AGAIN_MS: u64 = 2;
/// A file that was left alone for so long when it was read shows by its times whether it was
/// written to since: they are coarse, but not that coarse.
const SETTLED: SignedDuration = SignedDuration::from_secs(2);
/// A note is a few lines.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// The folder of an archive's notes.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
}

/// A file that somebody works on, until it is dropped.
pub struct Claim {
    file: File,
    path: PathBuf,
}

/// That a file is in every repository.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    file: Likeness,
    /// Whether its times tell enough.
    is_settled: bool,
    places: Vec<Place>,
}

/// What a file is known by. A segment that waits to be archived is written by nobody any more: this
/// only has to tell it from another file of its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Likeness {
    bytes: u64,
    inode: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
    checksum: u32,
}

/// Reads a file, and learns meanwhile what it is known by.
pub(super) struct Learning {
    file: File,
    learned: Learned,
}

/// What was learned by the last one who read a file.
pub(super) type Learned = Arc<Mutex<Option<Likeness>>>;

impl Learning {
    pub(super) fn new(file: File, learned: &Learned) -> io::Result<Learning> {
        let begun = Likeness::unread(&file)?;
        *learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
        Ok(Learning { file, learned: Arc::clone(learned) })
    }
}

impl io::Read for Learning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(likeness) = learned.as_mut() {
            likeness.take(&buffer[..got]);
        }
        Ok(got)
    }
}

impl Likeness {
    /// Of a file of which nothing was read.
    fn unread(file: &File) -> io::Result<Likeness> {
        let found = file.metadata()?;
        let modified_ns = (found.mtime(), found.mtime_nsec());
        let changed_ns = (found.ctime(), found.ctime_nsec());
        Ok(Likeness { bytes: 0, inode: found.ino(), modified_ns, changed_ns, checksum: 0 })
    }

    /// Whether nobody had written to it for a while, at that moment.
    fn is_settled(&self, at: Timestamp) -> bool {
        let changed = Timestamp::from_second(self.changed_ns.0.max(self.modified_ns.0));
        changed.is_ok_and(|changed| at.duration_since(changed) > SETTLED)
    }

    /// Whether it is the same file, to which nobody wrote since.
    fn is_untouched(&self, now: &Likeness) -> bool {
        (self.inode, self.modified_ns, self.changed_ns)
            == (now.inode, now.modified_ns, now.changed_ns)
    }

    fn take(&mut self, bytes: &[u8]) {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.bytes += bytes.len() as u64;
    }

    fn of(file: &File) -> io::Result<Likeness> {
        let mut likeness = Likeness::unread(file)?;
        let (mut reader, mut buffer) = (file, vec![0; 1 << 20]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(likeness),
                got => likeness.take(&buffer[..got]),
            }
        }
    }
}

/// The bytes of a segment that was fetched ahead.
#[derive(Debug, Serialize, Deserialize)]
struct FetchedNote {
    bytes: u64,
    hash: String,
}

/// An object that was read back there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    repository: Uuid,
    stored_bytes: u64,
}

impl Spool {
    /// The spool of an archive below a folder; made if it is not there.
    pub fn of(above: &Path, archive: &Archive) -> Result<Spool> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&archive.system.to_le_bytes());
        for member in &archive.members {
            hasher.update(member.repository.header().id.as_bytes());
            hasher.update(&(member.folder.len() as u64).to_le_bytes());
            hasher.update(member.folder.as_bytes());
        }
        let folder = above.join(&hasher.finalize().to_hex()[..24]);
        for part in ["pushed", "fetched", "claims"] {
            let path = folder.join(part);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|error| failed("cannot make the folder", &path, error))?;
        }
        Ok(Spool { folder })
    }

    fn path(&self, part: &str, name: &str) -> PathBuf {
        self.folder.join(part).join(name)
    }

    /// Takes a file to work on; `None` if another has it.
    pub fn claim(&self, name: &str) -> Result<Option<Claim>> {
        let path = self.path("claims", name);
        let failed = |error| failed("cannot lock", &path, error);
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            }
            // The one before may have removed it between our opening and our locking.
            let own = file.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|now| now.ino() == own) {
                return Ok(Some(Claim { file, path }));
            }
        }
    }

    /// The same, and waits until the other is done.
    pub fn claim_in_turn(&self, env: &Env, name: &str) -> Result<Claim> {
        loop {
            if let Some(claim) = self.claim(name)? {
                return Ok(claim);
            }
            env.pause_ms(LOOK_AGAIN_MS)?;
        }
    }

    /// Notes that a file is in every repository of the archive. Called after it was read back;
    /// `learned` is what was learned when it was pushed, and `begun` when that was.
    pub(super) fn note_pushed(
        &self,
        env: &Env,
        archive: &Archive,
        file: &PushFile,
        (learned, begun): (&Learned, Timestamp),
    ) -> Result<()> {
        let Some(places) = places(archive, Kept::File(file.file))? else { return Ok(()) };
        let learned = learned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let likeness = match learned.filter(|learned| learned.bytes == file.bytes) {
            Some(learned) => learned,
            None => likeness(file)?,
        };
        let note = Note { is_settled: likeness.is_settled(begun), file: likeness, places };
        let note = serde_json::to_vec(&note).unwrap_or_default();
        env.crash.pass("wal.noted")?;
        self.write("pushed", &file.file.to_string(), &note)
    }

    /// Whether it is noted, and still true, that a file is in every repository.
    pub fn is_pushed(&self, archive: &Archive, file: &PushFile) -> Result<bool> {
        let Some(note) = self.read("pushed", &file.file.to_string()) else { return Ok(false) };
        let Ok(note) = serde_json::from_slice::<Note>(&note) else { return Ok(false) };
        if note.file.bytes != file.bytes {
            return Ok(false);
        }
        let now = Likeness::unread(&file.open()?);
        let now = now.map_err(|error| failed("cannot read", &file.path, error))?;
        let is_untouched = note.is_settled && note.file.is_untouched(&now);
        if !is_untouched && note.file != likeness(file)? {
            return Ok(false);
        }
        Ok(places(archive, Kept::File(file.file))?.is_some_and(|now| now == note.places))
    }

    /// Whether there is a note, true or not.
    pub fn is_noted(&self, file: WalFile) -> bool {
        self.path("pushed", &file.to_string()).exists()
    }

    /// Forgets a note that was used, or was not true.
    pub fn forget_pushed(&self, file: WalFile) {
        let _ = fs::remove_file(self.path("pushed", &file.to_string()));
    }

    /// Forgets the notes of files that nobody waits for any more.
    pub fn forget_all_but(&self, waiting: &[WalFile]) {
        for name in names(&self.folder.join("pushed")) {
            if WalFile::parse(&name).is_none_or(|file| !waiting.contains(&file)) {
                let _ = fs::remove_file(self.path("pushed", &name));
            }
        }
    }

    /// How many notes there are.
    pub fn noted(&self) -> usize {
        names(&self.folder.join("pushed")).len()
    }

    /// Fetches a segment that will be asked for next. Only one that is whole is kept.
    pub fn fetch_ahead(&self, env: &Env, archive: &Archive, segment: Segment) -> Result<bool> {
        let name = segment.to_string();
        let path = self.path("fetched", &name);
        if path.exists() && self.path("fetched", &format!("{name}.hash")).exists() {
            return Ok(true);
        }
        let Some(_claim) = self.claim(&name)? else { return Ok(true) };
        let staged = self.path("fetched", &format!("{name}.staged"));
        match archive.fetch_known(env, WalFile::Segment(segment), &staged, true)? {
            Fetched::Whole => {}
            Fetched::Pieces => {
                let _ = fs::remove_file(&staged);
                return Ok(false);
            }
            Fetched::Absent => return Ok(false),
        }
        let opened = File::open(&staged).map_err(|error| failed("cannot read", &staged, error))?;
        let hashed = hash_of(opened);
        let (bytes, hash) = hashed.map_err(|error| failed("cannot read", &staged, error))?;
        let note = serde_json::to_vec(&FetchedNote { bytes, hash }).unwrap_or_default();
        self.write("fetched", &format!("{name}.hash"), &note)?;
        fs::rename(&staged, &path).map_err(|error| failed("cannot write", &path, error))?;
        Ok(true)
    }

    /// Gives a segment that was fetched ahead, if it is whole and a repository still holds it.
    pub fn take_fetched(&self, archive: &Archive, segment: Segment, to: &Path) -> Result<bool> {
        let name = segment.to_string();
        let (path, hash) = (self.path("fetched", &name), format!("{name}.hash"));
        let note = self.read("fetched", &hash);
        let taken = note.is_some() && self.give(archive, segment, &path, note, to).unwrap_or(false);
        let _ = fs::remove_file(self.path("fetched", &hash));
        let _ = fs::remove_file(&path);
        Ok(taken)
    }

    /// Any doubt is an error or `false`: then it is fetched as if there were no spool.
    fn give(
        &self,
        archive: &Archive,
        segment: Segment,
        path: &Path,
        note: Option<Vec<u8>>,
        to: &Path,
    ) -> Result<bool> {
        let note = note.and_then(|note| serde_json::from_slice::<FetchedNote>(&note).ok());
        let Some(note) = note else { return Ok(false) };
        let unreadable = |error| failed("cannot read", path, error);
        let opened = File::open(path).map_err(unreadable)?;
        let (bytes, hash) = hash_of(opened).map_err(unreadable)?;
        if (bytes, &hash) != (note.bytes, &note.hash) {
            return Ok(false);
        }
        let mut begin = vec![0; HEADER_BYTES];
        let opened = File::open(path).map_err(unreadable)?;
        io::Read::read_exact(&mut io::Read::take(opened, HEADER_BYTES as u64), &mut begin)
            .map_err(unreadable)?;
        archive.check(WalFile::Segment(segment), &begin, bytes, &path.display().to_string())?;
        let kept = Kept::File(WalFile::Segment(segment));
        let mut is_there = false;
        for member in &archive.members {
            let object = kept.object(&member.folder, archive.system);
            is_there = is_there || log::head(&member.repository, &object)?.is_some();
        }
        if !is_there {
            return Ok(false);
        }
        if fs::rename(path, to).is_ok() {
            return Ok(true);
        }
        // Another file system.
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".lifeboat-part");
        let part = to.with_file_name(name);
        let unwritable = |error| failed("cannot write", &part, error);
        fs::copy(path, &part).map_err(unwritable)?;
        File::open(&part).and_then(|file| file.sync_all()).map_err(unwritable)?;
        fs::rename(&part, to).map_err(unwritable)?;
        Ok(true)
    }

    /// Notes that the repositories hold something of this cluster.
    pub fn note_known(&self) {
        let _ = self.write("claims", "known", b"");
    }

    /// Whether that was noted.
    pub fn is_known(&self) -> bool {
        self.path("claims", "known").exists()
    }

    /// Notes which segment was asked for last, for the helper that fetches ahead.
    pub fn note_wanted(&self, segment: Segment, segment_bytes: u64) -> Result<()> {
        self.write("claims", "wanted", format!("{segment} {segment_bytes}").as_bytes())
    }

    /// Which segment was asked for last, and how large segments are.
    pub fn wanted(&self) -> Option<(Segment, u64)> {
        let text = String::from_utf8(self.read("claims", "wanted")?).ok()?;
        let (name, bytes) = text.split_once(' ')?;
        let WalFile::Segment(segment) = WalFile::parse(name)? else { return None };
        let bytes = bytes.parse().ok().filter(|bytes| *bytes <= SEGMENT_BYTES_MAX)?;
        Some((segment, bytes))
    }

    /// Removes what was fetched ahead, but for some.
    pub fn drop_fetched_but(&self, kept: &[Segment]) {
        for name in names(&self.folder.join("fetched")) {
            let stem = name.split('.').next().unwrap_or_default();
            let is_kept = matches!(WalFile::parse(stem), Some(WalFile::Segment(segment))
                if kept.contains(&segment));
            if !is_kept {
                let _ = fs::remove_file(self.path("fetched", &name));
            }
        }
    }

    /// Replaces a small file; it needs no sync: what is lost was a note.
    fn write(&self, part: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(part, name);
        let staged = self.path(part, &format!("{name}.new"));
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&staged).and_then(|mut file| file.write_all(bytes));
        written
            .and_then(|()| fs::rename(&staged, &path))
            .map_err(|error| failed("cannot write", &path, error))
    }

    fn read(&self, part: &str, name: &str) -> Option<Vec<u8>> {
        let file = File::open(self.path(part, name)).ok()?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, NOTE_BYTES_MAX), &mut bytes).ok()?;
        Some(bytes)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked: nobody else has it, and whoever waits looks for a new one.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn likeness(file: &PushFile) -> Result<Likeness> {
    Likeness::of(&file.open()?).map_err(|error| failed("cannot read", &file.path, error))
}

/// What each repository says of an object; `None` if one of them does not hold it.
fn places(archive: &Archive, kept: Kept) -> Result<Option<Vec<Place>>> {
    let mut places = Vec::with_capacity(archive.members.len());
    for member in &archive.members {
        let object = kept.object(&member.folder, archive.system);
        let Some(info) = log::head(&member.repository, &object)? else { return Ok(None) };
        let repository = member.repository.header().id;
        places.push(Place { repository, stored_bytes: info.bytes });
    }
    Ok(Some(places))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::io(Kind::Failed, format!("{what} {}", path.display()), error)
}
