//! How sure a row is, and why it is not.

/// How sure a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Everything that can be checked agrees.
    Certain,
    /// It may not belong there, or may have changed: what was read is given.
    Uncertain,
    /// It did change: a part of it is lost.
    Altered,
}

impl Mark {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Mark::Certain => "certain",
            Mark::Uncertain => "uncertain",
            Mark::Altered => "altered",
        }
    }
}

/// What is wrong with a page for which one of a donor stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The disk does not give it, or the file ends before it.
    Unreadable,
    /// It holds only zeros.
    Zeros,
    /// Its bytes are others than those that it had.
    Changed,
}

impl Harm {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Harm::Unreadable => "it cannot be read",
            Harm::Zeros => "it holds only zeros",
            Harm::Changed => "its bytes are others than were written",
        }
    }
}

/// Why a row is not certain, or is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Sound,
    /// No proof, in a database whose cells were damaged elsewhere.
    Unproved,
    /// No proof either: its values lie on pages without a structure.
    LongUnproved,
    PartOfPage,
    Hole,
    PageDoesNotAddUp,
    KeysOutOfOrder,
    OutOfBounds,
    InvalidText,
    WrongType,
    Twin,
    Orphan,
    Donor,
    SharedOverflow,
    EmptyOverflow,
    OddChain,
    SchemaUncertain,
    Refused,
    Doubled,
    ChainBroken,
    TextConverted,
    RecordBroken,
}

impl Reason {
    pub(crate) fn mark(self) -> Mark {
        match self {
            Reason::Sound => Mark::Certain,
            Reason::ChainBroken | Reason::TextConverted => Mark::Altered,
            _ => Mark::Uncertain,
        }
    }

    /// For people.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Reason::Sound => "",
            Reason::Unproved => {
                "values were changed elsewhere in this database, and none proves it"
            }
            Reason::LongUnproved => {
                "pages of this database are damaged, and none proves those of its long values"
            }
            Reason::PartOfPage => "a part of its page could not be read",
            Reason::Hole => "a sector of its page holds only zeros",
            Reason::PageDoesNotAddUp => "the structure of its page contradicts itself",
            Reason::KeysOutOfOrder => "the keys of its page are not in order",
            Reason::OutOfBounds => "keys of its page lie outside of what the page above says",
            Reason::InvalidText => {
                "a text has bytes that are none of the database's encoding, or zeros"
            }
            Reason::WrongType => "a value has a type that its column does not store",
            Reason::Twin => "its page is there twice, and one of the two is in a wrong place",
            Reason::Orphan => "its page was reached from no table, and assigned by its shape",
            Reason::Donor => "it was lost, and taken from the donor as it was then",
            Reason::SharedOverflow => "a page of its long values is claimed by others too",
            Reason::EmptyOverflow => "a part of its long values holds only zeros",
            Reason::OddChain => "the end of its long values is not marked as one",
            Reason::SchemaUncertain => "the columns of its table are not known for certain",
            Reason::ChainBroken => "the end of its long values is lost",
            Reason::TextConverted => "a text could not be converted without loss",
            Reason::RecordBroken => "its values cannot be read",
            Reason::Refused => "its table refused it",
            Reason::Doubled => "another row has its key",
        }
    }
}
