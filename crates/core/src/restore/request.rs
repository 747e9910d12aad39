//! What is to be restored, and how.

use std::path::{Path, PathBuf};

use crate::manifest::{CheckLevel, Manifest};
use crate::repository::Repository;
use crate::seal::Keys;
use crate::service::Service;
use crate::source::Engine;

/// What is restored.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// A backup of a repository.
    Backup {
        /// The repository.
        repository: &'a Repository,
        /// The source's folder in it.
        folder: &'a str,
        /// The backup.
        manifest: &'a Manifest,
    },
    /// A file: a database that a script copied, plain, compressed or sealed.
    File {
        /// Where it is.
        path: &'a Path,
        /// What opens it, should it be sealed.
        keys: Option<&'a dyn Keys>,
    },
}

impl<'a> Origin<'a> {
    /// The manifest, where there is one.
    pub fn manifest(&self) -> Option<&'a Manifest> {
        match self {
            Origin::Backup { manifest, .. } => Some(manifest),
            Origin::File { .. } => None,
        }
    }

    /// What a person calls it.
    pub fn name(&self) -> String {
        match self {
            Origin::Backup { manifest, .. } => manifest.name.clone(),
            Origin::File { path, .. } => path.display().to_string(),
        }
    }
}

/// Whether companion files are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesChoice {
    /// Only the database.
    No,
    /// The database and its files.
    Also,
    /// Only the files.
    Only,
}

/// Everything that a restore is to be made with.
pub struct RestoreRequest<'a> {
    /// What is restored.
    pub origin: Origin<'a>,
    /// The engine of its kind.
    pub engine: &'a dyn Engine,
    /// Where to, if not where it came from.
    pub to: Option<PathBuf>,
    /// Whether companion files are restored.
    pub files: FilesChoice,
    /// The folder that stands for `/` for companion files, if neither `/` nor one beside `to`.
    pub files_root: Option<PathBuf>,
    /// The check before the swap.
    pub check: CheckLevel,
    /// How much memory the check may use.
    pub check_memory_bytes: u64,
    /// What is stopped and started around a restore in place.
    pub service: Option<&'a Service>,
    /// Where archives are unpacked from.
    pub scratch_folder: &'a Path,
}

/// Where files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesPlace {
    /// The folder under which the archive's paths begin: `/` in place.
    pub root: PathBuf,
}
