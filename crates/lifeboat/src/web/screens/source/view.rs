//! What the screen of a source shows, of one repository. Pure: what was read and the time in, what
//! is drawn out.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::{Condition, Manifest};

use crate::ui::units;
use crate::web::charts::{Axis, Day, DayState, Mark, MarkKind, Point, PointState, Span, SpanKind};

/// So many restore points are on one page.
pub(super) const PAGE: usize = 50;
/// The weeks of the heat map.
pub(super) const WEEKS: u8 = 26;
/// So many of the newest backups have their times in the small chart.
const TIMES: usize = 30;

/// What a view is made of.
pub(super) struct Given<'a> {
    /// What the repository holds of the source.
    pub(super) entry: &'a SourceEntry,
    /// The time.
    pub(super) now: Timestamp,
    /// The zone of days and of what is written.
    pub(super) zone: &'a TimeZone,
    /// What its log makes restorable, and what it lacks.
    pub(super) spans: Vec<Span>,
    /// When backups are listed no more, as far as that can be foreseen.
    pub(super) departures: BTreeMap<String, Timestamp>,
    /// How many runs failed, on each day on which some did.
    pub(super) failures: BTreeMap<Date, u64>,
    /// The repository's name for `--repo`, where several have the source.
    pub(super) repository: Option<&'a str>,
    /// What was asked for.
    pub(super) asked: Asked,
}

/// What a person asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// How much of the past the timeline shows.
    pub(super) length: Length,
    /// What restore points must have in their words.
    pub(super) find: String,
    /// How many of the newest are left out: those of pages before.
    pub(super) skip: usize,
}

/// How much of the past a timeline shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Length {
    Hour,
    Day,
    Week,
    #[default]
    Month,
    Year,
    All,
}

/// Everything that is drawn.
pub(super) struct SourceView {
    pub(super) axis: Axis,
    pub(super) spans: Vec<Span>,
    pub(super) points: Vec<Point>,
    pub(super) marks: Vec<Mark>,
    pub(super) today: Date,
    pub(super) days: BTreeMap<Date, Day>,
    /// How long its newest backups took, the oldest first, in milliseconds.
    pub(super) backups_ms: Vec<u64>,
    /// How long the restores of its drills took.
    pub(super) drills_ms: Vec<u64>,
    /// Those of this page, the newest first.
    pub(super) rows: Vec<RestorePoint>,
    /// How many there are that have the words that were asked for.
    pub(super) found: usize,
    /// How many there are.
    pub(super) all: usize,
    /// What was removed and can be taken back.
    pub(super) removed: Vec<Removed>,
}

/// A backup, as a line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RestorePoint {
    pub(super) name: String,
    pub(super) at: Timestamp,
    pub(super) state: PointState,
    pub(super) bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) checks: String,
    /// Pins, migrations, when it goes.
    pub(super) notes: Vec<String>,
    /// What restores it.
    pub(super) command: String,
}

/// A backup that has a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) name: String,
    pub(super) reason: String,
    pub(super) until: Timestamp,
    pub(super) command: String,
}

impl Length {
    pub(super) const ALL: [Length; 6] =
        [Length::Hour, Length::Day, Length::Week, Length::Month, Length::Year, Length::All];

    /// As it stands in an address and on a link.
    pub(super) fn word(self) -> &'static str {
        match self {
            Length::Hour => "hour",
            Length::Day => "day",
            Length::Week => "week",
            Length::Month => "month",
            Length::Year => "year",
            Length::All => "all",
        }
    }

    pub(super) fn of(word: Option<&str>) -> Option<Self> {
        Length::ALL.into_iter().find(|length| Some(length.word()) == word)
    }

    /// The shortest that has the oldest backup in it; of a long past the last month.
    pub(super) fn that_holds(oldest: Option<&Manifest>, now: Timestamp) -> Self {
        let age = oldest.map_or(SignedDuration::ZERO, |it| now.duration_since(it.taken_at));
        let holds = |length: &Length| length.duration().is_none_or(|length| length >= age);
        Length::ALL.into_iter().find(holds).unwrap_or_default().min(Length::Month)
    }

    /// `None` for all that there is.
    pub(super) fn duration(self) -> Option<SignedDuration> {
        let hours = match self {
            Length::Hour => 1,
            Length::Day => 24,
            Length::Week => 7 * 24,
            Length::Month => 31 * 24,
            Length::Year => 366 * 24,
            Length::All => return None,
        };
        Some(SignedDuration::from_hours(hours))
    }
}

/// Makes it.
pub(super) fn view(given: Given<'_>) -> SourceView {
    let Given { entry, now, zone, .. } = given;
    let oldest = entry.backups.first().map(|backup| backup.taken_at);
    let axis = Axis::of_history(oldest, now, given.asked.length.duration(), zone);
    let rows: Vec<RestorePoint> = {
        let newest_first = entry.backups.iter().rev();
        newest_first.map(|backup| restore_point(&given, backup)).collect()
    };
    let all = rows.len();
    let rows: Vec<RestorePoint> =
        rows.into_iter().filter(|row| row.has(&given.asked.find, zone)).collect();
    let found = rows.len();
    SourceView {
        axis,
        points: entry.backups.iter().map(|backup| point(&given, backup)).collect(),
        marks: marks(entry, now),
        today: now.to_zoned(zone.clone()).date(),
        days: days(&given),
        backups_ms: newest(entry.backups.iter().map(took_ms).collect()),
        drills_ms: newest(drills_ms(entry)),
        rows: rows.into_iter().skip(given.asked.skip).take(PAGE).collect(),
        found,
        all,
        removed: removed(entry),
        spans: given.spans,
    }
}

fn newest(mut times: Vec<u64>) -> Vec<u64> {
    times.split_off(times.len().saturating_sub(TIMES))
}

fn took_ms(backup: &Manifest) -> u64 {
    backup.timings_ms.values().sum()
}

fn drills_ms(entry: &SourceEntry) -> Vec<u64> {
    let mut drilled: Vec<_> = entry.drilled.iter().collect();
    drilled.sort_by_key(|drilled| drilled.drilled_at);
    drilled.iter().filter_map(|drilled| drilled.restore_ms).collect()
}

fn state(entry: &SourceEntry, backup: &Manifest) -> PointState {
    match backup.condition {
        Condition::Damaged => PointState::Damaged,
        Condition::Unchecked => PointState::Unchecked,
        Condition::Good if entry.is_proven(backup) => PointState::Proven,
        Condition::Good => PointState::Good,
    }
}

fn point(given: &Given<'_>, backup: &Manifest) -> Point {
    Point {
        at: backup.taken_at,
        state: state(given.entry, backup),
        name: backup.name.clone(),
        goes_at: given.departures.get(&backup.name).copied(),
    }
}

/// A pin that is over holds nothing, and is not drawn.
fn pinned(entry: &SourceEntry, backup: &Manifest, now: Timestamp) -> Option<String> {
    let hold = entry.hold(backup)?;
    hold.until.is_none_or(|until| until > now).then_some(hold.reason)
}

fn marks(entry: &SourceEntry, now: Timestamp) -> Vec<Mark> {
    let mut marks = Vec::new();
    for backup in &entry.backups {
        let at = backup.taken_at;
        if let Some(reason) = pinned(entry, backup, now) {
            marks.push(Mark { kind: MarkKind::Pin, at, said: format!("pinned: {reason}") });
        }
        if let Some(said) = entry.story(backup) {
            marks.push(Mark { kind: MarkKind::Migration, at, said });
        }
    }
    marks
}

fn days(given: &Given<'_>) -> BTreeMap<Date, Day> {
    let date = |at: Timestamp| at.to_zoned(given.zone.clone()).date();
    let mut days: BTreeMap<Date, Day> = BTreeMap::new();
    for backup in given.entry.backups.iter().chain(&given.entry.removed) {
        let day = days.entry(date(backup.taken_at)).or_default();
        day.backups += 1;
        day.stored_bytes += backup.stored_bytes();
        let is_good = backup.condition == Condition::Good;
        day.state = match (is_good, day.state) {
            (true, _) | (_, DayState::Good) => DayState::Good,
            _ => DayState::Doubtful,
        };
    }
    for (date, failed) in &given.failures {
        let day = days.entry(*date).or_default();
        day.failures = *failed;
        if day.state != DayState::Good {
            day.state = DayState::Failed;
        }
    }
    days
}

fn restore_point(given: &Given<'_>, backup: &Manifest) -> RestorePoint {
    let Given { entry, now, zone, .. } = given;
    let mut notes = Vec::new();
    notes.extend(pinned(entry, backup, *now).map(|reason| format!("pinned: {reason}")));
    notes.extend(entry.story(backup));
    if let Some(at) = given.departures.get(&backup.name) {
        notes.push(format!("goes by retention on {}", at.to_zoned((*zone).clone()).date()));
    }
    if backup.taken_at > *now {
        notes.push("dated in the future".to_owned());
    }
    notes.extend(backup.warnings.iter().cloned());
    let names = backup.checks.iter().map(|check| check.name.as_str());
    let deep: Vec<&str> = names.filter(|name| *name != "read_back").collect();
    let mut command = format!("lifeboat restore {}", units::shell_word(&backup.name));
    if let Some(repository) = given.repository {
        command.push_str(&format!(" --repo {}", units::shell_word(repository)));
    }
    RestorePoint {
        name: backup.name.clone(),
        at: backup.taken_at,
        state: state(entry, backup),
        bytes: backup.plain_bytes(),
        stored_bytes: backup.stored_bytes(),
        checks: match deep.is_empty() {
            true => "read back".to_owned(),
            false => deep.join(", ").replace('_', " "),
        },
        notes,
        command,
    }
}

impl RestorePoint {
    /// Whether its words have all of those that are looked for.
    fn has(&self, find: &str, zone: &TimeZone) -> bool {
        let at = units::moment(self.at, zone);
        let text = format!("{} {at} {} {}", self.name, self.state.word(), self.notes.join(" "));
        let text = text.to_lowercase();
        find.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }
}

fn removed(entry: &SourceEntry) -> Vec<Removed> {
    let one = |backup: &Manifest| {
        let tombstone = entry.tombstones.iter().find(|tombstone| tombstone.means(backup))?;
        Some(Removed {
            name: backup.name.clone(),
            reason: tombstone.reason.clone(),
            until: tombstone.delete_after,
            command: format!("lifeboat undelete {}", units::shell_word(&backup.name)),
        })
    };
    entry.removed.iter().rev().filter_map(one).collect()
}

/// The moments that a timeline speaks of, in words: "any moment from … to …".
pub(super) fn reach_words(spans: &[Span], zone: &TimeZone) -> Option<String> {
    let newest = spans.iter().filter(|span| span.kind != SpanKind::Gap).max_by_key(|s| s.until)?;
    let (from, until) = (units::moment(newest.from, zone), units::moment(newest.until, zone));
    Some(match newest.kind {
        SpanKind::Any => format!("any moment from {from} to {until}"),
        _ => format!("{} from {from} to {until}", newest.said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::made;
    use lifeboat_core::marks::{FORMAT, Pin, Tombstone};

    fn given(entry: &SourceEntry) -> Given<'_> {
        Given {
            entry,
            now: made::hour(0),
            zone: const { &TimeZone::UTC },
            spans: Vec::new(),
            departures: BTreeMap::new(),
            failures: BTreeMap::new(),
            repository: None,
            asked: Asked::default(),
        }
    }

    fn pin(backup: &Manifest, until: Option<Timestamp>) -> Pin {
        Pin {
            format: FORMAT,
            source: backup.source.id,
            backup: backup.name.clone(),
            id: backup.id,
            pinned: true,
            reason: "before the move".into(),
            until,
            pinned_at: made::hour(-99),
        }
    }

    #[test]
    fn backups_become_points_days_and_rows_with_their_command() {
        let mut entry = made::entry("app", &[-49, -26, -25, -1]);
        entry.backups[0].condition = Condition::Unchecked;
        entry.backups[2].condition = Condition::Damaged;
        entry.pins.push(pin(&entry.backups[3], None));
        // One that is over says nothing.
        entry.pins.push(pin(&entry.backups[1], Some(made::hour(-2))));
        let departures = BTreeMap::from([(entry.backups[1].name.clone(), made::hour(48))]);
        let failures = BTreeMap::from([(made::hour(0).to_zoned(TimeZone::UTC).date(), 1)]);
        let repository = Some("off site");
        let view = view(Given { departures, failures, repository, ..given(&entry) });
        let states: Vec<PointState> = view.points.iter().map(|point| point.state).collect();
        use PointState::{Damaged, Good, Unchecked};
        assert_eq!(states, [Unchecked, Good, Damaged, Good]);
        assert_eq!(view.points[1].goes_at, Some(made::hour(48)));
        assert_eq!(view.marks.len(), 1);
        let rows: Vec<(&str, &[String])> =
            view.rows.iter().map(|row| (row.command.as_str(), &*row.notes)).collect();
        let name = &entry.backups[3].name;
        let newest = format!("lifeboat restore {name} --repo 'off site'");
        assert_eq!(rows[0], (newest.as_str(), &["pinned: before the move".to_owned()][..]));
        assert_eq!(rows[2].1, ["goes by retention on 2026-01-10"]);
        let states: Vec<(DayState, u64)> =
            view.days.values().map(|day| (day.state, day.failures)).collect();
        use DayState::{Doubtful, Failed};
        // Of the second day one was good; on the last one was made before midnight.
        assert_eq!(states, [(Doubtful, 0), (DayState::Good, 0), (DayState::Good, 0), (Failed, 1)]);
    }

    #[test]
    fn words_are_looked_for_and_pages_are_cut() {
        let hours: Vec<i64> = (-120..0).collect();
        let mut entry = made::entry("app", &hours);
        entry.backups[7].condition = Condition::Damaged;
        let look = |find: &str, skip: usize| {
            let asked = Asked { find: find.into(), skip, ..Asked::default() };
            view(Given { asked, ..given(&entry) })
        };
        let all = look("", 100);
        assert_eq!((all.all, all.found, all.rows.len()), (120, 120, 20));
        assert_eq!(all.rows[19].at, made::hour(-120));
        let bad = look("Damaged 2026-01-03", 0);
        assert_eq!((bad.found, bad.rows[0].at), (1, made::hour(-113)));
        assert_eq!(look("nothing like it", 0).found, 0);
        // A page far behind the end is empty, and no failure.
        assert!(look("", 10_000).rows.is_empty());
    }

    #[test]
    fn what_was_removed_can_be_taken_back() {
        let mut entry = made::entry("app", &[-3, -2]);
        let backup = entry.backups[0].clone();
        entry.tombstones.push(Tombstone {
            format: FORMAT,
            source: backup.source.id,
            backup: backup.name.clone(),
            id: Some(backup.id),
            files: Vec::new(),
            reason: "no rule keeps it".into(),
            marked_at: made::hour(-1),
            delete_after: made::hour(100),
        });
        entry.settle();
        let view = view(given(&entry));
        assert_eq!(view.points.len(), 1);
        assert_eq!(view.removed[0].command, format!("lifeboat undelete {}", backup.name));
        assert_eq!(view.removed[0].until, made::hour(100));
    }

    #[test]
    fn lengths_are_read_back_from_their_words() {
        for length in Length::ALL {
            assert_eq!(Length::of(Some(length.word())), Some(length));
        }
        assert_eq!(Length::of(Some("<b>")), None);
        let that_holds =
            |hours| Length::that_holds(made::entry("app", &[hours]).backups.first(), made::hour(0));
        assert_eq!(that_holds(0), Length::Hour);
        assert_eq!(that_holds(-20), Length::Day);
        assert_eq!(that_holds(-9_000), Length::Month);
    }
}
