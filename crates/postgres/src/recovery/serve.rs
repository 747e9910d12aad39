//! The log, served to a server of ours that may not open the repository.
//!
//! The server runs as another user than we do, and the repository is ours alone. So its restore
//! command is a small script which asks for a file by making one, and waits until we have put the
//! file, or a note that there is none, into a private folder. The next segments are fetched before
//! they are asked for. The exit codes are those that a server needs: 1 only if the file does not
//! exist, 126 for everything else, so that an outage is never taken for the end of the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Result};

use super::write::{failed, give};

/// So many segments are fetched before they are asked for.
const AHEAD: usize = 4;
/// How often the folder is looked at, in milliseconds.
const LOOK_MS: u64 = 2;
const SCRIPT: &str = "fetch";
const WANTED: &str = "wanted";
const READY: &str = "ready";
const MISSING: &str = "missing";
const INCOMING: &str = "incoming";

/// Where files of the log come from.
pub trait Supply: Send + Sync {
    /// Fetches a file to a path. `false` only if it is certain that there is no such file.
    fn fetch(&self, env: &Env, name: &str, to: &Path) -> Result<bool>;
    /// The name of the segment that follows.
    fn next(&self, name: &str) -> Option<String>;
}

/// No log at all: of a backup that brings what it needs.
pub struct NoLog;

impl Supply for NoLog {
    fn fetch(&self, _env: &Env, _name: &str, _to: &Path) -> Result<bool> {
        Ok(false)
    }

    fn next(&self, _name: &str) -> Option<String> {
        None
    }
}

/// What happened so far.
#[derive(Default)]
struct State {
    served: u64,
    last: Option<String>,
    failure: Option<Error>,
}

/// Serves until it is dropped.
pub struct LogServer {
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogServer {
    /// Begins to serve through a folder, which must be there and belong to the server's user.
    pub fn start(
        env: &Env,
        supply: Arc<dyn Supply>,
        folder: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<Self> {
        for name in [WANTED, READY, MISSING, INCOMING] {
            let path = folder.join(name);
            fs::create_dir(&path).map_err(|error| failed("make", &path, error))?;
            give(&path, owner)?;
        }
        let script = folder.join(SCRIPT);
        fs::write(&script, script_text(folder)).map_err(|error| failed("write", &script, error))?;
        give(&script, owner)?;
        let (state, over) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let worker = Worker {
            env: env.clone(),
            supply,
            folder: folder.to_owned(),
            owner,
            state: Arc::clone(&state),
            over: Arc::clone(&over),
            ahead: None,
            fetched_ahead: Vec::new(),
        };
        let thread = Some(std::thread::spawn(move || worker.run()));
        Ok(LogServer { folder: folder.to_owned(), state, over, thread })
    }

    /// The restore command of the server.
    pub fn command(&self) -> String {
        let script = self.folder.join(SCRIPT).display().to_string().replace('\'', "'\\''");
        // A percent sign would be read as one of the server's own.
        format!("/bin/sh '{}' %f \"%p\"", script.replace('%', "%%"))
    }

    /// Files that were given to the server, and the last of them.
    pub fn served(&self) -> (u64, Option<String>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.served, state.last.clone())
    }

    /// Why a file could not be given, once.
    pub fn failure(&self) -> Option<Error> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `kill -0` would not do: we are another user.
fn script_text(folder: &Path) -> String {
    let folder = folder.display().to_string().replace('\'', "'\\''");
    let process = std::process::id();
    format!(
        "cd '{folder}' || exit 126\n\
         case $2 in /*) place=$2 ;; *) place=$OLDPWD/$2 ;; esac\n\
         [ -e '{READY}/'\"$1\" ] || : > '{WANTED}/'\"$1\" || exit 126\n\
         while :; do\n\
         [ -e '{READY}/'\"$1\" ] && {{ mv '{READY}/'\"$1\" \"$place\" && exit 0; exit 126; }}\n\
         [ -e '{MISSING}/'\"$1\" ] && {{ rm -f '{MISSING}/'\"$1\"; exit 1; }}\n\
         [ -d /proc/{process} ] || exit 126\n\
         [ -e failed ] && exit 126\n\
         sleep 0.01\n\
         done\n"
    )
}

struct Worker {
    env: Env,
    supply: Arc<dyn Supply>,
    folder: PathBuf,
    owner: Option<(u32, u32)>,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    /// What is fetched next without being asked for.
    ahead: Option<String>,
    fetched_ahead: Vec<String>,
}

impl Worker {
    fn run(mut self) {
        while !self.over.load(Ordering::Relaxed) {
            let step = match self.wanted() {
                Ok(Some(name)) => self.answer(&name),
                Ok(None) => self.go_ahead(),
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                let _ = fs::write(self.folder.join("failed"), b"");
                self.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(error);
                return;
            }
        }
    }

    /// A file that the server waits for.
    fn wanted(&self) -> Result<Option<String>> {
        let folder = self.folder.join(WANTED);
        let mut entries = fs::read_dir(&folder).map_err(|error| failed("read", &folder, error))?;
        let entry = entries.next().transpose().map_err(|error| failed("read", &folder, error))?;
        Ok(entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
    }

    fn answer(&mut self, name: &str) -> Result<()> {
        let ready = self.folder.join(READY).join(name);
        let is_there = ready.exists() || self.fetch(name)?;
        let wanted = self.folder.join(WANTED).join(name);
        if !is_there {
            // The server's script takes the note away as soon as it sees it: complete by then.
            let note = self.folder.join(INCOMING).join(name);
            fs::write(&note, b"").map_err(|error| failed("write", &note, error))?;
            give(&note, self.owner)?;
            fs::remove_file(&wanted).map_err(|error| failed("remove", &wanted, error))?;
            let missing = self.folder.join(MISSING).join(name);
            return fs::rename(&note, &missing).map_err(|error| failed("move", &note, error));
        }
        fs::remove_file(&wanted).map_err(|error| failed("remove", &wanted, error))?;
        // The server jumps where it likes: what was fetched for another way makes room.
        if !self.fetched_ahead.iter().any(|fetched| fetched == name)
            && self.supply.next(name).is_some()
        {
            self.forget_ahead();
            self.ahead = self.supply.next(name);
        }
        Ok(())
    }

    /// Fetches a file and shows it to the server.
    fn fetch(&self, name: &str) -> Result<bool> {
        let incoming = self.folder.join(INCOMING).join(name);
        if !self.supply.fetch(&self.env, name, &incoming)? {
            return Ok(false);
        }
        give(&incoming, self.owner)?;
        let ready = self.folder.join(READY).join(name);
        fs::rename(&incoming, &ready).map_err(|error| failed("move", &incoming, error))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.served += 1;
        state.last = Some(name.to_owned());
        Ok(true)
    }

    fn go_ahead(&mut self) -> Result<()> {
        let folder = self.folder.join(READY);
        self.fetched_ahead.retain(|name| folder.join(name).exists());
        let has_room = self.fetched_ahead.len() < AHEAD;
        let Some(name) = self.ahead.clone().filter(|_| has_room) else {
            self.env.clock.sleep_ms(LOOK_MS);
            return Ok(());
        };
        self.ahead = None;
        if folder.join(&name).exists() || self.fetch(&name)? {
            self.ahead = self.supply.next(&name);
            self.fetched_ahead.push(name);
        }
        Ok(())
    }

    fn forget_ahead(&mut self) {
        for name in self.fetched_ahead.drain(..) {
            let _ = fs::remove_file(self.folder.join(READY).join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_core::Kind;

    use super::*;

    struct Some3;

    impl Supply for Some3 {
        fn fetch(&self, _env: &Env, name: &str, to: &Path) -> Result<bool> {
            match name {
                "1" | "2" | "3" => {
                    fs::write(to, name).unwrap();
                    Ok(true)
                }
                "broken" => Err(Error::new(Kind::StoreUnavailable, "the store is away")),
                _ => Ok(false),
            }
        }

        fn next(&self, name: &str) -> Option<String> {
            name.parse::<u32>().ok().map(|number| (number + 1).to_string())
        }
    }

    struct Ticking;

    impl lifeboat_core::env::Clock for Ticking {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic_ms(&self) -> u64 {
            0
        }

        #[allow(clippy::disallowed_methods, reason = "a test on real processes")]
        fn sleep_ms(&self, milliseconds: u64) {
            std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        }
    }

    impl lifeboat_core::env::Random for Ticking {
        fn fill(&self, _buffer: &mut [u8]) {}
    }

    #[test]
    fn files_come_and_what_is_missing_is_not_what_failed() {
        let folder = tempfile::Builder::new().prefix("it's ").tempdir().unwrap();
        let data = tempfile::tempdir().unwrap();
        let env = Env::new(Arc::new(Ticking), Arc::new(Ticking), "host");
        let server = LogServer::start(&env, Arc::new(Some3), folder.path(), None).unwrap();
        let ask = |name: &str| {
            let script = folder.path().join(SCRIPT);
            let mut command = std::process::Command::new("/bin/sh");
            let status = command.arg(script).args([name, "place"]).current_dir(data.path());
            status.status().unwrap().code()
        };
        for name in ["1", "2", "3", "1", "3"] {
            assert_eq!(ask(name), Some(0), "{name}");
            assert_eq!(fs::read_to_string(data.path().join("place")).unwrap(), name);
        }
        assert_eq!(ask("4"), Some(1));
        assert_eq!(ask("00000002.history"), Some(1));
        assert_eq!(ask("2"), Some(0));
        assert!(server.failure().is_none());
        assert_eq!(ask("broken"), Some(126));
        assert_eq!(server.failure().unwrap().kind(), Kind::StoreUnavailable);
        assert_eq!(ask("1"), Some(126), "after a failure nothing is the end of the log");
    }
}
