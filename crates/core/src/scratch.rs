//! Scratch restores: an artifact decompressed into a private file, to be checked, then removed.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::Artifact;
use crate::pipeline::{Expectation, decode};
use crate::repository::Repository;
use crate::store::ObjectName;

/// What must hold of an artifact's bytes when it is restored: the stored bytes are those that were
/// read back, to the SHA-256, and each frame's own checksum holds. From that the plain bytes
/// follow; hashing them too would take longer than decompressing them. [`expectation`] does.
pub fn stored_expectation(artifact: &Artifact) -> Expectation<'_> {
    Expectation { plain: None, plain_bytes: Some(artifact.plain_bytes), ..expectation(artifact) }
}

/// What must hold of an artifact's bytes when it is verified: all hashes.
pub fn expectation(artifact: &Artifact) -> Expectation<'_> {
    Expectation {
        object: &artifact.name,
        stored: Some((artifact.stored_bytes, artifact.stored_sha256.clone())),
        plain: Some((artifact.plain_bytes, artifact.plain_sha256.clone())),
        plain_bytes_max: Some(artifact.plain_bytes),
        ..Expectation::default()
    }
}

/// Opens and decompresses an artifact into `file`, and compares what is expected.
pub fn decode_into(
    env: &Env,
    repository: &Repository,
    object: &ObjectName,
    (artifact, expectation): (&Artifact, &Expectation<'_>),
    file: &mut File,
    place: &Path,
) -> Result<()> {
    let wrapping = repository.wrapping(artifact)?;
    let reader = repository.store().get(object, None)?;
    decode(reader, wrapping, env.threads, expectation, &mut |plain| {
        env.proceed()?;
        env.tell(Event::Advanced { bytes: plain.len() as u64 });
        file.write_all(plain).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", place.display()), error)
        })
    })
    .map(drop)
}

/// A private file, gone when dropped.
pub struct Scratch {
    file: NamedTempFile,
}

impl Scratch {
    /// An empty file, 0600, in `folder`, which is created 0700. Fails with [`Kind::NoSpace`]
    /// where `bytes` do not fit.
    pub fn new(folder: &Path, bytes: u64) -> Result<Self> {
        let failed = |error| {
            let message = format!("cannot make a scratch file in {}", folder.display());
            Error::io(Kind::Failed, message, error)
                .hint("choose another folder for scratch files with TMPDIR")
        };
        if !folder.exists() {
            fs::create_dir_all(folder).map_err(failed)?;
            fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let free = free_bytes(folder)?;
        if free < bytes {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "a scratch restore needs {bytes} bytes in {}, {free} are free",
                    folder.display()
                ),
            )
            .hint("choose another folder for scratch files with TMPDIR"));
        }
        let file = tempfile::Builder::new().prefix("lifeboat-scratch-").tempfile_in(folder);
        Ok(Scratch { file: file.map_err(failed)? })
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// The file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }
}

/// Free bytes of the file system under an existing path.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let space = rustix::fs::statvfs(path).map_err(|error| {
        let message = format!("cannot ask for free space at {}", path.display());
        Error::io(Kind::Failed, message, error.into())
    })?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}
