//! One LTX file of version 3, read from its first byte to its last, and proved.
//!
//! A head of 100 bytes; pages, each with its number and compressed with LZ4; an index of them; the
//! checksum, which is over the decompressed pages and everything else. All numbers are big-endian.
//! No page is believed before the checksum at the end was compared: whoever lays pages over a file
//! does so on a staged one.

use std::io::{self, Read};

use lifeboat_core::{Error, Kind, Result};
use lz4_flex::frame::FrameDecoder;

use super::crc64::Crc64;

/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 100;
const MAGIC: &[u8; 4] = b"LTX1";
/// The only flag of the head: no digest of the database is kept.
const FLAG_NO_CHECKSUM: u32 = 2;
/// The only flag of a page: its compressed size stands before it.
const FLAG_SIZE: u16 = 1;
/// The checksum of the database and that of the file.
const TRAILER_BYTES: usize = 16;
/// Set in every checksum, so that none is zero.
const CHECKSUM_FLAG: u64 = 1 << 63;
/// Bytes in which SQLite keeps its locks; their page is in no file.
const LOCK_BYTE: u64 = 0x4000_0000;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) page_size: u32,
    /// Pages of the database afterwards.
    pub(super) page_count: u32,
    /// The first transaction in it.
    pub(super) first: u64,
    /// The last one.
    pub(super) last: u64,
    /// When it was written, in milliseconds since 1970.
    pub(super) time_ms: i64,
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Self> {
        let word = |at: usize| u32::from_be_bytes(array(bytes, at));
        let long = |at: usize| u64::from_be_bytes(array(bytes, at));
        if &bytes[..4] != MAGIC {
            return Err(damaged("it does not begin as an LTX file does"));
        }
        let head = Head {
            page_size: word(8),
            page_count: word(12),
            first: long(16),
            last: long(24),
            time_ms: long(32).cast_signed(),
        };
        let sound = word(4) & !FLAG_NO_CHECKSUM == 0
            && head.page_size.is_power_of_two()
            && (512..=65_536).contains(&head.page_size)
            && head.first > 0
            && head.first <= head.last;
        match sound {
            true => Ok(head),
            false => Err(damaged("its head contradicts itself, or a newer Litestream wrote it")),
        }
    }

    /// Whether it holds all pages, and so needs nothing before it.
    pub(super) fn is_snapshot(&self) -> bool {
        self.first == 1
    }

    /// The page that SQLite never uses, which is in no file.
    pub(super) fn lock_page(&self) -> u32 {
        (LOCK_BYTE / u64::from(self.page_size)) as u32 + 1
    }
}

/// Reads a file from its beginning.
pub(super) struct LtxReader<R> {
    reader: R,
    head: Head,
    crc: Crc64,
    /// The offset of what is read next.
    at: u64,
    bytes: u64,
    page: Vec<u8>,
    stored: Vec<u8>,
    /// The index as it must stand behind the pages.
    index: Vec<u8>,
    last_page: u32,
    pages: u32,
}

impl<R: Read> LtxReader<R> {
    /// Reads the head of a file of that size.
    pub(super) fn open(mut reader: R, bytes: u64) -> Result<Self> {
        let mut raw = [0; HEAD_BYTES];
        fill(&mut reader, &mut raw)?;
        let head = Head::parse(&raw)?;
        let mut crc = Crc64::new();
        crc.add(&raw);
        Ok(LtxReader {
            reader,
            head,
            crc,
            at: HEAD_BYTES as u64,
            bytes,
            page: vec![0; head.page_size as usize],
            stored: Vec::new(),
            index: Vec::new(),
            last_page: 0,
            pages: 0,
        })
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// The next page; `None` behind the last one, and then the file is proved.
    pub(super) fn next(&mut self) -> Result<Option<(u32, &[u8])>> {
        let begin = self.at;
        let mut raw = [0; 6];
        self.fill_hashed(&mut raw)?;
        let number = u32::from_be_bytes(array(&raw, 0));
        let flags = u16::from_be_bytes(array(&raw, 4));
        if number == 0 && flags == 0 {
            self.end()?;
            return Ok(None);
        }
        let is_next = number > self.last_page && number <= self.head.page_count;
        if !is_next || number == self.head.lock_page() || flags & !FLAG_SIZE != 0 {
            return Err(damaged("its pages are in the wrong order"));
        }
        match flags & FLAG_SIZE {
            0 => self.framed_page()?,
            _ => self.block_page()?,
        }
        self.crc.add(&self.page);
        for part in [u64::from(number), begin, self.at - begin] {
            push_varint(&mut self.index, part);
        }
        (self.last_page, self.pages) = (number, self.pages + 1);
        Ok(Some((number, &self.page)))
    }

    /// A page with its size before it.
    fn block_page(&mut self) -> Result<()> {
        let mut raw = [0; 4];
        self.fill_hashed(&mut raw)?;
        let stored = u32::from_be_bytes(raw) as usize;
        // What does not compress grows by one byte in 255, and a few.
        if stored > self.page.len() + self.page.len() / 255 + 16 {
            return Err(damaged("a page is larger than a page can be"));
        }
        self.stored.resize(stored, 0);
        fill(&mut self.reader, &mut self.stored)?;
        self.at += stored as u64;
        let written = lz4_flex::block::decompress_into(&self.stored, &mut self.page)
            .map_err(|error| damaged("a page cannot be decompressed").caused_by(error))?;
        match written == self.page.len() {
            true => Ok(()),
            false => Err(damaged("a page is shorter than the others")),
        }
    }

    /// A page as the first versions wrote it: a frame that knows its own end.
    fn framed_page(&mut self) -> Result<()> {
        let counted = Counted { reader: &mut self.reader, bytes: 0 };
        let mut decoder = FrameDecoder::new(counted);
        let read = decoder.read_exact(&mut self.page).and_then(|()| decoder.read(&mut [0]));
        let frame_bytes = decoder.get_ref().bytes;
        self.at += frame_bytes;
        match read {
            Ok(0) => Ok(()),
            Ok(_) => Err(damaged("a page is longer than the others")),
            Err(error) => Err(damaged("a page cannot be decompressed").caused_by(error)),
        }
    }

    /// The index, and the checksum.
    fn end(&mut self) -> Result<()> {
        push_varint(&mut self.index, 0);
        let index_bytes = self.index.len();
        let behind = (index_bytes + 8 + TRAILER_BYTES) as u64;
        if self.at + behind != self.bytes {
            return Err(damaged("it is cut short, or longer than it says"));
        }
        let mut found = vec![0; index_bytes + 8 + TRAILER_BYTES];
        fill(&mut self.reader, &mut found)?;
        let (content, sum) = found.split_at(index_bytes + 16);
        self.crc.add(content);
        let size = u64::from_be_bytes(array(&found, index_bytes));
        if found[..index_bytes] != self.index || size != index_bytes as u64 {
            return Err(damaged("its index is not that of its pages"));
        }
        if u64::from_be_bytes(array(sum, 0)) != self.crc.sum() | CHECKSUM_FLAG {
            return Err(damaged("its checksum is not that of its content"));
        }
        let lock_page = u32::from(self.head.page_count >= self.head.lock_page());
        if self.head.is_snapshot() && self.pages != self.head.page_count - lock_page {
            return Err(damaged("it is a snapshot without all pages"));
        }
        Ok(())
    }

    fn fill_hashed(&mut self, buffer: &mut [u8]) -> Result<()> {
        fill(&mut self.reader, buffer)?;
        self.crc.add(buffer);
        self.at += buffer.len() as u64;
        Ok(())
    }
}

/// Counts what is read through it.
struct Counted<'a, R> {
    reader: &'a mut R,
    bytes: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => Error::io(Kind::StoreUnavailable, "it cannot be read", error),
    })
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::CheckFailed, why)
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use lz4_flex::frame::{FrameEncoder, FrameInfo};
    use proptest::prelude::*;

    use super::*;

    /// A file as Litestream writes it; with `framed` as its first versions did.
    pub(crate) fn file(head: Head, pages: &[(u32, Vec<u8>)], framed: bool) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [FLAG_NO_CHECKSUM, head.page_size, head.page_count] {
            bytes.extend(word.to_be_bytes());
        }
        for long in [head.first, head.last, head.time_ms.cast_unsigned()] {
            bytes.extend(long.to_be_bytes());
        }
        bytes.resize(HEAD_BYTES, 0);
        let (mut crc, mut index) = (Crc64::new(), Vec::new());
        crc.add(&bytes);
        for (number, page) in pages {
            let begin = bytes.len();
            bytes.extend(number.to_be_bytes());
            if framed {
                bytes.extend([0, 0]);
                crc.add(&bytes[begin..]);
                let info = FrameInfo::new().content_checksum(true);
                let mut encoder = FrameEncoder::with_frame_info(info, &mut bytes);
                encoder.write_all(page).unwrap();
                encoder.finish().unwrap();
            } else {
                let stored = lz4_flex::block::compress(page);
                bytes.extend([0, 1]);
                bytes.extend((stored.len() as u32).to_be_bytes());
                crc.add(&bytes[begin..]);
                bytes.extend(stored);
            }
            crc.add(page);
            for part in [u64::from(*number), begin as u64, (bytes.len() - begin) as u64] {
                push_varint(&mut index, part);
            }
        }
        push_varint(&mut index, 0);
        let mut tail = vec![0; 6];
        tail.extend(&index);
        tail.extend((index.len() as u64).to_be_bytes());
        tail.extend([0; 8]);
        crc.add(&tail);
        bytes.extend(&tail);
        bytes.extend((crc.sum() | CHECKSUM_FLAG).to_be_bytes());
        bytes
    }

    type Pages = Vec<(u32, Vec<u8>)>;

    fn read(bytes: &[u8]) -> Result<(Head, Pages)> {
        let mut reader = LtxReader::open(bytes, bytes.len() as u64)?;
        let mut pages = Vec::new();
        while let Some((number, page)) = reader.next()? {
            pages.push((number, page.to_vec()));
        }
        Ok((*reader.head(), pages))
    }

    fn sample() -> (Head, Pages) {
        let head = Head { page_size: 512, page_count: 9, first: 4, last: 6, time_ms: 1_700 };
        let noise = |seed: u32| (0..512).map(|at| ((at * seed) >> 3) as u8).collect();
        (head, vec![(1, vec![0; 512]), (3, noise(7)), (9, noise(91))])
    }

    #[test]
    fn both_forms_of_pages_come_back() {
        let (head, pages) = sample();
        for framed in [false, true] {
            assert_eq!(read(&file(head, &pages, framed)).unwrap(), (head, pages.clone()));
        }
    }

    #[test]
    fn a_snapshot_without_a_page_is_refused() {
        let (head, pages) = sample();
        let head = Head { first: 1, ..head };
        let error = read(&file(head, &pages, false)).unwrap_err();
        assert!(error.to_string().contains("without all pages"), "{error}");
    }

    proptest! {
        #[test]
        fn no_changed_or_cut_file_is_read(at in 0_usize..2_000, bit in 0_u32..8, cut in any::<bool>()) {
            let (head, pages) = sample();
            let mut bytes = file(head, &pages, false);
            let (whole, at) = (bytes.clone(), at % bytes.len());
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= 1 << bit,
            }
            match read(&bytes) {
                Err(error) => prop_assert_eq!(error.kind(), Kind::CheckFailed),
                // Other bytes of LZ4 for the same page are no damage: the checksum is of pages.
                Ok(found) => {
                    prop_assert!(!cut && bytes != whole);
                    prop_assert_eq!(found, (head, pages));
                }
            }
        }
    }
}
