//! The caches of repositories, as files of the state folder: `cache/<repository's id>`.
//!
//! A cache may be lost at any time. So nothing here fails, and nothing is synced: what cannot be
//! read is as if it were not there, and what cannot be written is a line with `--verbose`. Whether
//! what was read is whole is for core to judge.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::cache::CachePlace;
use lifeboat_core::env::Env;
use lifeboat_core::event::{Event, Observer};
use rustix::fs::OFlags;
use uuid::Uuid;

/// A cache larger than this is not ours: it would be one of millions of backups.
const BYTES_MAX: u64 = 1 << 30;

/// A folder of caches.
pub(crate) struct CacheFolder {
    folder: PathBuf,
    observer: Arc<dyn Observer>,
}

impl CacheFolder {
    /// That folder, which is created when there is something to keep.
    fn new(folder: &Path, observer: Arc<dyn Observer>) -> Self {
        CacheFolder { folder: folder.to_owned(), observer }
    }

    /// The same, as core takes it.
    pub(crate) fn place(folder: &Path, env: &Env) -> Arc<dyn CachePlace> {
        Arc::new(CacheFolder::new(folder, Arc::clone(&env.observer)))
    }

    fn path(&self, repository: Uuid) -> PathBuf {
        self.folder.join(repository.to_string())
    }

    fn say(&self, what: &str, path: &Path, error: &io::Error) {
        let message = format!("{what} the cache {}: {error}", path.display());
        self.observer.observe(&Event::Detail { message: &message });
    }
}

impl CachePlace for CacheFolder {
    fn load(&self, repository: Uuid) -> Option<Vec<u8>> {
        let path = self.path(repository);
        match read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.say("cannot read", &path, &error);
                None
            }
        }
    }

    fn save(&self, repository: Uuid, bytes: &[u8]) {
        let path = self.path(repository);
        if let Err(error) = write(&self.folder, &path, bytes) {
            self.say("cannot write", &path, &error);
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Whatever lies there: nothing is followed, and nothing is waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > BYTES_MAX {
        return Err(io::Error::other("it is none"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Beside it first, so that no reader finds a part of it. Where two write at once, one takes the
/// other's place, and at worst a reader finds what is not whole, which it can tell.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let part = path.with_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
