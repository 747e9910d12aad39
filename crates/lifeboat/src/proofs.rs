//! What this installation keeps of its proofs in its state folder: the key that signs them, and the
//! end of each chain that it wrote, which shows when the newest proofs were removed.
//!
//! Both can be lost: then a new key begins a chain of its own, and the old one is still verified by
//! the public key in its proofs.

use std::fs;
use std::path::PathBuf;

use lifeboat_core::drill::{Head, ProofKey};
use lifeboat_core::env::Env;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};

use crate::private;
use crate::session::Session;

const KEY: &str = "proof.key";
const HEADS: &str = "proofs";

fn folder(session: &Session) -> Option<PathBuf> {
    session.folders.locks.as_deref()?.parent().map(PathBuf::from)
}

fn unreadable(path: &std::path::Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot read {}", path.display()), error)
}

/// The key of this installation, if it has one.
pub(crate) fn known_key(session: &Session) -> Result<Option<ProofKey>> {
    let Some(path) = folder(session).map(|folder| folder.join(KEY)) else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(text) => ProofKey::parse(&text)
            .map(Some)
            .map_err(|error| error.context(format!("cannot use {}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, error)),
    }
}

/// The key of this installation, made at its first use.
pub(crate) fn key(session: &Session, env: &Env) -> Result<ProofKey> {
    if let Some(key) = known_key(session)? {
        return Ok(key);
    }
    let Some(path) = folder(session).map(|folder| folder.join(KEY)) else {
        return Err(Error::new(Kind::Failed, "no place for the key that signs proofs")
            .hint("set HOME or XDG_STATE_HOME; or drill with --no-proof"));
    };
    let key = ProofKey::new(env)?;
    match private::write_new(&path, &key.to_text()) {
        Ok(()) => Ok(key),
        // Another drill was faster.
        Err(error) if error.kind() == Kind::Refused => known_key(session)?.ok_or(error),
        Err(error) => Err(error.hint("drill with --no-proof where nothing can be written")),
    }
}

fn head_path(session: &Session, repository: &Repository, installation: &str) -> Option<PathBuf> {
    let name = format!("{}-{installation}.json", repository.header().id);
    folder(session).map(|folder| folder.join(HEADS).join(name))
}

/// The end of a chain of this installation in a repository, as it is remembered.
pub(crate) fn head(
    session: &Session,
    repository: &Repository,
    installation: &str,
) -> Result<Option<Head>> {
    let Some(path) = head_path(session, repository, installation) else { return Ok(None) };
    match fs::read(&path) {
        // One that was cut by a full disk is as one that was lost.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, error)),
    }
}

/// Remembers the end of a chain.
pub(crate) fn remember(
    session: &Session,
    repository: &Repository,
    installation: &str,
    head: &Head,
) -> Result<()> {
    let Some(path) = head_path(session, repository, installation) else { return Ok(()) };
    let text = serde_json::to_string(head).expect("our own types are always JSON");
    let part = path.with_extension(format!("{}.part", std::process::id()));
    // What a killed run left under that name is nobody's.
    let _ = fs::remove_file(&part);
    private::write_new(&part, &text)?;
    fs::rename(&part, &path)
        .map_err(|error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error))
}
