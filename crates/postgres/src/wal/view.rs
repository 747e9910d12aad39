//! What the log of a source in one repository comes to: which moments can be restored, and where
//! something is missing.
//!
//! Made of the names of objects, of the history files, and of what base backups say of themselves;
//! of the segments only those at the end of a range are read, for the last time in them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lifeboat_core::coverage::{Anchor, Fork, Log, Stretch};
use lifeboat_core::env::Env;
use lifeboat_core::log;
use lifeboat_core::manifest::{Condition, Manifest};
use lifeboat_core::store::ObjectInfo;
use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::archive::Member;
use super::header::{HEADER_BYTES, SegmentHeader};
use super::name::{Kept, Lsn, Segment, WalFile};
use super::records::{RecordReader, Times};
use super::timeline::History;
use super::{SEGMENT_BYTES_MAX, SMALL_BYTES_MAX};

/// So many segments before the last one are asked for a time, where it has none.
const SEGMENTS_BACK_MAX: u32 = 4;

/// Where a base backup stands in the log of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasePlace {
    /// The cluster's system identifier.
    pub system: u64,
    /// The size of its segments.
    pub segment_bytes: u64,
    /// Its timeline.
    pub timeline: u32,
    /// From where on it needs the log.
    pub begins: Lsn,
    /// The first place that can be restored from it.
    pub ends: Lsn,
    /// When it ended there.
    pub ended_at: Timestamp,
}

impl BasePlace {
    /// The place of a backup, if it is one of a cluster.
    pub fn of(backup: &Manifest) -> Option<BasePlace> {
        let text = |name: &str| backup.facts.get(name).and_then(Value::as_str);
        let number = |name: &str| backup.facts.get(name).and_then(Value::as_u64);
        let timeline = u32::try_from(number("timeline")?).ok()?;
        let ended_at = text("stop_time").and_then(|time| time.parse().ok());
        Some(BasePlace {
            system: text("system_identifier")?.parse().ok()?,
            segment_bytes: number("wal_segment_bytes")?,
            timeline,
            begins: text("start_lsn")?.parse().ok()?,
            ends: text("stop_lsn")?.parse().ok()?,
            ended_at: ended_at.unwrap_or(backup.completed_at),
        })
    }

    /// It as an anchor of its log. The log between its two ends is in the backup itself.
    pub fn anchor(&self, name: &str) -> Anchor {
        Anchor {
            name: name.to_owned(),
            branch: self.timeline,
            begins: self.begins.0,
            ends: self.ends.0,
            is_whole: true,
        }
    }
}

/// The log of one cluster in the folder of a source.
#[derive(Clone, Debug)]
pub struct ClusterLog {
    /// The cluster's system identifier.
    pub system: u64,
    /// The size of its segments; 0 where nothing says it.
    pub segment_bytes: u64,
    /// What is stored, sorted by name.
    pub files: Vec<(Kept, ObjectInfo)>,
    /// Its base backups, oldest first.
    pub bases: Vec<(String, BasePlace)>,
    /// What its histories say.
    pub forks: Vec<Fork>,
    /// Objects that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
}

/// Moments of one timeline that can be restored, without a gap between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The timeline.
    pub timeline: u32,
    /// The first place.
    #[serde(serialize_with = "shown")]
    pub from: Lsn,
    /// The last place: behind it something is missing, or nothing was stored yet.
    #[serde(serialize_with = "shown")]
    pub to: Lsn,
    /// The moment of the first place.
    pub from_time: Option<Timestamp>,
    /// The last time that the log tells within it.
    pub to_time: Option<Timestamp>,
    /// The backups that it begins with, oldest first.
    pub backups: Vec<String>,
}

fn shown<S: serde::Serializer>(lsn: &Lsn, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

/// What was found in segments before: it can be lost at any time.
pub trait TimesCache {
    /// The times of an object that is as it was.
    fn get(&self, object: &ObjectInfo) -> Option<EndTimes>;
    /// Remembers them.
    fn put(&mut self, object: &ObjectInfo, times: EndTimes);
}

/// The first and last time of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndTimes {
    /// The first.
    pub first: Option<Timestamp>,
    /// The last.
    pub last: Option<Timestamp>,
}

/// Remembers nothing.
pub struct NoCache;

impl TimesCache for NoCache {
    fn get(&self, _: &ObjectInfo) -> Option<EndTimes> {
        None
    }
    fn put(&mut self, _: &ObjectInfo, _: EndTimes) {}
}

impl ClusterLog {
    /// The logs in a folder, by system identifier, with the backups that belong to each.
    pub fn all(env: &Env, member: &Member, backups: &[Manifest]) -> Result<Vec<ClusterLog>> {
        let objects = member.repository.store().list(Some(&format!("{}/wal", member.folder)))?;
        let mut logs: BTreeMap<u64, ClusterLog> = BTreeMap::new();
        let new = |system: u64| ClusterLog {
            system,
            segment_bytes: 0,
            files: Vec::new(),
            bases: Vec::new(),
            forks: Vec::new(),
            unreadable: Vec::new(),
        };
        for object in objects {
            let Some((_, system, kept)) = Kept::of_object(object.name.as_str()) else { continue };
            logs.entry(system).or_insert_with(|| new(system)).files.push((kept, object));
        }
        for backup in backups.iter().filter(|one| one.condition != Condition::Damaged) {
            let Some(place) = BasePlace::of(backup) else { continue };
            let entry = logs.entry(place.system).or_insert_with(|| new(place.system));
            entry.segment_bytes = place.segment_bytes;
            entry.bases.push((backup.name.clone(), place));
        }
        let mut logs: Vec<ClusterLog> = logs.into_values().collect();
        for log in &mut logs {
            log.files.sort_by_key(|(kept, _)| *kept);
            log.read_histories(env, member)?;
            log.find_segment_bytes(env, member)?;
        }
        Ok(logs)
    }

    fn read_histories(&mut self, env: &Env, member: &Member) -> Result<()> {
        let histories: Vec<u32> = self
            .files
            .iter()
            .filter_map(|(kept, _)| match kept {
                Kept::File(WalFile::History(timeline)) => Some(*timeline),
                _ => None,
            })
            .collect();
        let mut forks: BTreeMap<u32, Fork> = BTreeMap::new();
        for timeline in histories {
            let object = Kept::File(WalFile::History(timeline)).object(&member.folder, self.system);
            match read_history(env, member, timeline, &object) {
                Ok(Some(history)) => {
                    // What a timeline says of itself counts more than what its children say.
                    for fork in history.forks() {
                        match fork.branch == timeline {
                            true => drop(forks.insert(fork.branch, fork)),
                            false => drop(forks.entry(fork.branch).or_insert(fork)),
                        }
                    }
                }
                Ok(None) => {}
                Err(error) if is_of_object(&error) => {
                    self.unreadable.push((object, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        self.forks = forks.into_values().collect();
        Ok(())
    }

    /// Where no backup says how large segments are, the newest segment does.
    fn find_segment_bytes(&mut self, env: &Env, member: &Member) -> Result<()> {
        if self.segment_bytes > 0 {
            return Ok(());
        }
        let newest_first: Vec<Kept> = self.files.iter().rev().map(|(kept, _)| *kept).collect();
        for kept in newest_first {
            let is_first = matches!(kept, Kept::File(WalFile::Segment(_)) | Kept::Piece(_, 0, _));
            if !is_first {
                continue;
            }
            let object = kept.object(&member.folder, self.system);
            let mut begin = Vec::new();
            let read =
                log::get(env, &member.repository, &object, SEGMENT_BYTES_MAX, &mut |plain| {
                    let share = plain.len().min(HEADER_BYTES - begin.len());
                    begin.extend_from_slice(&plain[..share]);
                    match begin.len() < HEADER_BYTES {
                        true => Ok(()),
                        // Enough was read.
                        false => Err(Error::new(Kind::Interrupted, "enough")),
                    }
                });
            match (SegmentHeader::parse(&begin, &object), read) {
                (Ok(header), _) => {
                    self.segment_bytes = header.segment_bytes;
                    return Ok(());
                }
                (Err(_), Err(error)) if !is_of_object(&error) => return Err(error),
                (Err(error), _) => self.unreadable.push((object, error.to_string())),
            }
        }
        Ok(())
    }

    /// The arithmetic of it.
    pub fn log(&self) -> Log {
        let unit = self.segment_bytes.max(1);
        Log {
            unit,
            stretches: self.files.iter().filter_map(|(kept, _)| stretch(*kept, unit)).collect(),
            forks: self.forks.clone(),
            anchors: self.bases.iter().map(|(name, place)| place.anchor(name)).collect(),
        }
    }

    /// The moments that can be restored.
    pub fn ranges(
        &self,
        env: &Env,
        member: &Member,
        cache: &mut dyn TimesCache,
    ) -> Result<Vec<Range>> {
        let mut ranges = Vec::new();
        for covered in self.log().covered() {
            let first = self.bases.iter().find(|(name, _)| covered.anchors.first() == Some(name));
            let of_base = first.map(|(_, place)| place.ended_at);
            let to_time = self.last_time(env, member, covered.branch, Lsn(covered.to), cache)?;
            // The end of a backup is a moment that the log need not tell.
            let ends = self.bases.iter().filter(|(name, _)| covered.anchors.contains(name));
            let newest = ends.map(|(_, place)| place.ended_at).max();
            ranges.push(Range {
                timeline: covered.branch,
                from: Lsn(covered.from),
                to: Lsn(covered.to),
                from_time: of_base,
                to_time: to_time.max(newest),
                backups: covered.anchors,
            });
        }
        Ok(ranges)
    }

    /// The last time before a place of a timeline.
    fn last_time(
        &self,
        env: &Env,
        member: &Member,
        timeline: u32,
        to: Lsn,
        cache: &mut dyn TimesCache,
    ) -> Result<Option<Timestamp>> {
        let unit = self.segment_bytes.max(1);
        let mut place = to.0;
        for _ in 0..SEGMENTS_BACK_MAX {
            if place == 0 {
                break;
            }
            let segment = Segment::of(timeline, Lsn(place - 1), unit);
            let whole = Kept::File(WalFile::Segment(segment));
            let info = self.files.iter().find(|(kept, _)| *kept == whole).map(|(_, info)| info);
            let known = info.and_then(|info| cache.get(info));
            let times = match known {
                Some(times) => Some(times),
                None => match times_of(env, member, self.system, segment) {
                    Ok(times) => {
                        times.map(|times| EndTimes { first: times.first, last: times.last })
                    }
                    Err(error) if is_of_object(&error) => None,
                    Err(error) => return Err(error),
                },
            };
            if let (Some(info), Some(times), None) = (info, times, known) {
                cache.put(info, times);
            }
            if let Some(last) = times.and_then(|times| times.last) {
                return Ok(Some(last));
            }
            place = segment.begins(unit).0;
        }
        Ok(None)
    }

    /// The newest file of the log: when it was stored.
    pub fn newest(&self) -> Option<&(Kept, ObjectInfo)> {
        let holds_log =
            |kept: &Kept| matches!(kept, Kept::File(WalFile::Segment(_)) | Kept::Piece(..));
        let all = self.files.iter().filter(|(kept, _)| holds_log(kept));
        all.max_by_key(|(kept, _)| match kept {
            Kept::Piece(segment, _, to) => (*segment, *to),
            Kept::File(file) => (file.segment().unwrap_or(NO_SEGMENT), u32::MAX),
        })
    }
}

const NO_SEGMENT: Segment = Segment { timeline: 0, high: 0, low: 0 };

/// Damage of an object, and not of the store.
pub(super) fn is_of_object(error: &Error) -> bool {
    matches!(error.kind(), Kind::CheckFailed | Kind::NoSpace | Kind::WrongKey)
}

/// What of the log a file holds.
pub(crate) fn stretch(kept: Kept, segment_bytes: u64) -> Option<Stretch> {
    match kept {
        // How far one goes that was left in its middle, only its records say.
        Kept::File(WalFile::Segment(segment) | WalFile::Partial(segment)) => {
            Some(segment.stretch(segment_bytes))
        }
        Kept::Piece(segment, from, to) => {
            let begins = segment.begins(segment_bytes).0;
            let place = |offset: u32| begins.saturating_add(u64::from(offset));
            Some(Stretch { branch: segment.timeline, from: place(from), to: place(to) })
        }
        Kept::File(_) => None,
    }
}

fn read_history(
    env: &Env,
    member: &Member,
    timeline: u32,
    object: &str,
) -> Result<Option<History>> {
    let mut text = Vec::new();
    let read = log::get(env, &member.repository, object, SMALL_BYTES_MAX, &mut |plain| {
        text.extend_from_slice(plain);
        Ok(())
    })?;
    match read {
        Some(_) => History::parse(timeline, &String::from_utf8_lossy(&text)).map(Some),
        None => Ok(None),
    }
}

/// What a segment of a repository says of time: whole, or as far as it was received. `None` if
/// there is nothing of it.
pub fn times_of(
    env: &Env,
    member: &Member,
    system: u64,
    segment: Segment,
) -> Result<Option<Times>> {
    let mut reader: Option<RecordReader> = None;
    let mut begin = Vec::new();
    let mut take = |plain: &[u8]| {
        match &mut reader {
            Some(reader) => reader.push(plain),
            None => {
                begin.extend_from_slice(plain);
                if begin.len() >= HEADER_BYTES {
                    let header = SegmentHeader::parse(&begin, &segment.to_string())?;
                    let mut new = RecordReader::new(header);
                    new.push(&begin);
                    begin = Vec::new();
                    reader = Some(new);
                }
            }
        }
        env.proceed()
    };
    super::archive::read_segment(env, member, system, segment, &mut take)?;
    Ok(reader.map(RecordReader::finish))
}

/// Reads an object of a log to nowhere: whether it can be read, and is what its name says.
pub fn check_object(env: &Env, member: &Member, log: &ClusterLog, kept: Kept) -> Result<()> {
    let object = kept.object(&member.folder, log.system);
    let mut begin = Vec::new();
    let mut text = Vec::new();
    let read = log::get(env, &member.repository, &object, SEGMENT_BYTES_MAX, &mut |plain| {
        let share = plain.len().min(HEADER_BYTES - begin.len());
        begin.extend_from_slice(&plain[..share]);
        if matches!(kept, Kept::File(WalFile::History(_))) && text.len() < SMALL_BYTES_MAX as usize
        {
            text.extend_from_slice(plain);
        }
        env.proceed()
    })?;
    // Deleted since it was listed.
    let Some(bytes) = read else { return Ok(()) };
    match kept {
        Kept::File(WalFile::Segment(segment) | WalFile::Partial(segment)) => {
            let header = SegmentHeader::parse(&begin, &object)?;
            header.check(segment, bytes, &object)?;
            match header.system == log.system {
                true => Ok(()),
                false => Err(Error::new(
                    Kind::CheckFailed,
                    format!("{object} is of the cluster {}", header.system),
                )),
            }
        }
        Kept::File(WalFile::History(timeline)) => {
            History::parse(timeline, &String::from_utf8_lossy(&text)).map(drop)
        }
        Kept::Piece(_, from, to) if bytes != u64::from(to - from) => {
            let message = format!("{object} holds {bytes} bytes, not {}", to - from);
            Err(Error::new(Kind::CheckFailed, message))
        }
        Kept::File(WalFile::Backup(..)) | Kept::Piece(..) => Ok(()),
    }
}
