//! A pack: files of a log in one object, each byte for byte what it was, so that a log of very
//! many states has few objects.
//!
//! What files have of one kind lies together: first their pages, then their indexes, then their
//! footers, then how long each is. So footers, and indexes, are read without the pages. A file
//! that is sealed is one piece. Whoever goes through a log reads all of a kind at once, of a few
//! packs at a time; else single pieces are read.

use std::collections::VecDeque;
use std::io::Cursor;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lifeboat_core::pipeline::unread_object;
use lifeboat_core::seal;
use lifeboat_core::store::{ObjectName, ObjectReader, Store};
use lifeboat_core::{Error, Kind, Result};

use super::layout::FOOTER_BYTES;
use super::names::Span;

/// The end of a pack: its magic, the number of files, the digest of the directory and of these.
const END_BYTES: usize = 48;
const END_MAGIC: &[u8; 8] = b"LBPACK01";
/// How long the three pieces of a file are.
const ENTRY_BYTES: usize = 12;
/// Pages, index, footer.
const KINDS: usize = 3;

/// All of a kind are held in memory up to that size, and of so many packs.
const HELD_BYTES_MAX: u64 = 16 << 20;
const HELD_MAX: usize = 4;

/// Packs whose pieces are held in memory now, the oldest first.
pub(crate) type Shelf = Mutex<VecDeque<(Weak<Pack>, usize)>>;

/// A pack, as a listing shows it.
#[derive(Debug)]
pub(crate) struct Pack {
    /// Its object.
    pub(crate) object: ObjectName,
    /// Its size.
    pub(crate) bytes: u64,
    /// What its files cover; its level is theirs.
    pub(crate) span: Span,
    directory: Mutex<Option<Arc<Directory>>>,
    /// All pieces of a kind.
    held: [Mutex<Option<Arc<Vec<u8>>>>; KINDS - 1],
    shelf: Arc<Shelf>,
}

/// Where the pieces of each file are, by kind: one more than there are files.
#[derive(Debug, PartialEq, Eq)]
struct Directory {
    starts: [Vec<u64>; KINDS],
    footers: Vec<u8>,
}

impl Pack {
    /// No file takes less.
    pub(crate) const FILE_BYTES_MIN: u64 = ENTRY_BYTES as u64;

    pub(crate) fn new(object: ObjectName, bytes: u64, span: Span, shelf: Arc<Shelf>) -> Self {
        let held = [Mutex::default(), Mutex::default()];
        Pack { object, bytes, span, directory: Mutex::default(), held, shelf }
    }

    /// How many files it has: one for each position.
    pub(crate) fn count(&self) -> usize {
        usize::try_from(self.span.to - self.span.from).unwrap_or(usize::MAX)
    }

    fn is_sealed(&self) -> bool {
        self.object.as_str().ends_with(seal::SUFFIX)
    }

    /// The size of one of its files.
    pub(crate) fn file_bytes(&self, store: &dyn Store, number: usize) -> Result<u64> {
        let directory = self.directory(store)?;
        Ok((0..KINDS).map(|kind| directory.piece(kind, number)).map(|at| at.end - at.start).sum())
    }

    /// Reads a range of one of its files. With `all` others of the same kind are likely to be asked
    /// for next.
    pub(crate) fn get(
        self: &Arc<Self>,
        store: &dyn Store,
        (number, all): (usize, bool),
        range: Range<u64>,
    ) -> Result<ObjectReader> {
        let directory = self.directory(store)?;
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let mut begin = 0;
        for kind in 0..KINDS {
            let piece = directory.piece(kind, number);
            let end = begin + (piece.end - piece.start);
            let (from, to) = (range.start.max(begin), range.end.min(end));
            if from < to {
                let part = piece.start + (from - begin)..piece.start + (to - begin);
                self.part(store, &directory, (kind, part, all), &mut bytes)?;
            }
            begin = end;
        }
        Ok(Box::new(Cursor::new(bytes)))
    }

    /// A part of what lies together of a kind.
    fn part(
        self: &Arc<Self>,
        store: &dyn Store,
        directory: &Directory,
        (kind, part, all): (usize, Range<u64>, bool),
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let held = match kind {
            2 => {
                bytes.extend(&directory.footers[within(&part)]);
                return Ok(());
            }
            _ if all => self.held(store, directory, kind)?,
            _ => None,
        };
        match held {
            Some(all) => bytes.extend(&all[within(&part)]),
            None => {
                let start = directory.begin(kind);
                bytes.extend(self.read(store, start + part.start..start + part.end)?);
            }
        }
        Ok(())
    }

    /// All pieces of a kind, where there is room for them.
    fn held(
        self: &Arc<Self>,
        store: &dyn Store,
        directory: &Directory,
        kind: usize,
    ) -> Result<Option<Arc<Vec<u8>>>> {
        let mut held = self.held[kind].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = &*held {
            return Ok(Some(Arc::clone(all)));
        }
        let (start, length) = (directory.begin(kind), directory.length(kind));
        if length > HELD_BYTES_MAX {
            return Ok(None);
        }
        let all = Arc::new(self.read(store, start..start + length)?);
        *held = Some(Arc::clone(&all));
        drop(held);
        // Not before: whoever takes another one off holds no other.
        self.shelve(kind);
        Ok(Some(all))
    }

    fn shelve(self: &Arc<Self>, kind: usize) {
        let off: Vec<(Weak<Pack>, usize)> = {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.push_back((Arc::downgrade(self), kind));
            let over = shelf.len().saturating_sub(HELD_MAX);
            shelf.drain(..over).collect()
        };
        for (pack, kind) in off {
            if let Some(pack) = pack.upgrade() {
                *pack.held[kind].lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    fn directory(&self, store: &dyn Store) -> Result<Arc<Directory>> {
        let mut known = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = &*known {
            return Ok(Arc::clone(directory));
        }
        let footer_bytes = if self.is_sealed() { 0 } else { FOOTER_BYTES };
        let tail = (self.count() as u64)
            .checked_mul((footer_bytes + ENTRY_BYTES) as u64)
            .and_then(|bytes| bytes.checked_add(END_BYTES as u64))
            .filter(|bytes| *bytes <= self.bytes)
            .ok_or_else(|| self.damaged("it is cut short"))?;
        let bytes = self.read(store, self.bytes - tail..self.bytes)?;
        let footers = self.count() * footer_bytes;
        let directory =
            Directory::parse(bytes, footers, self.bytes).map_err(|why| self.damaged(why))?;
        let directory = Arc::new(directory);
        *known = Some(Arc::clone(&directory));
        Ok(directory)
    }

    fn read(&self, store: &dyn Store, range: Range<u64>) -> Result<Vec<u8>> {
        let length = range.end - range.start;
        let mut bytes = Vec::with_capacity(length as usize);
        let reader = store.get(&self.object, Some(range))?;
        std::io::Read::read_to_end(&mut std::io::Read::take(reader, length), &mut bytes)
            .map_err(|error| unread_object(&self.object, error))?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(self.damaged("it is cut short")),
        }
    }

    fn damaged(&self, why: &str) -> Error {
        Error::new(Kind::CheckFailed, format!("{} is damaged: {why}", self.object))
    }
}

fn within(part: &Range<u64>) -> Range<usize> {
    part.start as usize..part.end as usize
}

impl Directory {
    /// Where a piece is among those of its kind.
    fn piece(&self, kind: usize, number: usize) -> Range<u64> {
        self.starts[kind][number]..self.starts[kind][number + 1]
    }

    fn length(&self, kind: usize) -> u64 {
        self.starts[kind].last().copied().unwrap_or(0)
    }

    /// Where the pieces of a kind begin in the pack.
    fn begin(&self, kind: usize) -> u64 {
        (0..kind).map(|kind| self.length(kind)).sum()
    }

    /// Reads the footers and what follows them, of a pack of that size.
    fn parse(mut bytes: Vec<u8>, footers: usize, pack_bytes: u64) -> Result<Self, &'static str> {
        let tail = bytes.split_off(footers);
        let (entries, end) = tail.split_at(tail.len() - END_BYTES);
        let count = entries.len() / ENTRY_BYTES;
        if end[..8] != *END_MAGIC || end[8..16] != (count as u64).to_le_bytes() {
            return Err("it does not end as a pack of so many files does");
        }
        let digest = blake3::hash(&tail[..tail.len() - 32]);
        if digest.as_bytes()[..] != end[16..] {
            return Err("the digest of its directory is not that of its directory");
        }
        let mut starts = [const { Vec::new() }; KINDS];
        for (kind, starts) in starts.iter_mut().enumerate() {
            let mut at = 0;
            starts.reserve(count + 1);
            starts.push(at);
            for entry in entries.as_chunks::<ENTRY_BYTES>().0 {
                let length = entry[4 * kind..].first_chunk().copied().unwrap_or_default();
                at += u64::from(u32::from_le_bytes(length));
                starts.push(at);
            }
        }
        let directory = Directory { starts, footers: bytes };
        let is_whole = directory.length(2) == directory.footers.len() as u64
            && directory.begin(KINDS) + tail.len() as u64 == pack_bytes;
        if is_whole { Ok(directory) } else { Err("its directory contradicts its size") }
    }
}

/// The bytes of a pack that is put together.
#[derive(Default)]
pub(crate) struct PackBytes {
    kinds: [Vec<u8>; KINDS],
    entries: Vec<u8>,
}

impl PackBytes {
    /// Adds a file, whose index begins and ends there; `None` where it is sealed.
    pub(crate) fn add(&mut self, file: &[u8], index: Option<Range<u64>>) {
        let (pages, rest) = match index.as_ref() {
            Some(index) => file.split_at(index.start as usize),
            None => (file, &[][..]),
        };
        let index_bytes = index.map_or(0, |index| (index.end - index.start) as usize);
        let (index, footer) = rest.split_at(index_bytes);
        for (kind, piece) in [pages, index, footer].into_iter().enumerate() {
            self.kinds[kind].extend(piece);
            self.entries.extend((piece.len() as u32).to_le_bytes());
        }
    }

    /// All of it.
    pub(crate) fn finish(self) -> Vec<u8> {
        let count = (self.entries.len() / ENTRY_BYTES) as u64;
        let mut bytes = self.kinds.concat();
        let start = bytes.len();
        bytes.extend(self.entries);
        bytes.extend(END_MAGIC);
        bytes.extend(count.to_le_bytes());
        let digest = blake3::hash(&bytes[start..]);
        bytes.extend(digest.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_directory_or_none(
            bytes in proptest::collection::vec(any::<u8>(), END_BYTES..400),
            footers in 0_usize..200,
        ) {
            let footers = footers.min(bytes.len() - END_BYTES);
            let size = bytes.len() as u64;
            prop_assert!(Directory::parse(bytes, footers, size).is_err());
        }

        #[test]
        fn the_pieces_of_files_are_where_the_directory_says(
            files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 344..900), 1..9),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut pack = PackBytes::default();
            for file in &files {
                let footer = file.len() as u64 - 344;
                pack.add(file, Some(footer / 2..footer));
            }
            let bytes = pack.finish();
            let tail = files.len() * (344 + ENTRY_BYTES) + END_BYTES;
            let end = bytes[bytes.len() - tail..].to_vec();
            let size = bytes.len() as u64;
            let directory = Directory::parse(end.clone(), files.len() * 344, size).unwrap();
            for (number, file) in files.iter().enumerate() {
                let mut whole: Vec<u8> = Vec::new();
                for kind in 0..KINDS {
                    let (at, start) = (directory.piece(kind, number), directory.begin(kind));
                    whole.extend(&bytes[within(&(start + at.start..start + at.end))]);
                }
                prop_assert_eq!(&whole, file);
            }
            let mut wrong = end;
            let at = files.len() * 344 + flip.index(wrong.len() - files.len() * 344);
            wrong[at] ^= 1;
            prop_assert!(Directory::parse(wrong, files.len() * 344, size).is_err());
        }
    }
}
