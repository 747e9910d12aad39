//! Names on the server: as they were, or folded; no longer than the server keeps; never two alike.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_core::{Error, Kind, Result};
use serde::Deserialize;

use crate::mapping::Mapping;
use crate::schema::Schema;

/// The server cuts longer names without a word.
const NAME_BYTES_MAX: usize = 63;
/// So much of a hash tells cut names apart.
const HASH_DIGITS: usize = 8;

/// How names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameStyle {
    /// As they were: queries must write "User" in quotes.
    #[default]
    Keep,
    /// In lower case: queries need no quotes.
    Lower,
    /// As they were, and views in lower case beside them.
    Both,
}

/// The names of all tables and columns on the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    tables: BTreeMap<String, String>,
    columns: BTreeMap<(String, String), String>,
    /// What was cut: the name, and what it became.
    pub(crate) cut: Vec<(String, String)>,
}

impl Names {
    /// Gives all names. Two that become one are an error.
    pub(crate) fn of(schema: &Schema, mapping: &Mapping, style: NameStyle) -> Result<Self> {
        let mut names = Names::default();
        let mut taken = BTreeSet::new();
        for table in &schema.tables {
            let asked = mapping.table_name(&table.name);
            let name = names.give(&table.name, asked, style);
            if !taken.insert(name.clone()) {
                return Err(twice("table", &table.name, &name));
            }
            names.tables.insert(table.name.clone(), name);
            let mut of_table = BTreeSet::new();
            let rowid = mapping.rowid(&table.name).map(str::to_owned);
            of_table.extend(rowid);
            for column in &table.columns {
                let asked = mapping.column_name(&table.name, &column.name);
                let name = names.give(&column.name, asked, style);
                if !of_table.insert(name.clone()) {
                    return Err(twice("column", &format!("{}.{}", table.name, column.name), &name));
                }
                names.columns.insert((table.name.clone(), column.name.clone()), name);
            }
        }
        Ok(names)
    }

    fn give(&mut self, name: &str, asked: Option<&str>, style: NameStyle) -> String {
        let wanted = match (asked, style) {
            (Some(asked), _) => asked.to_owned(),
            (None, NameStyle::Lower) => name.to_lowercase(),
            (None, _) => name.to_owned(),
        };
        let given = fitting(&wanted);
        if given != wanted {
            self.cut.push((wanted, given.clone()));
        }
        given
    }

    /// The name of a table.
    pub(crate) fn table<'a>(&'a self, table: &'a str) -> &'a str {
        self.tables.get(table).map_or(table, String::as_str)
    }

    /// The name of a column.
    pub(crate) fn column<'a>(&'a self, table: &str, column: &'a str) -> &'a str {
        let found = self.columns.get(&(table.to_owned(), column.to_owned()));
        found.map_or(column, String::as_str)
    }
}

fn twice(what: &str, name: &str, given: &str) -> Error {
    Error::new(Kind::Refused, format!("{what} {name}: another one is named `{given}` too"))
        .hint("give it another name in the mapping: name = \"...\"; or keep the case: --names keep")
}

/// A name that the server keeps whole: one that is too long ends with a part of its hash.
pub(crate) fn fitting(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let mut end = NAME_BYTES_MAX - HASH_DIGITS - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{}", &name[..end], &hash[..HASH_DIGITS])
}

/// Names of indexes and views: they share one room with the tables.
#[derive(Default)]
pub(crate) struct Room(BTreeSet<String>);

impl Room {
    /// A room with the names of all tables.
    pub(crate) fn of(names: &Names) -> Self {
        Room(names.tables.values().cloned().collect())
    }

    /// That name, or one like it that is free.
    pub(crate) fn take(&mut self, name: &str, style: NameStyle) -> String {
        let wanted = if style == NameStyle::Lower { name.to_lowercase() } else { name.to_owned() };
        let mut given = fitting(&wanted);
        let mut number = 1;
        while !self.0.insert(given.clone()) {
            number += 1;
            given = fitting(&format!("{wanted}_{number}"));
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart() {
        let (one, other) = ("é".repeat(40) + "one", "é".repeat(40) + "two");
        assert!(fitting(&one).len() <= 63 && fitting(&one) != fitting(&other));
        assert_eq!(fitting("short"), "short");
        let mut room = Room::default();
        assert_eq!(room.take("I", NameStyle::Lower), "i");
        assert_eq!(room.take("i", NameStyle::Lower), "i_2");
    }
}
