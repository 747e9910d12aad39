//! One backup of a source at a time on a host.
//!
//! The locks are a courtesy: the repository itself never takes half a backup, nor two of one name.
//! The kernel releases them with the process, so none can be left behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use uuid::Uuid;

use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// A process and what it noted.
const NOTE_BYTES_MAX: u64 = 200;

/// A lock between the runs of this host, held until it is dropped.
#[derive(Debug)]
pub struct SourceLock {
    file: Option<File>,
    /// What runs noted that held it before.
    left: Vec<Uuid>,
}

impl SourceLock {
    /// Takes the lock of a source in a repository, or says who has it.
    ///
    /// Errors: [`Kind::Locked`].
    pub fn take(
        env: &Env,
        folder: Option<&Path>,
        record: &SourceRecord,
        repository: Uuid,
    ) -> Result<Self> {
        let what = format!("another backup or prune of `{}`", record.name);
        let file = format!("{}-{}", record.id, repository.simple());
        SourceLock::named(env, folder, &file, &record.name, &what)
    }

    /// Takes the lock of that file name, or says who has it: `what` is running. A folder that
    /// cannot be written is a warning about `subject`.
    ///
    /// Errors: [`Kind::Locked`].
    pub fn named(
        env: &Env,
        folder: Option<&Path>,
        file: &str,
        subject: &str,
        what: &str,
    ) -> Result<Self> {
        let none = || SourceLock { file: None, left: Vec::new() };
        let Some(folder) = folder else { return Ok(none()) };
        let path = folder.join(format!("{file}.lock"));
        let opened =
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o600);
                options.open(&path)
            });
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => {
                let path = path.display();
                env.warn(subject, &format!("no lock against a second run at {path}: {error}"));
                return Ok(none());
            }
        };
        match file.try_lock() {
            Ok(()) => {
                let mut before = String::new();
                let _ = (&file).take(NOTE_BYTES_MAX).read_to_string(&mut before);
                let left = before.lines().skip(1).filter_map(|note| note.parse().ok()).collect();
                let lock = SourceLock { file: Some(file), left };
                lock.note(&lock.left);
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = file.rewind();
                let _ = read.and_then(|()| file.take(NOTE_BYTES_MAX).read_to_string(&mut holder));
                let process = holder.lines().next().unwrap_or_default();
                let message = format!("{what} is running (process {process})");
                Err(Error::new(Kind::Locked, message)
                    .hint("wait for it to end, or end it: nothing of it will be left"))
            }
            Err(TryLockError::Error(error)) => {
                env.warn(subject, &format!("no lock against a second run: {error}"));
                Ok(none())
            }
        }
    }

    /// What runs noted that held this lock before: they have ended, as we hold it now.
    pub fn left(&self) -> &[Uuid] {
        &self.left
    }

    /// Notes what runs with this lock hold elsewhere, for the next one, should we be killed. Only a
    /// help: one that cannot be written makes that run wait.
    pub fn note(&self, held: &[Uuid]) {
        let Some(mut file) = self.file.as_ref() else { return };
        let mut text = std::process::id().to_string();
        held.iter().for_each(|held| text.push_str(&format!("\n{held}")));
        let _ = file.rewind().and_then(|()| file.set_len(0));
        let _ = file.write_all(text.as_bytes());
    }
}
