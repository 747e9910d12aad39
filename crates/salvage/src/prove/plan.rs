//! What is to be proved: each tree, what its rows are, and what each index must have of them.

use lifeboat_core::Result;
use rusqlite::Connection;

use super::order::{Collation, Part};
use crate::layout::Layout;
use crate::schema::{Entry, Table, make_one};
use crate::text::Encoding;

/// Below this format of a schema, "DESC" means nothing.
const FORMAT_WITH_DESC: u32 = 4;

/// A tree of the database.
pub(super) struct Tree<'a> {
    pub(super) root: u32,
    /// Whether its pages are those of a table with rowids.
    pub(super) is_table: bool,
    /// The columns of its rows, for tables.
    pub(super) layout: Option<&'a Layout>,
    /// The order of entries, for trees without rowids.
    pub(super) parts: Vec<Part>,
    /// So many of the parts together must not come twice, where none of them is NULL.
    pub(super) unique: Option<usize>,
    /// Its indexes, for tables: numbers of [`Plan::indexes`].
    pub(super) indexes: Vec<usize>,
    /// Its own number there, for indexes.
    pub(super) index: Option<usize>,
}

/// What an index has of each row.
pub(super) struct Index {
    /// The place of its table among the trees.
    pub(super) table: usize,
    /// Its columns: fields of the table's records, or the rowid.
    pub(super) columns: Vec<Option<usize>>,
}

/// All of it.
pub(super) struct Plan<'a> {
    /// The schema's tree first, then the tables in the order in which they are described.
    pub(super) trees: Vec<Tree<'a>>,
    pub(super) indexes: Vec<Index>,
    /// What only SQLite can judge, and by which check.
    pub(super) asks: Vec<(&'static str, String)>,
}

/// SQLite's whole check of one table, and the one that leaves out its indexes.
pub(super) const WHOLE: &str = "integrity_check";
const WITHOUT_INDEXES: &str = "quick_check";

/// Plans. `None` where the schema has something that is not understood.
pub(super) fn plan<'a>(
    entries: &[Entry],
    connection: &mut Connection,
    tables: &'a [Table],
    encoding: Encoding,
    schema_format: u32,
) -> Result<Option<Plan<'a>>> {
    let mut plan = Plan { trees: vec![schema_tree()], indexes: Vec::new(), asks: Vec::new() };
    for table in tables {
        plan.trees.push(Tree {
            root: table.root,
            is_table: table.layout.has_rowids,
            layout: Some(&table.layout),
            ..schema_tree()
        });
        if says_more(&table.sql) {
            plan.asks.push((WITHOUT_INDEXES, table.layout.name.clone()));
        }
    }
    for entry in entries {
        let place = tables.iter().position(|table| table.layout.name == entry.name);
        let is_known = entry.kind == "table" && place.is_some();
        match entry.kind.as_str() {
            "table" if is_known => {}
            "table" if entry.is_virtual() => plan.asks.push((WHOLE, entry.name.clone())),
            // SQLite's own statistics, without an index.
            "table" if entry.name.starts_with("sqlite_stat") => {
                plan.trees.push(Tree { root: entry.root, ..schema_tree() });
            }
            "table" => return Ok(None),
            "index" => {
                let of = |name: &str| name.eq_ignore_ascii_case(&entry.table);
                let found = tables.iter().position(|table| of(&table.layout.name));
                let Some(table) = found else { return Ok(None) };
                let ruled = Rules { encoding, schema_format };
                plan.index(connection, entry, table, &ruled)?;
            }
            _ => {}
        }
    }
    for index in 0..tables.len() {
        if !plan.trees[index + 1].is_table {
            let Some(layout) = plan.trees[index + 1].layout else { return Ok(None) };
            let Some((parts, unique)) = order_of_key(connection, layout, encoding) else {
                return Ok(None);
            };
            let has_desc = parts.iter().any(|part| part.descending);
            if has_desc && schema_format < FORMAT_WITH_DESC {
                return Ok(None);
            }
            (plan.trees[index + 1].parts, plan.trees[index + 1].unique) = (parts, unique);
        }
    }
    Ok(Some(plan))
}

fn schema_tree<'a>() -> Tree<'a> {
    Tree {
        root: 1,
        is_table: true,
        layout: None,
        parts: Vec::new(),
        unique: None,
        indexes: Vec::new(),
        index: None,
    }
}

/// Whether a statement may ask more of a row than types and NULLs.
fn says_more(sql: &str) -> bool {
    let sql = sql.to_ascii_uppercase();
    sql.contains("CHECK") || sql.contains("STRICT")
}

struct Rules {
    encoding: Encoding,
    schema_format: u32,
}

impl Plan<'_> {
    /// Adds an index; where it is one that is not understood, SQLite checks its table.
    fn index(
        &mut self,
        connection: &mut Connection,
        entry: &Entry,
        table: usize,
        rules: &Rules,
    ) -> Result<()> {
        let place = table + 1;
        let layout = self.trees[place].layout;
        let read = layout.and_then(|layout| {
            make_index(connection, entry)?;
            understood(connection, &entry.name, layout, rules)
        });
        let mut tree = Tree { root: entry.root, is_table: false, ..schema_tree() };
        match read {
            Some(read) => {
                let number = self.indexes.len();
                self.indexes.push(Index { table: place, columns: read.columns });
                self.trees[place].indexes.push(number);
                tree.index = Some(number);
                (tree.parts, tree.unique) = (read.parts, read.unique);
            }
            None => {
                let name = entry.table.clone();
                let known = (WHOLE, name);
                if !self.asks.contains(&known) {
                    self.asks.push(known);
                }
            }
        }
        self.trees.push(tree);
        Ok(())
    }
}

/// Makes an index in memory; those that SQLite makes by itself are there. `None` where it fails.
fn make_index(connection: &mut Connection, entry: &Entry) -> Option<()> {
    let Some(sql) = &entry.sql else { return Some(()) };
    make_one(connection, sql).ok()
}

/// The columns of an index.
struct Understood {
    parts: Vec<Part>,
    columns: Vec<Option<usize>>,
    unique: Option<usize>,
}

fn understood(
    connection: &Connection,
    name: &str,
    layout: &Layout,
    rules: &Rules,
) -> Option<Understood> {
    let sql = "SELECT \"unique\", partial FROM pragma_index_list(?1) WHERE name = ?2";
    let (unique, partial): (bool, bool) = connection
        .query_row(sql, (&layout.name, name), |row| Ok((row.get(0)?, row.get(1)?)))
        .ok()?;
    if partial {
        return None;
    }
    let mut read = Understood { parts: Vec::new(), columns: Vec::new(), unique: None };
    let mut keys = 0;
    for column in columns_of(connection, name)? {
        let part = column.part(rules.encoding)?;
        if part.descending && rules.schema_format < FORMAT_WITH_DESC {
            return None;
        }
        let field = match column.cid {
            -1 => None,
            // An expression, or a column that is stored nowhere.
            _ => Some(
                layout.fields.iter().position(|field| Some(&field.name) == column.name.as_ref())?,
            ),
        };
        // The key of the rows stands for its field, which is NULL.
        read.columns.push(field.filter(|&field| layout.alias != Some(field)));
        read.parts.push(part);
        keys += usize::from(column.is_key);
    }
    read.unique = unique.then_some(keys);
    Some(read)
}

/// The order of a table without rowids: that of its key.
fn order_of_key(
    connection: &Connection,
    layout: &Layout,
    encoding: Encoding,
) -> Option<(Vec<Part>, Option<usize>)> {
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE origin = 'pk'";
    let name: String = connection.query_row(sql, [&layout.name], |row| row.get(0)).ok()?;
    let columns = columns_of(connection, &name)?;
    let keys = columns.iter().filter(|column| column.is_key);
    let parts: Vec<Part> = keys.map(|column| column.part(encoding)).collect::<Option<_>>()?;
    let unique = Some(parts.len());
    Some((parts, unique))
}

struct IndexColumn {
    cid: i64,
    name: Option<String>,
    descending: bool,
    collation: String,
    is_key: bool,
}

impl IndexColumn {
    fn part(&self, encoding: Encoding) -> Option<Part> {
        let collation = Collation::of(&self.collation)?;
        // The others compare as UTF-8.
        let is_known = encoding == Encoding::Utf8 || collation == Collation::Binary;
        is_known.then_some(Part { collation, descending: self.descending })
    }
}

fn columns_of(connection: &Connection, index: &str) -> Option<Vec<IndexColumn>> {
    let sql = "SELECT cid, name, \"desc\", coll, key FROM pragma_index_xinfo(?1) ORDER BY seqno";
    let mut statement = connection.prepare(sql).ok()?;
    let rows = statement.query_map([index], |row| {
        Ok(IndexColumn {
            cid: row.get(0)?,
            name: row.get(1)?,
            descending: row.get(2)?,
            collation: row.get(3)?,
            is_key: row.get(4)?,
        })
    });
    let columns: Vec<IndexColumn> = rows.ok()?.collect::<rusqlite::Result<_>>().ok()?;
    (!columns.is_empty()).then_some(columns)
}
