//! Which moments can be restored: the arithmetic of logs over backups. Pure.
//!
//! A log is a line of positions, cut into stretches, which may branch: a branch leaves its parent
//! at a position and goes on alone. A backup is an anchor: it shows one position, and the log
//! carries it from there on, as far as no stretch is missing. PostgreSQL's branches are its
//! timelines; a log that never branches has one.

use std::collections::{BTreeMap, BTreeSet};

/// A stretch of a log that is stored: the positions from `from` up to, and without, `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// Its branch.
    pub branch: u32,
    /// Its first position.
    pub from: u64,
    /// The position behind its last.
    pub to: u64,
}

/// Where a branch left its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The branch.
    pub branch: u32,
    /// What it left.
    pub parent: u32,
    /// At which position.
    pub at: u64,
}

/// A backup in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its name.
    pub name: String,
    /// Its branch.
    pub branch: u32,
    /// From which position on it needs the log.
    pub begins: u64,
    /// The position that it shows: the first one that can be restored from it.
    pub ends: u64,
    /// Whether it brings the log between the two itself.
    pub is_whole: bool,
}

/// Positions of a branch that can be restored, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The branch.
    pub branch: u32,
    /// The first position.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// The backups that carry it, by name, oldest first.
    pub anchors: Vec<String>,
}

/// A stretch that is missing between others of its branch.
pub type Gap = Stretch;

/// A log, its branches and its backups.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Stretches begin and end at multiples of this, other than pieces of the newest ones. 1 where
    /// they may begin anywhere.
    pub unit: u64,
    /// What is stored.
    pub stretches: Vec<Stretch>,
    /// Where branches left others. One that is not here is taken for a root.
    pub forks: Vec<Fork>,
    /// The backups.
    pub anchors: Vec<Anchor>,
}

/// A part of a line: a branch from where it begins to where the next one leaves it.
#[derive(Clone, Copy, Debug)]
struct Part {
    branch: u32,
    begins: u64,
    until: u64,
}

impl Log {
    fn floor(&self, position: u64) -> u64 {
        position - position % self.unit.max(1)
    }

    /// All branches of which something is known.
    pub fn branches(&self) -> BTreeSet<u32> {
        let of_stretches = self.stretches.iter().map(|stretch| stretch.branch);
        let of_anchors = self.anchors.iter().map(|anchor| anchor.branch);
        of_stretches.chain(of_anchors).chain(self.forks.iter().map(|fork| fork.branch)).collect()
    }

    /// The way to a branch, from its root on.
    fn line(&self, branch: u32) -> Vec<Part> {
        let forks: BTreeMap<u32, &Fork> =
            self.forks.iter().map(|fork| (fork.branch, fork)).collect();
        let (mut parts, mut branch, mut until) = (Vec::new(), branch, u64::MAX);
        loop {
            let fork = forks.get(&branch);
            let begins = fork.map_or(0, |fork| fork.at);
            parts.push(Part { branch, begins, until });
            // A branch is younger than its parent: what says otherwise is no history.
            match fork.filter(|fork| fork.parent < branch) {
                Some(fork) => (branch, until) = (fork.parent, until.min(fork.at)),
                None => break,
            }
        }
        parts.reverse();
        parts
    }

    /// What is stored along a line, joined.
    fn stored(&self, line: &[Part]) -> Vec<(u64, u64)> {
        let mut stored: Vec<(u64, u64)> = Vec::new();
        for part in line {
            let of_branch = self.stretches.iter().filter(|one| one.branch == part.branch);
            stored.extend(of_branch.filter_map(|one| {
                let from = one.from.max(self.floor(part.begins));
                let to = one.to.min(part.until);
                (from < to).then_some((from, to))
            }));
        }
        stored.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (from, to) in stored {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        joined
    }

    /// How far a backup is carried along a line; `None` if it lacks what it needs to begin with.
    fn reach(stored: &[(u64, u64)], anchor: &Anchor) -> Option<u64> {
        let around =
            |position: u64| stored.iter().find(|(from, to)| *from <= position && position <= *to);
        if anchor.is_whole {
            return Some(around(anchor.ends).map_or(anchor.ends, |(_, to)| *to));
        }
        let (_, to) = around(anchor.begins)?;
        (*to >= anchor.ends).then_some(*to)
    }

    /// The positions that can be restored, by branch.
    pub fn covered(&self) -> Vec<Covered> {
        let mut all = Vec::new();
        for branch in self.branches() {
            let line = self.line(branch);
            let stored = self.stored(&line);
            let Some(own) = line.last() else { continue };
            let mut found: Vec<Covered> = Vec::new();
            for anchor in &self.anchors {
                let part = line.iter().find(|part| part.branch == anchor.branch);
                let Some(part) = part.filter(|part| anchor.ends <= part.until) else { continue };
                let Some(to) = Log::reach(&stored, anchor) else { continue };
                if part.branch != branch && to <= own.begins {
                    continue;
                }
                let from = anchor.ends.max(own.begins);
                found.push(Covered { branch, from, to, anchors: vec![anchor.name.clone()] });
            }
            found.sort_by_key(|one| (one.from, one.to));
            let mut joined: Vec<Covered> = Vec::new();
            for one in found {
                match joined.last_mut() {
                    Some(last) if one.from <= last.to => {
                        last.to = last.to.max(one.to);
                        last.anchors.extend(one.anchors);
                    }
                    _ => joined.push(one),
                }
            }
            all.extend(joined);
        }
        all
    }

    /// What is missing between the first and the last stored position of each branch, and between
    /// where it left its parent and its first one.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for branch in self.branches() {
            let line = self.line(branch);
            let Some(own) = line.last() else { continue };
            let has_own = self.stretches.iter().any(|one| one.branch == branch);
            if !has_own {
                continue;
            }
            let stored = self.stored(&line);
            for pair in stored.windows(2) {
                let (from, to) = (pair[0].1.max(self.floor(own.begins)), pair[1].0);
                // What lies before is a gap of the parent.
                if from < to {
                    gaps.push(Gap { branch, from, to });
                }
            }
        }
        gaps
    }

    /// The backups that lack the log between their beginning and their end.
    pub fn broken(&self) -> Vec<&Anchor> {
        let is_broken = |anchor: &&Anchor| {
            let stored = self.stored(&self.line(anchor.branch));
            Log::reach(&stored, anchor).is_none()
        };
        self.anchors.iter().filter(is_broken).collect()
    }

    /// Whether some backup needs a stretch: those in `window` for every position from their
    /// beginning on, the others for the position that they show.
    pub fn is_needed(&self, stretch: &Stretch, in_window: impl Fn(&Anchor) -> bool) -> bool {
        let line = self.line(stretch.branch);
        let is_known = stretch.branch <= 1 || self.forks.iter().any(|f| f.branch == stretch.branch);
        self.anchors.iter().any(|anchor| {
            let begins = self.floor(anchor.begins);
            if stretch.to <= begins {
                return false;
            }
            if stretch.branch == anchor.branch {
                return in_window(anchor) || stretch.from <= anchor.ends;
            }
            // Of a branch whose history is lost nobody knows: it stays, if it is the younger one.
            let leads_there =
                line.iter().any(|part| part.branch == anchor.branch && anchor.begins <= part.until)
                    || (!is_known && anchor.branch < stretch.branch);
            leads_there && in_window(anchor)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(branch: u32, from: u64, to: u64) -> Stretch {
        Stretch { branch, from, to }
    }

    fn anchor(name: &str, branch: u32, begins: u64, ends: u64) -> Anchor {
        Anchor { name: name.into(), branch, begins, ends, is_whole: true }
    }

    fn segments(branch: u32, numbers: std::ops::Range<u64>) -> Vec<Stretch> {
        numbers.map(|number| stretch(branch, number * 10, number * 10 + 10)).collect()
    }

    fn ranges(log: &Log) -> Vec<(u32, u64, u64)> {
        log.covered().iter().map(|one| (one.branch, one.from, one.to)).collect()
    }

    #[test]
    fn a_backup_reaches_as_far_as_nothing_is_missing() {
        let mut log = Log {
            unit: 10,
            stretches: segments(1, 0..5),
            anchors: vec![anchor("a", 1, 12, 17)],
            ..Log::default()
        };
        assert_eq!(ranges(&log), [(1, 17, 50)]);
        log.stretches.remove(3);
        assert_eq!(ranges(&log), [(1, 17, 30)]);
        assert_eq!(log.gaps(), [stretch(1, 30, 40)]);
        log.anchors.push(anchor("b", 1, 41, 44));
        assert_eq!(ranges(&log), [(1, 17, 30), (1, 44, 50)]);
        // A backup that lies in a gap shows its own moment.
        log.anchors.push(anchor("c", 1, 33, 35));
        assert_eq!(ranges(&log), [(1, 17, 30), (1, 35, 35), (1, 44, 50)]);
    }

    #[test]
    fn a_backup_without_its_log_needs_it() {
        let bare = Anchor { is_whole: false, ..anchor("a", 1, 12, 27) };
        let mut log =
            Log { unit: 10, stretches: segments(1, 0..5), anchors: vec![bare], ..Log::default() };
        assert_eq!(ranges(&log), [(1, 27, 50)]);
        assert!(log.broken().is_empty());
        log.stretches.remove(1);
        assert!(ranges(&log).is_empty());
        assert_eq!(log.broken().len(), 1);
    }

    #[test]
    fn a_branch_is_reached_through_its_parent() {
        let mut stretches = segments(1, 0..3);
        // The parent's last segment was left in the middle: the child has it whole.
        stretches.extend(segments(2, 3..6));
        let mut log = Log {
            unit: 10,
            stretches,
            forks: vec![Fork { branch: 2, parent: 1, at: 34 }],
            anchors: vec![anchor("a", 1, 12, 17)],
        };
        assert_eq!(ranges(&log), [(1, 17, 30), (2, 34, 60)]);
        assert!(log.gaps().is_empty());
        log.stretches.retain(|one| one.from != 20);
        assert_eq!(ranges(&log), [(1, 17, 20)]);
        // Without its history nobody knows that the branch belongs to the backup.
        log.forks.clear();
        assert_eq!(ranges(&log), [(1, 17, 20)]);
    }

    #[test]
    fn what_no_backup_needs_is_before_the_oldest_or_on_another_line() {
        let log = Log {
            unit: 10,
            stretches: Vec::new(),
            forks: vec![
                Fork { branch: 2, parent: 1, at: 34 },
                Fork { branch: 3, parent: 1, at: 20 },
            ],
            anchors: vec![anchor("a", 1, 25, 27)],
        };
        let needed = |branch, from| log.is_needed(&stretch(branch, from, from + 10), |_| true);
        assert!(!needed(1, 10) && needed(1, 20) && needed(1, 90));
        assert!(needed(2, 30) && needed(2, 90));
        assert!(!needed(3, 20) && !needed(3, 90));
        // A branch of which nothing is known.
        assert!(needed(4, 90) && !needed(4, 10));
        // A backup that only shows its own moment.
        let needed = |branch, from| log.is_needed(&stretch(branch, from, from + 10), |_| false);
        assert!(needed(1, 20) && !needed(1, 30) && !needed(2, 30));
    }
}
