//! How the rows of a table go to the server: which columns, as which types. It is kept on the
//! server beside the tables, so that a later comparison knows what was agreed.

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::identifier;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};

use crate::decide::Misfits;
use crate::plan::Plan;
use crate::scan::{ScannedRow, scan, shown};
use crate::schema::Table;
use crate::target::{Misfit, Target, Value};

/// One table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// Its name in SQLite.
    pub(crate) table: String,
    /// Its name on the server.
    pub(crate) name: String,
    pub(crate) columns: Vec<ColumnLayout>,
    /// The column on the server that keeps the rowid.
    pub(crate) rowid: Option<String>,
    /// The places of the columns that name a row.
    pub(crate) key: Vec<usize>,
}

/// One column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ColumnLayout {
    pub(crate) column: String,
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) loose: bool,
    /// Whether rows whose value does not fit go to the table of rejects.
    pub(crate) quarantine: bool,
    /// Whether the server computes it.
    pub(crate) computed: bool,
}

impl Layout {
    /// That of a table of a plan.
    pub(crate) fn of(plan: &Plan, place: usize) -> Self {
        let (table, of_table) = (&plan.schema.tables[place], &plan.tables[place]);
        let columns =
            table.columns.iter().zip(&of_table.columns).map(|(column, one)| ColumnLayout {
                column: column.name.clone(),
                name: plan.names.column(&table.name, &column.name).to_owned(),
                target: one.choice.target,
                loose: one.choice.loose,
                quarantine: one.policy == Misfits::Quarantine,
                computed: one.is_computed,
            });
        Layout {
            table: table.name.clone(),
            name: plan.names.table(&table.name).to_owned(),
            columns: columns.collect(),
            rowid: of_table.rowid.clone(),
            key: table.primary_key.clone(),
        }
    }

    /// The columns that are sent, as a list in SQL.
    pub(crate) fn sent(&self) -> String {
        let columns = self.columns.iter().filter(|column| !column.computed);
        let names = columns.map(|column| &column.name).chain(&self.rowid);
        names.map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
    }

    /// All columns, as a list in SQL.
    pub(crate) fn all(&self) -> String {
        let names = self.columns.iter().map(|column| &column.name).chain(&self.rowid);
        names.map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
    }

    /// How many columns the table has on the server.
    pub(crate) fn width(&self) -> usize {
        self.columns.len() + usize::from(self.rowid.is_some())
    }

    /// The type of a column on the server, the rowid last.
    pub(crate) fn target(&self, place: usize) -> Target {
        self.columns.get(place).map_or(Target::BigInt, |column| column.target)
    }
}

/// What became of a row.
pub(crate) enum Converted {
    Whole,
    /// It has a value that does not fit, whose row is to be put aside: column and why.
    Aside(usize, Misfit),
}

/// Reads the rows of a table as the server is to have them. `each` gets the row, its values in the
/// order of the server's columns, and what became of it.
pub(crate) fn read_rows(
    env: &Env,
    connection: &Connection,
    table: &Table,
    layout: &Layout,
    mut each: impl FnMut(&ScannedRow<'_, '_>, &[Value<'_>], Converted) -> Result<()>,
) -> Result<()> {
    let places: Vec<usize> = layout
        .columns
        .iter()
        .map(|column| {
            table.column(&column.column).ok_or_else(|| {
                let message = format!("table {} has no column {}", table.name, column.column);
                Error::new(Kind::CheckFailed, message)
            })
        })
        .collect::<Result<_>>()?;
    scan(env, connection, table, |row| {
        let mut values = Vec::with_capacity(layout.width());
        for (column, place) in layout.columns.iter().zip(&places) {
            let value = row.value(*place)?;
            match column.target.convert(value, column.loose) {
                Ok(value) => values.push(value),
                Err(why) if column.quarantine => {
                    return each(row, &values, Converted::Aside(*place, why));
                }
                Err(why) => return Err(misfit(table, row, *place, value, why)),
            }
        }
        if layout.rowid.is_some() {
            values.push(row.rowid().map_or(Value::Null, Value::Int));
        }
        each(row, &values, Converted::Whole)
    })
}

fn misfit(
    table: &Table,
    row: &ScannedRow<'_, '_>,
    place: usize,
    value: ValueRef<'_>,
    why: Misfit,
) -> Error {
    let message = format!(
        "{}.{}, {}: {} does not fit: {why}",
        table.name,
        table.columns[place].name,
        row.name(),
        shown(value)
    );
    Error::new(Kind::CheckFailed, message)
}
