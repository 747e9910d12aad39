//! Making one file of several that follow each other: it leads from the first one's state to the
//! last one's.
//!
//! A page that one of them holds is taken over as it is stored. Of one that several hold, or that
//! is a difference from another page as well, the last version is made, and stored as a difference
//! from the one before all of them. What the merged
//! file leads to is compared with the digest that the last one has, before it is written, and once
//! more as it is read back.

use std::collections::{BTreeMap, HashMap};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};

use super::chain::Step;
use super::delta::{Before, Befores, Changed, Decoder, Encoded, Encoding, Form};
use super::history::{History, page_hashes};
use super::layout::{Digest, Entry, Footer};
use super::names::Span;
use super::read::{LogObject, LogReader};
use super::state::PageState;
use super::write::{Beginning, LogWriter};

/// Pages that are written together.
const BATCH_PAGES: usize = 256;
/// How many pages that others need are kept in memory, and how far one may lead to the next.
const MADE_MAX: usize = 4_096;
const STEPS_MAX: usize = 128;

/// The end of the part of a log that was walked, from the base on.
pub(crate) struct Merger<'a> {
    repository: &'a Repository,
    folder: &'a str,
    base: &'a Manifest,
    history: History<'a>,
    state: PageState,
}

impl<'a> Merger<'a> {
    /// Begins at the base.
    pub(crate) fn begin(
        env: &Env,
        repository: &'a Repository,
        folder: &'a str,
        base: &'a Manifest,
    ) -> Result<Self> {
        let Some(mut state) = page_hashes(env, repository, folder, base)? else {
            let message = format!("{} has a log and no page hashes", base.name);
            return Err(Error::new(Kind::CheckFailed, message));
        };
        let history = History::open(repository, folder, base, &mut state, &[])?;
        Ok(Merger { repository, folder, base, history, state })
    }

    /// Goes on by a file. With `whole` all of its bytes are read and compared, because it takes
    /// the place of others.
    pub(crate) fn pass(&mut self, step: &Step, whole: bool) -> Result<()> {
        if whole {
            step.0.check_content(self.repository, &step.1)?;
        }
        self.history.advance(self.repository, &mut self.state, step)
    }

    /// Merges files that follow the end, and goes on by what came out: it was read back then.
    pub(crate) fn merge(&mut self, env: &Env, steps: &[Step], span: Span) -> Result<Step> {
        let (Some((_, first)), Some((_, last))) = (steps.first(), steps.last()) else {
            return Err(Error::new(Kind::Failed, "there is nothing to merge"));
        };
        for (file, footer) in steps {
            env.proceed()?;
            file.check_content(self.repository, footer)?;
        }
        let mut readers = Vec::with_capacity(steps.len());
        for (file, footer) in steps {
            readers.push(file.open(self.repository, footer)?);
        }
        let beginning = Beginning {
            base: self.base,
            span,
            page_size: first.page_size,
            times_ms: (first.since_ms, last.held_ms, last.until_ms),
            marks: self.marks(steps)?,
        };
        let mut writer = LogWriter::begin(self.repository, self.folder, &beginning)?;
        let mut merged =
            Merged { merger: self, readers, decoder: Decoder::new(), made: HashMap::new() };
        merged.write(env, last, &mut writer)?;
        self.require_end(&writer, last)?;
        env.crash.pass("merge.before_file")?;
        let stored = writer.finish(footer_of(steps, first, last))?;
        env.crash.pass("merge.after_file")?;
        stored.read_back(env, self.repository, self.folder)?;
        env.crash.pass("merge.read_back")?;
        let file = LogObject { object: stored.object, bytes: stored.bytes, span, pack: None };
        // As a restore will read it.
        let step = (file.clone(), file.footer(self.repository)?);
        self.pass(&step, false)?;
        Ok(step)
    }

    /// Of files that are sealed, the mark that the first names and that of the last.
    fn marks(&self, steps: &[Step]) -> Result<(Digest, Digest)> {
        match (steps.first(), steps.last()) {
            (Some((first, _)), Some((last, _))) if first.is_sealed() && last.is_sealed() => {
                let before = first.label(self.repository)?.mark_before;
                Ok((before, last.mark(self.repository, &last.label(self.repository)?)?))
            }
            _ => Ok(([0; 32], [0; 32])),
        }
    }

    /// What was written must lead to the state that the last of the files leads to.
    fn require_end(&self, writer: &LogWriter, last: &Footer) -> Result<()> {
        let mut state = self.state.clone();
        state.resize(last.page_count.1);
        writer.each(|page, _, hash| state.set(page, hash));
        match state.digest() == last.state_after {
            true => Ok(()),
            false => {
                let message = "merged files lead to another state than they did one by one";
                Err(Error::new(Kind::CheckFailed, message))
            }
        }
    }
}

fn footer_of(steps: &[Step], first: &Footer, last: &Footer) -> Footer {
    // Where one of them was found by comparing, nobody knows how many commits there were.
    let is_counted = |(_, footer): &Step| footer.commits > 0 || footer.pages == 0;
    let commits = match steps.iter().all(is_counted) {
        true => steps.iter().map(|(_, footer)| footer.commits).sum(),
        false => 0,
    };
    Footer {
        from: first.from,
        page_count: (first.page_count.0, last.page_count.1),
        is_compacted: true,
        commits,
        since_ms: first.since_ms,
        state_before: first.state_before,
        link_before: first.link_before,
        ..last.clone()
    }
}

/// Files that are being merged.
struct Merged<'m, 'a> {
    merger: &'m mut Merger<'a>,
    readers: Vec<LogReader<'a>>,
    decoder: Decoder,
    /// Pages as they were before one of the files, by its place.
    made: HashMap<(usize, u32), Vec<u8>>,
}

impl Merged<'_, '_> {
    fn write(&mut self, env: &Env, last: &Footer, writer: &mut LogWriter) -> Result<()> {
        let mut pages: BTreeMap<u32, Vec<(usize, Entry)>> = BTreeMap::new();
        for (at, reader) in self.readers.iter().enumerate() {
            for entry in reader.index.entries().filter(|entry| entry.page <= last.page_count.1) {
                pages.entry(entry.page).or_default().push((at, entry));
            }
        }
        let mut batch = Vec::with_capacity(BATCH_PAGES);
        for (page, versions) in pages {
            batch.extend(self.page(page, &versions)?);
            if batch.len() == BATCH_PAGES {
                env.proceed()?;
                writer.add(&batch)?;
                batch.clear();
            }
        }
        writer.add(&batch)
    }

    /// The last version of a page. `None` if it is what it was before all of them.
    fn page(&mut self, page: u32, versions: &[(usize, Entry)]) -> Result<Option<Encoded>> {
        let Some((_, last)) = versions.last() else { return Ok(None) };
        let hash_before = self.merger.state.hash(page).copied();
        if hash_before == Some(last.hash) {
            return Ok(None);
        }
        let mut depth = self.merger.history.depths.get(page as usize - 1).copied().unwrap_or(0);
        if let [(at, entry)] = versions
            && !entry.form.needs_other()
        {
            let stored = self.readers[*at].stored(entry)?.to_vec();
            // Merged files before it may have made it of fewer differences than it was.
            let form = match entry.form {
                Form::Difference(_) => Form::Difference(depth + 1),
                form => form,
            };
            if Form::of_byte(form.byte()).is_some() {
                return Ok(Some(Encoded { page, hash: entry.hash, form, stored }));
            }
        }
        let before: Before = match hash_before {
            Some(hash) => self.merger.history.before(page, hash)?,
            None => None,
        };
        let begins = versions.iter().rposition(|(_, entry)| !entry.form.needs_own());
        if begins.is_none() && before.is_none() {
            let message = format!("the version of page {page} before them cannot be read");
            return Err(Error::new(Kind::CheckFailed, message));
        }
        if self.made.len() > MADE_MAX {
            self.made.clear();
        }
        let content = before.as_ref().map(|(old, _)| old.clone()).unwrap_or_default();
        let content = self.walk(content, &versions[begins.unwrap_or(0)..], 0)?;
        if before.is_none() {
            depth = 0;
        }
        let before = before.map(|(old, _)| (old, depth));
        let changed = Changed::read((page, last.hash), content, before);
        Ok(Encoding::CAREFUL.encode(&[changed])?.pop())
    }

    /// Goes on from a version of a page by what files have of it.
    fn walk(
        &mut self,
        mut content: Vec<u8>,
        versions: &[(usize, Entry)],
        steps: usize,
    ) -> Result<Vec<u8>> {
        let page_bytes = self.merger.state.page_size() as usize;
        for (at, entry) in versions {
            let other = entry.form.other(self.readers[*at].stored(entry)?)?;
            if let Some(other) = other
                && !self.made.contains_key(&(*at, other))
            {
                let made = self.before(other, *at, steps + 1)?;
                self.made.insert((*at, other), made);
            }
            let other = other.and_then(|other| self.made.get(&(*at, other))).map(Vec::as_slice);
            let befores = Befores { own: Some(&content), other };
            let stored = self.readers[*at].stored(entry)?;
            let next = self.decoder.decode(entry.form, stored, befores, page_bytes)?;
            if block_hash(next) != entry.hash {
                let message = format!("page {} is not the page that was stored", entry.page);
                return Err(Error::new(Kind::CheckFailed, message));
            }
            content.clear();
            content.extend_from_slice(next);
        }
        Ok(content)
    }

    /// A page as it was before the file at that place.
    fn before(&mut self, page: u32, end: usize, steps: usize) -> Result<Vec<u8>> {
        let unread = || {
            let message = format!("a version of page {page} that others need cannot be read");
            Error::new(Kind::CheckFailed, message)
        };
        if steps > STEPS_MAX {
            return Err(unread());
        }
        let mut versions = Vec::new();
        for (at, reader) in self.readers[..end].iter().enumerate().rev() {
            if let Some(entry) = reader.index.of_page(page) {
                let is_begun = !entry.form.needs_own();
                versions.push((at, entry));
                if is_begun {
                    break;
                }
            }
        }
        versions.reverse();
        let content = match versions.first() {
            Some((_, entry)) if !entry.form.needs_own() => Vec::new(),
            _ => {
                let hash = self.merger.state.hash(page).copied().ok_or_else(unread)?;
                self.merger.history.before(page, hash)?.ok_or_else(unread)?.0
            }
        };
        self.walk(content, &versions, steps)
    }
}
