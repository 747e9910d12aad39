//! Up to where a cluster is recovered, and what is said of it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::replication::Lsn;

/// Where a recovery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At the end of the log.
    End,
    /// As soon as the backup is consistent: at the moment that it shows.
    Consistent,
    /// Behind the last transaction that was committed at or before this time.
    Time(Timestamp),
    /// At a point that someone named by `pg_create_restore_point`.
    Name(String),
    /// Behind this position of the log.
    Position(Lsn),
    /// Behind this transaction.
    Transaction(u64),
}

/// Along which timeline the log is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeline {
    /// To the newest that leaves the backup's.
    Latest,
    /// To this one.
    Number(u32),
}

impl Target {
    /// The server's settings for it: all of them, so that none of older ones remains.
    pub fn settings(&self, timeline: Timeline) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("recovery_target", String::new()),
            ("recovery_target_time", String::new()),
            ("recovery_target_name", String::new()),
            ("recovery_target_lsn", String::new()),
            ("recovery_target_xid", String::new()),
            ("recovery_target_inclusive", "on".to_owned()),
            (
                "recovery_target_timeline",
                match timeline {
                    Timeline::Latest => "latest".to_owned(),
                    Timeline::Number(number) => number.to_string(),
                },
            ),
        ];
        let (name, value) = match self {
            Target::End => return settings,
            Target::Consistent => ("recovery_target", "immediate".to_owned()),
            Target::Time(time) => ("recovery_target_time", server_time(*time)),
            Target::Name(name) => ("recovery_target_name", name.clone()),
            Target::Position(position) => ("recovery_target_lsn", position.to_string()),
            Target::Transaction(number) => ("recovery_target_xid", number.to_string()),
        };
        // A server takes an empty value behind it for a second target.
        settings.retain(|(known, _)| *known != name);
        settings.push((name, value));
        settings
    }

    /// For people: what it is.
    pub fn words(&self) -> String {
        match self {
            Target::End => "the end of the log".to_owned(),
            Target::Consistent => "the end of the backup".to_owned(),
            Target::Time(time) => format!("{time:.6}"),
            Target::Name(name) => format!("the restore point {name:?}"),
            Target::Position(position) => format!("the position {position}"),
            Target::Transaction(number) => format!("the transaction {number}"),
        }
    }
}

/// A time as the server reads it whatever its own zone is. It counts microseconds.
pub fn server_time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// What a server said about the end of its recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last transaction that is in it: when it was committed, as the server wrote it.
    pub last_commit: Option<String>,
    /// The last position that was replayed.
    pub position: Option<Lsn>,
    /// Why it ended there, in the server's words.
    pub stopped: Option<String>,
}

impl Reached {
    /// Reads the log of a server.
    pub fn of_log(log: &str) -> Self {
        let mut reached = Reached::default();
        for line in log.lines() {
            if let Some(at) = line.find("recovery stopping ") {
                reached.stopped = Some(line[at..].trim().to_owned());
            } else if let Some((_, time)) =
                line.split_once("last completed transaction was at log time ")
            {
                reached.last_commit = Some(time.trim().to_owned());
            } else if let Some((_, rest)) = line.split_once("redo done at ") {
                let word = rest.split_whitespace().next().unwrap_or_default();
                reached.position = word.parse().ok();
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_one_target_and_clear_the_others() {
        let time: Timestamp = "2026-11-25T22:30:00.123456789Z".parse().unwrap();
        let settings = Target::Time(time).settings(Timeline::Number(3));
        let of = |name: &str| settings.iter().find(|(known, _)| *known == name).unwrap().1.clone();
        assert_eq!(of("recovery_target_time"), "2026-11-25 22:30:00.123456+00");
        assert_eq!(of("recovery_target_timeline"), "3");
        for other in ["recovery_target", "recovery_target_name", "recovery_target_lsn"] {
            assert_eq!(of(other), "", "{other}");
        }
    }

    #[test]
    fn what_was_reached_is_read_of_the_log() {
        let log = "x LOG:  recovery stopping before commit of transaction 745, time 2026-11-25 \
                   22:12:02.1+00\nLOG:  redo done at 0/5000148 system usage: CPU\n\
                   LOG:  last completed transaction was at log time 2026-11-25 22:12:01.9+00\n";
        let reached = Reached::of_log(log);
        assert_eq!(reached.position, Some(Lsn(0x500_0148)));
        assert_eq!(reached.last_commit.as_deref(), Some("2026-11-25 22:12:01.9+00"));
        assert!(reached.stopped.unwrap().starts_with("recovery stopping before commit of"));
    }
}
