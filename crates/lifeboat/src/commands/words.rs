//! The words that several commands take for methods and checks.

use clap::ValueEnum;
use lifeboat_core::Result;
use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::restore::Mapping;

use crate::ui::units;

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

/// What is called otherwise on this host than where it was backed up.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct MappingArgs {
    /// A folder that has another path on this host, with all that is in it; may be given again
    #[arg(long, value_name = "OLD=NEW")]
    map_path: Vec<String>,
    /// A user, and the group of that name, that is called otherwise on this host
    #[arg(long, value_name = "OLD=NEW")]
    map_user: Vec<String>,
}

impl MappingArgs {
    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.map_path.is_empty() && self.map_user.is_empty()
    }

    /// Reads it.
    pub(crate) fn read(&self) -> Result<Mapping> {
        Mapping::parse(&self.map_path, &self.map_user)
    }

    /// The options again, each with a space before it.
    pub(crate) fn as_typed(&self) -> String {
        let paths = self.map_path.iter().map(|text| ("path", text));
        let users = self.map_user.iter().map(|text| ("user", text));
        let option =
            |(what, text): (&str, &String)| format!(" --map-{what} {}", units::shell_word(text));
        paths.chain(users).map(option).collect()
    }
}
