//! The schema: read from its tree, from pages that look like it, from a donor; and described by
//! SQLite itself.

use std::collections::BTreeSet;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind as ErrorKind, Result};
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::layout::Layout;
use crate::leaf::{Item, Leaf, judge};
use crate::marks::Marks;
use crate::page::{Kind, Page};
use crate::payload::Payloads;
use crate::reason::Reason;
use crate::record::Value;
use crate::text::Encoding;
use crate::view::{Got, View};
use crate::walk::{Stop, walk};

/// So many entries are read; a schema of SQLite has no more tables than that.
const ENTRIES_MAX: usize = 200_000;
/// Unknown collations of one statement that are left out, one after the other.
const COLLATIONS_MAX: usize = 32;
/// The table in which SQLite counts for `AUTOINCREMENT`.
pub(crate) const SEQUENCE: &str = "sqlite_sequence";

/// An entry of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// "table", "index", "view" or "trigger".
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The table that it belongs to.
    pub(crate) table: String,
    /// 0 where it has no tree.
    pub(crate) root: u32,
    pub(crate) sql: Option<String>,
    /// Why it may be wrong.
    pub(crate) reason: Reason,
}

impl Entry {
    /// Whether it is a virtual table.
    pub(crate) fn is_virtual(&self) -> bool {
        let words = self.sql.as_deref().unwrap_or("").split_ascii_whitespace();
        let first: Vec<String> = words.take(2).map(str::to_ascii_uppercase).collect();
        first == ["CREATE", "VIRTUAL"]
    }
}

/// The entries of the tree at page 1, and whether all of it was there.
pub(crate) fn read(env: &Env, view: &View, encoding: Encoding) -> Result<(Vec<Entry>, bool)> {
    let mut marks = Marks::new(view.page_count());
    let mut entries = Vec::new();
    let mut is_whole = true;
    let mut payloads = Payloads::new(view);
    let mut visit = |stop: &Stop<'_>| {
        match stop.page {
            Some(page) if page.kind == Kind::TableLeaf => {
                is_whole &= read_page(stop, page, encoding, &mut payloads, &mut entries)?;
            }
            Some(_) => {}
            None => is_whole = false,
        }
        Ok(())
    };
    walk(env, view, 1, true, &mut |page| marks.claim_tree(page), &mut visit)?;
    Ok((entries, is_whole))
}

/// Adds the entries that pages hold which look like those of a schema, wherever they are.
pub(crate) fn read_anywhere(
    env: &Env,
    view: &View,
    encoding: Encoding,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let mut known: BTreeSet<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let mut buffer = vec![0; view.page_size()];
    let mut payloads = Payloads::new(view);
    for number in 1..=view.page_count() {
        if number.is_multiple_of(1024) {
            env.proceed()?;
        }
        let got = view.read(number, &mut buffer);
        let Some(page) = Page::parse(number, &buffer, view.usable()) else { continue };
        if got == Got::Nothing || page.kind != Kind::TableLeaf || !has_kind(&page, encoding) {
            continue;
        }
        let stop = Stop { number, page: Some(page), got, above: None, up_to: None };
        let mut found = Vec::new();
        read_page(&stop, page, encoding, &mut payloads, &mut found)?;
        for mut entry in found {
            if known.insert(entry.name.clone()) && entries.len() < ENTRIES_MAX {
                entry.reason = Reason::SchemaUncertain;
                entries.push(entry);
            }
        }
    }
    Ok(())
}

/// A quick look: whether a page has one of the words that begin every entry.
fn has_kind(page: &Page<'_>, encoding: Encoding) -> bool {
    let words = ["table", "index", "view", "trigger"].map(|word| encoded(word, encoding));
    words.iter().any(|word| page.bytes().windows(word.len()).any(|window| window == word))
}

fn encoded(word: &str, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Utf8 => word.as_bytes().to_vec(),
        Encoding::Utf16Le => word.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        Encoding::Utf16Be => word.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    }
}

/// The encoding in which a first page speaks of its tables.
pub(crate) fn guess_encoding(view: &View) -> Encoding {
    let mut buffer = vec![0; view.page_size()];
    let all = [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be];
    let mut votes = [0_u32; 3];
    for number in 1..=view.page_count().min(100_000) {
        if view.read(number, &mut buffer) == Got::Nothing {
            continue;
        }
        let Some(page) = Page::parse(number, &buffer, view.usable()) else { continue };
        for (vote, encoding) in votes.iter_mut().zip(all) {
            let word = encoded("CREATE ", encoding);
            *vote += u32::from(page.bytes().windows(word.len()).any(|window| window == word));
        }
    }
    let best = (0..3).rev().max_by_key(|&index| votes[index]).unwrap_or(0);
    all[best]
}

/// Reads the entries of one page. `false` where not all of them were whole.
fn read_page(
    stop: &Stop<'_>,
    page: Page<'_>,
    encoding: Encoding,
    payloads: &mut Payloads<'_>,
    entries: &mut Vec<Entry>,
) -> Result<bool> {
    let mut is_whole = true;
    let leaf = Leaf::looked_at(stop, page, encoding);
    judge(&leaf, payloads, &mut |_| false, &mut |item| {
        let entry = match &item {
            Item::Row(row) => entry(row.values, row.reason, encoding),
            Item::Lost { .. } => None,
        };
        match entry.filter(|_| entries.len() < ENTRIES_MAX) {
            Some(entry) => entries.push(entry),
            None => is_whole = false,
        }
        Ok(())
    })?;
    Ok(is_whole)
}

/// How many entries of a schema a page holds.
pub(crate) fn entries_of(
    stop: &Stop<'_>,
    page: Page<'_>,
    encoding: Encoding,
    payloads: &mut Payloads<'_>,
) -> Result<usize> {
    let mut entries = Vec::new();
    if page.kind == Kind::TableLeaf {
        read_page(stop, page, encoding, payloads, &mut entries)?;
    }
    Ok(entries.len())
}

fn entry(values: &[Value<'_>], reason: Reason, encoding: Encoding) -> Option<Entry> {
    let text = |index: usize| match values.get(index)? {
        Value::Text(bytes) => Some(String::from_utf8_lossy(&encoding.to_utf8(bytes)).into_owned()),
        _ => None,
    };
    let kind = text(0).filter(|kind| {
        ["table", "index", "view", "trigger"].contains(&kind.as_str()) && values.len() == 5
    })?;
    let root = match values[3] {
        Value::Integer(root) => u32::try_from(root).unwrap_or(0),
        Value::Null => 0,
        _ => return None,
    };
    Some(Entry { kind, name: text(1)?, table: text(2)?, root, sql: text(4), reason })
}

/// SQLite, with the tables of the schema in memory and nothing in them.
pub(crate) struct Described {
    pub(crate) connection: Connection,
    /// Each table with its layout, and the statement that makes it.
    pub(crate) tables: Vec<Table>,
    /// What could not be made of the schema.
    pub(crate) problems: Vec<String>,
}

/// A table whose columns are known.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) layout: Layout,
    pub(crate) root: u32,
    /// Empty for a table that SQLite makes by itself.
    pub(crate) sql: String,
    pub(crate) reason: Reason,
}

/// An error of [`describe`].
pub(crate) fn describing(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Failed, "cannot describe the schema").caused_by(error)
}

/// Creates every table in memory. `donor` has statements that stand in for those that fail.
pub(crate) fn describe(entries: &[Entry], donor: &[Entry]) -> rusqlite::Result<Described> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF")?;
    let mut described = Described { connection, tables: Vec::new(), problems: Vec::new() };
    for entry in entries.iter().filter(|entry| entry.kind == "table" && !entry.is_virtual()) {
        if entry.name.to_ascii_lowercase().starts_with("sqlite_") {
            continue;
        }
        let other = donor.iter().find(|other| other.kind == "table" && other.name == entry.name);
        let own = entry.sql.as_deref().unwrap_or("");
        let made = described.make(entry, own, entry.reason);
        let made = match (made, other.and_then(|other| other.sql.as_deref())) {
            (Err(why), Some(sql)) => {
                let name = &entry.name;
                described.problems.push(format!(
                    "the statement of table {name} is damaged ({why}): the donor's is used"
                ));
                described.make(entry, sql, Reason::SchemaUncertain)
            }
            (made, _) => made,
        };
        if let Err(why) = made {
            described.problems.push(format!("the statement of table {} fails: {why}", entry.name));
        }
    }
    if let Some(entry) = entries.iter().find(|entry| entry.name == SEQUENCE) {
        // It is there as soon as one table counts by it.
        if let Some(layout) = Layout::of(&described.connection, SEQUENCE)? {
            let (root, sql, reason) = (entry.root, String::new(), entry.reason);
            described.tables.push(Table { layout, root, sql, reason });
        }
    }
    Ok(described)
}

impl Described {
    /// Makes a table whose columns were made up.
    pub(crate) fn infer(&mut self, entry: &Entry, sql: &str) {
        match self.make(entry, sql, Reason::SchemaUncertain) {
            Ok(()) => self.problems.push(format!(
                "the columns of table {} are not known: they are c0, c1 and so on",
                entry.name
            )),
            Err(why) => self.problems.push(format!("table {} was not made: {why}", entry.name)),
        }
    }

    /// Makes one table, of a statement or the donor's.
    fn make(&mut self, entry: &Entry, sql: &str, reason: Reason) -> Result<(), String> {
        if !is_one_table(sql) {
            return Err("it is no statement that makes a table".to_owned());
        }
        let mut sql = sql.to_owned();
        for _ in 0..COLLATIONS_MAX {
            let Err(error) = make_one(&mut self.connection, &sql) else { break };
            let message = error.to_string();
            let shorter =
                unknown_collation(&message).and_then(|name| without_collation(&sql, name));
            let Some(shorter) = shorter else { return Err(message) };
            self.problems.push(format!("table {}: {message}, which is left out", entry.name));
            sql = shorter;
        }
        let layout =
            Layout::of(&self.connection, &entry.name).map_err(|error| error.to_string())?;
        let Some(layout) = layout else {
            return Err(format!("it makes no table {}", entry.name));
        };
        self.tables.push(Table { layout, root: entry.root, sql, reason });
        Ok(())
    }
}

/// Runs one statement that makes a table, and nothing else that a hostile schema may hold.
pub(crate) fn make_one(connection: &mut Connection, sql: &str) -> rusqlite::Result<()> {
    let guard = |context: AuthContext<'_>| match context.action {
        AuthAction::Select | AuthAction::Attach { .. } | AuthAction::Pragma { .. } => {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    };
    connection.authorizer(Some(guard))?;
    let made = connection.execute(sql, []);
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    made.map(|_| ())
}

/// Whether a statement makes a table of its own: not one filled by a query, nor in another place.
fn is_one_table(sql: &str) -> bool {
    let words: Vec<String> =
        sql.split_ascii_whitespace().take(2).map(str::to_ascii_uppercase).collect();
    words.first().is_some_and(|word| word == "CREATE")
        && words.get(1).is_some_and(|word| word.starts_with("TABLE"))
}

fn unknown_collation(message: &str) -> Option<&str> {
    message.split("no such collation sequence: ").nth(1)?.split_ascii_whitespace().next()
}

/// A statement without the words `COLLATE name`.
fn without_collation(sql: &str, name: &str) -> Option<String> {
    let (upper, name) = (sql.to_ascii_uppercase(), name.to_ascii_uppercase());
    let places = upper.match_indices("COLLATE").map(|(at, word)| (at, at + word.len()));
    for (begin, after) in places {
        let rest = &upper[after..];
        let quotes = |c: char| c.is_ascii_whitespace() || "\"'`[]".contains(c);
        let start = rest.len() - rest.trim_start_matches(quotes).len();
        if rest[start..].starts_with(&name) {
            let end = after + start + name.len();
            let closing =
                sql[end..].len() - sql[end..].trim_start_matches(['"', '\'', '`', ']']).len();
            return Some(format!("{}{}", &sql[..begin], &sql[end + closing..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, sql: &str) -> Entry {
        let (kind, table) = ("table".to_owned(), name.to_owned());
        Entry {
            kind,
            name: name.into(),
            table,
            root: 2,
            sql: Some(sql.into()),
            reason: Reason::Sound,
        }
    }

    #[test]
    fn unknown_collations_and_broken_statements() {
        let entries = [
            table("a", "CREATE TABLE a(x TEXT COLLATE \"my own\" UNIQUE, y TEXT COLLATE other)"),
            table("b", "CREATE TABLE b(x TEXT UNIQUE COLLATE other)"),
            table("c", "CREATE TABEL c(x)"),
            table("d", "CREATE TABLE d AS SELECT 1"),
        ];
        let donor = [table("c", "CREATE TABLE c(x, y)")];
        let described = describe(&entries, &donor).unwrap();
        let names: Vec<&str> = described.tables.iter().map(|t| t.layout.name.as_str()).collect();
        assert!(names.contains(&"b") && names.contains(&"c"), "{:?}", described.problems);
        assert!(!names.contains(&"d"), "a table that a query fills is none of a schema");
    }

    #[test]
    fn the_order_of_a_table_without_rowids_is_that_of_its_key() {
        let sql = "CREATE TABLE w(a, b NOT NULL, c, d AS (a + 1), PRIMARY KEY(c, a)) WITHOUT ROWID";
        let described = describe(&[table("w", sql)], &[]).unwrap();
        let layout = &described.tables[0].layout;
        let names: Vec<&str> = layout.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!((names, &layout.key[..]), (vec!["c", "a", "b"], &[0, 1][..]));
        assert!(!layout.has_rowids);
    }
}
