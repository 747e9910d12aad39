//! A database that nothing speaks against: copied page for page, and judged by SQLite itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::{Connection, OpenFlags};

use crate::target;
use crate::view::{Got, View};

/// Bytes that are written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Connections that check at once; they share the memory that one would have.
const CHECKERS_MAX: usize = 8;

/// Writes so many pages, as long as that is wanted; `false` where it was not any more.
pub(crate) fn write(
    env: &Env,
    view: &View,
    pages: u32,
    to: &File,
    wanted: &dyn Fn() -> bool,
) -> Result<bool> {
    let page_bytes = view.page_size();
    let per_piece = (PIECE_BYTES / page_bytes).max(1);
    let mut buffer = Vec::new();
    let mut next = 1;
    while next <= pages {
        env.proceed()?;
        if !wanted() {
            return Ok(false);
        }
        let count = per_piece.min((pages - next) as usize + 1);
        let bytes = count * page_bytes;
        let at = u64::from(next - 1) * page_bytes as u64;
        if !view.copy_to(next, bytes, to, at) {
            buffer.resize(bytes, 0);
            for (number, page) in (next..).zip(buffer.chunks_exact_mut(page_bytes)) {
                if view.read(number, page) == Got::Nothing {
                    page.fill(0);
                }
            }
            to.write_all_at(&buffer, at).map_err(target::writing)?;
        }
        env.tell(Event::Advanced { bytes: bytes as u64 });
        next += count as u32;
    }
    Ok(true)
}

/// Whether SQLite opens the copy, and finds nothing wrong in what is left to it: checks, and the
/// tables that they are for.
pub(crate) fn agrees(
    env: &Env,
    path: &Path,
    asks: &[(&'static str, String)],
    subject: &str,
) -> Result<bool> {
    env.tell(Event::PhaseBegan { subject, phase: "checking", bytes_total: None });
    let schema = ("integrity_check", "sqlite_schema".to_owned());
    let asks: Vec<_> = std::iter::once(&schema).chain(asks).collect();
    let threads = env.threads.clamp(1, CHECKERS_MAX).min(asks.len());
    let next = AtomicUsize::new(0);
    let agree = || -> Result<bool> {
        let Ok(connection) = open(path, env) else { return Ok(false) };
        if target::set_check_cache(&connection, threads).is_err() {
            return Ok(false);
        }
        while let Some((check, table)) = asks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let said = target::check_table(&connection, check, table);
            env.proceed()?;
            if !said.is_ok_and(|lines| lines == ["ok"]) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let agreed = without_wal(path, || {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(agree)).collect();
            let broke_off = |_| Err(Error::new(Kind::Failed, "the thread that checks broke off"));
            let all: Vec<_> =
                all.into_iter().map(|thread| thread.join().unwrap_or_else(broke_off)).collect();
            all.into_iter().try_fold(true, |all, one| Ok(all & one?))
        })
    });
    env.tell(Event::PhaseEnded { phase: "checking" });
    agreed
}

/// Opens the copy, for writing, though nothing is written: of a database that is only read SQLite
/// forgets what its tables check.
fn open(path: &Path, env: &Env) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let mut connection = opened.map_err(target::failed)?;
    target::stoppable(&mut connection, env)?;
    connection.execute_batch("PRAGMA trusted_schema = OFF").map_err(target::failed)?;
    Ok(connection)
}

/// Does something with the copy while its header does not ask for a `-wal` beside it.
fn without_wal<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    const MODES_AT: u64 = 18;
    let file = File::options().read(true).write(true).open(path).map_err(target::writing)?;
    let mut modes = [0; 2];
    file.read_exact_at(&mut modes, MODES_AT).map_err(target::writing)?;
    let write = |modes: &[u8]| file.write_all_at(modes, MODES_AT).map_err(target::writing);
    if modes != [2, 2] {
        return work();
    }
    write(&[1, 1])?;
    let done = work();
    write(&modes)?;
    done
}

/// What SQLite says against the copy, in one line; `None` where it says "ok".
pub(crate) fn verdict(env: &Env, path: &Path, subject: &str) -> Result<Option<String>> {
    env.tell(Event::PhaseBegan { subject, phase: "checking", bytes_total: None });
    let lines = without_wal(path, || match open(path, env) {
        Ok(connection) => target::check(env, &connection, 1),
        Err(error) => Ok(vec![error.to_string()]),
    })?;
    env.tell(Event::PhaseEnded { phase: "checking" });
    Ok(lines.into_iter().next())
}
