//! What a server says of itself before a physical backup begins.

use lifeboat_core::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use crate::replication::{ReplicationConnection, SystemIdentity};

/// The oldest version whose backups have a manifest.
const MAJOR_MIN: u32 = 13;

/// A cluster, as its server tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterFacts {
    pub(super) identity: SystemIdentity,
    pub(super) version: String,
    pub(super) major: u32,
    pub(super) page_bytes: u64,
    pub(super) wal_segment_bytes: u64,
    pub(super) has_checksums: bool,
    /// From version 17 on: whether the server writes down which blocks change.
    pub(super) summarizes_wal: bool,
}

impl ClusterFacts {
    /// Asks for them.
    pub(super) fn read(connection: &mut ReplicationConnection, what: &str) -> Result<Self> {
        let (version, major) = (connection.server_version().to_owned(), connection.server_major());
        if major < MAJOR_MIN {
            let message = format!("{what}: the server has version {version}, which is too old");
            return Err(Error::new(Kind::SourceUnavailable, message)
                .hint("physical backups need 13 or newer; dumps work: physical = false"));
        }
        let identity = connection.identify_system()?;
        let number = |text: &str| {
            let wrong = || Error::new(Kind::Failed, format!("{what}: `{text}` is no size"));
            bytes_of(text).ok_or_else(wrong)
        };
        let summarizes_wal = major >= 17 && connection.show("summarize_wal")? == "on";
        Ok(ClusterFacts {
            identity,
            version,
            major,
            page_bytes: number(&connection.show("block_size")?)?,
            wal_segment_bytes: number(&connection.show("wal_segment_size")?)?,
            has_checksums: connection.show("data_checksums")? == "on",
            summarizes_wal,
        })
    }

    /// Whether the server itself can know which blocks changed.
    pub(super) fn knows_changes(&self) -> bool {
        self.major >= 17
    }

    /// As a manifest keeps them.
    pub(super) fn to_manifest(&self) -> Map<String, Value> {
        let facts = json!({
            "engine": "PostgreSQL",
            "server_version": self.version,
            "server_major": self.major,
            // As text: a number of this size is not the same to every reader of JSON.
            "system_identifier": self.identity.system_identifier.to_string(),
            "page_bytes": self.page_bytes,
            "wal_segment_bytes": self.wal_segment_bytes,
            "data_checksums": self.has_checksums,
        });
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }
}

/// A size as `SHOW` gives it: `16MB`, `1GB`, `8192`.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_server_shows_them() {
        for (text, bytes) in [("16MB", 16 << 20), ("8192", 8_192), ("1GB", 1 << 30)] {
            assert_eq!(bytes_of(text), Some(bytes));
        }
        for wrong in ["", "MB", "16 MB", "16mb", "-1"] {
            assert_eq!(bytes_of(wrong), None, "{wrong}");
        }
    }
}
