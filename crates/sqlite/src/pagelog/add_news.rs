//! Adding what is new in a `-wal` to the log, with care, while its state is held.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::pipeline::block_hash;

use super::delta::{Changed, Encoding};
use super::follow::{Follower, Pin, Step};
use super::guard::Guard;
use super::increment::Increment;
use super::known::{Known, News, Versions, limit_of};
use super::open::Looked;
use crate::snapshot::Pinned;
use crate::snapshot::behind::Between;

/// Pages that are encoded together.
const BATCH_PAGES: usize = 256;

/// The state that was held until a look, and that of the look.
pub(super) type Holds = (Option<Pin>, Option<Box<Pinned>>);

impl Follower {
    /// Adds what is new, while a state is held: for as long as the `-wal` is small enough, whatever
    /// the store does. `None` where it began anew while it was read.
    pub(super) fn add_news_guarded(
        &mut self,
        env: &Env,
        looked: Looked,
        news: News,
        held: Holds,
    ) -> Result<(Option<Step>, Option<Holds>)> {
        if news.between.frames.is_empty() || matches!(held, (None, None)) {
            return Ok((self.add_news(env, looked, news, None)?, Some(held)));
        }
        let bytes_max = self.bounds.compared_wal_bytes_max;
        let guard = Guard::begin(held, limit_of(&self.path, self.known.as_ref(), bytes_max))?;
        let step = self.add_news(env, looked, news, Some(&guard))?;
        Ok((step, guard.end()))
    }

    /// The same.
    fn add_news(
        &mut self,
        env: &Env,
        looked: Looked,
        news: News,
        guard: Option<&Guard<Holds>>,
    ) -> Result<Option<Step>> {
        let frames = self.take_known_frames(&news);
        let (page_count, before_count) = (news.mark.page_count, self.log.state.page_count());
        let Some(database) = &self.database else { return Ok(None) };
        let wanted = news.between.wanted(page_count, before_count, frames.newest());
        let mut writer = self.log.begin_file(looked)?;
        let (mut is_whole, mut has_read_frames) = (true, false);
        let page_bytes = self.log.state.page_size() as usize;
        let encoding = Encoding::CAREFUL.of_file(wanted.len(), page_bytes);
        let together = if encoding.is_whole() { wanted.len().max(1) } else { BATCH_PAGES };
        for pages in wanted.chunks(together) {
            env.proceed()?;
            let mut batch = Vec::with_capacity(pages.len());
            for &(page, frame) in pages {
                let copied = news.between.copied(page, page_bytes);
                has_read_frames |= copied.is_none() && frame > 0;
                let versions = Versions::before_news((&frames, true), &news, database);
                match self.changed(&versions, (page, frame), copied)? {
                    Some(Ok(changed)) => batch.push(changed),
                    Some(Err(Gone)) => is_whole = false,
                    None => {}
                }
            }
            writer.add(&encoding.encode(&batch)?)?;
        }
        is_whole &= news.between.is_unchanged(&news.file, &news.header, has_read_frames)?;
        // Without a state that is held, what no frame has may be newer already.
        is_whole &= guard.is_none_or(Guard::is_held) || self.has_all(&news.between, page_count);
        if !is_whole {
            return Ok(None);
        }
        let has_changed = writer.pages() > 0 || page_count != before_count;
        self.known = Some(Known::after(&news, frames));
        if !has_changed {
            return Ok(Some(Step::Unchanged));
        }
        let commits = news.between.commits;
        self.log.wal_place = self.known.as_ref().map(Known::stored_place);
        let stored = self.log.end_file(env, writer, page_count, looked, commits)?;
        self.grow(stored.bytes);
        Ok(Some(self.added(Increment::of(&self.log, &stored))))
    }

    /// A page of a frame, or of the database file where the frame is 0, if it differs from the
    /// state.
    fn changed(
        &self,
        versions: &Versions<'_>,
        (page, frame): (u32, u32),
        copied: Option<&[u8]>,
    ) -> Result<Option<Result<Changed<'static>, Gone>>> {
        let mut content = vec![0; self.log.state.page_size() as usize];
        match copied {
            Some(copied) => content.copy_from_slice(copied),
            None if versions.read_new((page, frame), &mut content)? => {}
            None => return Ok(Some(Err(Gone))),
        }
        let hash = block_hash(&content);
        let before_hash = self.log.state.hash(page).copied();
        if before_hash == Some(hash) {
            return Ok(None);
        }
        let before = match before_hash {
            Some(before) => {
                versions.before(page, content.len(), |old| block_hash(old) == before)?
            }
            None => None,
        };
        let before = before.map(|(old, _)| (old, self.log.depth(page)));
        Ok(Some(Ok(Changed::read((page, hash), content, before))))
    }

    /// Whether those frames hold all that the database grew by.
    pub(super) fn has_all(&self, between: &Between, page_count: u32) -> bool {
        let kept = self.log.state.page_count().min(between.page_count_min);
        (kept + 1..=page_count).all(|page| between.frames.contains(page))
    }
}

/// What was read is not there any more.
struct Gone;
