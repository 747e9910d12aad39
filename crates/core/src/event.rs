//! What a run tells the world while it goes on.
//!
//! Events are one enum. Progress bars, logs, metrics and notifications are observers of it; no
//! run prints. Nothing depends on an observer being there.

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A phase began. `bytes_total` is known where progress can be measured.
    PhaseBegan {
        /// The name of the source, or of the backup, that the run is about.
        subject: &'a str,
        /// What is being done: "reading", "reading back", "checking", "restoring".
        phase: &'static str,
        /// How many bytes the phase will go through.
        bytes_total: Option<u64>,
    },
    /// The phase has gone through this many more bytes.
    Advanced {
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// The phase ended.
    PhaseEnded {
        /// The phase that ended.
        phase: &'static str,
    },
    /// Something a person should know that does not fail the run.
    Warning {
        /// The name of the source or backup.
        subject: &'a str,
        /// What is wrong, and what to do about it.
        message: &'a str,
    },
    /// A fact worth a line with `--verbose`.
    Detail {
        /// The line.
        message: &'a str,
    },
    /// A backup was committed: its manifest is in the repository.
    BackupCommitted {
        /// The source's name.
        subject: &'a str,
        /// The backup's name.
        name: &'a str,
    },
}

/// Whoever wants to know of events. Called from the thread that runs.
pub trait Observer: Send + Sync {
    /// Takes note of one event.
    fn observe(&self, event: &Event<'_>);
}

/// The observer that looks away.
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _event: &Event<'_>) {}
}
