//! Hashes of all blocks of a physical backup, by file: what the next one is compared with, where
//! the server does not know itself which blocks changed.
//!
//! One stream: eight bytes that name the format, then for each file of a relation, in the order of
//! the backup: the length of its path (two bytes), the path, how many blocks it has (four bytes),
//! and 16 bytes of BLAKE3 for each. A length of zero ends it. They are many, so they lie in files
//! without a name, never in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lifeboat_core::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"LBBLOCK1";
pub(crate) const HASH_BYTES: usize = 16;
/// So many hashes of the older backup are read at once.
const AHEAD: usize = 8_192;

/// The hash of a block.
pub(crate) type Hash = [u8; HASH_BYTES];

pub(crate) fn hash_of(block: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(&blake3::hash(block).as_bytes()[..HASH_BYTES]);
    hash
}

/// Hashes on their way to the repository.
pub(super) struct HashWriter {
    file: BufWriter<File>,
    bytes: u64,
    /// Where the number of the open file's blocks belongs, and how many there are.
    open: Option<(u64, u32)>,
}

impl HashWriter {
    /// Begins, in a file of that folder that nobody else sees.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|error| failed(folder, error))?;
        let mut writer =
            HashWriter { file: BufWriter::with_capacity(256 << 10, file), bytes: 0, open: None };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    /// A file begins. Its blocks follow.
    pub(super) fn begin(&mut self, path: &str) -> Result<()> {
        self.end()?;
        let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
        self.put(&length.to_le_bytes())?;
        self.put(&path.as_bytes()[..usize::from(length)])?;
        self.open = Some((self.bytes, 0));
        self.put(&[0; 4])
    }

    /// The next block's hash.
    pub(super) fn push(&mut self, hash: &Hash) -> Result<()> {
        if let Some((_, count)) = &mut self.open {
            *count += 1;
        }
        self.put(hash)
    }

    /// The file ended.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some((at, count)) = self.open.take() else { return Ok(()) };
        let wrote = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().write_all_at(&count.to_le_bytes(), at));
        wrote.map_err(|error| failed(Path::new("a scratch file"), error))
    }

    /// All of it, from its beginning.
    pub(super) fn finish(mut self) -> Result<(File, u64)> {
        self.end()?;
        self.put(&[0, 0])?;
        let failed = |error| failed(Path::new("a scratch file"), error);
        let mut file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok((file, self.bytes))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| failed(Path::new("a scratch file"), error))
    }
}

/// The hashes of an older backup.
#[derive(Debug)]
pub(crate) struct HashIndex {
    file: File,
    /// Where the hashes of each file begin, and how many there are.
    places: HashMap<String, (u64, u32)>,
}

/// The hashes of one of its files, read in order.
pub(crate) struct FileHashes {
    begin: u64,
    count: u32,
    read: Vec<u8>,
    /// The block that `read` begins with.
    first: u32,
}

impl HashIndex {
    /// Finds the files in the stream.
    pub(crate) fn of(file: File) -> Result<Self> {
        let damaged = |error: std::io::Error| {
            Error::new(Kind::CheckFailed, "the block hashes of the backup before cannot be read")
                .caused_by(error)
        };
        let mut reader = std::io::BufReader::with_capacity(64 << 10, file);
        reader.seek(SeekFrom::Start(0)).map_err(damaged)?;
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic).map_err(damaged)?;
        if &magic != MAGIC {
            return Err(damaged(std::io::Error::other("their beginning is unknown")));
        }
        let mut places = HashMap::new();
        let mut at = MAGIC.len() as u64;
        loop {
            let mut length = [0; 2];
            reader.read_exact(&mut length).map_err(damaged)?;
            let length = u16::from_le_bytes(length);
            if length == 0 {
                break;
            }
            let mut path = vec![0; usize::from(length)];
            let mut count = [0; 4];
            reader.read_exact(&mut path).map_err(damaged)?;
            reader.read_exact(&mut count).map_err(damaged)?;
            let count = u32::from_le_bytes(count);
            at += 2 + u64::from(length) + 4;
            let bytes = u64::from(count) * HASH_BYTES as u64;
            places.insert(String::from_utf8_lossy(&path).into_owned(), (at, count));
            at += bytes;
            reader.seek_relative(bytes as i64).map_err(damaged)?;
        }
        Ok(HashIndex { file: reader.into_inner(), places })
    }

    /// The hashes of a file, if it was in that backup.
    pub(crate) fn file(&self, path: &str) -> Option<FileHashes> {
        let (begin, count) = *self.places.get(path)?;
        Some(FileHashes { begin, count, read: Vec::new(), first: 0 })
    }
}

impl FileHashes {
    /// How many blocks the file has.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Whether a block had that hash.
    pub(crate) fn had(&mut self, index: &HashIndex, block: u32, hash: &Hash) -> Result<bool> {
        if block >= self.count {
            return Ok(false);
        }
        let behind = self.first + (self.read.len() / HASH_BYTES) as u32;
        if !(self.first..behind).contains(&block) {
            let count = ((self.count - block) as usize).min(AHEAD);
            self.read.resize(count * HASH_BYTES, 0);
            let at = self.begin + u64::from(block) * HASH_BYTES as u64;
            index.file.read_exact_at(&mut self.read, at).map_err(|error| {
                Error::io(Kind::Failed, "cannot read the hashes of the backup before", error)
            })?;
            self.first = block;
        }
        let at = (block - self.first) as usize * HASH_BYTES;
        Ok(self.read[at..at + HASH_BYTES] == hash[..])
    }
}

fn failed(place: &Path, error: std::io::Error) -> Error {
    let message = format!("cannot write block hashes to {}", place.display());
    Error::io(Kind::Failed, message, error)
        .hint("choose another folder for scratch files with TMPDIR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_by_file_and_block() {
        let mut writer = HashWriter::new(Path::new("/var/tmp")).unwrap();
        let hash = |file: u8, block: u32| hash_of(&[&[file][..], &block.to_le_bytes()].concat());
        for (file, blocks) in [(1, 20_000), (2, 0), (3, 1)] {
            writer.begin(&format!("base/5/{file}")).unwrap();
            (0..blocks).for_each(|block| writer.push(&hash(file, block)).unwrap());
            writer.end().unwrap();
        }
        let (file, bytes) = writer.finish().unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes);
        let index = HashIndex::of(file).unwrap();
        let mut first = index.file("base/5/1").unwrap();
        for block in [0, 1, 8_191, 8_192, 19_999, 3] {
            assert!(first.had(&index, block, &hash(1, block)).unwrap(), "{block}");
            assert!(!first.had(&index, block, &hash(2, block)).unwrap(), "{block}");
        }
        assert!(!first.had(&index, 20_000, &hash(1, 20_000)).unwrap());
        assert!(!index.file("base/5/2").unwrap().had(&index, 0, &hash(2, 0)).unwrap());
        assert!(index.file("base/5/3").unwrap().had(&index, 0, &hash(3, 0)).unwrap());
        assert!(index.file("base/5/4").is_none());
    }

    #[test]
    fn what_is_cut_is_refused() {
        let mut writer = HashWriter::new(Path::new("/var/tmp")).unwrap();
        writer.begin("base/5/1").unwrap();
        writer.push(&Hash::default()).unwrap();
        let (file, bytes) = writer.finish().unwrap();
        file.set_len(bytes - 2).unwrap();
        assert_eq!(HashIndex::of(file).unwrap_err().kind(), Kind::CheckFailed);
    }
}
