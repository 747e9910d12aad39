//! What became of databases that are followed, said to people and programs.

use std::collections::BTreeMap;

use lifeboat_core::{Error, Result};
use serde_json::{Value, json};

use super::{Job, Told};
use crate::following::{self, Following};
use crate::private;
use crate::session::Session;
use crate::ui::{report, units};

/// Says what looks led to, as they come.
pub(super) struct Teller<'a> {
    session: &'a Session,
    /// What was written down of how much may be lost, by source and repository.
    noted: BTreeMap<(String, String), Following>,
}

impl<'a> Teller<'a> {
    pub(super) fn of(session: &'a Session) -> Self {
        Teller { session, noted: BTreeMap::new() }
    }

    /// Says what a look led to.
    pub(super) fn say(&mut self, job: &Job<'_>, told: &Told) -> Result<()> {
        self.note(job, told);
        let printer = &self.session.printer;
        match tell(self.session, job, told) {
            Some(result) if printer.json() => printer.data(&format!("{result}\n")),
            _ => Ok(()),
        }
    }

    /// Writes down how much may be lost, where that is news. What cannot be written is left out:
    /// it is for `status` and `list`.
    fn note(&mut self, job: &Job<'_>, told: &Told) {
        let (Told::Began(increment, following) | Told::Added(increment, following)) = told else {
            return;
        };
        let is_known = self.noted.get(&job.key()).is_some_and(|noted| noted.is_as(following));
        let path = following::path(self.session, &job.place.url, &increment.folder);
        if let Some(path) = path.filter(|_| !is_known) {
            let text = serde_json::to_vec_pretty(following).map_err(std::io::Error::from);
            match text.and_then(|text| private::replace(&path, &text)) {
                Ok(()) => {
                    self.noted.insert(job.key(), following.clone());
                }
                Err(error) => {
                    let what = "how much may be lost is not written down";
                    let message = format!("{what}: {}: {error}", path.display());
                    self.session.printer.detail(&message);
                }
            }
        }
    }
}

/// An error with its causes, and what mends it, in one line.
pub(super) fn in_full(error: &Error) -> String {
    let causes = report::causes(error);
    let causes: String = causes.iter().map(|cause| format!(": {cause}")).collect();
    let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{error}{causes}{hint}")
}

/// Says what a look led to; the result for programs, where there is one.
pub(super) fn tell(session: &Session, job: &Job<'_>, told: &Told) -> Option<Value> {
    let name = units::one_line(&job.target.name);
    let (printer, label) = (&session.printer, job.place.label());
    session.progress.clear();
    let mut rpo_ms = None;
    let (outcome, increment) = match told {
        Told::Nothing => return None,
        Told::Began(increment, rpo) => {
            rpo_ms = Some(rpo.rpo_ms);
            let every = match rpo.is_compared {
                true => format!(
                    "; it is not in WAL mode: its pages are compared, about every {}",
                    units::duration(rpo.rpo_ms)
                ),
                false => String::new(),
            };
            printer.note(&format!(
                "following {name} in {label}, from {}+{} on{every}",
                units::one_line(&increment.base),
                increment.position
            ));
            ("following", increment)
        }
        Told::Added(increment, _) => {
            let (pages, bytes) = (increment.pages.0, units::bytes(increment.stored_bytes));
            printer.detail(&format!(
                "{name}: {}+{}, {pages} pages in {bytes}",
                units::one_line(&increment.base),
                increment.position
            ));
            ("added", increment)
        }
        Told::BackedUp(why) => {
            printer.note(&format!("{name}: backed up to {label}: {}", units::one_line(why)));
            return Some(json!({
                "source": job.target.name, "repository": job.place.url, "outcome": "backed-up",
                "reason": why,
            }));
        }
        Told::Failed(error) => {
            printer.warning(&name, &in_full(error));
            return Some(json!({
                "source": job.target.name, "repository": job.place.url, "outcome": "failed",
                "error": report::as_json(error),
            }));
        }
    };
    let mut result = json!({
        "source": job.target.name, "repository": job.place.url, "outcome": outcome,
        "backup": increment.base, "position": increment.position, "held": increment.held,
        "pages_changed": increment.pages.0, "pages": increment.pages.1,
        "stored_bytes": increment.stored_bytes,
    });
    if let Some(rpo_ms) = rpo_ms {
        result["rpo_ms"] = rpo_ms.into();
    }
    Some(result)
}
