//! The steps of an offer: commands of this program, run one after the other within it.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::restore::{UndoRequest, set_aside};
use lifeboat_core::service::Service;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::SqliteEngine;
use serde_json::json;

use crate::cli;
use crate::session::Session;
use crate::ui::units;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A command, without the program's name.
    Command(Vec<String>),
    /// The same, which may end as incomplete: a salvage that lacks rows.
    Partial(Vec<String>),
    /// A file of an earlier step goes.
    Remove(PathBuf),
    /// The database goes aside, and nothing takes its place.
    SetAside(PathBuf),
}

impl Step {
    /// A command of words.
    pub(super) fn command(words: &[&str]) -> Step {
        Step::Command(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// What a person would type for it.
    pub(super) fn text(&self) -> String {
        match self {
            Step::Command(words) | Step::Partial(words) => {
                let words: Vec<String> = words.iter().map(|word| units::shell_word(word)).collect();
                format!("lifeboat {}", words.join(" "))
            }
            Step::Remove(path) => format!("rm {}", units::shell_word(&path.to_string_lossy())),
            Step::SetAside(path) => {
                let word = units::shell_word(&path.to_string_lossy());
                format!("mv {word} {word}.before_restore.TIME, with its -wal and -journal")
            }
        }
    }

    /// Removes what an earlier step made for a later one, after a failure.
    pub(super) fn tidy(&self) {
        if let Step::Remove(path) = self {
            let _ = fs::remove_file(path);
        }
    }

    /// Does it. A service is stopped and started by the commands; by us where there is none.
    pub(super) fn take(
        &self,
        session: &Session,
        env: &Env,
        service: Option<&Service>,
    ) -> Result<()> {
        match self {
            Step::Command(words) => cli::within(session, words),
            Step::Partial(words) => match cli::within(session, words) {
                Err(error) if error.kind() == Kind::Incomplete => {
                    session.printer.note(&format!("{}: {error}", self.text()));
                    Ok(())
                }
                done => done,
            },
            Step::Remove(path) => remove(path),
            Step::SetAside(place) => {
                let (place, engine) = (place.clone(), &SqliteEngine);
                let kept = set_aside(env, &UndoRequest { place, engine, service })?;
                if session.printer.json() {
                    return session
                        .printer
                        .json_data(&json!({ "outcome": "set-aside", "kept_aside": kept }));
                }
                for kept in &kept {
                    let kept = units::one_line(&kept.to_string_lossy());
                    session.printer.note(&format!("kept {kept}; `lifeboat undo` goes back to it"));
                }
                Ok(())
            }
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| {
        Error::io(Kind::Failed, format!("cannot remove {}", path.display()), error)
    })
}
