//! A copy of a live database beside it, as `lifeboat undo` finds it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::moment::compact;
use lifeboat_core::scratch::free_bytes;
use lifeboat_core::{Error, Kind, Result};

use crate::snapshot::{Snapshot, missing};

/// Pages are copied in pieces of so many bytes, or of one page.
const PIECE_BYTES: u32 = 1 << 20;
/// The name of a copy that is not whole yet ends so; no undo takes it.
const UNFINISHED: &str = ".part";

/// Copies the present moment of a database to `NAME.before_restore.TIME` beside it, and gives that
/// name. No writer waits for it in WAL mode. What a killed run left is removed; runs must not
/// overlap.
pub fn copy_aside(env: &Env, live: &Path) -> Result<PathBuf> {
    let live = fs::canonicalize(live).map_err(|error| missing(live, error))?;
    let folder = live.parent().unwrap_or(Path::new("/"));
    let name = live.file_name().unwrap_or_default();
    remove_unfinished(folder, name);
    let mut snapshot = Snapshot::take(&live)?;
    if let Some(damage) = snapshot.damage().first() {
        let message = format!("{} is damaged: {damage}", live.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("restore it whole, or rescue its rows with `lifeboat salvage`"));
    }
    let bytes = u64::from(snapshot.page_size()) * u64::from(snapshot.page_count());
    let free = free_bytes(folder)?;
    if free < bytes {
        let message = format!("a copy of {} needs {bytes} bytes, {free} are free", live.display());
        return Err(Error::new(Kind::NoSpace, message).hint("make room beside the database"));
    }
    let copy = free_name(&live, &compact(env.clock.now()));
    let part = with_ending(&copy, UNFINISHED);
    let copied = write(env, &mut snapshot, &live, &part)
        .and_then(|()| fs::rename(&part, &copy).map_err(|error| failed(&copy, error)))
        .and_then(|()| {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| failed(&copy, error))
        });
    match copied {
        Ok(()) => Ok(copy),
        Err(error) => {
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

fn write(env: &Env, snapshot: &mut Snapshot, live: &Path, part: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .map_err(|error| failed(part, error))?;
    let (page_size, pages) = (snapshot.page_size(), snapshot.page_count());
    let piece = (PIECE_BYTES / page_size).max(1);
    let mut buffer = Vec::new();
    let mut first = 1;
    while first <= pages {
        env.proceed()?;
        let count = piece.min(pages - first + 1);
        buffer.resize(count as usize * page_size as usize, 0);
        snapshot.read_pages(first, &mut buffer)?;
        file.write_all(&buffer).map_err(|error| failed(part, error))?;
        first += count;
    }
    // After the content, so that nobody reads what they may not.
    let found = fs::metadata(live).map_err(|error| missing(live, error))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&file, Some(found.uid()), Some(found.gid()))
            .map_err(|error| failed(part, error))?;
    }
    let mode = fs::Permissions::from_mode(found.mode() & 0o7777);
    file.set_permissions(mode).and_then(|()| file.sync_all()).map_err(|error| failed(part, error))
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
        .hint("nothing was changed; the folder of the database must be writable, with room")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn free_name(live: &Path, time: &str) -> PathBuf {
    let name = with_ending(live, &format!(".before_restore.{time}"));
    let is_free = |path: &PathBuf| {
        ["", "-wal", "-shm", "-journal"]
            .iter()
            .all(|ending| fs::symlink_metadata(with_ending(path, ending)).is_err())
    };
    match is_free(&name) {
        true => name,
        false => {
            let numbered = (2_u32..).map(|number| with_ending(&name, &format!(".{number}")));
            numbered.into_iter().find(is_free).unwrap_or(name)
        }
    }
}

fn remove_unfinished(folder: &Path, name: &std::ffi::OsStr) {
    let prefix = with_ending(Path::new(name), ".before_restore.").into_os_string();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let found = found.as_encoded_bytes();
        if found.starts_with(prefix.as_encoded_bytes()) && found.ends_with(UNFINISHED.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
