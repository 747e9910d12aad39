//! What a search found, for people and for programs.

use std::path::Path;

use serde_json::{Value, json};

use super::proposal::{Proposal, Proposed, openers, written};
use crate::discover::{Database, Findings};
use crate::session::Session;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// The way to show it.
pub(super) struct Shown<'a> {
    pub(super) session: &'a Session,
    pub(super) findings: &'a Findings,
    pub(super) proposal: &'a Proposal<'a>,
}

impl Shown<'_> {
    /// The databases, one in a line.
    pub(super) fn table(&self) -> String {
        if self.proposal.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&[
            ("SOURCE", Align::Left),
            ("SIZE", Align::Right),
            ("WRITTEN", Align::Left),
            ("OPEN IN", Align::Left),
            ("DATABASE", Align::Left),
        ]);
        let zone = &self.session.surroundings.time_zone;
        let sources = self.proposal.sources().iter();
        for (name, database) in sources.flat_map(Proposed::each) {
            let written = written(database).map(|at| units::moment(at, zone)).unwrap_or_default();
            let cells = [
                name,
                units::bytes(database.bytes),
                written,
                openers(database),
                units::one_line(&database.path.to_string_lossy()),
            ];
            table.row(cells.into_iter().map(|cell| (cell, None)).collect());
        }
        for server in self.proposal.reached() {
            let place = units::one_line(&server.label);
            let cells = [server.name.clone(), String::new(), String::new(), String::new(), place];
            table.row(cells.into_iter().map(|cell| (cell, None)).collect());
        }
        table.to_text(&self.session.printer)
    }

    /// What a person should know before trusting the table.
    pub(super) fn say_doubts(&self) {
        let printer = &self.session.printer;
        for warning in &self.findings.warnings {
            printer.warning("", &units::one_line(warning));
        }
        for path in self.proposal.unnameable() {
            let path = units::one_line(&path.to_string_lossy());
            printer.warning(&path, "its path is not UTF-8: no configuration can name it");
        }
        for line in self.proposal.unprotected(self.findings) {
            printer.warning("", &format!("found, not yet protected: {}", units::one_line(&line)));
        }
        if self.proposal.sources().iter().any(Proposed::is_superchat) {
            printer.note(
                "that looks like a SuperChat server: `lifeboat init --preset superchat` knows more \
                 of it",
            );
        }
        for note in &self.findings.notes {
            printer.note(&units::one_line(note));
        }
        self.say_left_out();
    }

    fn say_left_out(&self) {
        let printer = &self.session.printer;
        let mut reasons: Vec<(&str, usize)> = Vec::new();
        for left in &self.findings.left_out {
            let path = units::one_line(&left.path.to_string_lossy());
            printer.detail(&format!("left out {path}: {}", left.reason));
            match reasons.iter_mut().find(|(reason, _)| *reason == left.reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((&left.reason, 1)),
            }
        }
        if reasons.is_empty() {
            return;
        }
        let parts: Vec<String> =
            reasons.iter().map(|(reason, count)| format!("{count} ({reason})")).collect();
        let parts = parts.join(", ");
        printer.note(&format!("left out: {parts}; --verbose names them, `init DIR` looks there"));
    }

    pub(super) fn as_json(&self, outcome: &str, path: &Path, text: Option<&str>) -> Value {
        let mut value = json!({
            "outcome": outcome,
            "path": path,
            "sources": self.proposal.sources().iter().flat_map(sources).collect::<Vec<_>>(),
            "servers": self.proposal.servers().iter()
                .map(|server| json!({
                    "name": server.name, "address": server.label, "found": server.facts,
                    "reached": server.is_reached(),
                    "hindrance": server.hindrance.as_ref().filter(|why| !why.is_empty()),
                }))
                .collect::<Vec<_>>(),
            "unprotected": self.proposal.unprotected(self.findings),
            "left_out": self.findings.left_out.iter()
                .map(|left| json!({ "path": left.path.to_string_lossy(), "reason": left.reason }))
                .collect::<Vec<_>>(),
            "notes": self.findings.notes,
            "warnings": self.findings.warnings,
        });
        if let Some(text) = text {
            value["configuration"] = text.into();
        }
        value
    }
}

fn sources(source: &Proposed<'_>) -> Vec<Value> {
    let glob = (source.databases.len() > 1).then_some(&source.path);
    let value = |(name, database): (String, &Database)| {
        json!({
            "name": name,
            "path": database.path.to_string_lossy(),
            "glob": glob,
            "bytes": database.bytes,
            "journal_mode": if database.is_wal { "wal" } else { "rollback" },
            "written_at": written(database).map(|at| at.to_string()),
            "open_in": database.openers.iter()
                .map(|opener| json!({
                    "pid": opener.pid, "name": opener.name, "unit": opener.unit,
                }))
                .collect::<Vec<_>>(),
            "named_by": database.named_by,
            "service": source.service,
        })
    };
    source.each().into_iter().map(value).collect()
}
