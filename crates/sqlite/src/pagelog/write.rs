//! Writing a log file, in one go from the first page to the footer.

use std::io::Write;

use lifeboat_core::env::Env;
use lifeboat_core::pipeline::BlockHash;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectName, Put};
use lifeboat_core::{Error, Kind, Result};
use zstd_safe::{CCtx, CParameter, get_error_name};

use super::delta::{Encoded, Form};
use super::layout::{Footer, HEAD_BYTES, Index, head};
use super::read::digest_of;

/// Hashes do not compress: the fastest level takes the columns beside them.
const INDEX_LEVEL: i32 = 1;

/// A log file on its way into a store. Dropped before [`LogWriter::finish`], it never existed.
pub(crate) struct LogWriter {
    object: ObjectName,
    put: Box<dyn Put>,
    index: Index,
    written: u64,
    hasher: blake3::Hasher,
}

/// A log file that was stored.
pub(crate) struct Stored {
    /// Its object.
    pub(crate) object: ObjectName,
    /// What it says of itself.
    pub(crate) footer: Footer,
    /// Its size.
    pub(crate) bytes: u64,
    /// BLAKE3 of all of it.
    pub(crate) digest: blake3::Hash,
}

/// Everything of a footer that its writer does not find out by itself. `index`, `pages`, `content`
/// and the link of a file that is not compacted are set when it is written.
pub(crate) type Facts = Footer;

impl LogWriter {
    /// Begins an object. This is the one place through which the bytes of a log leave.
    pub(crate) fn begin(
        repository: &Repository,
        object: ObjectName,
        page_size: u32,
    ) -> Result<Self> {
        // Whoever asks for a log should know; nothing of a database may lie open beside what is
        // sealed, whatever the way here was.
        if repository.recipients().is_some() {
            let message = format!("{} is sealed, and a log is not yet", repository.url());
            return Err(Error::new(Kind::Refused, message)
                .hint("make whole backups there, or follow into another repository"));
        }
        let put = repository.store().put(&object)?;
        let (index, hasher) = (Index::new(), blake3::Hasher::new());
        let mut writer = LogWriter { object, put, index, written: 0, hasher };
        writer.write(&head(page_size))?;
        debug_assert_eq!(writer.written, HEAD_BYTES as u64);
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.put.write_all(bytes).map_err(|error| {
            let message = format!("cannot write {} to the repository", self.object);
            let kind = match error.kind() {
                std::io::ErrorKind::StorageFull => Kind::NoSpace,
                _ => Kind::StoreUnavailable,
            };
            Error::io(kind, message, error)
        })?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Adds pages, in rising order.
    pub(crate) fn add(&mut self, pages: &[Encoded]) -> Result<()> {
        for page in pages {
            self.write(&page.stored)?;
            self.index.push(page.page, page.stored.len() as u32, page.form, page.hash);
        }
        Ok(())
    }

    /// Tells form and hash of each page that was added.
    pub(crate) fn each(&self, mut tell: impl FnMut(u32, Form, BlockHash)) {
        self.index.entries().for_each(|entry| tell(entry.page, entry.form, entry.hash));
    }

    /// How many pages were added.
    pub(crate) fn pages(&self) -> usize {
        self.index.len()
    }

    /// Writes index and footer, and makes the object visible.
    pub(crate) fn finish(mut self, facts: Facts) -> Result<Stored> {
        let start = self.written;
        let index = self.index.to_bytes();
        let compressed = compress(&index)?;
        self.write(&compressed)?;
        let mut footer = Footer {
            index: start..self.written,
            pages: self.index.len() as u32,
            content: *self.hasher.finalize().as_bytes(),
            ..facts
        };
        if !footer.is_compacted {
            footer.link = footer.own_link();
        }
        self.write(&footer.to_bytes())?;
        let (bytes, digest) = (self.written, self.hasher.finalize());
        self.put.commit()?;
        Ok(Stored { object: self.object, footer, bytes, digest })
    }
}

impl Stored {
    /// Compares what the store gives with what was sent. Pages were proved when they were encoded.
    pub(crate) fn read_back(&self, env: &Env, repository: &Repository, folder: &str) -> Result<()> {
        let store = repository.store();
        let mut hasher = blake3::Hasher::new();
        let size = store.head(&self.object)?.map(|info| info.bytes);
        let read = match size == Some(self.bytes) {
            true => digest_of(store, &self.object, self.bytes, &mut hasher),
            false => Ok(()),
        };
        if read.is_ok() && size == Some(self.bytes) && hasher.finalize() == self.digest {
            return Ok(());
        }
        let (object, url) = (&self.object, repository.url());
        let message = format!("{object}, read back from {url}, is not what was sent");
        if let Err(error) = store.delete(object) {
            env.warn(folder, &format!("{object} is left behind: {error}"));
        }
        match read {
            Err(error) if error.kind() != Kind::CheckFailed => Err(error.context(message)),
            _ => Err(Error::new(Kind::CheckFailed, message).hint(
                "the storage damages what it is given: check the disk and its cables, then try \
                 again",
            )),
        }
    }
}

fn compress(plain: &[u8]) -> Result<Vec<u8>> {
    let failed = |code| Error::new(Kind::Failed, "zstd failed").caused_by(get_error_name(code));
    let mut context = CCtx::create();
    for parameter in [CParameter::CompressionLevel(INDEX_LEVEL), CParameter::ChecksumFlag(true)] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    let mut compressed = vec![0; zstd_safe::compress_bound(plain.len())];
    let written = context.compress2(&mut compressed[..], plain).map_err(failed)?;
    compressed.truncate(written);
    Ok(compressed)
}
