//! What a host without a key notes of a sealed log that it adds to: which pages have which hash.
//!
//! Whoever has a key finds that in the repository. Who has none has the page hashes of the base,
//! that were kept when it was made, and this file beside them: a row of notes, one for each file of
//! the log, written before the file is there. A note whose file never came is dropped. What is
//! lost, torn or does not fit costs nothing but a new backup.
//!
//! The file: `LBNOTES1`, the id of the base (16 bytes), notes. A note: its length (4 bytes), then
//! position (8), pages of the database (4), the moment (8), link and mark (32 each), for each page
//! its number (4), hash (16) and depth (1); then the first 16 bytes of the BLAKE3 of all that.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use lifeboat_core::manifest::Manifest;
use lifeboat_core::pipeline::{BlockHash, BlockHashes};
use lifeboat_core::repository::{Repository, write_known};
use lifeboat_core::{Error, Kind, Result};

use super::chain::Chain;
use super::layout::Digest;
use super::state::PageState;

const MAGIC: &[u8; 8] = b"LBNOTES1";
const HEAD_BYTES: usize = 24;
const NOTE_BYTES: usize = 8 + 4 + 8 + 32 + 32;
const PAGE_BYTES: usize = 4 + 16 + 1;
const CHECK_BYTES: usize = 16;
/// A file that is larger is written anew, with one note for all: that, and twice as many bytes as
/// that note has.
const BYTES_MIN: u64 = 8 << 20;

/// What leads to a position, and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    position: u64,
    page_count: u32,
    held_ms: i64,
    pub(crate) link: Digest,
    pub(crate) mark: Digest,
    /// Number, hash, and depth of each page that changed.
    pub(crate) pages: Vec<(u32, BlockHash, u8)>,
}

impl Noted {
    /// Of a position, without a page.
    pub(crate) fn of(position: u64, page_count: u32, held_ms: i64) -> Self {
        let (link, mark, pages) = ([0; 32], [0; 32], Vec::new());
        Noted { position, page_count, held_ms, link, mark, pages }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let length = NOTE_BYTES + self.pages.len() * PAGE_BYTES;
        let mut bytes = Vec::with_capacity(4 + length + CHECK_BYTES);
        bytes.extend((length as u32).to_le_bytes());
        bytes.extend(self.position.to_le_bytes());
        bytes.extend(self.page_count.to_le_bytes());
        bytes.extend(self.held_ms.to_le_bytes());
        bytes.extend(self.link);
        bytes.extend(self.mark);
        for (page, hash, depth) in &self.pages {
            bytes.extend(page.to_le_bytes());
            bytes.extend(hash);
            bytes.push(*depth);
        }
        let check = blake3::hash(&bytes);
        bytes.extend(&check.as_bytes()[..CHECK_BYTES]);
        bytes
    }

    /// The note that some bytes begin with, and how many it takes. `None` for a torn one.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        let (content, rest) = bytes.split_at_checked(4 + length)?;
        let check = blake3::hash(content);
        if rest.first_chunk::<CHECK_BYTES>()?[..] != check.as_bytes()[..CHECK_BYTES] {
            return None;
        }
        let (mut noted, pages) = Noted::parse_head(&content[4..])?;
        for page in pages.chunks(PAGE_BYTES) {
            let (number, rest) = page.split_first_chunk::<4>()?;
            let (hash, rest) = rest.split_first_chunk::<16>()?;
            noted.pages.push((u32::from_le_bytes(*number), *hash, *rest.first()?));
        }
        let fits = noted.pages.iter().all(|(page, ..)| (1..=noted.page_count).contains(page));
        fits.then_some((noted, 4 + length + CHECK_BYTES))
    }

    fn parse_head(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (position, rest) = bytes.split_first_chunk::<8>()?;
        let (page_count, rest) = rest.split_first_chunk::<4>()?;
        let (held_ms, rest) = rest.split_first_chunk::<8>()?;
        let (link, rest) = rest.split_first_chunk::<32>()?;
        let (mark, pages) = rest.split_first_chunk::<32>()?;
        let noted = Noted {
            position: u64::from_le_bytes(*position),
            page_count: u32::from_le_bytes(*page_count),
            held_ms: i64::from_le_bytes(*held_ms),
            link: *link,
            mark: *mark,
            pages: Vec::new(),
        };
        Some((noted, pages))
    }
}

/// The end of a log, as this host knows it.
pub(crate) struct Known {
    pub(crate) state: PageState,
    pub(crate) depths: Vec<u8>,
    pub(crate) position: u64,
    pub(crate) link: Digest,
    pub(crate) mark: Digest,
    pub(crate) held_ms: i64,
}

impl Known {
    /// The base, with its page hashes.
    fn base(hashes: &BlockHashes, base: &Manifest) -> Self {
        let mut state = PageState::new(hashes.block_bytes, hashes.hashes.to_vec());
        Known {
            depths: vec![0; hashes.hashes.len()],
            position: 0,
            link: state.digest(),
            mark: [0; 32],
            held_ms: base.taken_at.as_millisecond(),
            state,
        }
    }

    fn add(&mut self, noted: &Noted) {
        self.state.resize(noted.page_count);
        self.depths.resize(noted.page_count as usize, 0);
        for &(page, hash, depth) in &noted.pages {
            self.state.set(page, hash);
            self.depths[page as usize - 1] = depth;
        }
        (self.position, self.held_ms) = (noted.position, noted.held_ms);
        (self.link, self.mark) = (noted.link, noted.mark);
    }

    /// Adds all notes up to a position. How long the file is up to there.
    fn add_all(&mut self, bytes: &[u8], end: u64) -> usize {
        let mut at = HEAD_BYTES;
        while let Some((noted, length)) = Noted::parse(&bytes[at..]) {
            if noted.position > end {
                break;
            }
            self.add(&noted);
            at += length;
        }
        at
    }
}

/// The file of notes of one log.
pub(crate) struct Journal {
    path: PathBuf,
    head: Vec<u8>,
    file: File,
    bytes: u64,
}

/// What is known here of the end of that log; or why it is not.
pub(crate) fn open(
    repository: &Repository,
    chain: &Chain<'_>,
) -> Result<Result<(Known, Journal), String>> {
    let (base, end) = (chain.base, chain.end());
    let unknown =
        |why: &str| Ok(Err(format!("{} is sealed, no key is named, and {why}", base.name)));
    let Some(path) = repository.known_path(base.source.id, "notes") else {
        return unknown("this host has no place for the hashes of its pages");
    };
    let Some(hashes) = repository.kept_hashes(base.source.id, base.id) else {
        return unknown("this host has not kept the hashes of its pages");
    };
    let mut known = Known::base(&hashes, base);
    let head = [&MAGIC[..], base.id.as_bytes()].concat();
    let length = match fs::read(&path) {
        Ok(bytes) if bytes.starts_with(&head) => known.add_all(&bytes, end),
        Ok(_) => 0,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(unkept(&path, error)),
    };
    if known.position != end {
        return unknown("this host does not know what the end of its log leads to");
    }
    if let Some(last) = chain.last()
        && last.mark(repository, &last.label(repository)?)? != known.mark
    {
        return unknown("another host has added to its log");
    }
    let journal = Journal::begin(&path, head, length).map_err(|error| unkept(&path, error))?;
    Ok(Ok((known, journal)))
}

impl Journal {
    /// Goes on behind the notes that count: of a file that long, or of none.
    fn begin(path: &Path, head: Vec<u8>, length: usize) -> std::io::Result<Self> {
        if length == 0 {
            write_known(path, &head)?;
        }
        let file = OpenOptions::new().append(true).open(path)?;
        let bytes = length.max(HEAD_BYTES) as u64;
        file.set_len(bytes)?;
        Ok(Journal { path: path.to_owned(), head, file, bytes })
    }

    /// Notes what a file leads to that is about to be there.
    pub(crate) fn note(&mut self, noted: &Noted) -> Result<()> {
        let bytes = noted.to_bytes();
        self.file.write_all(&bytes).map_err(|error| unkept(&self.path, error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes one note for all when there are many: of the end, where its last file is there.
    pub(crate) fn settle(&mut self, end: &Noted, state: &PageState, depths: &[u8]) -> Result<()> {
        let all_bytes = NOTE_BYTES + depths.len() * PAGE_BYTES;
        if self.bytes < BYTES_MIN.max(3 * all_bytes as u64) {
            return Ok(());
        }
        let all = (1..=end.page_count).zip(depths);
        let all =
            all.map(|(page, &depth)| (page, state.hash(page).copied().unwrap_or_default(), depth));
        let one = Noted { pages: all.collect(), ..end.clone() };
        let bytes = [&self.head[..], &one.to_bytes()].concat();
        let written = write_known(&self.path, &bytes)
            .and_then(|()| OpenOptions::new().append(true).open(&self.path));
        self.file = written.map_err(|error| unkept(&self.path, error))?;
        self.bytes = bytes.len() as u64;
        Ok(())
    }
}

fn unkept(path: &Path, error: std::io::Error) -> Error {
    let message = format!("cannot keep what must be known of a sealed log in {}", path.display());
    Error::io(Kind::Failed, message, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(seed: u32) -> BlockHash {
        lifeboat_core::pipeline::block_hash(&seed.to_le_bytes())
    }

    fn noted(position: u64, page_count: u32, changed: &[u32]) -> Noted {
        let pages = changed.iter().filter(|page| **page <= page_count);
        let pages = pages.map(|&page| (page, hash(page + position as u32), position as u8));
        Noted {
            link: [position as u8; 32],
            mark: [9; 32],
            pages: pages.collect(),
            ..Noted::of(position, page_count, 77)
        }
    }

    fn base() -> Known {
        let (mut state, depths) = (PageState::new(512, vec![hash(0); 20]), vec![0; 20]);
        Known { link: state.digest(), state, depths, position: 0, mark: [0; 32], held_ms: 0 }
    }

    proptest! {
        /// Whatever became of the end of the file: what is read is a whole number of notes.
        #[test]
        fn notes_come_back_as_far_as_they_are_whole(
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let notes = [noted(1, 20, &[1, 7]), noted(2, 25, &[21, 22, 23, 24, 25]), noted(3, 9, &[])];
            let mut bytes = vec![0; HEAD_BYTES];
            let ends: Vec<usize> = notes.iter().map(|noted| {
                bytes.extend(noted.to_bytes());
                bytes.len()
            }).collect();
            let all = bytes.len();
            bytes.truncate(HEAD_BYTES + cut.index(all - HEAD_BYTES + 1));
            let mut known = base();
            let length = known.add_all(&bytes, 99);
            let whole = ends.iter().filter(|end| **end <= bytes.len()).count();
            prop_assert_eq!(known.position, whole as u64);
            prop_assert_eq!(length, if whole == 0 { HEAD_BYTES } else { ends[whole - 1] });
            // And a changed byte ends them where it is.
            if bytes.len() > HEAD_BYTES {
                let at = HEAD_BYTES + flip.index(bytes.len() - HEAD_BYTES);
                bytes[at] ^= 1;
                let mut known = base();
                known.add_all(&bytes, 99);
                let before = ends.iter().filter(|end| **end <= at).count();
                prop_assert_eq!(known.position, before as u64);
            }
        }
    }

    #[test]
    fn many_notes_become_one_that_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known/x.notes");
        let head = [&MAGIC[..], &[5; 16]].concat();
        let mut journal = Journal::begin(&path, head.clone(), 0).unwrap();
        let mut known = base();
        for position in 1..=40 {
            let noted = noted(position, 12 + (position % 5) as u32, &[1, 3, 12, 13, 14, 15, 16]);
            journal.note(&noted).unwrap();
            known.add(&noted);
        }
        let mut again = base();
        assert_eq!(again.add_all(&fs::read(&path).unwrap(), 40), journal.bytes as usize);
        assert_eq!(again.state.digest(), known.state.digest());
        journal.bytes = BYTES_MIN;
        let end = Noted { link: known.link, mark: known.mark, ..Noted::of(40, 12, 77) };
        journal.settle(&end, &known.state, &known.depths).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(&head) && bytes.len() as u64 == journal.bytes);
        let mut one = base();
        one.add_all(&bytes, 40);
        assert_eq!((one.state.digest(), &one.depths), (known.state.digest(), &known.depths));
        assert_eq!((one.position, one.link), (40, known.link));
        // And the next one follows it.
        journal.note(&noted(41, 12, &[2])).unwrap();
        let mut more = base();
        more.add_all(&fs::read(&path).unwrap(), 41);
        assert_eq!(more.position, 41);
    }
}
