//! A database that nothing speaks against: copied page for page, and judged by SQLite itself.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use rusqlite::{Connection, OpenFlags};

use crate::target;
use crate::view::{Got, View};

/// Bytes that are written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Writes all pages.
pub(crate) fn write(env: &Env, view: &View, mut to: &File, subject: &str) -> Result<()> {
    let pages = view.claimed().unwrap_or(view.page_count());
    let page_bytes = view.page_size();
    let bytes_total = Some(u64::from(pages) * page_bytes as u64);
    env.tell(Event::PhaseBegan { subject, phase: "copying", bytes_total });
    let per_piece = (PIECE_BYTES / page_bytes).max(1);
    let mut buffer = vec![0; per_piece * page_bytes];
    let mut next = 1;
    while next <= pages {
        env.proceed()?;
        let count = per_piece.min((pages - next) as usize + 1);
        let piece = &mut buffer[..count * page_bytes];
        for (number, page) in (next..).zip(piece.chunks_exact_mut(page_bytes)) {
            if view.read(number, page) == Got::Nothing {
                page.fill(0);
            }
        }
        to.write_all(piece).map_err(target::writing)?;
        env.tell(Event::Advanced { bytes: piece.len() as u64 });
        next += count as u32;
    }
    env.tell(Event::PhaseEnded { phase: "copying" });
    Ok(())
}

/// What SQLite says against the copy, in one line; `None` where it says "ok".
pub(crate) fn verdict(env: &Env, path: &Path, subject: &str) -> Result<Option<String>> {
    env.tell(Event::PhaseBegan { subject, phase: "checking", bytes_total: None });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Immutable: a copy of a database in WAL mode is read without side files.
    let mut connection = match Connection::open_with_flags(immutable(path), flags) {
        Ok(connection) => connection,
        Err(error) => return Ok(Some(error.to_string())),
    };
    target::stoppable(&mut connection, env)?;
    let lines = match connection.execute_batch("PRAGMA trusted_schema = OFF") {
        Ok(()) => target::check(env, &connection, 1)?,
        Err(error) => vec![error.to_string()],
    };
    env.tell(Event::PhaseEnded { phase: "checking" });
    Ok(lines.into_iter().next())
}

/// A path as a URI that SQLite reads without locks.
fn immutable(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = String::from("file:");
    for &byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}
