//! Reading a log file: its footer, its index, single pages, or all of it to compare its digest.

use std::io::Read;

use lifeboat_core::pipeline::StoredParts;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectName, Store};
use lifeboat_core::{Error, Kind, Result};
use zstd_safe::{DCtx, get_error_name};

use super::layout::{Entry, FOOTER_BYTES, Footer, Index, head};
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
    pub(crate) fn footer(&self, store: &dyn Store) -> Result<Footer> {
        let damaged = |error: Error| match error.kind() {
            Kind::CheckFailed => error.context(format!("{} is damaged", self.object)),
            _ => error,
        };
        let cut = || Error::new(Kind::CheckFailed, format!("{} is cut short", self.object));
        let start = self.bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(cut)?;
        let mut parts = StoredParts::new(store, &self.object, self.bytes, AHEAD_BYTES);
        let tail = parts.read(start..self.bytes)?.first_chunk().ok_or_else(cut)?;
        let footer = Footer::parse(tail, self.bytes).map_err(damaged)?;
        let named = (footer.from, footer.to) == (self.span.from, self.span.to)
            && footer.is_compacted == (self.span.level > 0);
        match named {
            true => Ok(footer),
            false => Err(Error::new(
                Kind::NotCovered,
                format!(
                    "{} is in the wrong place: it covers the positions {} to {}",
                    self.object, footer.from, footer.to
                ),
            )),
        }
    }

    /// Opens it to read pages.
    pub(crate) fn open<'a>(
        &self,
        repository: &'a Repository,
        footer: &Footer,
    ) -> Result<LogReader<'a>> {
        let mut parts = StoredParts::new(repository.store(), &self.object, self.bytes, AHEAD_BYTES);
        let first = parts.read(0..head(0).len() as u64)?;
        let damaged = |error: Error| error.context(format!("{} is damaged", self.object));
        if first != head(footer.page_size) {
            let wrong = "it does not begin as a log file does, or a newer lifeboat made it";
            return Err(damaged(Error::new(Kind::CheckFailed, wrong)));
        }
        let compressed = parts.read(footer.index.clone())?;
        let plain_bytes = Index::bytes_of(footer.pages as usize);
        let index = decompress(compressed, plain_bytes)
            .and_then(|plain| Index::parse(&plain, footer))
            .map_err(damaged)?;
        Ok(LogReader { parts, index })
    }

    /// Reads all of it and compares the digest that its footer has.
    pub(crate) fn check_content(&self, store: &dyn Store, footer: &Footer) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        let content = footer.index.end;
        digest_of(store, &self.object, content, &mut hasher)?;
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
    let mut reader = store.get(object, Some(0..bytes))?.take(bytes);
    let mut buffer = vec![0; 256 << 10];
    let mut left = bytes;
    loop {
        let got = match reader.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| {
                let message = format!("cannot read {object} of {}", store.url());
                Error::io(Kind::StoreUnavailable, message, error)
            })?,
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

/// A log file whose index is known.
pub(crate) struct LogReader<'a> {
    parts: StoredParts<'a>,
    pub(crate) index: Index,
}

impl LogReader<'_> {
    /// What is stored of a page; fastest in rising order.
    pub(crate) fn stored(&mut self, entry: &Entry) -> Result<&[u8]> {
        self.parts.read(entry.stored.clone())
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
