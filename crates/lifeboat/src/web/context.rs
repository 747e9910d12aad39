//! What a screen gets: what was read, who looks, and what was asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::{Error, Kind, Result};

use super::access::Role;
use super::look::{Look, Looks};
use super::sessions::Who;
use crate::control::{self, AgentState, Answer, Question};
use crate::session::Session;
use crate::ui::units;

/// What a screen gets.
pub(crate) struct Ctx {
    /// What was read.
    pub(crate) look: Arc<Look>,
    /// The moment of the drawing, from which ages are counted.
    pub(crate) now: Timestamp,
    /// The path that was asked for.
    pub(crate) path: String,
    /// What stands in the path for `{name}`, behind its `?`, and in a form.
    pub(crate) given: BTreeMap<String, String>,
    /// What the agent does, where one runs.
    pub(crate) agent: Option<AgentState>,
    /// Who looks.
    pub(crate) who: Option<Who>,
    /// What each form carries, as `key`.
    pub(crate) form_key: String,
    /// Where the agent is asked.
    pub(crate) control: Option<PathBuf>,
    /// This program, and the options that everything it begins gets.
    pub(crate) base: Arc<Vec<String>>,
    /// What looks are taken with.
    pub(crate) looks: Arc<Looks>,
}

impl Ctx {
    /// A run of its own, for what is read only when it is asked for.
    pub(crate) fn session(&self) -> Session {
        self.looks.session()
    }

    /// What was given under that name, if it is not empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A moment in the zone of the host.
    pub(crate) fn moment(&self, at: Timestamp) -> String {
        units::moment(at, &self.look.zone)
    }

    /// How long ago a moment is.
    pub(crate) fn age(&self, at: Timestamp) -> String {
        units::age(at, self.now)
    }

    /// Whether who looks may do more than that.
    pub(crate) fn may_do(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.role >= Role::Operator)
    }

    /// Asks the agent for something, and gives what it says was done.
    pub(crate) fn ask(&self, question: &Question) -> Result<String> {
        let answer =
            self.control.as_deref().map(|path| control::ask(path, question)).transpose()?;
        match answer.flatten() {
            Some(Answer::Done(what)) => Ok(what),
            Some(Answer::Refused(why)) => Err(Error::new(Kind::Refused, why)),
            Some(Answer::State(_)) => {
                Err(Error::new(Kind::Failed, "the agent said something else than was asked"))
            }
            None => Err(Error::new(Kind::Failed, "no agent runs, so nothing can be begun")
                .hint("lifeboat run")),
        }
    }
}
