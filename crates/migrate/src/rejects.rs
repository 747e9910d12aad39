//! Rows with values that do not fit, put aside whole: a line for each of their values.

use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::identifier;
use lifeboat_postgres::replication::LoadingConnection;
use rusqlite::types::ValueRef;

use crate::binary::{HEAD, TAIL};
use crate::scan::ScannedRow;
use crate::schema::Table;
use crate::server::REJECTS;
use crate::target::Misfit;

/// So many bytes of a table are put aside: with more, the type is wrong, not the values.
const BYTES_MAX: usize = 16 << 20;

/// What of one table is put aside, as COPY takes it.
pub(crate) struct Rejects {
    table: String,
    names: Vec<String>,
    bytes: Vec<u8>,
    rows: u64,
    values: u64,
}

impl Rejects {
    pub(crate) fn new(table: &Table) -> Self {
        Rejects {
            table: table.name.clone(),
            names: table.columns.iter().map(|column| column.name.clone()).collect(),
            bytes: HEAD.to_vec(),
            rows: 0,
            values: 0,
        }
    }

    /// How many rows were put aside.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts a row aside, because of the value of that column.
    pub(crate) fn take(
        &mut self,
        row: &ScannedRow<'_, '_>,
        column: usize,
        why: Misfit,
    ) -> Result<()> {
        self.rows += 1;
        let name = row.name();
        for (place, column_name) in self.names.iter().enumerate() {
            let value = row.value(place)?;
            let number;
            let (kind, bytes) = match value {
                ValueRef::Null => ("null", None),
                ValueRef::Integer(integer) => {
                    number = integer.to_string();
                    ("integer", Some(number.as_bytes()))
                }
                ValueRef::Real(real) => {
                    number = format!("{real:?}");
                    ("real", Some(number.as_bytes()))
                }
                ValueRef::Text(bytes) => ("text", Some(bytes)),
                ValueRef::Blob(bytes) => ("blob", Some(bytes)),
            };
            let why = (place == column).then_some(why.as_bytes());
            let fields = [
                Some(self.table.as_bytes()),
                Some(name.as_bytes()),
                Some(column_name.as_bytes()),
                Some(kind.as_bytes()),
                bytes,
                why,
            ];
            self.bytes.extend_from_slice(&(fields.len() as u16).to_be_bytes());
            for field in fields {
                let length = field.map_or(-1, |bytes| bytes.len() as i32);
                self.bytes.extend_from_slice(&length.to_be_bytes());
                self.bytes.extend_from_slice(field.unwrap_or_default());
            }
            self.values += 1;
        }
        match self.bytes.len() > BYTES_MAX {
            true => Err(Error::new(
                Kind::Refused,
                format!("more than {BYTES_MAX} bytes of table {} do not fit", self.table),
            )
            .hint("give the column another type in a mapping, or --misfits widen")),
            false => Ok(()),
        }
    }

    /// Writes them to their table.
    pub(crate) fn write(mut self, connection: &mut LoadingConnection) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.bytes.extend_from_slice(TAIL);
        let statement = format!("COPY {} FROM stdin (FORMAT binary)", identifier(REJECTS));
        let mut rows = connection.copy_in(&statement)?;
        self.bytes.chunks(64 << 10).try_for_each(|piece| rows.put(piece))?;
        match rows.finish()? {
            taken if taken == self.values => Ok(()),
            taken => {
                let message = format!("{} values were put aside, {taken} are there", self.values);
                Err(Error::new(Kind::CheckFailed, message))
            }
        }
    }
}
