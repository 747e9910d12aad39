//! Tables and the rest of a schema, as the server's catalog describes them.

use std::collections::BTreeMap;

use lifeboat_core::Result;
use serde_json::Value;

use crate::quote::identifier;
use crate::session::{Row, Session};

/// Schemas that are not ours to look at.
const FOREIGN: &str = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'";

/// A table with rows of its own.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// All columns but those that are generated.
    pub(crate) columns: Vec<Column>,
    /// The columns of its primary key, in the key's order.
    pub(crate) key: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its type: `integer`, `character varying(20)`.
    pub(crate) kind: String,
    /// Whether its identity is always generated: an insert must say that it overrides that.
    pub(crate) is_always: bool,
    /// The sequence that it owns, `schema.name` as SQL takes it.
    pub(crate) sequence: Option<String>,
}

impl Table {
    /// `public.person`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// The same as SQL takes it.
    pub(crate) fn sql_name(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.table))
    }

    /// The column of that name.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

pub(crate) fn text(row: &Row, column: &str) -> String {
    row.get(column).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// All tables that have rows of their own: partitions, and not what they are partitions of.
pub(crate) fn tables(session: &mut Session) -> Result<BTreeMap<String, Table>> {
    let rows = session.rows(&format!(
        "SELECT n.nspname AS schema, c.relname AS table, \
         (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', a.attname, \
           'kind', pg_catalog.format_type(a.atttypid, a.atttypmod), \
           'always', a.attidentity = 'a', \
           'sequence', pg_catalog.pg_get_serial_sequence(\
             pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
             a.attname)) ORDER BY a.attnum) \
          FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
          AND NOT a.attisdropped AND a.attgenerated = '') AS columns, \
         (SELECT pg_catalog.json_agg(a.attname ORDER BY k.place) \
          FROM pg_catalog.pg_index i, \
          pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(attnum, place), \
          pg_catalog.pg_attribute a WHERE i.indrelid = c.oid AND i.indisprimary \
          AND k.place <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = k.attnum) AS key \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u') AND {FOREIGN}"
    ))?;
    let tables = rows.iter().map(|row| {
        let table = table(row);
        (table.name(), table)
    });
    Ok(tables.collect())
}

fn table(row: &Row) -> Table {
    let list = |column: &str| row.get(column).and_then(Value::as_array).cloned();
    let columns = list("columns").unwrap_or_default();
    let key = list("key").unwrap_or_default();
    Table {
        schema: text(row, "schema"),
        table: text(row, "table"),
        columns: columns.iter().filter_map(Value::as_object).map(column).collect(),
        key: key.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

fn column(row: &Row) -> Column {
    Column {
        name: text(row, "name"),
        kind: text(row, "kind"),
        is_always: row.get("always").and_then(Value::as_bool).unwrap_or_default(),
        sequence: row.get("sequence").and_then(Value::as_str).map(str::to_owned),
    }
}

/// What there is beside rows, by kind and name, as the server writes it down.
pub(crate) fn schema(session: &mut Session) -> Result<BTreeMap<(String, String), String>> {
    let within = "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let rows = session.rows(&format!(
        "SELECT 'table' AS kind, n.nspname || '.' || c.relname AS name, \
         (SELECT pg_catalog.string_agg(a.attname || ' ' || \
           pg_catalog.format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull::text || ' ' || \
           a.attgenerated::text || a.attidentity::text || ' ' || \
           coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''), E'\\n' \
           ORDER BY a.attnum) \
          FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d \
          ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS definition \
         FROM pg_catalog.pg_class c {within} WHERE c.relkind IN ('r', 'p', 'f') AND {FOREIGN} \
         UNION ALL SELECT 'index', n.nspname || '.' || c.relname, \
         pg_catalog.pg_get_indexdef(c.oid) FROM pg_catalog.pg_class c {within} \
         WHERE c.relkind IN ('i', 'I') AND {FOREIGN} \
         UNION ALL SELECT 'view', n.nspname || '.' || c.relname, \
         pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c {within} \
         WHERE c.relkind IN ('v', 'm') AND {FOREIGN} \
         UNION ALL SELECT 'sequence', n.nspname || '.' || c.relname, '' \
         FROM pg_catalog.pg_class c {within} WHERE c.relkind = 'S' AND {FOREIGN} \
         UNION ALL SELECT 'constraint', n.nspname || '.' || c.relname || '.' || k.conname, \
         pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_class c ON c.oid = k.conrelid {within} \
         WHERE k.contype <> 'n' AND {FOREIGN} \
         UNION ALL SELECT 'trigger', n.nspname || '.' || c.relname || '.' || t.tgname, \
         pg_catalog.pg_get_triggerdef(t.oid) FROM pg_catalog.pg_trigger t \
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid {within} \
         WHERE NOT t.tgisinternal AND {FOREIGN} \
         UNION ALL SELECT 'function', n.nspname || '.' || \
         p.oid::pg_catalog.regprocedure::pg_catalog.text, pg_catalog.pg_get_functiondef(p.oid) \
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE p.prokind IN ('f', 'p') AND {FOREIGN}"
    ))?;
    let entries =
        rows.iter().map(|row| ((text(row, "kind"), text(row, "name")), text(row, "definition")));
    Ok(entries.collect())
}
