//! Which files of a cluster's log its base backups need.

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::Result;
use lifeboat_core::coverage::{Anchor, Log};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::prune::{LogObject, LogRule};
use lifeboat_core::repository::Repository;

use super::archive::Member;
use super::name::{Kept, WalFile};
use super::view::{ClusterLog, stretch};

/// The rule for the log of a cluster.
#[derive(Clone, Debug)]
pub struct WalRule {
    /// How far back any moment can be restored. Backups that are older, but for the one that such a
    /// moment needs, show their own moment alone. `None`: as far back as there are backups.
    pub window: Option<SignedDuration>,
    /// The world in which histories are read.
    pub env: WorldOfRule,
}

/// The world of a run, which has no words for a debugger.
#[derive(Clone)]
pub struct WorldOfRule(pub Env);

impl std::fmt::Debug for WorldOfRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorldOfRule")
    }
}

impl LogRule for WalRule {
    fn judge(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        staying: &[&Manifest],
    ) -> Result<Vec<LogObject>> {
        let member = Member {
            label: repository.url(),
            repository: repository.clone(),
            folder: folder.to_owned(),
        };
        let backups: Vec<Manifest> = staying.iter().map(|backup| (*backup).clone()).collect();
        let mut objects = Vec::new();
        for log in ClusterLog::all(&self.env.0, &member, &backups)? {
            let needed = needed(&log, now, self.window);
            for ((kept, info), is_needed) in log.files.iter().zip(needed) {
                objects.push(LogObject {
                    object: kept.object(folder, log.system),
                    part: format!("timeline {} of {}", kept.timeline(), log.system),
                    bytes: info.bytes,
                    modified: info.modified,
                    is_needed,
                });
            }
        }
        Ok(objects)
    }
}

/// Of each file whether a base backup needs it.
pub(super) fn needed(
    log: &ClusterLog,
    now: Timestamp,
    window: Option<SignedDuration>,
) -> Vec<bool> {
    let arithmetic = log.log();
    let opens = window.and_then(|window| now.checked_sub(window).ok());
    // The newest backup at or before the beginning of the window carries its first moments.
    let first = opens.and_then(|opens| {
        log.bases.iter().filter(|(_, place)| place.ended_at <= opens).map(|(_, p)| p.ended_at).max()
    });
    let ended_at = |anchor: &Anchor| {
        log.bases.iter().find(|(name, _)| *name == anchor.name).map(|(_, place)| place.ended_at)
    };
    let in_window = |anchor: &Anchor| match first {
        Some(first) => ended_at(anchor).is_none_or(|ended_at| ended_at >= first),
        None => true,
    };
    let of_segment: Vec<bool> =
        log.files.iter().map(|(kept, _)| is_needed(log, &arithmetic, *kept, &in_window)).collect();
    let oldest = log.files.iter().zip(&of_segment).filter(|(_, needed)| **needed);
    let newest_timeline = oldest.map(|((kept, _), _)| kept.timeline());
    let of_bases = log.bases.iter().map(|(_, place)| place.timeline);
    let newest_timeline = newest_timeline.chain(of_bases).max().unwrap_or(0);
    let files = log.files.iter().zip(of_segment);
    files
        .map(|((kept, _), needed)| match kept {
            // Histories are tiny, and without one a line is lost: they go with the last backup that
            // may be on it.
            Kept::File(WalFile::History(timeline)) => *timeline <= newest_timeline,
            _ => needed,
        })
        .collect()
}

fn is_needed(
    log: &ClusterLog,
    arithmetic: &Log,
    kept: Kept,
    in_window: &impl Fn(&Anchor) -> bool,
) -> bool {
    let unit = log.segment_bytes.max(1);
    // What lies beside a segment goes with it; a piece is needed until its segment is whole.
    let stretch = match kept {
        Kept::File(WalFile::Backup(segment, _)) => Some(segment.stretch(unit)),
        Kept::Piece(segment, ..) => {
            let whole = Kept::File(WalFile::Segment(segment));
            let is_whole = log.files.iter().any(|(other, _)| *other == whole);
            (!is_whole).then(|| stretch(kept, unit)).flatten()
        }
        kept => stretch(kept, unit),
    };
    stretch.is_some_and(|stretch| arithmetic.is_needed(&stretch, in_window))
}

#[cfg(test)]
mod tests {
    use lifeboat_core::coverage::Fork;
    use lifeboat_core::store::{ObjectInfo, ObjectName};
    use proptest::prelude::*;

    use super::super::name::{Lsn, Segment};
    use super::super::view::BasePlace;
    use super::*;

    const UNIT: u64 = 1 << 20;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn file(kept: Kept) -> (Kept, ObjectInfo) {
        let name = ObjectName::new(format!("{}.zst", kept.object("a", 7))).unwrap();
        (kept, ObjectInfo { name, bytes: 1, modified: at(0) })
    }

    fn segment(timeline: u32, number: u64) -> Kept {
        Kept::File(WalFile::Segment(Segment::of(timeline, Lsn(number * UNIT), UNIT)))
    }

    fn base(timeline: u32, begins: u64, ends: u64, seconds: i64) -> (String, BasePlace) {
        let place = BasePlace {
            system: 7,
            segment_bytes: UNIT,
            timeline,
            begins: Lsn(begins),
            ends: Lsn(ends),
            ended_at: at(seconds),
        };
        (format!("{timeline}-{begins}"), place)
    }

    fn log(files: Vec<Kept>, bases: Vec<(String, BasePlace)>, forks: Vec<Fork>) -> ClusterLog {
        ClusterLog {
            system: 7,
            segment_bytes: UNIT,
            files: files.into_iter().map(file).collect(),
            bases,
            forks,
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn a_window_leaves_older_backups_their_own_moment() {
        let files: Vec<Kept> = (0..10).map(|number| segment(1, number)).collect();
        let bases = vec![
            base(1, UNIT + 5, UNIT + 9, 100),
            base(1, 4 * UNIT + 5, 5 * UNIT + 9, 200),
            base(1, 8 * UNIT, 8 * UNIT + 9, 300),
        ];
        let log = log(files, bases, Vec::new());
        let kept = |window| -> Vec<usize> {
            let needed = needed(&log, at(350), window);
            (0..10).filter(|number| needed[*number]).collect()
        };
        assert_eq!(kept(None), (1..10).collect::<Vec<_>>());
        // 350 - 120 = 230: the backup of 200 carries it.
        assert_eq!(kept(Some(SignedDuration::from_secs(120))), [1, 4, 5, 6, 7, 8, 9]);
        assert_eq!(kept(Some(SignedDuration::from_secs(10))), [1, 4, 5, 8, 9]);
        assert_eq!(kept(Some(SignedDuration::from_secs(900))), (1..10).collect::<Vec<_>>());
    }

    #[test]
    fn what_lies_beside_a_segment_goes_with_it() {
        let of = |number: u64| Segment::of(1, Lsn(number * UNIT), UNIT);
        let files = vec![
            segment(1, 1),
            Kept::File(WalFile::Backup(of(1), 40)),
            segment(1, 3),
            Kept::File(WalFile::Backup(of(3), 40)),
            Kept::Piece(of(3), 0, 100),
            Kept::Piece(of(4), 0, 100),
            Kept::File(WalFile::History(2)),
        ];
        let log = log(files, vec![base(1, 3 * UNIT + 40, 3 * UNIT + 50, 9)], Vec::new());
        let needed = needed(&log, at(10), None);
        assert_eq!(needed, [false, false, true, true, false, true, false]);
    }

    /// A second rule, written another way: it walks from each backup over every place that a
    /// recovery from it can come to, and notes the segments that it reads.
    fn walked(log: &ClusterLog, last: u64) -> Vec<(u32, u64)> {
        let mut read = Vec::new();
        for (_, place) in &log.bases {
            let mut ways = vec![(place.timeline, place.begins.0 / UNIT)];
            while let Some((timeline, mut number)) = ways.pop() {
                let from = number;
                while number <= last {
                    read.push((timeline, number));
                    number += 1;
                }
                for fork in log.forks.iter().filter(|fork| fork.parent == timeline) {
                    // Of the own timeline only where it is left after the backup began.
                    let is_later = timeline != place.timeline || fork.at >= place.begins.0;
                    if is_later && fork.at / UNIT >= from {
                        ways.push((fork.branch, fork.at / UNIT));
                    }
                }
            }
        }
        read.sort_unstable();
        read.dedup();
        read
    }

    proptest! {
        #[test]
        fn exactly_what_a_recovery_reads_is_needed(
            bases in prop::collection::vec((1_u32..4, 0_u64..8, 0_u64..UNIT), 0..4),
            second in 0_u64..9 * UNIT,
            third in 0_u64..9 * UNIT,
            third_of_second: bool,
        ) {
            let third = if third_of_second { third.max(second) } else { third };
            let parent = if third_of_second { 2 } else { 1 };
            let forks = vec![
                Fork { branch: 2, parent: 1, at: second },
                Fork { branch: 3, parent, at: third },
            ];
            let begins_of = |timeline: u32| match timeline {
                2 => second,
                3 => third,
                _ => 0,
            };
            let bases = bases.into_iter().map(|(timeline, number, offset)| {
                let begins = (number * UNIT + offset).max(begins_of(timeline));
                base(timeline, begins, begins + 10, 5)
            }).collect();
            let mut files = Vec::new();
            for timeline in 1..4 {
                let first = begins_of(timeline) / UNIT;
                files.extend((first..12).map(|number| segment(timeline, number)));
            }
            let log = log(files, bases, forks);
            let walked = walked(&log, 11);
            let needed = needed(&log, at(10), None);
            for ((kept, _), needed) in log.files.iter().zip(needed) {
                let Kept::File(WalFile::Segment(segment)) = kept else { continue };
                let name = (segment.timeline, segment.begins(UNIT).0 / UNIT);
                prop_assert_eq!(needed, walked.contains(&name), "{:?}", name);
            }
        }
    }
}
