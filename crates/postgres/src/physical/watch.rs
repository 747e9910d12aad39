//! A base backup that goes by: every file is summed, every page judged. At the end the sums are
//! compared with the server's own manifest, which comes last.

use std::collections::HashMap;
use std::sync::Arc;

use lifeboat_core::source::Sink;
use lifeboat_core::{Error, Kind, Result};

use super::damage::Suspects;
use super::page_hashes::{FileHashes, HashWriter, hash_of};
use super::parent::Parent;
use super::rewrite::Rewrite;
use crate::page::{PAGE_BYTES, RelationFile};
use crate::recovery::increment::{IncrementStream, PREFIX};
use crate::recovery::pages::PageCutter;
use crate::recovery::tar_stream::{EntryKind, TarEntry, TarSink, TarStream};
use crate::server_manifest::{Algorithm, ServerManifest};

/// The file that says where recovery begins. One larger than this is none.
const LABEL_BYTES_MAX: usize = 64 << 10;
const LABEL: &str = "backup_label";

/// What is known of a file that went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    crc32c: u32,
}

/// A base backup that goes by.
pub(super) struct Watch {
    stream: TarStream,
    files: Files,
}

/// What is known of its files.
pub(super) struct Files {
    /// What stands before the paths of this archive: `pg_tblspc/16385/`.
    prefix: String,
    seen: HashMap<String, Seen>,
    now: Option<Now>,
    /// `backup_label`, as it is.
    label: Vec<u8>,
    /// How many relations are unlogged: they come back empty.
    unlogged: u64,
    wal_bytes: u64,
    suspects: Suspects,
    /// Whether pages carry checksums.
    has_checksums: bool,
    /// What is done with blocks, where the server does not know which of them changed.
    pub(super) blocks: Option<Blocks>,
}

/// Blocks are hashed, and those that an older backup has are left out.
pub(super) struct Blocks {
    /// The hashes of all.
    pub(super) writer: HashWriter,
    /// The older backup, and the stream without its blocks.
    pub(super) older: Option<(Arc<Parent>, Rewrite)>,
}

/// The file that goes by now.
struct Now {
    path: String,
    bytes: u64,
    crc32c: u32,
    relation: Option<RelationFile>,
    cutter: PageCutter,
    /// Of one that holds some blocks only: which.
    increment: Option<IncrementStream>,
    /// Whether its blocks are hashed.
    is_hashed: bool,
    /// The hashes that it had in the older backup.
    older: Option<FileHashes>,
}

/// A stream on its way: what is known of its files, and where it goes if it is not passed on as it
/// is.
struct Passing<'a> {
    files: &'a mut Files,
    sink: Option<&'a mut dyn Sink>,
}

impl Watch {
    /// Begins. `began_at` is where in the log the backup began.
    pub(super) fn new(has_checksums: bool, began_at: u64) -> Self {
        let files = Files {
            prefix: String::new(),
            seen: HashMap::new(),
            now: None,
            label: Vec::new(),
            unlogged: 0,
            wal_bytes: 0,
            suspects: Suspects::new(began_at),
            has_checksums,
            blocks: None,
        };
        Watch { stream: TarStream::default(), files }
    }

    /// An archive begins: the main one, or that of a tablespace.
    pub(super) fn begin(&mut self, tablespace: Option<u32>) {
        self.stream = TarStream::default();
        self.files.prefix = match tablespace {
            Some(oid) => format!("pg_tblspc/{oid}/"),
            None => String::new(),
        };
    }

    /// Its next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.push(bytes, &mut Passing { files: &mut self.files, sink: None })
    }

    /// Its next bytes, which are passed on: as they are, or without what an older backup has.
    pub(super) fn pass(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Result<()> {
        let rewrites = self.files.rewrite().is_some();
        if !rewrites {
            self.push(bytes)?;
            return super::capture::put(bytes, sink);
        }
        self.stream.push(bytes, &mut Passing { files: &mut self.files, sink: Some(sink) })
    }

    /// It ended.
    pub(super) fn end(&mut self) -> Result<()> {
        self.stream.finish()
    }

    /// It ended, and was passed on.
    pub(super) fn end_passed(&mut self, sink: &mut dyn Sink) -> Result<()> {
        self.end()?;
        self.files.rewrite().map_or(Ok(()), |rewrite| rewrite.finish(sink))
    }

    /// The hashes of all blocks, once.
    pub(super) fn take_blocks(&mut self) -> Option<Blocks> {
        self.files.blocks.take()
    }

    /// Hashes blocks from now on.
    pub(super) fn hash_blocks(&mut self, blocks: Blocks) {
        self.files.blocks = Some(blocks);
    }

    /// What was seen.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }
}

impl Files {
    /// Compares what went by with what the server says that it sent.
    pub(super) fn compare(&self, manifest: &ServerManifest) -> Result<()> {
        for (path, told) in &manifest.files {
            let Some(seen) = self.seen.get(path) else {
                // An increment of ours stands for the whole file: only their combination tells.
                if self.seen.contains_key(&increment_path(path)) {
                    continue;
                }
                return Err(differs(format!("{path} did not come")));
            };
            if seen.bytes != told.bytes {
                let (is, must) = (seen.bytes, told.bytes);
                return Err(differs(format!("{path} has {is} bytes, must have {must}")));
            }
            let checksum = told.checksum.as_ref();
            let checksum = checksum.filter(|told| told.algorithm == Algorithm::Crc32c);
            if checksum.is_some_and(|told| !is_sum(seen.crc32c, &told.hex)) {
                return Err(differs(format!("the bytes of {path} are not those that were read")));
            }
        }
        // The log is read while it grows, and not listed.
        let unknown = |path: &&String| {
            !manifest.files.contains_key(path.as_str())
                && !manifest.files.contains_key(&path.replacen(PREFIX, "", 1))
                && !path.starts_with("pg_wal/")
        };
        match self.seen.keys().find(unknown) {
            Some(path) => Err(differs(format!("{path} came, and is not in it"))),
            None => Ok(()),
        }
    }

    /// A line of `backup_label`: `BACKUP FROM` is `standby` or `primary`.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        let text = std::str::from_utf8(&self.label).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// How many files went by.
    pub(super) fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    /// How many relations are unlogged: they come back empty.
    pub(super) fn unlogged(&self) -> u64 {
        self.unlogged
    }

    /// How many bytes of the log are in it.
    pub(super) fn wal_bytes(&self) -> u64 {
        self.wal_bytes
    }

    /// What was found among the pages.
    pub(super) fn suspects(&self) -> &Suspects {
        &self.suspects
    }
}

impl Files {
    fn rewrite(&mut self) -> Option<&mut Rewrite> {
        self.blocks.as_mut()?.older.as_mut().map(|(_, rewrite)| rewrite)
    }

    /// A file begins.
    fn begin(&mut self, entry: &TarEntry, bytes: u64) -> Result<()> {
        let path = format!("{}{}", self.prefix, entry.path);
        let relation = RelationFile::of_path(&path);
        let is_increment = relation.is_some()
            && path.rsplit('/').next().is_some_and(|name| name.starts_with(PREFIX));
        if path.ends_with("_init") && relation.is_some() {
            self.unlogged += 1;
        }
        if path.starts_with("pg_wal/") {
            self.wal_bytes += bytes;
        }
        let is_hashed = self.blocks.is_some()
            && relation.is_some()
            && !is_increment
            && bytes.is_multiple_of(PAGE_BYTES as u64);
        let mut older = None;
        if let Some(blocks) = self.blocks.as_mut().filter(|_| is_hashed) {
            blocks.writer.begin(&path)?;
            let hashes = blocks.older.as_ref().and_then(|(parent, _)| parent.hashes.as_ref());
            older = hashes.and_then(|hashes| hashes.file(&path)).filter(|_| bytes > 0);
        }
        self.now = Some(Now {
            path,
            bytes,
            crc32c: 0,
            relation: relation.filter(|_| self.has_checksums || is_hashed),
            cutter: PageCutter::default(),
            increment: is_increment.then(IncrementStream::default),
            is_hashed,
            older,
        });
        Ok(())
    }

    /// Bytes of the file, or of its blocks where it holds only some.
    fn pages(&mut self, bytes: &[u8]) -> Result<()> {
        let Files { now: Some(now), suspects, blocks, has_checksums, .. } = self else {
            return Ok(());
        };
        let Some(relation) = now.relation else { return Ok(()) };
        let Now { cutter, path, increment, older, .. } = now;
        let header = increment.as_ref().and_then(IncrementStream::header);
        let mut outcome = Ok(());
        cutter.push(bytes, |index, page| {
            let number = match header {
                Some(header) => header.blocks.get(index).copied().unwrap_or(u32::MAX),
                None => index as u32,
            };
            if *has_checksums {
                suspects.judge(path, relation, number, page);
            }
            if let Some(blocks) = blocks.as_mut().filter(|_| now.is_hashed)
                && outcome.is_ok()
            {
                outcome = blocks.take(older.as_mut(), number, page);
            }
        });
        outcome
    }

    /// Bytes of a file that begins with the numbers of its blocks.
    fn increment(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(Now { increment: Some(increment), .. }) = &mut self.now else { return Ok(()) };
        if increment.header().is_some() {
            return self.pages(bytes);
        }
        increment.begin(bytes)?.map_or(Ok(()), |blocks| self.pages(&blocks))
    }
}

impl Blocks {
    /// Hashes a block, and keeps it if the older backup lacks it.
    fn take(&mut self, older: Option<&mut FileHashes>, number: u32, page: &[u8]) -> Result<()> {
        let hash = hash_of(page);
        self.writer.push(&hash)?;
        let (Some(older), Some((parent, rewrite))) = (older, &mut self.older) else {
            return Ok(());
        };
        let Some(index) = &parent.hashes else { return Ok(()) };
        match older.had(index, number, &hash)? {
            true => Ok(()),
            false => rewrite.block(number, page),
        }
    }
}

impl TarSink for Passing<'_> {
    fn entry(&mut self, entry: &TarEntry) -> Result<()> {
        let bytes = match entry.kind {
            EntryKind::File(bytes) => {
                self.files.begin(entry, bytes)?;
                bytes
            }
            _ => 0,
        };
        let collects = self.files.now.as_ref().is_some_and(|now| now.older.is_some());
        match (self.files.rewrite(), &mut self.sink) {
            (Some(rewrite), _) if collects => rewrite.collect(entry, bytes),
            (Some(rewrite), Some(sink)) => rewrite.pass(entry, bytes, *sink)?,
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(now) = &mut self.files.now else { return Ok(()) };
        now.crc32c = crc32c::crc32c_append(now.crc32c, bytes);
        let is_label = now.path == LABEL;
        match now.increment.is_some() {
            true => self.files.increment(bytes)?,
            false => self.files.pages(bytes)?,
        }
        if is_label && self.files.label.len() + bytes.len() <= LABEL_BYTES_MAX {
            self.files.label.extend_from_slice(bytes);
        }
        match (self.files.rewrite(), &mut self.sink) {
            (Some(rewrite), Some(sink)) if !rewrite.collects() => rewrite.data(bytes, *sink),
            (Some(_), Some(sink)) => {
                sink.pass_over(bytes.len() as u64);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<()> {
        let Some(now) = self.files.now.take() else { return Ok(()) };
        if now.increment.is_some_and(|increment| increment.header().is_none()) {
            return Err(differs(format!("{} is cut short", now.path)));
        }
        if let Some(blocks) = self.files.blocks.as_mut().filter(|_| now.is_hashed) {
            blocks.writer.end()?;
        }
        if let (Some(rewrite), Some(sink)) = (self.files.rewrite(), &mut self.sink) {
            rewrite.end(*sink)?;
        }
        let seen = Seen { bytes: now.bytes, crc32c: now.crc32c };
        match self.files.seen.insert(now.path.clone(), seen) {
            None => Ok(()),
            Some(_) => Err(differs(format!("{} came twice", now.path))),
        }
    }
}

/// The name of a file that holds some blocks of another.
fn increment_path(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/{PREFIX}{name}"),
        None => format!("{PREFIX}{path}"),
    }
}

/// Whether that is the sum: the server writes its bytes in the order of its processor.
fn is_sum(crc32c: u32, hex: &str) -> bool {
    let written = u32::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 8);
    written.is_some_and(|sum| sum == crc32c || sum == crc32c.swap_bytes())
}

fn differs(why: String) -> Error {
    Error::new(Kind::CheckFailed, format!("the backup differs from the server's manifest: {why}"))
        .hint("run it again; if it happens again, look at the memory and the network of this host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_known_in_either_order() {
        assert!(is_sum(0x0102_0304, "04030201") && is_sum(0x0102_0304, "01020304"));
        for wrong in ["", "4030201", "004030201", "0403020g", "05030201"] {
            assert!(!is_sum(0x0102_0304, wrong), "{wrong}");
        }
    }
}
