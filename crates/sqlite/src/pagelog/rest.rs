//! Pages whose content was left where it is: a state is held until they are stored.
//!
//! Of a page without a frame in the `-wal` up to the mark that is held nothing is copied into the
//! database file meanwhile, and a frame up to it is not written over. Only where all of the `-wal`
//! was in the file already may it begin anew under a state that is held: then the file is that
//! state. What each page is was hashed at first, and what is read for storing it must have that
//! hash.

use std::fs::File;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::pipeline::{BlockHash, block_hash};
use lifeboat_core::{Error, Kind, Result};

use super::collected::Content;
use super::follow::Follower;
use super::guard::Guard;
use super::known::{Known, Versions, limit_of};
use super::open::Looked;
use super::rush::{Rush, TRIES};
use crate::ffi;
use crate::held::HeldFile;
use crate::holders::side_file;
use crate::snapshot::{Attempt, Pinned, pin, wal};

/// So much of what was left is read into memory at once, in bytes: nothing is held for it longer.
const READ_BYTES_MAX: usize = 32 << 20;

/// What is held for pages that were left.
pub(super) struct Rest {
    // Dropped before the file: a descriptor is closed with the last connection.
    held: Guard<Box<Pinned>>,
    file: File,
    database: Arc<HeldFile>,
    /// The frame of each page that has one.
    frames: Vec<(u32, u32)>,
}

impl Follower {
    /// Holds the newest state for the pages that were left, of which the hashes are known then.
    /// `None` where a turn of the `-wal` was missed.
    pub(super) fn hold_rest(&mut self, env: &Env, rush: &mut Rush) -> Result<Option<Rest>> {
        rush.is_missed = true;
        for _ in 0..TRIES {
            let (attempt, looked) = Looked::around(env, || pin(&self.path))?;
            let Attempt::Pinned(pinned) = attempt else { return Ok(None) };
            let Some(mark) = ffi::snapshot_mark(pinned.connection()) else { return Ok(None) };
            let bytes_max = self.bounds.compared_wal_bytes_max;
            let limit = limit_of(&self.path, self.known.as_ref(), bytes_max);
            let is_it = self.database.as_ref().map(|file| file.identity());
            if is_it != Some(pinned.identity()) {
                return Ok(None);
            }
            let held = Guard::begin(pinned, limit)?;
            if self.collect_to(env, &mark, (rush, None))?
                && let Some(rest) = self.rest(held, rush)?
            {
                rush.collected.looked = looked;
                (rush.is_missed, rush.is_unsettled) = (false, false);
                return Ok(Some(rest));
            }
            env.pause_ms(1)?;
        }
        Ok(None)
    }

    /// Where they are, and their hashes. `None` where the `-wal` began anew.
    fn rest(&self, held: Guard<Box<Pinned>>, rush: &mut Rush) -> Result<Option<Rest>> {
        let (Some(known), Some(database)) = (&self.known, &self.database) else { return Ok(None) };
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else { return Ok(None) };
        let frame = |page| Some((page, known.frames.newest().position(page)?));
        let frames = match known.next {
            // All of it was copied.
            Some(_) => Vec::new(),
            None => rush.collected.left().filter_map(frame).collect(),
        };
        let rest = Rest { held, file, database: Arc::clone(database), frames };
        let page_bytes = self.log.state.page_size() as usize;
        let left: Vec<u32> = rush.collected.left().collect();
        let mut read = Vec::with_capacity(left.len());
        let pool = rush.collected.pool();
        for page in left {
            let mut content = pool.take();
            if !rest.read(page, &mut content)? {
                return Ok(None);
            }
            let hash = block_hash(&content);
            let is_kept = (read.len() + 1) * page_bytes <= READ_BYTES_MAX;
            read.push((page, hash, is_kept.then(|| Content::Kept(Arc::new(content)))));
        }
        if !rest.is_same(known)? || !rest.held.is_held() {
            return Ok(None);
        }
        for (page, hash, content) in read {
            if let Some(of) = rush.collected.pages.get_mut(&page) {
                (of.hash, of.content) = (hash, content.unwrap_or_default());
            }
        }
        Ok(Some(rest))
    }
}

impl Rest {
    /// Whether the `-wal` is the one in which its frames are.
    fn is_same(&self, known: &Known) -> Result<bool> {
        Ok(self.frames.is_empty() || wal::header(&self.file)? == Some(known.header))
    }

    /// Reads a page where it was. `false` where that is not there any more.
    fn read(&self, page: u32, content: &mut [u8]) -> Result<bool> {
        match self.frames.binary_search_by_key(&page, |(page, _)| *page) {
            Ok(at) => wal::read_frame(&self.file, self.frames[at].1, content),
            Err(_) => Versions::read(&self.database, page, content),
        }
    }

    /// Reads the page with that hash.
    pub(super) fn page(&self, page: u32, hash: BlockHash, content: &mut [u8]) -> Result<()> {
        let is_it = |content: &[u8]| block_hash(content) == hash;
        if self.read(page, content)? && is_it(content)
            || Versions::read(&self.database, page, content)? && is_it(content)
        {
            return Ok(());
        }
        let message = "the -wal had to be let go before all of a state was stored";
        Err(Error::new(Kind::SourceUnavailable, message).hint(
            "it is tried again; under a writer that is always so fast, allow more: --compare-max",
        ))
    }
}
