//! Markers and outcomes, put into a repository and read back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Manifest, SchemaVersion};
use crate::marks::{Ending, FORMAT, MarkKind, Marker, Outcome, to_bytes};
use crate::repository::Repository;
use crate::store::{ObjectName, put_bytes};

/// Says that a command is about to run behind a backup. `command` is the name of a program,
/// without its folder and its arguments.
pub fn begin(
    env: &Env,
    repository: &Repository,
    folder: &str,
    backup: &Manifest,
    command: Option<String>,
) -> Result<Marker> {
    let marker = Marker {
        format: FORMAT,
        source: backup.source.id,
        backup: backup.name.clone(),
        id: backup.id,
        command,
        from_version: backup.schema_version.clone(),
        begun_at: env.clock.now(),
    };
    put(repository, MarkKind::Marker, folder, &backup.name, &marker)?;
    Ok(marker)
}

/// Says how it ended. `ended_by` holds the exit code or the signal of the command, as far as there
/// was one.
pub fn end(
    env: &Env,
    repository: &Repository,
    folder: &str,
    backup: &Manifest,
    ending: Ending,
    to_version: Option<SchemaVersion>,
    ended_by: (Option<i32>, Option<i32>),
) -> Result<Outcome> {
    let (exit_code, signal) = ended_by;
    let outcome = Outcome {
        format: FORMAT,
        source: backup.source.id,
        backup: backup.name.clone(),
        id: backup.id,
        ending,
        to_version,
        exit_code,
        signal,
        ended_at: env.clock.now(),
    };
    put(repository, MarkKind::Outcome, folder, &backup.name, &outcome)?;
    Ok(outcome)
}

fn put<T: Serialize + DeserializeOwned + PartialEq>(
    repository: &Repository,
    kind: MarkKind,
    folder: &str,
    backup: &str,
    note: &T,
) -> Result<()> {
    let object = ObjectName::new(kind.object(folder, backup))?;
    put_bytes(repository.store(), &object, &to_bytes(note))?;
    match repository.read_mark::<T>(&object)? == *note {
        true => Ok(()),
        false => Err(Error::new(
            Kind::CheckFailed,
            format!("{object}, read back from {}, is not what was sent", repository.url()),
        )),
    }
}
