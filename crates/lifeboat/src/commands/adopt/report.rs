//! What became of each file, for people and as JSON, and the exit code that follows.

use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::adopt::{Because, Candidate, Removal};
use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::is_missing;
use crate::session::Session;
use crate::ui::printer::{Level, Style};
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// Files that are no backups and are told one by one.
const UNRECOGNIZED_MAX: usize = 20;

/// What became of the files.
pub(super) struct Report<'a> {
    session: &'a Session,
    url: &'a str,
    is_plan: bool,
    files: Vec<Value>,
    planned: Table,
    counts: Counts,
    /// What is left although it looks like a backup, by kind of error.
    missing: Vec<Kind>,
}

#[derive(Default)]
struct Counts {
    adopted: usize,
    planned: usize,
    already: usize,
    nothing: usize,
    unrecognized: usize,
    removed: usize,
    far: usize,
}

impl<'a> Report<'a> {
    pub(super) fn new(session: &'a Session, url: &'a str, is_plan: bool) -> Self {
        let planned = Table::new(&[
            ("file", Align::Left),
            ("source", Align::Left),
            ("moment", Align::Left),
            ("size", Align::Right),
            ("plan", Align::Left),
        ]);
        let (files, missing) = (Vec::new(), Vec::new());
        Report { session, url, is_plan, files, planned, counts: Counts::default(), missing }
    }

    fn moment(&self, file: &Candidate) -> String {
        units::moment(file.decided.taken_at, &self.session.surroundings.time_zone)
    }

    fn add(&mut self, file: &Candidate, outcome: &str, more: Value) {
        let mut value = json!({
            "path": file.path,
            "outcome": outcome,
            "taken_at": file.decided.taken_at,
            "bytes": file.stat.bytes,
        });
        if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        self.files.push(value);
    }

    fn row(&mut self, file: &Candidate, source: &str, plan: &str, style: Style) {
        let cells = vec![
            (units::one_line(file.file_name()), None),
            (units::one_line(source), None),
            (self.moment(file), None),
            (units::bytes(file.stat.bytes), None),
            (units::one_line(plan), Some(style)),
        ];
        self.planned.row(cells);
    }

    /// A file that is not named like a backup.
    pub(super) fn unrecognized(&mut self, path: &Path, why: &str) {
        self.counts.unrecognized += 1;
        self.files
            .push(json!({ "path": path.to_string_lossy(), "outcome": "unrecognized", "why": why }));
        let printer = &self.session.printer;
        let all = printer.says(Level::Verbose);
        if all || self.counts.unrecognized <= UNRECOGNIZED_MAX {
            let name = units::one_line(&path.to_string_lossy());
            printer.note(&format!("left alone: {name}: {why}"));
        } else if self.counts.unrecognized == UNRECOGNIZED_MAX + 1 {
            printer.note("left alone: others, all with --verbose");
        }
    }

    /// A file whose source is not known.
    pub(super) fn without_source(&mut self, file: &Candidate, why: &str) {
        self.tell_left(file, why);
        self.row(file, "?", &format!("left alone: {why}"), Style::Doubtful);
        self.add(file, "no-source", json!({ "why": why }));
        self.missing.push(Kind::Usage);
    }

    /// A file that would be adopted.
    pub(super) fn planned(&mut self, file: &Candidate, source: &str, notes: &[String]) {
        self.counts.planned += 1;
        self.row(file, source, "adopt", Style::Good);
        self.notes(file, notes);
        self.add(file, "planned", json!({ "source": source, "notes": notes }));
    }

    /// A file that is a backup now.
    pub(super) fn adopted(
        &mut self,
        file: &Candidate,
        folder: &str,
        manifest: &Manifest,
        removal: &Removal,
    ) {
        self.counts.adopted += 1;
        self.session.progress.clear();
        let printer = &self.session.printer;
        let mark = printer.paint_err(Style::Good, "adopted");
        let name = units::one_line(file.file_name());
        let (backup, moment) = (units::one_line(&manifest.name), self.moment(file));
        printer.note(&format!("{mark} {name} as {backup} ({moment})"));
        self.notes(file, &manifest.warnings);
        self.add(
            file,
            "adopted",
            json!({
                "source": manifest.source.name,
                "folder": folder,
                "backup": manifest.name,
                "condition": manifest.condition,
                "notes": manifest.warnings,
            }),
        );
        self.removal(file, removal);
    }

    /// A file that was adopted before.
    pub(super) fn already(
        &mut self,
        file: &Candidate,
        source: &str,
        backup: &str,
        removal: &Removal,
    ) {
        self.counts.already += 1;
        let printer = &self.session.printer;
        let name = units::one_line(file.file_name());
        printer.detail(&format!("{name} was adopted before, as {}", units::one_line(backup)));
        self.row(file, source, &format!("nothing: it is {backup} already"), Style::Faint);
        self.add(file, "already-adopted", json!({ "source": source, "backup": backup }));
        self.removal(file, removal);
    }

    /// A file that stays what it is.
    pub(super) fn left(&mut self, file: &Candidate, source: &str, because: Because, why: &str) {
        self.session.progress.clear();
        let (outcome, words, kind) = match because {
            Because::Nothing => ("not-a-backup", "no backup", Kind::Failed),
            Because::Foreign => ("foreign", "left alone", Kind::CheckFailed),
            Because::Damaged => ("damaged", "damaged, left alone", Kind::CheckFailed),
            Because::Unread => ("skipped", "left for now", Kind::SourceUnavailable),
        };
        self.tell_left(file, &format!("{words}: {why}"));
        self.row(file, source, &format!("{words}: {why}"), Style::Bad);
        self.add(file, outcome, json!({ "source": source, "why": why }));
        match is_missing(because) {
            true => self.missing.push(kind),
            false => self.counts.nothing += 1,
        }
    }

    fn warn(&self, file: &Candidate, message: &str) {
        let name = units::one_line(&file.path.to_string_lossy());
        self.session.printer.warning(&name, &units::one_line(message));
    }

    /// The table of a plan says it too.
    fn tell_left(&self, file: &Candidate, message: &str) {
        if !self.is_plan || self.session.printer.json() {
            self.warn(file, message);
        }
    }

    fn notes(&mut self, file: &Candidate, notes: &[String]) {
        let is_far = |note: &&String| file.decided.far.as_ref() == Some(note);
        for note in notes.iter().filter(|note| !is_far(note)) {
            self.warn(file, note);
        }
        // After a copy all files have it.
        for note in notes.iter().filter(is_far) {
            self.counts.far += 1;
            let name = units::one_line(file.file_name());
            self.session.printer.detail(&format!("{name}: {note}"));
        }
    }

    fn removal(&mut self, file: &Candidate, removal: &Removal) {
        let last = self.files.last_mut();
        match removal {
            Removal::NotAsked => {}
            Removal::Removed => {
                self.counts.removed += 1;
                if let Some(last) = last {
                    last["original"] = "removed".into();
                }
            }
            Removal::Kept(why) => {
                if let Some(last) = last {
                    last["original"] = format!("kept: {why}").into();
                }
                self.warn(file, &format!("the original is kept: {why}"));
                self.missing.push(Kind::Failed);
            }
        }
    }

    /// Prints the result, also of a run that failed half-way, and makes one exit code of all.
    pub(super) fn end(self, ended: Result<()>) -> Result<ExitCode> {
        let printer = &self.session.printer;
        self.session.progress.clear();
        match (printer.json(), self.is_plan) {
            (true, _) => printer.json_data(&json!({
                "repository": self.url,
                "files": self.files,
            }))?,
            (false, true) if !self.planned.is_empty() => {
                printer.data(&self.planned.to_text(printer))?
            }
            _ => {}
        }
        let done = self.counts.adopted + self.counts.planned + self.counts.already;
        ended.map_err(|error| match done {
            0 => error,
            _ => {
                let message = format!("stopped after {done} files that are backups now");
                error.context(message)
            }
        })?;
        if self.counts.far > 0 {
            printer.note(&format!(
                "{} of them were modified more than a day away from the moments in their names, \
                 which are taken: copies often lose that time",
                self.counts.far
            ));
        }
        printer.note(&self.summary());
        let Some(first) = self.missing.first().copied() else { return Ok(ExitCode::SUCCESS) };
        let same = self.missing.iter().all(|kind| *kind == first);
        let kind = match same {
            _ if done > 0 => Kind::Incomplete,
            true => first,
            false => Kind::Failed,
        };
        let count = self.missing.len();
        let message = match count {
            1 => "a file that looks like a backup was left".to_owned(),
            count => format!("{count} files that look like backups were left"),
        };
        Err(Error::new(kind, message).hint("the warnings above say why"))
    }

    fn summary(&self) -> String {
        let Counts { adopted, planned, already, nothing, unrecognized, removed, .. } = self.counts;
        let part = |count: usize, words: &str| (count > 0).then(|| format!("{count} {words}"));
        let parts = [
            part(adopted, "adopted"),
            part(planned, "to adopt"),
            part(already, "adopted before"),
            part(removed, "originals removed"),
            part(self.missing.len(), "left that look like backups"),
            part(nothing, "without content"),
            part(unrecognized, "of other kinds"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => "there is nothing to adopt".to_owned(),
            false => parts.join(", "),
        }
    }
}
