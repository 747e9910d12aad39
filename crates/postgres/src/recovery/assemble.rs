//! A chain of base backups becomes a data directory.
//!
//! The oldest is unpacked whole, each later one is put over it: its files replace, its increments
//! change blocks in place, and what it does not have is removed. So every block is written once for
//! each member that has it, and nothing is copied aside. Each member is checked against its own
//! manifest on the way, the result against the newest one, as far as that covers it.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::{Artifact, Manifest};
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::pipeline::decode;
use lifeboat_core::repository::Repository;
use lifeboat_core::scratch::{expectation, stored_expectation};
use lifeboat_core::{Error, Kind, Result};

use super::mark::MARK;
use super::member::{Destination, Member, Nowhere, result_path};
use super::pages::PageCounts;
use super::reuse::Kept;
use super::scan::walk;
use super::tar_stream::TarStream;
use super::write::{
    FolderWriter, Place, Selection, failed, give, sync, sync_all_below, write_file,
};
use crate::control::{self, Control};
use crate::server_manifest::{Algorithm, Checksum, ServerManifest, Summer};

/// The name that the server's manifest has in a data directory.
pub const MANIFEST_FILE: &str = "backup_manifest";
const LABEL: &str = "backup_label";
const TABLESPACE_MAP: &str = "tablespace_map";
const MANIFEST_BYTES_MAX: usize = 1 << 30;

/// A backup in its repository.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Where it is.
    pub repository: &'a Repository,
    /// The folder of its source.
    pub folder: &'a str,
    /// It.
    pub manifest: &'a Manifest,
}

/// What a data directory was made of.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// Its `pg_control`.
    pub control: Control,
    /// What was found among the pages of all members.
    pub pages: PageCounts,
    /// The manifest of the files that are there now.
    pub manifest: ServerManifest,
    /// Bytes of these files.
    pub bytes: u64,
}

impl Stored<'_> {
    /// The server's manifest of this backup.
    pub fn server_manifest(&self, env: &Env) -> Result<ServerManifest> {
        Ok(self.server_manifest_bytes(env)?.1)
    }

    fn server_manifest_bytes(&self, env: &Env) -> Result<(Vec<u8>, ServerManifest)> {
        let artifact = self.artifact("backup-manifest")?;
        let mut bytes = Vec::new();
        self.read(env, artifact, false, &mut |plain| {
            bytes.extend_from_slice(plain);
            match bytes.len() > MANIFEST_BYTES_MAX {
                true => Err(Error::new(Kind::CheckFailed, "it is too large for a manifest")),
                false => Ok(()),
            }
        })?;
        let manifest = ServerManifest::parse(&bytes)
            .map_err(|error| error.context(format!("{} is damaged", artifact.name)))?;
        Ok((bytes, manifest))
    }

    fn artifact(&self, role: &str) -> Result<&Artifact> {
        self.manifest.artifact(role).ok_or_else(|| {
            let name = &self.manifest.name;
            Error::new(Kind::CheckFailed, format!("{name} has no artifact of the role {role}"))
        })
    }

    /// The tar streams: what their paths begin with, and where they are.
    pub(super) fn streams(&self) -> Result<Vec<(String, &Artifact)>> {
        let mut streams = vec![(String::new(), self.artifact("base")?)];
        let of_tablespaces =
            self.manifest.artifacts.iter().filter(|artifact| artifact.role == "tablespace");
        for artifact in of_tablespaces {
            let number = tablespace_of(&artifact.name).ok_or_else(|| {
                let message = format!("{} does not tell its tablespace", artifact.name);
                Error::new(Kind::CheckFailed, message)
            })?;
            streams.push((format!("pg_tblspc/{number}/"), artifact));
        }
        Ok(streams)
    }

    pub(super) fn read(
        &self,
        env: &Env,
        artifact: &Artifact,
        all_hashes: bool,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let object = self.repository.object(self.folder, &artifact.name)?;
        let reader = self.repository.store().get(&object, None)?;
        let expected = match all_hashes {
            true => expectation(artifact),
            false => stored_expectation(artifact),
        };
        let wrapping = self.repository.wrapping(artifact)?;
        decode(reader, wrapping, env.threads, &expected, &mut |plain| {
            env.proceed()?;
            env.tell(Event::Advanced { bytes: plain.len() as u64 });
            take(plain)
        })
        .map(drop)
    }

    /// Reads all streams of this member, checked against its manifest; `in_parts`: only what the
    /// destination wants of them.
    fn pour(
        &self,
        env: &Env,
        manifest: &ServerManifest,
        (all_hashes, in_parts): (bool, bool),
        destination: &mut dyn Destination,
    ) -> Result<PageCounts> {
        let mut member = Member::new(manifest);
        for (prefix, artifact) in self.streams()? {
            let mut tar = TarStream::default();
            let mut sink = member.stream(&prefix, destination);
            if in_parts && self.pick(env, artifact, &mut sink)? {
                continue;
            }
            let poured = self
                .read(env, artifact, all_hashes, &mut |plain| tar.push(plain, &mut sink))
                .and_then(|()| tar.finish());
            poured.map_err(|error| match error.kind() {
                Kind::CheckFailed => error.context(format!("{} cannot be used", artifact.name)),
                _ => error,
            })?;
        }
        member.finish()
    }

    /// Checks this backup alone, without writing anything: all hashes, every file against the
    /// server's manifest, every page.
    pub fn check(&self, env: &Env) -> Result<PageCounts> {
        let manifest = self.server_manifest(env)?;
        self.pour(env, &manifest, (true, false), &mut Nowhere)
    }
}

/// The tablespace of an artifact `NAME.ts-16385.tar.zst`.
fn tablespace_of(name: &str) -> Option<u32> {
    let (_, rest) = name.rsplit_once(".ts-")?;
    rest.split('.').next()?.parse().ok()
}

/// Makes a data directory of a chain, the oldest member first. The folders of `place` must be
/// there, and hold nothing but what is kept. `finish` comes last of all, before `pg_control` is
/// written: what it does is there when a server can start.
pub fn assemble(
    env: &Env,
    chain: &[Stored<'_>],
    place: &Place,
    kept: Option<&Kept>,
    finish: &mut dyn FnMut(&Place, &Control) -> Result<()>,
) -> Result<Assembled> {
    let Some((newest, older)) = chain.split_last() else {
        return Err(Error::new(Kind::NotCovered, "there is no backup to restore"));
    };
    let (newest_bytes, newest_manifest) = newest.server_manifest_bytes(env)?;
    let result = |path: &String| result_path(path).unwrap_or_else(|| path.clone());
    let wanted: HashSet<String> = newest_manifest.files.keys().map(result).collect();
    let mut writer = FolderWriter::new(place, kept);
    let mut pages = PageCounts::default();
    let in_parts = kept.is_some_and(Kept::is_most);
    link_tablespaces(place)?;
    for stored in older {
        let manifest = stored.server_manifest(env)?;
        writer.member(Selection { wanted: Some(&wanted), is_last: false });
        pages.add(pour(env, stored, &manifest, in_parts, &mut writer)?);
    }
    writer.member(Selection { wanted: None, is_last: true });
    pages.add(pour(env, newest, &newest_manifest, in_parts, &mut writer)?);
    writer.settle()?;
    let control = Control::parse(&writer.control)?;
    if !control.data_checksums {
        pages = PageCounts { pages: pages.pages, ..PageCounts::default() };
    }
    if !older.is_empty() || kept.is_some() {
        remove_others(place, &wanted, &writer.folders_of_last)?;
    }
    let manifest = settle_manifest(env, place, (&writer, kept), newest_manifest, &newest_bytes)?;
    place.roots().try_for_each(sync_all_below)?;
    env.crash.pass("recovery.unpacked")?;
    finish(place, &control)?;
    env.crash.pass("recovery.before_control")?;
    write_file(place, &place.path(control::PATH), &writer.control, 0o600)?;
    sync(&place.data.join("global"))?;
    sync(&place.data)?;
    let bytes = manifest.bytes();
    Ok(Assembled { control, pages, manifest, bytes })
}

fn pour(
    env: &Env,
    stored: &Stored<'_>,
    manifest: &ServerManifest,
    in_parts: bool,
    writer: &mut FolderWriter<'_>,
) -> Result<PageCounts> {
    let (subject, phase) = (&stored.manifest.name, "restoring");
    let bytes_total = Some(stored.manifest.plain_bytes());
    env.tell(Event::PhaseBegan { subject, phase, bytes_total });
    let pages = stored.pour(env, manifest, (false, in_parts), writer)?;
    env.tell(Event::PhaseEnded { phase });
    Ok(pages)
}

fn link_tablespaces(place: &Place) -> Result<()> {
    if place.tablespaces.is_empty() {
        return Ok(());
    }
    let folder = place.data.join("pg_tblspc");
    if !folder.exists() {
        fs::create_dir(&folder).map_err(|error| failed("make", &folder, error))?;
        give(&folder, place.owner)?;
    }
    for (number, target) in &place.tablespaces {
        let link = folder.join(number.to_string());
        if link.is_symlink() {
            if fs::read_link(&link).is_ok_and(|is| is == *target) {
                continue;
            }
            fs::remove_file(&link).map_err(|error| failed("remove", &link, error))?;
        }
        std::os::unix::fs::symlink(target, &link).map_err(|error| failed("make", &link, error))?;
        give(&link, place.owner)?;
    }
    Ok(())
}

/// Removes what older members of the chain had and the newest has not. What servers of other
/// versions have in a tablespace is theirs.
fn remove_others(place: &Place, wanted: &HashSet<String>, folders: &HashSet<String>) -> Result<()> {
    let mut others = Vec::new();
    walk(&place.data, "", &mut |path, is_folder| {
        let mut parts = path.split('/');
        let stays = match (parts.next(), parts.next(), parts.next()) {
            (Some("pg_tblspc"), None, _) | (Some("pg_tblspc"), Some(_), None) => true,
            (Some("pg_tblspc"), Some(number), Some(version)) => {
                !folders.contains(&format!("pg_tblspc/{number}/{version}"))
            }
            _ => false,
        };
        let keeps = match is_folder {
            _ if stays => true,
            true => folders.contains(path),
            false => {
                path == "pg_wal"
                    || path.starts_with("pg_wal/")
                    || path == MARK
                    || wanted.contains(path)
            }
        };
        if !keeps {
            others.push((path.to_owned(), is_folder));
        }
    })?;
    for (path, is_folder) in others.into_iter().rev() {
        let full = place.path(&path);
        let removed = if is_folder { fs::remove_dir(&full) } else { fs::remove_file(&full) };
        removed.map_err(|error| failed("remove", &full, error))?;
    }
    Ok(())
}

/// Makes the manifest true for what is there now, and writes it: the server's own, byte for byte,
/// unless increments were combined or tablespaces moved.
fn settle_manifest(
    env: &Env,
    place: &Place,
    (writer, kept): (&FolderWriter<'_>, Option<&Kept>),
    mut manifest: ServerManifest,
    original: &[u8],
) -> Result<ServerManifest> {
    let mut is_changed = combine_label(place, &mut manifest)?;
    is_changed |= move_tablespaces(place, &mut manifest)?;
    let combined: Vec<&String> = writer.combined.iter().collect();
    let sums = in_parallel(&combined, env.threads, |path| {
        env.proceed()?;
        let algorithm = algorithm_of(&manifest, path);
        sum_file(&place.path(path), algorithm)
    });
    for (path, (bytes, checksum)) in kept.map(|kept| &kept.combined).into_iter().flatten() {
        is_changed |= settle_combined(&mut manifest, path, *bytes, checksum.clone())?;
    }
    for (path, summed) in combined.into_iter().zip(sums) {
        let (bytes, checksum) = summed?;
        is_changed |= settle_combined(&mut manifest, path, bytes, checksum)?;
    }
    let bytes = if is_changed { manifest.to_bytes() } else { original.to_vec() };
    write_file(place, &place.data.join(MANIFEST_FILE), &bytes, 0o600)?;
    Ok(manifest)
}

/// An increment of the server's own makes way for the file that was made of it. One of ours must
/// have given what the server's manifest says. Gives back whether the manifest changed.
fn settle_combined(
    manifest: &mut ServerManifest,
    path: &str,
    bytes: u64,
    checksum: Checksum,
) -> Result<bool> {
    if let Some(entry) = manifest.files.get(path) {
        let same_sum = entry.checksum.as_ref().is_none_or(|must| *must == checksum);
        return match entry.bytes == bytes && same_sum {
            true => Ok(false),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("{path}, combined of its backups, is not what the server's manifest says"),
            )
            .hint("choose another backup: lifeboat list")),
        };
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let increment = format!("{folder}/{}{name}", super::increment::PREFIX);
    if let Some(mut entry) = manifest.files.remove(&increment) {
        entry.bytes = bytes;
        entry.checksum = entry.checksum.is_some().then_some(checksum);
        manifest.files.insert(path.to_owned(), entry);
    }
    Ok(true)
}

fn algorithm_of(manifest: &ServerManifest, path: &str) -> Algorithm {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let increment = format!("{folder}/{}{name}", super::increment::PREFIX);
    let entry = manifest.files.get(path).or_else(|| manifest.files.get(&increment));
    let checksum = entry.and_then(|entry| entry.checksum.as_ref());
    checksum.map_or(Algorithm::Crc32c, |checksum| checksum.algorithm)
}

/// Size and checksum of a file.
pub(super) fn sum_file(path: &Path, algorithm: Algorithm) -> Result<(u64, Checksum)> {
    let unreadable = |error| failed("read", path, error);
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let (mut summer, mut bytes) = (Summer::new(algorithm), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            return Ok((bytes, Checksum { algorithm, hex: summer.finish() }));
        }
        summer.update(&buffer[..count]);
        bytes += count as u64;
    }
}

/// The label of an incremental backup says so, and the server refuses to start from it: the lines
/// go, as the result is a whole backup.
fn combine_label(place: &Place, manifest: &mut ServerManifest) -> Result<bool> {
    let path = place.data.join(LABEL);
    let text = fs::read_to_string(&path).map_err(|error| failed("read", &path, error))?;
    if !text.contains("INCREMENTAL FROM") {
        return Ok(false);
    }
    let kept = text.lines().filter(|line| !line.starts_with("INCREMENTAL FROM"));
    let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
    replace(place, manifest, LABEL, kept.as_bytes())?;
    Ok(true)
}

/// `tablespace_map` tells the server where to put the links when it starts: it must say where the
/// tablespaces are now, or it would write into those of the live cluster.
fn move_tablespaces(place: &Place, manifest: &mut ServerManifest) -> Result<bool> {
    let path = place.data.join(TABLESPACE_MAP);
    if !path.exists() {
        return Ok(false);
    }
    let was = fs::read(&path).map_err(|error| failed("read", &path, error))?;
    let line = |(number, target): (&u32, &std::path::PathBuf)| {
        let target = target.to_string_lossy().replace('\\', "\\\\").replace('\n', "\\\n");
        format!("{number} {target}\n")
    };
    let map: String = place.tablespaces.iter().map(line).collect();
    // The server lists them in no order.
    let sorted = |map: &[u8]| {
        let mut lines: Vec<Vec<u8>> =
            map.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    if sorted(map.as_bytes()) == sorted(&was) {
        return Ok(false);
    }
    replace(place, manifest, TABLESPACE_MAP, map.as_bytes())?;
    Ok(true)
}

/// Writes another content of a small file, and says so in the manifest.
fn replace(place: &Place, manifest: &mut ServerManifest, name: &str, bytes: &[u8]) -> Result<()> {
    write_file(place, &place.data.join(name), bytes, 0o600)?;
    if let Some(entry) = manifest.files.get_mut(name) {
        entry.bytes = bytes.len() as u64;
        if let Some(checksum) = &mut entry.checksum {
            let mut summer = Summer::new(checksum.algorithm);
            summer.update(bytes);
            checksum.hex = summer.finish();
        }
    }
    Ok(())
}
