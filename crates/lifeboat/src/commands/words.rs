//! The words that several commands take for methods and checks.

use clap::ValueEnum;
use lifeboat_core::manifest::{CheckLevel, Method};

/// How the moment of a backup is obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodWord {
    /// While the application writes, without stopping it
    Online,
    /// After a checkpoint, which must be complete
    Checkpoint,
    /// While its service is stopped
    Cold,
}

impl From<MethodWord> for Method {
    fn from(word: MethodWord) -> Method {
        match word {
            MethodWord::Online => Method::Online,
            MethodWord::Checkpoint => Method::Checkpoint,
            MethodWord::Cold => Method::Cold,
        }
    }
}

/// How thoroughly a database is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckWord {
    /// The stored bytes are compared, the database is not looked at
    None,
    /// Its structure
    Quick,
    /// Its structure, its indexes against its tables, its foreign keys
    Full,
}

impl From<CheckWord> for CheckLevel {
    fn from(word: CheckWord) -> CheckLevel {
        match word {
            CheckWord::None => CheckLevel::None,
            CheckWord::Quick => CheckLevel::Quick,
            CheckWord::Full => CheckLevel::Full,
        }
    }
}

/// How thoroughly backups are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelWord {
    /// Every stored byte is read and compared, and nothing is opened: for sealed backups where
    /// their key is not
    Stored,
    /// Every stored byte is read, opened, decompressed, and compared with the manifest
    Hash,
    /// And the structure of the database in it is checked
    Quick,
    /// And its indexes and foreign keys
    Full,
}

impl From<LevelWord> for CheckLevel {
    fn from(word: LevelWord) -> CheckLevel {
        match word {
            LevelWord::Stored | LevelWord::Hash => CheckLevel::None,
            LevelWord::Quick => CheckLevel::Quick,
            LevelWord::Full => CheckLevel::Full,
        }
    }
}
