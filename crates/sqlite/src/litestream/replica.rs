//! The files of a replica, the states that they lead to, and what is missing between them.
//!
//! Names say which transactions a file covers, heads when it was written. A state can be restored
//! if files lead to it from a snapshot without a gap. Litestream keeps what is old in coarser
//! steps: that a transaction has no file of its own is no gap as long as one covers it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::store::{ObjectName, Store};
use lifeboat_core::{Error, Kind, Result};

use super::ltx::{HEAD_BYTES, Head, LtxReader};

/// Where the files of a replica in a folder are; in a bucket its levels are not below another name.
const FOLDER: &str = "ltx";
/// The highest level: that of snapshots.
const LEVEL_MAX: u8 = 9;

/// A file of a replica.
#[derive(Clone, Debug)]
pub(super) struct LtxFile {
    pub(super) object: ObjectName,
    pub(super) bytes: u64,
    pub(super) level: u8,
    /// The transactions that it covers, by its name.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Its head; why it cannot be believed, where that is so.
    pub(super) head: Result<Head, String>,
}

/// A state that a replica leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The last transaction in it.
    pub transaction: u64,
    /// When the file was written that ends with it.
    pub at: Timestamp,
}

/// A file that is damaged.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Which.
    pub object: String,
    /// How.
    pub why: String,
}

/// Which state of a replica is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest.
    Latest,
    /// The newest that was written at or before that time.
    At(Timestamp),
    /// The one that ends with that transaction.
    Transaction(u64),
}

/// A replica.
pub struct Replica {
    store: Arc<dyn Store>,
    files: Vec<LtxFile>,
    /// Each transaction at which a state can be restored, and the files that lead to it, by place.
    reached: BTreeMap<u64, Vec<usize>>,
}

impl Replica {
    /// The replica in that place; `None` where there is none. One of Litestream 0.3 is an error.
    pub fn find(store: Arc<dyn Store>) -> Result<Option<Self>> {
        let mut files = Vec::new();
        let mut objects = store.list(Some(FOLDER))?;
        if objects.is_empty() {
            for level in 0..=LEVEL_MAX {
                objects.extend(store.list(Some(&format!("{level:04x}")))?);
            }
        }
        for info in objects {
            let Some((level, first, last)) = parse(info.name.as_str()) else { continue };
            let head = Err(String::new());
            files.push(LtxFile { object: info.name, bytes: info.bytes, level, first, last, head });
        }
        if files.is_empty() {
            return Ok(None);
        }
        let heads = in_parallel(&files, store.readers(), |file| head_of(&*store, file));
        for (file, head) in files.iter_mut().zip(heads) {
            file.head = match head {
                Ok(head) => Ok(head),
                Err(error) if error.kind() == Kind::CheckFailed => Err(error.to_string()),
                // Litestream removes what is old while we look: what is gone is not there.
                Err(error) if error.kind() == Kind::NotCovered => Err(error.to_string()),
                Err(error) => return Err(error),
            };
        }
        files.sort_by_key(|file| (file.last, file.first, file.level));
        let reached = reach(&files);
        Ok(Some(Replica { store, files, reached }))
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.store.url()
    }

    pub(super) fn file(&self, place: usize) -> &LtxFile {
        &self.files[place]
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &LtxFile> {
        self.files.iter()
    }

    /// Of each level: how many files, and how many bytes.
    pub fn levels(&self) -> BTreeMap<u8, (usize, u64)> {
        let mut levels = BTreeMap::new();
        for file in &self.files {
            let (files, bytes) = levels.entry(file.level).or_insert((0, 0));
            (*files, *bytes) = (*files + 1, *bytes + file.bytes);
        }
        levels
    }

    /// The states that can be restored, oldest first.
    pub fn states(&self) -> Vec<ReplicaState> {
        self.reached.iter().map(|(&transaction, way)| self.state(transaction, way)).collect()
    }

    fn state(&self, transaction: u64, way: &[usize]) -> ReplicaState {
        let time_ms = way.last().and_then(|&place| self.files[place].head.as_ref().ok());
        let at = time_ms.and_then(|head| Timestamp::from_millisecond(head.time_ms).ok());
        ReplicaState { transaction, at: at.unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    /// The transactions of which files are there but not what leads to them: the last one before
    /// and the first one behind what is missing.
    pub fn gap(&self) -> Option<(u64, u64)> {
        let newest = self.reached.last_key_value().map_or(0, |(transaction, _)| *transaction);
        let lost = self.files.iter().filter(|file| file.last > newest);
        let first = lost.min_by_key(|file| file.first)?;
        Some((newest, first.first.max(newest + 1)))
    }

    /// The files that lead to a state.
    pub(super) fn way(&self, transaction: u64) -> Option<&[usize]> {
        self.reached.get(&transaction).map(Vec::as_slice)
    }

    /// The files that lead to a state, or to one before it if none do, without some of them.
    pub(super) fn way_without(
        &self,
        transaction: u64,
        left_out: &BTreeSet<usize>,
    ) -> Option<(u64, Vec<usize>)> {
        let mut files = self.files.clone();
        for &place in left_out {
            files[place].head = Err("it is damaged".to_owned());
        }
        reach(&files).into_iter().rfind(|(reached, _)| *reached <= transaction)
    }

    /// The state that is meant. Where files are missing on the way to it, or it is not known
    /// whether they are, that is [`Kind::NotCovered`], with what can be restored instead.
    pub fn meant(&self, target: Target) -> Result<ReplicaState> {
        let at = |transaction: &u64| self.state(*transaction, &self.reached[transaction]);
        match target {
            Target::Transaction(wanted) => match self.reached.get(&wanted) {
                Some(way) => Ok(self.state(wanted, way)),
                None => Err(self.lost(&format!("transaction {wanted:016x}"), wanted)),
            },
            Target::Latest => match (self.gap(), self.reached.last_key_value()) {
                (None, Some((newest, _))) => Ok(at(newest)),
                _ => Err(self.lost("the newest state", u64::MAX)),
            },
            Target::At(time) => {
                let what = format!("the moment {time}");
                let is_before = |file: &&LtxFile| {
                    let head = file.head.as_ref().ok();
                    head.is_some_and(|head| head.time_ms <= time.as_millisecond())
                };
                // Also one to which nothing leads: then what is meant is lost.
                let wanted = self.files.iter().filter(is_before).map(|file| file.last).max();
                let found = wanted.and_then(|wanted| self.reached.get_key_value(&wanted));
                let Some((&transaction, way)) = found else {
                    return Err(self.lost(&what, wanted.unwrap_or(0)));
                };
                let state = self.state(transaction, way);
                // What is missing right behind it may have been written before that moment.
                match self.gap() {
                    Some((before, _)) if before == transaction && state.at < time => {
                        Err(self.lost(&what, transaction + 1))
                    }
                    _ => Ok(state),
                }
            }
        }
    }

    /// The error for what cannot be restored, with the nearest state before it that can.
    fn lost(&self, what: &str, wanted: u64) -> Error {
        let why = match self.gap() {
            Some((before, behind)) => format!(
                "files are missing or damaged between the transactions {before:016x} and \
                 {behind:016x}"
            ),
            None => "no file of it is of that moment".to_owned(),
        };
        let url = self.url();
        let message = format!("{what} of {url} cannot be restored: {why}");
        let error = Error::new(Kind::NotCovered, message);
        let (first, newest) = (self.reached.first_key_value(), self.reached.range(..wanted).last());
        match newest.or(first) {
            Some((&transaction, way)) => error.hint(format!(
                "what can be restored instead is the state of {}: lifeboat restore \
                 {url}+{transaction:016x} --to PATH",
                self.state(transaction, way).at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
            )),
            None => error.hint("nothing leads to any of its states: look for another replica"),
        }
    }

    /// Reads every file to its end.
    pub fn verify(&self, env: &Env) -> Result<Vec<Damage>> {
        let checked = in_parallel(&self.files, self.store.readers().min(env.threads), |file| {
            env.proceed()?;
            match self.read_all(file) {
                Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                    let object = file.object.to_string();
                    Ok(Some(Damage { object, why: error.message().to_owned() }))
                }
                Err(error) => Err(error),
                Ok(()) => Ok(None),
            }
        });
        checked.into_iter().filter_map(Result::transpose).collect()
    }

    fn read_all(&self, file: &LtxFile) -> Result<()> {
        if let Err(why) = &file.head {
            return Err(Error::new(Kind::CheckFailed, why.clone()));
        }
        let mut reader = self.open(file)?;
        while reader.next()?.is_some() {}
        Ok(())
    }

    /// Opens a file whose head is known.
    pub(super) fn open(&self, file: &LtxFile) -> Result<LtxReader<impl Read>> {
        let reader = std::io::BufReader::with_capacity(
            1 << 20,
            self.store.get(&file.object, None)?.take(file.bytes),
        );
        let opened = LtxReader::open(reader, file.bytes)?;
        match file.head.as_ref().is_ok_and(|head| head == opened.head()) {
            true => Ok(opened),
            false => Err(Error::new(Kind::CheckFailed, "it changed while it was read")),
        }
    }
}

/// Level and transactions of `ltx/0/0000000000000001-0000000000000002.ltx`, or of `0000/...`.
fn parse(name: &str) -> Option<(u8, u64, u64)> {
    let in_folder = name.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('/'));
    let (level, file) = in_folder.unwrap_or(name).split_once('/')?;
    let (first, last) = file.strip_suffix(".ltx")?.split_once('-')?;
    let number = |text: &str| {
        let is_number = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_number.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    (first > 0 && first <= last).then_some((level.parse().ok()?, first, last))
}

fn head_of(store: &dyn Store, file: &LtxFile) -> Result<Head> {
    let mut raw = [0; HEAD_BYTES];
    let mut reader = store.get(&file.object, Some(0..HEAD_BYTES as u64))?;
    reader.read_exact(&mut raw).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::new(Kind::CheckFailed, "it is cut short"),
        _ => {
            let message = format!("cannot read {} of {}", file.object, store.url());
            Error::io(Kind::StoreUnavailable, message, error)
        }
    })?;
    let head = Head::parse(&raw)?;
    match (head.first, head.last) == (file.first, file.last) {
        true => Ok(head),
        false => {
            Err(Error::new(Kind::CheckFailed, "it covers other transactions than its name says"))
        }
    }
}

/// The ways to all states that can be reached: from a snapshot on, each file begins at or before
/// the transaction that follows. Of several ways the one with the fewest bytes.
fn reach(files: &[LtxFile]) -> BTreeMap<u64, Vec<usize>> {
    // By the last transaction, so that what leads to a file was seen before it.
    let mut best: BTreeMap<u64, (u64, usize, Option<u64>)> = BTreeMap::new();
    for (place, file) in files.iter().enumerate() {
        if file.head.is_err() {
            continue;
        }
        let before = match file.first {
            1 => Some((file.bytes, None)),
            first => best
                .range(first - 1..file.last)
                .min_by_key(|(_, (bytes, ..))| *bytes)
                .map(|(&before, (bytes, ..))| (bytes + file.bytes, Some(before))),
        };
        let Some((bytes, before)) = before else { continue };
        let way = (bytes, place, before);
        let known = best.entry(file.last).or_insert(way);
        *known = way.min(*known);
    }
    let way = |transaction: u64| {
        let (mut places, mut next) = (Vec::new(), Some(transaction));
        while let Some((_, place, before)) = next.and_then(|next| best.get(&next)) {
            places.push(*place);
            next = *before;
        }
        places.reverse();
        places
    };
    best.keys().map(|&transaction| (transaction, way(transaction))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(level: u8, first: u64, last: u64, time_s: i64) -> LtxFile {
        let name = format!("ltx/{level}/{first:016x}-{last:016x}.ltx");
        assert_eq!(parse(&name), Some((level, first, last)));
        let head = Head { page_size: 4096, page_count: 9, first, last, time_ms: time_s * 1000 };
        let object = ObjectName::new(name).unwrap();
        LtxFile { object, bytes: last - first + 1, level, first, last, head: Ok(head) }
    }

    fn reached(files: Vec<LtxFile>) -> Vec<(u64, usize)> {
        let mut files = files;
        files.sort_by_key(|file| (file.last, file.first, file.level));
        reach(&files).into_iter().map(|(transaction, way)| (transaction, way.len())).collect()
    }

    #[test]
    fn states_are_reached_by_levels_together_and_not_over_gaps() {
        let files = vec![file(9, 1, 4, 4), file(0, 5, 5, 5), file(0, 6, 6, 6), file(0, 8, 8, 8)];
        assert_eq!(reached(files.clone()), [(4, 1), (5, 2), (6, 3)]);
        let with_level_1 = [files.clone(), vec![file(1, 3, 7, 7)]].concat();
        assert_eq!(reached(with_level_1), [(4, 1), (5, 2), (6, 3), (7, 2), (8, 3)]);
        assert!(reached(vec![file(0, 2, 2, 2)]).is_empty());
    }

    #[test]
    fn names_of_folders_and_buckets_are_read_and_foreign_ones_are_none() {
        let bucket = "0009/0000000000000001-00000000000000ff.ltx";
        assert_eq!(parse(bucket), Some((9, 1, 255)));
        for name in [
            "ltx/0/1-2.ltx",
            "0000/1-2.ltx",
            "ltx/x/0000000000000001-0000000000000001.ltx",
            "ltx/0/0000000000000002-0000000000000001.ltx",
            "ltx/0/0000000000000001-0000000000000001.ltx.tmp",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
