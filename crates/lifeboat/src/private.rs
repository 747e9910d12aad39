//! Files of our own that nobody else may read, made whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

/// Writes a file that was not there before, 0600, in a folder that is made 0700 if it is missing,
/// and makes it durable. [`Kind::Refused`] where something has its name.
pub(crate) fn write_new(path: &Path, content: &str) -> Result<()> {
    let failed = |error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error);
    let folder = match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    let Some(name) = path.file_name() else {
        return Err(Error::new(Kind::Usage, format!("{} names no file", path.display())));
    };
    let staged = folder.join(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let mut options = OpenOptions::new();
    let written = (|| {
        let mut file = options.write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link takes nobody's place.
        fs::hard_link(&staged, path)?;
        File::open(&folder)?.sync_all()
    })();
    let _ = fs::remove_file(&staged);
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(path)),
        written => written.map_err(failed),
    }
}

/// Makes a folder of our state, 0700, where it is missing.
pub(crate) fn folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file of our state, 0600, over what it was before; whole or not at all, as another run
/// may read or write it now.
pub(crate) fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    replaced(path, content, 0o600)
}

/// The same for a file that others are to read, 0644, in a folder that is there.
pub(crate) fn replace_for_all(path: &Path, content: &[u8]) -> std::io::Result<()> {
    replaced(path, content, 0o644)
}

/// Writes a file of somebody else over what it was before, with its owner and its rights; whole or
/// not at all, and durable. Where a link leads, the file there is written.
pub(crate) fn replace_alike(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let path = fs::canonicalize(path)?;
    let was = fs::metadata(&path)?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut options = OpenOptions::new();
    let written = (|| {
        let mut file = options.write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(content)?;
        let is_ours = file.metadata()?.uid() == was.uid() && file.metadata()?.gid() == was.gid();
        if !is_ours {
            std::os::unix::fs::fchown(&file, Some(was.uid()), Some(was.gid()))?;
        }
        file.set_permissions(was.permissions())?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(path.parent().unwrap_or(&path))?.sync_all()
    })();
    written.inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

fn replaced(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let written = options.open(&part).and_then(|mut file| file.write_all(content));
    written.and_then(|()| fs::rename(&part, path)).inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

/// Refuses a place that is taken, before any work is done for it.
pub(crate) fn must_be_free(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(exists(path)),
        Err(_) => Ok(()),
    }
}

fn exists(path: &Path) -> Error {
    let message = format!("{} exists, and is never overwritten", path.display());
    Error::new(Kind::Refused, message).hint("name another file")
}
