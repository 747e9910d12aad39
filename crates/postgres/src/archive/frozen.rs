//! The contents of an archive that is loaded with `COPY ... WITH (FREEZE)`.
//!
//! Rows that are frozen from the beginning are written once. Others are written a second time, to
//! the log as well, when the first reader notes in them that their transaction was committed. The
//! server allows it where the table was made empty in the same transaction: `pg_restore` with
//! several jobs does that, for tables that it made itself, before it loads them.

use std::collections::HashSet;

use crate::script::copied_table;

use super::{Contents, Entry, Head, number};

/// How a statement ends that takes rows.
const ENDING: &str = " FROM stdin;\n";
const FROZEN_ENDING: &str = " FROM stdin WITH (FREEZE);\n";
/// By so much each statement grows.
const GROWTH: u64 = (FROZEN_ENDING.len() - ENDING.len()) as u64;

/// The tables that an archive itself makes: nothing else was made empty.
pub(crate) struct MadeTables(HashSet<String>);

impl MadeTables {
    pub(crate) fn of(contents: &Contents) -> Self {
        let tables = contents.entries.iter().filter(|entry| entry.kind == "TABLE");
        MadeTables(tables.map(Entry::table).collect())
    }

    /// The statement that takes the rows of that entry frozen, where they may be.
    pub(crate) fn frozen_copy(&self, entry: &Entry) -> Option<String> {
        let name = entry.table();
        // Rows of a partition may be given to the table that it is a part of.
        let is_its_own = copied_table(&entry.copy).is_some_and(|table| table == name);
        let begin = entry.copy.strip_suffix(ENDING)?;
        let may_be = entry.has_rows && is_its_own && self.0.contains(&name);
        may_be.then(|| [begin, FROZEN_ENDING].concat())
    }
}

/// Head and contents, with statements that freeze.
#[derive(Debug, Default)]
pub(crate) struct FrozenHead {
    /// Their bytes.
    pub(crate) bytes: Vec<u8>,
    /// The offsets behind which everything has moved.
    grown_at: Vec<u64>,
}

impl FrozenHead {
    /// The rows of tables that the archive itself makes are frozen.
    pub(crate) fn of(head: &Head<'_>) -> Self {
        let entries = &head.contents.entries;
        let made = MadeTables::of(head.contents);
        let mut frozen = FrozenHead::default();
        let mut done = 0;
        for (entry, place) in entries.iter().zip(head.copy_places) {
            let text = *place + 1 + head.int_bytes;
            let length = number(&head.bytes[*place..text]).unsigned_abs() as usize;
            let Some(statement) = made.frozen_copy(entry) else { continue };
            frozen.bytes.extend_from_slice(&head.bytes[done..*place]);
            frozen.bytes.push(0);
            let length_bytes = (statement.len() as u64).to_le_bytes();
            frozen.bytes.extend_from_slice(&length_bytes[..head.int_bytes]);
            frozen.bytes.extend_from_slice(statement.as_bytes());
            done = text + length;
            frozen.grown_at.push(done as u64);
        }
        frozen.bytes.extend_from_slice(&head.bytes[done..]);
        frozen
    }

    /// Where that is now what was at an offset of the archive.
    pub(crate) fn moved(&self, offset: u64) -> u64 {
        let before = self.grown_at.partition_point(|grown_at| *grown_at <= offset);
        offset + before as u64 * GROWTH
    }
}
