//! Thinning out logs: which files of a log are merged and which go, and the doing of it.
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
use lifeboat_core::{Error, Kind, Result};

use super::chain::{Chain, Step};
use super::merge::Merger;
use super::names::Span;
use super::thin::{self, Fineness, Leg, Resolution, State, Thin};

/// What a writer that was killed left of a file is let lie for so long.
const LEFT_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Thins out the page logs of a source.
#[derive(Clone, Copy, Debug)]
pub struct LogThinner {
    /// How finely states can be told apart, by their age.
    pub resolution: Resolution,
}

/// The log of a backup, and what becomes of it.
struct Judged<'a> {
    chain: Chain<'a>,
    thin: Thin,
    /// How many of its states stay.
    states_after: usize,
    waits: Option<String>,
}

impl LogLevels for LogThinner {
    fn rule(&self) -> LevelRule {
        let Resolution { all_ms, minutely_ms, hourly_ms } = self.resolution;
        LevelRule { all_ms, minutely_ms, hourly_ms }
    }

    fn holds(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        backups: &[&Manifest],
    ) -> Result<HashMap<String, String>> {
        let chains = chains(repository, folder, backups)?;
        let newest_ms = newest_ms(now, backups, &chains)?;
        let mut holds = HashMap::new();
        for chain in &chains {
            let fineness = self.resolution.fineness(end_ms(chain)?, newest_ms);
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
        chains.into_iter().map(|chain| Ok(self.judge(chain, newest_ms)?.told())).collect()
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
        let newest_ms = newest_ms(env.clock.now(), backups, &chains)?;
        let chain = chains.into_iter().find(|chain| chain.base.id == base.id);
        match chain {
            Some(chain) => self.judge(chain, newest_ms)?.apply(env, hold),
            None => Ok(Thinned::default()),
        }
    }
}

impl LogThinner {
    fn judge<'a>(&self, chain: Chain<'a>, newest_ms: i64) -> Result<Judged<'a>> {
        let waits = |chain, why: String| {
            let (thin, waits) = (Thin::default(), Some(why));
            Ok(Judged { chain, thin, states_after: 0, waits })
        };
        if let Some(gap) = chain.gap() {
            let why = format!("files are missing between {} and {}", gap.after, gap.before);
            return waits(chain, why);
        }
        let states = match old_states(&chain, self.resolution.thinned_before_ms(newest_ms)) {
            Ok(states) => states,
            Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                return waits(chain, error.to_string());
            }
            Err(error) => return Err(error),
        };
        let (young, end) = (chain.states() - states.len(), states.last().copied());
        let Some(end) = end else {
            let (thin, states_after) = (Thin::default(), young);
            return Ok(Judged { chain, thin, states_after, waits: None });
        };
        let spans: Vec<Span> = chain.files.iter().map(|file| file.span).collect();
        if young == 0 && self.resolution.fineness(end.until_ms, newest_ms) == Fineness::Nothing {
            let mut going: Vec<usize> = (0..spans.len()).collect();
            going.sort_by_key(|&at| std::cmp::Reverse((spans[at].to, spans[at].from)));
            let thin = Thin { way: Vec::new(), going };
            return Ok(Judged { chain, thin, states_after: 0, waits: None });
        }
        let staying = self.resolution.staying(newest_ms, &states);
        let mut thin = thin::plan(&spans, &staying, end.position);
        if !still_reached(&chain, &spans, &thin, end.position) {
            thin = Thin::default();
        }
        // What is merged is opened first.
        if chain.is_sealed() && chain.repository.keys().is_none() && !thin.going.is_empty() {
            let why = "its files are sealed, and no key is named: --identity FILE".to_owned();
            return waits(chain, why);
        }
        let states_after = match thin == Thin::default() {
            true => chain.states(),
            false => young + staying.len(),
        };
        Ok(Judged { chain, thin, states_after, waits: None })
    }
}

impl Judged<'_> {
    fn told(&self) -> Thinning {
        let Judged { chain, thin, states_after, waits } = self;
        let merged = thin.way.iter().filter(|leg| matches!(leg, Leg::Merge(..))).count();
        let (files, _) = chain.size();
        let is_idle = thin.going.is_empty() && merged == 0;
        Thinning {
            backup: chain.base.name.clone(),
            states: (chain.states(), if is_idle { chain.states() } else { *states_after }),
            files: (files, files + merged - thin.going.len()),
            merged,
            going_bytes: thin.going.iter().map(|&at| chain.files[at].bytes).sum(),
            waits: waits.clone(),
        }
    }

    /// Merges, then deletes.
    fn apply(&self, env: &Env, hold: &mut dyn FnMut() -> Result<()>) -> Result<Thinned> {
        let Judged { chain, thin, waits, .. } = self;
        let mut done = Thinned::default();
        if waits.is_some() || thin.going.is_empty() {
            return Ok(done);
        }
        let written = self.walk(env, &mut done)?;
        let store = chain.repository.store();
        for &at in &thin.going {
            env.proceed()?;
            hold()?;
            let file = &chain.files[at];
            store.delete(&file.object)?;
            env.crash.pass("merge.deleted")?;
            done.deleted += 1;
            done.freed_bytes += file.bytes;
        }
        done.freed_bytes = done.freed_bytes.saturating_sub(written);
        let before = env.clock.now().checked_sub(LEFT_FOR).unwrap_or(Timestamp::MIN);
        let prefix = chain.repository.log_prefix(chain.folder, &chain.base.name);
        discard_unfinished(store, &prefix, before)?;
        Ok(done)
    }

    /// Walks from the base through the states that stay, merging on the way: after it every file
    /// that takes others' place was read. How many bytes were written.
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
                        merger.pass(step, step.1.is_compacted)?;
                    }
                    steps.into_iter().last()
                }
            };
        }
        Ok(written)
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

/// The states of a log up to the first one that is not older than that. Times are read no further
/// than needed: states follow one another in time.
fn old_states(chain: &Chain<'_>, before_ms: i64) -> Result<Vec<State>> {
    let positions = chain.positions();
    let time = |position: u64| Ok::<i64, Error>(chain.at(position)?.until.as_millisecond());
    let (mut low, mut high) = (0, positions.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match time(positions[middle])? < before_ms {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    // One more than that: whether the last old one is the last of its minute, it says.
    let end = (low + usize::from(low > 0)).min(positions.len());
    let readers = chain.repository.store().readers();
    let times = in_parallel(&positions[..end], readers, |&position| time(position));
    let states = positions.iter().zip(times);
    states.map(|(&position, until_ms)| Ok(State { position, until_ms: until_ms? })).collect()
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
