//! A copy of a `-wal` upon a copy of its database: what a script that copies both leaves.
//!
//! Such copies belong together only as long as the `-wal` was not begun anew in between, and
//! nothing in the database file says to which `-wal` it belongs. What follows from the bytes is
//! required: the frames are proved by their chain of checksums; what a `-wal` beside the database
//! has is where the copy begins; each page by which the database grew is there; the counter of the
//! first page goes on; the database holds nothing later of the same `-wal`; and where the folder
//! holds copies of an earlier `-wal`, the database has what was in them. Whoever restores must
//! check the result in full, which finds the rest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::restore::Replay;
use lifeboat_core::{Error, Kind, Result};

use crate::header::{HEADER_BYTES, Header};
use crate::holders::side_file;
use crate::snapshot::wal::{self, FRAME_HEADER_BYTES, Frames, WalHeader};

const NAME_IT: &str = "name the copy of the -wal with --wal";
const LET_READ: &str = "let the user who restores read it";
/// How many files of a folder are looked at for other copies.
const SIBLINGS_MAX: usize = 1_000;
/// So many pages may be the same in a frame and in a database by chance.
const COPIED_MIN: usize = 3;
/// How often a `-wal` may have begun anew between two copies of it. One that was made anew has a
/// salt by chance, and is told from a later one by this.
const TURNS_MAX: u32 = 1 << 24;
/// Where the counter of changes is in the first page.
const COUNTER: std::ops::Range<usize> = 24..28;

/// A copy of a `-wal`, up to its last commit.
pub struct WalCopy {
    path: PathBuf,
    file: File,
    header: WalHeader,
    frames: Frames,
    modified: Timestamp,
    /// What lies beside the database that it goes upon, if there is a `-wal`.
    beside: Option<PathBuf>,
}

impl WalCopy {
    /// Reads a copy that is to go upon that database.
    pub fn open(path: &Path, database: &Path) -> Result<Self> {
        let copy = Self::read(path)?.ok_or_else(|| {
            let message = format!("{} is no -wal of SQLite", path.display());
            Error::new(Kind::CheckFailed, message).hint(NAME_IT)
        })?;
        if copy.frames.frames.is_empty() {
            let message = format!("{} holds no transaction that was committed", path.display());
            return Err(Error::new(Kind::NotCovered, message)
                .hint("restore the database alone, or with another copy of the -wal"));
        }
        if let Some(frame) = copy.frames.damaged {
            let message = format!("frame {frame} of {} is damaged", path.display());
            return Err(Error::new(Kind::CheckFailed, message)
                .hint("restore with an older copy of the -wal, or the database alone"));
        }
        let beside = side_file(database, "-wal");
        let has_content = fs::metadata(&beside).is_ok_and(|metadata| metadata.len() > 0);
        Ok(WalCopy { beside: (has_content && beside != path).then_some(beside), ..copy })
    }

    /// `None` where the file is no `-wal`.
    fn read(path: &Path) -> Result<Option<Self>> {
        let failed = |error: io::Error| {
            let hint =
                if error.kind() == io::ErrorKind::PermissionDenied { LET_READ } else { NAME_IT };
            let message = format!("cannot read {}", path.display());
            Error::io(Kind::SourceUnavailable, message, error).hint(hint)
        };
        // Asked before it is opened: to open a pipe waits for whoever writes into it.
        let metadata = fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            let message = format!("{} is no file", path.display());
            return Err(Error::new(Kind::SourceUnavailable, message).hint(NAME_IT));
        }
        let modified = metadata.modified().map_err(failed)?;
        let file = File::open(path).map_err(failed)?;
        let modified = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
        let Some(header) = wal::header(&file)? else { return Ok(None) };
        let frames = wal::committed_frames(&file, &header)?;
        let path = path.to_owned();
        Ok(Some(WalCopy { path, file, header, frames, modified, beside: None }))
    }

    /// Other copies in its folder.
    fn siblings(&self) -> Vec<WalCopy> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path()).take(SIBLINGS_MAX);
        let mut others: Vec<WalCopy> = paths
            .filter(|path| path.is_file() && path.file_name() != self.path.file_name())
            .filter_map(|path| Self::read(&path).ok().flatten())
            .filter(|copy| !copy.frames.frames.is_empty())
            .collect();
        others.sort_by(|a, b| a.path.cmp(&b.path));
        others
    }

    /// The last frame of each page.
    fn last_frames(&self) -> BTreeMap<u32, u32> {
        self.frames.frames.iter().copied().collect()
    }

    fn page(&self, frame: u32) -> Result<Vec<u8>> {
        let mut page = vec![0; self.header.page_size as usize];
        match wal::read_frame(&self.file, frame, &mut page)? {
            true => Ok(page),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("{} is cut short, or changes while it is read", self.path.display()),
            )),
        }
    }

    /// Why it cannot go upon that database; `None` where nothing speaks against it.
    fn contradiction(&self, base: &Base<'_>, siblings: &[WalCopy]) -> Result<Option<String>> {
        if base.page_size != self.header.page_size {
            return Ok(Some("its pages have another size than those of the database".to_owned()));
        }
        if let Some(beside) = &self.beside
            && let Some(other) = Self::read(beside)?
            && !self.goes_on(&other)?
        {
            return Ok(Some(format!(
                "{} belongs to the database, and the copy does not go on where that ends",
                beside.display()
            )));
        }
        let last = self.last_frames();
        let kept = base.page_count.min(self.frames.page_count_min);
        let hole = (kept + 1..=self.frames.page_count)
            .find(|page| !last.contains_key(page) && *page != base.lock_page());
        if let Some(page) = hole {
            return Ok(Some(format!(
                "page {page} is neither in the database nor in the -wal, which was begun anew since \
                 the database was copied"
            )));
        }
        if let Some(why) = self.counter_contradicts(base)? {
            return Ok(Some(why));
        }
        if self.is_older_than(base)? {
            return Ok(Some(
                "the database was copied after it, and holds later changes of the same -wal".into(),
            ));
        }
        for earlier in siblings.iter().filter(|other| self.is_later_than(other)) {
            if !base.has_any_of(earlier)? {
                return Ok(Some(format!(
                    "{} is of an earlier -wal, and nothing of it is in the database",
                    earlier.path.display()
                )));
            }
        }
        Ok(None)
    }

    /// Whether the database holds frames of the same `-wal` that the copy does not have yet: where
    /// many of its pages are what a checkpoint made of the copy's frames, the others up to there
    /// would be, too.
    fn is_older_than(&self, base: &Base<'_>) -> Result<bool> {
        let mut frames: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        self.frames.frames.iter().for_each(|(page, frame)| {
            frames.entry(*page).or_default().push(*frame);
        });
        // The first page is often the same in several states.
        let there = frames.iter().filter(|(page, _)| **page > 1 && **page <= base.page_count);
        let (mut copied, mut unlike) = (Vec::new(), Vec::new());
        for (page, of_page) in there {
            let content = base.page(*page)?;
            let mut same = None;
            for &frame in of_page {
                same = if self.page(frame)? == content { Some(frame) } else { same };
            }
            match same {
                Some(frame) => copied.push(frame),
                None => unlike.push(of_page[0]),
            }
        }
        let newest = copied.iter().max().copied().unwrap_or(0);
        let is_copied = copied.len() > COPIED_MIN && copied.len() * 10 > unlike.len();
        Ok(is_copied && unlike.iter().any(|first| *first <= newest))
    }

    /// Whether a copy is of an earlier beginning of the same database's `-wal`.
    fn is_later_than(&self, other: &WalCopy) -> bool {
        let is_same = self.header.page_size == other.header.page_size;
        is_same && (1..TURNS_MAX).contains(&self.header.turns_since(&other.header))
    }

    /// Whether it begins with all that another one has.
    fn goes_on(&self, other: &WalCopy) -> Result<bool> {
        let Some((_, frame)) = other.frames.frames.last() else { return Ok(true) };
        if self.header != other.header || self.frames.frames.len() < other.frames.frames.len() {
            return Ok(false);
        }
        // The checksum in a frame's head is one of all frames up to it.
        let mut heads = [[0; FRAME_HEADER_BYTES]; 2];
        let frame_bytes = FRAME_HEADER_BYTES as u64 + u64::from(self.header.page_size);
        let offset = wal::WAL_HEADER_BYTES as u64 + u64::from(frame - 1) * frame_bytes;
        for (file, head) in [&self.file, &other.file].into_iter().zip(&mut heads) {
            file.read_exact_at(head, offset).map_err(|error| {
                Error::io(Kind::SourceUnavailable, "cannot read a copy of a -wal", error)
            })?;
        }
        Ok(heads[0] == heads[1])
    }

    /// The first page counts the changes: what the `-wal` has of it goes on from the database.
    fn counter_contradicts(&self, base: &Base<'_>) -> Result<Option<String>> {
        let of_first = || self.frames.frames.iter().filter(|(page, _)| *page == 1);
        let Some((_, frame)) = of_first().next() else { return Ok(None) };
        let before = base.page(1)?;
        for (_, frame) in of_first() {
            if self.page(*frame)? == before {
                return Ok(None);
            }
        }
        let counter =
            |page: &[u8]| page[COUNTER].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let (before, after) = (counter(&before), counter(&self.page(*frame)?));
        match after.wrapping_sub(before) <= 1 {
            true => Ok(None),
            false => Ok(Some(format!(
                "the database's counter of changes is {before}, and the -wal goes on from another \
                 ({after})"
            ))),
        }
    }

    fn refusal(&self, why: &str, base: &Base<'_>, siblings: &[WalCopy]) -> Result<Error> {
        let message = format!("{} does not belong to this database: {why}", self.path.display());
        let mut fitting = Vec::new();
        for other in siblings {
            let others: Vec<WalCopy> = other.siblings();
            if other.contradiction(base, &others)?.is_none() {
                fitting.push(other.path.display().to_string());
            }
        }
        let error = Error::new(Kind::NotCovered, message);
        Ok(match fitting.is_empty() {
            true => error.hint(
                "nothing was changed; what can be restored is the database alone, without --wal",
            ),
            false => error.hint(format!(
                "nothing was changed; what can be restored upon this database: --wal {}",
                fitting.join(", or --wal ")
            )),
        })
    }
}

/// The copy of the database, staged.
struct Base<'a> {
    file: &'a File,
    page_size: u32,
    page_count: u32,
}

impl Base<'_> {
    fn page(&self, page: u32) -> Result<Vec<u8>> {
        let mut content = vec![0; self.page_size as usize];
        let offset = u64::from(page - 1) * u64::from(self.page_size);
        self.file.read_exact_at(&mut content, offset).map_err(unread)?;
        Ok(content)
    }

    fn lock_page(&self) -> u32 {
        0x4000_0000 / self.page_size + 1
    }

    /// Whether any page is as the last frame of a copy has it.
    fn has_any_of(&self, copy: &WalCopy) -> Result<bool> {
        if copy.header.page_size != self.page_size {
            return Ok(false);
        }
        for (page, frame) in copy.last_frames() {
            // The first page is often the same in several states.
            if page > 1 && page <= self.page_count && self.page(page)? == copy.page(frame)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Replay for WalCopy {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn until(&self) -> Timestamp {
        self.modified
    }

    fn steps(&self) -> Vec<String> {
        let frames = self.frames.frames.len();
        vec![
            format!("lay {} over it: {frames} pages up to its last commit", self.path.display()),
            "nothing in a database says which -wal is its own: that this one is follows from its \
             pages, the counter of changes, the copies beside it, and the full check"
                .to_owned(),
        ]
    }

    fn plain_bytes(&self) -> u64 {
        u64::from(self.frames.page_count) * u64::from(self.header.page_size)
    }

    fn apply(&self, env: &Env, file: &mut File, place: &Path) -> Result<()> {
        let mut first = [0; HEADER_BYTES];
        file.read_exact_at(&mut first, 0).map_err(unread)?;
        let header = Header::parse(&first).ok_or_else(|| {
            Error::new(Kind::CheckFailed, "the database has no header of SQLite's")
        })?;
        let bytes = file.metadata().map_err(unread)?.len();
        let page_count = u32::try_from(bytes / u64::from(header.page_size)).unwrap_or(u32::MAX);
        let base = Base { file, page_size: header.page_size, page_count };
        let siblings = self.siblings();
        if let Some(why) = self.contradiction(&base, &siblings)? {
            return Err(self.refusal(&why, &base, &siblings)?);
        }
        let written =
            |error| Error::io(Kind::Failed, format!("cannot write {}", place.display()), error);
        for (page, frame) in self.last_frames() {
            env.proceed()?;
            if page <= self.frames.page_count {
                let offset = u64::from(page - 1) * u64::from(self.header.page_size);
                file.write_all_at(&self.page(frame)?, offset).map_err(written)?;
            }
        }
        file.set_len(self.plain_bytes()).map_err(written)
    }
}

fn unread(error: std::io::Error) -> Error {
    Error::io(Kind::Failed, "cannot read the staged copy of the database", error)
}
