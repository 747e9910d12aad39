//! The file that overrides what is decided: per type, table or column. Errors say where.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use lifeboat_core::{Error, Kind, Result};
use serde::Deserialize;
use toml::Spanned;

use crate::decide::Misfits;
use crate::names::NameStyle;
use crate::schema::Schema;
use crate::target::Target;

/// What to do with rows whose foreign keys lead nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Orphans {
    /// Nothing is loaded.
    #[default]
    #[serde(rename = "refuse")]
    Refuse,
    /// They are loaded, and the key is there, NOT VALID.
    #[serde(rename = "not-valid")]
    NotValid,
}

/// A mapping file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// How names are written.
    pub names: Option<NameStyle>,
    /// What becomes of values that do not fit.
    pub misfits: Option<Misfits>,
    /// What becomes of rows whose foreign keys lead nowhere.
    pub orphans: Option<Orphans>,
    /// Types of PostgreSQL for declared types.
    #[serde(default)]
    types: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    table: BTreeMap<Spanned<String>, TableMapping>,
}

/// What is asked for a table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableMapping {
    name: Option<String>,
    #[serde(default)]
    skip: bool,
    rowid: Option<String>,
    #[serde(default)]
    column: BTreeMap<Spanned<String>, ColumnMapping>,
}

/// What is asked for a column.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnMapping {
    name: Option<String>,
    #[serde(rename = "type")]
    target: Option<Spanned<String>>,
    misfits: Option<Misfits>,
}

impl Mapping {
    /// Reads a file, and checks all that can be checked without the database.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::io(Kind::Usage, format!("cannot read {}", path.display()), error)
        })?;
        let at = |span: Option<Range<usize>>| place(path, &text, span);
        let mapping: Mapping = toml::from_str(&text).map_err(|error| {
            Error::new(Kind::Usage, format!("{}: {}", at(error.span()), error.message().trim()))
        })?;
        let columns = mapping.table.values().flat_map(|table| table.column.values());
        let types = columns.filter_map(|column| column.target.as_ref());
        for written in types.chain(mapping.types.values()) {
            if Target::parse(written.get_ref()).is_none() {
                let message = format!(
                    "{}: `{}` is no type that values are migrated to",
                    at(Some(written.span())),
                    written.get_ref()
                );
                return Err(Error::new(Kind::Usage, message).hint(
                    "there are: bigint integer smallint double numeric numeric(p,s) boolean text \
                     varchar(n) bytea timestamptz timestamp date json uuid",
                ));
            }
        }
        Ok(mapping)
    }

    /// Checks that the tables and columns that it names are there.
    pub(crate) fn check(&self, schema: &Schema, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for (name, mapping) in &self.table {
            let missing = |what: String, span: Range<usize>| {
                Error::new(Kind::Usage, format!("{}: {what}", place(path, &text, Some(span))))
            };
            let Some(table) = schema.table(name.get_ref()) else {
                let message = format!("there is no table `{}`", name.get_ref());
                return Err(missing(message, name.span()));
            };
            for column in mapping.column.keys() {
                if table.column(column.get_ref()).is_none() {
                    let (table, column_name) = (&table.name, column.get_ref());
                    let message = format!("table `{table}` has no column `{column_name}`");
                    return Err(missing(message, column.span()));
                }
            }
        }
        Ok(())
    }

    fn table(&self, name: &str) -> Option<&TableMapping> {
        let mut tables = self.table.iter();
        tables.find(|(key, _)| key.get_ref().eq_ignore_ascii_case(name)).map(|(_, table)| table)
    }

    fn column(&self, table: &str, column: &str) -> Option<&ColumnMapping> {
        let mut columns = self.table(table)?.column.iter();
        let found = columns.find(|(key, _)| key.get_ref().eq_ignore_ascii_case(column));
        found.map(|(_, mapping)| mapping)
    }

    /// Whether a table is left out.
    pub(crate) fn skips(&self, table: &str) -> bool {
        self.table(table).is_some_and(|table| table.skip)
    }

    /// The name of a column that keeps the rowid, if one is asked for.
    pub(crate) fn rowid(&self, table: &str) -> Option<&str> {
        self.table(table)?.rowid.as_deref()
    }

    /// The name that a table gets, if one is asked for.
    pub(crate) fn table_name(&self, table: &str) -> Option<&str> {
        self.table(table)?.name.as_deref()
    }

    /// The name that a column gets, if one is asked for.
    pub(crate) fn column_name(&self, table: &str, column: &str) -> Option<&str> {
        self.column(table, column)?.name.as_deref()
    }

    /// The type that is asked for a column: by its name, else by what was declared.
    pub(crate) fn target(&self, table: &str, column: &str, declared: &str) -> Option<Target> {
        let of_column = self.column(table, column).and_then(|column| column.target.as_ref());
        let by_type = || {
            let mut types = self.types.iter();
            types.find(|(key, _)| key.eq_ignore_ascii_case(declared.trim())).map(|(_, name)| name)
        };
        Target::parse(of_column.or_else(by_type)?.get_ref())
    }

    /// What becomes of misfits of a column.
    pub(crate) fn misfits(&self, table: &str, column: &str) -> Option<Misfits> {
        self.column(table, column)?.misfits
    }
}

/// `file:line:column` of a place in a text.
fn place(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let Some(span) = span else { return path.display().to_string() };
    let before = text.get(..span.start.min(text.len())).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mapping> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Mapping::read(file.path())
    }

    #[test]
    fn errors_say_where() {
        let place = |text: &str| read(text).unwrap_err().message().to_owned();
        assert!(place("[table.a]\nskipp = true\n").contains(":2:1: unknown field"));
        let message = place("names = \"lower\"\n[table.a.column.b]\ntype = \"nvarchar\"\n");
        assert!(message.contains(":3:8: `nvarchar` is no type"), "{message}");
        assert!(place("names = \"upper\"\n").contains(":1:9"));
    }

    #[test]
    fn columns_come_before_types() {
        let mapping = read(
            "[types]\nDATETIME = \"text\"\n[table.A.column.Made]\ntype = \"timestamptz\"\n\
             name = \"made_at\"\nmisfits = \"quarantine\"\n",
        )
        .unwrap();
        let is = |column: &str| mapping.target("a", column, "datetime").unwrap().sql();
        assert_eq!((is("made").as_str(), is("x").as_str()), ("timestamp with time zone", "text"));
        assert_eq!(mapping.column_name("a", "made"), Some("made_at"));
        assert_eq!(mapping.misfits("a", "made"), Some(Misfits::Quarantine));
        assert!(!mapping.skips("a") && mapping.target("a", "x", "INT").is_none());
    }
}
