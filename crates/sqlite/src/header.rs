//! The first 100 bytes of a database file, and what a file is that does not begin with them.

use lifeboat_core::{Error, Kind, Result};

/// The first 16 bytes of every SQLite 3 database.
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 100;

/// The byte of a database file at which its locks begin; the page that holds it has no content.
pub(crate) const LOCK_BYTE: u64 = 0x4000_0000;

/// The header of a database, as it is on its first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Page size in bytes: a power of two from 512 to 65536.
    pub(crate) page_size: u32,
    /// 2 for a database in WAL mode, 1 for a rollback journal.
    pub(crate) read_version: u8,
    /// Bytes at the end of each page that belong to an extension.
    pub(crate) reserved_bytes: u8,
    /// Pages by the header, where it can be relied on (see [`Header::page_count`]).
    page_count_claimed: u32,
    change_counter: u32,
    version_valid_for: u32,
    /// Pages on the list of free pages.
    pub(crate) freelist_count: u32,
    /// Changes with every change of the schema.
    pub(crate) schema_cookie: u32,
    /// Not zero for auto_vacuum.
    largest_root: u32,
    /// Not zero for incremental auto_vacuum.
    incremental_vacuum: u32,
    /// 1 UTF-8, 2 UTF-16 little-endian, 3 UTF-16 big-endian; 0 in a database without a schema.
    encoding: u32,
    /// `PRAGMA user_version`.
    pub(crate) user_version: i32,
    /// `PRAGMA application_id`.
    pub(crate) application_id: i32,
}

impl Header {
    /// Reads a header. `None` where it is not one of SQLite 3 or its page size is impossible.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return None;
        }
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let page_size = match u32::from(u16::from_be_bytes([bytes[16], bytes[17]])) {
            1 => 65536,
            size if size >= 512 && size.is_power_of_two() => size,
            _ => return None,
        };
        Some(Header {
            page_size,
            read_version: bytes[19],
            reserved_bytes: bytes[20],
            change_counter: word(24),
            page_count_claimed: word(28),
            freelist_count: word(36),
            schema_cookie: word(40),
            largest_root: word(52),
            encoding: word(56),
            user_version: word(60) as i32,
            incremental_vacuum: word(64),
            application_id: word(68) as i32,
            version_valid_for: word(92),
        })
    }

    /// Pages by the header; `None` where the last writer was too old to keep the field.
    pub(crate) fn page_count(&self) -> Option<u32> {
        let kept = self.page_count_claimed != 0 && self.change_counter == self.version_valid_for;
        kept.then_some(self.page_count_claimed)
    }

    /// Whether readers must look for a `-wal`.
    pub(crate) fn is_wal(&self) -> bool {
        self.read_version == 2
    }

    /// "none", "full" or "incremental".
    pub(crate) fn auto_vacuum(&self) -> &'static str {
        match (self.largest_root, self.incremental_vacuum) {
            (0, _) => "none",
            (_, 0) => "full",
            _ => "incremental",
        }
    }

    /// The encoding as `PRAGMA encoding` names it.
    pub(crate) fn encoding(&self) -> &'static str {
        match self.encoding {
            2 => "UTF-16le",
            3 => "UTF-16be",
            _ => "UTF-8",
        }
    }

    /// "wal", or "rollback" for the journal modes that a file does not tell apart.
    pub(crate) fn journal_mode(&self) -> &'static str {
        if self.is_wal() { "wal" } else { "rollback" }
    }
}

/// The number of the page that holds the lock bytes.
pub(crate) fn lock_page(page_size: u32) -> u32 {
    (LOCK_BYTE / u64::from(page_size)) as u32 + 1
}

/// The error for a file that is no SQLite database, with what it looks like. `first` are its
/// first bytes, a few thousand where it has so many.
pub(crate) fn foreign(path: &std::path::Path, first: &[u8]) -> Error {
    let name = path.display();
    if first.is_empty() {
        return Error::new(Kind::CheckFailed, format!("{name} is empty: no database is in it"))
            .hint("check the path: an application that was given a wrong path makes such files");
    }
    let (looks_like, hint) = looks_like(first);
    Error::new(
        Kind::CheckFailed,
        format!("{name} is not a SQLite database: it looks like {looks_like}"),
    )
    .hint(hint)
}

/// Requires the header of a database.
pub(crate) fn require(path: &std::path::Path, first: &[u8]) -> Result<Header> {
    match Header::parse(first) {
        Some(header) => Ok(header),
        None if first.starts_with(MAGIC) => Err(Error::new(
            Kind::CheckFailed,
            format!("{} has a damaged header: its page size is impossible", path.display()),
        )
        .hint("restore it from a backup, or rescue its rows with `lifeboat salvage`")),
        None => Err(foreign(path, first)),
    }
}

fn looks_like(first: &[u8]) -> (&'static str, &'static str) {
    const UNPACK: &str = "unpack it first, or `lifeboat restore` it if it is a backup";
    const CHECK: &str = "check the path";
    const KNOWN: &[(&[u8], &str, &str)] = &[
        (b"\x1f\x8b", "a gzip file", UNPACK),
        (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
        (b"\xfd7zXZ\0", "an xz file", UNPACK),
        (b"BZh", "a bzip2 file", UNPACK),
        (b"PK\x03\x04", "a zip archive", UNPACK),
        (b"age-encryption.org/", "a file encrypted with age", "decrypt it first"),
        (b"** This file contains an SQLite 2", "a SQLite 2 database", "convert it to SQLite 3"),
        (b"PGDMP", "a dump of PostgreSQL", CHECK),
        (b"\x37\x7f\x06", "the `-wal` of a database", "name the database itself"),
        (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", "a rollback journal", "name the database itself"),
        (b"\x7fELF", "a program", CHECK),
    ];
    if let Some((_, name, hint)) = KNOWN.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return (name, hint);
    }
    if first.iter().all(|&byte| byte == 0) {
        const HINT: &str = "restore it from a backup, or rescue its rows: `lifeboat salvage`";
        return ("a file whose beginning was overwritten with zeros", HINT);
    }
    let printable =
        |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e) || *byte >= 0x80;
    if std::str::from_utf8(&first[..first.len().min(512)]).is_ok_and(|text| !text.is_empty())
        && first.iter().all(printable)
    {
        return ("text", CHECK);
    }
    match is_random(first) {
        true => (
            "an encrypted database (SQLCipher and the like)",
            "back it up while nobody uses it, as a file: `files = [...]` with method `cold`",
        ),
        false => ("something else", CHECK),
    }
}

/// Whether bytes are spread as evenly as only encryption and compression spread them.
fn is_random(bytes: &[u8]) -> bool {
    if bytes.len() < 512 {
        return false;
    }
    let mut counts = [0_u32; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    // Chi-square against an even spread: 255 expected, with a deviation of 22.6.
    let expected = bytes.len() as f64 / 256.0;
    let deviation =
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum::<f64>();
    deviation < 400.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn message(first: &[u8]) -> String {
        foreign(Path::new("/x.db"), first).message().to_owned()
    }

    #[test]
    fn foreign_files_are_named() {
        assert!(message(b"").contains("is empty"));
        assert!(message(b"\x1f\x8b\x08\x00").contains("gzip"));
        assert!(message(b"PRAGMA foreign_keys=OFF;\nBEGIN").contains("text"));
        assert!(message(&[0; 4096]).contains("zeros"));
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        assert!(message(&noise).contains("encrypted"));
    }

    #[test]
    fn page_sizes_at_both_ends() {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..18].copy_from_slice(&[0, 1]);
        assert_eq!(Header::parse(&bytes).unwrap().page_size, 65536);
        bytes[16..18].copy_from_slice(&512_u16.to_be_bytes());
        assert_eq!(Header::parse(&bytes).unwrap().page_size, 512);
        bytes[16..18].copy_from_slice(&256_u16.to_be_bytes());
        assert!(Header::parse(&bytes).is_none());
        assert_eq!(lock_page(4096), 262_145);
        assert_eq!(lock_page(65536), 16_385);
    }
}
