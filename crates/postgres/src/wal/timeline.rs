//! History files: on which timelines a cluster has been, and where it left each.
//!
//! A line is the number of a parent, the place where it was left, and why, between tabs; remarks
//! begin with `#`. The last line is the timeline's own parent.

use lifeboat_core::coverage::Fork;
use lifeboat_core::{Error, Kind, Result};

use super::name::Lsn;

/// The history of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The timeline.
    pub timeline: u32,
    /// Its ancestors, the oldest first, each with where it was left.
    pub ancestors: Vec<(u32, Lsn)>,
}

impl History {
    /// Reads the text of `<timeline>.history`. [`Kind::CheckFailed`] if it is none.
    pub fn parse(timeline: u32, text: &str) -> Result<History> {
        let wrong = |line: &str| {
            let message = format!("{timeline:08X}.history has a line that means nothing: {line:?}");
            Error::new(Kind::CheckFailed, message)
        };
        let mut ancestors: Vec<(u32, Lsn)> = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let parent = words.next().and_then(|word| word.parse::<u32>().ok());
            let at = words.next().and_then(|word| word.parse::<Lsn>().ok());
            let (Some(parent), Some(at)) = (parent, at) else { return Err(wrong(line)) };
            let follows = ancestors.last().is_none_or(|(before, _)| *before < parent);
            if parent == 0 || parent >= timeline || !follows {
                return Err(wrong(line));
            }
            ancestors.push((parent, at));
        }
        match ancestors.is_empty() {
            true => Err(Error::new(Kind::CheckFailed, format!("{timeline:08X}.history is empty"))),
            false => Ok(History { timeline, ancestors }),
        }
    }

    /// Where it, and each of its ancestors, left its parent.
    pub fn forks(&self) -> Vec<Fork> {
        let branches = self.ancestors.iter().skip(1).map(|(branch, _)| *branch);
        let branches = branches.chain([self.timeline]);
        let pairs = branches.zip(&self.ancestors);
        pairs.map(|(branch, (parent, at))| Fork { branch, parent: *parent, at: at.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_gives_all_forks_of_its_line() {
        let text = "1\t0/3000148\tno recovery target specified\n\n# a remark\n3\t0/5000000\tx\n";
        let history = History::parse(4, text).unwrap();
        assert_eq!(
            history.forks(),
            [
                Fork { branch: 3, parent: 1, at: 0x300_0148 },
                Fork { branch: 4, parent: 3, at: 0x500_0000 }
            ]
        );
        for wrong in ["", "# nothing\n", "x\t0/1\n", "1\n", "4\t0/1\n", "2\t0/1\n1\t0/2\n"] {
            assert!(History::parse(4, wrong).is_err(), "{wrong:?}");
        }
    }
}
