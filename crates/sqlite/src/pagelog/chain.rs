//! The log of a backup: its files, the positions that can be reached, and the way to one.
//!
//! What names say is enough to see which positions can be reached from the base, and where a file
//! is missing. The way to a position is then walked footer by footer: each must follow the one
//! before, by its link and by the state before it, and be of this source and this base.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::moment::compact;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::ObjectInfo;
use lifeboat_core::{Error, Kind, Result};
use uuid::Uuid;

use super::label::Label;
use super::layout::Footer;
use super::pack::Pack;
use super::read::{Listing, LogObject, list};

/// What of a log is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest state.
    Latest,
    /// The newest state in which nothing is that was committed after this.
    At(Timestamp),
    /// The state at that position; 0 is the base.
    Position(u64),
}

/// A state that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its position in the log of its base.
    pub position: u64,
    /// Everything is in it that was committed until then.
    pub held: Timestamp,
    /// Nothing is in it that was committed after.
    pub until: Timestamp,
}

/// Positions that cannot be restored, because files before them are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last position before it.
    pub after: u64,
    /// The first position of which a file is there again.
    pub before: u64,
}

/// States that follow each other and are told apart equally finely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first and the last of them.
    pub moments: (Moment, Moment),
    /// How many there are.
    pub states: usize,
    /// How finely they are told apart.
    pub grain: Grain,
}

/// How finely states of a log are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// As they were recorded.
    All,
    /// The last one of each minute.
    Minute,
    /// The last one of each hour.
    Hour,
}

impl Grain {
    /// That of states to which a file of that level leads.
    pub(crate) fn of_level(level: u8) -> Self {
        match level {
            0 => Grain::All,
            1 => Grain::Minute,
            _ => Grain::Hour,
        }
    }

    /// In a word: "state", "minute", "hour".
    pub fn word(self) -> &'static str {
        match self {
            Grain::All => "state",
            Grain::Minute => "minute",
            Grain::Hour => "hour",
        }
    }
}

/// A file on the way to a position, with its footer.
pub(crate) type Step = (LogObject, Footer);

/// The log of one backup.
pub struct Chain<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) folder: &'a str,
    pub(crate) base: &'a Manifest,
    pub(crate) files: Vec<LogObject>,
    /// The packs in which some of them are, and when each was stored.
    pub(crate) packs: Vec<(Arc<Pack>, Timestamp)>,
    /// Objects of which all is in a pack as well.
    pub(crate) spare: Vec<ObjectInfo>,
    /// Each position that can be reached: by how many files, and the last of them.
    reached: BTreeMap<u64, (usize, usize)>,
}

impl<'a> Chain<'a> {
    /// Lists the log of a backup. It may have no file.
    pub fn of(repository: &'a Repository, folder: &'a str, base: &'a Manifest) -> Result<Self> {
        let Listing { files, packs, spare, packed_at } = list(repository, folder, &base.name)?;
        let packs = packs.into_iter().zip(packed_at).collect();
        let mut reached: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        // Sorted by where they begin, so that what leads to a file was seen before it.
        for (index, file) in files.iter().enumerate() {
            let before = match file.span.from {
                0 => Some(0),
                from => reached.get(&from).map(|(files, _)| *files),
            };
            let Some(before) = before else { continue };
            let way = (before + 1, index);
            let best = reached.entry(file.span.to).or_insert(way);
            *best = way.min(*best);
        }
        Ok(Chain { repository, folder, base, files, packs, spare, reached })
    }

    /// The folder of its source in the repository.
    pub fn folder(&self) -> &'a str {
        self.folder
    }

    /// The backup that it follows.
    pub fn base(&self) -> &'a Manifest {
        self.base
    }

    /// Whether it has no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many objects it has, and their size in bytes, without those of which all is in a pack
    /// as well.
    pub fn size(&self) -> (usize, u64) {
        let whole = self.files.iter().filter(|file| file.pack.is_none()).map(|file| file.bytes);
        let packs = self.packs.iter().map(|(pack, _)| pack.bytes);
        (whole.clone().count() + self.packs.len(), whole.chain(packs).sum())
    }

    /// The newest position that can be reached.
    pub fn end(&self) -> u64 {
        self.reached.last_key_value().map_or(0, |(position, _)| *position)
    }

    /// The file that leads to it.
    pub(crate) fn last(&self) -> Option<&LogObject> {
        self.reached.last_key_value().map(|(_, (_, last))| &self.files[*last])
    }

    /// Whether files of it are sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.files.iter().any(LogObject::is_sealed)
    }

    /// How many states can be restored, without the base.
    pub fn states(&self) -> usize {
        self.reached.len()
    }

    /// Positions of which files are there, but not all that lead to them.
    pub fn gap(&self) -> Option<Gap> {
        let lost = self.files.iter().find(|file| self.is_lost(file))?;
        let before = lost.span.from;
        let after = self.reached.range(..before).next_back().map_or(0, |(position, _)| *position);
        Some(Gap { after, before })
    }

    /// Whether nothing leads to it. What is left of files that were merged does not count.
    fn is_lost(&self, file: &LogObject) -> bool {
        if self.reached.contains_key(&file.span.to) {
            return false;
        }
        // The first state behind it, if it was reached over its head.
        let over = self.reached.range(file.span.to..).next();
        over.is_none_or(|(_, (_, last))| self.files[*last].span.from > file.span.from)
    }

    /// The states that can be reached, in order, without the base.
    pub(crate) fn positions(&self) -> Vec<u64> {
        self.reached.keys().copied().collect()
    }

    /// The level of the file that leads to a position which can be reached.
    pub(crate) fn level(&self, position: u64) -> u8 {
        self.reached.get(&position).map_or(0, |(_, last)| self.files[*last].span.level)
    }

    /// How finely the states are told apart, from the oldest on.
    pub fn ranges(&self) -> Result<Vec<Range>> {
        let mut found: Vec<(u64, u64, usize, Grain)> = Vec::new();
        for (&position, &(_, last)) in &self.reached {
            let grain = Grain::of_level(self.files[last].span.level);
            match found.last_mut() {
                Some((_, to, states, of)) if *of == grain => {
                    (*to, *states) = (position, *states + 1)
                }
                _ => found.push((position, position, 1, grain)),
            }
        }
        let range = |(from, to, states, grain)| {
            Ok(Range { moments: (self.at(from)?, self.at(to)?), states, grain })
        };
        found.into_iter().map(range).collect()
    }

    /// The state that is wanted. A gap in the way is [`Kind::NotCovered`].
    pub fn moment(&self, target: Target) -> Result<Moment> {
        let end = self.end();
        let gap = self.gap();
        match target {
            Target::Position(position) => match self.at(position) {
                Err(error) if error.kind() == Kind::NotCovered => Err(self.lost(error, gap)),
                found => found,
            },
            Target::Latest if gap.is_none() => self.at(end).map_err(|error| {
                let before = self.last().map_or(0, |file| file.span.from);
                self.harmed(error, before)
            }),
            Target::Latest => Err(self.lost(Error::new(Kind::NotCovered, "its end"), gap)),
            Target::At(at) => {
                let found = self.newest_at(at)?;
                match gap {
                    Some(gap) if found.position == end => {
                        let what = Error::new(Kind::NotCovered, format!("the moment {at}"));
                        Err(self.lost(what, Some(gap)))
                    }
                    _ => Ok(found),
                }
            }
        }
    }

    /// The newest state that can be reached and in which nothing is younger than `at`. One that
    /// cannot be read is an error only where it may be that state.
    fn newest_at(&self, at: Timestamp) -> Result<Moment> {
        let positions: Vec<u64> = self.reached.keys().copied().collect();
        // States follow one another in time, so a few footers of many tell which it is.
        let (mut low, mut high, mut best) = (0, positions.len(), self.at(0)?);
        let mut harmed = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(positions[middle]) {
                Ok(moment) if moment.until <= at => (low, best) = (middle + 1, moment),
                Ok(_) => (high, harmed) = (middle, None),
                Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                    (high, harmed) = (middle, Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        match harmed {
            Some(error) => Err(self.harmed(error, best.position)),
            None => Ok(best),
        }
    }

    /// The error of a state that cannot be read, with what can be restored instead.
    fn harmed(&self, error: Error, before: u64) -> Error {
        match error.kind() {
            Kind::CheckFailed | Kind::NotCovered => error.hint(self.alternative(before)),
            _ => error,
        }
    }

    /// What is known of a position that can be reached.
    pub(crate) fn at(&self, position: u64) -> Result<Moment> {
        if position == 0 {
            let taken_at = self.base.taken_at;
            return Ok(Moment { position, held: taken_at, until: taken_at });
        }
        let Some((_, index)) = self.reached.get(&position) else {
            let message = format!("position {position} of {}", self.base.name);
            return Err(Error::new(Kind::NotCovered, message));
        };
        let file = &self.files[*index];
        Ok(match file.is_sealed() {
            true => moment_of_label(&file.label(self.repository)?),
            false => moment_of(&file.footer(self.repository)?),
        })
    }

    /// The files that lead to a position, each proved to follow the one before.
    pub(crate) fn way(&self, position: u64) -> Result<Vec<Step>> {
        let mut files = Vec::new();
        let mut at = position;
        while at > 0 {
            let Some((_, index)) = self.reached.get(&at) else {
                let message = format!("position {position} of {}", self.base.name);
                return Err(self.lost(Error::new(Kind::NotCovered, message), self.gap()));
            };
            files.push(self.files[*index].clone());
            at = self.files[*index].span.from;
        }
        files.reverse();
        let store = self.repository.store();
        let footers = in_parallel(&files, store.readers(), |file| {
            Ok::<_, Error>((file.footer(self.repository)?, file.size(self.repository)?))
        });
        let mut steps: Vec<Step> = Vec::with_capacity(files.len());
        for (mut file, footer) in files.into_iter().zip(footers) {
            let step = footer.and_then(|(footer, bytes)| {
                file.bytes = bytes;
                self.require_next(&file, &footer, steps.last().map(|(_, before)| before))?;
                Ok((file, footer))
            });
            match step {
                Ok(step) => steps.push(step),
                Err(error) => {
                    let last = steps.last().map_or(0, |(_, footer)| footer.to);
                    return Err(self.harmed(error, last));
                }
            }
        }
        Ok(steps)
    }

    /// Requires that a file is of this log and follows the one before.
    pub(crate) fn require_next(
        &self,
        file: &LogObject,
        footer: &Footer,
        before: Option<&Footer>,
    ) -> Result<()> {
        let foreign = |why: &str| Err(foreign(file, why));
        self.require_own(file, (footer.source, footer.base))?;
        let Some(before) = before else { return Ok(()) };
        if footer.page_size != before.page_size || footer.page_count.0 != before.page_count.1 {
            return foreign("its pages do not fit those of the file before it");
        }
        if footer.link_before != before.link {
            return foreign("it follows another file than the one before it");
        }
        if footer.state_before != before.state_after {
            return foreign("it begins with another state than the one before it ends with");
        }
        Ok(())
    }

    /// Requires that a file which says that it is of that source and base is of this log.
    pub(crate) fn require_own(&self, file: &LogObject, (source, base): (Uuid, Uuid)) -> Result<()> {
        if source != self.base.source.id {
            return Err(foreign(file, "it is of another source"));
        }
        match base == self.base.id {
            true => Ok(()),
            false => Err(foreign(file, "it follows another backup")),
        }
    }

    /// The error for a target that a gap makes unreachable, with what can be restored instead.
    fn lost(&self, what: Error, gap: Option<Gap>) -> Error {
        let name = &self.base.name;
        let message = match &gap {
            Some(Gap { after, before }) => format!(
                "{} cannot be restored: of the log of {name} files are missing between the \
                 positions {after} and {before}",
                what.message()
            ),
            None => format!(
                "{} cannot be restored: the log of {name} ends at position {}",
                what.message(),
                self.end()
            ),
        };
        let error = Error::new(Kind::NotCovered, message);
        let last = gap.map_or(self.end(), |gap| gap.after);
        error.hint(self.alternative(last))
    }

    fn alternative(&self, position: u64) -> String {
        let (folder, name) = (self.folder, &self.base.name);
        match self.at(position) {
            Ok(moment) if position > 0 => format!(
                "what can be restored instead is the state of {}: lifeboat restore \
                 {name}+{position}; or a newer backup: lifeboat list {folder}",
                moment.until.strftime("%Y-%m-%dT%H:%M:%SZ")
            ),
            _ => format!(
                "what can be restored instead is the backup itself: lifeboat restore \
                 {folder}@{}; or a newer one: lifeboat list {folder}",
                compact(self.base.taken_at)
            ),
        }
    }
}

fn foreign(file: &LogObject, why: &str) -> Error {
    let message = format!("{} does not belong to this log: {why}", file.object);
    Error::new(Kind::NotCovered, message)
}

pub(crate) fn moment_of(footer: &Footer) -> Moment {
    moment(footer.to, footer.held_ms, footer.until_ms)
}

fn moment_of_label(label: &Label) -> Moment {
    moment(label.to, label.held_ms, label.until_ms)
}

fn moment(position: u64, held_ms: i64, until_ms: i64) -> Moment {
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    Moment { position, held: time(held_ms), until: time(until_ms) }
}
