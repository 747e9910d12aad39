//! The end of a log that is being added to: the state there, and the writing of the next file.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;

use super::layout::{Digest, Footer};
use super::names::Span;
use super::state::PageState;
use super::write::{LogWriter, Stored};

/// The end of a log.
pub(crate) struct OpenLog {
    pub(crate) repository: Repository,
    pub(crate) folder: String,
    pub(crate) base: Manifest,
    /// The hashes of the state there.
    pub(crate) state: PageState,
    /// Of each page, how many differences its version there was made of.
    pub(crate) depths: Vec<u8>,
    /// The position.
    pub(crate) position: u64,
    /// The link that the next file follows.
    pub(crate) link: Digest,
    /// Everything is in it that was committed until then.
    pub(crate) held_ms: i64,
}

/// When a state was looked at, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// Before it was taken hold of: everything is in it that was committed until then.
    pub(crate) held_ms: i64,
    /// After it was: nothing is in it that was committed later.
    pub(crate) until_ms: i64,
}

impl Looked {
    /// Takes hold of something, and notes when.
    pub(crate) fn around<T>(env: &Env, hold: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        let held_ms = env.clock.now().as_millisecond();
        let held = hold()?;
        // Rounded away from each other: a commit within the same millisecond is on neither side.
        let until_ms = env.clock.now().as_millisecond() + 1;
        Ok((held, Looked { held_ms, until_ms }))
    }
}

impl OpenLog {
    /// How many differences a page's version was made of.
    pub(crate) fn depth(&self, page: u32) -> u8 {
        self.depths.get(page as usize - 1).copied().unwrap_or(0)
    }

    /// Begins the next file.
    pub(crate) fn begin_file(&self) -> Result<LogWriter> {
        let span = Span { from: self.position, to: self.position + 1, level: 0 };
        let prefix = self.repository.log_prefix(&self.folder, &self.base.name);
        LogWriter::begin(&self.repository, span.object(&prefix)?, self.state.page_size())
    }

    /// Ends the file and reads it back: then the state that it leads to can be restored, and this
    /// is the end of the log. After an error the log has to be opened anew.
    pub(crate) fn end_file(
        &mut self,
        env: &Env,
        writer: LogWriter,
        page_count: u32,
        looked: Looked,
        commits: u64,
    ) -> Result<Stored> {
        let before = self.state.page_count();
        let state_before = self.state.digest();
        self.state.resize(page_count);
        self.depths.resize(page_count as usize, 0);
        writer.each(|page, form, hash| {
            self.state.set(page, hash);
            self.depths[page as usize - 1] = form.depth();
        });
        let footer = Footer {
            source: self.base.source.id,
            base: self.base.id,
            from: self.position,
            to: self.position + 1,
            index: 0..0,
            pages: 0,
            page_size: self.state.page_size(),
            page_count: (before, page_count),
            is_compacted: false,
            commits,
            since_ms: self.held_ms,
            held_ms: looked.held_ms,
            until_ms: looked.until_ms,
            state_before,
            state_after: self.state.digest(),
            content: [0; 32],
            link_before: self.link,
            link: [0; 32],
        };
        env.crash.pass("increment.before_file")?;
        let stored = writer.finish(footer)?;
        env.crash.pass("increment.after_file")?;
        stored.read_back(env, &self.repository, &self.folder)?;
        env.crash.pass("increment.read_back")?;
        self.position += 1;
        (self.link, self.held_ms) = (stored.footer.link, looked.held_ms);
        Ok(stored)
    }
}
