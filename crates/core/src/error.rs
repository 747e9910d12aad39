//! The one error type that crosses the borders of our crates.
//!
//! An error says what failed and on which object (`message`), why (`source`), and what mends it
//! (`hint`). Its [`Kind`] is coarse on purpose: two kinds differ only where the caller, or the
//! exit code, must differ. Errors are returned, never logged on the way; the program prints them
//! once, in `report.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What mends a full disk, where nobody knows better. Of what is on it, backups are what we know.
const MAKE_ROOM: &str =
    "make room on that disk; of backups, `lifeboat prune --dry-run` shows what the rules let go";

/// The result of everything in Lifeboat that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error; each kind has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The run failed for a reason that no other kind names.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Some sources or copies failed, the others succeeded.
    Incomplete,
    /// There is no repository at the place named.
    NoRepository,
    /// Another run holds the source or the repository.
    Locked,
    /// The key given does not open the repository.
    WrongKey,
    /// The store cannot be reached or refuses us.
    StoreUnavailable,
    /// The store does not let our credentials delete that.
    Denied,
    /// No space is left, in the repository or at the place of a restore.
    NoSpace,
    /// The source cannot be read now: missing, not permitted, busy.
    SourceUnavailable,
    /// Something was read and is not what it must be: a damaged artifact, a failed check.
    CheckFailed,
    /// The newest good backup is older than promised.
    Stale,
    /// The moment asked for is not covered by any backup or log.
    NotCovered,
    /// A rule of safety forbids it.
    Refused,
    /// A question must be answered and there is no terminal.
    NeedsConfirmation,
    /// The store is absent for now, such as a drive that is not mounted.
    StoreAbsent,
    /// SIGINT ended the run.
    Interrupted,
    /// SIGTERM ended the run.
    Terminated,
}

impl Kind {
    /// The exit code of a process that ends with this kind of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Incomplete => 3,
            Kind::NoRepository => 10,
            Kind::Locked => 11,
            Kind::WrongKey => 12,
            Kind::StoreUnavailable | Kind::Denied => 13,
            Kind::NoSpace => 14,
            Kind::SourceUnavailable => 15,
            Kind::CheckFailed => 20,
            Kind::Stale => 21,
            Kind::NotCovered => 22,
            Kind::Refused => 23,
            Kind::NeedsConfirmation => 24,
            Kind::StoreAbsent => 75,
            Kind::Interrupted => 130,
            Kind::Terminated => 143,
        }
    }
}

/// An error with its kind, its cause and the command that mends it.
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error whose message names the object that failed: a lowercase fragment, no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// Adds the one sentence or command that mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An input or output error on a named object. A full disk and a full quota become
    /// [`Kind::NoSpace`], whatever `kind` says, with a hint; an error of ours that came through a
    /// reader or a writer keeps its kind and its hint.
    pub fn io(kind: Kind, message: impl Into<String>, source: io::Error) -> Self {
        let source = match source.downcast::<Error>() {
            Ok(own) => return own.context(message),
            Err(source) => source,
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::new(Kind::NoSpace, message).caused_by(source).hint(MAKE_ROOM)
            }
            _ => Error::new(kind, message).caused_by(source),
        }
    }

    /// The kind, which decides the exit code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What failed, without cause and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What mends it, where that is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The same error once more, for another object that it concerns. Causes become text.
    #[must_use]
    pub fn again(&self) -> Self {
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        let again = Error::new(self.kind, self.message.clone());
        let source = (!causes.is_empty()).then(|| causes.join(": ").into());
        Error { hint: self.hint.clone(), source, ..again }
    }

    /// The same error under another message: the old one becomes the cause, kind and hint stay.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let (kind, hint) = (self.kind, self.hint.clone());
        Error { kind, message: message.into(), hint, source: Some(Box::new(self)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_space_whatever_failed() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(Error::io(Kind::Failed, "cannot write x", full).kind(), Kind::NoSpace);
    }

    #[test]
    fn an_error_of_ours_comes_through_a_reader_as_it_was() {
        let own = Error::new(Kind::WrongKey, "inner").hint("mend it");
        let error = Error::io(Kind::Failed, "cannot read x", io::Error::other(own));
        assert_eq!(format!("{error:?}"), "WrongKey: cannot read x: inner (mend it)");
    }

    #[test]
    fn context_keeps_kind_and_hint() {
        let error = Error::new(Kind::Locked, "inner").hint("wait").context("outer");
        assert_eq!(error.kind(), Kind::Locked);
        assert_eq!(error.hint_text(), Some("wait"));
        assert_eq!(format!("{error:?}"), "Locked: outer: inner (wait)");
    }
}
