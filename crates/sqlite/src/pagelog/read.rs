//! Reading a log file: its footer, its index, single pages, or all of it to compare its digest.

use std::cmp::Reverse;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::pipeline::StoredParts;
use lifeboat_core::repository::Repository;
use lifeboat_core::seal::{self, Opener};
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Store};
use lifeboat_core::{Error, Kind, Result};
use zstd_safe::{DCtx, get_error_name};

use super::layout::{Entry, FOOTER_BYTES, Footer, HEAD_BYTES, Index, head};
use super::names::Span;
use super::pack::{Pack, Shelf};

/// What is read ahead of each file: a log has many.
const AHEAD_BYTES: u64 = 64 << 10;

/// A log file of a store, as its listing shows it.
#[derive(Clone, Debug)]
pub(crate) struct LogObject {
    /// Its object, or that of the pack in which it is.
    pub(crate) object: ObjectName,
    /// Its size; of one in a pack about that, until its footer was read.
    pub(crate) bytes: u64,
    /// What its name says.
    pub(crate) span: Span,
    /// The pack in which it is, and its place there.
    pub(crate) pack: Option<(Arc<Pack>, usize)>,
}

/// What a listing shows of a log.
pub(crate) struct Listing {
    /// Its files, sorted by where they begin, each once.
    pub(crate) files: Vec<LogObject>,
    /// The packs in which some of them are.
    pub(crate) packs: Vec<Arc<Pack>>,
    /// Objects of which all is in a pack as well.
    pub(crate) spare: Vec<ObjectInfo>,
    /// When each pack was stored, by the store's clock.
    pub(crate) packed_at: Vec<Timestamp>,
}

/// The log files of a backup.
pub(crate) fn list(repository: &Repository, folder: &str, backup: &str) -> Result<Listing> {
    let prefix = repository.log_prefix(folder, backup);
    let objects = repository.store().list(Some(&prefix))?;
    Ok(listing(&prefix, objects))
}

/// What objects are of a log, whose names begin so.
pub(crate) fn listing(prefix: &str, objects: Vec<ObjectInfo>) -> Listing {
    let (mut files, mut packs) = (Vec::new(), Vec::new());
    for info in objects {
        let rest = info.name.as_str().strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
        match rest.map(|rest| (Span::parse(rest), Span::parse_pack(rest))) {
            Some((Some(span), _)) => files.push((span, info)),
            // Each of its files takes some bytes: nobody can make us hold room for more.
            Some((_, Some(span))) if span.to - span.from <= info.bytes / Pack::FILE_BYTES_MIN => {
                packs.push((span, info));
            }
            _ => {}
        }
    }
    let mut listing =
        Listing { files: Vec::new(), packs: Vec::new(), spare: Vec::new(), packed_at: Vec::new() };
    let shelf = Arc::new(Shelf::default());
    // Of packs that begin at one place the longest.
    packs.sort_by_key(|(span, _)| (span.from, Reverse(span.to)));
    let mut packed_to = 0;
    for (span, info) in packs {
        // Two programs may have packed at once: what is behind the end of the pack before counts.
        let number = usize::try_from(packed_to.max(span.from) - span.from).unwrap_or(usize::MAX);
        if span.to <= packed_to {
            listing.spare.push(info);
            continue;
        }
        packed_to = span.to;
        listing.packed_at.push(info.modified);
        let pack = Arc::new(Pack::new(info.name, info.bytes, span, Arc::clone(&shelf)));
        listing.files.extend((number..pack.count()).map(|number| LogObject::packed(&pack, number)));
        listing.packs.push(pack);
    }
    let is_packed = |span: &Span| {
        let at = listing.packs.partition_point(|pack| pack.span.to <= span.from);
        span.level == 0 && listing.packs.get(at).is_some_and(|pack| pack.span.from <= span.from)
    };
    for (span, info) in files {
        match is_packed(&span) {
            true => listing.spare.push(info),
            false => listing.files.push(LogObject::whole(info, span)),
        }
    }
    listing.files.sort_by_key(|file| file.span);
    listing
}

/// The files that an object of a log holds: one, or those of a pack.
pub(crate) fn files_of(object: &ObjectInfo) -> Result<Vec<LogObject>> {
    let (prefix, name) = split(object.name.as_str());
    match (Span::parse(name), listing(prefix, vec![object.clone()])) {
        (Some(span), _) => Ok(vec![LogObject::whole(object.clone(), span)]),
        (None, Listing { files, .. }) if !files.is_empty() => Ok(files),
        _ => {
            let message = format!("{} is no file of a log", object.name);
            Err(Error::new(Kind::CheckFailed, message))
        }
    }
}

/// The prefix of an object's name, and level and file behind it.
pub(crate) fn split(name: &str) -> (&str, &str) {
    let at = name.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at);
    (&name[..at], name[at..].trim_start_matches('/'))
}

impl LogObject {
    /// One that is an object of its own.
    pub(crate) fn whole(info: ObjectInfo, span: Span) -> Self {
        LogObject { object: info.name, bytes: info.bytes, span, pack: None }
    }

    /// One that is in a pack, at that place.
    pub(crate) fn packed(pack: &Arc<Pack>, number: usize) -> Self {
        let from = pack.span.from + number as u64;
        LogObject {
            object: pack.object.clone(),
            bytes: pack.bytes / pack.count() as u64,
            span: Span { from, to: from + 1, level: 0 },
            pack: Some((Arc::clone(pack), number)),
        }
    }

    /// Its size as it is stored.
    pub(crate) fn size(&self, repository: &Repository) -> Result<u64> {
        match &self.pack {
            None => Ok(self.bytes),
            Some((pack, number)) => pack.file_bytes(repository.store(), *number),
        }
    }

    /// What is stored of it there.
    pub(crate) fn get(&self, repository: &Repository, range: Range<u64>) -> Result<ObjectReader> {
        self.get_of(repository, range, false)
    }

    /// The same; with `all` the same of others that are near is likely to be read next.
    fn get_of(
        &self,
        repository: &Repository,
        range: Range<u64>,
        all: bool,
    ) -> Result<ObjectReader> {
        let store = repository.store();
        match &self.pack {
            None => store.get(&self.object, Some(range)),
            Some((pack, number)) => pack.get(store, (*number, all), range),
        }
    }

    /// All that is stored of it.
    pub(crate) fn stored(&self, repository: &Repository) -> Result<ObjectReader> {
        match &self.pack {
            None => repository.store().get(&self.object, None),
            Some(_) => self.get_of(repository, 0..self.size(repository)?, true),
        }
    }

    /// Hashes the first bytes of what is stored of it.
    pub(crate) fn hash_stored(
        &self,
        repository: &Repository,
        bytes: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<()> {
        let reader = self.get_of(repository, 0..bytes, true)?;
        hash_all(repository.store(), &self.object, reader, bytes, hasher)
    }

    /// Reads the footer. A file that says of itself something else than its name is foreign:
    /// [`Kind::NotCovered`]. A damaged one is [`Kind::CheckFailed`].
    pub(crate) fn footer(&self, repository: &Repository) -> Result<Footer> {
        let cut = || Error::new(Kind::CheckFailed, format!("{} is cut short", self.object));
        // A seal is opened from its beginning, and that of the next one with it.
        let mut parts = self.parts_of(repository, self.is_sealed())?;
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
    pub(crate) fn parts<'a>(&self, repository: &'a Repository) -> Result<StoredParts<'a>> {
        self.parts_of(repository, false)
    }

    fn parts_of<'a>(&self, repository: &'a Repository, all: bool) -> Result<StoredParts<'a>> {
        let file = self.clone();
        let get = move |range| file.get_of(repository, range, all);
        let parts = StoredParts::of(&self.object, get, self.size(repository)?, AHEAD_BYTES);
        match self.opener(repository)? {
            None => Ok(parts),
            Some(opener) => parts.opened(&opener),
        }
    }

    /// All of its bytes, below the seal if it has one. Errors while it is read may hold ours.
    pub(crate) fn read(&self, repository: &Repository) -> Result<Box<dyn Read + Send>> {
        let stored = self.stored(repository)?;
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
        let mut bytes = self.parts_of(repository, true)?.read(0..footer.index.end)?.to_vec();
        let compressed = bytes.split_off(footer.index.start as usize);
        self.require_head(&bytes[..HEAD_BYTES], footer)?;
        bytes.drain(..HEAD_BYTES);
        Ok((self.index(&compressed, footer)?, bytes))
    }

    /// Reads its index, and nothing else.
    pub(crate) fn index_alone(&self, repository: &Repository, footer: &Footer) -> Result<Index> {
        self.index(self.parts_of(repository, true)?.read(footer.index.clone())?, footer)
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
        let content = footer.index.end;
        match self.is_sealed() {
            false => self.hash_stored(repository, content, &mut hasher)?,
            true => {
                let (store, reader) = (repository.store(), self.read(repository)?);
                hash_all(store, &self.object, reader, content, &mut hasher)?;
            }
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
