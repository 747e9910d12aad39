//! One thing that is wrong: which, how bad, since when, and the command that mends it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How bad it is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// A backup is too old, or never was.
    Stale,
    /// A restore was seen to fail, or would.
    Broken,
    /// Something to look at in good time.
    Warning,
}

/// What is wrong. Programs know it by this word; who was told of it is known by it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// There never was a good backup.
    Never,
    /// The newest moment that can be restored is older than promised.
    Stale,
    /// Nothing says how old a backup may be.
    NoPromise,
    /// The last drill failed.
    DrillFailed,
    /// No drill passed within the time of its promise.
    DrillOverdue,
    /// A restore takes longer than promised, by the last drill.
    RestoreTooSlow,
    /// How long a restore takes is promised and was never measured.
    RestoreNotMeasured,
    /// Something is missing in a log.
    LogGap,
    /// Another repository has a newer backup.
    CopyMissing,
    /// The last backup failed.
    BackupFailed,
    /// Backups that were not checked, or that are of a damaged database.
    Doubtful,
    /// Manifests that cannot be read.
    Unreadable,
    /// The size of the newest backup is far from what is usual.
    SizeUnusual,
    /// Its rows are.
    RowsUnusual,
    /// Backups are dated in the future.
    FutureBackup,
    /// The clocks of this host and of a store differ.
    ClockSkew,
    /// The archiver of a server fails, or its `pg_wal` fills.
    Archiver,
    /// A prune waits for an approval.
    PruneWaits,
    /// A disk is 80 % full.
    DiskFilling,
    /// A disk will be full within two weeks.
    DiskFullSoon,
    /// A disk will be full within three days.
    DiskFullNow,
    /// A certificate ends soon, or has ended.
    Certificate,
    /// A credential does.
    Credential,
    /// A configured source cannot be found.
    SourceLost,
    /// A drive is elsewhere for longer than promised.
    DriveAbsent,
    /// A repository cannot be read.
    RepositoryUnreadable,
    /// What was promised of a source cannot be read.
    PromiseUnreadable,
    /// Somebody who is to be told was not.
    NotTold,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// What is wrong.
    pub(crate) code: Code,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// The source; empty where it is about a repository, or about all.
    pub(crate) source: String,
    /// The URL of the repository; empty where it is about none.
    pub(crate) repository: String,
    /// What is wrong, in words: one line.
    pub(crate) what: String,
    /// The command that mends it, or says more.
    pub(crate) command: String,
    /// When it was first seen, where that is known.
    #[serde(default)]
    pub(crate) since: Option<Timestamp>,
}

impl Code {
    /// The word for it.
    pub(crate) fn word(self) -> String {
        // A unit variant is a string of JSON.
        let text = serde_json::to_value(self).unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Whether one who looks at a repository from another host can see it.
    pub(crate) fn is_seen_from_elsewhere(self) -> bool {
        !matches!(
            self,
            Code::CopyMissing
                | Code::BackupFailed
                | Code::Archiver
                | Code::PruneWaits
                | Code::Certificate
                | Code::Credential
                | Code::SourceLost
                | Code::DriveAbsent
                | Code::RepositoryUnreadable
                | Code::NotTold
        )
    }

    /// Whether somebody who is not there is to be told. A promise that nobody made is for `status`.
    pub(crate) fn is_news(self) -> bool {
        !matches!(self, Code::NoPromise | Code::NotTold)
    }
}

impl Severity {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Severity::Stale => "stale",
            Severity::Broken => "broken",
            Severity::Warning => "warning",
        }
    }
}

impl Alert {
    /// One about a source, or about the repository where that is empty.
    pub(crate) fn new(
        (code, severity): (Code, Severity),
        (source, repository): (&str, &str),
        what: impl Into<String>,
        command: impl Into<String>,
    ) -> Self {
        Alert {
            code,
            severity,
            source: source.to_owned(),
            repository: repository.to_owned(),
            what: what.into(),
            command: command.into(),
            since: None,
        }
    }

    /// What makes it the same one as before: whatever its words say by now.
    pub(crate) fn key(&self) -> (Code, &str, &str) {
        (self.code, &self.source, &self.repository)
    }
}

/// The worst first; among equals those of one source together.
pub(crate) fn sort(alerts: &mut [Alert]) {
    alerts.sort_by(|one, other| {
        let key = |alert: &Alert| (alert.severity, alert.code);
        (key(one), &one.source, &one.repository).cmp(&(
            key(other),
            &other.source,
            &other.repository,
        ))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_word_and_comes_back() {
        assert_eq!(Code::RestoreTooSlow.word(), "restore-too-slow");
        let code: Code = serde_json::from_str("\"disk-full-soon\"").unwrap();
        assert_eq!(code, Code::DiskFullSoon);
    }

    #[test]
    fn the_worst_comes_first() {
        let of = |code, severity, source| Alert::new((code, severity), (source, ""), "", "");
        let mut alerts = [
            of(Code::DiskFilling, Severity::Warning, ""),
            of(Code::LogGap, Severity::Broken, "app"),
            of(Code::Stale, Severity::Stale, "z"),
            of(Code::Stale, Severity::Stale, "a"),
        ];
        sort(&mut alerts);
        let sources: Vec<&str> = alerts.iter().map(|alert| alert.source.as_str()).collect();
        assert_eq!(sources, ["a", "z", "app", ""]);
    }
}
