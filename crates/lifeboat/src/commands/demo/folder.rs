//! The folder of a demo, and what is done to the database in it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

/// How much of the beginning and the middle of the database is overwritten.
const OVERWRITTEN_BYTES: usize = 1 << 20;

/// A private folder that is removed at the end, whatever happens.
pub(super) struct DemoFolder {
    path: PathBuf,
    removed: bool,
}

impl DemoFolder {
    pub(super) fn create(below: &Path) -> Result<Self> {
        let path = below.join(format!("lifeboat-demo-{}", std::process::id()));
        let made = fs::create_dir_all(below)
            .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&path));
        made.map_err(|error| {
            Error::io(Kind::Failed, format!("cannot create {}", path.display()), error)
                .hint("choose another place for temporary files with TMPDIR")
        })?;
        Ok(DemoFolder { path, removed: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn keep(mut self) {
        self.removed = true;
    }

    pub(super) fn remove(mut self) -> Result<()> {
        self.removed = true;
        fs::remove_dir_all(&self.path).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot remove {}", self.path.display()), error)
        })
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        if !self.removed {
            // The error that brought us here matters more.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Overwrites the beginning and the middle of a database, and deletes its side files.
pub(super) fn overwrite(database: &Path) -> Result<()> {
    let failed = |error: io::Error| {
        Error::io(Kind::Failed, format!("cannot destroy {}", database.display()), error)
    };
    let file = OpenOptions::new().write(true).open(database).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let garbage = vec![0x5a; OVERWRITTEN_BYTES];
    for place in [0, bytes / 2] {
        file.write_all_at(&garbage, place).map_err(failed)?;
    }
    for ending in ["-wal", "-shm"] {
        let mut side = database.as_os_str().to_owned();
        side.push(ending);
        match fs::remove_file(&side) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The names beside a database under which a restore kept what was there.
pub(super) fn kept_aside(database: &Path) -> Result<Vec<String>> {
    let failed = |error: io::Error| {
        Error::io(Kind::Failed, format!("cannot look beside {}", database.display()), error)
    };
    let folder = database.parent().unwrap_or(Path::new("/"));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.contains(".before_restore.") {
            names.push(name);
        }
    }
    Ok(names)
}
