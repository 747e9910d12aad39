//! Exit codes of the commands that a server runs: they follow PostgreSQL's rules, not ours.
//!
//! An archive_command that ends with more than 125, or by a signal, kills the archiver, and no
//! counter of the server tells. A restore_command that ends with 1 says that the file does not
//! exist, which ends a recovery; only 126 or more stops it. So the rule holds for wrong arguments,
//! a wrong configuration and a panic as well.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use lifeboat_core::Kind;

/// What a server makes of an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing: the codes are those of every command.
    Ours,
    /// `wal push`: 0, or 1 to 125.
    Archive,
    /// `wal fetch`: 0, 1, or 126 and more.
    Restore,
}

/// The file is in no repository.
pub(super) const ABSENT: u8 = 1;
/// Whatever else kept a fetch from it.
const FETCH_FAILED: u8 = 126;
/// What the server takes for its own SIGTERM.
const TERMINATED: u8 = 143;

impl Rule {
    /// The rule for a command line that may be wrong.
    pub(crate) fn of(arguments: &[OsString]) -> Rule {
        let mut words = arguments.iter().skip(1).skip_while(|word| *word != "wal").skip(1);
        match words.find(|word| *word == "push" || *word == "fetch") {
            Some(word) if word == "push" => Rule::Archive,
            Some(_) => Rule::Restore,
            None => Rule::Ours,
        }
    }

    /// The exit code of an error.
    pub(crate) fn code(self, kind: Kind) -> u8 {
        match (self, kind) {
            (Rule::Ours, _) => kind.exit_code(),
            (Rule::Archive, Kind::Interrupted | Kind::Terminated) => 1,
            (Rule::Archive, _) => kind.exit_code(),
            (Rule::Restore, Kind::Terminated) => TERMINATED,
            (Rule::Restore, _) => FETCH_FAILED,
        }
    }

    /// Runs the program; a panic gets a code of the rule. What it says is on standard error.
    pub(crate) fn watch(self, run: impl FnOnce() -> ExitCode) -> ExitCode {
        if self == Rule::Ours {
            return run();
        }
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| ExitCode::from(self.code(Kind::Failed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(words: &str) -> Rule {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        Rule::of(&words)
    }

    #[test]
    fn the_rule_is_found_in_any_command_line() {
        assert_eq!(rule("lifeboat wal push pg_wal/x"), Rule::Archive);
        assert_eq!(rule("lifeboat --config /a wal --quiet fetch x y --wrong"), Rule::Restore);
        assert_eq!(rule("lifeboat wal check"), Rule::Ours);
        assert_eq!(rule("lifeboat backup push"), Rule::Ours);
    }

    #[test]
    fn no_error_gets_a_code_that_a_server_takes_for_another() {
        const KINDS: [Kind; 17] = [
            Kind::Failed,
            Kind::Usage,
            Kind::Incomplete,
            Kind::NoRepository,
            Kind::Locked,
            Kind::WrongKey,
            Kind::StoreUnavailable,
            Kind::NoSpace,
            Kind::SourceUnavailable,
            Kind::CheckFailed,
            Kind::Stale,
            Kind::NotCovered,
            Kind::Refused,
            Kind::NeedsConfirmation,
            Kind::StoreAbsent,
            Kind::Interrupted,
            Kind::Terminated,
        ];
        for kind in KINDS {
            assert!((1..=125).contains(&Rule::Archive.code(kind)), "{kind:?}");
            assert!(Rule::Restore.code(kind) >= 126, "{kind:?}");
        }
        let panicking = |rule: Rule| rule.watch(|| panic!("as a test"));
        assert_eq!(format!("{:?}", panicking(Rule::Archive)), format!("{:?}", ExitCode::from(1)));
        assert_eq!(format!("{:?}", panicking(Rule::Restore)), format!("{:?}", ExitCode::from(126)));
    }
}
