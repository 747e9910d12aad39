//! What a salvage brought back of a database, and what not.

/// What was found in a database.
#[derive(Clone, Debug, Default)]
pub struct SalvageReport {
    /// Its name.
    pub database: String,
    /// Each table.
    pub tables: Vec<TableReport>,
    /// Blocks of tables with what `amcheck` says of them, a line each.
    pub heap: Vec<String>,
    /// Indexes that are damaged: nothing is lost with them.
    pub indexes: Vec<String>,
    /// What could not be read, beside rows.
    pub problems: Vec<String>,
    /// What is to be known.
    pub notes: Vec<String>,
}

/// What was read of a table.
#[derive(Clone, Debug, Default)]
pub struct TableReport {
    /// Its name.
    pub name: String,
    /// Rows that were read without any doubt of the server's.
    pub rows: u64,
    /// Rows of pages whose checksum is wrong: they may be altered.
    pub uncertain: u64,
    /// Blocks of which nothing could be read.
    pub lost_blocks: Vec<u32>,
    /// Rows that are there and could not be read.
    pub lost_rows: Vec<LostRow>,
    /// The first thing that the server said against it.
    pub why: Option<String>,
    /// The file with its rows, as COPY writes them.
    pub file: String,
    /// The file with those that are uncertain.
    pub uncertain_file: Option<String>,
}

/// A row that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRow {
    /// Where it is: block and place, as `ctid`.
    pub place: String,
    /// Its key, where that could be read.
    pub key: Option<String>,
}

impl TableReport {
    /// Whether every row of it was read, without doubt.
    pub fn is_whole(&self) -> bool {
        self.uncertain == 0
            && self.lost_blocks.is_empty()
            && self.lost_rows.is_empty()
            && self.why.is_none()
    }
}

impl SalvageReport {
    /// Whether everything came back.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
            && self.heap.is_empty()
            && self.tables.iter().all(TableReport::is_whole)
    }
}
