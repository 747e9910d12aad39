//! Garbage: what a run left that ended before its manifest.
//!
//! A file beside backups may be anybody's. It is garbage of ours only if its name ends as an
//! artifact's does, no manifest shares its stem, no manifest names it, it is older than the grace
//! time by the store's clock, and its own bytes show who wrote it: our gzip members have a field
//! of ours, and our zstd streams end with a seek table, which `gzip` and `zstd` do not write. An
//! artifact that is sealed or not compressed shows nothing: of such a run a mark says that it
//! began. Without one it is told of and left.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, Kind, Result};
use crate::repository::Repository;
use crate::seal;
use crate::store::ObjectInfo;

/// The endings of artifacts, before that of their compression.
const ENDINGS: [&str; 6] = [".files.tar", ".globals.sql", ".db", ".sql", ".dump", ".pages"];
const GZIP_BYTES: usize = 16;
const SEEK_TABLE_END: [u8; 4] = 0x8f92_eab1_u32.to_le_bytes();

/// Files of one stem without a manifest.
pub(super) struct Leftover {
    /// What their names have in common.
    pub(super) stem: String,
    /// Those that are ours by their bytes.
    pub(super) ours: Vec<ObjectInfo>,
    /// Those that only look like ours.
    pub(super) unclear: Vec<ObjectInfo>,
}

/// The stem of a file that is named like an artifact.
pub(super) fn stem_of(file: &str) -> Option<&str> {
    let file = file.strip_suffix(seal::SUFFIX).unwrap_or(file);
    let plain = [".zst", ".gz"].iter().find_map(|suffix| file.strip_suffix(suffix)).unwrap_or(file);
    let stem = ENDINGS.iter().find_map(|ending| plain.strip_suffix(ending))?;
    (!stem.is_empty()).then_some(stem)
}

/// Sorts out the files of a source's folder. `named` are the files that manifests and tombstones of
/// backups speak for, `begun` the stems of runs that said that they began; `old` says which files
/// are older than the grace time.
pub(super) fn leftovers(
    repository: &Repository,
    objects: &[ObjectInfo],
    named: &HashSet<String>,
    begun: &HashSet<String>,
    old: impl Fn(&ObjectInfo) -> bool,
) -> Result<Vec<Leftover>> {
    let files: HashSet<&str> = objects.iter().map(|object| object.name.file_name()).collect();
    let mut stems: BTreeMap<&str, Leftover> = BTreeMap::new();
    for object in objects {
        let file = object.name.file_name();
        let Some(stem) = stem_of(file) else { continue };
        if named.contains(file) || files.contains(format!("{stem}.json").as_str()) {
            continue;
        }
        let new = || Leftover { stem: stem.to_owned(), ours: Vec::new(), unclear: Vec::new() };
        let leftover = stems.entry(stem).or_insert_with(new);
        match old(object) && (begun.contains(stem) || is_ours(repository, object)?) {
            true => leftover.ours.push(object.clone()),
            false => leftover.unclear.push(object.clone()),
        }
    }
    // A run that goes on right now has young files: nothing of its stem is garbage.
    stems.retain(|_, leftover| leftover.ours.iter().chain(&leftover.unclear).all(&old));
    Ok(stems.into_values().collect())
}

/// Whether the bytes show that this program wrote them.
fn is_ours(repository: &Repository, object: &ObjectInfo) -> Result<bool> {
    let file = object.name.file_name();
    if file.ends_with(".gz") {
        let first = read(repository, object, 0, GZIP_BYTES as u64)?;
        return Ok(first.len() == GZIP_BYTES
            && first[..4] == [0x1f, 0x8b, 8, 4]
            && first[10..] == [8, 0, b'L', b'B', 4, 0]);
    }
    if file.ends_with(".zst") {
        let from = object.bytes.saturating_sub(SEEK_TABLE_END.len() as u64);
        return Ok(read(repository, object, from, object.bytes)? == SEEK_TABLE_END);
    }
    Ok(false)
}

fn read(repository: &Repository, object: &ObjectInfo, from: u64, to: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = match repository.store().get(&object.name, Some(from..to)) {
        Ok(reader) => reader,
        // Deleted since the list was made.
        Err(error) if error.kind() == Kind::NotCovered => return Ok(bytes),
        Err(error) => return Err(error),
    };
    // The store may give more than the range where the object is shorter or was replaced.
    std::io::Read::read_to_end(&mut std::io::Read::take(reader, to - from), &mut bytes).map_err(
        |error| Error::io(Kind::StoreUnavailable, format!("cannot read {}", object.name), error),
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_artifacts_have_a_stem() {
        for file in [
            "a-1.dump.zst",
            "a-1.globals.sql.zst",
            "a-1.db",
            "a-1.db.zst",
            "a-1.db.gz",
            "a-1.files.tar.zst",
            "a-1.pages.zst",
            "a-1.pages.zst.age",
            "a-1.db.age",
        ] {
            assert_eq!(stem_of(file), Some("a-1"), "{file}");
        }
        let others =
            ["a-1.json", "source.json", "a.db.bak", "a.db.zst.zst", ".db", "notes", "a.tar.gz"];
        for file in others {
            assert_eq!(stem_of(file), None, "{file}");
        }
    }
}
