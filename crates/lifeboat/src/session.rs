//! What all commands share: the world, the way to print, the options of every command, and the
//! configuration, read when first asked for.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::event::Observer;
use lifeboat_core::seal::Keys;

use crate::cli::Globals;
use crate::config::{self, Loaded};
use crate::keys::Keyring;
use crate::notify::Ended;
use crate::ui::Printer;
use crate::ui::progress::Progress;
use crate::world::{Folders, StandingClock, Surroundings, SystemClock};

/// The program and its version, as manifests name it.
pub(crate) const TOOL: &str = concat!("lifeboat ", env!("CARGO_PKG_VERSION"));

/// One run of the program.
pub(crate) struct Session {
    /// What the process was started with.
    pub(crate) surroundings: Surroundings,
    /// The way out.
    pub(crate) printer: Arc<Printer>,
    /// The observer of runs.
    pub(crate) progress: Arc<Progress>,
    /// The options of every command.
    pub(crate) globals: Globals,
    /// Where state and scratch files go.
    pub(crate) folders: Folders,
    loaded: OnceCell<Loaded>,
    keys: OnceCell<Option<Arc<dyn Keys>>>,
    ended: RefCell<Option<Vec<Ended>>>,
}

impl Session {
    /// A run with those options.
    pub(crate) fn new(surroundings: Surroundings, printer: Printer, globals: Globals) -> Self {
        let printer = Arc::new(printer);
        let clock = Arc::new(SystemClock::start());
        let is_terminal = surroundings.stderr_is_terminal;
        let progress = Arc::new(Progress::new(printer.clone(), clock, is_terminal));
        let folders = surroundings.folders();
        let (loaded, keys, ended) = (OnceCell::new(), OnceCell::new(), RefCell::default());
        Session { surroundings, printer, progress, globals, folders, loaded, keys, ended }
    }

    /// The same run with the configuration read anew.
    pub(crate) fn again(&self) -> Self {
        let surroundings = Surroundings::read();
        Session {
            folders: surroundings.folders(),
            surroundings,
            printer: Arc::clone(&self.printer),
            progress: Arc::clone(&self.progress),
            globals: self.globals.clone(),
            loaded: OnceCell::new(),
            keys: OnceCell::new(),
            ended: RefCell::default(),
        }
    }

    /// The configuration: of a file, else of the variables, else an empty one.
    pub(crate) fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let (named, env_file) = (self.globals.config.as_deref(), self.globals.env_file.as_deref());
        // A file of variables that was named is meant instead of what would be found.
        let found = match env_file {
            Some(_) => None,
            None => config::load(&self.surroundings, named)?,
        };
        let loaded = match found {
            Some(loaded) => loaded,
            None => {
                let config = config::environment::config(&self.surroundings, env_file)?;
                Loaded { config: config.unwrap_or_default(), ..Loaded::default() }
            }
        };
        Ok(self.loaded.get_or_init(|| loaded))
    }

    /// The configuration alone, when all that needed more is done.
    pub(crate) fn into_loaded(self) -> Result<Loaded> {
        self.loaded()?;
        Ok(self.loaded.into_inner().unwrap_or_default())
    }

    /// What opens sealed backups, if anything was named. Nothing is read yet.
    pub(crate) fn keys(&self) -> Result<Option<Arc<dyn Keys>>> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys.clone());
        }
        let configured = self.loaded()?.config.identity.clone();
        let keys = Keyring::new(&self.globals.identity, configured, self);
        Ok(self.keys.get_or_init(|| keys.map(|keys| Arc::new(keys) as Arc<dyn Keys>)).clone())
    }

    /// The keys in those files alone.
    pub(crate) fn keys_of(&self, files: &[PathBuf]) -> Option<Arc<dyn Keys>> {
        Keyring::new(files, None, self).map(|keys| Arc::new(keys) as Arc<dyn Keys>)
    }

    /// The files that the configuration was read from; none where there is none.
    pub(crate) fn config_files(&self) -> Result<Vec<PathBuf>> {
        Ok(self.loaded()?.places.files.iter().map(|file| file.path.clone()).collect())
    }

    /// From now on, how the things of this run end is noted.
    pub(crate) fn begin_noting(&self) {
        self.ended.replace(Some(Vec::new()));
    }

    /// How one thing of this run ended, for whoever is told at its end, if anybody is.
    pub(crate) fn note_ended(&self, one: Option<Ended>) {
        if let (Some(ended), Some(one)) = (self.ended.borrow_mut().as_mut(), one) {
            ended.push(one);
        }
    }

    /// What was noted; from now on nothing is.
    pub(crate) fn take_ended(&self) -> Vec<Ended> {
        self.ended.take().unwrap_or_default()
    }

    /// The world of a run.
    pub(crate) fn env(&self) -> Result<Env> {
        let host = self.loaded()?.config.host.clone();
        let observer = Arc::clone(&self.progress) as Arc<dyn Observer>;
        let mut env = self.surroundings.env(host, observer);
        if let Some(text) = &self.globals.now {
            let zone = &self.surroundings.time_zone;
            let moment = lifeboat_core::moment::parse(text, env.clock.now(), zone)?;
            env.clock = Arc::new(StandingClock { moment, real: env.clock });
        }
        Ok(env)
    }
}
