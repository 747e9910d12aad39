//! Watching from outside: when files of a repository become visible, how large a `-wal` grows, and
//! what a process uses.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// How often the folders are looked at: so much later than it was there a file may be seen.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of the footer of a log file of ours, and where in it the time is until which all is held.
const OUR_FOOTER: (u64, u64) = (344, 104);
/// Where the head of a file of Litestream's has its time.
const LTX_TIME: u64 = 32;

/// What a file of a repository is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// What was written last, as it was shipped first.
    Log,
    /// Made of several of these.
    Merged,
    /// A whole database, and what describes it.
    Base,
}

/// A file, when it was first seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Microseconds since 1970.
    pub(super) at_us: u64,
    pub(super) bytes: u64,
    pub(super) role: Role,
    /// Everything is in it that was committed until then, by what it says of itself.
    pub(super) held_us: u64,
}

#[derive(Default)]
struct State {
    known: HashSet<PathBuf>,
    seen: Vec<Seen>,
    wal_bytes_max: u64,
}

/// A thread that looks at a repository and a `-wal`.
pub(super) struct Watch {
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn begin(stored: PathBuf, wal: PathBuf) -> Self {
        let (state, is_over) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let (of_thread, end) = (state.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                look(&stored, &wal, &mut of_thread.lock().unwrap_or_else(PoisonError::into_inner));
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Watch { state, is_over, thread: Some(thread) }
    }

    /// The files seen since the last call, and the largest `-wal`.
    pub(super) fn take(&self) -> (Vec<Seen>, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.seen), std::mem::take(&mut state.wal_bytes_max))
    }

    /// The newest moment that is held by a file seen since the last `take`.
    pub(super) fn held_us(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen.iter().map(|seen| seen.held_us).max().unwrap_or(0)
    }

    /// How many files were seen so far in which the whole database is.
    pub(super) fn bases(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen.iter().filter(|seen| seen.role == Role::Base).count()
    }

    /// The same of files that were made of several.
    pub(super) fn merged(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen.iter().filter(|seen| seen.role == Role::Merged).count()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look(stored: &Path, wal: &Path, state: &mut State) {
    if let Ok(found) = fs::metadata(wal) {
        state.wal_bytes_max = state.wal_bytes_max.max(found.len());
    }
    let mut open = vec![stored.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = name.to_string_lossy();
            if is_folder {
                open.push(path);
            } else if !name.starts_with('.') && !name.ends_with(".tmp") {
                add(path, state);
            }
        }
    }
}

fn add(path: PathBuf, state: &mut State) {
    if state.known.contains(&path) {
        return;
    }
    let Ok(found) = fs::metadata(&path) else { return };
    let level = path.parent().and_then(Path::file_name).unwrap_or_default().to_owned();
    let is_ltx = path.extension().is_some_and(|extension| extension == "ltx");
    let is_log = path.extension().is_some_and(|extension| extension == "pagelog");
    let role = match level.to_str() {
        Some("0") if is_ltx || is_log => Role::Log,
        Some("9") if is_ltx => Role::Base,
        _ if is_ltx || is_log => Role::Merged,
        _ => Role::Base,
    };
    let held_us = match role {
        Role::Log => held_us(&path, found.len(), is_ltx).unwrap_or(0),
        _ => 0,
    };
    state.seen.push(Seen { at_us: now_us(), bytes: found.len(), role, held_us });
    state.known.insert(path);
}

fn held_us(path: &Path, bytes: u64, is_ltx: bool) -> Option<u64> {
    let file = fs::File::open(path).ok()?;
    let mut number = [0; 8];
    let at = match is_ltx {
        true => LTX_TIME,
        false => bytes.checked_sub(OUR_FOOTER.0)? + OUR_FOOTER.1,
    };
    file.read_exact_at(&mut number, at).ok()?;
    let ms = match is_ltx {
        true => u64::from_be_bytes(number),
        false => u64::from_le_bytes(number),
    };
    Some(ms * 1000)
}

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}

/// Processor time that a process used so far, in seconds.
pub(super) fn cpu_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // SAFETY: it takes a number and gives a number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (ticks() + ticks()) / per_second as f64
}

/// The largest resident set of a process since [`forget_memory`], in bytes.
pub(super) fn memory_bytes_peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// Lets the peak begin anew.
pub(super) fn forget_memory(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}
