//! The helpers that work ahead: one pushes what waits in `archive_status`, one fetches what a
//! recovery will ask for next. Each ends by itself when there is nothing to do, and at the first
//! error: the program that the server runs meets it too, and reports it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use super::archive::{Archive, Fetched, PushFile, Pushed};
use super::name::WalFile;
use super::spool::{Claim, Learned, Spool};
use crate::control::DataDirectory;

/// A helper without work ends after so many milliseconds.
const IDLE_MS: u64 = 5_000;
/// Between two looks for work, in milliseconds.
const LOOK_AGAIN_MS: u64 = 20;
/// So many files are pushed ahead of the server at most.
const AHEAD_FILES_MAX: usize = 256;
/// From so many files that wait on, they are compressed in a hurry.
const HURRY_FILES: usize = 8;
/// So many bytes of segments are fetched ahead, and at least two segments.
const AHEAD_BYTES: u64 = 128 << 20;

/// The names of the locks of the two helpers.
const PUSHER: &str = "pusher";
const FETCHER: &str = "fetcher";

/// Pushes one file, unless a helper did so already.
pub fn push(env: &Env, archive: &Archive, spool: &Spool, file: &PushFile) -> Result<Pushed> {
    let Some(_claim) = claimed(env, spool, file.file)? else { return archive.push(env, file) };
    let pushed = match spool.is_pushed(archive, file)? {
        true => vec![lifeboat_core::log::Placed::AlreadyThere; archive.members.len()],
        false => archive.push(env, file)?,
    };
    spool.forget_pushed(file.file);
    Ok(pushed)
}

/// Takes a file in its turn. `None` where nothing can be noted, as on a disk that is full: a log
/// that is not archived for that would fill it for ever.
fn claimed(env: &Env, spool: &Spool, file: WalFile) -> Result<Option<Claim>> {
    match spool.claim_in_turn(env, &file.to_string()) {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if matches!(error.kind(), Kind::Failed | Kind::NoSpace) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether something else waits to be pushed and no helper is at it.
pub fn wants_pusher(spool: &Spool, data: &Path, file: WalFile) -> bool {
    let waiting = waiting(data).unwrap_or_default();
    waiting.iter().any(|other| *other != file && !spool.is_noted(*other))
        && spool.claim(PUSHER).is_ok_and(|claim| claim.is_some())
}

/// What waits in `archive_status`, in the order in which a server archives: history files first.
pub fn waiting(data: &Path) -> Result<Vec<WalFile>> {
    let folder = data.join("pg_wal/archive_status");
    let failed = |error| {
        Error::io(Kind::SourceUnavailable, format!("cannot list {}", folder.display()), error)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        files.extend(name.and_then(WalFile::parse));
    }
    files.sort_by_cached_key(|file| (!matches!(file, WalFile::History(_)), file.to_string()));
    Ok(files)
}

/// The helper that pushes ahead. `Ok` at its end, also if another one is at work. `alive` is called
/// whenever a file is done.
pub fn run_pusher(
    env: &Env,
    archive: &Archive,
    spool: &Spool,
    data: &DataDirectory,
    alive: &(dyn Fn() + Sync),
) -> Result<()> {
    let Some(_own) = spool.claim(PUSHER)? else { return Ok(()) };
    spool.forget_all_but(&waiting(&data.path)?);
    // Half of them wait for a disk.
    let threads = 2 * env.threads.max(1);
    let worker = Env { threads: 1, ..env.clone() };
    let hurried =
        Archive { level: archive.level_hurried.unwrap_or(archive.level), ..archive.clone() };
    let archives = [archive, &hurried];
    let queue = Mutex::new(Queue { files: VecDeque::new(), looked_at_ms: 0, worked_at_ms: 0 });
    queue.lock().unwrap_or_else(PoisonError::into_inner).worked_at_ms = env.clock.monotonic_ms();
    std::thread::scope(|scope| {
        let work = || work(&worker, archives, spool, data, &queue, alive);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a helper panicked")))
        });
        ended.fold(Ok(()), Result::and)
    })
}

/// What is to be pushed next.
struct Queue {
    files: VecDeque<WalFile>,
    looked_at_ms: u64,
    worked_at_ms: u64,
}

impl Queue {
    /// The next file, `None` if there is none for now.
    fn next(&mut self, env: &Env, spool: &Spool, data: &Path) -> Result<Option<WalFile>> {
        let now_ms = env.clock.monotonic_ms();
        if self.files.is_empty() && now_ms.saturating_sub(self.looked_at_ms) >= LOOK_AGAIN_MS {
            self.looked_at_ms = now_ms;
            let room = AHEAD_FILES_MAX.saturating_sub(spool.noted());
            let new = waiting(data)?.into_iter().filter(|file| !spool.is_noted(*file));
            self.files = new.take(room).collect();
        }
        Ok(self.files.pop_front())
    }
}

fn work(
    env: &Env,
    [unhurried, hurried]: [&Archive; 2],
    spool: &Spool,
    data: &DataDirectory,
    queue: &Mutex<Queue>,
    alive: &(dyn Fn() + Sync),
) -> Result<()> {
    loop {
        env.proceed()?;
        let (next, left, idle_ms) = {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let next = queue.next(env, spool, &data.path)?;
            (next, queue.files.len(), env.elapsed_ms(queue.worked_at_ms))
        };
        let Some(file) = next else {
            if idle_ms > IDLE_MS {
                return Ok(());
            }
            env.clock.sleep_ms(LOOK_AGAIN_MS);
            continue;
        };
        // Who only waits for another one, which may hang, does not work.
        let Some(_claim) = spool.claim(&file.to_string())? else { continue };
        queue.lock().unwrap_or_else(PoisonError::into_inner).worked_at_ms =
            env.clock.monotonic_ms();
        // The server may have archived it meanwhile, and removed it.
        if spool.is_noted(file) || !is_waiting(&data.path, file) {
            continue;
        }
        let path = data.path.join("pg_wal").join(file.to_string());
        let file = PushFile::look(&path, data)?;
        let archive = if left >= HURRY_FILES { hurried } else { unhurried };
        let (learned, begun) = (Learned::default(), env.clock.now());
        archive.push_and_learn(env, &file, &learned)?;
        spool.note_pushed(env, archive, &file, (&learned, begun))?;
        alive();
    }
}

fn is_waiting(data: &Path, file: WalFile) -> bool {
    data.join("pg_wal/archive_status").join(format!("{file}.ready")).exists()
}

/// Fetches one file, from what was fetched ahead if it is there.
pub fn fetch(
    env: &Env,
    archive: &Archive,
    spool: &Spool,
    file: WalFile,
    to: &Path,
) -> Result<Fetched> {
    let from_archive = || {
        let is_known = spool.is_known();
        let found = archive.fetch_known(env, file, to, is_known)?;
        if !is_known && found != Fetched::Absent {
            spool.note_known();
        }
        Ok(found)
    };
    let WalFile::Segment(segment) = file else { return from_archive() };
    let Some(_claim) = claimed(env, spool, file)? else { return from_archive() };
    match spool.take_fetched(archive, segment, to)? {
        true => Ok(Fetched::Whole),
        false => from_archive(),
    }
}

/// Notes that a segment was given, and says whether a helper is wanted for the next ones.
pub fn wants_fetcher(spool: &Spool, file: WalFile, segment_bytes: u64) -> bool {
    let WalFile::Segment(segment) = file else { return false };
    spool.note_wanted(segment, segment_bytes).is_ok()
        && spool.claim(FETCHER).is_ok_and(|claim| claim.is_some())
}

/// The helper that fetches ahead. `Ok` at its end, also if another one is at work.
pub fn run_fetcher(
    env: &Env,
    archive: &Archive,
    spool: &Spool,
    alive: &(dyn Fn() + Sync),
) -> Result<()> {
    let Some(own) = spool.claim(FETCHER)? else { return Ok(()) };
    let ended = fetch_ahead(env, archive, spool, alive);
    spool.drop_fetched_but(&[]);
    end(own);
    ended
}

/// Lets go of a helper's own lock, as the last thing.
fn end(own: Claim) {
    drop(own);
}

fn fetch_ahead(
    env: &Env,
    archive: &Archive,
    spool: &Spool,
    alive: &(dyn Fn() + Sync),
) -> Result<()> {
    let mut last = None;
    let mut changed_at_ms = env.clock.monotonic_ms();
    loop {
        env.proceed()?;
        let wanted = spool.wanted();
        if wanted != last {
            (last, changed_at_ms) = (wanted, env.clock.monotonic_ms());
        } else if env.elapsed_ms(changed_at_ms) > IDLE_MS {
            return Ok(());
        }
        let Some((segment, segment_bytes)) = wanted else { return Ok(()) };
        let count = (AHEAD_BYTES / segment_bytes.max(1)).max(2) as usize;
        let next = |segment: &super::name::Segment| Some(segment.next(segment_bytes));
        let ahead: Vec<_> = std::iter::successors(next(&segment), next).take(count).collect();
        spool.drop_fetched_but(&ahead);
        let worker = Env { threads: 1, ..env.clone() };
        let fetched = lifeboat_core::parallel::in_parallel(&ahead, env.threads.max(2), |segment| {
            // What lies far ahead is no matter if someone asked for more meanwhile.
            let fetched = spool.fetch_ahead(&worker, archive, *segment);
            alive();
            fetched
        });
        fetched.into_iter().collect::<Result<Vec<bool>>>()?;
        env.clock.sleep_ms(LOOK_AGAIN_MS);
    }
}
