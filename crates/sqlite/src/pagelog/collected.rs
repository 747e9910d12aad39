//! What was collected of a writer in a hurry since the state at the end of the log.
//!
//! Pages are kept in memory, with the versions that they had before, up to a bound; what goes
//! beyond it is put aside. Where that cannot be, only the numbers are kept: such a page is left
//! where it is, and read when all is stored, while a state is held for that. So neither a store
//! that is slow nor a database that has to be compared as a whole takes more memory, or keeps the
//! `-wal` from beginning anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_core::pipeline::{BlockHash, block_hash, block_hashes};
use lifeboat_core::{Error, Kind, Result};

use super::delta::PageBytes;
use super::open::Looked;
use super::pool::{PageBuffer, Pool};
use super::spool::{Spool, Spools};
use super::state::PageState;

/// Where what is collected is kept.
#[derive(Clone)]
pub(super) struct Room {
    /// In memory, in bytes: for what is collected, and for what is being stored meanwhile.
    pub(super) bytes_max: usize,
    /// What is being stored has so many of them.
    pub(super) stored_bytes: Arc<AtomicUsize>,
    /// Where buffers for that come from.
    pub(super) pool: Pool,
    /// Aside: one for what is collected, and one for what is being stored meanwhile.
    pub(super) spools: Spools,
}

impl Room {
    /// Whether there is room in memory for what was collected and is so large.
    fn has(&self, bytes: usize) -> bool {
        bytes + self.stored_bytes.load(Ordering::Relaxed) <= self.bytes_max
    }
}

/// The part of a room that something has which is being stored, until it is dropped.
struct Part {
    bytes: usize,
    stored_bytes: Arc<AtomicUsize>,
}

impl Part {
    fn of(room: &Room, bytes: usize) -> Self {
        room.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        Part { bytes, stored_bytes: Arc::clone(&room.stored_bytes) }
    }

    /// Takes so much of it for something that is dropped sooner.
    fn split(&mut self, bytes: usize) -> Self {
        self.bytes -= bytes;
        Part { bytes, stored_bytes: Arc::clone(&self.stored_bytes) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stored_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What pages of a batch were before, in their order: of use until they are encoded.
pub(super) struct HeldBefores {
    pub(super) contents: Vec<Content>,
    _part: Option<Part>,
}

/// Pages that changed since the state at the end of the log, or may have.
pub(super) struct Collected {
    pub(super) pages: BTreeMap<u32, Page>,
    room: Room,
    /// What is kept in memory of them, in bytes.
    bytes: usize,
    /// Of what is being stored.
    part: Option<Part>,
    /// What is put aside of them.
    spool: Option<Spool>,
    /// Pages of the database after the last look.
    pub(super) page_count: u32,
    pub(super) commits: u64,
    pub(super) looked: Looked,
}

/// A page in its newest version, and in that of the log's state where it could be read.
#[derive(Default)]
pub(super) struct Page {
    /// Of what is in memory known when it is stored.
    pub(super) hash: BlockHash,
    pub(super) content: Content,
    before: Content,
}

/// The content of a page, as far as it is here.
#[derive(Clone, Default)]
pub(super) enum Content {
    /// It is not known, or was none.
    #[default]
    None,
    /// It had no room: it is read when it is stored.
    Left,
    /// In memory; what was before is often the content of what is being stored.
    Kept(Arc<PageBuffer>),
    /// Put aside, there.
    Aside(u32),
}

impl Content {
    /// Whether it is not here.
    pub(super) fn is_left(&self) -> bool {
        matches!(self, Content::None | Content::Left)
    }

    /// In memory.
    fn bytes(&self) -> usize {
        match self {
            Content::Kept(content) => content.len(),
            Content::None | Content::Left | Content::Aside(_) => 0,
        }
    }
}

impl Collected {
    pub(super) fn none(room: Room, page_count: u32, looked: Looked) -> Self {
        let pages = BTreeMap::new();
        let (part, spool) = (None, None);
        Collected { pages, room, bytes: 0, part, spool, page_count, commits: 0, looked }
    }

    /// Begins a new one; what was collected so far is given back, to be stored.
    pub(super) fn take(&mut self) -> Self {
        let none = Collected::none(self.room.clone(), self.page_count, self.looked);
        let mut taken = std::mem::replace(self, none);
        taken.part = Some(Part::of(&self.room, taken.bytes));
        taken
    }

    /// Where buffers for its pages come from.
    pub(super) fn pool(&self) -> Pool {
        self.room.pool.clone()
    }

    /// Room for contents that are read at once, and may turn out to be none.
    pub(super) fn stage(&mut self) -> Stage<'_> {
        Stage { bytes: self.bytes, collected: self, pages: Vec::new() }
    }

    /// Keeps a content in memory if that has room for it, else puts it aside.
    fn put(&mut self, content: Arc<PageBuffer>) -> Content {
        match self.room.has(self.bytes + content.len()) {
            true => Content::Kept(content),
            false => self.put_aside(&content),
        }
    }

    /// Puts a content aside, where that can be.
    fn put_aside(&mut self, content: &[u8]) -> Content {
        if self.spool.is_none() {
            self.spool = self.room.spools.take();
        }
        let at = self.spool.as_mut().and_then(|spool| spool.put(content));
        at.map_or(Content::Left, Content::Aside)
    }

    /// Nobody needs a content any more.
    fn free(&mut self, content: &Content) {
        self.bytes -= content.bytes();
        if let (Content::Aside(at), Some(spool)) = (content, &mut self.spool) {
            spool.free(*at);
        }
    }

    /// Adds a page that is not there, with its hash where it is not in memory, and what it was
    /// before.
    fn add(
        &mut self,
        (page, hash, content): (u32, BlockHash, Content),
        before: Option<Arc<PageBuffer>>,
    ) {
        self.bytes += content.bytes();
        let before = before.map_or(Content::None, |before| self.put(before));
        self.bytes += before.bytes();
        self.pages.insert(page, Page { hash, content, before });
    }

    /// Adds what a page became that is there.
    fn renew(&mut self, (page, hash, content): (u32, BlockHash, Content)) {
        let Some(there) = self.pages.get_mut(&page) else { return };
        there.hash = hash;
        self.bytes += content.bytes();
        let old = std::mem::replace(&mut there.content, content);
        self.free(&old);
    }

    /// Adds what the database file has of pages, as far as nothing newer is known of them. Always
    /// `true`: it takes more.
    pub(super) fn add_all_older(&mut self, pages: Vec<(u32, BlockHash, Vec<u8>)>) -> bool {
        for (page, hash, content) in pages {
            let there = self.pages.get(&page);
            if page <= self.page_count
                && there.is_none_or(|there| matches!(there.content, Content::None))
            {
                let content = self.put(Arc::new(self.room.pool.copy(&content)));
                self.bytes += content.bytes();
                let there = self.pages.entry(page).or_default();
                (there.hash, there.content) = (hash, content);
            }
        }
        true
    }

    /// Leaves all of them: what was collected is not the newest any more, or may not be.
    pub(super) fn leave_all(&mut self) {
        let contents = self.pages.values_mut().map(|page| std::mem::take(&mut page.content));
        let contents: Vec<Content> = contents.collect();
        contents.iter().for_each(|content| self.free(content));
    }

    /// The pages that were left.
    pub(super) fn left(&self) -> impl Iterator<Item = u32> {
        self.pages.iter().filter(|(_, page)| page.content.is_left()).map(|(number, _)| *number)
    }

    /// That many pages the database has: what was cut off is no page of the state, whatever it
    /// becomes later.
    pub(super) fn cut(&mut self, page_count: u32) {
        if self.pages.last_key_value().is_some_and(|(page, _)| *page > page_count) {
            for of in self.pages.split_off(&(page_count + 1)).values() {
                self.free(&of.content);
                self.free(&of.before);
            }
        }
        self.page_count = page_count;
    }

    /// Takes out what its pages were before.
    pub(super) fn take_befores(&mut self) -> HeldBefores {
        let befores = self.pages.values_mut().map(|page| std::mem::take(&mut page.before));
        let contents: Vec<Content> = befores.collect();
        let bytes = contents.iter().map(Content::bytes).sum();
        HeldBefores { contents, _part: self.part.as_mut().map(|part| part.split(bytes)) }
    }

    /// Hashes its pages, and leaves out those that do not differ from a state. Of those that were
    /// left or put aside the hashes are known.
    pub(super) fn hash(&mut self, state: &PageState) {
        let mut kept = Vec::new();
        for of in self.pages.values_mut() {
            if let Content::Kept(content) = &of.content {
                kept.push((&content[..], &mut of.hash));
            }
        }
        let contents: Vec<&[u8]> = kept.iter().map(|(content, _)| *content).collect();
        for ((_, known), hash) in kept.into_iter().zip(block_hashes(&contents)) {
            *known = hash;
        }
        self.pages.retain(|&page, of| state.hash(page) != Some(&of.hash));
    }

    /// A content that is here, to read it.
    pub(super) fn lend<'a>(&self, content: &'a Content) -> Result<Option<PageBytes<'a>>> {
        match content {
            Content::None | Content::Left => Ok(None),
            Content::Kept(content) => Ok(Some(PageBytes::Lent(content))),
            Content::Aside(at) => self.read_aside(*at).map(|page| Some(PageBytes::Pooled(page))),
        }
    }

    /// The same, to keep it.
    pub(super) fn share(&self, content: &Content) -> Result<Option<Arc<PageBuffer>>> {
        match content {
            Content::None | Content::Left => Ok(None),
            Content::Kept(content) => Ok(Some(Arc::clone(content))),
            Content::Aside(at) => self.read_aside(*at).map(|content| Some(Arc::new(content))),
        }
    }

    fn read_aside(&self, at: u32) -> Result<PageBuffer> {
        let failed =
            |error| Error::io(Kind::Failed, "cannot read a page that was put aside before", error);
        let Some(spool) = &self.spool else {
            return Err(Error::new(Kind::Failed, "nothing was put aside"));
        };
        let mut content = self.room.pool.take();
        spool.read(at, &mut content).map_err(failed)?;
        Ok(content)
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        if let Some(spool) = self.spool.take() {
            self.room.spools.give_back(spool);
        }
    }
}

/// What a page was before, where that could be read.
pub(super) type HeldBefore = Option<Arc<PageBuffer>>;

/// What so many pages were before is read at once: they are hashed together.
const BEFORES: usize = 32;

/// Contents of pages that are added together, or not at all.
pub(super) struct Stage<'a> {
    collected: &'a mut Collected,
    /// In memory with them and what they were before, in bytes.
    bytes: usize,
    pages: Vec<(u32, BlockHash, Content)>,
}

impl Stage<'_> {
    /// Takes the content of a page.
    pub(super) fn put(&mut self, page: u32, content: PageBuffer) {
        // A newer one takes no more than the one that is kept; another comes with its version
        // before.
        let there = self.collected.pages.get(&page).map(|page| &page.content);
        let bytes = if let Some(Content::Kept(_)) = there { 0 } else { 2 * content.len() };
        if self.collected.room.has(self.bytes + bytes) {
            self.bytes += bytes;
            self.pages.push((page, BlockHash::default(), Content::Kept(Arc::new(content))));
            return;
        }
        let hash = block_hash(&content);
        let content = self.collected.put_aside(&content);
        self.pages.push((page, hash, content));
    }

    /// They are none.
    pub(super) fn drop_all(self) {
        // What is in memory is counted when it is added.
        for (.., content) in self.pages.iter().filter(|(.., content)| content.bytes() == 0) {
            self.collected.free(content);
        }
    }

    /// Adds them. `befores` finds what each of some pages was before.
    pub(super) fn add_all(self, befores: impl Fn(&[u32]) -> Result<Vec<HeldBefore>>) -> Result<()> {
        let Stage { collected, pages, .. } = self;
        let mut new = Vec::with_capacity(BEFORES);
        let add = |collected: &mut Collected, new: &mut Vec<(u32, BlockHash, Content)>| {
            let sought: Vec<u32> = new.iter().map(|(page, ..)| *page).collect();
            for (page, before) in new.drain(..).zip(befores(&sought)?) {
                collected.add(page, before);
            }
            Ok(())
        };
        for (page, hash, content) in pages {
            if collected.pages.contains_key(&page) {
                collected.renew((page, hash, content));
            } else if content.is_left() {
                collected.add((page, hash, content), None);
            } else {
                new.push((page, hash, content));
                if new.len() == BEFORES {
                    add(collected, &mut new)?;
                }
            }
        }
        add(collected, &mut new)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    const PAGE_BYTES: usize = 512;

    fn page(number: u32) -> Vec<u8> {
        vec![number as u8; PAGE_BYTES]
    }

    /// How many are in memory, aside, and left.
    fn counts(collected: &Collected) -> (usize, usize, usize) {
        let of = |is: fn(&Content) -> bool| {
            collected.pages.values().filter(|page| is(&page.content)).count()
        };
        (
            of(|content| matches!(content, Content::Kept(_))),
            of(|content| matches!(content, Content::Aside(_))),
            of(Content::is_left),
        )
    }

    #[test]
    fn what_has_no_room_in_memory_is_put_aside_and_then_left() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::new(PAGE_BYTES, 1 << 20);
        let room = Room {
            bytes_max: 4 * PAGE_BYTES,
            stored_bytes: Arc::default(),
            pool: pool.clone(),
            spools: Spools::begin(folder.path(), PAGE_BYTES, 5 * PAGE_BYTES as u64, 1),
        };
        let looked = Looked { held_ms: 0, until_ms: 0 };
        let mut collected = Collected::none(room, 90, looked);
        let add = |collected: &mut Collected, pages: Range<u32>| {
            let mut stage = collected.stage();
            pages.for_each(|number| stage.put(number, pool.copy(&page(number))));
            let before = |number: &u32| Some(Arc::new(pool.copy(&page(number + 100))));
            stage.add_all(|numbers| Ok(numbers.iter().map(before).collect()))
        };
        add(&mut collected, 1..5).unwrap();
        // Two with what they were before in memory, two with that aside.
        assert_eq!(counts(&collected), (2, 2, 0));
        add(&mut collected, 5..7).unwrap();
        assert_eq!(counts(&collected), (2, 3, 1), "the last place aside is one of theirs");
        for (number, of) in &collected.pages {
            let content = collected.share(&of.content).unwrap();
            assert!(content.is_none_or(|content| content[..] == page(*number)[..]));
            let before = collected.share(&of.before).unwrap();
            assert!(before.is_none_or(|before| before[..] == page(*number + 100)[..]));
        }
        // What turned out to be none takes no room, nor does what is not the newest any more.
        let bytes = collected.bytes;
        collected.leave_all();
        let mut stage = collected.stage();
        (1..4).for_each(|number| stage.put(number, pool.copy(&page(0))));
        stage.drop_all();
        assert_eq!(collected.bytes, bytes - 2 * PAGE_BYTES);
        assert_eq!(counts(&collected), (0, 0, 6));
        add(&mut collected, 1..4).unwrap();
        assert_eq!(counts(&collected), (1, 2, 3));
        // What the file has is older than what came from the `-wal`, also where that had no room.
        add(&mut collected, 7..12).unwrap();
        assert!(collected.pages[&11].content.is_left());
        collected.room.bytes_max = 1 << 20;
        let older = |number| (number, block_hash(&page(7)), page(7));
        collected.add_all_older(vec![older(2), older(6), older(11), older(91)]);
        assert_eq!(collected.share(&collected.pages[&2].content).unwrap().unwrap()[0], 2);
        assert_eq!(collected.share(&collected.pages[&6].content).unwrap().unwrap()[0], 7);
        assert!(collected.pages[&11].content.is_left());
        assert!(!collected.pages.contains_key(&91));
        collected.cut(1);
        assert_eq!(collected.pages.len(), 1);
    }
}
