//! What is to be restored, and how.

use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::mapping::Mapping;
use crate::env::Env;
use crate::error::Result;
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
    /// Nothing: [`RestoreRequest::replay`] makes all of it.
    Made {
        /// What a person calls what it is made of.
        name: &'a str,
    },
}

impl<'a> Origin<'a> {
    /// The manifest, where there is one.
    pub fn manifest(&self) -> Option<&'a Manifest> {
        match self {
            Origin::Backup { manifest, .. } => Some(manifest),
            Origin::File { .. } | Origin::Made { .. } => None,
        }
    }

    /// What a person calls it.
    pub fn name(&self) -> String {
        match self {
            Origin::Backup { manifest, .. } => manifest.name.clone(),
            Origin::File { path, .. } => path.display().to_string(),
            Origin::Made { name } => (*name).to_owned(),
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

/// What is laid over a restored backup before it is checked and takes its place: the log of what
/// was committed after it.
pub trait Replay {
    /// What a person calls the state that it leads to.
    fn name(&self) -> String;
    /// Nothing is in that state that was committed later.
    fn until(&self) -> Timestamp;
    /// The steps of a plan, a line each.
    fn steps(&self) -> Vec<String>;
    /// Plain size of the state in bytes.
    fn plain_bytes(&self) -> u64;
    /// Brings the restored backup to that state, and proves that it is.
    fn apply(&self, env: &Env, file: &mut File, place: &Path) -> Result<()>;
}

/// Everything that a restore is to be made with.
pub struct RestoreRequest<'a> {
    /// What is restored.
    pub origin: Origin<'a>,
    /// What is laid over it, if it is to show a later state.
    pub replay: Option<&'a dyn Replay>,
    /// The engine of its kind.
    pub engine: &'a dyn Engine,
    /// Where to, if not where it came from.
    pub to: Option<PathBuf>,
    /// Whether companion files are restored.
    pub files: FilesChoice,
    /// The folder that stands for `/` for companion files, if neither `/` nor one beside `to`.
    pub files_root: Option<PathBuf>,
    /// What is called otherwise on this host.
    pub mapping: &'a Mapping,
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
