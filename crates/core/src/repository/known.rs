//! What a host knows of the databases that it seals.
//!
//! Page hashes of a sealed backup cannot be read by a host without a key. So that it can tell all
//! the same what changed since, it keeps them beside its locks. They may be lost at any time: then
//! the next run makes a backup.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Repository;
use crate::pipeline::BlockHashes;

const ID_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

impl Repository {
    /// The same; what must be known of sealed databases is kept in that folder, if one is given.
    #[must_use]
    pub fn keeping_known(self, folder: Option<&Path>) -> Self {
        Repository { known: folder.map(PathBuf::from), ..self }
    }

    /// The path of what is kept of a source, with that ending. `None` where there is no folder.
    pub fn known_path(&self, source: Uuid, ending: &str) -> Option<PathBuf> {
        let folder = self.known.as_ref()?;
        Some(folder.join(format!("{}-{source}.{ending}", self.header().id)))
    }

    /// Keeps the hashes of a backup that nobody here can read later.
    pub(crate) fn keep_hashes(
        &self,
        (source, backup): (Uuid, Uuid),
        hashes: &BlockHashes,
    ) -> std::io::Result<()> {
        let Some(path) = self.known_path(source, "pages") else { return Ok(()) };
        let mut bytes = backup.as_bytes().to_vec();
        bytes.extend(hashes.header());
        bytes.extend(hashes.hashes.as_flattened());
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        write_known(&path, &bytes)
    }

    /// The hashes of a backup, if they were kept here, and are whole.
    pub fn kept_hashes(&self, source: Uuid, backup: Uuid) -> Option<BlockHashes> {
        let bytes = fs::read(self.known_path(source, "pages")?).ok()?;
        let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
        let (id, hashes) = content.split_at_checked(ID_BYTES)?;
        let is_it = id == backup.as_bytes() && blake3::hash(content).as_bytes() == hash;
        BlockHashes::parse(hashes).ok().filter(|_| is_it)
    }
}

/// Writes what is known of a source: beside it first, so that nobody finds a part of it.
pub fn write_known(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(bytes)?;
    fs::rename(&new, path)
}
