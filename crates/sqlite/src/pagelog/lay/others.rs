//! The versions of other pages of which pages of a log are differences, while files are laid: made
//! before anything is written over them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::pipeline::block_hash;

use super::super::OTHERS_BYTES_MAX;
use super::super::delta::{Befores, Decoder};
use super::super::replay::unread;
use super::{Part, damaged};

/// Pages that one thread makes in a row.
const TASK_PAGES: usize = 32;
/// So much of them is held at once.
const HELD_BYTES_MAX: usize = 4 * OTHERS_BYTES_MAX;

/// Pages as they were before a part: by its place among the parts, and their number.
#[derive(Default)]
pub(super) struct Others(HashMap<(usize, u32), Vec<u8>>);

/// How many of the next parts may be laid together.
pub(super) fn together(parts: &[Part<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |part: &&Part<'_>| {
        let count = part.entries.iter().filter(|entry| entry.form.needs_other()).count();
        bytes += count * part.footer.page_size as usize;
        bytes <= HELD_BYTES_MAX
    };
    parts.iter().take_while(fits).count().max(1)
}

impl Others {
    /// Makes all that the parts need. The file is in the state that the first of them follows.
    pub(super) fn make(env: &Env, parts: &[Part<'_>], file: (&File, &Path)) -> Result<Self> {
        let mut others = Others::default();
        for (at, part) in parts.iter().enumerate() {
            let pages: Vec<u32> = wanted(part)?.into_iter().collect();
            let tasks: Vec<&[u32]> = pages.chunks(TASK_PAGES).collect();
            let made = in_parallel(&tasks, env.threads, |pages| {
                let mut decoder = Decoder::new();
                let make = |&page: &u32| others.before((parts, at), page, file, &mut decoder);
                pages.iter().map(make).collect::<Result<Vec<_>>>()
            });
            let made: Vec<Vec<Vec<u8>>> = made.into_iter().collect::<Result<_>>()?;
            let made = made.into_iter().flatten();
            others.0.extend(pages.into_iter().zip(made).map(|(page, made)| ((at, page), made)));
        }
        Ok(others)
    }

    /// The page that an entry of a part needs besides its own, as it was before that part.
    pub(super) fn of(&self, parts: &[Part<'_>], at: usize, number: usize) -> Result<Option<&[u8]>> {
        let entry = &parts[at].entries[number];
        let page = entry.form.other(parts[at].stored(entry))?;
        Ok(page.and_then(|page| self.0.get(&(at, page))).map(Vec::as_slice))
    }

    /// A page as it was before a part.
    fn before(
        &self,
        (parts, at): (&[Part<'_>], usize),
        page: u32,
        (file, place): (&File, &Path),
        decoder: &mut Decoder,
    ) -> Result<Vec<u8>> {
        let none = || damaged(&parts[at], &format!("page {page}, which it needs, was not there"));
        let mut versions = Vec::new();
        let mut is_begun = false;
        for (earlier, part) in parts[..at].iter().enumerate().rev() {
            if page > part.footer.page_count.1 {
                return Err(none());
            }
            if let Ok(number) = part.entries.binary_search_by_key(&page, |entry| entry.page) {
                versions.push((earlier, number));
                is_begun = !part.entries[number].form.needs_own();
            }
            if is_begun {
                break;
            }
        }
        let page_bytes = parts[at].footer.page_size as usize;
        let mut content = vec![0; page_bytes];
        if !is_begun {
            if page > parts[0].footer.page_count.0 {
                return Err(none());
            }
            let read = file.read_exact_at(&mut content, u64::from(page - 1) * page_bytes as u64);
            read.map_err(|error| unread(place, error))?;
        }
        for &(earlier, number) in versions.iter().rev() {
            let part = &parts[earlier];
            let entry = &part.entries[number];
            let befores = Befores { own: Some(&content), other: self.of(parts, earlier, number)? };
            let next = decoder
                .decode(entry.form, part.stored(entry), befores, page_bytes)
                .map_err(|error| error.context(format!("{} is damaged", part.object.object)))?;
            content.copy_from_slice(next);
        }
        match versions.first() {
            Some(&(last, number)) if block_hash(&content) != parts[last].entries[number].hash => {
                let why = format!("page {page} is not the page that was stored");
                Err(damaged(&parts[last], &why))
            }
            _ => Ok(content),
        }
    }
}

/// The other pages that a part needs.
fn wanted(part: &Part<'_>) -> Result<BTreeSet<u32>> {
    let mut wanted = BTreeSet::new();
    for entry in part.entries.iter().filter(|entry| entry.form.needs_other()) {
        wanted.extend(
            entry
                .form
                .other(part.stored(entry))
                .map_err(|error| error.context(format!("{} is damaged", part.object.object)))?,
        );
    }
    let bytes = (part.footer.pages as usize).saturating_mul(part.footer.page_size as usize);
    if !wanted.is_empty() && bytes > OTHERS_BYTES_MAX {
        return Err(damaged(part, "it is too large to have differences from other pages"));
    }
    match wanted.last() {
        Some(&page) if page > part.footer.page_count.0 => {
            Err(damaged(part, &format!("page {page}, which it needs, was not there")))
        }
        _ => Ok(wanted),
    }
}
