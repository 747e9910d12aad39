//! The status as a check plugin of Nagios says it: one line, and exit codes of its own.

use lifeboat_core::store::Space;
use lifeboat_core::{Error, Kind};

use super::disk::Disk;
use super::row::{Row, State};
use crate::config::values::Period;
use crate::ui::{report, units};

/// Its word and exit code. The worst one wins, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Ok,
    Warning,
    Unknown,
    Critical,
}

impl Verdict {
    /// The exit code that Nagios gives a meaning to.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Warning => 1,
            Verdict::Critical => 2,
            Verdict::Unknown => 3,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Warning => "WARNING",
            Verdict::Critical => "CRITICAL",
            Verdict::Unknown => "UNKNOWN",
        }
    }
}

/// The line and its verdict.
pub(crate) fn line(rows: &[Row], disks: &[Disk], failures: &[Error]) -> (Verdict, String) {
    let mut found: Vec<(Verdict, String)> = rows.iter().flat_map(complaints).collect();
    for disk in disks.iter().filter(|disk| disk.space.is_full()) {
        found.push((Verdict::Warning, format!("{}: {}", disk.repository, disk.complaint())));
    }
    found.extend(failures.iter().map(|error| (Verdict::Unknown, with_causes(error))));
    if rows.is_empty() {
        found.push((Verdict::Unknown, "there are no sources and no backups".to_owned()));
    }
    // The worst comes first: a pager shows the beginning.
    found.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    let verdict = found.first().map_or(Verdict::Ok, |(verdict, _)| *verdict);
    let said = match found.is_empty() {
        true => {
            let oldest = rows.iter().filter_map(|row| row.age_ms).max().unwrap_or(0);
            let age = units::coarse(oldest);
            format!("{} fresh, the oldest newest backup is {age} old", rows.len())
        }
        false => {
            let said: Vec<&str> = found.iter().map(|(_, said)| said.as_str()).collect();
            said.join("; ")
        }
    };
    (verdict, format!("LIFEBOAT {} - {}{}", verdict.word(), clean(&said), numbers(rows, disks)))
}

/// The line of a status that could not be found out. Without a repository there is no backup,
/// which is worse than not knowing.
pub(crate) fn failure(error: &Error) -> (Verdict, String) {
    let verdict = match error.kind() {
        Kind::NoRepository => Verdict::Critical,
        _ => Verdict::Unknown,
    };
    (verdict, format!("LIFEBOAT {} - {}", verdict.word(), clean(&with_causes(error))))
}

fn complaints(row: &Row) -> Vec<(Verdict, String)> {
    let mut found = Vec::new();
    let age = row.age_ms.map(units::coarse).unwrap_or_default();
    match row.state {
        State::Fresh => {}
        State::Never => found.push((Verdict::Critical, format!("{}: no good backup", row.source))),
        State::Stale => {
            let milliseconds = row.age_ms_max.unwrap_or(0);
            let promised = Period { milliseconds };
            let said = format!(
                "{}: the newest good backup is {age} old, promised are {promised}",
                row.source
            );
            found.push((Verdict::Critical, said));
        }
    }
    if let Some(failed) = row.last_attempt.as_ref().filter(|last| last.has_failed()) {
        let said = format!("{}: the last backup failed: {}", row.source, super::why(failed));
        found.push((Verdict::Warning, said));
    }
    for (count, what) in super::doubts(row).into_iter().filter(|(count, _)| *count > 0) {
        found.push((Verdict::Warning, format!("{}: {count} {what}", row.source)));
    }
    for complaint in &row.archiver {
        let verdict = if complaint.is_urgent { Verdict::Critical } else { Verdict::Warning };
        found.push((verdict, format!("{}: {complaint}", row.source)));
    }
    if let Some(said) = row.drills.complaint(&row.source) {
        let verdict = if row.drills.is_required() { Verdict::Critical } else { Verdict::Warning };
        found.push((verdict, format!("{}: {said}", row.source)));
    }
    if let Some(why) = &row.prune_waits {
        found.push((Verdict::Warning, format!("{}: {}: {why}", row.source, super::WAITS)));
    }
    found
}

fn with_causes(error: &Error) -> String {
    let causes = report::causes(error);
    let causes: String = causes.iter().map(|cause| format!(": {cause}")).collect();
    format!("{error}{causes}")
}

/// One line in which nothing begins the numbers.
fn clean(text: &str) -> String {
    units::one_line(text).replace('|', "/")
}

/// Ages and disks, each with its bounds.
fn numbers(rows: &[Row], disks: &[Disk]) -> String {
    let mut numbers = Vec::new();
    let mut sorted: Vec<(String, &Row)> = rows
        .iter()
        .map(|row| {
            let twice = rows.iter().filter(|other| other.source == row.source).count() > 1;
            let place = if twice { format!(" {}", row.repository) } else { String::new() };
            (format!("age {}{place}", row.source), row)
        })
        .collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, row) in sorted {
        let Some(age_ms) = row.age_ms else { continue };
        let most = row.age_ms_max.map(|most| (most / 1000).to_string()).unwrap_or_default();
        numbers.push(format!("{}={}s;;{most};0", label(&name), age_ms / 1000));
    }
    for disk in disks {
        let name = label(&format!("disk {}", disk.repository));
        let (used, full) = (disk.space.used_percent(), Space::FULL_PERCENT);
        numbers.push(format!("{name}={used}%;{full};;0;100"));
    }
    match numbers.is_empty() {
        true => String::new(),
        false => format!(" | {}", numbers.join(" ")),
    }
}

fn label(name: &str) -> String {
    format!("'{}'", clean(name).replace('=', "_").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use lifeboat_postgres::wal::Complaint;

    use super::*;
    use crate::standing::{Facts, Promise};

    fn row(source: &str, state: State) -> Row {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut facts = Facts::nothing(source, "file:///b", Promise::default());
        facts.promise.age_ms_max = Some(3_600_000);
        facts.newest_at = (state != State::Never).then(|| now - SignedDuration::from_hours(2));
        Row { state, ..Row::of(&facts, None, now) }
    }

    fn disk(used_percent: u64) -> Disk {
        let space = Space { used_bytes: used_percent, free_bytes: 100 - used_percent };
        Disk { repository: "file:///b".to_owned(), space, forecast: None }
    }

    #[test]
    fn the_worst_decides_and_comes_first() {
        let fresh = || row("app", State::Fresh);
        let (verdict, said) = line(&[fresh()], &[disk(79)], &[]);
        assert_eq!((verdict, verdict.exit_code()), (Verdict::Ok, 0));
        let end = "old | 'age app'=7200s;;3600;0 'disk file:///b'=79%;80;;0;100";
        assert!(said.starts_with("LIFEBOAT OK - 1 fresh") && said.ends_with(end), "{said}");
        let (verdict, said) = line(&[fresh()], &[disk(80)], &[]);
        assert_eq!(verdict.exit_code(), 1, "{said}");
        let absent = || Error::new(Kind::StoreAbsent, "the drive is away");
        let (verdict, said) = line(&[fresh()], &[disk(80)], &[absent()]);
        assert_eq!(verdict.exit_code(), 3, "{said}");
        assert!(said.starts_with("LIFEBOAT UNKNOWN - the drive is away; "), "{said}");
        let (verdict, said) = line(&[fresh(), row("new", State::Never)], &[], &[absent()]);
        assert_eq!(verdict.exit_code(), 2, "{said}");
        assert!(said.starts_with("LIFEBOAT CRITICAL - new: no good backup; "), "{said}");
        assert_eq!(line(&[], &[], &[]).0, Verdict::Unknown);
    }

    #[test]
    fn a_dead_archiver_is_told_and_one_that_stops_the_server_is_critical() {
        let complaint = |is_urgent| Complaint { text: "the archiver fails".to_owned(), is_urgent };
        let with =
            |is_urgent| Row { archiver: vec![complaint(is_urgent)], ..row("main", State::Fresh) };
        let (verdict, said) = line(&[with(false)], &[], &[]);
        assert_eq!(verdict.exit_code(), 1);
        assert!(said.starts_with("LIFEBOAT WARNING - main: the archiver fails"), "{said}");
        assert_eq!(line(&[with(true)], &[], &[]).0.exit_code(), 2);
    }

    #[test]
    fn names_break_neither_the_line_nor_the_numbers() {
        let (_, said) = line(&[row("a|b c='d", State::Stale)], &[], &[]);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(said.matches('|').count(), 1, "{said}");
        assert!(said.contains("'age a/b c_''d'=7200s;;3600;0"), "{said}");
        let (_, said) = line(&[row("a\nb", State::Never)], &[], &[]);
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn not_knowing_is_no_success() {
        let wrong = Error::new(Kind::Usage, "no such key").context("the configuration is wrong");
        let (verdict, said) = failure(&wrong);
        assert_eq!(verdict.exit_code(), 3);
        assert_eq!(said, "LIFEBOAT UNKNOWN - the configuration is wrong: no such key");
        assert_eq!(failure(&Error::new(Kind::NoRepository, "none")).0.exit_code(), 2);
    }
}
