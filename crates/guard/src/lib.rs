//! A migration of a Rust program behind a backup that `lifeboat` makes.
//!
//! ```no_run
//! # fn migrate() -> Result<(), std::io::Error> { Ok(()) }
//! use lifeboat_guard::Guard;
//!
//! Guard::new("/var/lib/app/app.db").rollback(true).run(|_ready| migrate())?;
//! # Ok::<(), lifeboat_guard::Error<std::io::Error>>(())
//! ```
//!
//! This crate has no SQLite in it and opens no database: it starts `lifeboat guard --caller`, waits
//! until that has made a verified backup, runs the closure, and tells how it went. So it fits
//! beside any library of migrations and any version of SQLite.
//!
//! The closure must have closed its connections to the database when it returns. Otherwise a
//! rollback is refused, as the program would go on with a file that is no longer at its place; and
//! what another connection writes meanwhile is lost by going back.

mod process;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use process::Process;

/// How a migration is guarded.
#[derive(Clone, Debug)]
pub struct Guard {
    database: OsString,
    program: PathBuf,
    globals: Vec<OsString>,
    options: Vec<OsString>,
}

/// The backup that the migration runs behind.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The command that goes back; `None` where there was no database yet.
    pub restore: Option<String>,
}

/// Why a migration is not in force.
#[derive(Debug)]
pub enum Error<E> {
    /// There is no backup, so the migration was not run.
    NotRun {
        /// What failed.
        message: String,
        /// What mends it, where that is known.
        hint: Option<String>,
    },
    /// The migration failed, or left the database other than it must be.
    Failed {
        /// What the closure gave; `None` where it succeeded, and something that had to hold does
        /// not.
        cause: Option<E>,
        /// What became of the database, in words.
        message: String,
        /// The command that goes back; `None` where there was no database before.
        restore: Option<String>,
        /// Whether the backup was restored.
        rolled_back: bool,
    },
    /// The closure ended, and `lifeboat` did not tell what the database is like.
    Unknown {
        /// What the closure gave, if it failed.
        cause: Option<E>,
        /// What is known.
        message: String,
        /// The command that goes back.
        restore: Option<String>,
    },
}

impl Guard {
    /// A guard of a database: its path, or the name of its source in the configuration.
    pub fn new(database: impl Into<OsString>) -> Guard {
        Guard {
            database: database.into(),
            program: PathBuf::from("lifeboat"),
            globals: Vec::new(),
            options: Vec::new(),
        }
    }

    /// The program, where it is not `lifeboat` in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Guard {
        self.program = path.into();
        self
    }

    /// The configuration's file.
    #[must_use]
    pub fn config(mut self, file: impl Into<OsString>) -> Guard {
        self.globals.extend(["--config".into(), file.into()]);
        self
    }

    /// The repository: a URL, a path with a `/`, or a name of the configuration.
    #[must_use]
    pub fn repository(mut self, repository: impl Into<OsString>) -> Guard {
        self.globals.extend(["--repo".into(), repository.into()]);
        self
    }

    /// Puts the backup beside the database instead of into a repository.
    #[must_use]
    pub fn beside(mut self) -> Guard {
        self.options.push("--beside".into());
        self
    }

    /// A query whose answer must be the same before and after; with `after:` before it, one that
    /// must be true afterwards.
    #[must_use]
    pub fn invariant(mut self, sql: impl Into<OsString>) -> Guard {
        self.options.extend(["--invariant".into(), sql.into()]);
        self
    }

    /// Whether the backup is restored where the migration fails, panics, or its process is killed.
    /// Without, the error says how to do so.
    #[must_use]
    pub fn rollback(mut self, rollback: bool) -> Guard {
        self.options.retain(|option| option != "--rollback");
        if rollback {
            self.options.push("--rollback".into());
        }
        self
    }

    /// Makes the backup, then runs the migration. When this returns `Ok`, the migration succeeded,
    /// and what had to hold afterwards holds.
    pub fn run<T, E>(&self, migration: impl FnOnce(&Ready) -> Result<T, E>) -> Result<T, Error<E>> {
        let mut process = Process::start(self).map_err(Error::not_run)?;
        let ready = match process.line() {
            Some(line) if line["type"] == "ready" => Ready { restore: text(&line["restore"]) },
            _ => return Err(Error::not_run(process.why())),
        };
        // Should it panic, the process is told by the end of its input.
        let (value, cause) = match migration(&ready) {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error)),
        };
        let told = process.tell(if value.is_some() { "succeeded" } else { "failed" });
        let result = process.line().filter(|line| told && line["type"] == "result");
        let Some(result) = result else {
            let message = process.why().0;
            return Err(Error::Unknown { cause, message, restore: ready.restore });
        };
        let ended_well = process.ended_well();
        match value {
            Some(value) if result["outcome"] == "succeeded" && ended_well => Ok(value),
            _ => Err(Error::Failed {
                cause,
                message: text(&result["error"]["message"]).unwrap_or_default(),
                rolled_back: result["outcome"] == "rolled-back",
                restore: ready.restore,
            }),
        }
    }
}

impl<E> Error<E> {
    fn not_run((message, hint): (String, Option<String>)) -> Self {
        Error::NotRun { message, hint }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = |f: &mut fmt::Formatter<'_>, cause: &Option<E>| match cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        };
        let way_back = |f: &mut fmt::Formatter<'_>, restore: &Option<String>| match restore {
            Some(restore) => write!(f, "; to go back: {restore}"),
            None => Ok(()),
        };
        match self {
            Error::NotRun { message, hint } => {
                write!(f, "the migration was not run: {message}")?;
                hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
            }
            Error::Failed { cause: why, message, restore, rolled_back } => {
                write!(f, "{message}")?;
                cause(f, why)?;
                if *rolled_back { Ok(()) } else { way_back(f, restore) }
            }
            Error::Unknown { cause: why, message, restore } => {
                write!(f, "nobody looked at the database after the migration: {message}")?;
                cause(f, why)?;
                way_back(f, restore)
            }
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Error<E> {}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
