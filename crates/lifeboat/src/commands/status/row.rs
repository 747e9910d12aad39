//! A source in one repository: how it stands there, and what is wrong with it.

use jiff::Timestamp;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::{Result, prune, status};
use lifeboat_postgres::wal::Complaint;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::copies::{self, Lacking};
use super::drills::Drills;
use super::measured::Measured;
use crate::attempts::{self, Attempt};
use crate::commands::wal;
use crate::config::values::Period;
use crate::following::{self, Following};
use crate::repositories::Opened;
use crate::rotation::Rule;
use crate::session::Session;
use crate::sources::Target;
use crate::standing::{Alert, Asked, Code, Facts, LogEnd, Objective, Promise, Severity, judge};
use crate::ui::units;

/// A source in one repository.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) source: String,
    pub(crate) repository: String,
    /// Its folder there, if it has one.
    #[serde(skip)]
    pub(crate) folder: Option<String>,
    pub(crate) state: State,
    pub(crate) newest_good: Option<String>,
    pub(crate) taken_at: Option<Timestamp>,
    /// The newest state of its log, where that is newer, as `restore` takes it; and its moment. Of
    /// a cluster the moment alone.
    pub(crate) log_state: Option<String>,
    pub(crate) log_held: Option<Timestamp>,
    /// Until when its server committed nothing that is not stored, where it was asked.
    pub(crate) unchanged_until: Option<Timestamp>,
    /// What its server said of the end of its log, with the id of the source.
    #[serde(skip)]
    pub(crate) asked: Option<(Uuid, Asked)>,
    /// How much may be lost, where this host follows it.
    #[serde(serialize_with = "as_json")]
    pub(crate) following: Option<Following>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) age_ms_max: Option<u64>,
    pub(crate) objectives: Objectives,
    pub(crate) backups: usize,
    pub(crate) newer_doubtful: usize,
    pub(crate) in_future: usize,
    pub(crate) unreadable: usize,
    /// What is wrong with the archiver of its server, where that can be asked.
    pub(crate) archiver: Vec<Complaint>,
    /// Why the prune after its backups waits for an approval, if it does.
    pub(crate) prune_waits: Option<String>,
    pub(crate) stored_bytes: u64,
    pub(crate) disk_used_percent: Option<u8>,
    /// How many backups of another repository it lacks and would keep.
    pub(crate) lacking: usize,
    /// How the last backup ended, where that is known on this host.
    pub(crate) last_attempt: Option<Attempt>,
    /// The same, also where a newer backup was made in another way.
    #[serde(skip)]
    pub(crate) last_attempt_ever: Option<Attempt>,
    /// What drills showed.
    pub(crate) drills: Drills,
    /// What is wrong, the worst first.
    pub(crate) alerts: Vec<Alert>,
    /// What metrics tell besides.
    #[serde(skip)]
    pub(crate) measured: Measured,
}

/// What was promised, and what was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Objectives {
    /// How much may be lost.
    pub(crate) rpo: Objective,
    /// How long a restore may take.
    pub(crate) rto: Objective,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Fresh,
    Stale,
    Never,
}

fn as_json<S: Serializer>(
    following: &Option<Following>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    following.as_ref().map(Following::as_json).serialize(to)
}

#[cfg(test)]
impl Row {
    /// One of a source with a backup of which nothing is known.
    pub(crate) fn for_test(source: &str) -> Self {
        let facts = Facts::nothing(source, "file:///b", Promise::default());
        let of_facts = Row::of(&facts, None, Timestamp::UNIX_EPOCH);
        // What is wrong is what a test says, not that these facts know no backup.
        Row { backups: 1, stored_bytes: 1, alerts: Vec::new(), ..of_facts }
    }
}

impl Row {
    /// What nothing but the facts decides.
    pub(crate) fn of(facts: &Facts, entry: Option<&SourceEntry>, now: Timestamp) -> Self {
        let status = status::of_source(entry, now, None);
        let mut rpo = Objective::rpo(facts.promise.age_ms_max, facts.safe_until(), now);
        if let Some(until) = facts.unchanged_until {
            rpo.basis = format!("up to {until} the server committed nothing that is not stored");
        }
        let rto = Objective::rto(facts.promise.rto_ms_max, facts.drill, facts.newest_bytes);
        let taken_at = status.newest_good.map(|newest| newest.taken_at);
        Row {
            source: facts.source.clone(),
            repository: facts.repository.clone(),
            folder: entry.map(|entry| entry.folder.clone()),
            state: match facts.newest_at {
                None => State::Never,
                Some(_) if rpo.is_broken() => State::Stale,
                Some(_) => State::Fresh,
            },
            newest_good: status.newest_good.map(|newest| newest.name.clone()),
            taken_at,
            log_state: facts.logged.as_ref().map(|(state, _)| state.clone()),
            log_held: facts.newest_at.filter(|at| Some(*at) > taken_at),
            unchanged_until: facts.unchanged_until,
            asked: entry.and_then(|entry| Some((entry.record.id, facts.asked()?))),
            following: None,
            age_ms: rpo.measured_ms,
            age_ms_max: facts.promise.age_ms_max,
            objectives: Objectives { rpo, rto },
            backups: status.backups,
            newer_doubtful: facts.doubtful,
            in_future: facts.in_future,
            unreadable: facts.unreadable,
            archiver: Vec::new(),
            prune_waits: None,
            stored_bytes: status.stored_bytes,
            disk_used_percent: None,
            lacking: 0,
            last_attempt: None,
            last_attempt_ever: None,
            drills: Drills::of(entry, now),
            alerts: judge(facts, now),
            measured: Measured::of(facts, entry, &status),
        }
    }

    /// The moment up to which nothing would be lost; `None` where nothing is stored.
    pub(crate) fn safe_until(&self) -> Option<Timestamp> {
        let newest = self.log_held.or(self.taken_at)?;
        Some(self.unchanged_until.map_or(newest, |until| until.max(newest)))
    }

    /// A source by its folder, of which no configuration says more.
    pub(super) fn of_entry(
        session: &Session,
        env: &Env,
        opened: &Opened,
        (name, entry): (&str, Option<&SourceEntry>),
        promise: Promise,
    ) -> Result<Row> {
        Row::asked(session, env, opened, (name, entry), promise, &|_| None)
    }

    /// The same, with what a server says of the time behind the end of its log.
    fn asked(
        session: &Session,
        env: &Env,
        opened: &Opened,
        (name, entry): (&str, Option<&SourceEntry>),
        promise: Promise,
        unchanged_until: &dyn Fn(LogEnd) -> Option<Timestamp>,
    ) -> Result<Row> {
        let now = env.clock.now();
        let repository = &opened.repository;
        let mut facts = match entry {
            Some(entry) => Facts::of_entry(session, env, repository, (name, entry), promise)?,
            None => Facts::nothing(name, &repository.url(), promise),
        };
        facts.unchanged_until = facts.log_end.and_then(unchanged_until);
        let mut row = Row::of(&facts, entry, now);
        if let Some((state, moment)) = &facts.logged {
            let place = (&*opened.place.url, entry.map_or("", |entry| &*entry.folder));
            let base = state.rsplit_once('+').map_or("", |(base, _)| base);
            row.following = following::of(session, place, base, (moment.held, now));
        }
        Ok(row)
    }

    /// A configured source: with its own promises, what its prune waits for, and what its server
    /// says.
    pub(crate) fn of_target(
        session: &Session,
        env: &Env,
        all: &[Opened],
        opened: &Opened,
        (target, entry): (&Target, Option<&SourceEntry>),
        max_age_ms: Option<u64>,
    ) -> Result<Row> {
        let now = env.clock.now();
        let promise = promise_of(session, target, max_age_ms, now);
        // A server that does not answer is for `doctor` to tell.
        let server = target.is_cluster().then(|| wal::state(target).ok()).flatten();
        let until = |end| wal::unchanged_until(env, target, (server.as_ref()?, now), end);
        let entry_of = (target.name.as_str(), entry);
        let mut row = Row::asked(session, env, opened, entry_of, promise, &until)?;
        row.drills = row.drills.promised(&target.drill);
        row.measured = row.measured.promised(target, now, &session.surroundings.time_zone);
        let last = attempts::last(session, env, target, &opened.place.url);
        row.last_attempt_ever = last.clone();
        // One that was made in another way since then is the better news.
        row.last_attempt = last.filter(|last| row.taken_at.is_none_or(|at| at <= last.ended_at));
        if let Some(state) = &server {
            row.archiver = state.complaints(wal::free_bytes(state));
            row.measured.ask(state);
        }
        row.measured.ask_for_lock(opened, entry, row.newest_good.as_deref())?;
        let rule = Rule::of(&opened.place, target, None).filter(|_| target.prune_after_backup);
        if let (Some(rule), Some(entry)) = (rule, entry) {
            let request = rule.request(session, env, &opened.repository, &entry.folder);
            let gates = prune::waiting(env, &opened.repository, &request, entry)?;
            row.prune_waits = gates.into_iter().next().map(|gate| gate.message);
        }
        let lacking = copies::lacking(env, all, opened, target)?;
        row.lacking = lacking.count;
        row.complain(&lacking, now);
        Ok(row)
    }

    /// What is wrong beside what the repository shows.
    fn complain(&mut self, lacking: &Lacking, now: Timestamp) {
        let word = units::shell_word(&self.source);
        let place = (self.source.clone(), self.repository.clone());
        let mut add = |code, severity, what: String, command: String| {
            let place = (place.0.as_str(), place.1.as_str());
            self.alerts.push(Alert::new((code, severity), place, units::one_line(&what), command));
        };
        if let Some(failed) = self.last_attempt.as_ref().filter(|last| last.has_failed()) {
            let what = format!("the last backup failed: {}", super::why(failed));
            add(Code::BackupFailed, Severity::Warning, what, format!("lifeboat backup {word}"));
        }
        if let Some(what) = lacking.complaint(now) {
            let there = units::shell_word(&place.1);
            let command = format!("lifeboat copy {word} --to {there}");
            add(Code::CopyMissing, Severity::Warning, what, command);
        }
        let command = format!("lifeboat wal check {word}");
        let archiver = self.archiver.iter().map(|one| one.text.as_str());
        let archiver: Vec<&str> = archiver.collect();
        let is_urgent = self.archiver.iter().any(|one| one.is_urgent);
        if !archiver.is_empty() {
            let severity = if is_urgent { Severity::Broken } else { Severity::Warning };
            add(Code::Archiver, severity, archiver.join("; "), command);
        }
        if let Some(why) = &self.prune_waits {
            let what = format!("{}: {why}", super::WAITS);
            add(Code::PruneWaits, Severity::Warning, what, "lifeboat prune --dry-run".to_owned());
        }
    }
}

/// What was promised of a configured source.
pub(crate) fn promise_of(
    session: &Session,
    target: &Target,
    max_age_ms: Option<u64>,
    now: Timestamp,
) -> Promise {
    let period = |ms: Option<u64>| ms.map(|milliseconds| Period { milliseconds });
    let drill = target.drill.every.map(|every| every.0);
    let promises = (period(target.rpo_ms), period(target.rto_ms), drill);
    let zone = &session.surroundings.time_zone;
    Promise::new(promises, target.schedule.as_deref(), max_age_ms, (now, zone))
}
