//! An end for what hangs: a store that neither answers nor fails, such as a file server that is
//! gone.
//!
//! What hangs in a call of the system asks nobody whether it may go on. So the process is ended
//! from beside it, with a code that its server understands. That is what a kill at that moment is,
//! and costs no more: nothing that was not stored counts, locks go with the process.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use lifeboat_core::{Error, Kind};

use super::exit::Rule;
use crate::config::values::Period;
use crate::session::Session;
use crate::ui::report;

/// The end of this process, as long as this lives. It is put off by every [`Limit::alive`].
#[derive(Clone)]
pub(super) struct Limit(Sender<()>);

impl Limit {
    /// From now on the process ends when so much time has passed without a word.
    pub(super) fn begin(session: &Session, limit: Period, rule: Rule) -> Limit {
        let (alive, words) = channel::<()>();
        let printer = Arc::clone(&session.printer);
        std::thread::spawn(move || {
            let limit_time = Duration::from_millis(limit.milliseconds);
            loop {
                match words.recv_timeout(limit_time) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            let message = format!("a repository neither answers nor fails within {limit}");
            let error = Error::new(Kind::StoreUnavailable, message)
                .hint("is its host or drive there? If it is only slow, raise --limit");
            report::report(&printer, &error);
            std::process::exit(i32::from(rule.code(error.kind())));
        });
        Limit(alive)
    }

    /// It goes on.
    pub(super) fn alive(&self) {
        // Without a listener the end has begun.
        let _ = self.0.send(());
    }
}
