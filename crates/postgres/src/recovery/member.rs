//! One base backup of a chain, checked against its own manifest while its streams go by.
//!
//! Every file must be in the server's manifest with this size and checksum, every file of the
//! manifest must come, and pages must be what the server wrote. This holds for each member before
//! anything is made of it: a combination of damaged members would look sound.

use std::collections::HashSet;

use lifeboat_core::{Error, Kind, Result};

use super::increment::{self, IncrementHeader, IncrementStream};
use super::pages::{PageCounts, PageCutter};
use super::tar_stream::{EntryKind, TarEntry, TarSink};
use crate::page::{PAGE_BYTES, RelationFile};
use crate::server_manifest::{FileEntry, ServerManifest, Summer, is_harmless};

/// What a file of a member is.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// The file itself.
    Whole,
    /// Blocks to be put over an older state.
    Increment(&'a IncrementHeader),
}

/// Where files go. Paths are relative to the data directory.
pub trait Destination {
    /// A folder of the backup.
    fn folder(&mut self, path: &str, entry: &TarEntry) -> Result<()>;
    /// A symbolic link of the backup.
    fn link(&mut self, path: &str, target: &str) -> Result<()>;
    /// A file begins.
    fn begin(&mut self, path: &str, entry: &TarEntry, content: Content<'_>) -> Result<()>;
    /// The next bytes of it, at that offset of the file that results.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// The file ended.
    fn end(&mut self) -> Result<()>;
    /// Whether a file is made of what the backup has of it. One that is not may be passed over.
    fn wants(&self, _path: &str) -> bool {
        true
    }
}

/// Goes nowhere: for a check.
pub struct Nowhere;

impl Destination for Nowhere {
    fn folder(&mut self, _path: &str, _entry: &TarEntry) -> Result<()> {
        Ok(())
    }

    fn link(&mut self, _path: &str, _target: &str) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, _path: &str, _entry: &TarEntry, _content: Content<'_>) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The state of a check of one member.
pub struct Member<'a> {
    manifest: &'a ServerManifest,
    /// The log's position where the backup began: younger pages may be half written.
    began_at: Option<u64>,
    seen: HashSet<String>,
    pages: PageCounts,
}

impl<'a> Member<'a> {
    /// Begins.
    pub fn new(manifest: &'a ServerManifest) -> Self {
        let began_at = manifest.wal_ranges.iter().map(|range| range.start).min();
        Member { manifest, began_at, seen: HashSet::new(), pages: PageCounts::default() }
    }

    /// Takes a stream of the member: `prefix` is where its paths begin, such as `pg_tblspc/16385/`.
    pub fn stream<'b>(
        &'b mut self,
        prefix: &'b str,
        destination: &'b mut dyn Destination,
    ) -> MemberStream<'b, 'a> {
        MemberStream { member: self, prefix, destination, file: None }
    }

    /// All streams are over: everything that the manifest names must have come.
    pub fn finish(self) -> Result<PageCounts> {
        let missing: Vec<&str> = self
            .manifest
            .files
            .keys()
            .filter(|path| !self.seen.contains(*path))
            .map(String::as_str)
            .collect();
        match missing.first() {
            None => Ok(self.pages),
            Some(first) => Err(damaged(format!(
                "{} files of the server's manifest are missing, the first is {first}",
                missing.len()
            ))),
        }
    }
}

/// A file that goes by.
struct File<'a> {
    path: String,
    entry: TarEntry,
    expected: Option<&'a FileEntry>,
    summer: Option<Summer>,
    relation: Option<RelationFile>,
    cutter: PageCutter,
    taken_bytes: u64,
    increment: Option<Increment>,
}

/// What is known of an incremental file while it goes by.
#[derive(Default)]
struct Increment {
    stream: IncrementStream,
    /// Bytes of blocks that were passed on.
    passed_bytes: u64,
}

/// One stream of a member.
pub struct MemberStream<'b, 'a> {
    member: &'b mut Member<'a>,
    prefix: &'b str,
    destination: &'b mut dyn Destination,
    file: Option<File<'a>>,
}

impl<'a> MemberStream<'_, 'a> {
    /// Whether an entry need not be read. Then it counts as seen, as far as its header shows it.
    pub(super) fn pass_over(&mut self, entry: &TarEntry) -> Result<bool> {
        let EntryKind::File(bytes) = entry.kind else { return Ok(false) };
        let path = format!("{}{}", self.prefix, entry.path);
        let is_relation = RelationFile::of_path(&path).is_some();
        let result = result_path(&path).filter(|_| is_relation);
        if !is_harmless(&entry.path) || self.destination.wants(result.as_ref().unwrap_or(&path)) {
            return Ok(false);
        }
        self.expected(&path, bytes)?;
        Ok(true)
    }

    /// What the manifest says of a file. `None`: nothing, and rightly so.
    fn expected(&mut self, path: &str, bytes: u64) -> Result<Option<&'a FileEntry>> {
        let files = &self.member.manifest.files;
        let found = files.get_key_value(path);
        if let Some((known, entry)) = found {
            if entry.bytes != bytes {
                return Err(damaged(format!(
                    "{path} has {bytes} bytes, its manifest says {}",
                    entry.bytes
                )));
            }
            if !self.member.seen.insert(known.clone()) {
                return Err(damaged(format!("{path} comes twice")));
            }
            return Ok(Some(entry));
        }
        // The server does not list the log. An increment that we made stands for a file that the
        // manifest lists whole; what results is compared with it.
        let whole = result_path(path).filter(|whole| files.contains_key(whole));
        match whole {
            Some(whole) => {
                self.member.seen.insert(whole);
                Ok(None)
            }
            None if path.starts_with("pg_wal/") => Ok(None),
            None => Err(damaged(format!("{path} is not in the server's manifest"))),
        }
    }

    fn pass_increment(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let Some(increment) = &mut file.increment else { return Ok(()) };
        let mut bytes = bytes;
        if increment.stream.header().is_none() {
            let Some(blocks) = increment.stream.begin(bytes)? else { return Ok(()) };
            let Some(header) = increment.stream.header() else { return Ok(()) };
            if header.file_bytes() != file_size(&file.entry) {
                return Err(damaged(format!("{} has a wrong size", file.entry.path)));
            }
            self.destination.begin(&file.path, &file.entry, Content::Increment(header))?;
            return self.pass_blocks(&blocks);
        }
        while !bytes.is_empty() {
            let piece = bytes.len().min(1 << 20);
            self.pass_blocks(&bytes[..piece])?;
            bytes = &bytes[piece..];
        }
        Ok(())
    }

    /// Passes bytes of blocks on, to the places that they have in the file.
    fn pass_blocks(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let Some(Increment { stream, passed_bytes }) = &mut file.increment else { return Ok(()) };
        let Some(header) = stream.header() else { return Ok(()) };
        if let Some(relation) = file.relation {
            let (pages, path, began_at) =
                (&mut self.member.pages, &file.path, self.member.began_at);
            file.cutter.push(bytes, |index, page| {
                if let Some(block) = header.blocks.get(index) {
                    pages.take(path, relation, *block, page, began_at);
                }
            });
        }
        while !bytes.is_empty() {
            let index = (*passed_bytes / PAGE_BYTES as u64) as usize;
            let within = *passed_bytes % PAGE_BYTES as u64;
            let beyond = || damaged(format!("{} has too many blocks", file.entry.path));
            let block = *header.blocks.get(index).ok_or_else(beyond)?;
            // Blocks that lie beside each other go in one piece.
            let run = run_of(&header.blocks[index..]) as u64 * PAGE_BYTES as u64 - within;
            let (now, later) = bytes.split_at(run.min(bytes.len() as u64) as usize);
            self.destination.write(u64::from(block) * PAGE_BYTES as u64 + within, now)?;
            *passed_bytes += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

impl TarSink for MemberStream<'_, '_> {
    fn entry(&mut self, entry: &TarEntry) -> Result<()> {
        if entry.path.is_empty() || entry.path == "." {
            return Ok(());
        }
        if !is_harmless(&entry.path) {
            return Err(damaged(format!("{:?} leads outside", entry.path)));
        }
        let path = format!("{}{}", self.prefix, entry.path);
        let bytes = match &entry.kind {
            EntryKind::Folder => return self.destination.folder(&path, entry),
            EntryKind::Link(target) => return self.destination.link(&path, target),
            EntryKind::File(bytes) => *bytes,
        };
        let expected = self.expected(&path, bytes)?;
        let checksum = expected.and_then(|expected| expected.checksum.as_ref());
        let relation = RelationFile::of_path(&path);
        let whole = relation.and_then(|_| result_path(&path));
        let increment = whole.is_some().then(Increment::default);
        let is_whole = increment.is_none();
        let file = File {
            path: whole.unwrap_or(path),
            entry: entry.clone(),
            expected,
            summer: checksum.map(|checksum| Summer::new(checksum.algorithm)),
            relation,
            cutter: PageCutter::default(),
            taken_bytes: 0,
            increment,
        };
        if is_whole {
            self.destination.begin(&file.path, entry, Content::Whole)?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Some(summer) = &mut file.summer {
            summer.update(bytes);
        }
        if file.increment.is_some() {
            return self.pass_increment(bytes);
        }
        if let Some(relation) = file.relation {
            let (pages, path, began_at) =
                (&mut self.member.pages, &file.path, self.member.began_at);
            file.cutter.push(bytes, |index, page| {
                pages.take(path, relation, index as u32, page, began_at);
            });
        }
        self.destination.write(file.taken_bytes, bytes)?;
        file.taken_bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let checksum = file.expected.and_then(|expected| expected.checksum.as_ref());
        if let (Some(summer), Some(checksum)) = (file.summer, checksum) {
            let is = summer.finish();
            if is != checksum.hex {
                return Err(damaged(format!(
                    "{}: the {} is {is}, its manifest says {}",
                    file.entry.path,
                    checksum.algorithm.name(),
                    checksum.hex
                )));
            }
        }
        if file.increment.is_some_and(|increment| increment.stream.header().is_none()) {
            return Err(damaged(format!("{} is cut short", file.entry.path)));
        }
        self.destination.end()
    }
}

/// The file that an incremental one is for: `base/5/INCREMENTAL.1259` is for `base/5/1259`.
pub(super) fn result_path(path: &str) -> Option<String> {
    let (folder, name) = path.rsplit_once('/')?;
    Some(format!("{folder}/{}", name.strip_prefix(increment::PREFIX)?))
}

fn file_size(entry: &TarEntry) -> u64 {
    match entry.kind {
        EntryKind::File(bytes) => bytes,
        _ => 0,
    }
}

/// How many of the first numbers follow each other.
fn run_of(blocks: &[u32]) -> usize {
    1 + blocks.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count()
}

fn damaged(why: String) -> Error {
    Error::new(Kind::CheckFailed, format!("the base backup is damaged: {why}"))
        .hint("choose another backup: lifeboat list; look at all of them with lifeboat verify")
}
