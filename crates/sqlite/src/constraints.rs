//! What tables demand of their rows by CHECK, asked of every row in SQL.
//!
//! Of a database that cannot be written to SQLite forgets these constraints while it reads the
//! schema, and its own checks then pass over rows that break them. Copies are read that way, and
//! so is everything live, that nothing can change them: so each constraint is read from its
//! table's statement and asked here, where a file that may be written to has SQLite ask it.

use rusqlite::Connection;

use crate::check::{is_interrupted, is_missing_extension, text};
use crate::token::{Kind, closing, text_of, tokens};

/// As much of a constraint is shown.
const SHOWN_LETTERS_MAX: usize = 80;

/// What was found among the constraints of all tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Constraints that some row breaks, a line each.
    pub(crate) damage: Vec<String>,
    /// Constraints that could not be asked here, and why.
    pub(crate) gaps: Vec<String>,
}

/// One constraint.
#[derive(Debug, PartialEq, Eq)]
struct Constraint {
    name: Option<String>,
    expression: String,
}

/// Asks every row, where SQLite itself did not. At most `lines_max` lines of damage.
pub(crate) fn broken(connection: &Connection, lines_max: usize) -> rusqlite::Result<Broken> {
    let mut broken = Broken::default();
    if !connection.is_readonly("main")? {
        return Ok(broken);
    }
    let mut statement = connection.prepare(
        "SELECT name, sql FROM sqlite_schema
         WHERE type = 'table' AND rootpage > 0 AND sql LIKE '%CHECK%'",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
        let sql = String::from_utf8_lossy(row.get_ref(1)?.as_bytes()?).into_owned();
        match constraints(&sql) {
            Some(all) => ask(connection, &name, &all, &mut broken)?,
            None => broken.gaps.push(format!("what table {name} checks could not be read")),
        }
        if broken.damage.len() >= lines_max {
            break;
        }
    }
    Ok(broken)
}

/// All constraints of a table in one pass over it; which of them is broken, only where one is.
fn ask(
    connection: &Connection,
    table: &str,
    all: &[Constraint],
    broken: &mut Broken,
) -> rusqlite::Result<()> {
    let breaks = |constraints: &[Constraint]| {
        // A text in the expression may end in a comment.
        let parts: Vec<String> =
            constraints.iter().map(|one| format!("NOT (\n{}\n)", one.expression)).collect();
        let from = table.replace('"', "\"\"");
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM main.\"{from}\" NOT INDEXED WHERE {})",
            parts.join(" OR ")
        );
        // What SQLite cannot read was read wrongly by us; what it cannot answer lies in a row.
        let mut statement = match connection.prepare(&sql) {
            Ok(statement) => statement,
            Err(error) if is_interrupted(&error) => return Err(error),
            Err(error) => return Ok(Answer::NotHere(text(&error))),
        };
        match statement.query_row([], |row| row.get(0)) {
            Ok(found) => Ok(if found { Answer::Broken } else { Answer::Sound }),
            Err(error) if is_interrupted(&error) => Err(error),
            Err(error) if is_missing_extension(&error) => Ok(Answer::NotHere(text(&error))),
            Err(error) => Ok(Answer::Failed(text(&error))),
        }
    };
    if all.is_empty() || matches!(breaks(all)?, Answer::Sound) {
        return Ok(());
    }
    for one in all {
        let shown = one.shown();
        match breaks(std::slice::from_ref(one))? {
            Answer::Sound => {}
            Answer::Broken => {
                broken.damage.push(format!("CHECK constraint failed in {table}: {shown}"));
            }
            Answer::Failed(why) => {
                broken.damage.push(format!("CHECK constraint failed in {table}: {shown}: {why}"));
            }
            Answer::NotHere(why) => {
                broken.gaps.push(format!("table {table} was not asked {shown}: {why}"));
            }
        }
    }
    Ok(())
}

enum Answer {
    Sound,
    Broken,
    /// A row's value cannot even be judged.
    Failed(String),
    /// It cannot be asked by this program.
    NotHere(String),
}

impl Constraint {
    /// As SQLite names it: its name, or what it demands.
    fn shown(&self) -> String {
        let whole = self.name.as_ref().unwrap_or(&self.expression);
        let line = whole.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(SHOWN_LETTERS_MAX) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }
}

/// The constraints of a statement that makes a table. `None` where it does not hold together.
fn constraints(sql: &str) -> Option<Vec<Constraint>> {
    let tokens = tokens(sql)?;
    let open = tokens.iter().position(|token| token.is_sign("("))?;
    let close = closing(&tokens, open)?;
    let (mut all, mut name, mut at) = (Vec::new(), None, open + 1);
    while at < close {
        let token = &tokens[at];
        if token.is("CONSTRAINT") {
            name = tokens.get(at + 1).and_then(|token| token.name()).map(str::to_owned);
            at += 2;
            continue;
        }
        if token.is_sign("(") {
            // What stands in parentheses of its own is no constraint.
            at = closing(&tokens, at)?;
        } else if token.is("CHECK") && tokens.get(at + 1)?.is_sign("(") {
            let end = closing(&tokens, at + 1)?;
            let expression = text_of(sql, &tokens[at + 2..end]).to_owned();
            all.push(Constraint { name: name.take(), expression });
            at = end;
        } else if !matches!(token.kind, Kind::Sign(",")) && is_constraint(token) {
            // The name was that of another kind of constraint.
            name = None;
        }
        at += 1;
    }
    Some(all)
}

/// Whether a word begins a constraint that a name may stand before.
fn is_constraint(token: &crate::token::Token) -> bool {
    const WORDS: &[&str] =
        &["PRIMARY", "UNIQUE", "NOT", "NULL", "DEFAULT", "COLLATE", "REFERENCES", "FOREIGN"];
    WORDS.iter().any(|word| token.is(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Vec<(Option<String>, String)> {
        let all = constraints(sql).unwrap().into_iter();
        all.map(|one| (one.name, one.expression)).collect()
    }

    #[test]
    fn constraints_are_found_in_their_statements() {
        let sql = "CREATE TABLE \"t(\"(a INTEGER CHECK (a > 0) DEFAULT (1 + 2),\n\
                   \"check\" TEXT CONSTRAINT long check(length(\"check\") < 9 /* ) */),\n\
                   c AS (a CHECK) STORED CONSTRAINT one UNIQUE, CHECK(a IN (1, 2) AND c <> ')'),\n\
                   FOREIGN KEY (a) REFERENCES o(b)) STRICT";
        // A keyword within parentheses of another kind is none of ours.
        assert_eq!(
            read(sql),
            [
                (None, "a > 0".to_owned()),
                (Some("long".to_owned()), "length(\"check\") < 9".to_owned()),
                (None, "a IN (1, 2) AND c <> ')'".to_owned()),
            ]
        );
        assert_eq!(read("CREATE TABLE t(a)"), []);
        assert!(constraints("CREATE TABLE t(a CHECK (a > 0)").is_none());
    }
}
