//! From the messages of PostgreSQL's programs to errors that teach.
//!
//! The programs run with messages in English. What none of the patterns knows is shown as it came,
//! bounded and without control characters.

use lifeboat_core::{Error, Kind};

use crate::replication::ServerMessage;

/// So much of a child's last words is shown.
const SHOWN_BYTES_MAX: usize = 600;
/// Where the server lets nobody in, in whatever language.
const REFUSED_HINT: &str = "see pg_hba.conf of the server (a physical backup needs a line for the \
                            database `replication`), and the password";

/// A part of a message, the kind that it means, and what mends it.
const KNOWN: &[(&str, Kind, &str)] = &[
    (
        "password authentication failed",
        Kind::SourceUnavailable,
        "give the right password: password = { file = \"...\" }, or a line in ~/.pgpass",
    ),
    (
        "no password supplied",
        Kind::SourceUnavailable,
        "give a password: password = { file = \"...\" }, or a line in ~/.pgpass",
    ),
    (
        "no pg_hba.conf entry",
        Kind::SourceUnavailable,
        "let this user and host in: pg_hba.conf of the server (a physical backup connects to the \
         database `replication`)",
    ),
    (
        "Peer authentication failed",
        Kind::SourceUnavailable,
        "run as the user of that name (sudo -u postgres), or name host=localhost and a password",
    ),
    (
        "root certificate file",
        Kind::SourceUnavailable,
        "name the file of the authority that signed the server's certificate: sslrootcert=FILE",
    ),
    (
        "certificate verify failed",
        Kind::SourceUnavailable,
        "is the file that sslrootcert names (else ~/.postgresql/root.crt) of the authority that \
         signed the server's certificate?",
    ),
    (
        "does not match host name",
        Kind::SourceUnavailable,
        "name the host as the server's certificate does; or sslmode=verify-ca",
    ),
    (
        "server does not support SSL",
        Kind::SourceUnavailable,
        "switch TLS on in the server (ssl = on in postgresql.conf), or write sslmode=prefer",
    ),
    (
        "could not translate host name",
        Kind::SourceUnavailable,
        "is the host's name right, and does the name server answer?",
    ),
    (
        "Connection refused",
        Kind::SourceUnavailable,
        "is the server running, and on this port? pg_isready tells",
    ),
    (
        "No such file or directory",
        Kind::SourceUnavailable,
        "is the server running, and is this its socket's folder? pg_isready tells",
    ),
    ("timeout expired", Kind::SourceUnavailable, "does a firewall keep us from the server?"),
    (
        "server version mismatch",
        Kind::SourceUnavailable,
        "install client programs that are not older than the server",
    ),
    (
        "to start WAL sender",
        Kind::SourceUnavailable,
        "as a superuser: ALTER ROLE that_role REPLICATION",
    ),
    (
        "to start walsender",
        Kind::SourceUnavailable,
        "as a superuser: ALTER ROLE that_role REPLICATION",
    ),
    (
        "max_wal_senders",
        Kind::SourceUnavailable,
        "raise max_wal_senders in postgresql.conf (a physical backup needs one, a receiver of the \
         WAL another; they need wal_level = replica) and restart the server",
    ),
    (
        "WAL level not sufficient",
        Kind::SourceUnavailable,
        "set wal_level = replica in postgresql.conf and restart the server",
    ),
    (
        "promoted during online backup",
        Kind::SourceUnavailable,
        "make the backup again: the server is a primary now",
    ),
    (
        "WAL summarization is",
        Kind::SourceUnavailable,
        "set summarize_wal = on in postgresql.conf and reload; or make a full backup",
    ),
    (
        "WAL summaries are required",
        Kind::SourceUnavailable,
        "the server no longer knows what changed since then: make a full backup; raise \
         wal_summary_keep_time if it happens again",
    ),
    (
        "has already been removed",
        Kind::SourceUnavailable,
        "the server wrote more WAL than it keeps: raise wal_keep_size, or max_slot_wal_keep_size",
    ),
    (
        "permission denied",
        Kind::SourceUnavailable,
        "as the owner or a superuser: GRANT pg_read_all_data TO that role",
    ),
    (
        "row-level security",
        Kind::SourceUnavailable,
        "back up as the table's owner or a role with BYPASSRLS: others would see some rows only",
    ),
    ("no matching ", Kind::Usage, "mend the pattern, or say what there is: psql -c '\\d'"),
    (
        "FATAL:  role \"",
        Kind::SourceUnavailable,
        "name the role: postgresql://ROLE@HOST/DATABASE, or user = \"ROLE\" in the configuration",
    ),
    (
        "does not exist",
        Kind::SourceUnavailable,
        "look what there is: psql -l; then mend the name in the configuration",
    ),
    (
        "too many clients",
        Kind::SourceUnavailable,
        "the server has no connection left; raise max_connections, or try again later",
    ),
    (
        "remaining connection slots are reserved",
        Kind::SourceUnavailable,
        "the server has no connection left; raise max_connections, or try again later",
    ),
    (
        "out of shared memory",
        Kind::SourceUnavailable,
        "a dump locks every table: raise max_locks_per_transaction in postgresql.conf (times \
         max_connections it must exceed their number), and restart the server",
    ),
    ("the database system is", Kind::SourceUnavailable, "try again when the server is up"),
    (
        "server closed the connection unexpectedly",
        Kind::SourceUnavailable,
        "the server stopped, or ended our session: see its log",
    ),
    (
        "terminating connection",
        Kind::SourceUnavailable,
        "the server stopped, or ended our session: see its log",
    ),
    (
        "lock timeout",
        Kind::SourceUnavailable,
        "a session holds a lock: SELECT * FROM pg_locks WHERE NOT granted",
    ),
    (
        "No space left on device",
        Kind::NoSpace,
        "make room on the server, or restore to another one with --to",
    ),
    (
        "could not extend file",
        Kind::NoSpace,
        "make room on the server, or restore to another one with --to",
    ),
];

/// The error of a child that ended badly. `what` says what was tried: "cannot read the database
/// `chat`".
pub(crate) fn of_child(what: &str, program: &str, status: &str, stderr: &str) -> Error {
    let words = last_words(stderr);
    let known = KNOWN.iter().find(|(part, ..)| stderr.contains(part));
    let (kind, hint) = match known {
        Some((_, kind, hint)) => (*kind, Some(*hint)),
        None => (Kind::Failed, None),
    };
    let message = match words.is_empty() {
        true => format!("{what}: {program} ended with {status} and said nothing"),
        false => format!("{what}: {words}"),
    };
    let error = Error::new(kind, message);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The code that a server gives an error.
#[derive(Debug)]
struct SqlState(String);

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SQLSTATE {}", self.0)
    }
}

impl std::error::Error for SqlState {}

/// The code of an error that a server sent itself.
pub(crate) fn code_of(error: &Error) -> Option<&str> {
    let state: &SqlState = std::error::Error::source(error)?.downcast_ref()?;
    Some(&state.0)
}

/// The error that a server sent itself. Its code says what it is where the server speaks another
/// language than the patterns.
pub(crate) fn of_server(what: &str, said: &ServerMessage) -> Error {
    let text = format!("{}:  {} {}", said.severity, said.message, said.detail);
    // A file that the server lacks is not the socket that a client does not find.
    let known =
        KNOWN.iter().find(|(part, ..)| text.contains(part) && *part != "No such file or directory");
    let (kind, hint) = match (known, said.code.as_str()) {
        (Some((_, kind, hint)), _) => (*kind, Some(*hint)),
        (None, "28P01" | "28000") => (Kind::SourceUnavailable, Some(REFUSED_HINT)),
        (None, code) if code.starts_with("53") || code.starts_with("57") => {
            (Kind::SourceUnavailable, Some("the server's log says more"))
        }
        (None, _) => (Kind::Failed, Some("the server's log says more")),
    };
    let mut words = said.message.clone();
    if !said.detail.is_empty() {
        words.push_str(&format!(" ({})", said.detail));
    }
    let error = Error::new(kind, format!("{what}: {}", bounded(words)));
    let error = error.caused_by(SqlState(said.code.clone()));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The errors in what a child said, or its last lines, in one line.
fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_error = |line: &&&str| {
        line.contains("error:") || line.contains("ERROR:") || line.contains("FATAL:")
    };
    let errors: Vec<&str> = lines.iter().filter(is_error).copied().collect();
    let chosen = match errors.is_empty() {
        true => &lines[lines.len().saturating_sub(3)..],
        false => &errors[..errors.len().min(3)],
    };
    bounded(chosen.join("; "))
}

/// A text of others as it may be shown: in one line, and not without end.
fn bounded(mut text: String) -> String {
    text.retain(|letter| !letter.is_control());
    if text.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_found_among_other_lines() {
        let stderr = "pg_dump: reading tables\npg_dump: error: query failed: ERROR:  permission \
                      denied for table secrets\npg_dump: detail: Query was: LOCK TABLE\n";
        let error = of_child("cannot read `chat`", "pg_dump", "exit status: 1", stderr);
        assert_eq!(error.kind(), Kind::SourceUnavailable);
        assert!(error.message().contains("permission denied for table secrets"), "{error}");
        assert!(!error.message().contains("reading tables"), "{error}");
        assert!(error.hint_text().unwrap().contains("pg_read_all_data"));
    }

    #[test]
    fn too_many_tables_for_the_locks_of_the_server_are_told() {
        let stderr = "pg_dump: error: query failed: ERROR:  out of shared memory\n";
        let error = of_child("cannot read `chat`", "pg_dump", "exit status: 1", stderr);
        assert_eq!(error.kind(), Kind::SourceUnavailable);
        assert!(error.hint_text().unwrap().contains("max_locks_per_transaction"));
    }

    #[test]
    fn silence_and_noise_are_shown_as_they_are() {
        let error = of_child("cannot read `chat`", "pg_dump", "signal: 9 (SIGKILL)", "");
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.message().contains("signal: 9 (SIGKILL) and said nothing"), "{error}");
        let noise = "\u{1b}[31m".to_owned() + &"é".repeat(2_000);
        let error = of_child("x", "pg_dump", "exit status: 1", &noise);
        assert!(error.message().len() < 700 && !error.message().contains('\u{1b}'));
    }
}
