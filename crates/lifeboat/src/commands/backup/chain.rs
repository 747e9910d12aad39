//! Backups of whole clusters: on which one the next builds with `--incremental`, and what is said
//! of one that is damaged.
//!
//! A chain is one whole backup and those that build on it, each on the one before. A restore needs
//! all of them, so its length is bounded: then a whole one begins the next.

use std::fs::File;

use lifeboat_core::backup::BackupRequest;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Condition, Manifest, Purpose};
use lifeboat_core::repository::Repository;
use lifeboat_core::scratch::{Scratch, decode_into, expectation};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::physical::{Parent, ROLE_HASHES, ROLE_SERVER_MANIFEST};

use crate::clusters::Cluster;
use crate::repositories::Place;
use crate::session::Session;
use crate::ui::units;

/// Tells the cluster what its next backup builds on. Where that is nothing, says why.
pub(super) fn build_on(
    session: &Session,
    env: &Env,
    repositories: &[&Repository],
    cluster: &Cluster,
    request: &BackupRequest<'_>,
) -> Result<()> {
    let parent = match common_parent(repositories, cluster.chain_max(), request)? {
        Ok(parent) => Some(parent),
        Err(why) => {
            session.progress.clear();
            let name = units::one_line(&request.identity.name);
            session.printer.note(&format!("{name}: a whole backup is made: {why}"));
            None
        }
    };
    let parent = parent.map(|(repository, folder, manifest)| {
        let read = |role| read(env, repository, &folder, &manifest, role, request);
        let server_manifest = read(ROLE_SERVER_MANIFEST)?.ok_or_else(|| {
            let message = format!("{} has no manifest of the server", manifest.name);
            Error::new(Kind::CheckFailed, message)
        })?;
        Parent::new(&manifest, server_manifest, read(ROLE_HASHES)?)
    });
    let parent = match parent.transpose() {
        // A host that only seals cannot read what it would build on.
        Err(error) if error.kind() == Kind::WrongKey => {
            session.progress.clear();
            let name = units::one_line(&request.identity.name);
            session.printer.note(&format!("{name}: a whole backup is made: {error}"));
            None
        }
        other => other?,
    };
    cluster.build_on(parent)
}

/// What the next backup would build on in that repository, as a step of a plan.
pub(super) fn plan(
    env: &Env,
    place: &Place,
    cluster: &Cluster,
    request: &BackupRequest<'_>,
) -> Result<String> {
    let found = match place.open(env) {
        Ok(repository) => parent(&repository, cluster.chain_max(), request)?,
        Err(error) if error.kind() == Kind::NoRepository => Err("it is the first".to_owned()),
        Err(error) => return Err(error),
    };
    Ok(match found {
        Ok((_, parent)) => format!("build on {}: store what changed since", parent.name),
        Err(why) => format!("make a whole backup: {why}"),
    })
}

/// The newest good backup, with one repository and its folder there. All repositories must have it,
/// as what is stored in them is read once.
fn common_parent<'r>(
    repositories: &[&'r Repository],
    chain_max: u32,
    request: &BackupRequest<'_>,
) -> Result<Result<(&'r Repository, String, Manifest), String>> {
    let mut common: Option<(&Repository, String, Manifest)> = None;
    for repository in repositories {
        let (folder, manifest) = match parent(repository, chain_max, request)? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        match &common {
            None => common = Some((*repository, folder, manifest)),
            Some((.., first)) if first.id == manifest.id => {}
            Some(_) => return Ok(Err("the repositories hold different ones".to_owned())),
        }
    }
    Ok(common.ok_or_else(|| "no repository is there".to_owned()))
}

/// The newest good backup, with its folder, unless its chain is as long as it may be.
fn parent(
    repository: &Repository,
    chain_max: u32,
    request: &BackupRequest<'_>,
) -> Result<Result<(String, Manifest), String>> {
    let catalog = repository.catalog()?;
    let entry = catalog.sources.into_iter().find(|entry| request.identity.is(&entry.record));
    let Some(entry) = entry else { return Ok(Err("it is the first".to_owned())) };
    let is_good = |backup: &&Manifest| {
        backup.condition == Condition::Good && backup.purpose != Some(Purpose::BeforeRestore)
    };
    let Some(newest) = entry.backups.iter().rev().find(is_good) else {
        return Ok(Err("no good one is there".to_owned()));
    };
    let Some(length) = chain_length(&entry, newest) else {
        return Ok(Err(format!("what {} builds on is not there", newest.name)));
    };
    match length >= chain_max {
        true => Ok(Err(format!("{length} incremental ones follow the last"))),
        false => Ok(Ok((entry.folder.clone(), newest.clone()))),
    }
}

/// How many incremental backups a backup needs, itself among them. `None` where one is missing.
fn chain_length(entry: &SourceEntry, backup: &Manifest) -> Option<u32> {
    let (mut length, mut here) = (0, backup);
    while let Some(parent) = here.parent {
        length += 1;
        here = entry.backups.iter().find(|backup| backup.id == parent)?;
        // No chain is a ring.
        if length as usize > entry.backups.len() {
            return None;
        }
    }
    Some(length)
}

/// An artifact of a backup, in a file that is gone when it is closed.
fn read(
    env: &Env,
    repository: &Repository,
    folder: &str,
    manifest: &Manifest,
    role: &str,
    request: &BackupRequest<'_>,
) -> Result<Option<File>> {
    let Some(artifact) = manifest.artifact(role) else { return Ok(None) };
    let object = repository.object(folder, &artifact.name)?;
    let mut scratch = Scratch::new(request.scratch_folder, artifact.plain_bytes)?;
    let place = scratch.path();
    let expected = expectation(artifact);
    decode_into(env, repository, &object, (artifact, &expected), scratch.file(), &place)
        .map_err(|error| error.context(format!("cannot build on {}", manifest.name)))?;
    let failed = |error| Error::io(Kind::Failed, "cannot open a scratch file again", error);
    File::open(&place).map(Some).map_err(failed)
}

/// A backup that was made, of a cluster that is damaged: nobody may take it for a good one.
pub(super) fn damaged(manifest: &Manifest) -> Error {
    let lines = manifest.warnings.iter().filter_map(|line| line.strip_prefix("damaged: "));
    let first: Vec<&str> = lines.take(3).collect();
    let (name, lines) = (units::one_line(&manifest.name), first.join("; "));
    Error::new(Kind::CheckFailed, format!("{name} is stored, but the cluster is damaged: {lines}"))
        .hint(
            "no older backup is removed for it. Where no table is named: SELECT \
             pg_filenode_relation(0, NUMBER) in that database; `lifeboat list` shows the backups \
             from before",
        )
}
