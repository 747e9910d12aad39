//! Reads a schema: from SQLite's own answers where it gives them, from the texts of the statements
//! for the rest (`CHECK`, generated columns, collations, deferred keys, expressions of indexes).

use rusqlite::{Connection, Result as SqlResult};

use crate::schema::{
    Check, Collation, Column, ForeignKey, Index, IndexKey, LeftOut, Origin, Schema, Statement,
    Table,
};
use crate::token::{self, Kind, Token};

/// Tables that belong to SQLite or to a virtual table.
const INNER: &str = "sqlite_";

/// Reads all of it.
pub(crate) fn read(connection: &Connection) -> SqlResult<Schema> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get(0));
    let mut schema = Schema {
        user_version: number("PRAGMA user_version")?,
        application_id: number("PRAGMA application_id")?,
        ..Schema::default()
    };
    let mut list = connection.prepare(
        "SELECT l.name, l.type, l.wr, s.sql FROM pragma_table_list AS l
         JOIN sqlite_schema AS s ON s.name = l.name AND s.type = 'table'
         WHERE l.schema = 'main' ORDER BY s.rowid",
    )?;
    let found = list.query_map([], |row| {
        let sql: Option<String> = row.get(3)?;
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, sql.unwrap_or_default()))
    })?;
    let found: Vec<(String, String, bool, String)> = found.collect::<SqlResult<_>>()?;
    for (name, kind, without_rowid, sql) in found {
        if name.starts_with(INNER) || kind == "shadow" {
            continue;
        }
        match kind.as_str() {
            "virtual" => virtual_table(connection, &mut schema, name, sql)?,
            _ => schema.tables.push(table(connection, name, without_rowid, &sql)?),
        }
    }
    for (kind, list) in [("view", &mut schema.views), ("trigger", &mut schema.triggers)] {
        let mut statement = connection.prepare(
            "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = ?1 ORDER BY rowid",
        )?;
        let rows = statement.query_map([kind], |row| {
            Ok(Statement { name: row.get(0)?, table: row.get(1)?, sql: row.get(2)? })
        })?;
        *list = rows.collect::<SqlResult<_>>()?;
    }
    sequences(connection, &mut schema)?;
    Ok(schema)
}

fn sequences(connection: &Connection, schema: &mut Schema) -> SqlResult<()> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'";
    if connection.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(());
    }
    let mut statement = connection.prepare("SELECT name, seq FROM sqlite_sequence")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let seq: Option<i64> = row.get_ref(1)?.as_i64().ok();
        if let Some(table) = schema.tables.iter_mut().find(|table| table.name == name) {
            table.sequence = seq;
        }
    }
    Ok(())
}

fn table(
    connection: &Connection,
    name: String,
    without_rowid: bool,
    sql: &str,
) -> SqlResult<Table> {
    let mut table = Table { name, without_rowid, ..Table::default() };
    columns(connection, &mut table)?;
    let items = token::tokens(sql).unwrap_or_default();
    read_items(&mut table, sql, &items);
    indexes(connection, &mut table)?;
    foreign_keys(connection, &mut table)?;
    deferred(&mut table, &items);
    let only = (table.primary_key.len() == 1).then(|| table.primary_key[0]);
    table.rowid_alias = only.filter(|key| {
        let is_integer = table.columns[*key].declared.eq_ignore_ascii_case("INTEGER");
        // Any other primary key has an index of its own: INTEGER PRIMARY KEY DESC is one.
        let has_index = table.indexes.iter().any(|index| index.origin == Origin::PrimaryKey);
        is_integer && !without_rowid && !has_index
    });
    Ok(table)
}

fn columns(connection: &Connection, table: &mut Table) -> SqlResult<()> {
    let mut statement = connection.prepare(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)
         ORDER BY cid",
    )?;
    let mut rows = statement.query([&table.name])?;
    let mut key = Vec::new();
    while let Some(row) = rows.next()? {
        let hidden: i64 = row.get(5)?;
        if hidden == 1 {
            continue;
        }
        let mut declared: String = row.get::<_, Option<String>>(1)?.unwrap_or_default();
        let is_generated = hidden > 1;
        if is_generated {
            let upper = declared.to_ascii_uppercase();
            let end = upper.find("GENERATED ALWAYS").unwrap_or(declared.len());
            declared.truncate(end);
        }
        let place: i64 = row.get(4)?;
        if place > 0 {
            key.push((place, table.columns.len()));
        }
        table.columns.push(Column {
            name: row.get(0)?,
            declared: declared.trim().to_owned(),
            not_null: row.get(2)?,
            default: row.get(3)?,
            generated: is_generated.then(String::new),
            collation: Collation::Binary,
        });
    }
    key.sort_unstable();
    table.primary_key = key.into_iter().map(|(_, column)| column).collect();
    Ok(())
}

/// What only the text says.
fn read_items(table: &mut Table, sql: &str, tokens: &[Token]) {
    let Some(open) = tokens.iter().position(|token| token.is_sign("(")) else { return };
    let Some(close) = token::closing(tokens, open) else { return };
    for item in token::parts(&tokens[open + 1..close]) {
        let Some(first) = item.first() else { continue };
        let is_constraint = ["CONSTRAINT", "CHECK", "PRIMARY", "UNIQUE", "FOREIGN"]
            .iter()
            .any(|word| first.is(word));
        let column = match is_constraint {
            true => None,
            false => first.name().and_then(|name| table.column(name)),
        };
        let mut name = None;
        let mut at = usize::from(!is_constraint);
        while let Some(token) = item.get(at) {
            let parenthesis = item.get(at + 1).filter(|token| token.is_sign("("));
            let inside = parenthesis.and_then(|_| token::closing(item, at + 1));
            if token.is("CONSTRAINT") {
                name = item.get(at + 1).and_then(Token::name).map(str::to_owned);
                at += 2;
                continue;
            }
            if let (true, Some(end)) = (token.is("CHECK"), inside) {
                let expression = token::text_of(sql, &item[at + 2..end]).to_owned();
                table.checks.push(Check { name: name.take(), expression });
                at = end;
            } else if let (true, Some(end), Some(column)) = (token.is("AS"), inside, column) {
                let expression = token::text_of(sql, &item[at + 2..end]).to_owned();
                table.columns[column].generated = Some(expression);
                at = end;
            } else if let (true, Some(column)) = (token.is("COLLATE"), column) {
                let collation = item.get(at + 1).and_then(Token::name).unwrap_or_default();
                table.columns[column].collation = Collation::of(collation);
            } else if token.is_sign("(") {
                at = token::closing(item, at).unwrap_or(item.len());
            }
            at += 1;
        }
    }
}

fn indexes(connection: &Connection, table: &mut Table) -> SqlResult<()> {
    let mut statement = connection.prepare(
        "SELECT l.name, l.\"unique\", l.origin, l.partial, s.sql
         FROM pragma_index_list(?1) AS l LEFT JOIN sqlite_schema AS s
         ON s.name = l.name AND s.type = 'index' ORDER BY l.seq DESC",
    )?;
    let rows = statement.query_map([&table.name], |row| {
        let origin: String = row.get(2)?;
        let sql: Option<String> = row.get(4)?;
        Ok(Index {
            name: row.get(0)?,
            unique: row.get(1)?,
            origin: match origin.as_str() {
                "pk" => Origin::PrimaryKey,
                "u" => Origin::Unique,
                _ => Origin::Statement,
            },
            keys: Vec::new(),
            condition: None,
            sql: sql.unwrap_or_default(),
        })
    })?;
    let mut indexes: Vec<Index> = rows.collect::<SqlResult<_>>()?;
    for index in &mut indexes {
        let mut statement = connection.prepare(
            "SELECT cid, \"desc\", coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno",
        )?;
        let keys = statement.query_map([&index.name], |row| {
            let column: i64 = row.get(0)?;
            let collation: Option<String> = row.get(2)?;
            Ok(IndexKey {
                column: usize::try_from(column).ok(),
                expression: String::new(),
                descending: row.get(1)?,
                collation: Collation::of(collation.as_deref().unwrap_or_default()),
            })
        })?;
        index.keys = keys.collect::<SqlResult<_>>()?;
        read_index_text(index);
    }
    table.indexes = indexes;
    Ok(())
}

/// The expressions and the condition of a `CREATE INDEX`.
fn read_index_text(index: &mut Index) {
    let sql = index.sql.clone();
    let Some(tokens) = token::tokens(&sql) else { return };
    let Some(open) = tokens.iter().position(|token| token.is_sign("(")) else { return };
    let Some(close) = token::closing(&tokens, open) else { return };
    for (key, part) in index.keys.iter_mut().zip(token::parts(&tokens[open + 1..close])) {
        let mut end = part.len();
        while end > 0 && (part[end - 1].is("ASC") || part[end - 1].is("DESC")) {
            end -= 1;
        }
        if end >= 2 && part[end - 2].is("COLLATE") {
            end -= 2;
        }
        key.expression = token::text_of(&sql, &part[..end]).to_owned();
    }
    if tokens.get(close + 1).is_some_and(|token| token.is("WHERE")) {
        index.condition = Some(token::text_of(&sql, &tokens[close + 2..]).to_owned());
    }
}

fn foreign_keys(connection: &Connection, table: &mut Table) -> SqlResult<()> {
    let mut statement = connection.prepare(
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete
         FROM pragma_foreign_key_list(?1) ORDER BY id DESC, seq",
    )?;
    let mut rows = statement.query([&table.name])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if table.foreign_keys.last().is_none_or(|last| last.id != id) {
            table.foreign_keys.push(ForeignKey {
                id,
                from: Vec::new(),
                table: row.get(1)?,
                to: Vec::new(),
                on_update: row.get(4)?,
                on_delete: row.get(5)?,
                deferred: false,
            });
        }
        let to: Option<String> = row.get(3)?;
        if let Some(key) = table.foreign_keys.last_mut() {
            key.from.push(row.get(2)?);
            key.to.extend(to);
        }
    }
    Ok(())
}

/// The keys stand in the text in the order in which they were listed.
fn deferred(table: &mut Table, tokens: &[Token]) {
    let starts: Vec<usize> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.is("REFERENCES"))
        .map(|(place, _)| place)
        .collect();
    if starts.len() != table.foreign_keys.len() {
        return;
    }
    for (number, key) in table.foreign_keys.iter_mut().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(tokens.len());
        let words = &tokens[starts[number]..end];
        key.deferred =
            words.windows(2).any(|pair| pair[0].is("INITIALLY") && pair[1].is("DEFERRED"))
                && !words.windows(2).any(|pair| pair[0].is("NOT") && pair[1].is("DEFERRABLE"));
    }
}

/// A virtual table is loaded as what it shows; an index over another table is left out.
fn virtual_table(
    connection: &Connection,
    schema: &mut Schema,
    name: String,
    sql: String,
) -> SqlResult<()> {
    let tokens = token::tokens(&sql).unwrap_or_default();
    let using = tokens.iter().position(|token| token.is("USING"));
    let module = using.and_then(|using| tokens.get(using + 1)?.name()).unwrap_or("?").to_owned();
    let is_text = module.to_ascii_lowercase().starts_with("fts");
    let option = |word: &str| {
        let mut pairs = tokens.windows(3);
        pairs.find(|three| three[0].is(word) && three[1].is_sign("=")).map(|three| {
            matches!(&three[2].kind, Kind::Text(text) | Kind::Doubtful(text) if text.is_empty())
        })
    };
    let content = option("content");
    let mut table = Table { name, module: Some(module.clone()), ..Table::default() };
    let readable = columns(connection, &mut table).and_then(|()| {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", lifeboat_postgres::identifier(&table.name));
        connection.prepare(&sql).map(drop)
    });
    let equivalent = match is_text {
        true => {
            let columns: Vec<String> = table
                .columns
                .iter()
                .map(|column| {
                    format!("coalesce({}, '')", lifeboat_postgres::identifier(&column.name))
                })
                .collect();
            format!(
                "full text in PostgreSQL: CREATE INDEX ON the_table USING gin \
                 (to_tsvector('simple', {}))",
                columns.join(" || ' ' || ")
            )
        }
        false => "spatial and other modules: see PostgreSQL's extensions".to_owned(),
    };
    let what = format!("virtual table {} ({module})", table.name);
    let why = match (is_text, content, &readable) {
        (true, Some(true), _) => {
            format!("it keeps no texts, only an index of them; {equivalent}")
        }
        (true, Some(false), _) => {
            format!("it is an index of another table, whose rows are migrated; {equivalent}")
        }
        (_, _, Err(error)) => format!("it cannot be read here ({error}); {equivalent}"),
        _ => {
            let why = format!("its rows are loaded into a plain table; {equivalent}");
            schema.left_out.push(LeftOut { what, why, sql });
            schema.tables.push(table);
            return Ok(());
        }
    };
    schema.left_out.push(LeftOut { what, why, sql });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_text_says_is_read() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE p(id INTEGER PRIMARY KEY AUTOINCREMENT, \"a, b\" TEXT COLLATE NOCASE,
                   CHECK (\"a, b\" <> ')'), n INT CONSTRAINT small CHECK (n < (10)),
                   twice AS (n * 2) STORED, up TEXT GENERATED ALWAYS AS (upper(\"a, b\")));",
            )
            .unwrap_err();
        connection
            .execute_batch(
                "CREATE TABLE p(id INTEGER PRIMARY KEY AUTOINCREMENT, \"a, b\" TEXT COLLATE NOCASE,
                   n INT CONSTRAINT small CHECK (n < (10)), twice AS (n * 2) STORED,
                   up TEXT GENERATED ALWAYS AS (upper(\"a, b\")), CHECK (\"a, b\" <> ')'),
                   UNIQUE(n, up));
                 CREATE TABLE c(x TEXT, y INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED,
                   PRIMARY KEY(x, y), FOREIGN KEY (y) REFERENCES p(id) ON DELETE CASCADE)
                   WITHOUT ROWID;
                 CREATE INDEX i ON p(lower(\"a, b\") DESC, n COLLATE RTRIM) WHERE n > 0;
                 CREATE VIRTUAL TABLE f USING fts5(body);
                 CREATE VIRTUAL TABLE g USING fts5(body, content='p');
                 INSERT INTO p(id, n) VALUES (9, 1); DELETE FROM p",
            )
            .unwrap();
        let schema = read(&connection).unwrap();
        let names: Vec<_> = schema.tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["p", "c", "f"]);
        let p = &schema.tables[0];
        assert_eq!((p.rowid_alias, p.sequence), (Some(0), Some(9)));
        assert_eq!(p.columns[1].collation, Collation::NoCase);
        assert_eq!(p.columns[3].generated.as_deref(), Some("n * 2"));
        assert_eq!(p.columns[4].generated.as_deref(), Some("upper(\"a, b\")"));
        assert_eq!((p.columns[4].declared.as_str(), p.checks.len()), ("TEXT", 2));
        assert_eq!(p.checks[0].name.as_deref(), Some("small"));
        let index = p.indexes.iter().find(|index| index.name == "i").unwrap();
        assert_eq!(index.condition.as_deref(), Some("n > 0"));
        assert_eq!(index.keys[0].expression, "lower(\"a, b\")");
        assert!(index.keys[0].descending && index.keys[1].collation == Collation::Rtrim);
        let c = &schema.tables[1];
        assert!(c.without_rowid && c.rowid_alias.is_none());
        assert_eq!((c.primary_key.len(), c.foreign_keys.len()), (2, 2));
        assert!(c.foreign_keys[0].deferred && c.foreign_keys[0].to.is_empty());
        assert_eq!(c.foreign_keys[1].on_delete, "CASCADE");
        assert_eq!(schema.left_out.len(), 2);
    }
}
