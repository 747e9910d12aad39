//! What must be true on this host so that backups can be made and restored, looked at one by one.
//!
//! A check is a function in a file of its own and a line in [`CHECKS`]. It changes nothing, and it
//! never ends early: what cannot be found out is a finding as well.

mod clock;
mod configuration;
mod drills;
mod file_systems;
mod host;
mod notify;
mod leftovers;
mod libraries;
mod links;
mod postgres;
mod repositories;
mod rights;
mod room;
mod schedules;
mod services;
mod sources;
mod tools;
mod unprotected;
mod wal;

pub(crate) use self::rights::is_key;

use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rustix::fs::Access;
use serde_json::{Value, json};

use crate::config::diagnose::shown;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::printer::{Printer, Style};
use crate::ui::{report, units};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// Backups work, something else does not, or will not for long.
    Warning,
    /// A backup or a restore will fail.
    Bad,
}

impl Verdict {
    /// The word for it, in text and in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        }
    }

    fn style(self) -> Style {
        match self {
            Verdict::Good => Style::Good,
            Verdict::Warning => Style::Doubtful,
            Verdict::Bad => Style::Bad,
        }
    }
}

/// What one check found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was looked at: "repository".
    pub(crate) check: &'static str,
    /// Which one: its name, or a path; empty where there is only one.
    pub(crate) object: String,
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) message: String,
    /// What mends it.
    pub(crate) hint: Option<String>,
    /// The kind of the failure, where it is bad.
    pub(crate) kind: Option<Kind>,
}

impl Finding {
    /// All is well.
    pub(crate) fn good(check: &'static str, object: &str, message: impl Into<String>) -> Self {
        Finding {
            check,
            object: object.to_owned(),
            verdict: Verdict::Good,
            message: message.into(),
            hint: None,
            kind: None,
        }
    }

    /// Something to mend in good time.
    pub(crate) fn warning(
        check: &'static str,
        object: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let hint = Some(hint.into());
        Finding { verdict: Verdict::Warning, hint, ..Finding::good(check, object, message) }
    }

    /// A run would fail with that error.
    pub(crate) fn bad(check: &'static str, object: &str, error: &Error) -> Self {
        let causes: String =
            report::causes(error).iter().map(|cause| format!(": {cause}")).collect();
        Finding {
            verdict: Verdict::Bad,
            hint: error.hint_text().map(str::to_owned),
            kind: Some(error.kind()),
            ..Finding::good(check, object, format!("{error}{causes}"))
        }
    }

    /// What an attempt came to.
    pub(crate) fn of(check: &'static str, object: &str, found: Result<String>) -> Self {
        match found {
            Ok(message) => Finding::good(check, object, message),
            Err(error) => Finding::bad(check, object, &error),
        }
    }

    /// The same as a warning, for what no backup needs.
    pub(crate) fn at_most_a_warning(self) -> Self {
        Finding { verdict: self.verdict.min(Verdict::Warning), kind: None, ..self }
    }

    /// A line for a person, and one with what mends it.
    pub(crate) fn text(&self, printer: &Printer) -> String {
        let mark = printer.paint_out(self.verdict.style(), &format!("{:<7}", self.verdict.word()));
        let object = match self.object.is_empty() {
            true => String::new(),
            false => format!(" {}", units::one_line(&self.object)),
        };
        let mut text = format!("{mark} {}{object}: {}\n", self.check, indented(&self.message));
        if let Some(hint) = &self.hint {
            let word = printer.paint_out(Style::Strong, "mend it:");
            text.push_str(&format!("        {word} {}\n", indented(hint)));
        }
        text
    }

    /// The same for programs.
    pub(crate) fn as_json(&self) -> Value {
        let mut value = json!({
            "check": self.check, "object": self.object, "outcome": self.verdict.word(),
            "message": self.message,
        });
        if let Some(hint) = &self.hint {
            value["hint"] = hint.as_str().into();
        }
        if let Some(kind) = self.kind {
            value["kind"] = report::kind_name(kind).into();
        }
        value
    }
}

/// Lines below the first one under it; nothing else that a terminal would obey.
fn indented(text: &str) -> String {
    text.lines().map(units::one_line).collect::<Vec<_>>().join("\n        ")
}

/// What the checks look at.
pub(crate) struct Subject<'a> {
    /// The run.
    pub(crate) session: &'a Session,
    /// Its world.
    pub(crate) env: &'a Env,
    /// The sources of the configuration that could be found.
    pub(crate) targets: &'a [Target],
    /// Those that could not: the section's name, and why.
    pub(crate) lost: &'a [(String, Error)],
    /// Whether only what the configuration names is tried, as `config check --online` wants it.
    pub(crate) online_alone: bool,
    /// The folder that stands for `/` where installed schedules are looked for.
    pub(crate) root: &'a Path,
}

/// One check.
pub(crate) struct Check {
    /// Whether it tries what the configuration names, so that `config check --online` wants it.
    is_online: bool,
    /// Whether it makes sense while the configuration cannot be read.
    needs_configuration: bool,
    run: fn(&Subject<'_>) -> Vec<Finding>,
}

const fn of_host(run: fn(&Subject<'_>) -> Vec<Finding>) -> Check {
    Check { is_online: false, needs_configuration: false, run }
}

const fn of_configuration(run: fn(&Subject<'_>) -> Vec<Finding>) -> Check {
    Check { is_online: false, needs_configuration: true, run }
}

const fn online(run: fn(&Subject<'_>) -> Vec<Finding>) -> Check {
    Check { is_online: true, needs_configuration: true, run }
}

/// All checks, in the order in which they are shown.
const CHECKS: &[Check] = &[
    of_host(configuration::file),
    of_configuration(configuration::secrets),
    of_host(host::state_folder),
    of_host(host::scratch_folder),
    of_host(host::time_zone),
    of_host(clock::kept_right),
    online(repositories::places),
    online(sources::readable),
    of_configuration(file_systems::of_databases),
    of_configuration(links::of_databases),
    of_configuration(leftovers::beside),
    of_configuration(rights::too_wide),
    of_configuration(room::beside),
    of_configuration(libraries::of_applications),
    of_host(unprotected::databases),
    online(postgres::servers),
    online(wal::archivers),
    online(services::named),
    of_configuration(schedules::installed),
    of_configuration(drills::overdue),
    of_configuration(notify::deliveries),
    of_host(tools::by_hand),
];

/// Runs the checks; those that `config check --online` wants alone, or all.
pub(crate) fn run(session: &Session, root: &Path, online_alone: bool) -> Vec<Finding> {
    let is_readable = session.loaded().is_ok();
    let env = match session.env() {
        Ok(env) => env,
        Err(_) => session.surroundings.env(None, session.progress.clone()),
    };
    let (mut targets, mut lost) = (Vec::new(), Vec::new());
    if let Ok(loaded) = session.loaded() {
        for (name, source) in &loaded.config.source {
            match Target::configured(name, source) {
                Ok(found) => targets.extend(found),
                Err(error) => lost.push((name.clone(), error)),
            }
        }
    }
    let subject =
        Subject { session, env: &env, targets: &targets, lost: &lost, online_alone, root };
    CHECKS
        .iter()
        .filter(|check| check.is_online || !online_alone)
        .filter(|check| is_readable || !check.needs_configuration)
        .flat_map(|check| (check.run)(&subject))
        .collect()
}

/// The end of a command that showed findings: an error if any is bad, of their kind if they share
/// one.
pub(crate) fn conclude(findings: &[Finding]) -> Result<()> {
    let kinds: Vec<Kind> = findings.iter().filter_map(|finding| finding.kind).collect();
    let Some(first) = kinds.first() else { return Ok(()) };
    let kind = if kinds.iter().all(|kind| kind == first) { *first } else { Kind::Failed };
    let (bad, all) = (kinds.len(), findings.len());
    let is = if bad == 1 { "is" } else { "are" };
    Err(Error::new(kind, format!("{bad} of {all} checks {is} bad"))
        .hint("each line above that is bad says what mends it"))
}

/// Whether we may do that with a path; else the error that a run would meet.
fn may(path: &Path, access: Access, kind: Kind, what: &str) -> Result<()> {
    rustix::fs::access(path, access).map_err(|error| {
        let user = rustix::process::geteuid().as_raw();
        Error::io(kind, format!("cannot {what} {} as user {user}", shown(path)), error.into())
    })
}

/// The nearest folder at or above a path that exists: what is missing would be made there.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Whether a program of that name is in a folder of the search path, or where administrators' are.
fn has_program(name: &str) -> bool {
    let mut folders = crate::world::search_path();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.iter().any(|folder| {
        let path = folder.join(name);
        path.is_file() && rustix::fs::access(&path, Access::EXEC_OK).is_ok()
    })
}
