//! A directory that is there already becomes part of a restore: files that are right stay, by
//! checksum, and everything else makes way.
//!
//! Right is a file whose bytes are those of the backup: by the hashes of its blocks where the
//! repository has them, else by the checksum in the server's manifest. Of a chain whose increments
//! the server made, files that no increment changes are compared with the older backup's manifest;
//! the others are made anew. A file that has another name elsewhere is never kept: the server would
//! write to both.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::{Error, Kind, Result};

use super::assemble::{MANIFEST_FILE, Stored, sum_file};
use super::mark::MARK;
use super::member::result_path;
use super::write::{Place, failed, sync};
use crate::control;
use crate::page::PAGE_BYTES;
use crate::physical::ROLE_HASHES;
use crate::physical::page_hashes::{HashIndex, hash_of};
use crate::server_manifest::{Checksum, ServerManifest};

/// Files that a restore makes anew whatever is there: they say what a start has to do.
const ALWAYS_NEW: &[&str] = &[control::PATH, "backup_label", "tablespace_map"];

/// What of a directory is right already.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Files, relative to the data directory.
    pub(super) paths: HashSet<String>,
    /// Of these: those that the newest backup has as increments, as they are whole.
    pub(super) combined: BTreeMap<String, (u64, Checksum)>,
    /// Their bytes.
    pub bytes: u64,
    /// Files that must be made, and their bytes as far as they are known.
    pub missing: (u64, u64),
}

impl Kept {
    /// How many files are right.
    pub fn count(&self) -> u64 {
        self.paths.len() as u64
    }

    /// Whether it is worth while to pick files out of the streams instead of reading these whole.
    pub(super) fn is_most(&self) -> bool {
        self.bytes > self.missing.1
    }
}

/// A file that would be right.
struct Wanted {
    path: String,
    bytes: u64,
    checksum: Checksum,
    is_combined: bool,
}

/// Compares what is there with what the chain would make of it. Changes nothing.
pub fn survey(env: &Env, chain: &[Stored<'_>], place: &Place) -> Result<Kept> {
    let phase = "comparing";
    let subject = place.data.to_string_lossy().into_owned();
    let wanted = wanted_of(env, chain)?;
    let mut kept = Kept::default();
    let (mut candidates, mut bytes_total) = (Vec::new(), 0);
    for one in wanted {
        match metadata_fits(place, &one) {
            true => {
                bytes_total += one.bytes;
                candidates.push(one);
            }
            false => {
                kept.missing.0 += 1;
                kept.missing.1 += one.bytes;
            }
        }
    }
    // The largest first, so that no core waits for the last.
    candidates.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    env.tell(Event::PhaseBegan { subject: &subject, phase, bytes_total: Some(bytes_total) });
    let hashes = chain.last().and_then(|newest| hashes_of(env, newest));
    let results = in_parallel(&candidates, env.threads, |one| {
        env.proceed()?;
        let is_right = is_right(place, one, hashes.as_ref());
        env.tell(Event::Advanced { bytes: one.bytes });
        Ok(is_right)
    });
    for (one, is_right) in candidates.into_iter().zip(results) {
        if !is_right? {
            kept.missing.0 += 1;
            kept.missing.1 += one.bytes;
            continue;
        }
        kept.bytes += one.bytes;
        if one.is_combined {
            kept.combined.insert(one.path.clone(), (one.bytes, one.checksum));
        }
        kept.paths.insert(one.path);
    }
    env.tell(Event::PhaseEnded { phase });
    Ok(kept)
}

/// Every file that the chain makes and whose checksum is known before it is made.
fn wanted_of(env: &Env, chain: &[Stored<'_>]) -> Result<Vec<Wanted>> {
    let Some((newest, older)) = chain.split_last() else { return Ok(Vec::new()) };
    let manifest = newest.server_manifest(env)?;
    let (mut wanted, mut increments) = (Vec::new(), Vec::new());
    for (path, entry) in &manifest.files {
        match (result_path(path), &entry.checksum) {
            (Some(whole), _) => increments.push(whole),
            (None, Some(checksum)) if !ALWAYS_NEW.contains(&path.as_str()) => {
                let (path, checksum) = (path.clone(), checksum.clone());
                wanted.push(Wanted { path, bytes: entry.bytes, checksum, is_combined: false });
            }
            _ => {}
        }
    }
    if increments.is_empty() {
        return Ok(wanted);
    }
    let manifests = older.iter().map(|one| one.server_manifest(env));
    let manifests: Vec<ServerManifest> = manifests.collect::<Result<_>>()?;
    let changes = chain.iter().map(|one| one.changes(env)).collect::<Result<Vec<_>>>()?;
    for path in increments {
        // The newest that has it whole, with nothing behind that changes it.
        let Some(index) = manifests.iter().rposition(|one| one.files.contains_key(&path)) else {
            continue;
        };
        let entry = &manifests[index].files[&path];
        let blocks = entry.bytes / PAGE_BYTES as u64;
        let is_unchanged = changes[index + 1..].iter().all(|member| {
            let change = member.as_ref().and_then(|member| member.get(&path));
            change.is_some_and(|change| {
                change.blocks == 0 && u64::from(change.truncation_blocks) == blocks
            })
        });
        if let Some(checksum) = entry.checksum.clone().filter(|_| is_unchanged) {
            wanted.push(Wanted { path, bytes: entry.bytes, checksum, is_combined: true });
        }
    }
    Ok(wanted)
}

/// The hashes of all blocks, where the backup has them. They are a help: without them, or if they
/// cannot be read, the manifest's checksums do.
fn hashes_of(env: &Env, stored: &Stored<'_>) -> Option<HashIndex> {
    let artifact = stored.manifest.artifact(ROLE_HASHES)?;
    let mut file = tempfile::tempfile().ok()?;
    let read = stored.read(env, artifact, true, &mut |plain| {
        std::io::Write::write_all(&mut file, plain)
            .map_err(|error| Error::io(Kind::Failed, "cannot write a scratch file", error))
    });
    read.ok()?;
    HashIndex::of(file).ok()
}

/// Whether what is there may be kept, as far as that shows without reading it.
fn metadata_fits(place: &Place, wanted: &Wanted) -> bool {
    let Ok(metadata) = fs::symlink_metadata(place.path(&wanted.path)) else { return false };
    let is_given = place.owner.is_none_or(|owner| owner == (metadata.uid(), metadata.gid()));
    metadata.is_file()
        && metadata.len() == wanted.bytes
        && metadata.nlink() == 1
        && metadata.mode() & 0o600 == 0o600
        && is_given
}

/// A file that cannot be read is not right: it is made anew.
fn is_right(place: &Place, wanted: &Wanted, hashes: Option<&HashIndex>) -> bool {
    let path = place.path(&wanted.path);
    let by_blocks = hashes.and_then(|hashes| has_blocks(&path, wanted, hashes));
    by_blocks.unwrap_or_else(|| {
        sum_file(&path, wanted.checksum.algorithm)
            .is_ok_and(|(bytes, sum)| bytes == wanted.bytes && sum == wanted.checksum)
    })
}

/// By the hashes of its blocks. `None`: there are none of this file.
fn has_blocks(path: &Path, wanted: &Wanted, hashes: &HashIndex) -> Option<bool> {
    let mut blocks = hashes.file(&wanted.path)?;
    if u64::from(blocks.count()) * PAGE_BYTES as u64 != wanted.bytes {
        return None;
    }
    let mut compare = || -> std::io::Result<bool> {
        let (mut file, mut number) = (File::open(path)?, 0);
        let mut buffer = vec![0; 32 * PAGE_BYTES];
        while number < blocks.count() {
            let count = ((blocks.count() - number) as usize).min(32);
            let piece = &mut buffer[..count * PAGE_BYTES];
            file.read_exact(piece)?;
            for page in piece.as_chunks::<PAGE_BYTES>().0 {
                let had = blocks.had(hashes, number, &hash_of(page));
                if !had.map_err(std::io::Error::other)? {
                    return Ok(false);
                }
                number += 1;
            }
        }
        Ok(true)
    };
    Some(compare().unwrap_or(false))
}

/// Removes everything that is not kept, but for the mark, the links of tablespaces and a link that
/// leads to a folder for the log. `pg_control` goes first: from then on no server starts on it.
pub(super) fn clear(env: &Env, place: &Place, major: u32, kept: &Kept) -> Result<()> {
    let control = place.data.join(control::PATH);
    remove_file(&control)?;
    if let Some(folder) = control.parent().filter(|folder| folder.exists()) {
        sync(folder)?;
    }
    for number in place.tablespaces.keys() {
        let folder = place.path(&format!("pg_tblspc/{number}"));
        // Folders of other versions of the server are others'.
        let own = format!("PG_{major}_");
        for name in names(&folder)?.into_iter().filter(|name| name.starts_with(&own)) {
            clear_one(env, &folder.join(&name), &format!("pg_tblspc/{number}/{name}"), kept)?;
        }
    }
    for name in names(&place.data)? {
        let path = place.data.join(&name);
        match name.as_str() {
            MARK => {}
            "pg_tblspc" => clear_links(place, &path)?,
            "pg_wal" if path.is_dir() => clear_folder(env, &path, &name, kept)?,
            _ => clear_one(env, &path, &name, kept)?,
        }
    }
    remove_file(&place.data.join(MANIFEST_FILE))
}

fn clear_folder(env: &Env, path: &Path, relative: &str, kept: &Kept) -> Result<()> {
    for name in names(path)? {
        clear_one(env, &path.join(&name), &format!("{relative}/{name}"), kept)?;
    }
    Ok(())
}

fn clear_one(env: &Env, path: &Path, relative: &str, kept: &Kept) -> Result<()> {
    env.proceed()?;
    let metadata = fs::symlink_metadata(path).map_err(|error| failed("look at", path, error))?;
    if metadata.is_dir() {
        return clear_folder(env, path, relative, kept);
    }
    match kept.paths.contains(relative) {
        true => Ok(()),
        false => remove_file(path),
    }
}

/// Links of tablespaces that the backup does not have.
fn clear_links(place: &Place, folder: &Path) -> Result<()> {
    for name in names(folder)? {
        let is_ours = name.parse().is_ok_and(|number| place.tablespaces.contains_key(&number));
        let path = folder.join(&name);
        match (is_ours, path.is_symlink(), path.is_dir()) {
            (true, true, _) => {}
            (_, false, true) => {
                fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, error))?;
            }
            _ => remove_file(&path)?,
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let unreadable = |error| failed("read", folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        names.push(name.into_string().map_err(|name| {
            let message = format!("{} holds {name:?}, whose name is no UTF-8", folder.display());
            Error::new(Kind::Refused, message).hint("move it away, then run this again")
        })?);
    }
    names.sort();
    Ok(names)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path, error))
        }
        _ => Ok(()),
    }
}
