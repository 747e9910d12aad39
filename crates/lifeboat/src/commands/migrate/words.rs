//! The words of the command line for what the crate knows.

use lifeboat_migrate::{Misfits, NameStyle, Orphans};

/// The word as it is typed.
pub(super) fn of(word: &impl clap::ValueEnum) -> String {
    word.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// How names are written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum NamesWord {
    /// As they are
    Keep,
    /// In lower case
    Lower,
    /// As they are, with views in lower case beside them
    Both,
}

impl From<NamesWord> for NameStyle {
    fn from(word: NamesWord) -> Self {
        match word {
            NamesWord::Keep => NameStyle::Keep,
            NamesWord::Lower => NameStyle::Lower,
            NamesWord::Both => NameStyle::Both,
        }
    }
}

/// What becomes of values that do not fit.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum MisfitsWord {
    /// Nothing is loaded
    Refuse,
    /// The column gets a type that takes them all
    Widen,
    /// Their rows go to a table of their own
    Quarantine,
}

impl From<MisfitsWord> for Misfits {
    fn from(word: MisfitsWord) -> Self {
        match word {
            MisfitsWord::Refuse => Misfits::Refuse,
            MisfitsWord::Widen => Misfits::Widen,
            MisfitsWord::Quarantine => Misfits::Quarantine,
        }
    }
}

/// What becomes of rows whose foreign keys lead nowhere.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum OrphansWord {
    /// Nothing is loaded
    Refuse,
    /// They are loaded, and the key is NOT VALID
    NotValid,
}

impl From<OrphansWord> for Orphans {
    fn from(word: OrphansWord) -> Self {
        match word {
            OrphansWord::Refuse => Orphans::Refuse,
            OrphansWord::NotValid => Orphans::NotValid,
        }
    }
}
