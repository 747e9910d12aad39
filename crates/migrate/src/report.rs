//! What a plan says, as values for programs and as text for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::compare::Differences;
use crate::layout::Layout;
use crate::plan::{ColumnPlan, Plan, TablePlan};
use crate::profile::ColumnProfile;
use crate::schema::{LeftOut, Table};
use crate::time;

/// So many rows of a kind are printed; the JSON has more.
const LINES_MAX: usize = 20;

/// What was loaded.
pub struct Done {
    /// The tables, by name.
    pub tables: Vec<TableDone>,
    pub(crate) refused: Vec<LeftOut>,
    /// The name of the schema that was set aside.
    pub set_aside: Option<String>,
    /// Whether every row was read back and compared.
    pub verified: bool,
    /// How long its parts took.
    pub times: Times,
    /// The server's version as it says it.
    pub server: String,
}

/// How long the parts of a migration took, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Rows, read and sent.
    pub load_ms: u64,
    /// Keys of all kinds, indexes and checks, and beside them the comparison.
    pub proof_ms: u64,
    /// Views and the swap.
    pub finish_ms: u64,
}

/// A table that was loaded.
pub struct TableDone {
    /// Its name in SQLite.
    pub table: String,
    /// Its name on the server.
    pub name: String,
    /// How many rows are there.
    pub rows: u64,
    /// What they are: the sum of their hashes.
    pub digest: String,
    /// Rows and their hashes as they were read back from the server, if they were.
    pub there: Option<(u64, String)>,
    /// How many rows were put aside.
    pub rejected: u64,
    /// Whether an earlier run had loaded it.
    pub was_there: bool,
}

impl Done {
    /// What PostgreSQL refused, though it was thought to be certain.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Rows that were put aside.
    pub fn rejected(&self) -> u64 {
        self.tables.iter().map(|table| table.rejected).sum()
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "verified": self.verified,
            "server": self.server,
            "load_ms": self.times.load_ms,
            "proof_ms": self.times.proof_ms,
            "finish_ms": self.times.finish_ms,
            "set_aside": self.set_aside,
            "rows": self.rows(),
            "rejected": self.rejected(),
            "tables": self.tables.iter().map(|table| json!({
                "name": table.table, "new_name": table.name, "rows": table.rows,
                "digest": table.digest, "rejected": table.rejected, "was_there": table.was_there,
                "rows_there": table.there.as_ref().map(|(rows, _)| rows),
                "digest_there": table.there.as_ref().map(|(_, digest)| digest),
            })).collect::<Vec<_>>(),
            "refused": left_json(&self.refused),
        })
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let rejected = match table.rejected {
                0 => String::new(),
                rows => format!(", {rows} put aside"),
            };
            let before = if table.was_there { ", from an earlier run" } else { "" };
            let _ = writeln!(
                text,
                "{}: {} rows{rejected}{before}, {}",
                table.name, table.rows, table.digest
            );
        }
        for left in &self.refused {
            let _ = writeln!(text, "! not migrated: {}: {}", left.what, left.why);
        }
        text
    }
}

/// What a comparison showed.
pub struct Verified {
    /// The tables, by name.
    pub tables: Vec<TableVerified>,
}

/// A table on both sides.
pub struct TableVerified {
    /// Its name in SQLite.
    pub table: String,
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) rows_there: u64,
    pub(crate) aside: u64,
    pub(crate) digest: String,
    pub(crate) digest_there: String,
    pub(crate) problem: Option<String>,
    pub(crate) differences: Option<Differences>,
}

impl TableVerified {
    pub(crate) fn of(layout: &Layout) -> Self {
        TableVerified {
            table: layout.table.clone(),
            name: layout.name.clone(),
            rows: 0,
            rows_there: 0,
            aside: 0,
            digest: String::new(),
            digest_there: String::new(),
            problem: None,
            differences: None,
        }
    }

    /// Whether both sides are the same.
    pub fn is_same(&self) -> bool {
        self.problem.is_none() && self.differences.is_none()
    }
}

impl Verified {
    /// How many tables differ.
    pub fn different(&self) -> usize {
        self.tables.iter().filter(|table| !table.is_same()).count()
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let tables = self.tables.iter().map(|table| {
            let differences = table.differences.as_ref().map(|found| {
                json!({
                    "missing": found.missing, "added": found.added, "changed": found.changed,
                    "more": found.is_cut,
                })
            });
            json!({
                "name": table.table, "new_name": table.name, "rows": table.rows,
                "rows_there": table.rows_there, "put_aside": table.aside,
                "digest": table.digest, "digest_there": table.digest_there,
                "same": table.is_same(), "problem": table.problem, "differences": differences,
            })
        });
        json!({ "different": self.different(), "tables": tables.collect::<Vec<_>>() })
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let _ = match table.is_same() {
                true => writeln!(text, "{}: {} rows, the same", table.table, table.rows),
                false => writeln!(
                    text,
                    "! {}: {} rows in SQLite, {} in PostgreSQL, not the same",
                    table.table, table.rows, table.rows_there
                ),
            };
            if let Some(problem) = &table.problem {
                let _ = writeln!(text, "    {problem}");
            }
            let Some(found) = &table.differences else { continue };
            let kinds = [
                ("only in SQLite", &found.missing),
                ("only in PostgreSQL", &found.added),
                ("not the same", &found.changed),
            ];
            for (what, rows) in kinds.iter().filter(|(_, rows)| !rows.is_empty()) {
                let _ = writeln!(text, "    {} {what}: {}", rows.len(), first(rows));
            }
            if found.is_cut {
                text.push_str("    and more\n");
            }
        }
        text
    }
}

fn left_json(left: &[LeftOut]) -> Vec<Value> {
    let one = |left: &LeftOut| json!({ "what": left.what, "why": left.why, "sql": left.sql });
    left.iter().map(one).collect()
}

impl Plan {
    /// The plan as JSON.
    pub fn to_json(&self) -> Value {
        let tables = self.schema.tables.iter().zip(&self.tables);
        json!({
            "rows": self.rows(),
            "plan_ms": self.plan_ms,
            "tables": tables.map(|(table, plan)| self.table_json(table, plan)).collect::<Vec<_>>(),
            "misfits": self.refused(),
            "quarantined": self.quarantined(),
            "orphans": self.orphans.iter().map(|key| json!({
                "table": key.table, "parent": key.parent, "count": key.count, "rows": key.rows,
            })).collect::<Vec<_>>(),
            "not_migrated": left_json(&self.statements.untranslated),
            "notes": self.statements.notes,
            "user_version": self.schema.user_version,
            "application_id": self.schema.application_id,
        })
    }

    fn table_json(&self, table: &Table, plan: &TablePlan) -> Value {
        let columns = table.columns.iter().zip(&plan.columns).zip(&plan.profile.columns);
        let columns = columns.map(|((column, plan), seen)| {
            json!({
                "name": column.name,
                "new_name": self.names.column(&table.name, &column.name),
                "declared": column.declared,
                "values": seen_json(seen),
                "type": plan.choice.target.sql(),
                "why": plan.choice.why,
                "note": plan.choice.note,
                "misfits": plan.misfits,
                "misfit_rows": plan.shown.iter().map(|(row, value, why)| json!({
                    "row": row, "value": value, "why": why,
                })).collect::<Vec<_>>(),
            })
        });
        json!({
            "name": table.name,
            "new_name": self.names.table(&table.name),
            "rows": plan.profile.digest.rows,
            "digest": plan.profile.digest.text(),
            "columns": columns.collect::<Vec<_>>(),
        })
    }

    /// What stands in the way, as text: values that do not fit, and rows whose keys lead nowhere.
    pub fn problems_text(&self) -> String {
        let mut text = String::new();
        for (table, plan) in self.schema.tables.iter().zip(&self.tables) {
            let columns = table.columns.iter().zip(&plan.columns);
            for (column, one) in columns.filter(|(_, one)| one.misfits > 0) {
                let (declared, target) = (&column.declared, one.choice.target.sql());
                let _ = writeln!(text, "{}.{} {declared} -> {target}", table.name, column.name);
                column_text(one, &mut text);
            }
        }
        self.orphans_text(&mut text);
        text
    }

    fn orphans_text(&self, text: &mut String) {
        for key in &self.orphans {
            let _ = writeln!(
                text,
                "! {} rows of {} have a foreign key that leads nowhere in {}: {}",
                key.count,
                key.table,
                key.parent,
                first(&key.rows)
            );
        }
    }

    /// The plan as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (table, plan) in self.schema.tables.iter().zip(&self.tables) {
            let name = self.names.table(&table.name);
            let renamed = if name == table.name { String::new() } else { format!(" -> {name}") };
            let _ = writeln!(text, "{}{renamed}: {} rows", table.name, plan.profile.digest.rows);
            for ((column, one), seen) in
                table.columns.iter().zip(&plan.columns).zip(&plan.profile.columns)
            {
                let declared = match column.declared.is_empty() {
                    true => "no type",
                    false => &column.declared,
                };
                let _ = writeln!(
                    text,
                    "  {} {declared} -> {}: {} ({})",
                    column.name,
                    one.choice.target.sql(),
                    one.choice.why,
                    seen_text(seen)
                );
                column_text(one, &mut text);
            }
        }
        self.ends_text(&mut text);
        text
    }

    fn ends_text(&self, text: &mut String) {
        self.orphans_text(text);
        for left in &self.statements.untranslated {
            let _ = writeln!(text, "! not migrated: {}: {}", left.what, left.why);
            for line in left.sql.lines().filter(|line| !line.trim().is_empty()) {
                let _ = writeln!(text, "    {line}");
            }
        }
        for note in &self.statements.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        let schema = &self.schema;
        if (schema.user_version, schema.application_id) != (0, 0) {
            let _ = writeln!(
                text,
                "  note: PostgreSQL has no place for user_version {} and application_id {}",
                schema.user_version, schema.application_id
            );
        }
        text.push_str(
            "  note: other than in SQLite, '1' and 1 are not equal, LIKE tells the case of \
             letters, and columns beside an aggregate must be in GROUP BY\n",
        );
    }
}

fn column_text(column: &ColumnPlan, text: &mut String) {
    if let Some(note) = &column.choice.note {
        let _ = writeln!(text, "    {note}");
    }
    if column.misfits == 0 {
        return;
    }
    let _ = writeln!(text, "    ! {} values do not fit", column.misfits);
    for (row, value, why) in column.shown.iter().take(LINES_MAX) {
        let _ = writeln!(text, "      {row}: {value}: {why}");
    }
    if column.misfits > LINES_MAX as u64 {
        let _ = writeln!(text, "      and {} more: --json", column.misfits - LINES_MAX as u64);
    }
}

fn first(rows: &[String]) -> String {
    let shown = rows.iter().take(LINES_MAX).cloned().collect::<Vec<_>>().join(", ");
    if rows.len() > LINES_MAX { format!("{shown}, ...") } else { shown }
}

fn seen_json(seen: &ColumnProfile) -> Value {
    json!({
        "null": seen.nulls, "integer": seen.integers, "real": seen.reals, "text": seen.texts,
        "blob": seen.blobs,
        "integer_range": (seen.integers > 0).then_some([seen.integer_min, seen.integer_max]),
        "real_range": (seen.reals > 0)
            .then(|| [format!("{:?}", seen.real_min), format!("{:?}", seen.real_max)]),
        "bytes_max": seen.bytes_max,
        "only_0_and_1": seen.integers > 0 && seen.zero_or_one == seen.integers,
        "like_seconds": seen.seconds, "like_milliseconds": seen.milliseconds,
        "like_julian_days": seen.julian,
        "dates": seen.dates, "dates_and_times": seen.moments + seen.moments_utc,
        "dates_and_times_elsewhere": seen.moments_elsewhere,
        "with_nul": seen.nul, "not_utf8": seen.not_utf8, "empty_texts": seen.empty,
    })
}

/// What was seen, in a line.
fn seen_text(seen: &ColumnProfile) -> String {
    let mut parts = Vec::new();
    if seen.integers > 0 {
        let (least, most) = (seen.integer_min, seen.integer_max);
        parts.push(format!("{} integers {least} to {most}", seen.integers));
    }
    if seen.reals > 0 {
        let (least, most) = (seen.real_min, seen.real_max);
        parts.push(format!("{} reals {least:?} to {most:?}", seen.reals));
    }
    if seen.julian > 0 && seen.julian == seen.reals {
        let shown = |day: f64| time::of_julian(day).map_or_else(|| "?".into(), time::shown);
        parts.push(format!(
            "like Julian days, {} to {}",
            shown(seen.real_min),
            shown(seen.real_max)
        ));
    }
    let counts = [
        (seen.texts, "texts"),
        (seen.blobs, "blobs"),
        (seen.nul, "with NUL bytes"),
        (seen.not_utf8, "not UTF-8"),
        (seen.empty, "empty"),
        (seen.nulls, "NULLs"),
    ];
    for (count, what) in counts {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if seen.texts + seen.blobs > 0 {
        parts.push(format!("up to {} bytes", seen.bytes_max));
    }
    if parts.is_empty() { "no rows".into() } else { parts.join(", ") }
}
