//! The tables of a state that SQLite does not read for us, from the pages of its schema.
//!
//! Only what counting rows needs is read: kind, name and root page of each entry. Anything that
//! does not hold together ends the reading without an answer; nothing is guessed.

use lifeboat_core::Result;

use crate::header::Header;
use crate::rows::TableRoot;
use crate::snapshot::Snapshot;

/// As much of an entry as is read: its statement stands last and is not needed.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Pages of a schema that are followed at most.
const PAGES_MAX: usize = 100_000;

/// The tables that have a b-tree of their own, sorted by name, without SQLite's own. `None`
/// where the schema does not hold together.
pub(crate) fn tables(snapshot: &mut Snapshot, header: &Header) -> Result<Option<Vec<TableRoot>>> {
    let mut reader = Reader { snapshot, header };
    let mut tables = Vec::new();
    let mut open = vec![1];
    let mut visited = 0;
    while let Some(page) = open.pop() {
        visited += 1;
        let Some(bytes) = reader.page(page)?.filter(|_| visited <= PAGES_MAX) else {
            return Ok(None);
        };
        let start = if page == 1 { 100 } else { 0 };
        match (bytes[start], cells(&bytes, start)) {
            (5, Some(cells)) => {
                let children = cells.iter().map(|&at| word(&bytes, at));
                let last = word(&bytes, start + 8);
                let Some(children) = children.chain([last]).collect::<Option<Vec<u32>>>() else {
                    return Ok(None);
                };
                open.extend(children);
            }
            (13, Some(cells)) => {
                for at in cells {
                    let Some(entry) = reader.entry(&bytes, at)? else { return Ok(None) };
                    tables.extend(entry.into_table());
                }
            }
            _ => return Ok(None),
        }
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(tables))
}

struct Entry {
    kind: String,
    name: String,
    root_page: u32,
}

impl Entry {
    fn into_table(self) -> Option<TableRoot> {
        let is_own = self.name.to_ascii_lowercase().starts_with("sqlite_");
        let is_table = self.kind == "table" && self.root_page > 0 && !is_own;
        is_table.then_some(TableRoot { name: self.name, page: self.root_page })
    }
}

struct Reader<'a> {
    snapshot: &'a mut Snapshot,
    header: &'a Header,
}

impl Reader<'_> {
    fn page(&mut self, page: u32) -> Result<Option<Vec<u8>>> {
        if page == 0 || page > self.snapshot.page_count() {
            return Ok(None);
        }
        let mut bytes = vec![0; self.snapshot.page_size() as usize];
        self.snapshot.read_pages(page, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// The entry in the cell at that place of a leaf.
    fn entry(&mut self, page: &[u8], at: usize) -> Result<Option<Entry>> {
        let Some(payload) = self.payload(page, at)? else { return Ok(None) };
        Ok(self.parse(&payload))
    }

    /// The beginning of a cell's payload, from the leaf and the pages behind it.
    fn payload(&mut self, page: &[u8], at: usize) -> Result<Option<Vec<u8>>> {
        let mut cursor = Cursor { bytes: page, at };
        let (Some(total), Some(_row)) = (cursor.varint(), cursor.varint()) else {
            return Ok(None);
        };
        let usable = page.len() - usize::from(self.header.reserved_bytes);
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let local = local_bytes(total, usable);
        let Some(here) = page.get(cursor.at..cursor.at + local) else { return Ok(None) };
        let mut payload = here.to_vec();
        let mut next = if local < total { word(page, cursor.at + local) } else { Some(0) };
        let wanted = total.min(ENTRY_BYTES_MAX);
        while payload.len() < wanted {
            let Some(page) = next else { return Ok(None) };
            let Some(bytes) = self.page(page)? else { return Ok(None) };
            payload.extend_from_slice(&bytes[4..usable]);
            next = word(&bytes, 0);
        }
        payload.truncate(wanted);
        Ok(Some(payload))
    }

    fn parse(&self, payload: &[u8]) -> Option<Entry> {
        let mut types = Cursor { bytes: payload, at: 0 };
        let mut at = usize::try_from(types.varint()?).ok()?;
        let mut column = || {
            let kind = types.varint()?;
            let bytes = usize::try_from(value_bytes(kind)?).ok()?;
            let value = payload.get(at..at.checked_add(bytes)?)?;
            at += bytes;
            Some((kind, value))
        };
        let kind = self.text(column()?)?;
        let name = self.text(column()?)?;
        let _table = column()?;
        let root_page = match column()? {
            (0 | 8, _) => 0,
            (9, _) => 1,
            (1..=6, value) => {
                let number = value.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
                u32::try_from(number).ok()?
            }
            _ => return None,
        };
        Some(Entry { kind, name, root_page })
    }

    fn text(&self, (kind, value): (u64, &[u8])) -> Option<String> {
        let is_text = kind >= 13 && kind % 2 == 1;
        let units = |from: fn([u8; 2]) -> u16| {
            let units: Vec<u16> = value.as_chunks::<2>().0.iter().map(|&pair| from(pair)).collect();
            String::from_utf16_lossy(&units)
        };
        is_text.then(|| match self.header.encoding() {
            "UTF-16le" => units(u16::from_le_bytes),
            "UTF-16be" => units(u16::from_be_bytes),
            _ => String::from_utf8_lossy(value).into_owned(),
        })
    }
}

/// Where the cells of a b-tree page are.
fn cells(page: &[u8], start: usize) -> Option<Vec<usize>> {
    let half =
        |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    let count = half(start + 3)?;
    let pointers = start + if page[start] == 5 { 12 } else { 8 };
    (0..count).map(|cell| half(pointers + 2 * cell)).collect()
}

/// How much of a payload stands on a leaf of a table.
fn local_bytes(total: usize, usable: usize) -> usize {
    let most = usable - 35;
    if total <= most {
        return total;
    }
    let least = (usable - 12) * 32 / 255 - 23;
    let fitting = least + (total - least) % (usable - 4);
    if fitting <= most { fitting } else { least }
}

fn value_bytes(kind: u64) -> Option<u64> {
    match kind {
        0 | 8 | 9 => Some(0),
        1..=4 => Some(kind),
        5 => Some(6),
        6 | 7 => Some(8),
        10 | 11 => None,
        _ => Some((kind - 12) / 2),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for index in 0..9 {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if index == 8 {
                return Some(value << 8 | u64::from(byte));
            }
            value = value << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts;
    use rusqlite::Connection;

    #[test]
    fn what_sqlite_reads_is_read() {
        for pragmas in [
            "PRAGMA page_size = 512; PRAGMA encoding = 'UTF-16le'",
            "PRAGMA page_size = 512; PRAGMA encoding = 'UTF-16be'; PRAGMA journal_mode = wal",
            "PRAGMA page_size = 65536",
            "PRAGMA page_size = 1024",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.db");
            let connection = Connection::open(&path).unwrap();
            connection.execute_batch(pragmas).unwrap();
            connection.execute_batch("BEGIN").unwrap();
            for table in 0..300 {
                let name = format!("\"täble {table}{}\"", "x".repeat(table));
                let columns: String =
                    (0..table % 40 * 3).map(|column| format!(", column_{column}")).collect();
                let columns = format!("id INTEGER PRIMARY KEY{columns}");
                connection.execute_batch(&format!("CREATE TABLE {name}({columns})")).unwrap();
            }
            connection
                .execute_batch(
                    "CREATE VIRTUAL TABLE words USING fts5(body); CREATE VIEW v AS SELECT 1;
                     CREATE TABLE w(k PRIMARY KEY) WITHOUT ROWID; CREATE INDEX i ON w(k);
                     COMMIT",
                )
                .unwrap();
            let expected = facts::tables(&connection).unwrap();
            drop(connection);
            let mut snapshot = Snapshot::take(&path).unwrap();
            let mut first = vec![0; snapshot.page_size() as usize];
            snapshot.read_pages(1, &mut first).unwrap();
            let header = Header::parse(&first).unwrap();
            let mut found = tables(&mut snapshot, &header).unwrap().unwrap();
            found.sort_by(|a, b| a.name.cmp(&b.name));
            let mut expected = expected;
            expected.sort_by(|a, b| a.name.cmp(&b.name));
            assert!(expected.len() > 300);
            assert_eq!(found, expected);
        }
    }
}
