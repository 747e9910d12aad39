//! What a comparison of two databases finds, table by table.

use super::{Difference, Value};

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What differs in the schema.
    pub schema: Vec<SchemaDifference>,
    /// Each table of either side, sorted by name.
    pub tables: Vec<TableDifference>,
}

/// A part of the schema that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaDifference {
    /// What it is: `table`, `index`, `column`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub place: Place,
}

/// Where something is that is not the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the first side alone.
    OnlyA,
    /// On the second side alone.
    OnlyB,
    /// On both, and not the same.
    Changed,
}

impl Place {
    /// The word for it in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Place::OnlyA => "only_a",
            Place::OnlyB => "only_b",
            Place::Changed => "changed",
        }
    }
}

/// A table, compared.
#[derive(Clone, Debug)]
pub struct TableDifference {
    /// Its name.
    pub name: String,
    /// What was found.
    pub outcome: TableOutcome,
    /// What is to be known of it.
    pub notes: Vec<String>,
}

/// What was found of a table.
#[derive(Clone, Debug)]
pub enum TableOutcome {
    /// It is on both sides.
    Compared {
        /// The columns of its key.
        key: Vec<String>,
        /// All columns that were compared, those of the key first.
        columns: Vec<String>,
        /// What differs.
        difference: Difference,
    },
    /// The second side has none of that name.
    OnlyA {
        /// How many rows it has.
        rows: u64,
    },
    /// The first side has none of that name.
    OnlyB {
        /// How many rows it has.
        rows: u64,
    },
    /// It could not be compared: why.
    NotCompared(String),
}

impl TableDifference {
    /// Whether both sides have it, with the same rows.
    pub fn is_same(&self) -> bool {
        matches!(&self.outcome,
            TableOutcome::Compared { difference, .. } if difference.is_same())
    }
}

impl Comparison {
    /// Whether anything is known to differ.
    pub fn differs(&self) -> bool {
        let differs = |table: &TableDifference| {
            !table.is_same() && !matches!(table.outcome, TableOutcome::NotCompared(_))
        };
        !self.schema.is_empty() || self.tables.iter().any(differs)
    }

    /// The tables that could not be compared.
    pub fn not_compared(&self) -> usize {
        let is_not =
            |table: &&TableDifference| matches!(table.outcome, TableOutcome::NotCompared(_));
        self.tables.iter().filter(is_not).count()
    }
}

impl Value {
    /// As SQL writes it: `NULL`, `7`, `'text'`, `x'00ff'`. Long ones are cut.
    pub fn to_sql(&self, bytes_max: usize) -> String {
        let cut = |bytes: &[u8]| bytes.len() > bytes_max;
        match self {
            Value::Null => "NULL".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => format!("{number:?}"),
            Value::Text(text) => {
                let shown = &text[..text.len().min(bytes_max)];
                let shown = String::from_utf8_lossy(shown).replace('\'', "''");
                let shown = shown.trim_end_matches('\u{fffd}');
                format!("'{shown}{}'", if cut(text) { "..." } else { "" })
            }
            Value::Blob(bytes) => {
                let shown = bytes.iter().take(bytes_max / 2);
                let digits: String = shown.map(|byte| format!("{byte:02x}")).collect();
                let more = if bytes.len() > bytes_max / 2 { "..." } else { "" };
                format!("x'{digits}{more}'")
            }
        }
    }
}
