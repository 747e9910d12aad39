//! Where the versions of pages are among the files of a log, in little memory.

use std::collections::VecDeque;
use std::ops::Range;

use crate::pagelog::delta::Form;
use crate::pagelog::layout::Entry;

/// So many versions are known, the newest ones: 16 bytes each.
const VERSIONS_MAX: usize = 3_000_000;

/// A version of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// The place of its file.
    pub(super) file: u32,
    /// How it is stored.
    pub(super) form: Form,
    /// Where in the file.
    pub(super) stored: Range<u64>,
}

/// Versions in the order of their files.
#[derive(Debug, Default)]
pub(super) struct Places {
    all: VecDeque<Place>,
    /// How many were forgotten, from the oldest on.
    forgotten: u32,
    /// Of each page its newest one, counted from 1; 0 if it has none.
    newest: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The version of the same page before it, counted from 1; 0 if there is none.
    before: u32,
    file: u32,
    /// Where it begins: the lower 32 bits, and the upper ones.
    start: u32,
    start_high: u8,
    form: u8,
    /// One less than its bytes.
    length: u16,
}

impl Places {
    /// Adds a version that a file has.
    pub(super) fn push(&mut self, file: u32, entry: &Entry) {
        let page = entry.page as usize;
        if self.newest.len() < page {
            self.newest.resize(page, 0);
        }
        if self.all.len() == VERSIONS_MAX {
            self.all.pop_front();
            self.forgotten += 1;
        }
        let Range { start, end } = entry.stored;
        self.all.push_back(Place {
            before: self.newest[page - 1],
            file,
            start: start as u32,
            start_high: (start >> 32) as u8,
            form: entry.form.byte(),
            length: (end - start).saturating_sub(1) as u16,
        });
        self.newest[page - 1] = self.forgotten + self.all.len() as u32;
    }

    /// The versions of a page that files before that one have, from the newest on to the first
    /// that lies upon none. `None` where one of them is not known any more.
    pub(super) fn of(&self, page: u32, end: u32) -> Option<Vec<Version>> {
        let mut found = Vec::new();
        let mut at = self.newest.get(page as usize - 1).copied().unwrap_or(0);
        while at > 0 {
            let place = self.all.get(at.checked_sub(self.forgotten + 1)? as usize)?;
            at = place.before;
            if place.file >= end {
                continue;
            }
            let start = u64::from(place.start) | u64::from(place.start_high) << 32;
            let stored = start..start + u64::from(place.length) + 1;
            let form = Form::of_byte(place.form)?;
            found.push(Version { file: place.file, form, stored });
            if !form.needs_own() {
                break;
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(page: u32, start: u64, bytes: u64, form: Form) -> Entry {
        Entry { page, stored: start..start + bytes, form, hash: [0; 16] }
    }

    #[test]
    fn versions_are_found_from_the_newest_to_one_that_lies_upon_none() {
        let mut places = Places::default();
        let far = 5 << 32 | 7;
        let forms = [Form::Difference(1), Form::Whole, Form::Difference(1), Form::Difference(2)];
        for (file, form) in (0..).zip(forms) {
            places.push(file, &entry(9, far + u64::from(file), 65_536, form));
            places.push(file, &entry(4, 16, 1, Form::Plain));
        }
        let files = |end| -> Vec<u32> {
            places.of(9, end).unwrap().iter().map(|version| version.file).collect()
        };
        assert_eq!(
            (files(9), files(3), files(1), files(0)),
            (vec![3, 2, 1], vec![2, 1], vec![0], vec![])
        );
        let newest =
            Version { file: 3, form: Form::Difference(2), stored: far + 3..far + 3 + 65_536 };
        assert_eq!(places.of(9, 9).unwrap()[0], newest);
        assert_eq!(places.of(4, 9).unwrap().len(), 1);
        assert_eq!((places.of(5, 9), places.of(99, 9)), (Some(Vec::new()), Some(Vec::new())));
    }

    #[test]
    fn the_oldest_are_forgotten_and_that_is_known() {
        let mut places = Places::default();
        places.push(0, &entry(1, 16, 5, Form::Whole));
        places.push(0, &entry(2, 21, 5, Form::Whole));
        for file in 1..=VERSIONS_MAX as u32 - 1 {
            places.push(file, &entry(2, 16, 5, Form::Whole));
        }
        assert_eq!(places.all.len(), VERSIONS_MAX);
        assert_eq!(places.of(1, u32::MAX), None);
        assert_eq!(places.of(2, u32::MAX).unwrap().len(), 1);
        places.push(VERSIONS_MAX as u32, &entry(1, 16, 5, Form::Whole));
        assert_eq!(places.of(1, u32::MAX).unwrap().len(), 1);
        assert_eq!(places.all.len(), VERSIONS_MAX);
    }
}
