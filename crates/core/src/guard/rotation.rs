//! Which copies beside a database go: the rule of migration backups, for files that are ours.
//!
//! The two newest stay, and so does what is younger than 90 days. A file goes only if its name is
//! that of a copy of this database, its mark says that we made it of this database, it is a
//! database still, has the size that it had, and nobody has a `-wal` beside it. Whatever else lies
//! there stays.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustix::fs::lgetxattr;

use super::beside::{ATTRIBUTE, Attribute, parts};
use crate::error::{Error, Kind, Result};
use crate::policy::{MIGRATION_HOURS, MIGRATIONS_MIN};
use crate::source::Engine;

/// What a rotation did.
#[derive(Debug, Default)]
pub struct Rotated {
    /// Copies that were removed.
    pub removed: Vec<PathBuf>,
    /// Files with the name of a copy that stay, as nothing shows that we made them.
    pub foreign: Vec<PathBuf>,
}

/// Of copies made at these moments, the places of those that go. The newest one that is not in the
/// future is taken for now, so that nothing goes while no new ones are made.
pub fn due(now: Timestamp, taken: &[Timestamp]) -> Vec<usize> {
    let mut past: Vec<usize> = (0..taken.len()).filter(|place| taken[*place] <= now).collect();
    past.sort_by(|a, b| taken[*b].cmp(&taken[*a]).then(b.cmp(a)));
    let Some(newest) = past.first().map(|place| taken[*place]) else { return Vec::new() };
    let old = |place: &usize| {
        newest.duration_since(taken[*place]) >= SignedDuration::from_hours(MIGRATION_HOURS)
    };
    past.into_iter().skip(MIGRATIONS_MIN).filter(old).collect()
}

/// Removes the copies of a database that are due. `place` is the database's file, links resolved.
pub fn rotate(engine: &dyn Engine, place: &Path, now: Timestamp) -> Result<Rotated> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    let failed = |verb: &str, path: &Path, error| {
        Error::io(Kind::Failed, format!("cannot {verb} {}", path.display()), error)
    };
    let mut rotated = Rotated::default();
    let (mut copies, mut taken) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(|error| failed("list", folder, error))? {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        let name = entry.file_name();
        if name.to_str().is_none_or(|name| parts(place, name).is_none()) {
            continue;
        }
        match own(engine, place, &entry.path()) {
            Some(taken_at) => {
                copies.push(entry.path());
                taken.push(taken_at);
            }
            None => rotated.foreign.push(entry.path()),
        }
    }
    for index in due(now, &taken) {
        fs::remove_file(&copies[index]).map_err(|error| failed("remove", &copies[index], error))?;
        rotated.removed.push(copies[index].clone());
    }
    rotated.foreign.sort();
    rotated.removed.sort();
    Ok(rotated)
}

/// When a copy was taken, if it is ours beyond doubt and nobody uses it.
fn own(engine: &dyn Engine, place: &Path, path: &Path) -> Option<Timestamp> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.file_type().is_file() {
        return None;
    }
    let mut buffer = vec![0; 8_192];
    let length = lgetxattr(path, ATTRIBUTE, &mut buffer).ok()?;
    let attribute: Attribute = serde_json::from_slice(buffer.get(..length)?).ok()?;
    let mut first = [0; 16];
    File::open(path).ok()?.read_exact(&mut first).ok()?;
    let in_use = engine.side_files(path).iter().any(|side| fs::symlink_metadata(side).is_ok());
    let same = attribute.database.as_path() == place && attribute.plain_bytes == metadata.len();
    (same && !in_use && engine.recognizes(&first)).then_some(attribute.taken_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stay_and_so_does_what_is_young() {
        let start: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
        let day = |day: i64| start + SignedDuration::from_hours(24 * day);
        assert_eq!(due(day(0), &[]), Vec::<usize>::new());
        assert_eq!(due(day(900), &[day(0), day(1)]), Vec::<usize>::new());
        // Nothing grows older while no new ones are made.
        assert_eq!(due(day(900), &[day(0), day(1), day(2)]), Vec::<usize>::new());
        assert_eq!(due(day(100), &[day(0), day(10), day(11), day(100)]), [1, 0]);
        assert_eq!(due(day(100), &[day(100), day(11), day(0)]), [2]);
        // A clock that ran ahead moves nothing out.
        assert_eq!(due(day(100), &[day(0), day(10), day(5_000)]), Vec::<usize>::new());
    }
}
