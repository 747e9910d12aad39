//! The server's own backup manifest: which files a base backup has, with their sizes and checksums.
//!
//! The server writes it (from version 13 on), `pg_verifybackup` reads it. Its last line holds the
//! SHA-256 of all lines before. What is restored is compared with it byte for byte, and each member
//! of a chain with its own, before anything is combined: PostgreSQL's own combining would hide
//! damage under fresh checksums.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lifeboat_core::{Error, Kind, Result};
use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::replication::Lsn;

/// A manifest larger than this is not one.
const BYTES_MAX: usize = 1 << 30;
const LAST_LINE: &[u8] = b"\"Manifest-Checksum\"";

/// A backup manifest that was read and whose own checksum is right.
#[derive(Clone, Debug, Default)]
pub struct ServerManifest {
    /// 1, and 2 from PostgreSQL 17 on.
    pub version: u32,
    /// The cluster's system identifier, from version 2 on.
    pub system_identifier: Option<u64>,
    /// The files, by path relative to the data directory.
    pub files: BTreeMap<String, FileEntry>,
    /// The log that makes the backup consistent, a range for each timeline.
    pub wal_ranges: Vec<WalRange>,
}

/// A file of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was modified last, as the server wrote it.
    pub modified: String,
    /// Its checksum.
    pub checksum: Option<Checksum>,
}

/// A checksum and how it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// How.
    pub algorithm: Algorithm,
    /// Hexadecimal, small letters.
    pub hex: String,
}

/// The algorithms that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// CRC-32C: the default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// What of the log a restore of the backup needs at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: u32,
    /// From this position.
    pub start: u64,
    /// To this one.
    pub end: u64,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<FileText>,
    #[serde(rename = "WAL-Ranges", default)]
    wal_ranges: Vec<RangeText>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileText {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified", default)]
    modified: String,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RangeText {
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl ServerManifest {
    /// Reads it and compares its own checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > BYTES_MAX {
            return Err(damaged("it is too large for one"));
        }
        let text: Text = serde_json::from_slice(bytes)
            .map_err(|error| damaged("it cannot be read").caused_by(error))?;
        if !(1..=2).contains(&text.version) {
            let message = format!("a backup manifest of version {} is unknown", text.version);
            return Err(Error::new(Kind::CheckFailed, message).hint("use a newer lifeboat"));
        }
        let counted = counted(bytes).ok_or_else(|| damaged("its last line is missing"))?;
        let sum = hex(&Sha256::digest(counted));
        if !sum.eq_ignore_ascii_case(&text.checksum) {
            return Err(damaged("its own checksum is wrong"));
        }
        let mut files = BTreeMap::new();
        for file in text.files {
            let (path, entry) = file.read()?;
            if !is_harmless(&path) {
                return Err(damaged(&format!("it names a file outside: {path:?}")));
            }
            if files.insert(path.clone(), entry).is_some() {
                return Err(damaged(&format!("it names {path} twice")));
            }
        }
        let ranges = text.wal_ranges.iter().map(RangeText::read);
        Ok(ServerManifest {
            version: text.version,
            system_identifier: text.system_identifier,
            files,
            wal_ranges: ranges.collect::<Result<_>>()?,
        })
    }

    /// The manifest as the server and its programs read it, with its own checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {},\n", self.version);
        if let Some(identifier) = self.system_identifier.filter(|_| self.version > 1) {
            let _ = writeln!(text, "\"System-Identifier\": {identifier},");
        }
        text.push_str("\"Files\": [");
        for (index, (path, file)) in self.files.iter().enumerate() {
            text.push_str(if index > 0 { ",\n" } else { "\n" });
            let path = serde_json::to_string(path).unwrap_or_default();
            let _ = write!(text, "{{ \"Path\": {path}, \"Size\": {}, ", file.bytes);
            let _ = write!(text, "\"Last-Modified\": \"{}\"", file.modified);
            if let Some(Checksum { algorithm, hex }) = &file.checksum {
                let name = algorithm.name();
                let _ =
                    write!(text, ", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{hex}\"");
            }
            text.push_str(" }");
        }
        text.push_str("\n],\n\"WAL-Ranges\": [");
        for (index, range) in self.wal_ranges.iter().enumerate() {
            text.push_str(if index > 0 { ",\n" } else { "\n" });
            let _ = write!(
                text,
                "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                range.timeline,
                Lsn(range.start),
                Lsn(range.end)
            );
        }
        text.push_str("\n],\n");
        let sum = hex(&Sha256::digest(text.as_bytes()));
        let _ = writeln!(text, "\"Manifest-Checksum\": \"{sum}\"}}");
        text.into_bytes()
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}

impl FileText {
    fn read(self) -> Result<(String, FileEntry)> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path,
            // Bytes that are no UTF-8: no file that the server itself makes has such a name.
            (None, Some(encoded)) => unhex(&encoded)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| damaged(&format!("a file has the name {encoded} in bytes")))?,
            _ => return Err(damaged("a file has no path")),
        };
        let checksum = match (self.algorithm, self.checksum) {
            (Some(name), Some(hex)) => {
                let algorithm = Algorithm::of_name(&name)
                    .ok_or_else(|| damaged(&format!("{path} has a checksum of kind {name}")))?;
                Some(Checksum { algorithm, hex: hex.to_ascii_lowercase() })
            }
            (None, None) => None,
            _ => return Err(damaged(&format!("the checksum of {path} is half there"))),
        };
        Ok((path, FileEntry { bytes: self.size, modified: self.modified, checksum }))
    }
}

impl RangeText {
    fn read(&self) -> Result<WalRange> {
        let position = |text: &str| match text.parse::<Lsn>() {
            Ok(Lsn(position)) => Ok(position),
            Err(error) => Err(damaged("a position cannot be read").caused_by(error)),
        };
        let (start, end) = (position(&self.start)?, position(&self.end)?);
        Ok(WalRange { timeline: self.timeline, start, end })
    }
}

impl Algorithm {
    /// Reads the manifest's word.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "CRC32C" => Algorithm::Crc32c,
            "SHA224" => Algorithm::Sha224,
            "SHA256" => Algorithm::Sha256,
            "SHA384" => Algorithm::Sha384,
            "SHA512" => Algorithm::Sha512,
            _ => return None,
        })
    }

    /// The manifest's word.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32c => "CRC32C",
            Algorithm::Sha224 => "SHA224",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha384 => "SHA384",
            Algorithm::Sha512 => "SHA512",
        }
    }
}

/// Takes the checksum of a file while its bytes go by.
#[derive(Clone)]
pub enum Summer {
    /// CRC-32C so far.
    Crc32c(u32),
    /// SHA-224 so far.
    Sha224(Sha224),
    /// SHA-256 so far.
    Sha256(Sha256),
    /// SHA-384 so far.
    Sha384(Sha384),
    /// SHA-512 so far.
    Sha512(Sha512),
}

impl Summer {
    /// Begins.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32c => Summer::Crc32c(0),
            Algorithm::Sha224 => Summer::Sha224(Sha224::new()),
            Algorithm::Sha256 => Summer::Sha256(Sha256::new()),
            Algorithm::Sha384 => Summer::Sha384(Sha384::new()),
            Algorithm::Sha512 => Summer::Sha512(Sha512::new()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Summer::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            Summer::Sha224(sum) => sum.update(bytes),
            Summer::Sha256(sum) => sum.update(bytes),
            Summer::Sha384(sum) => sum.update(bytes),
            Summer::Sha512(sum) => sum.update(bytes),
        }
    }

    /// The checksum in hexadecimal.
    pub fn finish(self) -> String {
        match self {
            // The server writes the number as it lies in its memory.
            Summer::Crc32c(sum) => hex(&sum.to_le_bytes()),
            Summer::Sha224(sum) => hex(&sum.finalize()),
            Summer::Sha256(sum) => hex(&sum.finalize()),
            Summer::Sha384(sum) => hex(&sum.finalize()),
            Summer::Sha512(sum) => hex(&sum.finalize()),
        }
    }
}

/// Whether a path stays below the folder that it is joined to.
pub fn is_harmless(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    !path.is_empty() && path.split('/').all(part)
}

/// What the checksum in the last line covers: all lines before it.
fn counted(bytes: &[u8]) -> Option<&[u8]> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let at = text.iter().rposition(|byte| *byte == b'\n')? + 1;
    text[at..].starts_with(LAST_LINE).then(|| &bytes[..at])
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::CheckFailed, format!("the server's backup manifest is damaged: {why}"))
        .hint("choose another backup: lifeboat list")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ServerManifest {
        let entry = |bytes, algorithm, hex: &str| FileEntry {
            bytes,
            modified: "2026-11-25 22:00:00 GMT".into(),
            checksum: Some(Checksum { algorithm, hex: hex.into() }),
        };
        let files = [
            ("backup_label", entry(3, Algorithm::Crc32c, "b73f4b36")),
            ("base/1/\"odd\"", entry(0, Algorithm::Sha224, "aa")),
            ("base/1/2", FileEntry { bytes: 5, modified: String::new(), checksum: None }),
        ];
        ServerManifest {
            version: 2,
            system_identifier: Some(7_000_000_000_000_000_123),
            files: files.into_iter().map(|(path, entry)| (path.to_owned(), entry)).collect(),
            wal_ranges: vec![WalRange { timeline: 1, start: 0x1_0200_0028, end: 0x1_0200_0100 }],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let manifest = sample();
        let read = ServerManifest::parse(&manifest.to_bytes()).unwrap();
        assert_eq!(read.files, manifest.files);
        assert_eq!(read.wal_ranges, manifest.wal_ranges);
        assert_eq!(read.system_identifier, manifest.system_identifier);
        assert_eq!(read.bytes(), 8);
    }

    #[test]
    fn each_changed_byte_is_seen() {
        let bytes = sample().to_bytes();
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = ServerManifest::parse(&changed);
            // The letters of its own checksum may be capital or small.
            assert!(read.is_err(), "byte {at} of {}", bytes.len());
        }
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 2] {
            assert!(ServerManifest::parse(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for path in ["../x", "/etc/passwd", "base/../../x", "base//x", "", "base/./x"] {
            let mut manifest = sample();
            let entry = FileEntry { bytes: 1, modified: String::new(), checksum: None };
            manifest.files.insert(path.to_owned(), entry);
            assert!(ServerManifest::parse(&manifest.to_bytes()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn checksums_are_those_of_the_server() {
        let sum = |algorithm| {
            let mut summer = Summer::new(algorithm);
            summer.update(b"ab");
            summer.update(b"c");
            summer.finish()
        };
        assert_eq!(sum(Algorithm::Crc32c), "b73f4b36");
        assert!(sum(Algorithm::Sha256).starts_with("ba7816bf8f01cfea"));
        assert!(sum(Algorithm::Sha224).starts_with("23097d223405d822"));
        assert_eq!(sum(Algorithm::Sha384).len(), 96);
        assert_eq!(sum(Algorithm::Sha512).len(), 128);
    }
}
