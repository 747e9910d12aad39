//! The bytes of a log file: a head, the stored pages, an index, and a footer of fixed size.
//!
//! `docs/format.md` has it to the byte. All numbers are little-endian. A reader begins with the
//! footer, which is the end of the file and has a digest of its own; nothing that it says is
//! believed before that was compared.

use std::ops::Range;

use lifeboat_core::pipeline::BlockHash;
use lifeboat_core::{Error, Kind, Result};
use uuid::Uuid;

use super::delta::Form;
use super::state::StateDigest;
use crate::wal_place::WalPlace;

/// Bytes of the head.
pub(crate) const HEAD_BYTES: usize = 16;
/// Bytes of the footer.
pub(crate) const FOOTER_BYTES: usize = 344;
const HEAD_MAGIC: &[u8; 8] = b"LBPAGLOG";
const FOOTER_MAGIC: &[u8; 8] = b"LBLOGEND";
const VERSION: u32 = 1;
/// Bytes of an index for each page, when it is decompressed.
const ENTRY_BYTES: usize = 4 + 4 + 1 + 16;
/// What the link is a digest of: the footer as far as there.
const LINK_AT: usize = 248;

/// Where it says with which frame of a `-wal` its state ended.
const WAL_PLACE_AT: usize = 280;

/// A digest of BLAKE3.
pub(crate) type Digest = [u8; 32];

/// The head of every log file with pages of that size.
pub(crate) fn head(page_size: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(HEAD_MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..].copy_from_slice(&page_size.to_le_bytes());
    head
}

/// What a log file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The source.
    pub(crate) source: Uuid,
    /// The backup that is position 0.
    pub(crate) base: Uuid,
    /// The position after which it begins.
    pub(crate) from: u64,
    /// The position at which it ends.
    pub(crate) to: u64,
    /// Where the index is, and how large.
    pub(crate) index: Range<u64>,
    /// How many pages it holds.
    pub(crate) pages: u32,
    /// Page size in bytes.
    pub(crate) page_size: u32,
    /// Pages of the database before and after.
    pub(crate) page_count: (u32, u32),
    /// Whether it was made of several files.
    pub(crate) is_compacted: bool,
    /// Commits in it, where they were counted; else 0.
    pub(crate) commits: u64,
    /// Nothing in it was committed before this, in milliseconds since 1970.
    pub(crate) since_ms: i64,
    /// Everything is in it that was committed until this.
    pub(crate) held_ms: i64,
    /// Nothing in it was committed after this.
    pub(crate) until_ms: i64,
    /// The state before.
    pub(crate) state_before: StateDigest,
    /// The state after.
    pub(crate) state_after: StateDigest,
    /// Of all bytes before the footer.
    pub(crate) content: Digest,
    /// The link of the file before; of the first, the state of the base.
    pub(crate) link_before: Digest,
    /// Its own link; of a compacted file, that of the last one that it was made of.
    pub(crate) link: Digest,
    /// With which frame of a `-wal` the state after ended, where that is known.
    pub(crate) wal_place: Option<WalPlace>,
}

impl Footer {
    /// The link of a file that was not compacted: a digest of all that it is and follows.
    pub(crate) fn own_link(&self) -> Digest {
        *blake3::hash(&self.unlinked()[..LINK_AT]).as_bytes()
    }

    fn unlinked(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, self.source.as_bytes());
        put(16, self.base.as_bytes());
        put(32, &self.from.to_le_bytes());
        put(40, &self.to.to_le_bytes());
        put(48, &self.index.start.to_le_bytes());
        put(56, &(self.index.end - self.index.start).to_le_bytes());
        put(64, &self.pages.to_le_bytes());
        put(68, &self.page_size.to_le_bytes());
        put(72, &self.page_count.0.to_le_bytes());
        put(76, &self.page_count.1.to_le_bytes());
        put(80, &u32::from(self.is_compacted).to_le_bytes());
        put(88, &self.commits.to_le_bytes());
        put(96, &self.since_ms.to_le_bytes());
        put(104, &self.held_ms.to_le_bytes());
        put(112, &self.until_ms.to_le_bytes());
        put(120, &self.state_before);
        put(152, &self.state_after);
        put(184, &self.content);
        put(216, &self.link_before);
        bytes
    }

    /// The footer as it is stored.
    pub(crate) fn to_bytes(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = self.unlinked();
        bytes[LINK_AT..LINK_AT + 32].copy_from_slice(&self.link);
        if let Some(place) = self.wal_place {
            let place = place.to_bytes();
            bytes[WAL_PLACE_AT..WAL_PLACE_AT + place.len()].copy_from_slice(&place);
        }
        bytes[304..312].copy_from_slice(FOOTER_MAGIC);
        let digest = blake3::hash(&bytes[..312]);
        bytes[312..].copy_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads the footer of a file of that size. What fails is damaged, or made by a newer program.
    pub(crate) fn parse(bytes: &[u8; FOOTER_BYTES], file_bytes: u64) -> Result<Self> {
        let damaged = |why: &str| Error::new(Kind::CheckFailed, why);
        if &bytes[304..312] != FOOTER_MAGIC {
            return Err(damaged("it does not end as a log file does"));
        }
        if blake3::hash(&bytes[..312]).as_bytes()[..] != bytes[312..] {
            return Err(damaged("the digest of its footer is not that of its footer"));
        }
        let index_at = long(bytes, 48);
        let footer = Footer {
            source: Uuid::from_bytes(array(bytes, 0)),
            base: Uuid::from_bytes(array(bytes, 16)),
            from: long(bytes, 32),
            to: long(bytes, 40),
            index: index_at..index_at.saturating_add(long(bytes, 56)),
            pages: word(bytes, 64),
            page_size: word(bytes, 68),
            page_count: (word(bytes, 72), word(bytes, 76)),
            is_compacted: word(bytes, 80) & 1 == 1,
            commits: long(bytes, 88),
            since_ms: long(bytes, 96).cast_signed(),
            held_ms: long(bytes, 104).cast_signed(),
            until_ms: long(bytes, 112).cast_signed(),
            state_before: array(bytes, 120),
            state_after: array(bytes, 152),
            content: array(bytes, 184),
            link_before: array(bytes, 216),
            link: array(bytes, LINK_AT),
            wal_place: WalPlace::parse(array(bytes, WAL_PLACE_AT)),
        };
        let size = footer.page_size;
        let sound = footer.index.end + FOOTER_BYTES as u64 == file_bytes
            && footer.index.start >= HEAD_BYTES as u64
            && footer.from < footer.to
            && size.is_power_of_two()
            && (512..=65_536).contains(&size)
            && word(bytes, 80) <= 1
            && footer.pages <= footer.page_count.1
            // Each page takes a byte at least: nobody can make us hold room for more.
            && u64::from(footer.pages) <= footer.index.start - HEAD_BYTES as u64
            && (footer.is_compacted || footer.own_link() == footer.link);
        match sound {
            true => Ok(footer),
            false => Err(damaged("its footer contradicts itself")),
        }
    }
}

/// Which pages a log file holds and where: sorted by page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pages: Vec<u32>,
    /// Where each stored page begins in the file, and where the last one ends.
    starts: Vec<u64>,
    forms: Vec<u8>,
    hashes: Vec<BlockHash>,
}

/// One page of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number.
    pub(crate) page: u32,
    /// Where in the file it is stored.
    pub(crate) stored: Range<u64>,
    /// How.
    pub(crate) form: Form,
    /// Its hash.
    pub(crate) hash: BlockHash,
}

impl Index {
    /// An index without a page.
    pub(crate) fn new() -> Self {
        Index { starts: vec![HEAD_BYTES as u64], ..Index::default() }
    }

    /// Adds a page that is stored behind the last one. Pages come in rising order.
    pub(crate) fn push(&mut self, page: u32, stored_bytes: u32, form: Form, hash: BlockHash) {
        debug_assert!(self.pages.last().is_none_or(|&last| last < page));
        self.pages.push(page);
        self.starts.push(self.end() + u64::from(stored_bytes));
        self.forms.push(form.byte());
        self.hashes.push(hash);
    }

    /// How many pages it has.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Where the last stored page ends.
    pub(crate) fn end(&self) -> u64 {
        self.starts.last().copied().unwrap_or(HEAD_BYTES as u64)
    }

    /// The entry at that place.
    pub(crate) fn entry(&self, at: usize) -> Entry {
        Entry {
            page: self.pages[at],
            stored: self.starts[at]..self.starts[at + 1],
            // What a byte cannot mean was refused when the index was read.
            form: Form::of_byte(self.forms[at]).unwrap_or(Form::Plain),
            hash: self.hashes[at],
        }
    }

    /// All entries, sorted by page.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len()).map(|at| self.entry(at))
    }

    /// The entry of a page.
    pub(crate) fn of_page(&self, page: u32) -> Option<Entry> {
        self.pages.binary_search(&page).ok().map(|at| self.entry(at))
    }

    /// The index as it is before compression: columns, because each compresses for itself.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * ENTRY_BYTES);
        let mut last = 0;
        for &page in &self.pages {
            bytes.extend((page - last).to_le_bytes());
            last = page;
        }
        for pair in self.starts.windows(2) {
            bytes.extend(((pair[1] - pair[0]) as u32).to_le_bytes());
        }
        bytes.extend(&self.forms);
        bytes.extend(self.hashes.as_flattened());
        bytes
    }

    /// Reads what [`Index::to_bytes`] makes, of a file with that footer.
    pub(crate) fn parse(bytes: &[u8], footer: &Footer) -> Result<Self> {
        let damaged = || Error::new(Kind::CheckFailed, "its index contradicts its footer");
        let count = footer.pages as usize;
        if bytes.len() != Index::bytes_of(count) {
            return Err(damaged());
        }
        let (numbers, rest) = bytes.split_at(count * 8);
        let (forms, hashes) = rest.split_at(count);
        let (differences, sizes) = numbers.split_at(count * 4);
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        let mut index = Index::new();
        let mut page: u32 = 0;
        let hashes = hashes.as_chunks::<16>().0;
        let rows = words(differences).into_iter().zip(words(sizes)).zip(forms).zip(hashes);
        for (((difference, stored_bytes), &form), hash) in rows {
            page = page.checked_add(difference).ok_or_else(damaged)?;
            let form = Form::of_byte(form).ok_or_else(damaged)?;
            let fits = difference > 0 && page <= footer.page_count.1;
            if !fits || stored_bytes == 0 || stored_bytes > footer.page_size {
                return Err(damaged());
            }
            index.push(page, stored_bytes, form, *hash);
        }
        match index.end() == footer.index.start {
            true => Ok(index),
            false => Err(damaged()),
        }
    }

    /// How many bytes an index of so many pages has before compression.
    pub(crate) fn bytes_of(pages: usize) -> usize {
        pages * ENTRY_BYTES
    }
}

fn array<const N: usize>(bytes: &[u8; FOOTER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn word(bytes: &[u8; FOOTER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn long(bytes: &[u8; FOOTER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
