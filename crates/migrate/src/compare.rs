//! Compares a table on both sides: its rows and what they are, and where they differ, which.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::identifier;
use lifeboat_postgres::replication::LoadingConnection;
use rusqlite::Connection;

use crate::binary::{HEAD, RowReader, TAIL};
use crate::digest::{Digest, RowHash};
use crate::layout::{Converted, Layout, read_rows};
use crate::schema::Table;
use crate::target::Value;

/// Rows are sorted by their keys into so many heaps; only heaps that differ are looked at again.
const HEAPS: usize = 4_096;
/// So many rows of heaps that differ are held at once.
const ROWS_MAX: usize = 100_000;

/// Where two sides of a table differ.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differences {
    /// Rows by what names them: only in SQLite, only on the server, not the same.
    pub(crate) missing: Vec<String>,
    pub(crate) added: Vec<String>,
    pub(crate) changed: Vec<String>,
    /// Whether there are more than were looked at.
    pub(crate) is_cut: bool,
}

/// Reads a table from the server. `each` gets the values of each row, and its hash.
pub(crate) fn digest_of_server(
    env: &Env,
    connection: &mut LoadingConnection,
    layout: &Layout,
    mut each: impl FnMut(&[Value<'_>], u128) -> Result<()>,
) -> Result<Digest> {
    let nonsense = || {
        let message = format!("the server sends rows of {} that make no sense", layout.name);
        Error::new(Kind::CheckFailed, message)
    };
    let width = layout.width();
    let mut rows = connection.copy_out(&format!(
        "COPY (SELECT {} FROM {}) TO stdout (FORMAT binary)",
        layout.all(),
        identifier(&layout.name)
    ))?;
    let (mut digest, mut hash) = (Digest::default(), RowHash::default());
    let (mut is_first, mut is_whole) = (true, false);
    while let Some(mut piece) = rows.next_piece()? {
        if std::mem::take(&mut is_first) {
            piece = piece.strip_prefix(HEAD).ok_or_else(nonsense)?;
        }
        if piece == TAIL {
            is_whole = true;
            continue;
        }
        if digest.rows.is_multiple_of(1_024) {
            env.proceed()?;
        }
        let mut row = RowReader::new(piece, width).ok_or_else(nonsense)?;
        let mut values = Vec::with_capacity(width);
        for place in 0..width {
            let value = row.next(layout.target(place)).ok_or_else(nonsense)?;
            hash.value(&value);
            values.push(value);
        }
        if !row.is_empty() {
            return Err(nonsense());
        }
        let row = hash.finish();
        digest.add(row);
        each(&values, row)?;
    }
    match is_whole {
        true => Ok(digest),
        false => Err(nonsense()),
    }
}

/// Reads a table from SQLite in the same way: its digest, and how many rows were put aside.
pub(crate) fn digest_of_sqlite(
    env: &Env,
    connection: &Connection,
    (table, layout): (&Table, &Layout),
    mut each: impl FnMut(&[Value<'_>], u128) -> Result<()>,
) -> Result<(Digest, u64)> {
    let (mut digest, mut hash, mut aside) = (Digest::default(), RowHash::default(), 0);
    read_rows(env, connection, table, layout, |_, values, converted| {
        if let Converted::Aside(..) = converted {
            aside += 1;
            return Ok(());
        }
        values.iter().for_each(|value| hash.value(value));
        let row = hash.finish();
        digest.add(row);
        each(values, row)
    })?;
    Ok((digest, aside))
}

/// Looks for the rows that differ: twice over both sides, in bounded memory.
pub(crate) fn differences(
    env: &Env,
    reader: &Connection,
    connection: &mut LoadingConnection,
    table: &Table,
    layout: &Layout,
) -> Result<Differences> {
    let mut heaps = (vec![0_u128; HEAPS], vec![0_u128; HEAPS]);
    let mut keys = Keys::new(layout);
    digest_of_sqlite(env, reader, (table, layout), |values, row| {
        let heap = &mut heaps.0[keys.heap(values, row)];
        *heap = heap.wrapping_add(row);
        Ok(())
    })?;
    digest_of_server(env, connection, layout, |values, row| {
        let heap = &mut heaps.1[keys.heap(values, row)];
        *heap = heap.wrapping_add(row);
        Ok(())
    })?;
    let differs: Vec<bool> =
        heaps.0.iter().zip(&heaps.1).map(|(one, other)| one != other).collect();
    let mut found: BTreeMap<(u128, u64), Pair> = BTreeMap::new();
    let mut is_cut = false;
    let mut times: BTreeMap<u128, u64> = BTreeMap::new();
    digest_of_sqlite(env, reader, (table, layout), |values, row| {
        if differs[keys.heap(values, row)] {
            is_cut |= !note(&mut found, &mut times, (keys.hash, keys.name(values)), row, true);
        }
        Ok(())
    })?;
    times.clear();
    digest_of_server(env, connection, layout, |values, row| {
        if differs[keys.heap(values, row)] {
            is_cut |= !note(&mut found, &mut times, (keys.hash, keys.name(values)), row, false);
        }
        Ok(())
    })?;
    let mut differences = Differences { is_cut, ..Differences::default() };
    for pair in found.into_values() {
        match (pair.here, pair.there) {
            (Some(here), Some(there)) if here == there => {}
            (Some(_), Some(_)) => differences.changed.push(pair.name),
            (Some(_), None) => differences.missing.push(pair.name),
            _ => differences.added.push(pair.name),
        }
    }
    Ok(differences)
}

/// A row on both sides.
struct Pair {
    name: String,
    here: Option<u128>,
    there: Option<u128>,
}

/// Notes a row. A key may be there several times: the first one is the pair of the first one.
fn note(
    found: &mut BTreeMap<(u128, u64), Pair>,
    times: &mut BTreeMap<u128, u64>,
    (key, name): (u128, String),
    row: u128,
    is_here: bool,
) -> bool {
    let time = times.entry(key).or_default();
    *time += 1;
    let place = (key, *time);
    if found.len() >= ROWS_MAX && !found.contains_key(&place) {
        return false;
    }
    let pair = found.entry(place).or_insert(Pair { name, here: None, there: None });
    match is_here {
        true => pair.here = Some(row),
        false => pair.there = Some(row),
    }
    true
}

/// What names rows: their key, or all of the row where there is none.
struct Keys<'a> {
    layout: &'a Layout,
    hasher: RowHash,
    hash: u128,
}

impl<'a> Keys<'a> {
    fn new(layout: &'a Layout) -> Self {
        Keys { layout, hasher: RowHash::default(), hash: 0 }
    }

    fn heap(&mut self, values: &[Value<'_>], row: u128) -> usize {
        let by_rowid = self.layout.rowid.is_some().then(|| values.len() - 1);
        self.hash = match (self.layout.key.is_empty(), by_rowid) {
            (true, None) => row,
            (true, Some(place)) => {
                self.hasher.value(&values[place]);
                self.hasher.finish()
            }
            (false, _) => {
                self.layout.key.iter().for_each(|place| self.hasher.value(&values[*place]));
                self.hasher.finish()
            }
        };
        (self.hash % HEAPS as u128) as usize
    }

    fn name(&self, values: &[Value<'_>]) -> String {
        let mut name = String::new();
        let all: Vec<usize> = match (self.layout.key.is_empty(), &self.layout.rowid) {
            (false, _) => self.layout.key.clone(),
            (true, Some(_)) => vec![values.len() - 1],
            (true, None) => (0..values.len()).collect(),
        };
        for place in all {
            let column = self.layout.columns.get(place).map_or("rowid", |one| &one.column);
            let separator = if name.is_empty() { "" } else { ", " };
            let _ = write!(name, "{separator}{column} {}", shown(&values[place]));
        }
        name
    }
}

fn shown(value: &Value<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        Value::Null => "NULL".into(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => format!("{number:?}"),
        Value::Numeric(text) => text.to_string(),
        Value::Boolean(is) => is.to_string(),
        Value::Text(bytes) => crate::scan::shown(ValueRef::Text(bytes)),
        Value::Bytes(bytes) => crate::scan::shown(ValueRef::Blob(bytes)),
        Value::Instant(micros) => crate::time::shown(*micros),
        Value::Day(days) => format!("day {days}"),
        Value::Uuid(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
