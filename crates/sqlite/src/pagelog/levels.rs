//! Thinning out logs: which files of a log are merged, which go and which are packed, and the doing
//! of it.
//!
//! What is merged is read back before anything goes, and what goes does so from the newest on. So
//! whoever comes in between, or looks after a crash, finds every state that stays.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::marks::LevelRule;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::prune::{LogLevels, Thinned, Thinning, discard_unfinished};
use lifeboat_core::repository::Repository;
use lifeboat_core::store::{ObjectInfo, ObjectName};
use lifeboat_core::{Kind, Result};

use super::chain::{Chain, Step};
use super::merge::Merger;
use super::names::Span;
use super::packing::{self, Packing};
use super::thin::{self, Fineness, Leg, Resolution, State, Thin};

/// What a writer that was killed left of a file is let lie for so long.
const LEFT_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Thins out the page logs of a source, and packs them.
#[derive(Clone, Copy, Debug)]
pub struct LogThinner {
    /// How finely states can be told apart, by their age. `None` where all stay.
    pub resolution: Option<Resolution>,
    /// How files are packed.
    pub packing: Packing,
}

/// The log of a backup, and what becomes of it.
struct Judged<'a> {
    chain: Chain<'a>,
    thin: Thin,
    /// How many of its states stay.
    states_after: usize,
    waits: Option<String>,
    /// The files that make packs, whatever becomes of the rest.
    packs: Vec<Vec<usize>>,
    /// Objects that may go because they are in packs, by their names.
    over: Vec<ObjectInfo>,
}

impl LogLevels for LogThinner {
    fn rule(&self) -> Option<LevelRule> {
        let Resolution { all_ms, minutely_ms, hourly_ms } = self.resolution?;
        Some(LevelRule { all_ms, minutely_ms, hourly_ms })
    }

    fn holds(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        backups: &[&Manifest],
    ) -> Result<HashMap<String, String>> {
        let mut holds = HashMap::new();
        let Some(resolution) = self.resolution else { return Ok(holds) };
        let chains = chains(repository, folder, backups)?;
        let newest_ms = newest_ms(now, backups, &chains)?;
        for chain in &chains {
            let fineness = resolution.fineness(end_ms(chain)?, newest_ms);
            let kept = match fineness {
                Fineness::Nothing => continue,
                Fineness::All => "states of its log",
                Fineness::Minute => "a state of each minute of its log",
                Fineness::Hour => "a state of each hour of its log",
            };
            holds.insert(chain.base.name.clone(), format!("{kept} are kept"));
        }
        Ok(holds)
    }

    fn plan(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        backups: &[&Manifest],
    ) -> Result<Vec<Thinning>> {
        let chains = chains(repository, folder, backups)?;
        let newest_ms = newest_ms(now, backups, &chains)?;
        chains.into_iter().map(|chain| Ok(self.judge(chain, newest_ms, now)?.told())).collect()
    }

    fn thin(
        &self,
        env: &Env,
        repository: &Repository,
        folder: &str,
        (backups, base): (&[&Manifest], &Manifest),
        hold: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Thinned> {
        let chains = chains(repository, folder, backups)?;
        let now = env.clock.now();
        let newest_ms = newest_ms(now, backups, &chains)?;
        let chain = chains.into_iter().find(|chain| chain.base.id == base.id);
        match chain {
            Some(chain) => self.judge(chain, newest_ms, now)?.apply(env, hold),
            None => Ok(Thinned::default()),
        }
    }
}

/// What is to be thinned out of a log, how many states are left, and why it waits.
type ToThin = (Thin, usize, Option<String>);

impl LogThinner {
    fn judge<'a>(&self, chain: Chain<'a>, newest_ms: i64, now: Timestamp) -> Result<Judged<'a>> {
        let (thin, states_after, waits) = match self.resolution {
            Some(resolution) => to_thin(&chain, resolution, newest_ms)?,
            None => (Thin::default(), chain.states(), None),
        };
        let going: HashSet<usize> = match waits {
            None => thin.going.iter().copied().collect(),
            Some(_) => HashSet::new(),
        };
        let packs = self.packing.packs(&chain.files, |at| going.contains(&at));
        // Of a pack that goes all goes with it.
        let gone: HashSet<&ObjectName> = going.iter().map(|&at| &chain.files[at].object).collect();
        let stays = |object: &&ObjectInfo| {
            let pack = packing::covering(&chain, object).map(|at| &chain.packs[at].0.object);
            pack.is_none_or(|pack| !gone.contains(pack))
        };
        let over = self.packing.over(now, &chain).into_iter().filter(stays).cloned().collect();
        Ok(Judged { chain, thin, states_after, waits, packs, over })
    }
}

/// What is to be thinned out of a log.
fn to_thin(chain: &Chain<'_>, resolution: Resolution, newest_ms: i64) -> Result<ToThin> {
    let waits = |why: String| Ok((Thin::default(), chain.states(), Some(why)));
    if let Some(gap) = chain.gap() {
        return waits(format!("files are missing between {} and {}", gap.after, gap.before));
    }
    let mut states = match old_states(chain, resolution, newest_ms) {
        Ok(states) => states,
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            return waits(error.to_string());
        }
        Err(error) => return Err(error),
    };
    let spans: Vec<Span> = chain.files.iter().map(|file| file.span).collect();
    if states.len() == chain.states()
        && let Some(end_ms) = states.last().and_then(|end| end.until_ms)
        && resolution.fineness(end_ms, newest_ms) == Fineness::Nothing
    {
        let mut going: Vec<usize> = (0..spans.len()).collect();
        going.sort_by_key(|&at| std::cmp::Reverse((spans[at].to, spans[at].from)));
        return Ok((Thin { way: Vec::new(), going }, 0, None));
    }
    // A pack goes as a whole: as long as some of its states are young, none of them is old.
    if let Some(last) = states.last().map(|state| state.position) {
        let mut packs = chain.packs.iter().map(|(pack, _)| pack.span);
        let begin = packs.find(|span| span.from < last && last < span.to);
        let begin = begin.map_or(last, |span| span.from);
        states.retain(|state| state.position <= begin);
    }
    let (young, end) = (chain.states() - states.len(), states.last().copied());
    let Some(end) = end else { return Ok((Thin::default(), young, None)) };
    let staying = resolution.staying(newest_ms, &states);
    let mut thin = thin::plan(&spans, &staying, end.position);
    keep_whole(chain, &mut thin);
    if !still_reached(chain, &spans, &thin, end.position) {
        thin = Thin::default();
    }
    // What is merged is opened first.
    if chain.is_sealed() && chain.repository.keys().is_none() && !thin.going.is_empty() {
        return waits("its files are sealed, and no key is named: --identity FILE".to_owned());
    }
    let states_after = match thin == Thin::default() {
        true => chain.states(),
        false => young + staying.len(),
    };
    Ok((thin, states_after, None))
}

/// Of a pack of which something stays nothing goes.
fn keep_whole(chain: &Chain<'_>, thin: &mut Thin) {
    let going: HashSet<usize> = thin.going.iter().copied().collect();
    let stays = |at: &usize| !going.contains(at);
    let staying: HashSet<&ObjectName> =
        (0..chain.files.len()).filter(stays).map(|at| &chain.files[at].object).collect();
    thin.going.retain(|&at| !staying.contains(&chain.files[at].object));
}

impl Judged<'_> {
    /// The objects that go, each once: those of files in the order in which these may go.
    fn going(&self) -> Vec<(&ObjectName, u64)> {
        let mut seen = HashSet::new();
        let mut going = Vec::new();
        for &at in &self.thin.going {
            let file = &self.chain.files[at];
            if seen.insert(&file.object) {
                let bytes = file.pack.as_ref().map_or(file.bytes, |(pack, _)| pack.bytes);
                going.push((&file.object, bytes));
            }
        }
        going
    }

    /// What lies beside a pack with that name and is in it.
    fn spare_of(&self, pack: &ObjectName) -> Vec<&ObjectInfo> {
        let chain = &self.chain;
        let is_in = |object: &&ObjectInfo| {
            packing::covering(chain, object).is_some_and(|at| chain.packs[at].0.object == *pack)
        };
        chain.spare.iter().filter(is_in).collect()
    }

    fn told(&self) -> Thinning {
        let Judged { chain, thin, states_after, waits, packs, over } = self;
        let merged = thin.way.iter().filter(|leg| matches!(leg, Leg::Merge(..))).count();
        let ((files, _), going) = (chain.size(), self.going());
        let is_idle = going.is_empty();
        let merged = if is_idle { 0 } else { merged };
        Thinning {
            backup: chain.base.name.clone(),
            states: (chain.states(), if is_idle { chain.states() } else { *states_after }),
            files: (files, files + merged - going.len()),
            merged,
            going_bytes: going.iter().map(|(_, bytes)| bytes).sum(),
            packed: (packs.iter().map(Vec::len).sum(), packs.len()),
            spare: over.len(),
            waits: waits.clone(),
        }
    }

    /// Merges, then deletes; then packs.
    fn apply(&self, env: &Env, hold: &mut dyn FnMut() -> Result<()>) -> Result<Thinned> {
        let chain = &self.chain;
        let mut done = Thinned::default();
        let is_thinned = self.waits.is_none() && !self.thin.going.is_empty();
        if is_thinned {
            let written = self.walk(env, &mut done)?;
            for (object, bytes) in self.going() {
                let spare = self.spare_of(object);
                let own = spare.iter().rev().map(|one| (&one.name, one.bytes));
                for (object, bytes) in own.chain([(object, bytes)]) {
                    env.proceed()?;
                    hold()?;
                    chain.repository.store().delete(object)?;
                    env.crash.pass("merge.deleted")?;
                    done.deleted += 1;
                    done.freed_bytes += bytes;
                }
            }
            done.freed_bytes = done.freed_bytes.saturating_sub(written);
        }
        for files in &self.packs {
            env.proceed()?;
            hold()?;
            match packing::pack(env, chain, files) {
                // Another program was faster.
                Err(error) if error.kind() == Kind::Refused => {}
                packed => {
                    packed?;
                    done.packed += files.len();
                }
            }
        }
        // Last: whoever may not delete has packed all the same.
        let over: Vec<&ObjectInfo> = self.over.iter().collect();
        let (deleted, freed_bytes) = packing::remove_spare(env, chain, &over, hold)?;
        (done.deleted, done.freed_bytes) = (done.deleted + deleted, done.freed_bytes + freed_bytes);
        if is_thinned || !self.packs.is_empty() {
            let before = env.clock.now().checked_sub(LEFT_FOR).unwrap_or(Timestamp::MIN);
            let prefix = chain.repository.log_prefix(chain.folder, &chain.base.name);
            discard_unfinished(chain.repository.store(), &prefix, before)?;
        }
        Ok(done)
    }

    /// Walks from the base through the states that stay, merging on the way: after it every file
    /// that takes the place of others that go was read. How many bytes were written.
    fn walk(&self, env: &Env, done: &mut Thinned) -> Result<u64> {
        let Judged { chain, thin, .. } = self;
        let mut written = 0;
        // Nothing behind the last file that goes has to be looked at.
        let last = thin.going.iter().map(|&at| chain.files[at].span.to).max().unwrap_or(0);
        let begins = |leg: &&Leg| match leg {
            Leg::There(at) => chain.files[*at].span.from < last,
            Leg::Merge(_, span) => span.from < last,
        };
        let mut legs = thin.way.iter().take_while(begins).peekable();
        if legs.peek().is_none() {
            return Ok(0);
        }
        let mut merger = Merger::begin(env, chain.repository, chain.folder, chain.base)?;
        let mut before: Option<Step> = None;
        for leg in legs {
            env.proceed()?;
            let files = match leg {
                Leg::There(at) => std::slice::from_ref(at),
                Leg::Merge(files, _) => files.as_slice(),
            };
            let steps = self.steps(files, before.as_ref())?;
            before = match leg {
                Leg::Merge(_, span) => {
                    let step = merger.merge(env, &steps, *span)?;
                    done.merged += 1;
                    written += step.0.bytes;
                    Some(step)
                }
                Leg::There(_) => {
                    for step in &steps {
                        merger.pass(step, step.1.is_compacted && self.replaces(step.0.span))?;
                    }
                    steps.into_iter().last()
                }
            };
        }
        Ok(written)
    }

    /// Whether a merged file takes the place of some that go now.
    fn replaces(&self, span: Span) -> bool {
        let mut going = self.thin.going.iter().map(|&at| self.chain.files[at].span);
        going.any(|gone| span.from <= gone.from && gone.to <= span.to)
    }

    /// Those files with their footers, each proved to follow the one before.
    fn steps(&self, files: &[usize], before: Option<&Step>) -> Result<Vec<Step>> {
        let (chain, store) = (&self.chain, self.chain.repository.store());
        let footer = |at: &usize| chain.files[*at].footer(chain.repository);
        let footers = in_parallel(files, store.readers(), footer);
        let mut steps: Vec<Step> = Vec::with_capacity(files.len());
        for (&at, footer) in files.iter().zip(footers) {
            let (file, footer) = (&chain.files[at], footer?);
            let last = steps.last().or(before).map(|(_, footer)| footer);
            chain.require_next(file, &footer, last)?;
            steps.push((file.clone(), footer));
        }
        Ok(steps)
    }
}

/// The logs of those backups that have one.
fn chains<'a>(
    repository: &'a Repository,
    folder: &'a str,
    backups: &[&'a Manifest],
) -> Result<Vec<Chain<'a>>> {
    let logs = repository.log_prefix(folder, "");
    let objects = repository.store().list(Some(logs.trim_end_matches('/')))?;
    let backup = |name: &str| Some(name.strip_prefix(&logs)?.split('/').next()?.to_owned());
    let logged: HashSet<String> =
        objects.iter().filter_map(|object| backup(object.name.as_str())).collect();
    let mut chains = Vec::new();
    for base in backups.iter().filter(|base| logged.contains(&base.name)) {
        let chain = Chain::of(repository, folder, base)?;
        if !chain.is_empty() {
            chains.push(chain);
        }
    }
    Ok(chains)
}

/// When the newest state of the source was, as its backups and logs say: from there ages count.
fn newest_ms(now: Timestamp, backups: &[&Manifest], chains: &[Chain<'_>]) -> Result<i64> {
    let now_ms = now.as_millisecond();
    let mut newest_ms = i64::MIN;
    for backup in backups {
        newest_ms = newest_ms.max(backup.taken_at.as_millisecond().min(now_ms));
    }
    for chain in chains {
        newest_ms = newest_ms.max(end_ms(chain)?.min(now_ms));
    }
    Ok(newest_ms)
}

/// When the newest state of a log was; where it cannot be read, when its base was taken.
fn end_ms(chain: &Chain<'_>) -> Result<i64> {
    match chain.at(chain.end()) {
        Ok(moment) => Ok(moment.until.as_millisecond()),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            Ok(chain.base.taken_at.as_millisecond())
        }
        Err(error) => Err(error),
    }
}

/// The states of a log up to the first one that is not to be thinned out yet, whose time is read
/// with them: whether the one before is the last of its minute, it says. Of those that were thinned
/// out already no time is read, as the level of the file that leads there tells it.
fn old_states(chain: &Chain<'_>, resolution: Resolution, newest_ms: i64) -> Result<Vec<State>> {
    let positions = chain.positions();
    let mut times = Times { chain, positions: &positions, known: HashMap::new() };
    let [all, minutely, hourly] = resolution.borders_ms(newest_ms);
    let old = times.before(all)?;
    let (hours, nothing) = (times.before(minutely)?, times.before(hourly)?);
    let end = (old + usize::from(old > 0)).min(positions.len());
    let is_settled = |at: usize| match chain.level(positions[at]) {
        _ if at < nothing => false,
        level if at < hours => level >= Fineness::Hour.level(),
        level => level >= Fineness::Minute.level() || at >= old,
    };
    let settled: Vec<bool> = (0..end).map(is_settled).collect();
    let is_needed = |at: &usize| {
        let around = at.saturating_sub(1)..=(at + 1).min(end - 1);
        at + 1 == end || around.into_iter().any(|at| !settled[at])
    };
    let needed: Vec<usize> = (0..end).filter(is_needed).collect();
    times.read(&needed)?;
    let state = |at: usize| State {
        position: positions[at],
        until_ms: needed.binary_search(&at).ok().and_then(|_| times.known.get(&at).copied()),
    };
    Ok((0..end).map(state).collect())
}

/// When states of a log were. Each is read once, and no more of them than needed.
struct Times<'c> {
    chain: &'c Chain<'c>,
    positions: &'c [u64],
    known: HashMap<usize, i64>,
}

impl Times<'_> {
    fn time(&mut self, at: usize) -> Result<i64> {
        self.read(&[at])?;
        Ok(self.known.get(&at).copied().unwrap_or(i64::MAX))
    }

    fn read(&mut self, places: &[usize]) -> Result<()> {
        let is_unknown = |at: &usize| !self.known.contains_key(at);
        let unknown: Vec<usize> = places.iter().copied().filter(is_unknown).collect();
        let readers = self.chain.repository.store().readers();
        let read = in_parallel(&unknown, readers, |&at| self.chain.at(self.positions[at]));
        for (at, moment) in unknown.into_iter().zip(read) {
            self.known.insert(at, moment?.until.as_millisecond());
        }
        Ok(())
    }

    /// How many states are older than that: they follow one another in time.
    fn before(&mut self, before_ms: i64) -> Result<usize> {
        let (mut low, mut high) = (0, self.positions.len());
        // Most logs are all young, or all old.
        if high == 0 || self.time(high - 1)? < before_ms {
            return Ok(high);
        }
        if self.time(0)? >= before_ms {
            return Ok(0);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.time(middle)? < before_ms {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    }
}

/// Whether every state behind `end` can be reached as before when that was done.
fn still_reached(chain: &Chain<'_>, spans: &[Span], thin: &Thin, end: u64) -> bool {
    let going: HashSet<usize> = thin.going.iter().copied().collect();
    let stays = (0..spans.len()).filter(|at| !going.contains(at)).map(|at| spans[at]);
    let merged = thin.way.iter().filter_map(|leg| match leg {
        Leg::Merge(_, span) => Some(*span),
        Leg::There(_) => None,
    });
    let left: BTreeSet<Span> = stays.chain(merged).collect();
    let mut reached = HashSet::from([0]);
    for span in left {
        if reached.contains(&span.from) {
            reached.insert(span.to);
        }
    }
    chain.positions().iter().all(|position| *position <= end || reached.contains(position))
}
