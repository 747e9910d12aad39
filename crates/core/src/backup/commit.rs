//! The manifest makes a backup exist: put, then read back.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::Manifest;
use crate::repository::Repository;
use crate::store::{ObjectName, get_bytes, put_bytes};

/// A manifest that was not stored as it must be.
pub(crate) struct NotCommitted {
    pub(crate) error: Error,
    /// It was sent, and could not be taken back: what it names must stay.
    pub(crate) manifest_may_exist: bool,
}

/// Stores the manifest of a backup whose artifacts were read back.
pub(crate) fn commit(
    env: &Env,
    repository: &Repository,
    folder: &str,
    manifest: &Manifest,
) -> Result<(), NotCommitted> {
    let never = |error| NotCommitted { error, manifest_may_exist: false };
    let store = repository.store();
    let object = repository.object(folder, &format!("{}.json", manifest.name)).map_err(never)?;
    let bytes = manifest.to_bytes();
    match put_bytes(store, &object, &bytes) {
        Ok(()) => {}
        // Another run's backup has the name.
        Err(error) if error.kind() == Kind::Refused => return Err(never(error)),
        // It may have been stored all the same, and only the answer was lost.
        Err(error) => return Err(take_back(env, repository, folder, &object, error)),
    }
    let read_back = get_bytes(store, &object, bytes.len() as u64 + 1);
    if read_back.as_ref().ok() != Some(&bytes) {
        let message = format!("{object}, read back from {}, is not what was sent", store.url());
        let error = match read_back {
            Err(error) => error.context(message),
            Ok(_) => Error::new(Kind::CheckFailed, message),
        };
        return Err(take_back(env, repository, folder, &object, error));
    }
    Ok(())
}

/// Deletes a manifest that must not count as a backup.
fn take_back(
    env: &Env,
    repository: &Repository,
    folder: &str,
    object: &ObjectName,
    error: Error,
) -> NotCommitted {
    let mut manifest_may_exist = false;
    if let Err(failed) = repository.store().delete(object) {
        manifest_may_exist = true;
        let left = format!("{object} could not be taken back and may be listed: {failed}");
        env.warn(folder, &left);
    }
    NotCommitted { error, manifest_may_exist }
}
