//! A base backup that goes by: every file is summed, every page judged. At the end the sums are
//! compared with the server's own manifest, which comes last.

use std::collections::HashMap;

use lifeboat_core::{Error, Kind, Result};

use super::damage::Suspects;
use crate::page::RelationFile;
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
}

/// The file that goes by now.
struct Now {
    path: String,
    bytes: u64,
    crc32c: u32,
    relation: Option<RelationFile>,
    cutter: PageCutter,
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
        self.stream.push(bytes, &mut self.files)
    }

    /// It ended.
    pub(super) fn end(&mut self) -> Result<()> {
        self.stream.finish()
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
            !manifest.files.contains_key(path.as_str()) && !path.starts_with("pg_wal/")
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

impl TarSink for Files {
    fn entry(&mut self, entry: &TarEntry) -> Result<()> {
        let EntryKind::File(bytes) = entry.kind else { return Ok(()) };
        let path = format!("{}{}", self.prefix, entry.path);
        let relation = RelationFile::of_path(&path).filter(|_| self.has_checksums);
        if path.ends_with("_init") && RelationFile::of_path(&path).is_some() {
            self.unlogged += 1;
        }
        if path.starts_with("pg_wal/") {
            self.wal_bytes += bytes;
        }
        let cutter = PageCutter::default();
        self.now = Some(Now { path, bytes, crc32c: 0, relation, cutter });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(now) = &mut self.now else { return Ok(()) };
        now.crc32c = crc32c::crc32c_append(now.crc32c, bytes);
        if let Some(relation) = now.relation {
            let (suspects, path) = (&mut self.suspects, &now.path);
            now.cutter.push(bytes, |index, page| {
                suspects.judge(path, relation, index as u32, page);
            });
        }
        if now.path == LABEL && self.label.len() + bytes.len() <= LABEL_BYTES_MAX {
            self.label.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(now) = self.now.take() else { return Ok(()) };
        let seen = Seen { bytes: now.bytes, crc32c: now.crc32c };
        match self.seen.insert(now.path.clone(), seen) {
            None => Ok(()),
            Some(_) => Err(differs(format!("{} came twice", now.path))),
        }
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
