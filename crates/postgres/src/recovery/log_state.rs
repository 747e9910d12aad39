//! What of the log an archive holds behind a backup, and how far a restore from it can go.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::coverage::{Anchor, Covered, Log};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use super::serve::Supply;
use super::target::{Target, Timeline};
use crate::replication::Lsn;
use crate::wal::{
    Archive, Fetched, History, Kept, Segment, WalFile, log_prefix, stretch, times_of,
};

/// So many segments at the end of a log are looked into for its last record.
const SEGMENTS_BACK_MAX: u32 = 4;

/// An archive as the source of a recovery's log.
pub struct ArchiveSupply {
    /// The archive.
    pub archive: Archive,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

impl Supply for ArchiveSupply {
    fn fetch(&self, env: &Env, name: &str, to: &Path) -> Result<bool> {
        match WalFile::parse(name) {
            None => Ok(false),
            Some(file) => Ok(self.archive.fetch(env, file, to)? != Fetched::Absent),
        }
    }

    fn next(&self, name: &str) -> Option<String> {
        match WalFile::parse(name)? {
            WalFile::Segment(segment) => Some(segment.next(self.segment_bytes).to_string()),
            _ => None,
        }
    }
}

/// The log behind a backup.
#[derive(Clone, Debug)]
pub struct LogState {
    log: Log,
    anchor: Anchor,
    segment_bytes: u64,
    /// When the newest object of it was stored.
    pub newest_at: Option<Timestamp>,
}

impl LogState {
    /// Looks into the archive.
    pub fn of(env: &Env, archive: &Archive, manifest: &Manifest) -> Result<Self> {
        let anchor = anchor_of(manifest)?;
        let segment_bytes = segment_bytes(manifest);
        let mut log = Log { unit: segment_bytes, anchors: vec![anchor.clone()], ..Log::default() };
        let (mut newest_at, mut histories) = (None, BTreeSet::new());
        for member in &archive.members {
            let prefix = log_prefix(&member.folder, archive.system);
            for object in member.repository.store().list(Some(&prefix))? {
                let Some((_, _, kept)) = Kept::of_object(object.name.as_str()) else { continue };
                newest_at = newest_at.max(Some(object.modified));
                match kept {
                    Kept::File(WalFile::History(timeline)) => {
                        histories.insert(timeline);
                    }
                    kept => log.stretches.extend(stretch(kept, segment_bytes)),
                }
            }
        }
        log.forks = forks(env, archive, &histories)?;
        Ok(LogState { log, anchor, segment_bytes, newest_at })
    }

    /// What can be restored from the backup, by timeline.
    pub fn covered(&self) -> Vec<Covered> {
        self.log.covered()
    }

    /// The timeline that a recovery follows, and whether the log reaches the target as far as that
    /// can be known before it is read.
    pub fn decide(&self, target: &Target, timeline: Timeline) -> Result<Timeline> {
        let covered = self.covered();
        let chosen = match timeline {
            Timeline::Number(number) => covered.iter().find(|one| one.branch == number),
            Timeline::Latest => covered.iter().max_by_key(|one| one.branch),
        };
        let Some(chosen) = chosen else {
            return match timeline {
                // Its own moment needs no log.
                Timeline::Latest => Ok(Timeline::Number(self.anchor.branch)),
                Timeline::Number(number) => Err(self.not_covered(format!(
                    "no log leads from {} to the timeline {number}",
                    self.anchor.name
                ))),
            };
        };
        let number = Timeline::Number(chosen.branch);
        match target {
            Target::Consistent => Ok(Timeline::Number(self.anchor.branch)),
            Target::End => self.refuse_gap(chosen).map(|()| number),
            Target::Position(position) if position.0 > chosen.to => {
                self.refuse_gap(chosen)?;
                Err(self.not_covered(format!("the log does not reach {position}")))
            }
            Target::Position(position) if position.0 < self.anchor.ends => {
                Err(self
                    .not_covered(format!("{position} lies before the end of {}", self.anchor.name)))
            }
            Target::Time(time) if self.newest_at.is_none_or(|newest| newest < *time) => {
                let until = match self.newest_at {
                    Some(newest) => format!("the newest part of the log was stored at {newest:.0}"),
                    None => "no log was archived behind the backup".to_owned(),
                };
                Err(self.not_covered(format!("{time:.3} is not covered: {until}")))
            }
            _ => Ok(number),
        }
    }

    /// A place of the log that a recovery from the backup can end at, by chance: each that lies
    /// behind the backup's own end and before `until`, where that is said, is as likely. With it
    /// the timeline that leads there. `None` where the log adds nothing.
    pub fn any_position(
        &self,
        env: &Env,
        archive: &Archive,
        until: Option<Lsn>,
    ) -> Result<Option<(Lsn, Timeline)>> {
        let covered = self.covered();
        let Some(chosen) = covered.iter().max_by_key(|one| one.branch) else { return Ok(None) };
        let last = self.last_record(env, archive, chosen)?;
        let Some(last) = last.map(|last| until.map_or(last, |until| last.min(until))) else {
            return Ok(None);
        };
        let Some(span) = last.0.checked_sub(self.anchor.ends) else { return Ok(None) };
        let mut bytes = [0; 8];
        env.random.fill(&mut bytes);
        let offset = u64::from_le_bytes(bytes) % (span + 1);
        Ok(Some((Lsn(self.anchor.ends + offset), Timeline::Number(chosen.branch))))
    }

    /// Where the last record begins: a server that is to end behind a later place never gets there.
    /// The end of a segment may be empty, or the rest of a record.
    fn last_record(&self, env: &Env, archive: &Archive, chosen: &Covered) -> Result<Option<Lsn>> {
        let mut end = chosen.to;
        for _ in 0..SEGMENTS_BACK_MAX {
            if end <= self.anchor.ends {
                break;
            }
            let segment = Segment::of(chosen.branch, Lsn(end - 1), self.segment_bytes);
            for member in &archive.members {
                let read = times_of(env, member, archive.system, segment)?;
                let last = read.and_then(|times| times.last_begins);
                if let Some(last) = last.filter(|last| last.0 < chosen.to) {
                    return Ok(Some(last));
                }
            }
            end = segment.begins(self.segment_bytes).0;
        }
        Ok(None)
    }

    /// A server would take a missing segment for the end of the log, and nobody would know.
    fn refuse_gap(&self, chosen: &Covered) -> Result<()> {
        let of_branch = self.log.stretches.iter().filter(|one| one.branch == chosen.branch);
        let behind: Vec<u64> =
            of_branch.map(|one| one.from).filter(|from| *from > chosen.to).collect();
        if behind.is_empty() {
            return Ok(());
        }
        let missing = Segment::of(chosen.branch, Lsn(chosen.to), self.segment_bytes);
        Err(self.not_covered(format!(
            "the log has a gap: {missing} is missing, and {} segments behind it are there",
            behind.len()
        )))
    }

    fn not_covered(&self, message: String) -> Error {
        let ranges = self.covered().into_iter().map(|one| {
            format!("{} to {} of the timeline {}", Lsn(one.from), Lsn(one.to), one.branch)
        });
        let ranges: Vec<String> = ranges.collect();
        let name = &self.anchor.name;
        Error::new(Kind::NotCovered, message).hint(match ranges.is_empty() {
            true => format!("what can be restored: {name}, at its own moment"),
            false => format!(
                "what can be restored from {name}: {}; say --target-lsn, or choose another backup: \
                 lifeboat list",
                ranges.join(", ")
            ),
        })
    }
}

fn forks(
    env: &Env,
    archive: &Archive,
    histories: &BTreeSet<u32>,
) -> Result<Vec<lifeboat_core::coverage::Fork>> {
    let folder = tempfile::tempdir().map_err(|error| {
        Error::io(Kind::Failed, "cannot make a folder for history files", error)
    })?;
    let mut forks: Vec<lifeboat_core::coverage::Fork> = Vec::new();
    for timeline in histories {
        let path = folder.path().join("history");
        if archive.fetch(env, WalFile::History(*timeline), &path)? == Fetched::Absent {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::io(Kind::Failed, "cannot read a history file", error))?;
        for fork in History::parse(*timeline, &text)?.forks() {
            if !forks.iter().any(|known| known.branch == fork.branch) {
                forks.push(fork);
            }
        }
    }
    Ok(forks)
}

/// The backup as a point of its log.
fn anchor_of(manifest: &Manifest) -> Result<Anchor> {
    let position = |name: &str| {
        let text = manifest.facts.get(name).and_then(Value::as_str).unwrap_or_default();
        Lsn::from_str(text)
            .map_err(|error| error.context(format!("{} does not tell its {name}", manifest.name)))
    };
    let timeline = manifest.facts.get("stop_timeline").or(manifest.facts.get("timeline"));
    let branch = timeline.and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    Ok(Anchor {
        name: manifest.name.clone(),
        branch: branch.unwrap_or(1),
        begins: position("start_lsn")?.0,
        ends: position("stop_lsn")?.0,
        is_whole: true,
    })
}

/// Bytes of a segment of the cluster of a backup.
pub fn segment_bytes(manifest: &Manifest) -> u64 {
    let bytes = manifest.facts.get("wal_segment_bytes").and_then(Value::as_u64);
    bytes.filter(|bytes| bytes.is_power_of_two()).unwrap_or(16 << 20)
}

/// The system identifier of the cluster of a backup.
pub fn system_of(manifest: &Manifest) -> Result<u64> {
    let text = manifest.facts.get("system_identifier").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let message = format!("{} does not tell its system identifier", manifest.name);
        Error::new(Kind::CheckFailed, message)
    })
}

/// A shared supply of an archive.
pub fn supply(archive: Archive, manifest: &Manifest) -> Arc<dyn Supply> {
    Arc::new(ArchiveSupply { archive, segment_bytes: segment_bytes(manifest) })
}
