//! `global/pg_control`: what a data directory says of itself.
//!
//! The layout belongs to a version of PostgreSQL; its own checksum lies behind the last field, so a
//! layout that we do not know cannot be mistaken for one that we do.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

/// Where it lies in a data directory.
pub const PATH: &str = "global/pg_control";
/// The file is so large; what counts is at its beginning.
pub const FILE_BYTES: usize = 8_192;
/// Versions of the layout that are of PostgreSQL 13 to 18.
const VERSIONS: std::ops::RangeInclusive<u32> = 1300..=1899;

/// A data directory, and whose it is. For whoever is asked while its server writes to the control
/// file: the beginning, which never changes, is all that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDirectory {
    /// The cluster's system identifier.
    pub system: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl DataDirectory {
    /// Looks at a data directory.
    pub fn at(path: &Path) -> Result<DataDirectory> {
        let file = path.join(PATH);
        let mut bytes = [0; 12];
        let read = File::open(&file).and_then(|mut file| file.read_exact(&mut bytes));
        read.map_err(|error| {
            let message = format!("cannot read {}", file.display());
            Error::io(Kind::SourceUnavailable, message, error)
                .hint("the server runs it in its data directory; by hand, change there first")
        })?;
        let [system @ .., a, b, c, d] = bytes;
        let (system, version) = (u64::from_le_bytes(system), u32::from_le_bytes([a, b, c, d]));
        match VERSIONS.contains(&version) && system != 0 {
            true => Ok(DataDirectory { system, path: path.to_owned() }),
            false => Err(Error::new(
                Kind::SourceUnavailable,
                format!("{} is not of PostgreSQL 13 to 18", file.display()),
            )),
        }
    }

    /// The one to which a file of `pg_wal` belongs, as a server names it (`%p`): the current one,
    /// or the one above the file's folder.
    pub fn of_file(path: &Path) -> Result<DataDirectory> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let above = match folder.file_name() {
            Some(_) => folder.parent().unwrap_or(Path::new("")),
            None => Path::new(".."),
        };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match DataDirectory::at(above) {
            Err(_) if above != Path::new(".") => DataDirectory::at(Path::new(".")),
            found => found,
        }
    }
}

/// The facts of `pg_control` that a backup or a restore needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// What makes a cluster itself and no other.
    pub system_identifier: u64,
    /// Version of the layout: 1300, 1700, 1800.
    pub control_version: u32,
    /// Version of the system tables.
    pub catalog_version: u32,
    /// What the server was doing when it was written.
    pub state: State,
    /// Where the newest checkpoint lies in the log.
    pub checkpoint: u64,
    /// From where recovery after that checkpoint begins.
    pub redo: u64,
    /// The timeline of that checkpoint.
    pub timeline: u32,
    /// Recovery must go on at least to here.
    pub minimum_recovery: u64,
    /// What the server was started with; a standby that answers needs as much.
    pub limits: Limits,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Bytes of a file of the log.
    pub wal_segment_bytes: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
}

/// Settings that a standby must not have smaller than its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`
    pub connections: u32,
    /// `max_worker_processes`
    pub worker_processes: u32,
    /// `max_wal_senders`
    pub wal_senders: u32,
    /// `max_prepared_transactions`
    pub prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub locks_per_transaction: u32,
}

/// What a server was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was shut down.
    ShutDown,
    /// It was shut down while it was recovering.
    ShutDownInRecovery,
    /// It was recovering after a crash.
    InCrashRecovery,
    /// It was replaying the archive.
    InArchiveRecovery,
    /// It was running.
    InProduction,
    /// Anything else: starting, shutting down.
    Other,
}

impl Control {
    /// Reads it of a data directory.
    pub fn of_folder(data: &Path) -> Result<Self> {
        let path = data.join(PATH);
        let bytes = std::fs::read(&path).map_err(|error| {
            let message = format!("cannot read {}", path.display());
            Error::io(Kind::SourceUnavailable, message, error)
        })?;
        Control::parse(&bytes).map_err(|error| error.context(format!("{}", path.display())))
    }

    /// Reads it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged =
            |why: String| Error::new(Kind::CheckFailed, format!("pg_control is damaged: {why}"));
        if bytes.len() < 296 {
            return Err(damaged(format!("it has {} bytes", bytes.len())));
        }
        let field = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let wide = |at: usize| u64::from(field(at)) | u64::from(field(at + 4)) << 32;
        let control_version = field(8);
        let sum_at = match control_version {
            1300 | 1700 => 288,
            1800 => 292,
            other => {
                let message = format!("pg_control has version {other}, which is unknown");
                return Err(Error::new(Kind::CheckFailed, message)
                    .hint("PostgreSQL 13 to 18 are known; use a newer lifeboat"));
            }
        };
        if crc32c::crc32c(&bytes[..sum_at]) != field(sum_at) {
            return Err(damaged("its checksum is wrong".into()));
        }
        Ok(Control {
            system_identifier: wide(0),
            control_version,
            catalog_version: field(12),
            state: State::of(field(16)),
            checkpoint: wide(32),
            redo: wide(40),
            timeline: field(48),
            minimum_recovery: wide(136),
            limits: Limits {
                connections: field(180),
                worker_processes: field(184),
                wal_senders: field(188),
                prepared_transactions: field(192),
                locks_per_transaction: field(196),
            },
            page_bytes: field(216),
            wal_segment_bytes: field(228),
            data_checksums: field(252) != 0,
        })
    }
}

impl State {
    fn of(number: u32) -> Self {
        match number {
            1 => State::ShutDown,
            2 => State::ShutDownInRecovery,
            4 => State::InCrashRecovery,
            5 => State::InArchiveRecovery,
            6 => State::InProduction,
            _ => State::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_is_not_known_is_refused() {
        let mut bytes = vec![0; FILE_BYTES];
        for (version, word) in [(1300_u32, "checksum"), (1200, "unknown"), (1900, "unknown")] {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            let error = Control::parse(&bytes).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
        assert!(Control::parse(&bytes[..100]).is_err());
    }
    #[test]
    fn the_cluster_of_a_file_is_the_folder_above_pg_wal() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("global")).unwrap();
        let mut bytes = 7_u64.to_le_bytes().to_vec();
        bytes.extend(1300_u32.to_le_bytes());
        std::fs::write(folder.path().join(PATH), &bytes).unwrap();
        let file = folder.path().join("pg_wal/000000010000000000000003");
        assert_eq!(DataDirectory::of_file(&file).unwrap().system, 7);
        bytes[8] = 0;
        std::fs::write(folder.path().join(PATH), &bytes).unwrap();
        let error = DataDirectory::of_file(&file).unwrap_err();
        assert_eq!(error.kind(), Kind::SourceUnavailable);
    }
}
