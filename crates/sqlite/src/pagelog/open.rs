//! The end of a log that is being added to: the state there, and the writing of the next file.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::pipeline::BlockHash;
use lifeboat_core::repository::Repository;

use super::journal::{Journal, Noted};
use super::layout::{Digest, Footer};
use super::names::Span;
use super::state::PageState;
use super::write::{Beginning, Facts, LogWriter, Stored};
use crate::wal_place::WalPlace;

/// How far the clock may go back before states go to the log of a new backup.
const CLOCK_BACK_MS_MAX: i64 = 60_000;

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
    /// Nothing is in it that was committed after, by the clock of then.
    pub(crate) until_ms: i64,
    /// The mark of its last file, where it is sealed; zeros where it has none.
    pub(crate) mark: Digest,
    /// With which frame of a `-wal` the state ends to which the next file leads, where that is
    /// known.
    pub(crate) wal_place: Option<WalPlace>,
    /// What this host notes of it, where it is sealed and nothing here opens it.
    pub(crate) journal: Option<Journal>,
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

    /// Nothing is in a state that was looked at then that was committed after. It holds what the
    /// one before does, also where the clock went back in between: so the states of a log are in
    /// the order of these times.
    fn until_ms(&self, looked: Looked) -> i64 {
        looked.until_ms.max(self.until_ms)
    }

    /// Why no more states should follow, where the clock is that far behind the newest one: they
    /// could not be told apart by their time.
    pub(crate) fn behind_clock(&self, now_ms: i64) -> Option<String> {
        let behind_ms = self.until_ms.saturating_sub(now_ms);
        // A backup that lies behind another one would be no base.
        let can_begin = now_ms > self.base.taken_at.as_millisecond();
        (behind_ms > CLOCK_BACK_MS_MAX && can_begin).then(|| {
            let seconds = behind_ms / 1_000;
            format!("the clock went back: it is {seconds} s behind the newest state")
        })
    }

    /// Begins the next file, which leads to a state that was looked at then.
    pub(crate) fn begin_file(&self, looked: Looked) -> Result<LogWriter> {
        let beginning = self.beginning(&self.base, looked);
        LogWriter::begin(&self.repository, &self.folder, &beginning)
    }

    /// What the next file says of itself before anything of it is known.
    pub(crate) fn beginning<'a>(&self, base: &'a Manifest, looked: Looked) -> Beginning<'a> {
        Beginning {
            base,
            span: Span { from: self.position, to: self.position + 1, level: 0 },
            page_size: self.state.page_size(),
            times_ms: (self.held_ms, looked.held_ms, self.until_ms(looked)),
            marks: (self.mark, [0; 32]),
        }
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
        let mut changed = Vec::with_capacity(writer.pages());
        writer.each(|page, _, hash| changed.push((page, hash)));
        let facts = self.facts(&changed, page_count, looked, commits);
        let place = (&self.repository, self.folder.as_str());
        let ended = end(env, place, writer, facts, self.journal.as_mut())?;
        self.go_on(&ended)?;
        Ok(ended.stored)
    }

    /// What the next file says of itself in which those pages are. From here on the state is that
    /// to which it leads: it must be ended, or the log be opened anew.
    pub(crate) fn facts(
        &mut self,
        changed: &[(u32, BlockHash)],
        page_count: u32,
        looked: Looked,
        commits: u64,
    ) -> Facts {
        let before = self.state.page_count();
        let state_before = self.state.digest();
        self.state.resize(page_count);
        changed.iter().for_each(|&(page, hash)| self.state.set(page, hash));
        Footer {
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
            until_ms: self.until_ms(looked),
            state_before,
            state_after: self.state.digest(),
            content: [0; 32],
            link_before: self.link,
            link: [0; 32],
            wal_place: self.wal_place.take(),
        }
    }

    /// Goes on behind a file that was ended.
    pub(crate) fn go_on(&mut self, ended: &Ended) -> Result<()> {
        let Ended { stored, noted } = ended;
        self.depths.resize(stored.footer.page_count.1 as usize, 0);
        for (page, _, depth) in &noted.pages {
            self.depths[*page as usize - 1] = *depth;
        }
        self.position += 1;
        (self.link, self.held_ms) = (stored.footer.link, stored.footer.held_ms);
        self.until_ms = stored.footer.until_ms;
        self.mark = *stored.digest.as_bytes();
        match &mut self.journal {
            Some(journal) => journal.settle(noted, &self.state, &self.depths),
            None => Ok(()),
        }
    }
}

/// A file that was ended and read back.
pub(crate) struct Ended {
    pub(crate) stored: Stored,
    noted: Noted,
}

/// Ends a file and reads it back. What it leads to is noted before it is there.
pub(crate) fn end(
    env: &Env,
    (repository, folder): (&Repository, &str),
    writer: LogWriter,
    facts: Facts,
    journal: Option<&mut Journal>,
) -> Result<Ended> {
    let mut noted = Noted::of(facts.to, facts.page_count.1, facts.held_ms);
    writer.each(|page, form, hash| noted.pages.push((page, hash, form.depth())));
    env.crash.pass("increment.before_file")?;
    let sent = writer.end(facts)?;
    (noted.link, noted.mark) = (sent.stored.footer.link, *sent.stored.digest.as_bytes());
    if let Some(journal) = journal {
        journal.note(&noted)?;
    }
    let stored = sent.commit()?;
    env.crash.pass("increment.after_file")?;
    stored.read_back(env, repository, folder)?;
    env.crash.pass("increment.read_back")?;
    Ok(Ended { stored, noted })
}
