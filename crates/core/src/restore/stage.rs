//! The staged file: complete, synced, and beside the place it will take.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::owner::Ownership;
use crate::pipeline::{Compression, Expectation, decode, open_found};
use crate::scratch::{decode_into, free_bytes, stored_expectation};
use crate::seal::Keys;
use crate::source::Engine;

use super::plan::RestorePlan;
use super::request::{Origin, RestoreRequest};

/// A staged file. Removed when dropped, unless it was swapped in.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) subject: String,
    pub(crate) file: File,
    placed: bool,
}

/// The hidden name under which a file is staged: fixed, so that what a killed restore left is
/// found and removed by the next one.
pub(super) fn staging_path(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".lifeboat-staging");
    place.with_file_name(name)
}

/// Creates the staging file of a place, 0600, and locks it. Removes one that a killed restore
/// left; one that a living restore holds is an error.
pub(super) fn create(place: &Path) -> Result<(PathBuf, File)> {
    let path = staging_path(place);
    let failed = |error| {
        let folder = path.parent().unwrap_or(Path::new("/")).display();
        Error::io(Kind::Failed, format!("cannot write to {folder}"), error)
            .hint("run as the user who may write there, or restore elsewhere with --to")
    };
    for _ in 0..2 {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        match options.open(&path) {
            Ok(file) => {
                file.try_lock().map_err(|error| failed(error.into()))?;
                return Ok((path, file));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let left = File::open(&path).map_err(failed)?;
                if let Err(TryLockError::WouldBlock) = left.try_lock() {
                    return Err(Error::new(
                        Kind::Locked,
                        format!("another restore to {} is running", place.display()),
                    )
                    .hint("wait for it to end"));
                }
                fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Error::new(Kind::Locked, format!("{} comes back again and again", path.display())))
}

/// Restores to the staging file, compares hashes, and syncs it.
pub(super) fn stage(
    env: &Env,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    place: &Path,
) -> Result<Staged> {
    create_folder_of(place, plan.ownership)?;
    let mut staged = Staged::create(place, plan.what.clone())?;
    let (phase, bytes_total) = ("restoring", plan.plain_bytes);
    env.tell(Event::PhaseBegan { subject: &staged.subject, phase, bytes_total });
    match request.origin {
        Origin::Backup { repository, folder, manifest } => {
            let Some(artifact) = manifest.artifacts.first() else {
                return Err(Error::new(
                    Kind::CheckFailed,
                    format!("the manifest of {} names no artifact", manifest.name),
                ));
            };
            let object = repository.object(folder, &artifact.name)?;
            decode_into(
                env,
                repository,
                &object,
                (artifact, &stored_expectation(artifact)),
                &mut staged.file,
                place,
            )?;
        }
        Origin::File { path, keys } => {
            decode_file(env, request, (path, keys), &mut staged.file, place)?;
        }
        Origin::Made { .. } => {}
    }
    if let Some(replay) = request.replay {
        env.tell(Event::PhaseEnded { phase });
        replay.apply(env, &mut staged.file, place)?;
    }
    env.crash.pass("restore.staging")?;
    let failed =
        |error| Error::io(Kind::Failed, format!("cannot write {}", place.display()), error);
    staged.file.sync_all().map_err(failed)?;
    if request.replay.is_none() {
        env.tell(Event::PhaseEnded { phase });
    }
    env.crash.pass("restore.staged")?;
    Ok(staged)
}

/// On a bare host the folder of the database may be missing.
fn create_folder_of(place: &Path, ownership: Option<Ownership>) -> Result<()> {
    let Some(folder) = place.parent().filter(|folder| !folder.exists()) else { return Ok(()) };
    let failed = |error| {
        Error::io(Kind::Failed, format!("cannot create the folder {}", folder.display()), error)
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    if let Some(ownership) = ownership.filter(|_| rustix::process::geteuid().is_root()) {
        std::os::unix::fs::chown(folder, Some(ownership.uid), Some(ownership.gid))
            .map_err(failed)?;
    }
    Ok(())
}

/// Decompresses a file that a script made, whatever its name says. Bounded by the free space;
/// what does not begin as a database is refused before it is written.
fn decode_file(
    env: &Env,
    request: &RestoreRequest<'_>,
    (path, keys): (&Path, Option<&dyn Keys>),
    file: &mut File,
    place: &Path,
) -> Result<()> {
    let name = path.display().to_string();
    let unchanged = "nothing was changed; choose another backup";
    let found = open_found(path, keys)?;
    if found.is_empty {
        return Err(Error::new(Kind::CheckFailed, format!("{name} is empty (0 bytes)"))
            .hint("it never was a backup: choose another one"));
    }
    let expectation = Expectation {
        object: &name,
        plain_bytes_max: Some(free_bytes(place.parent().unwrap_or(Path::new("/")))?),
        ..Expectation::default()
    };
    let mut recognized = false;
    decode(found.reader, found.compression, env.threads, &expectation, &mut |plain| {
        // A stream that we did not write begins with a batch of no bytes.
        if !recognized && !plain.is_empty() {
            recognize(request, plain)?;
            recognized = true;
        }
        env.tell(Event::Advanced { bytes: plain.len() as u64 });
        file.write_all(plain).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", place.display()), error)
        })
    })
    .map_err(|error| match error.hint_text() {
        None if error.kind() == Kind::CheckFailed => error.hint(unchanged),
        _ => error,
    })?;
    match recognized {
        true => Ok(()),
        false => recognize(request, &[]),
    }
}

/// What is restored must begin as the engine's files do: a gzip within a gzip, or a text, is
/// named.
fn recognize(request: &RestoreRequest<'_>, first: &[u8]) -> Result<()> {
    if request.engine.recognizes(first) {
        return Ok(());
    }
    let looks_like = Compression::looks_like(first);
    let (name, kind) = (request.origin.name(), request.engine.kind());
    Err(Error::new(
        Kind::CheckFailed,
        format!("{name} does not hold a database of kind {kind}, but {looks_like}"),
    )
    .hint("nothing was changed; choose another backup"))
}

impl Staged {
    /// An empty file beside a place, 0600 and locked. See [`create`].
    pub(crate) fn create(place: &Path, subject: String) -> Result<Self> {
        let (path, file) = create(place)?;
        Ok(Staged { path, subject, file, placed: false })
    }

    /// Lets the engine make of it what a person needs.
    pub(super) fn mend(&mut self, engine: &dyn Engine) -> Result<Vec<String>> {
        let mended = engine.mend_restored(&mut self.file)?;
        if !mended.is_empty() {
            self.file.sync_all().map_err(|error| {
                Error::io(Kind::Failed, format!("cannot write {}", self.path.display()), error)
            })?;
        }
        Ok(mended)
    }

    /// Gives it mode, owner and group. Where the right to change the owner is missing, that is a
    /// warning.
    pub(crate) fn give(&self, ownership: Option<Ownership>) -> Result<Vec<String>> {
        give(&self.file, &self.path, ownership)
    }

    /// It has its final name now.
    pub(crate) fn placed(mut self) {
        self.placed = true;
    }
}

/// See [`Staged::give`].
pub(super) fn give(file: &File, path: &Path, ownership: Option<Ownership>) -> Result<Vec<String>> {
    let Some(ownership) = ownership else { return Ok(Vec::new()) };
    let failed = |error| {
        Error::io(Kind::Failed, format!("cannot set the mode of {}", path.display()), error)
    };
    let mut warnings = Vec::new();
    let now = file.metadata().map_err(failed)?;
    if (now.uid(), now.gid()) != (ownership.uid, ownership.gid)
        && let Err(error) = fchown(file, Some(ownership.uid), Some(ownership.gid))
    {
        warnings.push(format!(
            "it belongs to user {} and group {} now, not to {} and {}: {error}",
            now.uid(),
            now.gid(),
            ownership.uid,
            ownership.gid
        ));
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(ownership.mode);
    file.set_permissions(mode).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(warnings)
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
