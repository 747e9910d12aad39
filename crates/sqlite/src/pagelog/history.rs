//! The state at the end of a log, and the versions of its pages, read from the repository.
//!
//! Page hashes of the base and the indexes of the log's files give the hashes of any state,
//! without a page being read. A page itself is the base's, or a whole one of a file, with the
//! differences of later files upon it; what comes out must have the page's hash. Where versions are
//! is in memory (`places`), of the newest ones only where a log has very many.

mod places;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Artifact, Manifest};
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::pipeline::{
    BlockHash, BlockHashes, PartReader, StoredParts, block_hash, decode,
};
use lifeboat_core::repository::Repository;
use lifeboat_core::scratch::expectation;
use lifeboat_core::{Error, Kind, Result};

use self::places::{Places, Version};
use super::chain::Step;
use super::delta::{Before, Befores, Decoder};
use super::layout::{Digest, Index};
use super::read::LogObject;
use super::state::PageState;
use crate::held::HeldFile;

/// The artifact of a backup that holds its page hashes.
pub(crate) const PAGE_HASHES: &str = "page-hashes";
/// The artifact that is the database.
pub(crate) const DATABASE: &str = "database";

/// How many other pages a page may be made of, and how far that may lead from one to the next.
const OTHERS_MAX: usize = 4_096;
/// Of so many files what was read ahead is kept.
const OPENED_MAX: usize = 128;
const STEPS_MAX: usize = 128;
/// Indexes that are in memory at once, for each reader.
const INDEXES: usize = 4;

/// Pages as they were before a file, by its place.
type Made = HashMap<(usize, u32), Vec<u8>>;

/// The end of a log.
pub(crate) struct History<'a> {
    /// The link that the next file has to have.
    pub(crate) link: Digest,
    /// Of each page, how many differences its version is made of.
    pub(crate) depths: Vec<u8>,
    page_bytes: usize,
    base: Option<PartReader<'a>>,
    base_pages: u32,
    repository: Option<&'a Repository>,
    files: Vec<LogObject>,
    places: Places,
    /// Files of which something was read, the one that was opened first at the beginning.
    opened: VecDeque<(u32, StoredParts<'a>)>,
    decoder: Decoder,
    /// The database file itself, in which a page may still be as it was, with the number of
    /// differences of each page.
    live: Option<(HeldFile, Vec<u8>)>,
    /// Why versions before cannot be read, if so.
    pub(crate) unreadable: Option<String>,
}

/// The page hashes of a backup. `None` where it has none.
pub(crate) fn page_hashes(
    env: &Env,
    repository: &Repository,
    folder: &str,
    base: &Manifest,
) -> Result<Option<PageState>> {
    let Some(artifact) = base.artifact(PAGE_HASHES) else { return Ok(None) };
    let object = repository.object(folder, &artifact.name)?;
    let reader = repository.store().get(&object, None)?;
    let mut bytes = Vec::with_capacity(usize::try_from(artifact.plain_bytes).unwrap_or(0));
    decode(
        reader,
        repository.wrapping(artifact)?,
        env.threads,
        &expectation(artifact),
        &mut |plain| {
            bytes.extend_from_slice(plain);
            Ok(())
        },
    )?;
    let BlockHashes { block_bytes, hashes } = BlockHashes::parse(&bytes)?;
    Ok(Some(PageState::new(block_bytes, Arc::unwrap_or_clone(hashes))))
}

impl<'a> History<'a> {
    /// Reads the hashes at the end of that way, and opens what holds its pages. `state` is that of
    /// the base, and then of the end.
    pub(crate) fn open(
        repository: &'a Repository,
        folder: &str,
        base: &Manifest,
        state: &mut PageState,
        way: &[Step],
    ) -> Result<Self> {
        let (base_reader, unreadable) = match base.artifact(DATABASE) {
            Some(artifact) => open_base(repository, folder, artifact)?,
            None => (None, Some("the backup holds no database".to_owned())),
        };
        let base_pages = state.page_count();
        let mut history = History {
            link: state.digest(),
            depths: vec![0; base_pages as usize],
            page_bytes: state.page_size() as usize,
            base: base_reader,
            base_pages,
            repository: Some(repository),
            files: Vec::with_capacity(way.len()),
            places: Places::default(),
            opened: VecDeque::new(),
            decoder: Decoder::new(),
            live: None,
            unreadable,
        };
        // Some at once: of a log that nobody packed yet each is a request.
        let readers = repository.store().readers().max(1);
        for steps in way.chunks(readers * INDEXES) {
            let index = |(file, footer): &Step| file.index_alone(repository, footer);
            for (step, index) in steps.iter().zip(in_parallel(steps, readers, index)) {
                history.go_on(state, step, &index?)?;
            }
        }
        Ok(history)
    }

    /// Goes on by one file, which must lead from `state` to the state that it names: `state` is
    /// that from then on.
    pub(crate) fn advance(
        &mut self,
        repository: &'a Repository,
        state: &mut PageState,
        step: &Step,
    ) -> Result<()> {
        self.go_on(state, step, &step.0.index_alone(repository, &step.1)?)
    }

    /// The same by its index.
    fn go_on(&mut self, state: &mut PageState, (file, footer): &Step, index: &Index) -> Result<()> {
        if footer.page_size != state.page_size() {
            return Err(foreign(&file.object, "its pages have another size"));
        }
        if self.files.is_empty() && footer.link_before != self.link {
            return Err(foreign(&file.object, "it follows another state of the base"));
        }
        state.resize(footer.page_count.1);
        self.depths.resize(footer.page_count.1 as usize, 0);
        let number = self.files.len() as u32;
        for entry in index.entries() {
            self.places.push(number, &entry);
            state.set(entry.page, entry.hash);
            self.depths[entry.page as usize - 1] = entry.form.depth();
        }
        if state.digest() != footer.state_after {
            return Err(foreign(&file.object, "it leads to another state than it says"));
        }
        self.link = footer.link;
        self.files.push(file.clone());
        Ok(())
    }

    /// One in which no version is found: then pages are stored whole.
    pub(crate) fn none(page_size: u32) -> Self {
        History {
            link: Digest::default(),
            depths: Vec::new(),
            page_bytes: page_size as usize,
            base: None,
            base_pages: 0,
            repository: None,
            files: Vec::new(),
            places: Places::default(),
            opened: VecDeque::new(),
            decoder: Decoder::new(),
            live: None,
            unreadable: None,
        }
    }

    /// The same, and a page is looked for in the database file first: what is written lies in the
    /// `-wal` until a checkpoint.
    pub(crate) fn with_database(self, file: HeldFile, depths: Vec<u8>) -> Self {
        History { live: Some((file, depths)), ..self }
    }

    /// A page of the database file, if it is the one with that hash.
    fn live(&self, page: u32, hash: BlockHash) -> Before {
        let (file, depths) = self.live.as_ref()?;
        let mut content = vec![0; self.page_bytes];
        file.read_exact_at(&mut content, u64::from(page - 1) * self.page_bytes as u64).ok()?;
        let depth = depths.get(page as usize - 1).copied()?;
        (block_hash(&content) == hash).then_some((content, depth))
    }

    /// A page at the end of the log, which must have that hash, for the difference of its next
    /// version; fastest in rising order. `None` where it cannot be read.
    pub(crate) fn before(&mut self, page: u32, hash: BlockHash) -> Result<Before> {
        if let Some(before) = self.live(page, hash) {
            return Ok(Some(before));
        }
        match self.read(page, self.files.len(), (&mut Made::new(), 0)) {
            Ok(Some((content, depth))) if block_hash(&content) == hash => {
                Ok(Some((content, depth)))
            }
            Ok(Some(_)) => {
                self.note(format!("page {page} of the repository is not what it must be"));
                Ok(None)
            }
            Ok(None) => Ok(None),
            Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                self.note(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn note(&mut self, why: String) {
        self.unreadable.get_or_insert(why);
    }

    /// A page as it was before the file at that place. `made` has what was made for it so far,
    /// and how many steps from page to page led there.
    fn read(&mut self, page: u32, end: usize, (made, steps): (&mut Made, usize)) -> Result<Before> {
        let page_bytes = self.page_bytes;
        let Some(versions) = self.places.of(page, end as u32) else {
            self.note("its log has too many versions of pages for older ones".to_owned());
            return Ok(None);
        };
        let from_base = versions.last().is_none_or(|version| version.form.needs_own());
        let mut content = Vec::new();
        if from_base {
            let Some(base) = self.base.as_mut().filter(|_| page <= self.base_pages) else {
                return Ok(None);
            };
            content.resize(page_bytes, 0);
            base.read(u64::from(page - 1) * page_bytes as u64, &mut content)?;
        }
        let mut depth = 0;
        for Version { file, form, stored } in versions.into_iter().rev() {
            let at = file as usize;
            depth = form.depth();
            let stored = self.stored(file, stored)?;
            let other = form.other(&stored)?;
            if let Some(other) = other
                && !made.contains_key(&(at, other))
            {
                if made.len() >= OTHERS_MAX || steps >= STEPS_MAX {
                    let why = format!("page {page} is made of too many others");
                    return Err(Error::new(Kind::CheckFailed, why));
                }
                let Some((before, _)) = self.read(other, at, (made, steps + 1))? else {
                    return Ok(None);
                };
                made.insert((at, other), before);
            }
            let other = other.and_then(|other| made.get(&(at, other))).map(Vec::as_slice);
            let befores = Befores { own: Some(&content), other };
            let next = self.decoder.decode(form, &stored, befores, page_bytes)?;
            content.clear();
            content.extend_from_slice(next);
        }
        Ok(Some((content, depth)))
    }

    /// What is stored there in a file.
    fn stored(&mut self, file: u32, stored: Range<u64>) -> Result<Vec<u8>> {
        let found = self.opened.iter().position(|(opened, _)| *opened == file);
        let at = match (found, self.repository) {
            (Some(at), _) => at,
            (None, Some(repository)) => {
                if self.opened.len() >= OPENED_MAX {
                    self.opened.pop_front();
                }
                self.opened.push_back((file, self.files[file as usize].parts(repository)?));
                self.opened.len() - 1
            }
            (None, None) => return Err(Error::new(Kind::Failed, "a version of no repository")),
        };
        Ok(self.opened[at].1.read(stored)?.to_vec())
    }
}

fn open_base<'a>(
    repository: &'a Repository,
    folder: &str,
    artifact: &Artifact,
) -> Result<(Option<PartReader<'a>>, Option<String>)> {
    let object = repository.object(folder, &artifact.name)?;
    let wrapping = repository.wrapping(artifact)?;
    let sizes = (artifact.stored_bytes, artifact.plain_bytes);
    match PartReader::open(repository.store(), &object, wrapping, sizes) {
        Ok(Some(reader)) => Ok((Some(reader), None)),
        Ok(None) => Ok((None, Some(format!("{} cannot be read in parts", artifact.name)))),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            Ok((None, Some(error.to_string())))
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn foreign(object: &lifeboat_core::store::ObjectName, why: &str) -> Error {
    Error::new(Kind::NotCovered, format!("{object} does not belong to this log: {why}"))
        .hint("lifeboat verify says how far the log can be restored; lifeboat list shows backups")
}
