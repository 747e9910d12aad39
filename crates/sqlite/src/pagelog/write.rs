//! Writing a log file, in one go from the first page to the footer.

use std::io::{Read, Write};
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::pipeline::BlockHash;
use lifeboat_core::repository::Repository;
use lifeboat_core::seal::{Identity, Opener, Recipients, Sealing};
use lifeboat_core::store::{ObjectName, Put, Store};
use lifeboat_core::{Error, Kind, Result};
use zstd_safe::{CCtx, CParameter, get_error_name};

use super::delta::{Encoded, Form};
use super::label::{LABEL, Label, recipients_of};
use super::layout::{Digest, Footer, HEAD_BYTES, Index, head};
use super::names::Span;
use super::read::{LogObject, digest_of, hash_all};

/// What is written at once of pages, in bytes: one by one they would be a call of the system each,
/// and too little at a time for BLAKE3 to be fast.
const WRITE_BYTES: usize = 256 << 10;
/// Hashes do not compress: the fastest level takes the columns beside them.
const INDEX_LEVEL: i32 = 1;

/// A log file on its way into a store. Dropped before [`LogWriter::end`], it never existed.
pub(crate) struct LogWriter {
    object: ObjectName,
    way: Way,
    index: Index,
    written: u64,
    hasher: blake3::Hasher,
    /// What was added and is not written yet.
    waiting: Vec<u8>,
}

/// The way to the store: maybe through a seal.
enum Way {
    Open(Box<Outlet>),
    Sealed(Box<Sealing<Outlet>>, Arc<Identity>),
}

impl Way {
    /// Ends the stream, whose plain size and digest those are.
    fn end(
        self,
        object: ObjectName,
        footer: Footer,
        (plain_bytes, plain): (u64, blake3::Hash),
    ) -> Result<Sent> {
        let (outlet, opened) = match self {
            Way::Open(outlet) => (*outlet, None),
            Way::Sealed(sealing, identity) => {
                let outlet = sealing.finish().map_err(|error| unwritten(&object, error))?;
                (outlet, Some((identity, plain_bytes, plain)))
            }
        };
        let Outlet { put, bytes, hasher } = outlet;
        let digest = hasher.map_or(plain, |hasher| hasher.finalize());
        Ok(Sent { put, stored: Stored { object, footer, bytes, digest, opened } })
    }
}

impl Write for Way {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Way::Open(outlet) => outlet.write(bytes),
            Way::Sealed(sealing, _) => sealing.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is stored, as it is stored.
struct Outlet {
    put: Box<dyn Put>,
    bytes: u64,
    /// Of what is sealed: else it is what its writer hashes.
    hasher: Option<blake3::Hasher>,
}

impl Outlet {
    fn new(put: Box<dyn Put>, is_sealed: bool) -> Self {
        Outlet { put, bytes: 0, hasher: is_sealed.then(blake3::Hasher::new) }
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // All at once: what writes the head of a seal takes a short write for an error.
        self.put.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.put.flush()
    }
}

/// What a file that is begun says of itself before anything of it is known; all of it is for one
/// that is sealed, whose head says it to whoever has no key.
pub(crate) struct Beginning<'a> {
    /// The base.
    pub(crate) base: &'a Manifest,
    /// What it covers.
    pub(crate) span: Span,
    /// Page size in bytes.
    pub(crate) page_size: u32,
    /// Since when, until when all, and until when at most: see [`Footer`].
    pub(crate) times_ms: (i64, i64, i64),
    /// The mark of the file before, and its own where it is made of several: see [`Label`].
    pub(crate) marks: (Digest, Digest),
}

impl Beginning<'_> {
    fn label(&self) -> Label {
        let Beginning { base, span, page_size, times_ms, marks } = self;
        Label {
            source: base.source.id,
            base: base.id,
            from: span.from,
            to: span.to,
            page_size: *page_size,
            since_ms: times_ms.0,
            held_ms: times_ms.1,
            until_ms: times_ms.2,
            mark_before: marks.0,
            mark: marks.1,
        }
    }
}

/// A log file that was sent, and is not visible yet.
pub(crate) struct Sent {
    put: Box<dyn Put>,
    /// What it will be.
    pub(crate) stored: Stored,
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
    /// Of a sealed one: what opens it during this run, and the digest of what lies below the seal.
    opened: Option<(Arc<Identity>, u64, blake3::Hash)>,
}

/// Everything of a footer that its writer does not find out by itself. `index`, `pages`, `content`
/// and the link of a file that is not compacted are set when it is written.
pub(crate) type Facts = Footer;

impl LogWriter {
    /// Begins an object. This is the one place through which the bytes of a log leave. It is sealed
    /// as its base is.
    pub(crate) fn begin(
        repository: &Repository,
        folder: &str,
        beginning: &Beginning<'_>,
    ) -> Result<Self> {
        let recipients = recipients_of(beginning.base)?;
        let prefix = repository.log_prefix(folder, &beginning.base.name);
        let object = beginning.span.object(&prefix, recipients.is_some())?;
        let label = beginning.label();
        LogWriter::at(repository, object, recipients.as_ref(), &label)
    }

    /// Begins an object that is sealed to these, if to any.
    pub(super) fn at(
        repository: &Repository,
        object: ObjectName,
        recipients: Option<&Recipients>,
        label: &Label,
    ) -> Result<Self> {
        // Nothing of a database may lie open beside what is sealed, whatever the way here was.
        if repository.recipients().is_some() && recipients.is_none() {
            let message = format!("{} is sealed, and {object} would not be", repository.url());
            return Err(Error::new(Kind::Refused, message)
                .hint("make a backup there first: it is sealed, and so is its log"));
        }
        let put = repository.store().put(&object)?;
        let outlet = Outlet::new(put, recipients.is_some());
        let way = match recipients {
            None => Way::Open(Box::new(outlet)),
            Some(recipients) => {
                seal(recipients, label, outlet).map_err(|error| unwritten(&object, error))?
            }
        };
        let (index, hasher, waiting) = (Index::new(), blake3::Hasher::new(), Vec::new());
        let mut writer = LogWriter { object, way, index, written: 0, hasher, waiting };
        writer.write(&head(label.page_size))?;
        debug_assert_eq!(writer.written, HEAD_BYTES as u64);
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.way.write_all(bytes).map_err(|error| unwritten(&self.object, error))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Adds pages, in rising order.
    pub(crate) fn add(&mut self, pages: &[Encoded]) -> Result<()> {
        for page in pages {
            self.waiting.extend(&page.stored);
            if self.waiting.len() >= WRITE_BYTES {
                self.write_waiting()?;
            }
            self.index.push(page.page, page.stored.len() as u32, page.form, page.hash);
        }
        Ok(())
    }

    fn write_waiting(&mut self) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.write(&waiting)?;
        waiting.clear();
        self.waiting = waiting;
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

    /// Writes index and footer.
    pub(crate) fn end(mut self, facts: Facts) -> Result<Sent> {
        self.write_waiting()?;
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
        let LogWriter { object, way, written, hasher, .. } = self;
        let plain = (written, hasher.finalize());
        way.end(object, footer, plain)
    }

    /// Writes index and footer, and makes the object visible.
    pub(crate) fn finish(self, facts: Facts) -> Result<Stored> {
        self.end(facts)?.commit()
    }
}

/// Seals to the recipients and to a key that lives as long as the file is written: with it what was
/// stored is opened once before it counts.
fn seal(recipients: &Recipients, label: &Label, outlet: Outlet) -> std::io::Result<Way> {
    let (recipients, identity) = recipients.with_passing_key();
    let sealing = Sealing::begin_labelled(&recipients, (LABEL, &label.to_bytes()), outlet)?;
    Ok(Way::Sealed(Box::new(sealing), Arc::new(identity)))
}

/// Stores a file of another repository, sealed as what is stored here. Nobody knows the mark of the
/// file before it: that one may not be here yet.
pub(crate) fn seal_copy(
    to: &Repository,
    object: ObjectName,
    from: &Repository,
    (file, footer): (&LogObject, &Footer),
) -> Result<Stored> {
    let Some(recipients) = to.recipients() else {
        return Err(Error::new(Kind::Failed, format!("{} seals nothing", to.url())));
    };
    let put = to.store().put(&object)?;
    let outlet = Outlet::new(put, true);
    let way = seal(recipients, &Label::of(footer, [0; 32], [0; 32]), outlet);
    let mut way = way.map_err(|error| unwritten(&object, error))?;
    let mut plain = Hashed { reader: file.read(from)?, hasher: blake3::Hasher::new(), bytes: 0 };
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = plain.read(&mut buffer).map_err(|error| file.unread(from, error))?;
        if read == 0 {
            break;
        }
        way.write_all(&buffer[..read]).map_err(|error| unwritten(&object, error))?;
    }
    let Hashed { hasher, bytes, .. } = plain;
    way.end(object, footer.clone(), (bytes, hasher.finalize()))?.commit()
}

fn unwritten(object: &ObjectName, error: std::io::Error) -> Error {
    let message = format!("cannot write {object} to the repository");
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull => Kind::NoSpace,
        _ => Kind::StoreUnavailable,
    };
    Error::io(kind, message, error)
}

impl Sent {
    /// Makes the object visible.
    pub(crate) fn commit(self) -> Result<Stored> {
        self.put.commit()?;
        Ok(self.stored)
    }
}

impl Stored {
    /// Compares what the store gives with what was sent. Pages were proved when they were encoded.
    pub(crate) fn read_back(&self, env: &Env, repository: &Repository, folder: &str) -> Result<()> {
        let store = repository.store();
        let size = store.head(&self.object)?.map(|info| info.bytes);
        let read = match size == Some(self.bytes) {
            true => self.is_there(store),
            false => Ok(false),
        };
        if let Ok(true) = read {
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

    /// Whether the store gives what was sent; what is sealed is also opened.
    fn is_there(&self, store: &dyn Store) -> Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let Some((identity, plain_bytes, plain_digest)) = &self.opened else {
            digest_of(store, &self.object, self.bytes, &mut hasher)?;
            return Ok(hasher.finalize() == self.digest);
        };
        let mut stored = Hashed { reader: store.get(&self.object, None)?, hasher, bytes: 0 };
        let mut plain = blake3::Hasher::new();
        let opener = Opener::new(Arc::clone(identity), &[]);
        let opened = opener.open(self.object.as_str(), &mut stored)?;
        hash_all(store, &self.object, opened, *plain_bytes, &mut plain)?;
        // The seal's own reader reads as far as it is filled: what is left is read to its end.
        std::io::copy(&mut stored, &mut std::io::sink())
            .map_err(|error| Error::io(Kind::StoreUnavailable, "cannot read it back", error))?;
        let is_same = stored.bytes == self.bytes && stored.hasher.finalize() == self.digest;
        Ok(is_same && plain.finalize() == *plain_digest)
    }
}

/// Hashes what is read through it.
struct Hashed<R> {
    reader: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
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
