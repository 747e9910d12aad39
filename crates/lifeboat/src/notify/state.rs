//! Who is told what: a state machine without clock, network or files.
//!
//! It knows of each thing that can fail (a command on a source in a repository) whether it is well,
//! and of each notifier what it was told. A problem is told once, told again as urgent while it
//! goes on, and told to be over. What was decided stays in the outbox until it is delivered.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Message;
use crate::config::notify::{NotifyConfig, TellOf};
use crate::standing::{Alert, Code, Severity};

/// After so long what happened is summed up.
const DIGEST: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The first wait before a delivery is tried again, and the longest.
const AGAIN_MS: i64 = 60_000;
const AGAIN_MS_MAX: i64 = 3_600_000;
/// So many of a kind are told one by one; more are told in one message.
const APART_MAX: usize = 5;
/// So many of them are told with their words.
const LINES_MAX: usize = 40;
/// More waits for nobody: the oldest goes.
const OUTBOX_MAX: usize = 100;
/// What is older than this is no news.
const KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);

/// How one thing ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// "backup".
    pub(crate) command: &'static str,
    /// What of it, where `watch` tells several things of one source.
    pub(crate) about: Option<Code>,
    /// The source; empty where it is the whole run.
    pub(crate) source: String,
    /// The URL of the repository; empty where it is all of them.
    pub(crate) repository: String,
    /// What failed, with its causes; `None` where all is well.
    pub(crate) failure: Option<String>,
    /// What mends it.
    pub(crate) hint: Option<String>,
}

impl Ended {
    fn key(&self) -> String {
        let about = self.about.map(Code::word);
        let words = [self.command, &self.source, &self.repository];
        words.into_iter().chain(about.as_deref()).collect::<Vec<_>>().join("\u{1f}")
    }

    /// What it is about: a source, or a repository.
    fn subject(&self) -> &str {
        match (self.source.is_empty(), self.repository.is_empty()) {
            (false, _) => &self.source,
            (true, false) => &self.repository,
            (true, true) => "Lifeboat",
        }
    }

    /// What it is called: "backup of app".
    fn name(&self) -> String {
        if let Some(about) = self.about {
            let word = match about {
                Code::Never => "never backed up".to_owned(),
                about => about.word().replace('-', " "),
            };
            return format!("{}: {word}", self.subject());
        }
        match self.source.is_empty() {
            true => self.command.to_owned(),
            false => format!("{} of {}", self.command, self.source),
        }
    }
}

/// A thing that can fail, and what is known of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Thing {
    /// Since when it fails; `None` where it is well.
    failing_since: Option<Timestamp>,
    /// How often in a row.
    failures: u64,
    /// When it went well last.
    well_at: Option<Timestamp>,
    /// When each notifier was told of the failure last.
    told: BTreeMap<String, Timestamp>,
    /// How often it went well and failed since the last digest.
    week: (u64, u64),
    /// Of something that `watch` found: what, of which source, in which repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found: Option<(Code, String, String)>,
}

/// Something to deliver.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// To whom.
    pub(crate) notifier: String,
    /// What.
    pub(crate) message: Message,
    /// How often it was tried.
    pub(crate) attempts: u32,
    /// Not before.
    pub(crate) next_at: Timestamp,
}

/// How deliveries to one notifier went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Deliveries {
    /// When one succeeded last.
    pub(crate) delivered_at: Option<Timestamp>,
    /// Attempts that failed, ever.
    pub(crate) failures: u64,
    /// Why the last attempt failed, and when; `None` where it succeeded.
    pub(crate) last_failure: Option<(Timestamp, String)>,
}

/// Everything that is kept between runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    things: BTreeMap<String, Thing>,
    names: BTreeMap<String, String>,
    pub(crate) outbox: Vec<Waiting>,
    pub(crate) deliveries: BTreeMap<String, Deliveries>,
    digest_at: Option<Timestamp>,
}

impl State {
    /// Takes note of how things ended, and puts what must be told into the outbox.
    pub(crate) fn note(
        &mut self,
        now: Timestamp,
        host: &str,
        notifiers: &BTreeMap<String, NotifyConfig>,
        ended: &[Ended],
    ) {
        let told = || notifiers.iter().filter(|(_, config)| !config.is_heartbeat());
        let mut messages: BTreeMap<&str, Vec<Message>> = BTreeMap::new();
        for one in ended {
            let thing = self.things.entry(one.key()).or_default();
            self.names.insert(one.key(), one.name());
            let before = thing.clone();
            thing.take(now, one);
            for (name, config) in told() {
                if !config.is_about(one.command) || !config.is_about_source(&one.source) {
                    continue;
                }
                let message = decide(now, host, one, &before, thing, (name.as_str(), config));
                messages.entry(name).or_default().extend(message);
            }
            if one.failure.is_none() {
                thing.told.clear();
                if one.about.is_some() {
                    // What is not wrong any more is nothing that could go well.
                    self.things.remove(&one.key());
                    self.names.remove(&one.key());
                }
            }
        }
        for (name, messages) in messages {
            let messages = bundled(messages, now, host);
            self.outbox.extend(messages.into_iter().map(|message| waiting(name, message, now)));
        }
        self.digest(now, host, told());
        self.outbox.retain(|waiting| {
            notifiers.contains_key(&waiting.notifier)
                && now.duration_since(waiting.message.at) < KEPT
        });
        let too_many = self.outbox.len().saturating_sub(OUTBOX_MAX);
        self.outbox.drain(..too_many);
        self.deliveries.retain(|name, _| notifiers.contains_key(name));
    }

    /// What `watch` found, told of and was not yet told to be over.
    pub(crate) fn alerts_that_go_on(&self) -> Vec<Alert> {
        let going = self.things.values().filter(|thing| thing.failing_since.is_some());
        let found = going.filter_map(|thing| thing.found.as_ref());
        let alert = |(code, source, repository): &(Code, String, String)| {
            Alert::new((*code, Severity::Warning), (source, repository), "", "")
        };
        found.map(alert).collect()
    }

    fn digest<'a>(
        &mut self,
        now: Timestamp,
        host: &str,
        told: impl Iterator<Item = (&'a String, &'a NotifyConfig)>,
    ) {
        let since = *self.digest_at.get_or_insert(now);
        // A clock that went back must not silence it for ever.
        if since <= now && now.duration_since(since) < DIGEST {
            return;
        }
        self.digest_at = Some(now);
        let mut lines = Vec::new();
        for (key, thing) in &mut self.things {
            let (well, failed) = std::mem::take(&mut thing.week);
            let name = self.names.get(key).cloned().unwrap_or_default();
            match thing.failing_since {
                Some(since) => lines.push(format!("{name}: FAILS since {since}")),
                None if well + failed > 0 => {
                    lines.push(format!("{name}: well ({well} good, {failed} failed)"));
                }
                None => lines.push(format!("{name}: not run in this week")),
            }
        }
        let message = Message {
            kind: "digest".to_owned(),
            title: format!("Lifeboat on {host}: the week"),
            text: lines.join("\n"),
            host: host.to_owned(),
            at: now,
            ..Message::default()
        };
        for (name, _) in told.filter(|(_, config)| config.is_told_of(TellOf::Digest)) {
            self.outbox.push(waiting(name, message.clone(), now));
        }
    }

    /// What is to be tried now, by its place in the outbox.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<usize> {
        // A clock that was ahead must not hold it back for ever.
        let is_due = |waiting: &Waiting| {
            waiting.next_at <= now
                || waiting.next_at.duration_since(now).as_millis() > i128::from(AGAIN_MS_MAX)
        };
        (0..self.outbox.len()).filter(|place| is_due(&self.outbox[*place])).collect()
    }

    /// Takes note of how attempts ended: what was delivered leaves the outbox.
    pub(crate) fn tried(&mut self, now: Timestamp, results: Vec<(usize, Option<String>)>) {
        let mut delivered = Vec::new();
        for (place, failure) in results {
            let waiting = &mut self.outbox[place];
            waiting.attempts += 1;
            let doubled = AGAIN_MS << (waiting.attempts - 1).min(10);
            let wait = SignedDuration::from_millis(doubled.min(AGAIN_MS_MAX));
            waiting.next_at = now.checked_add(wait).unwrap_or(now);
            let name = waiting.notifier.clone();
            if failure.is_none() {
                delivered.push(place);
            }
            self.count(now, &name, failure);
        }
        for place in delivered.into_iter().rev() {
            self.outbox.remove(place);
        }
    }

    /// Takes note of how one attempt ended.
    pub(crate) fn count(&mut self, now: Timestamp, notifier: &str, failure: Option<String>) {
        let known = self.deliveries.entry(notifier.to_owned()).or_default();
        match failure {
            None => {
                known.delivered_at = Some(now);
                known.last_failure = None;
            }
            Some(why) => {
                known.failures += 1;
                known.last_failure = Some((now, why));
            }
        }
    }
}

impl Thing {
    fn take(&mut self, now: Timestamp, ended: &Ended) {
        let found = |about| (about, ended.source.clone(), ended.repository.clone());
        self.found = ended.about.map(found);
        match ended.failure.is_some() {
            true => {
                self.failing_since.get_or_insert(now);
                self.failures += 1;
                self.week.1 += 1;
            }
            false => {
                self.failing_since = None;
                self.failures = 0;
                self.well_at = Some(now);
                self.week.0 += 1;
            }
        }
    }
}

/// Many of a kind in one: who gets two hundred messages at once reads none.
fn bundled(messages: Vec<Message>, now: Timestamp, host: &str) -> Vec<Message> {
    let mut kinds: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in messages {
        kinds.entry(message.kind.clone()).or_default().push(message);
    }
    let mut bundled = Vec::new();
    for (kind, all) in kinds {
        if all.len() <= APART_MAX {
            bundled.extend(all);
            continue;
        }
        let word = match kind.as_str() {
            "problem" => "problems",
            "recovery" => "problems are over",
            _ => "runs went well",
        };
        let lines = all.iter().take(LINES_MAX).map(|one| {
            let first = one.text.lines().next().unwrap_or_default();
            match first.is_empty() || one.title.contains(first) {
                true => one.title.clone(),
                false => format!("{}: {first}", one.title),
            }
        });
        let mut text = lines.collect::<Vec<_>>().join("\n");
        if all.len() > LINES_MAX {
            text.push_str(&format!("\nand {} more", all.len() - LINES_MAX));
        }
        text.push_str("\nWhat mends them: lifeboat watch");
        bundled.push(Message {
            title: format!("{} {word} on {host}", all.len()),
            text,
            command: all[0].command.clone(),
            host: host.to_owned(),
            at: now,
            is_urgent: all.iter().any(|one| one.is_urgent),
            kind,
            ..Message::default()
        });
    }
    bundled
}

fn waiting(notifier: &str, message: Message, now: Timestamp) -> Waiting {
    Waiting { notifier: notifier.to_owned(), message, attempts: 0, next_at: now }
}

/// What one notifier is told of it, if anything.
fn decide(
    now: Timestamp,
    host: &str,
    ended: &Ended,
    before: &Thing,
    thing: &mut Thing,
    (name, config): (&str, &NotifyConfig),
) -> Option<Message> {
    let what = ended.name();
    let message = |kind: &str, title: String, text: String| Message {
        kind: kind.to_owned(),
        title: format!("{title} on {host}"),
        text,
        command: ended.command.to_owned(),
        source: ended.source.clone(),
        host: host.to_owned(),
        at: now,
        is_urgent: false,
    };
    let Some(failure) = &ended.failure else {
        let since = before.failing_since.filter(|_| before.told.contains_key(name));
        return match since {
            Some(since) if config.is_told_of(TellOf::Recovery) => {
                let times = before.failures;
                let (title, text) = match ended.about {
                    Some(_) => (format!("over: {what}"), format!("It was so since {since}.")),
                    None => (
                        format!("{what} is well again"),
                        format!("It failed {times} times in a row, since {since}."),
                    ),
                };
                Some(message("recovery", title, text))
            }
            _ if config.is_told_of(TellOf::Success) => {
                Some(message("success", format!("{what} is done"), String::new()))
            }
            _ => None,
        };
    };
    let last = thing.told.get(name).copied();
    let repeat = SignedDuration::from_millis(i64::try_from(config.repeat_ms()).unwrap_or(i64::MAX));
    let is_due = last.is_none_or(|last| now.duration_since(last) >= repeat || last > now);
    if !is_due || !config.is_told_of(TellOf::Problem) {
        return None;
    }
    thing.told.insert(name.to_owned(), now);
    let mut text = failure.clone();
    if !ended.repository.is_empty() {
        text.push_str(&format!("\nRepository: {}", ended.repository));
    }
    match (before.failing_since, ended.about) {
        (Some(since), Some(_)) => text.push_str(&format!("\nIt is so since {since}.")),
        (Some(since), None) => {
            let times = thing.failures;
            text.push_str(&format!("\nIt failed {times} times in a row, since {since}."));
        }
        (None, _) => {}
    }
    if ended.about.is_none() {
        let well = before.well_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        text.push_str(&format!("\nLast time it went well: {well}"));
    }
    if let Some(hint) = &ended.hint {
        text.push_str(&format!("\nWhat mends it: {hint}"));
    }
    let title = match (ended.about, last) {
        (Some(_), None) => what,
        (Some(_), Some(_)) => format!("still: {what}"),
        (None, None) => format!("{what} failed"),
        (None, Some(_)) => format!("{what} still fails"),
    };
    let told = message("problem", title, text);
    Some(Message { is_urgent: last.is_some(), ..told })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + hours * 3600).unwrap()
    }

    fn ended(failure: Option<&str>) -> Ended {
        Ended {
            command: "backup",
            about: None,
            source: "app".into(),
            repository: "file:///b".into(),
            failure: failure.map(str::to_owned),
            hint: Some("lifeboat doctor".into()),
        }
    }

    fn notifiers(text: &str) -> BTreeMap<String, NotifyConfig> {
        let config: NotifyConfig = toml::from_str(text).unwrap();
        BTreeMap::from([("ops".to_owned(), config)])
    }

    const HOOK: &str = "webhook = 'https://example.org'\n";

    /// What is told at that hour.
    fn told(state: &mut State, config: &str, hour: i64, failure: Option<&str>) -> Vec<String> {
        state.note(at(hour), "db1", &notifiers(config), &[ended(failure)]);
        let said = |waiting: Waiting| {
            let urgent = if waiting.message.is_urgent { " !" } else { "" };
            format!("{}{urgent}: {}", waiting.message.kind, waiting.message.title)
        };
        std::mem::take(&mut state.outbox).into_iter().map(said).collect()
    }

    #[test]
    fn a_problem_is_told_once_again_after_a_day_and_when_it_is_over() {
        let mut state = State::default();
        assert!(told(&mut state, HOOK, 0, None).is_empty());
        assert_eq!(told(&mut state, HOOK, 1, Some("no")), ["problem: backup of app failed on db1"]);
        for hour in 2..25 {
            assert!(told(&mut state, HOOK, hour, Some("no")).is_empty(), "{hour}");
        }
        let again = ["problem !: backup of app still fails on db1"];
        assert_eq!(told(&mut state, HOOK, 25, Some("no")), again);
        let over = ["recovery: backup of app is well again on db1"];
        assert_eq!(told(&mut state, HOOK, 26, None), over);
        assert!(told(&mut state, HOOK, 27, None).is_empty());
        assert_eq!(
            told(&mut state, HOOK, 28, Some("no")),
            ["problem: backup of app failed on db1"]
        );
    }

    #[test]
    fn what_nobody_was_told_of_is_not_told_to_be_over() {
        let mut state = State::default();
        let only = format!("{HOOK}on = ['recovery']\n");
        assert!(told(&mut state, &only, 0, Some("no")).is_empty());
        assert!(told(&mut state, &only, 1, None).is_empty());
        let other = format!("{HOOK}sources = ['other']\n");
        assert!(told(&mut state, &other, 2, Some("no")).is_empty());
        let drills = format!("{HOOK}commands = ['drill']\n");
        assert!(told(&mut state, &drills, 3, Some("no")).is_empty());
        let all = format!("{HOOK}on = ['success']\n");
        assert_eq!(told(&mut state, &all, 4, None), ["success: backup of app is done on db1"]);
    }

    #[test]
    fn each_week_is_summed_up_also_when_all_is_well() {
        let mut state = State::default();
        for hour in 0..7 * 24 {
            assert!(told(&mut state, HOOK, hour, None).is_empty(), "{hour}");
        }
        state.note(at(7 * 24), "db1", &notifiers(HOOK), &[ended(None)]);
        let text = &state.outbox[0].message.text;
        assert_eq!(text, "backup of app: well (169 good, 0 failed)");
        state.outbox.clear();
        // The next one tells of what did not run at all.
        state.note(at(14 * 24), "db1", &notifiers(HOOK), &[]);
        assert_eq!(state.outbox[0].message.text, "backup of app: not run in this week");
    }

    #[test]
    fn what_is_not_delivered_waits_longer_each_time_and_is_never_lost() {
        let mut state = State::default();
        state.note(at(0), "db1", &notifiers(HOOK), &[ended(Some("no"))]);
        assert_eq!(state.due(at(0)), [0]);
        let mut waits = Vec::new();
        let mut now = at(0);
        for _ in 0..8 {
            state.tried(now, vec![(0, Some("503".into()))]);
            assert!(state.due(now).is_empty());
            let next = state.outbox[0].next_at;
            waits.push(next.duration_since(now).as_secs() / 60);
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(state.deliveries["ops"].failures, 8);
        assert!(state.deliveries["ops"].last_failure.is_some());
        state.tried(now, vec![(0, None)]);
        assert!(state.outbox.is_empty() && state.deliveries["ops"].last_failure.is_none());
        // A notifier that is gone is told nothing any more.
        state.note(at(1), "db1", &notifiers(HOOK), &[ended(None)]);
        assert_eq!(state.outbox.len(), 1);
        state.note(at(2), "db1", &BTreeMap::new(), &[]);
        assert!(state.outbox.is_empty() && state.deliveries.is_empty());
    }

    #[test]
    fn a_clock_that_goes_back_silences_nothing() {
        let mut state = State::default();
        told(&mut state, HOOK, 1000, Some("no"));
        assert_eq!(told(&mut state, HOOK, 0, Some("no")).len(), 2, "problem and digest");
        state.note(at(1000), "db1", &notifiers(HOOK), &[ended(None)]);
        assert!(!state.due(at(0)).is_empty());
    }

    /// What a watch found of that source.
    fn found(code: Code, source: &str, is_so: bool) -> Ended {
        let failure = is_so.then(|| "it is old".to_owned());
        Ended {
            command: "watch",
            about: Some(code),
            source: source.into(),
            ..ended(failure.as_deref())
        }
    }

    #[test]
    fn what_a_watch_finds_is_told_thing_by_thing() {
        let mut state = State::default();
        let mut tell = |hour, ended: &[Ended]| {
            state.note(at(hour), "db1", &notifiers(HOOK), ended);
            let going = state.alerts_that_go_on().len();
            let titles = std::mem::take(&mut state.outbox).into_iter();
            (titles.map(|waiting| waiting.message.title).collect::<Vec<_>>(), going)
        };
        let (stale, size) = (Code::Stale, Code::SizeUnusual);
        let told = tell(0, &[found(size, "app", true)]);
        assert_eq!(told, (vec!["app: size unusual on db1".to_owned()], 1));
        // Another thing of the same source is news, what was told is not.
        let told = tell(1, &[found(size, "app", true), found(stale, "app", true)]);
        assert_eq!(told, (vec!["app: stale on db1".to_owned()], 2));
        let told = tell(30, &[found(size, "app", false), found(stale, "app", true)]);
        let wanted = ["still: app: stale on db1", "over: app: size unusual on db1"];
        assert_eq!((told.0.len(), told.1), (2, 1));
        assert!(wanted.iter().all(|title| told.0.iter().any(|said| said == title)), "{told:?}");
        assert_eq!(tell(31, &[found(stale, "app", false)]).1, 0);
        // In the week's sum there is nothing that could have gone well.
        state.note(at(200), "db1", &notifiers(HOOK), &[]);
        assert_eq!(state.outbox[0].message.text, "");
    }

    #[test]
    fn many_problems_are_one_message() {
        let mut state = State::default();
        let many: Vec<Ended> =
            (0..60).map(|at| found(Code::Stale, &format!("app{at}"), true)).collect();
        state.note(at(0), "db1", &notifiers(HOOK), &many);
        assert_eq!(state.outbox.len(), 1);
        let message = &state.outbox[0].message;
        assert_eq!(message.title, "60 problems on db1");
        assert!(message.text.contains("app0: stale on db1: it is old"), "{}", message.text);
        assert!(message.text.contains("\nand 20 more\n"), "{}", message.text);
        state.outbox.clear();
        // None is told again before its time.
        state.note(at(1), "db1", &notifiers(HOOK), &many);
        assert!(state.outbox.is_empty());
    }
}
