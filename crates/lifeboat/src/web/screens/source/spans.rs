//! Which moments the log of a source makes restorable, as stretches of a timeline.

use jiff::Timestamp;
use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::Manifest;
use lifeboat_postgres::wal::Range;
use lifeboat_sqlite::pagelog::Grain;

use crate::commands::wal::moments::{self, Moments};
use crate::logs::{self, Reach};
use crate::repositories::Opened;
use crate::web::charts::{Span, SpanKind};
use crate::web::context::Ctx;

/// Of so many of the newest backups that have a log it is read.
const LOGS_MAX: usize = 24;

/// The stretches of a source in a repository; none where it has no log.
pub(super) fn of_entry(ctx: &Ctx, opened: &Opened, entry: &SourceEntry) -> Result<Vec<Span>> {
    if entry.record.kind == lifeboat_postgres::CLUSTER_KIND {
        let session = ctx.session();
        let env = session.env()?;
        let all = moments::of_entry(&session, &env, &opened.repository, entry)?;
        return Ok(of_cluster(&all, ctx.now));
    }
    if entry.record.kind != lifeboat_sqlite::KIND {
        return Ok(Vec::new());
    }
    let logged = logs::logged(&opened.repository, &entry.folder)?;
    let mut spans = Vec::new();
    let newest_first = entry.backups.iter().rev().filter(|one| logged.contains(&one.name));
    for backup in newest_first.take(LOGS_MAX) {
        let Some(reach) = logs::reach(&opened.repository, &entry.folder, backup)? else { continue };
        let after = entry.backups.iter().find(|one| one.taken_at > backup.taken_at);
        let next = after.map_or(ctx.now, |one| one.taken_at);
        spans.extend(of_page_log(backup, &reach, next));
    }
    Ok(spans)
}

/// What the log of one backup adds to it, up to the next backup.
fn of_page_log(backup: &Manifest, reach: &Reach, next: Timestamp) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut from = backup.taken_at;
    for range in &reach.ranges {
        let (kind, said) = match range.grain {
            Grain::All => (SpanKind::Any, String::new()),
            grain => (SpanKind::Coarse, format!("the last of each {}", grain.word())),
        };
        let until = range.moments.1.held.max(from);
        spans.push(Span { kind, from, until, said });
        from = until;
    }
    if let Some(newest) = reach.newest.as_ref().filter(|newest| newest.held > from) {
        let until = newest.held;
        spans.push(Span { kind: SpanKind::Any, from, until, said: String::new() });
        from = until;
    }
    if let Some(broken) = &reach.broken {
        let until = next.max(from);
        spans.push(Span { kind: SpanKind::Gap, from, until, said: broken.clone() });
    }
    spans
}

/// The ranges of a cluster's logs, and what is missing behind them.
fn of_cluster(all: &[Moments], now: Timestamp) -> Vec<Span> {
    let of_log = |one: &Moments| {
        let gaps = one.log.log().gaps();
        let is_broken = |range: &Range| {
            gaps.iter().any(|gap| gap.branch == range.timeline && gap.from == range.to.0)
        };
        of_ranges(&one.ranges, is_broken, now)
    };
    all.iter().flat_map(of_log).collect()
}

/// The ranges of one log. Behind one nothing can be restored up to the next of its timeline; where
/// there is none, up to now if more of the log is there and does not fit to it.
fn of_ranges(ranges: &[Range], is_broken: impl Fn(&Range) -> bool, now: Timestamp) -> Vec<Span> {
    let mut timed: Vec<(Timestamp, Timestamp, &Range)> =
        ranges.iter().filter_map(|range| Some((range.from_time?, range.to_time?, range))).collect();
    timed.sort_by_key(|(from, until, _)| (*from, *until));
    let mut spans = Vec::new();
    for (index, (from, until, range)) in timed.iter().enumerate() {
        let (from, until) = (*from, *until);
        let said = format!("timeline {}, {} to {}", range.timeline, range.from, range.to);
        spans.push(Span { kind: SpanKind::Any, from, until, said });
        let mut behind = timed[index + 1..].iter();
        let next = behind.find(|(_, _, other)| other.timeline == range.timeline);
        let next = next.map(|(from, ..)| *from).or_else(|| is_broken(range).then_some(now));
        if let Some(next) = next.filter(|next| *next > until) {
            let said = format!("timeline {}, from {} on", range.timeline, range.to);
            spans.push(Span { kind: SpanKind::Gap, from: until, until: next, said });
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use lifeboat_postgres::wal::Lsn;
    use lifeboat_sqlite::pagelog::{Moment, Range as PageRange};

    use super::*;
    use crate::web::made::{self, hour};

    fn moment(position: u64, hours: i64) -> Moment {
        Moment { position, held: hour(hours), until: hour(hours) }
    }

    #[test]
    fn a_page_log_begins_with_its_backup_and_breaks_before_the_next() {
        let backup = made::backup("app", 0);
        let range = |grain, first, last| PageRange {
            moments: (moment(1, first), moment(9, last)),
            states: 9,
            grain,
        };
        let reach = Reach {
            states: 18,
            stored_bytes: 1,
            newest: Some(moment(18, 6)),
            ranges: vec![range(Grain::Hour, 1, 4), range(Grain::All, 5, 6)],
            broken: Some("files are missing".into()),
        };
        let spans = of_page_log(&backup, &reach, hour(8));
        let shown: Vec<(SpanKind, Timestamp, Timestamp)> =
            spans.iter().map(|span| (span.kind, span.from, span.until)).collect();
        let expected = [
            (SpanKind::Coarse, hour(0), hour(4)),
            (SpanKind::Any, hour(4), hour(6)),
            (SpanKind::Gap, hour(6), hour(8)),
        ];
        assert_eq!(shown, expected);
        assert_eq!(spans[0].said, "the last of each hour");
    }

    #[test]
    fn a_log_of_a_cluster_has_gaps_between_its_ranges_and_behind_the_last() {
        let range = |timeline, places: (u64, u64), hours: (i64, i64)| Range {
            timeline,
            from: Lsn(places.0),
            to: Lsn(places.1),
            from_time: Some(hour(hours.0)),
            to_time: Some(hour(hours.1)),
            backups: Vec::new(),
        };
        let first = range(1, (10, 20), (0, 2));
        let second = range(1, (30, 40), (4, 5));
        let other = range(2, (20, 50), (3, 6));
        let ranges = [second.clone(), other, first];
        let shown = |is_broken: bool| -> Vec<(SpanKind, Timestamp, Timestamp)> {
            let spans = of_ranges(&ranges, |range| is_broken && range.to == Lsn(40), hour(8));
            spans.iter().map(|span| (span.kind, span.from, span.until)).collect()
        };
        let mut expected = vec![
            (SpanKind::Any, hour(0), hour(2)),
            (SpanKind::Gap, hour(2), hour(4)),
            (SpanKind::Any, hour(3), hour(6)),
            (SpanKind::Any, hour(4), hour(5)),
        ];
        // What is behind the last was not stored yet, or does not fit to it.
        assert_eq!(shown(false), expected);
        expected.push((SpanKind::Gap, hour(5), hour(8)));
        assert_eq!(shown(true), expected);
    }
}
