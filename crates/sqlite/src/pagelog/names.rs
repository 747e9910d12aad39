//! Names of a log's objects: `FOLDER/log/BACKUP/LEVEL/FROM-TO.pagelog`, with `.age` behind it where
//! they are sealed. Several of level 0 in one object: `FROM-TO.pagelogs`.
//!
//! The base is in the name, so that all of a log goes with its base, and so that what follows a
//! backup is one listing away. Two writers that add to the same log have the same name for what
//! they write: the store takes one of them.

use lifeboat_core::Result;
use lifeboat_core::seal;
use lifeboat_core::store::ObjectName;

const ENDING: &str = ".pagelog";
/// The ending of a pack of such files.
const PACK_ENDING: &str = ".pagelogs";
/// Digits of a position: one a second for three hundred years.
const DIGITS: usize = 10;

/// Which positions a file covers, at which level of compaction; 0 is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    /// The position after which it begins.
    pub(crate) from: u64,
    /// The position at which it ends.
    pub(crate) to: u64,
    /// The level.
    pub(crate) level: u8,
}

impl Span {
    /// The object in a log whose objects' names begin so.
    pub(crate) fn object(self, prefix: &str, is_sealed: bool) -> Result<ObjectName> {
        self.named(prefix, ENDING, is_sealed)
    }

    /// The same of a pack, whose files cover it.
    pub(crate) fn pack_object(self, prefix: &str, is_sealed: bool) -> Result<ObjectName> {
        self.named(prefix, PACK_ENDING, is_sealed)
    }

    fn named(self, prefix: &str, ending: &str, is_sealed: bool) -> Result<ObjectName> {
        let (Span { from, to, level }, seal) = (self, if is_sealed { seal::SUFFIX } else { "" });
        ObjectName::new(format!("{prefix}/{level}/{from:0DIGITS$}-{to:0DIGITS$}{ending}{seal}"))
    }

    /// What the rest of an object's name behind the prefix and its `/` says; `None` where it is
    /// not the name of a log file.
    pub(crate) fn parse(rest: &str) -> Option<Self> {
        Span::with_ending(rest, ENDING)
    }

    /// The same of a pack: what is packed are files as they were written.
    pub(crate) fn parse_pack(rest: &str) -> Option<Self> {
        Span::with_ending(rest, PACK_ENDING).filter(|span| span.level == 0)
    }

    fn with_ending(rest: &str, ending: &str) -> Option<Self> {
        let (level, file) = rest.split_once('/')?;
        let file = file.strip_suffix(seal::SUFFIX).unwrap_or(file);
        let (from, to) = file.strip_suffix(ending)?.split_once('-')?;
        let number = |text: &str| {
            let digits = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let level = level.parse::<u8>().ok().filter(|value| value.to_string() == level)?;
        let span = Span { from: number(from)?, to: number(to)?, level };
        (span.from < span.to).then_some(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_none() {
        let span = Span { from: 9, to: 1_234_567_890, level: 2 };
        let prefix = "chat/log/chat-20250108-140000";
        let rest = "2/0000000009-1234567890.pagelog";
        assert_eq!(span.object(prefix, false).unwrap().as_str(), format!("{prefix}/{rest}"));
        assert_eq!(Span::parse(rest), Some(span));
        assert_eq!(span.object(prefix, true).unwrap().as_str(), format!("{prefix}/{rest}.age"));
        assert_eq!(Span::parse(&format!("{rest}.age")), Some(span));
        let pack = Span { level: 0, ..span };
        let rest = "0/0000000009-1234567890.pagelogs";
        assert_eq!(
            pack.pack_object(prefix, true).unwrap().as_str(),
            format!("{prefix}/{rest}.age")
        );
        assert_eq!((Span::parse_pack(rest), Span::parse(rest)), (Some(pack), None));
        assert_eq!(Span::parse_pack(&rest.replace("0/", "1/")), None);
        for wrong in [
            "0/0000000001-0000000001.pagelog",
            "0/1-2.pagelog",
            "00/0000000001-0000000002.pagelog",
            "256/0000000001-0000000002.pagelog",
            "0/0000000001-0000000002.pagelog.part",
            "0/0000000001-0000000002.age",
            "0/+000000001-0000000002.pagelog",
            "0000000001-0000000002.pagelog",
            "",
        ] {
            assert_eq!(Span::parse(wrong), None, "{wrong}");
        }
    }
}
