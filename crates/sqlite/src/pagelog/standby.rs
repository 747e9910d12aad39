//! A standby: a copy of a database for readers, brought from state to state of a log while they
//! have it open.
//!
//! What leads from its state to the next one is read, decoded and compared with its hashes beside
//! it first; then the pages are replaced in place, all or none. Where the log does not lead on from
//! its state (a new backup began another log, files were merged), the newest state is restored to
//! a scratch file, and the pages that differ are taken from there.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::pipeline::{block_hash, hash_each};
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::Replay;
use lifeboat_core::scratch::{Scratch, decode_into, stored_expectation};
use lifeboat_core::{Error, Kind, Result};

use super::chain::{Chain, Moment, moment_of};
use super::delta::{Befores, Decoder};
use super::history::DATABASE;
use super::in_place::{Alone, Change, local_first_page};
use super::layout::Footer;
use super::read::{LogObject, LogReader};
use super::replay::LogReplay;
use super::state::PageState;
use crate::header::{HEADER_BYTES, Header};
use crate::snapshot::wal::read_up_to;

/// What is read at once of a scratch file.
const READ_BYTES: usize = 1 << 20;

/// A database file that stands at a state of a log.
pub struct Standby {
    path: PathBuf,
    repository: Repository,
    folder: String,
    base: Manifest,
    state: PageState,
    /// The first page as it is at the source: the file's own has another counter.
    first_page: Vec<u8>,
    moment: Moment,
}

/// Where a standby's database comes from.
pub struct StandbyOrigin<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The source's folder in it.
    pub folder: &'a str,
    /// The backup.
    pub base: &'a Manifest,
    /// The way from it to the newest state.
    pub replay: Option<&'a LogReplay>,
}

/// What a look led to.
#[derive(Clone, Debug)]
pub enum StandbyStep {
    /// Nothing is new.
    Unchanged,
    /// The file shows a later state.
    Advanced(Moment),
    /// The log does not lead on from here: [`Standby::bring`] does.
    Lost,
}

impl Standby {
    /// Brings the database file at a path, which is a standby already, to that state.
    pub fn bring(
        env: &Env,
        path: &Path,
        origin: &StandbyOrigin<'_>,
        scratch_folder: &Path,
    ) -> Result<Self> {
        let StandbyOrigin { repository, folder, base, replay } = *origin;
        let artifact = base.artifact(DATABASE).ok_or_else(|| {
            Error::new(Kind::NotCovered, format!("{} holds no database", base.name))
        })?;
        let bytes = artifact.plain_bytes.max(replay.map_or(0, Replay::plain_bytes));
        let mut scratch = Scratch::new(scratch_folder, bytes)?;
        let (place, object) = (scratch.path(), repository.object(folder, &artifact.name)?);
        let expected = (artifact, &stored_expectation(artifact));
        decode_into(env, repository, &object, expected, scratch.file(), &place)?;
        if let Some(replay) = replay {
            replay.apply(env, scratch.file(), &place)?;
        }
        let moment = match replay {
            Some(replay) => replay.moment().clone(),
            None => Moment { position: 0, held: base.taken_at, until: base.taken_at },
        };
        // What a crash left half is undone before it is compared.
        let alone = Alone::take(env, path)?;
        let Found { state, first_page, changed } = compare(env, scratch.file(), &place, &alone)?;
        let file: &File = scratch.file();
        alone.change(
            env,
            path,
            &Change {
                page_size: state.page_size(),
                page_count: state.page_count(),
                pages: &changed,
                read: &|page, buffer| {
                    let offset = u64::from(page - 1) * buffer.len() as u64;
                    file.read_exact_at(buffer, offset).map_err(|error| unread(&place, error))
                },
            },
        )?;
        Ok(Standby {
            path: path.to_owned(),
            repository: repository.clone(),
            folder: folder.to_owned(),
            base: base.clone(),
            state,
            first_page,
            moment,
        })
    }

    /// The backup whose log it follows.
    pub fn base(&self) -> &Manifest {
        &self.base
    }

    /// The state that it shows.
    pub fn moment(&self) -> &Moment {
        &self.moment
    }

    /// Goes on to the next file of the log, if there is one. After an error it has to be brought
    /// anew; the file shows the state before, or after, whole.
    pub fn step(&mut self, env: &Env, scratch_folder: &Path) -> Result<StandbyStep> {
        let chain = Chain::of(&self.repository, &self.folder, &self.base)?;
        let from = self.moment.position;
        let follows = chain.files.iter().filter(|file| file.span.from == from);
        let Some(next) = follows.max_by_key(|file| file.span.to).cloned() else {
            let is_behind = chain.files.iter().any(|file| file.span.to > from);
            return Ok(if is_behind { StandbyStep::Lost } else { StandbyStep::Unchanged });
        };
        let footer = next.footer(&self.repository)?;
        self.require_next(&next, &footer)?;
        let staged = self.decode(env, &next, &footer, scratch_folder)?;
        let mut pages: Vec<u32> = staged.slots.keys().copied().collect();
        if pages.first() != Some(&1) {
            pages.insert(0, 1);
        }
        Alone::take(env, &self.path)?.change(
            env,
            &self.path,
            &Change {
                page_size: footer.page_size,
                page_count: footer.page_count.1,
                pages: &pages,
                read: &|page, buffer| staged.read(page, buffer, &self.first_page),
            },
        )?;
        if staged.slots.contains_key(&1) {
            let mut first = std::mem::take(&mut self.first_page);
            staged.read(1, &mut first, &[])?;
            self.first_page = first;
        }
        self.moment = moment_of(&footer);
        Ok(StandbyStep::Advanced(self.moment.clone()))
    }

    fn require_next(&mut self, file: &LogObject, footer: &Footer) -> Result<()> {
        let is_next = footer.source == self.base.source.id
            && footer.base == self.base.id
            && footer.page_size == self.state.page_size()
            && footer.state_before == self.state.digest();
        match is_next {
            true => Ok(()),
            false => {
                let message = format!("{} does not follow the state of the standby", file.object);
                Err(Error::new(Kind::NotCovered, message).hint("lifeboat verify says more"))
            }
        }
    }

    /// Makes all pages of a file beside the database, and the state that they lead to.
    fn decode(
        &mut self,
        env: &Env,
        next: &LogObject,
        footer: &Footer,
        scratch_folder: &Path,
    ) -> Result<Staged> {
        let named = |error: Error| match error.kind() {
            Kind::CheckFailed => error.context(format!("{} is damaged", next.object)),
            _ => error,
        };
        let local = File::open(&self.path).map_err(|error| unread(&self.path, error))?;
        let repository = self.repository.clone();
        let mut reader = next.open(&repository, footer).map_err(named)?;
        let room = u64::from(footer.pages) * u64::from(footer.page_size);
        let mut staged = Staged::new(scratch_folder, room)?;
        self.state.resize(footer.page_count.1);
        let mut decoder = Decoder::new();
        for at in 0..reader.index.len() {
            env.proceed()?;
            let page = self.page(&mut reader, &mut decoder, at, &local).map_err(named)?;
            staged.add(page, decoder.page())?;
        }
        match self.state.digest() == footer.state_after {
            true => Ok(staged),
            false => Err(named(Error::new(Kind::CheckFailed, "it leads to another state"))),
        }
    }

    /// Makes one page, which the decoder then holds, and notes its hash.
    fn page(
        &mut self,
        reader: &mut LogReader<'_>,
        decoder: &mut Decoder,
        at: usize,
        local: &File,
    ) -> Result<u32> {
        let entry = reader.index.entry(at);
        let stored = reader.stored(&entry)?;
        let page_bytes = self.state.page_size() as usize;
        let own = entry.form.needs_own().then_some(entry.page);
        let own = self.before(own, local, page_bytes)?;
        let other = self.before(entry.form.other(stored)?, local, page_bytes)?;
        let befores = Befores { own: own.as_deref(), other: other.as_deref() };
        let page = decoder.decode(entry.form, stored, befores, page_bytes)?;
        if block_hash(page) != entry.hash {
            let message = format!("page {} is not the page that was stored", entry.page);
            return Err(Error::new(Kind::CheckFailed, message));
        }
        self.state.set(entry.page, entry.hash);
        Ok(entry.page)
    }

    /// A page as it is before the file is laid, if one is asked for.
    fn before(
        &self,
        page: Option<u32>,
        local: &File,
        page_bytes: usize,
    ) -> Result<Option<Vec<u8>>> {
        let Some(page) = page.filter(|&page| page != 1) else {
            return Ok(page.map(|_| self.first_page.clone()));
        };
        let mut old = vec![0; page_bytes];
        let read = local.read_exact_at(&mut old, u64::from(page - 1) * page_bytes as u64);
        match read {
            Ok(()) => Ok(Some(old)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let message = format!("page {page}, which it needs, was not there");
                Err(Error::new(Kind::CheckFailed, message))
            }
            Err(error) => Err(unread(&self.path, error)),
        }
    }
}

/// Pages that wait to be written, in a scratch file.
struct Staged {
    file: File,
    slots: BTreeMap<u32, u64>,
    /// The file goes with it.
    scratch: Scratch,
}

impl Staged {
    fn new(folder: &Path, bytes: u64) -> Result<Self> {
        let mut scratch = Scratch::new(folder, bytes)?;
        let file = scratch.file().try_clone().map_err(|error| unread(folder, error))?;
        Ok(Staged { file, slots: BTreeMap::new(), scratch })
    }

    fn add(&mut self, page: u32, content: &[u8]) -> Result<()> {
        let offset = self.slots.len() as u64 * content.len() as u64;
        self.file.write_all_at(content, offset).map_err(|error| {
            let place = self.scratch.path();
            Error::io(Kind::Failed, format!("cannot write {}", place.display()), error)
        })?;
        self.slots.insert(page, offset);
        Ok(())
    }

    /// A page; the first one, where it is not among them, as it is.
    fn read(&self, page: u32, buffer: &mut [u8], first_page: &[u8]) -> Result<()> {
        let Some(&offset) = self.slots.get(&page) else {
            buffer.copy_from_slice(first_page);
            return Ok(());
        };
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|error| unread(&self.scratch.path(), error))
    }
}

/// A restored state, compared with a standby's file.
struct Found {
    state: PageState,
    first_page: Vec<u8>,
    /// The pages that differ, the first always among them.
    changed: Vec<u32>,
}

fn compare(env: &Env, scratch: &File, place: &Path, alone: &Alone) -> Result<Found> {
    let mut head = [0; HEADER_BYTES];
    scratch.read_exact_at(&mut head, 0).map_err(|error| unread(place, error))?;
    let header = Header::parse(&head).ok_or_else(|| {
        Error::new(Kind::CheckFailed, "what was restored does not begin as a database does")
    })?;
    // Another descriptor would drop the locks of the connection when it is closed.
    let local = alone.file();
    let mut old_head = [0; HEADER_BYTES];
    let is_same_size = local.read_exact_at(&mut old_head, 0).is_ok()
        && Header::parse(&old_head).is_some_and(|old| old.page_size == header.page_size);
    let page_bytes = header.page_size as usize;
    let bytes = scratch.metadata().map_err(|error| unread(place, error))?.len();
    let (mut hashes, mut changed) = (Vec::new(), vec![1]);
    let mut new = vec![0; READ_BYTES];
    let mut old = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < bytes {
        env.proceed()?;
        let length = new.len().min(usize::try_from(bytes - offset).unwrap_or(usize::MAX));
        scratch.read_exact_at(&mut new[..length], offset).map_err(|error| unread(place, error))?;
        let read = match is_same_size {
            true => read_up_to(local, &mut old[..length], offset)
                .map_err(|error| unread(place, error))?,
            false => 0,
        };
        for (at, page) in new[..length].chunks(page_bytes).enumerate() {
            let begin = at * page_bytes;
            let is_there = begin + page.len() <= read && old[begin..begin + page.len()] == *page;
            let number = (hashes.len() + at + 1) as u32;
            if !is_there && number > 1 {
                changed.push(number);
            }
        }
        hashes.extend(hash_each(&new[..length], page_bytes));
        offset += length as u64;
    }
    let mut first_page = vec![0; page_bytes];
    scratch.read_exact_at(&mut first_page, 0).map_err(|error| unread(place, error))?;
    Ok(Found { state: PageState::new(header.page_size, hashes), first_page, changed })
}

/// A restore that makes a standby: the state, as a copy of our own.
pub struct StandbyReplay<'a> {
    /// The way to the state.
    pub replay: Option<&'a LogReplay>,
    /// The backup.
    pub base: &'a Manifest,
}

impl Replay for StandbyReplay<'_> {
    fn name(&self) -> String {
        self.replay.map_or_else(|| self.base.name.clone(), Replay::name)
    }

    fn until(&self) -> Timestamp {
        self.replay.map_or(self.base.taken_at, Replay::until)
    }

    fn steps(&self) -> Vec<String> {
        let mut steps = self.replay.map(Replay::steps).unwrap_or_default();
        steps.push("make it a standby, for readers: in rollback mode, without a -wal".to_owned());
        steps
    }

    fn plain_bytes(&self) -> u64 {
        self.replay.map_or(0, Replay::plain_bytes)
    }

    fn apply(&self, env: &Env, file: &mut File, place: &Path) -> Result<()> {
        if let Some(replay) = self.replay {
            replay.apply(env, file, place)?;
        }
        let mut head = [0; HEADER_BYTES];
        file.read_exact_at(&mut head, 0).map_err(|error| unread(place, error))?;
        let header = Header::parse(&head).ok_or_else(|| {
            Error::new(Kind::CheckFailed, "what was restored does not begin as a database does")
        })?;
        let bytes = file.metadata().map_err(|error| unread(place, error))?.len();
        let page_count = u32::try_from(bytes / u64::from(header.page_size)).unwrap_or(u32::MAX);
        local_first_page(&mut head, 1, page_count);
        file.write_all_at(&head, 0).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", place.display()), error)
        })
    }
}

fn unread(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot read {}", path.display()), error)
}
