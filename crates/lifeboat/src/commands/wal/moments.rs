//! The moments that the log of a source makes restorable, for people; and what was read of segments
//! before.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::ObjectInfo;
use lifeboat_core::{Kind, Result};
use lifeboat_postgres::CLUSTER_KIND;
use lifeboat_postgres::wal::{ClusterLog, EndTimes, Lsn, Member, Range, TimesCache};

use crate::selection::Selected;
use crate::session::Session;
use crate::ui::units;

/// So many segments are remembered: those at the ends of ranges.
const SEGMENTS_MAX: usize = 500;
/// A cache larger than this is not ours.
const BYTES_MAX: u64 = 1 << 20;

/// What was read of segments before, in a file of the state folder. It may be lost at any time.
pub(crate) struct SegmentCache {
    path: Option<PathBuf>,
    times: BTreeMap<String, EndTimes>,
    is_changed: bool,
}

/// The cache of a repository.
pub(crate) fn cache(session: &Session, repository: &Repository) -> SegmentCache {
    let folder = session.folders.caches.as_ref();
    let path = folder.map(|folder| folder.join(format!("{}.wal", repository.header().id)));
    let small = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.len() <= BYTES_MAX);
    let bytes = path.as_ref().filter(|path| small(path)).and_then(|path| fs::read(path).ok());
    let times = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    SegmentCache { path, times, is_changed: false }
}

fn key(object: &ObjectInfo) -> String {
    format!("{} {} {}", object.name, object.bytes, object.modified.as_nanosecond())
}

impl TimesCache for SegmentCache {
    fn get(&self, object: &ObjectInfo) -> Option<EndTimes> {
        self.times.get(&key(object)).copied()
    }

    fn put(&mut self, object: &ObjectInfo, times: EndTimes) {
        if self.times.len() >= SEGMENTS_MAX {
            self.times.clear();
        }
        self.times.insert(key(object), times);
        self.is_changed = true;
    }
}

impl SegmentCache {
    /// Keeps it for the next time, if that can be done.
    pub(crate) fn save(&self) {
        let Some(path) = self.path.as_ref().filter(|_| self.is_changed) else { return };
        let Some(folder) = path.parent() else { return };
        let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let staged = path.with_extension("wal-new");
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&staged);
        let bytes = serde_json::to_vec(&self.times).unwrap_or_default();
        if opened.and_then(|mut file| file.write_all(&bytes)).is_ok() {
            let _ = fs::rename(&staged, path);
        }
    }
}

/// The log of one cluster, and what of it can be restored.
pub(crate) struct Moments {
    pub(crate) log: ClusterLog,
    pub(crate) ranges: Vec<Range>,
}

/// What of the source's log can be restored, by cluster. Empty for a source that has none.
pub(crate) fn of_entry(
    session: &Session,
    env: &Env,
    repository: &Repository,
    entry: &SourceEntry,
) -> Result<Vec<Moments>> {
    if entry.record.kind != CLUSTER_KIND {
        return Ok(Vec::new());
    }
    of_folder(session, env, repository, &entry.folder, &entry.backups)
}

fn of_folder(
    session: &Session,
    env: &Env,
    repository: &Repository,
    folder: &str,
    backups: &[Manifest],
) -> Result<Vec<Moments>> {
    let (repository, folder) = (repository.clone(), folder.to_owned());
    let member = Member { label: repository.url(), repository, folder };
    let mut cache = cache(session, &member.repository);
    let mut all = Vec::new();
    for log in ClusterLog::all(env, &member, backups)? {
        let ranges = match log.ranges(env, &member, &mut cache) {
            // A key is needed for times; places are known without.
            Err(error) if error.kind() == Kind::WrongKey => Vec::new(),
            ranges => ranges?,
        };
        all.push(Moments { log, ranges });
    }
    cache.save();
    Ok(all)
}

/// A range in a line: "timeline 1: 2026-01-08 14:00:00 to 15:00:00 (0/3000028 to 0/9000000)".
pub(crate) fn line(session: &Session, range: &Range) -> String {
    let zone = &session.surroundings.time_zone;
    let time = |at: Option<jiff::Timestamp>| {
        at.map_or_else(|| "an unknown time".to_owned(), |at| units::moment(at, zone))
    };
    let Range { timeline, from, to, from_time, to_time, .. } = range;
    let (from_time, to_time) = (time(*from_time), time(*to_time));
    format!("timeline {timeline}: {from_time} to {to_time} ({from} to {to})")
}

/// The lines of a source: ranges and gaps.
pub(crate) fn lines(session: &Session, label: &str, moments: &[Moments]) -> Vec<String> {
    let mut lines = Vec::new();
    for Moments { log, ranges } in moments {
        let which = match moments.len() {
            1 => String::new(),
            _ => format!(" (cluster {})", log.system),
        };
        for range in ranges {
            lines.push(format!("{label}{which}: any moment of {}", self::line(session, range)));
        }
        for gap in log.log().gaps() {
            let (from, to) = (Lsn(gap.from), Lsn(gap.to));
            lines.push(format!(
                "{label}{which}: missing on timeline {}: {from} to {to}",
                gap.branch
            ));
        }
    }
    lines
}

/// Adds to a backup, as JSON, which moments it carries, and what is missing behind them.
pub(crate) fn add_to(value: &mut serde_json::Value, moments: &[Moments], backup: &str) {
    let mut restorable = Vec::new();
    for Moments { log, ranges } in moments {
        let gaps = log.log().gaps();
        for range in ranges.iter().filter(|range| range.backups.iter().any(|name| name == backup)) {
            let mut one = serde_json::to_value(range).unwrap_or_default();
            let gap =
                gaps.iter().find(|gap| gap.branch == range.timeline && gap.from == range.to.0);
            one["gap"] = serde_json::json!(gap.map(|gap| serde_json::json!({
                "from": Lsn(gap.from).to_string(), "to": Lsn(gap.to).to_string(),
            })));
            restorable.push(one);
        }
    }
    if !restorable.is_empty() {
        value["restorable"] = restorable.into();
    }
}

/// The same for the source of one backup.
pub(crate) fn of_selected(
    session: &Session,
    env: &Env,
    selected: &Selected,
) -> Result<Vec<Moments>> {
    let Selected { repository, folder, manifest, .. } = selected;
    if manifest.source.kind != CLUSTER_KIND {
        return Ok(Vec::new());
    }
    let catalog = repository.catalog()?;
    let entry = catalog.sources.iter().find(|entry| entry.folder == *folder);
    let backups = entry.map(|entry| entry.backups.as_slice()).unwrap_or_default();
    of_folder(session, env, repository, folder, backups)
}

/// The moments that a backup carries, and what is missing behind them, a line each.
pub(crate) fn of_backup(session: &Session, moments: &[Moments], backup: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for Moments { log, ranges } in moments {
        let gaps = log.log().gaps();
        for range in ranges.iter().filter(|range| range.backups.iter().any(|name| name == backup)) {
            lines.push(line(session, range));
            let gap =
                gaps.iter().find(|gap| gap.branch == range.timeline && gap.from == range.to.0);
            if let Some(gap) = gap {
                let (from, to) = (Lsn(gap.from), Lsn(gap.to));
                lines.push(format!("then the log is missing from {from} to {to}"));
            }
        }
    }
    lines
}
