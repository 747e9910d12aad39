//! The real world: clock, randomness, environment, standard streams.
//!
//! This is the only place that reads the clock, the environment and the host's name; everything
//! else gets them as values, so that it can be run with others. In debug builds the crash and
//! pause points, the clock, the disk and the default repository that tests use are set here; a
//! release build knows none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::env::{Clock, CrashPoints, Env, NoCrash, Random};
use lifeboat_core::event::Observer;
use lifeboat_core::secret::Secret;
use lifeboat_core::{Error, Kind, Result};

use crate::signals;

/// What the process was started with, read once.
pub(crate) struct Surroundings {
    /// The environment variables whose names the program knows.
    variables: BTreeMap<&'static str, OsString>,
    /// Whether we run as root.
    pub(crate) is_root: bool,
    /// Whether standard input is a terminal, so that a question can be asked.
    pub(crate) stdin_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error is a terminal, so that a progress bar can be drawn.
    pub(crate) stderr_is_terminal: bool,
    /// The zone in which times without an offset are meant and shown.
    pub(crate) time_zone: TimeZone,
}

/// Where the program keeps what is not in a repository.
pub(crate) struct Folders {
    /// Locks between runs on this host; `None` where no place is known.
    pub(crate) locks: Option<PathBuf>,
    /// What was read of repositories before; may be lost at any time.
    pub(crate) caches: Option<PathBuf>,
    /// What must be known of databases that are sealed; lost, it costs a backup.
    pub(crate) known: Option<PathBuf>,
    /// What helpers that work ahead of a server note; may be lost at any time.
    pub(crate) spool: Option<PathBuf>,
    /// Pages that wait to be stored, in files without a name.
    pub(crate) aside: Option<PathBuf>,
    /// Scratch restores, which are removed again.
    pub(crate) scratch: PathBuf,
}

/// Every variable that has a meaning for us. What is not here is never read.
const VARIABLES: &[&str] = &[
    "LIFEBOAT_CONFIG",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "HOME",
    "NO_COLOR",
    "TERM",
    "TMPDIR",
    "PGPASSFILE",
    "PGSERVICEFILE",
    "ADMIN_DB_TYPE",
    "ADMIN_DB_PATH",
    "ADMIN_DATABASE_URL",
    "BACKUP_DIR",
    "DATABASE_PATH",
    "DATABASE_URL",
    "RETENTION_DAYS",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "LIFEBOAT_AGENT",
    "LIFEBOAT_CRASH_AT",
    "LIFEBOAT_PAUSE_AT",
    "LIFEBOAT_CLOCK_AT",
    "LIFEBOAT_DISK_USED",
    "LIFEBOAT_DEFAULT_REPOSITORY",
];

impl Surroundings {
    /// Reads the environment, and asks the standard streams what they are.
    pub(crate) fn read() -> Self {
        let variables = VARIABLES
            .iter()
            .filter_map(|name| Some((*name, std::env::var_os(name)?)))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Surroundings {
            variables,
            is_root: rustix::process::geteuid().is_root(),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            time_zone: TimeZone::system(),
        }
    }

    /// Surroundings made up for a test.
    #[cfg(test)]
    pub(crate) fn for_test(variables: &[(&'static str, &str)], is_root: bool) -> Self {
        Surroundings {
            variables: variables.iter().map(|(name, value)| (*name, value.into())).collect(),
            is_root,
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            time_zone: TimeZone::UTC,
        }
    }

    /// A variable that is set and not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsString> {
        debug_assert!(VARIABLES.contains(&name), "{name} is missing in VARIABLES");
        self.variables.get(name)
    }

    /// A variable that holds a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from)
    }

    /// `$XDG_CONFIG_HOME/lifeboat`, or `~/.config/lifeboat`.
    pub(crate) fn config_folder(&self) -> Option<PathBuf> {
        self.xdg_folder("XDG_CONFIG_HOME", ".config")
    }

    /// `$XDG_DATA_HOME/lifeboat`, or `~/.local/share/lifeboat`.
    pub(crate) fn data_folder(&self) -> Option<PathBuf> {
        self.xdg_folder("XDG_DATA_HOME", ".local/share")
    }

    fn xdg_folder(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        // A relative path in an XDG variable is invalid by its specification and is ignored.
        let named = self.path(variable).filter(|path| path.is_absolute());
        let base = named.or_else(|| Some(self.path("HOME")?.join(below_home)));
        Some(base?.join("lifeboat"))
    }

    /// Where state and scratch files go: `/var/lib/lifeboat` for root unless XDG_STATE_HOME says
    /// otherwise, and `$TMPDIR` or `/var/tmp`, which is made for large files.
    pub(crate) fn folders(&self) -> Folders {
        let state = match self.is_root && self.variable("XDG_STATE_HOME").is_none() {
            true => Some(PathBuf::from("/var/lib/lifeboat")),
            false => self.xdg_folder("XDG_STATE_HOME", ".local/state"),
        };
        Folders {
            locks: state.as_ref().map(|state| state.join("locks")),
            known: state.as_ref().map(|state| state.join("known")),
            spool: state.as_ref().map(|state| state.join("wal")),
            aside: state.as_ref().map(|state| state.join("aside")),
            caches: state.map(|state| state.join("cache")),
            scratch: self.path("TMPDIR").unwrap_or_else(|| PathBuf::from("/var/tmp")),
        }
    }

    /// The world of a run: the real clock and random numbers, and that observer.
    pub(crate) fn env(&self, host: Option<String>, observer: Arc<dyn Observer>) -> Env {
        let mut clock = SystemClock::start();
        if cfg!(debug_assertions) {
            let shown = self.variable("LIFEBOAT_CLOCK_AT").and_then(|text| text.to_str());
            clock.shown = shown.and_then(Shown::parse);
        }
        let clock = Arc::new(clock);
        let host = host.unwrap_or_else(host_name);
        let mut env = Env::new(clock.clone(), Arc::new(SystemRandom), host);
        env.crash = self.crash_points(clock);
        env.observer = observer;
        env
    }

    /// How full the disks of repositories are for a prune and for the doctor, in percent, where a
    /// test says so.
    pub(crate) fn disk_used_percent(&self) -> Option<u64> {
        let text = self.variable("LIFEBOAT_DISK_USED").filter(|_| cfg!(debug_assertions))?;
        text.to_str()?.parse().ok()
    }

    fn crash_points(&self, clock: Arc<SystemClock>) -> Arc<dyn CrashPoints> {
        if !cfg!(debug_assertions) {
            return Arc::new(NoCrash);
        }
        let text = |name| Some(self.variable(name)?.to_string_lossy().into_owned());
        let pause = text("LIFEBOAT_PAUSE_AT").and_then(|value| {
            let (point, until) = value.split_once(':')?;
            Some((point.to_owned(), Pause::of(until)?))
        });
        Arc::new(ArmedPoints { crash_at: text("LIFEBOAT_CRASH_AT"), pause, clock })
    }
}

/// The folders in which programs are looked for.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()
}

/// A variable that the configuration names as the place of a secret.
pub(crate) fn secret_variable(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

/// The world of a look at something outside a run. A signal ends it.
pub(crate) fn looking() -> Env {
    let mut env = Env::new(Arc::new(SystemClock::start()), Arc::new(SystemRandom), host_name());
    env.stop = signals::catch();
    env
}

/// Where scratch files go: see [`Surroundings::folders`].
pub(crate) fn scratch_folder() -> PathBuf {
    let named = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    named.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// The variables that PostgreSQL's client library knows, and the password among them.
pub(crate) fn postgres_variables() -> (BTreeMap<String, String>, Option<String>) {
    let all = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("PG"))?;
        Some((name, value.into_string().ok()?))
    });
    let mut variables: BTreeMap<String, String> = all.collect();
    let password = variables.remove("PGPASSWORD").filter(|password| !password.is_empty());
    (variables, password)
}

/// The home folder of the user that we run as, as the environment has it.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// The variables that the tools of storage providers read.
pub(crate) fn of_providers(names: &[&str]) -> BTreeMap<String, Secret> {
    let value = |name: &&str| {
        let text = std::env::var_os(name)?.into_string().ok().filter(|text| !text.is_empty())?;
        Some(((*name).to_owned(), Secret::new(text)))
    };
    names.iter().filter_map(value).collect()
}

/// Where systemd puts the credentials of a unit.
pub(crate) fn credentials_folder() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// The name of this host, as manifests show it.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The system's clocks.
pub(crate) struct SystemClock {
    start: Instant,
    /// The time of day that is shown, where a test says so.
    shown: Option<Shown>,
    /// By how much the monotonic reading was put forward, where a test says so.
    ahead_ms: AtomicU64,
}

/// A time of day that goes on from another moment than now.
struct Shown {
    at_start: Timestamp,
    /// Where names have whole seconds, a run that the host delays should not get another name.
    times_slower: u32,
}

impl Shown {
    /// A moment, and behind a stroke how many times slower time passes, if so.
    fn parse(text: &str) -> Option<Self> {
        let (at_start, times_slower) = text.split_once('/').unwrap_or((text, "1"));
        let times_slower = times_slower.parse().ok().filter(|times| *times > 0)?;
        Some(Shown { at_start: at_start.parse().ok()?, times_slower })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the Env.clock that all others use")]
impl SystemClock {
    /// A clock whose monotonic reading starts now.
    pub(crate) fn start() -> Self {
        SystemClock { start: Instant::now(), shown: None, ahead_ms: AtomicU64::new(0) }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the Env.clock that all others use")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let Some(shown) = &self.shown else { return Timestamp::now() };
        let passed = self.start.elapsed() / shown.times_slower;
        shown.at_start.saturating_add(passed).unwrap_or(shown.at_start)
    }

    fn monotonic_ms(&self) -> u64 {
        let passed_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        passed_ms.saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
}

/// A wall clock that stands at a moment which a person named. Other time goes on.
pub(crate) struct StandingClock {
    /// What it shows.
    pub(crate) moment: Timestamp,
    /// Where all other time comes from.
    pub(crate) real: Arc<dyn Clock>,
}

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        self.moment
    }

    fn monotonic_ms(&self) -> u64 {
        self.real.monotonic_ms()
    }

    fn sleep_ms(&self, milliseconds: u64) {
        self.real.sleep_ms(milliseconds);
    }
}

/// The kernel's random numbers.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        // Without random numbers ids could collide; there is nothing to go on with.
        getrandom::fill(buffer).expect("the kernel gives random numbers");
    }
}

/// Ends or holds the process at a named point, for tests.
struct ArmedPoints {
    crash_at: Option<String>,
    pause: Option<(String, Pause)>,
    clock: Arc<SystemClock>,
}

/// For how long a process is held.
enum Pause {
    Milliseconds(u64),
    /// Not at all: so much of the run's time is over at once.
    Later(u64),
    /// While a file is there, which the process makes when it comes to the point for the first
    /// time.
    File(PathBuf, AtomicBool),
}

impl Pause {
    fn of(text: &str) -> Option<Self> {
        match (text.starts_with('/'), text.strip_prefix('+')) {
            (true, _) => Some(Pause::File(text.into(), AtomicBool::new(false))),
            (false, Some(later)) => Some(Pause::Later(later.parse().ok()?)),
            (false, None) => Some(Pause::Milliseconds(text.parse().ok()?)),
        }
    }
}

impl CrashPoints for ArmedPoints {
    fn pass(&self, point: &'static str) -> Result<()> {
        if let Some((name, pause)) = &self.pause
            && name == point
        {
            let begun_ms = self.clock.monotonic_ms();
            if let Pause::File(path, was_held) = pause
                && !was_held.swap(true, Ordering::Relaxed)
            {
                let made = std::fs::File::create(path);
                made.map_err(|error| {
                    Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
                })?;
            }
            if let Pause::Later(milliseconds) = pause {
                self.clock.ahead_ms.fetch_add(*milliseconds, Ordering::Relaxed);
            }
            let is_held = || match pause {
                Pause::Later(_) => false,
                Pause::File(path, _) => path.exists(),
                Pause::Milliseconds(all) => self.clock.monotonic_ms() - begun_ms < *all,
            };
            // In slices, as a run that is held must still hear a signal.
            while is_held() && !signals::is_caught() {
                self.clock.sleep_ms(10);
            }
        }
        if self.crash_at.as_deref() == Some(point) {
            // SIGKILL, as nothing may run afterwards: no destructor, no flush.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
        Ok(())
    }
}

/// The default repository where nothing is configured: `/var/backups/lifeboat` for root, else
/// the user's data folder. In a debug build a test may say otherwise: none must write to root's.
pub(crate) fn default_repository(surroundings: &Surroundings) -> Option<PathBuf> {
    let of_test = surroundings.path("LIFEBOAT_DEFAULT_REPOSITORY");
    if cfg!(debug_assertions) && of_test.is_some() {
        return of_test;
    }
    match surroundings.is_root {
        true => Some(Path::new("/var/backups/lifeboat").to_owned()),
        false => surroundings.data_folder(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_follow_xdg_then_home() {
        let home = Surroundings::for_test(&[("HOME", "/home/ann")], false);
        assert_eq!(home.config_folder(), Some("/home/ann/.config/lifeboat".into()));
        assert_eq!(default_repository(&home), Some("/home/ann/.local/share/lifeboat".into()));
        let xdg = Surroundings::for_test(
            &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "/data"), ("XDG_CONFIG_HOME", "relative")],
            false,
        );
        assert_eq!(default_repository(&xdg), Some("/data/lifeboat".into()));
        assert_eq!(xdg.config_folder(), Some("/home/ann/.config/lifeboat".into()));
    }

    #[test]
    fn root_without_a_home_has_a_repository() {
        let root = Surroundings::for_test(&[], true);
        assert_eq!(default_repository(&root), Some("/var/backups/lifeboat".into()));
        assert_eq!(root.config_folder(), None);
    }
}
