//! The lease of a prune: one prune of a source at a time, whichever host it runs on.
//!
//! Objects are never overwritten, so a lease is a row of them, `leases/<folder>/<number>.json`, of
//! which the greatest number counts. Whoever wants the lease, or goes on to hold it, puts the next
//! number: the store lets one of them do so, which decides. A holder that pauses for too long is
//! told the same way that another was there, before it deletes anything more.
//!
//! A lease that nobody renews runs out. How old it is, only the clock of the store says, which
//! dated it: who asks puts a small object of its own beside it and looks how that is dated. A
//! holder counts from before it asked, by the slower of its clocks.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::marks::{self, FORMAT, to_bytes};
use crate::store::{ObjectInfo, ObjectName, Store, get_bytes, put_bytes};

/// How long a lease lasts that is not renewed.
pub const LASTS: SignedDuration = SignedDuration::from_mins(10);
/// A holder renews it when so much has passed. What it asked the store for before has the rest of
/// the time to arrive there: longer than any request is tried.
const RENEWED_AFTER: SignedDuration = SignedDuration::from_mins(3);
/// Dates of stores may be rounded to seconds.
const MARGIN: SignedDuration = SignedDuration::from_secs(30);
/// Who cannot ask the store for its time takes its own, and waits so much longer.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_hours(1);
/// The numbers before the last ones stay for so long: who slept meanwhile is refused by them.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// How long to wait before another look whether it is free.
const LOOK_AGAIN_MS: u64 = 3_000;
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// `leases/<folder>/<number>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The id of the run that holds it.
    pub holder: Uuid,
    /// The host on which that is.
    pub host: String,
    /// Its process there.
    pub process: u32,
    /// When it was taken, by the clock of that host.
    pub taken_at: Timestamp,
    /// How many seconds it lasts from when this object was stored.
    pub lasts_s: u32,
    /// Whether this is its end: nobody holds it from here on.
    pub ended: bool,
}

/// The source that a lease is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its folder in the repository.
    pub folder: &'a str,
    /// Its id.
    pub source: Uuid,
}

/// A lease that is held. Dropped, it ends.
pub struct Lease<'a> {
    env: &'a Env,
    store: &'a dyn Store,
    folder: String,
    record: LeaseRecord,
    /// The number that counts; 0 as long as the store has no room for one.
    number: u64,
    /// From when on it lasts.
    since: Reading,
    /// When the next number was first asked for, if nobody knows what became of that.
    asked: Option<Reading>,
    /// Another holds it.
    is_lost: bool,
    /// What lies beside it and means nothing any more.
    old: Vec<ObjectName>,
}

/// Two clocks: one may be set, the other may stand still while the host sleeps.
#[derive(Clone, Copy)]
struct Reading {
    wall: Timestamp,
    monotonic_ms: u64,
}

impl Reading {
    fn now(env: &Env) -> Self {
        Reading { wall: env.clock.now(), monotonic_ms: env.clock.monotonic_ms() }
    }

    /// The longer of the times that have passed by the two.
    fn elapsed(&self, env: &Env) -> SignedDuration {
        let by_wall = env.clock.now().duration_since(self.wall);
        let by_monotonic = env.elapsed_ms(self.monotonic_ms);
        let by_monotonic = i64::try_from(by_monotonic).unwrap_or(i64::MAX);
        by_wall.max(SignedDuration::from_millis(by_monotonic))
    }
}

/// The object that counts.
struct Newest {
    number: u64,
    info: ObjectInfo,
    /// `None` if it cannot be read: then it is held as long as it would last.
    record: Option<LeaseRecord>,
}

/// Who holds a lease.
struct Holding {
    newest: Newest,
    until: Timestamp,
    /// The store's clock is behind its own date.
    is_of_future: bool,
}

impl<'a> Lease<'a> {
    /// Takes the lease for that holder. `dead` are holders that are known to have ended.
    ///
    /// Errors: [`Kind::Locked`] where another holds it.
    pub fn take(
        env: &'a Env,
        store: &'a dyn Store,
        subject: Subject<'_>,
        holder: Uuid,
        dead: &[Uuid],
    ) -> Result<Self> {
        let mut lease = Lease {
            env,
            store,
            folder: format!("leases/{}", subject.folder),
            record: LeaseRecord {
                format: FORMAT,
                source: subject.source,
                holder,
                host: env.host.clone(),
                process: std::process::id(),
                taken_at: env.clock.now(),
                lasts_s: u32::try_from(LASTS.as_secs()).unwrap_or(u32::MAX),
                ended: false,
            },
            number: 0,
            since: Reading::now(env),
            asked: None,
            is_lost: false,
            old: Vec::new(),
        };
        match lease.begin(subject.folder, dead) {
            Ok(()) => Ok(lease),
            // Deleting must make room, and there is none to say so.
            Err(error) if error.kind() == Kind::NoSpace => {
                let message = "no room for a lease: no other host may prune it now";
                env.warn(subject.folder, message);
                Ok(lease)
            }
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self, folder: &str, dead: &[Uuid]) -> Result<()> {
        let newest = newest(self.store, &self.folder)?;
        if let Some(newest) = &newest
            && let Some(holding) = holding(self.env, self.store, &self.folder, newest, dead)?
        {
            return Err(holding.error(folder));
        }
        let next = newest.map_or(1, |newest| newest.number + 1);
        let begun = Reading::now(self.env);
        match self.put(next, false) {
            Ok(true) if self.is_newest(next)? => {
                (self.number, self.since) = (next, begun);
                Ok(())
            }
            Ok(_) => Err(self.taken_by(folder)),
            Err(error) => {
                // It may be there all the same: then nobody else must wait for its end.
                let _ = self.put(next + 1, true);
                Err(error)
            }
        }
    }

    /// Asked before each deletion: renews the lease when it is time, and says whether it is still
    /// held.
    ///
    /// Errors: [`Kind::Locked`] where another took it meanwhile.
    pub fn hold(&mut self) -> Result<()> {
        let folder = self.folder.trim_start_matches("leases/").to_owned();
        if self.number == 0 {
            return match self.begin(&folder, &[]) {
                Err(error) if error.kind() == Kind::NoSpace => Ok(()),
                begun => begun,
            };
        }
        // What was asked for long ago, and is found to be there, may be nearly over.
        for _ in 0..3 {
            if self.since.elapsed(self.env) < RENEWED_AFTER {
                return Ok(());
            }
            self.renew(&folder)?;
        }
        Err(Error::new(
            Kind::StoreUnavailable,
            format!("the lease on `{folder}` cannot be renewed as fast as it ends"),
        ))
    }

    fn renew(&mut self, folder: &str) -> Result<()> {
        let next = self.number + 1;
        let asked = *self.asked.get_or_insert(Reading::now(self.env));
        match self.put(next, false) {
            Ok(true) if self.is_newest(next)? => {
                (self.number, self.since, self.asked) = (next, asked, None);
                Ok(())
            }
            Ok(_) => {
                self.is_lost = true;
                let error = self.taken_by(folder);
                Err(error.context(format!("this prune of `{folder}` lost its lease, and stops")))
            }
            Err(error) => Err(error.context(format!("the lease on `{folder}` cannot be renewed"))),
        }
    }

    /// Puts that number; `false` if another has it.
    fn put(&self, number: u64, ended: bool) -> Result<bool> {
        let object = object(&self.folder, number)?;
        let record = LeaseRecord { ended, ..self.record.clone() };
        match put_bytes(self.store, &object, &to_bytes(&record)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == Kind::Refused => {
                let there = read(self.store, &object)?;
                Ok(there.is_some_and(|there| there == record))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether that number is ours, and none is greater.
    fn is_newest(&mut self, number: u64) -> Result<bool> {
        let objects = self.store.list(Some(&self.folder))?;
        let greatest = objects.iter().filter_map(|object| number_of(&object.name)).max();
        if greatest.is_some_and(|greatest| greatest > number) {
            // It would be found by nobody, as greater ones are there.
            let _ = self.store.delete(&object(&self.folder, number)?);
            return Ok(false);
        }
        let own = read(self.store, &object(&self.folder, number)?)?;
        let is_ours = own.is_some_and(|own| own.holder == self.record.holder);
        let dated = objects.iter().find(|object| number_of(&object.name) == Some(number));
        if let Some(now) = dated.map(|object| object.modified) {
            let is_old = |object: &&ObjectInfo| {
                number_of(&object.name) != Some(number)
                    && now.duration_since(object.modified) >= KEPT
            };
            let old = objects.iter().filter(is_old).map(|object| object.name.clone());
            self.old = old.collect();
        }
        Ok(is_ours)
    }

    /// Who was faster.
    fn taken_by(&self, folder: &str) -> Error {
        let newest = newest(self.store, &self.folder).ok().flatten();
        match newest.filter(|newest| newest.record.as_ref().is_none_or(|record| !record.ended)) {
            Some(newest) => {
                let until = newest.ends_at();
                Holding { newest, until, is_of_future: false }.error(folder)
            }
            None => Error::new(Kind::Locked, format!("another prune of `{folder}` was faster"))
                .hint("lifeboat prune --wait 10m"),
        }
    }

    /// Ends it. A failure is a warning: then it runs out by itself.
    pub fn end(mut self) {
        if let Err(error) = self.finish() {
            let message = format!(
                "the lease of this prune could not be ended, and runs out in {} minutes: {error}",
                LASTS.as_mins()
            );
            self.env.warn(self.folder.trim_start_matches("leases/"), &message);
        }
    }

    fn finish(&mut self) -> Result<()> {
        let number = std::mem::take(&mut self.number);
        if number == 0 || self.is_lost {
            return Ok(());
        }
        let ended = self.put(number + 1, true)?
            // One that was asked for may be there.
            || (self.asked.is_some() && self.put(number + 2, true)?);
        if ended {
            // Who has no right to delete leaves them to one that has.
            for object in &self.old {
                let _ = self.store.delete(object);
            }
        }
        Ok(())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // After an error: what cannot be ended runs out.
        let _ = self.finish();
    }
}

impl Newest {
    fn lasts(&self) -> SignedDuration {
        let said = self.record.as_ref().map(|record| i64::from(record.lasts_s));
        let most = SignedDuration::from_hours(1);
        said.map_or(LASTS, |seconds| SignedDuration::from_secs(seconds).min(most))
    }

    fn ends_at(&self) -> Timestamp {
        self.info.modified.checked_add(self.lasts()).unwrap_or(Timestamp::MAX)
    }
}

impl Holding {
    fn error(&self, folder: &str) -> Error {
        let holder = match &self.newest.record {
            Some(record) => format!(
                "is running on {} since {} (process {})",
                record.host, record.taken_at, record.process
            ),
            None => "is running elsewhere".to_owned(),
        };
        let error = Error::new(Kind::Locked, format!("another prune of `{folder}` {holder}"));
        let object = &self.newest.info.name;
        match self.is_of_future {
            true => error.hint(format!(
                "its lease is dated in the future: lifeboat prune --wait 15m sees whether it is \
                 renewed; or delete {object} from the repository if no prune is running"
            )),
            false => error.hint(format!(
                "wait for its end, as lifeboat prune --wait 15m does; if it was killed, its lease \
                 ends by itself at {}",
                self.until
            )),
        }
    }
}

/// Waits until nobody holds the lease, or for that time. One that is not renewed for as long as it
/// lasts is over, whatever the clocks say.
///
/// Errors: [`Kind::Locked`] where it is held all the time.
pub fn wait(
    env: &Env,
    store: &dyn Store,
    subject: Subject<'_>,
    dead: &[Uuid],
    wait_ms: u64,
) -> Result<()> {
    let folder = format!("leases/{}", subject.folder);
    let begun_ms = env.clock.monotonic_ms();
    let mut seen: Option<(u64, Reading)> = None;
    loop {
        let Some(newest) = newest(store, &folder)? else { return Ok(()) };
        let number = newest.number;
        if seen.as_ref().is_none_or(|(before, _)| *before != number) {
            seen = Some((number, Reading::now(env)));
        }
        let is_silent = |(_, since): &(u64, Reading)| {
            // Only the clock that nobody sets.
            let passed = i64::try_from(env.elapsed_ms(since.monotonic_ms)).unwrap_or(i64::MAX);
            SignedDuration::from_millis(passed) >= newest.lasts()
        };
        if seen.as_ref().is_some_and(is_silent) {
            return end_for_another(env, store, &folder, &newest);
        }
        let Some(holding) = holding(env, store, &folder, &newest, dead)? else { return Ok(()) };
        let waited_ms = env.elapsed_ms(begun_ms);
        if waited_ms >= wait_ms {
            return Err(holding.error(subject.folder));
        }
        env.pause_ms(LOOK_AGAIN_MS.min(wait_ms - waited_ms))?;
    }
}

/// Says that a lease is over that nobody renewed while we looked.
fn end_for_another(env: &Env, store: &dyn Store, folder: &str, newest: &Newest) -> Result<()> {
    let record = LeaseRecord {
        format: FORMAT,
        source: newest.record.as_ref().map_or(Uuid::nil(), |record| record.source),
        holder: env.new_uuid(),
        host: env.host.clone(),
        process: std::process::id(),
        taken_at: env.clock.now(),
        lasts_s: 0,
        ended: true,
    };
    match put_bytes(store, &object(folder, newest.number + 1)?, &to_bytes(&record)) {
        Err(error) if error.kind() != Kind::Refused => Err(error),
        // Where it was renewed at the last moment, the next look sees it.
        _ => Ok(()),
    }
}

/// Who holds the lease of which that object is the newest; `None` if nobody does.
fn holding(
    env: &Env,
    store: &dyn Store,
    folder: &str,
    newest: &Newest,
    dead: &[Uuid],
) -> Result<Option<Holding>> {
    if let Some(record) = &newest.record
        && (record.ended || dead.contains(&record.holder))
    {
        return Ok(None);
    }
    let until = newest.ends_at();
    let (now, longer) = match time_of(env, store, folder)? {
        Some(now) => (now, SignedDuration::ZERO),
        None => (env.clock.now(), CLOCKS_DIFFER_MAX),
    };
    let age = now.duration_since(newest.info.modified);
    if age >= newest.lasts() + longer {
        return Ok(None);
    }
    let newest = Newest { info: newest.info.clone(), record: newest.record.clone(), ..*newest };
    Ok(Some(Holding { newest, until, is_of_future: age < -(MARGIN + longer) }))
}

/// What time it is at the store: that of an object which was put just now. `None` where there is no
/// room for one.
fn time_of(env: &Env, store: &dyn Store, folder: &str) -> Result<Option<Timestamp>> {
    let object = ObjectName::new(format!("{folder}/now-{}", env.new_uuid().simple()))?;
    match put_bytes(store, &object, b"") {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::NoSpace => return Ok(None),
        Err(error) => return Err(error),
    }
    let found = store.head(&object);
    // Who has no right to delete leaves it to one that has.
    let _ = store.delete(&object);
    Ok(found?.map(|found| found.modified))
}

fn newest(store: &dyn Store, folder: &str) -> Result<Option<Newest>> {
    let objects = store.list(Some(folder))?;
    let numbered = objects.into_iter().filter_map(|info| Some((number_of(&info.name)?, info)));
    let Some((number, info)) = numbered.max_by_key(|(number, _)| *number) else { return Ok(None) };
    let record = read(store, &info.name)?;
    Ok(Some(Newest { number, info, record }))
}

/// What an object says; `None` if it is gone, or damaged.
fn read(store: &dyn Store, object: &ObjectName) -> Result<Option<LeaseRecord>> {
    let read = get_bytes(store, object, RECORD_BYTES_MAX)
        .and_then(|bytes| marks::parse::<LeaseRecord>(&bytes, object.as_str()));
    match read {
        Ok(record) => Ok(Some(record)),
        Err(error) if matches!(error.kind(), Kind::NotCovered | Kind::CheckFailed) => Ok(None),
        Err(error) => Err(error),
    }
}

fn object(folder: &str, number: u64) -> Result<ObjectName> {
    ObjectName::new(format!("{folder}/{number:010}.json"))
}

fn number_of(name: &ObjectName) -> Option<u64> {
    let digits = name.file_name().strip_suffix(".json")?;
    let are_digits = digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().ok()).flatten()
}
