//! Reading a log file: its footer, its index, single pages, or all of it to compare its digest.

use std::io::Read;
use std::ops::Range;

use lifeboat_core::pipeline::StoredParts;
use lifeboat_core::repository::Repository;
use lifeboat_core::seal::{self, Opener};
use lifeboat_core::store::{ObjectName, Store};
use lifeboat_core::{Error, Kind, Result};
use zstd_safe::{DCtx, get_error_name};

use super::layout::{Entry, FOOTER_BYTES, Footer, HEAD_BYTES, Index, head};
use super::names::Span;

/// What is read ahead of each file: a log has many.
const AHEAD_BYTES: u64 = 64 << 10;

/// A log file of a store, as its listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogObject {
    /// Its object.
    pub(crate) object: ObjectName,
    /// Its size.
    pub(crate) bytes: u64,
    /// What its name says.
    pub(crate) span: Span,
}

/// The log files of a backup, sorted by where they begin.
pub(crate) fn list(repository: &Repository, folder: &str, backup: &str) -> Result<Vec<LogObject>> {
    let prefix = repository.log_prefix(folder, backup);
    let mut found = Vec::new();
    for info in repository.store().list(Some(&prefix))? {
        let rest = info.name.as_str().strip_prefix(&prefix).and_then(|rest| rest.strip_prefix('/'));
        if let Some(span) = rest.and_then(Span::parse) {
            found.push(LogObject { object: info.name, bytes: info.bytes, span });
        }
    }
    found.sort_by_key(|file| file.span);
    Ok(found)
}

impl LogObject {
    /// Reads the footer. A file that says of itself something else than its name is foreign:
    /// [`Kind::NotCovered`]. A damaged one is [`Kind::CheckFailed`].
    pub(crate) fn footer(&self, repository: &Repository) -> Result<Footer> {
        let cut = || Error::new(Kind::CheckFailed, format!("{} is cut short", self.object));
        let mut parts = self.parts(repository)?;
        let bytes = parts.bytes();
        let start = bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(cut)?;
        let tail = parts.read(start..bytes)?.first_chunk().ok_or_else(cut)?;
        let footer = Footer::parse(tail, bytes).map_err(|error| self.damaged(error))?;
        let named = (footer.from, footer.to) == (self.span.from, self.span.to)
            && footer.is_compacted == (self.span.level > 0);
        match named {
            true => Ok(footer),
            false => Err(self.misplaced(footer.from, footer.to)),
        }
    }

    /// Whether it is sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.object.as_str().ends_with(seal::SUFFIX)
    }

    pub(super) fn misplaced(&self, from: u64, to: u64) -> Error {
        let object = &self.object;
        let message =
            format!("{object} is in the wrong place: it covers the positions {from} to {to}");
        Error::new(Kind::NotCovered, message)
    }

    pub(super) fn damaged(&self, error: Error) -> Error {
        match error.kind() {
            Kind::CheckFailed => error.context(format!("{} is damaged", self.object)),
            _ => error,
        }
    }

    fn opener(&self, repository: &Repository) -> Result<Option<Opener>> {
        let keys = repository.keys().map(AsRef::as_ref);
        let opener = || seal::opener_of(keys, self.object.as_str(), &[]);
        self.is_sealed().then(opener).transpose()
    }

    /// Its bytes, below the seal if it has one.
    fn parts<'a>(&self, repository: &'a Repository) -> Result<StoredParts<'a>> {
        let (store, object) = (repository.store(), &self.object);
        match self.opener(repository)? {
            None => Ok(StoredParts::new(store, object, self.bytes, AHEAD_BYTES)),
            Some(opener) => StoredParts::opened(store, object, self.bytes, AHEAD_BYTES, &opener),
        }
    }

    /// All of its bytes, below the seal if it has one. Errors while it is read may hold ours.
    pub(crate) fn read(&self, repository: &Repository) -> Result<Box<dyn Read + Send>> {
        let stored = repository.store().get(&self.object, None)?;
        match self.opener(repository)? {
            None => Ok(stored),
            Some(opener) => {
                opener.open(self.object.as_str(), stored).map_err(|error| self.damaged(error))
            }
        }
    }

    /// What an error of such a reader is.
    pub(crate) fn unread(&self, repository: &Repository, error: std::io::Error) -> Error {
        unread(repository.store(), &self.object, error)
    }

    /// Opens it to read pages.
    pub(crate) fn open<'a>(
        &self,
        repository: &'a Repository,
        footer: &Footer,
    ) -> Result<LogReader<'a>> {
        let mut parts = self.parts(repository)?;
        self.require_head(parts.read(0..HEAD_BYTES as u64)?, footer)?;
        let index = self.index(parts.read(footer.index.clone())?, footer)?;
        Ok(LogReader { parts, index })
    }

    /// Reads its index and all that is stored of pages, at once: what a file has of them begins
    /// where the first one is stored.
    pub(crate) fn load(
        &self,
        repository: &Repository,
        footer: &Footer,
    ) -> Result<(Index, Vec<u8>)> {
        let mut bytes = self.parts(repository)?.read(0..footer.index.end)?.to_vec();
        let compressed = bytes.split_off(footer.index.start as usize);
        self.require_head(&bytes[..HEAD_BYTES], footer)?;
        bytes.drain(..HEAD_BYTES);
        Ok((self.index(&compressed, footer)?, bytes))
    }

    /// Reads its index, and nothing else.
    pub(crate) fn index_alone(&self, repository: &Repository, footer: &Footer) -> Result<Index> {
        self.index(self.parts(repository)?.read(footer.index.clone())?, footer)
    }

    fn require_head(&self, first: &[u8], footer: &Footer) -> Result<()> {
        if first == head(footer.page_size) {
            return Ok(());
        }
        let wrong = "it does not begin as a log file does, or a newer lifeboat made it";
        Err(self.damaged(Error::new(Kind::CheckFailed, wrong)))
    }

    fn index(&self, compressed: &[u8], footer: &Footer) -> Result<Index> {
        decompress(compressed, Index::bytes_of(footer.pages as usize))
            .and_then(|plain| Index::parse(&plain, footer))
            .map_err(|error| self.damaged(error))
    }

    /// Reads all of it and compares the digest that its footer has.
    pub(crate) fn check_content(&self, repository: &Repository, footer: &Footer) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        let (store, object, content) = (repository.store(), &self.object, footer.index.end);
        match self.is_sealed() {
            false => digest_of(store, object, content, &mut hasher)?,
            true => hash_all(store, object, self.read(repository)?, content, &mut hasher)?,
        }
        match hasher.finalize().as_bytes() == &footer.content {
            true => Ok(()),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("{} is damaged: its content is not what was written", self.object),
            )),
        }
    }
}

/// Hashes the first bytes of an object.
pub(crate) fn digest_of(
    store: &dyn Store,
    object: &ObjectName,
    bytes: u64,
    hasher: &mut blake3::Hasher,
) -> Result<()> {
    hash_all(store, object, store.get(object, Some(0..bytes))?, bytes, hasher)
}

/// Hashes the first bytes of what is read of an object.
pub(crate) fn hash_all(
    store: &dyn Store,
    object: &ObjectName,
    reader: impl Read,
    bytes: u64,
    hasher: &mut blake3::Hasher,
) -> Result<()> {
    let mut reader = reader.take(bytes);
    let mut buffer = vec![0; 256 << 10];
    let mut left = bytes;
    loop {
        let got = match reader.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| unread(store, object, error))?,
        };
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        left -= got as u64;
    }
    match left {
        0 => Ok(()),
        _ => Err(Error::new(Kind::CheckFailed, format!("{object} is cut short"))),
    }
}

/// An error of reading an object: ours as it is, another one named.
fn unread(store: &dyn Store, object: &ObjectName, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) if error.kind() == Kind::CheckFailed => {
            error.context(format!("{object} is damaged"))
        }
        Ok(error) => error,
        Err(error) => {
            let message = format!("cannot read {object} of {}", store.url());
            Error::io(Kind::StoreUnavailable, message, error)
        }
    }
}

/// A log file whose index is known.
pub(crate) struct LogReader<'a> {
    parts: StoredParts<'a>,
    pub(crate) index: Index,
}

impl LogReader<'_> {
    /// What is stored of a page; fastest in rising order.
    pub(crate) fn stored(&mut self, entry: &Entry) -> Result<&[u8]> {
        self.range(entry.stored.clone())
    }

    /// What is stored there: of pages that follow one another.
    pub(crate) fn range(&mut self, stored: Range<u64>) -> Result<&[u8]> {
        self.parts.read(stored)
    }
}

fn decompress(compressed: &[u8], plain_bytes: usize) -> Result<Vec<u8>> {
    let mut plain = vec![0; plain_bytes];
    let damaged = || Error::new(Kind::CheckFailed, "its index cannot be decompressed");
    let written = DCtx::create()
        .decompress(&mut plain[..], compressed)
        .map_err(|code| damaged().caused_by(get_error_name(code)))?;
    match written == plain_bytes {
        true => Ok(plain),
        false => Err(damaged()),
    }
}
