//! What a SQLite database consists of, as values.

/// A whole schema.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    pub(crate) tables: Vec<Table>,
    pub(crate) views: Vec<Statement>,
    pub(crate) triggers: Vec<Statement>,
    /// What is not migrated, and why.
    pub(crate) left_out: Vec<LeftOut>,
    /// `PRAGMA user_version` and `application_id`.
    pub(crate) user_version: i64,
    pub(crate) application_id: i64,
}

/// A view or a trigger: its name, the table of a trigger, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) name: String,
    pub(crate) table: String,
    pub(crate) sql: String,
}

/// An object without a counterpart.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) sql: String,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    /// The columns of the primary key, in its order.
    pub(crate) primary_key: Vec<usize>,
    /// The column that is another name of the rowid.
    pub(crate) rowid_alias: Option<usize>,
    /// The greatest id that was ever given out, where the table remembers it.
    pub(crate) sequence: Option<i64>,
    pub(crate) without_rowid: bool,
    /// Full-text and other virtual tables are loaded as what they show.
    pub(crate) module: Option<String>,
    pub(crate) indexes: Vec<Index>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    pub(crate) checks: Vec<Check>,
}

/// A column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) declared: String,
    pub(crate) not_null: bool,
    pub(crate) default: Option<String>,
    pub(crate) generated: Option<String>,
    pub(crate) collation: Collation,
}

/// How texts of a column are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Collation {
    /// Byte by byte.
    #[default]
    Binary,
    /// Letters of ASCII whatever their case.
    NoCase,
    /// Without the spaces at the end.
    Rtrim,
    /// One that the application brings.
    Other,
}

impl Collation {
    /// The collation of that name.
    pub(crate) fn of(name: &str) -> Self {
        match name.to_ascii_uppercase().as_str() {
            "BINARY" | "" => Collation::Binary,
            "NOCASE" => Collation::NoCase,
            "RTRIM" => Collation::Rtrim,
            _ => Collation::Other,
        }
    }
}

/// An index, or a constraint that SQLite keeps as one.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) name: String,
    pub(crate) unique: bool,
    pub(crate) origin: Origin,
    pub(crate) keys: Vec<IndexKey>,
    pub(crate) condition: Option<String>,
    pub(crate) sql: String,
}

/// What an index came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `CREATE INDEX`.
    Statement,
    /// `UNIQUE` of a table.
    Unique,
    /// `PRIMARY KEY` of a table.
    PrimaryKey,
}

/// One key of an index.
#[derive(Clone, Debug)]
pub(crate) struct IndexKey {
    /// A column, else the text of an expression.
    pub(crate) column: Option<usize>,
    pub(crate) expression: String,
    pub(crate) descending: bool,
    pub(crate) collation: Collation,
}

/// A foreign key.
#[derive(Clone, Debug)]
pub(crate) struct ForeignKey {
    /// SQLite's own number of it within the table.
    pub(crate) id: i64,
    pub(crate) from: Vec<String>,
    pub(crate) table: String,
    /// Empty where the key of the other table is meant.
    pub(crate) to: Vec<String>,
    pub(crate) on_update: String,
    pub(crate) on_delete: String,
    pub(crate) deferred: bool,
}

/// A `CHECK`.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) name: Option<String>,
    pub(crate) expression: String,
}

impl Table {
    /// The place of a column, whatever the case of its name.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }
}

impl Schema {
    /// A table, whatever the case of its name.
    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }
}
