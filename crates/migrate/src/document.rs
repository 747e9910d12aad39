//! The report of a migration as a document that somebody reads and signs: what was read, what
//! became of it, how it was proved, and what is not there.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::plan::Plan;
use crate::report::{Done, TableDone};

/// What surrounds a migration: the program knows it, the plan does not.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The program and its version.
    pub tool: String,
    /// What was read: a path, or a restore point.
    pub source: String,
    /// Its size.
    pub source_bytes: u64,
    /// How it was read.
    pub way: String,
    /// The moment that was read.
    pub read_at: String,
    /// The target, without a password.
    pub target: Option<String>,
    /// When it ended.
    pub ended_at: String,
    /// What was chosen by options.
    pub choices: Vec<String>,
    /// The backups before, which stay.
    pub backups: Vec<String>,
    /// What is changed elsewhere when all is there.
    pub switches: Vec<String>,
}

impl Facts {
    fn to_json(&self) -> Value {
        json!({
            "tool": self.tool, "source": self.source, "source_bytes": self.source_bytes,
            "way": self.way, "read_at": self.read_at, "target": self.target,
            "ended_at": self.ended_at, "choices": self.choices, "backups": self.backups,
            "switches": self.switches,
        })
    }

    fn lines(&self, plan: &Plan, done: Option<&Done>) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("source", format!("{} ({} bytes)", self.source, self.source_bytes)),
            ("read", format!("{} UTC, {}", self.read_at, self.way)),
            ("rows", format!("{} in {} tables", plan.rows(), plan.tables.len())),
        ];
        lines.extend(self.target.clone().map(|target| ("target", target)));
        lines.extend(done.map(|done| ("server", format!("PostgreSQL {}", done.server))));
        lines.push(("program", self.tool.clone()));
        if !self.choices.is_empty() {
            lines.push(("chosen", self.choices.join(", ")));
        }
        if !self.backups.is_empty() {
            lines.push(("backup before, pinned", self.backups.join(", ")));
        }
        if let Some(done) = done {
            let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
            let times = &done.times;
            lines.push((
                "took",
                format!(
                    "examined {}, loaded {}, then indexed and compared {}, foreign keys and swap {}",
                    seconds(plan.plan_ms),
                    seconds(times.load_ms),
                    seconds(times.proof_ms),
                    seconds(times.finish_ms)
                ),
            ));
            lines
                .extend(done.set_aside.clone().map(|name| ("set aside", format!("schema {name}"))));
        }
        lines.push(("ended", format!("{} UTC", self.ended_at)));
        lines
    }
}

impl Plan {
    /// The report as JSON.
    pub fn report_json(&self, facts: &Facts, done: Option<&Done>) -> Value {
        json!({
            "facts": facts.to_json(), "plan": self.to_json(), "done": done.map(Done::to_json),
        })
    }

    /// The report in Markdown, of a migration or of what one would do.
    pub fn markdown(&self, facts: &Facts, done: Option<&Done>) -> String {
        let source = facts.source.replace(['\n', '\r'], " ");
        let mut text = format!("# From SQLite to PostgreSQL: {source}\n\n");
        text.push_str(match done {
            Some(done) if done.verified && done.rejected() == 0 => {
                "**Every row was read back from the server and is the same on both sides, to the \
                 last value.**\n\n"
            }
            Some(done) if done.verified => {
                "**Every row that was loaded was read back and is the same on both sides. Some \
                 rows were put aside, as asked: they are in `_lifeboat_rejects`.**\n\n"
            }
            Some(_) => "**The rows were not compared, as asked.**\n\n",
            None => "**A plan. Nothing was loaded.**\n\n",
        });
        text.push_str("| | |\n|---|---|\n");
        for (name, value) in facts.lines(self, done) {
            let _ = writeln!(text, "| {name} | {} |", cell(&value));
        }
        text.push('\n');
        if let Some(done) = done {
            tables(done, &mut text);
        }
        self.lost(done, &mut text);
        for (place, line) in facts.switches.iter().enumerate() {
            text.push_str(if place == 0 { "## Changed when all was there\n\n" } else { "" });
            let _ = writeln!(text, "    {line}");
        }
        let _ = writeln!(text, "\n## Columns, their types and why\n\n```\n{}```", self.text());
        if done.is_some() {
            text.push_str("\nRead and agreed:\n\nName ____________________  Date ____________\n");
        }
        text
    }

    /// What is not there, with its text.
    fn lost(&self, done: Option<&Done>, text: &mut String) {
        text.push_str("## What was not translated\n\n");
        let refused = done.map(|done| done.refused.as_slice()).unwrap_or_default();
        let all = || self.statements.untranslated.iter().chain(refused);
        if all().next().is_none() {
            text.push_str("Nothing: all of the schema is there.\n\n");
        }
        for left in all() {
            let _ = writeln!(text, "- {}: {}", left.what, left.why);
            for line in left.sql.lines().filter(|line| !line.trim().is_empty()) {
                let _ = writeln!(text, "\n      {line}");
            }
        }
        text.push_str("\n## What is not quite what it was\n\n");
        for note in &self.statements.notes {
            let _ = writeln!(text, "- {note}");
        }
        text.push_str(
            "- '1' and 1 are not equal in PostgreSQL, LIKE tells the case of letters, columns \
             beside an aggregate must be in GROUP BY: queries of the application may need a \
             change\n\n",
        );
    }
}

fn tables(done: &Done, text: &mut String) {
    text.push_str(
        "## Rows\n\nThe digest is the sum of the hashes (XXH3, 128 bits) of all rows, after their \
         values got the types of PostgreSQL; on the right as the server gave them back.\n\n\
         | table | rows | put aside | digest | rows there | digest there |\n\
         |---|---|---|---|---|---|\n",
    );
    for table in &done.tables {
        let TableDone { rows, rejected, digest, .. } = table;
        let there = match &table.there {
            Some((rows, digest)) => format!("{rows} | `{digest}`"),
            None => "not asked | ".to_owned(),
        };
        let name = cell(&table.table);
        let _ = writeln!(text, "| {name} | {rows} | {rejected} | `{digest}` | {there} |");
    }
    text.push('\n');
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
