//! A SQLite database as a source: how it is looked at, and how a moment of it is taken.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Method;
use lifeboat_core::source::{Capture, CaptureOptions, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};

use crate::KIND;
use crate::capture::SqliteCapture;
use crate::checkpoint;
use crate::header::{self, Header};
use crate::held;
use crate::holders;
use crate::snapshot::{Snapshot, missing};

/// One SQLite database file.
///
/// A capture never writes to it, but for the method `checkpoint`. One trace may stay: beside a
/// database in WAL mode that had no `-wal` and no `-shm`, an empty `-wal` and a `-shm`, as any
/// reader of SQLite leaves them.
///
/// As long as a capture lives, no other code of the process may open and close the database file
/// or its `-shm`: the close would drop the capture's locks. A capture notices, and fails.
#[derive(Clone, Debug)]
pub struct SqliteSource {
    path: PathBuf,
}

impl SqliteSource {
    /// The database at that path, which may be a symbolic link. Nothing is looked at yet.
    pub fn new(path: PathBuf) -> Self {
        SqliteSource { path }
    }

    /// The file itself, links resolved, and its header. Never creates anything.
    fn look(&self) -> Result<(PathBuf, Header, u64)> {
        let path = fs::canonicalize(&self.path).map_err(|error| missing(&self.path, error))?;
        let metadata = fs::metadata(&path).map_err(|error| missing(&path, error))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "not a regular file" };
            return Err(Error::new(
                Kind::SourceUnavailable,
                format!("{} is {what}, not a database", path.display()),
            )
            .hint("name the database file itself"));
        }
        // Through `held`: a plain open and close would drop the locks of a capture that runs.
        let file = held::open(&path).map_err(|error| missing(&path, error))?;
        let mut first = vec![0; 4096];
        let filled = read_first(&file, &mut first).map_err(|error| missing(&path, error))?;
        let header = header::require(&path, &first[..filled])?;
        Ok((path, header, metadata.len()))
    }
}

fn read_first(file: &fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn location(&self) -> Result<String> {
        let path = fs::canonicalize(&self.path).map_err(|error| missing(&self.path, error))?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn inspect(&self) -> Result<Inspection> {
        let (path, header, file_bytes) = self.look()?;
        let wal_bytes =
            fs::metadata(holders::side_file(&path, "-wal")).map_or(0, |metadata| metadata.len());
        let mode = if header.is_wal() { "WAL mode" } else { "rollback journal" };
        let pages = file_bytes.div_ceil(u64::from(header.page_size));
        let mut description =
            format!("SQLite, {mode}, {}-byte pages, {} pages", header.page_size, thousands(pages));
        if wal_bytes > 0 {
            description.push_str(&format!(", {} bytes in its -wal", thousands(wal_bytes)));
        }
        Ok(Inspection { plain_bytes: pages * u64::from(header.page_size), description })
    }

    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        let (path, header, _) = self.look()?;
        match options.method {
            Method::Online => {}
            Method::Checkpoint => checkpoint::checkpoint(&path, &header, options.lock_ms_max)?,
            Method::Cold => require_alone(&path)?,
            Method::Adopted => {
                return Err(Error::new(Kind::Usage, "nothing is captured by the method `adopted`"));
            }
        }
        let snapshot = Snapshot::take(&path)?;
        Ok(Box::new(SqliteCapture::begin(env, path, snapshot, options)?))
    }
}

/// Requires that no other process has the database open, for a copy of a stopped application.
fn require_alone(path: &Path) -> Result<()> {
    match holders::describe(path) {
        nobody if nobody.is_empty() => Ok(()),
        others => Err(Error::new(
            Kind::SourceUnavailable,
            format!("{} is still open{others}", path.display()),
        )
        .hint("stop its service first, or name it in the configuration: `service = \"...\"`")),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(242_613), "242,613");
        assert_eq!(thousands(1_000_000), "1,000,000");
    }
}
