//! Notifications: who is told how runs ended.
//!
//! At the end of a run, after what it stored was read back, its outcomes are noted; [`state`]
//! decides who is told what; what was decided is delivered, or waits in a private file for the next
//! run. A way to deliver is a file here and a line in [`WAYS`]. A delivery that fails is said, is
//! tried again, is told by `status` and `doctor`, and is never the reason why a run fails.

mod discord;
mod email;
mod healthchecks;
mod http;
mod kept;
mod ntfy;
mod slack;
mod state;
mod uptime_kuma;
mod webhook;

use std::collections::BTreeSet;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::config::notify::NotifyConfig;
use crate::session::Session;
use crate::standing::Alert;
use crate::ui::report;

pub(crate) use self::state::{Deliveries, Ended, Waiting};

impl Ended {
    /// How one thing of a run ended; `None` where that is no news.
    pub(crate) fn of(
        command: &'static str,
        source: &str,
        repository: &str,
        failure: Option<&Error>,
    ) -> Option<Ended> {
        failure.is_none_or(|error| is_news(error.kind())).then(|| Ended {
            command,
            about: None,
            source: source.to_owned(),
            repository: repository.to_owned(),
            failure: failure.map(in_one),
            hint: failure.and_then(|error| error.hint_text()).map(str::to_owned),
        })
    }

    /// Something that `watch` found to be wrong, or not any more.
    pub(crate) fn of_alert(alert: &Alert, is_so: bool) -> Ended {
        Ended {
            command: "watch",
            about: Some(alert.code),
            source: alert.source.clone(),
            repository: alert.repository.clone(),
            failure: is_so.then(|| alert.what.clone()),
            hint: is_so.then(|| alert.command.clone()),
        }
    }
}

/// What `watch` told of and was not yet told to be over, as far as it makes an alert the same one.
pub(crate) fn alerts_that_go_on(session: &Session) -> Vec<Alert> {
    kept::read(session).map(|state| state.alerts_that_go_on()).unwrap_or_default()
}

/// What somebody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// "problem", "recovery", "digest", "success" or "test"; of a run "start", "success", "fail".
    pub(crate) kind: String,
    /// One line.
    pub(crate) title: String,
    /// More, on several lines.
    pub(crate) text: String,
    /// The command; empty where it is about none.
    pub(crate) command: String,
    /// The source; empty where it is about none.
    pub(crate) source: String,
    /// The host.
    pub(crate) host: String,
    /// When it was decided.
    pub(crate) at: Timestamp,
    /// Whether a problem goes on that was told before.
    pub(crate) is_urgent: bool,
}

impl Message {
    /// All of it, as it is read by a person.
    fn whole(&self) -> String {
        match self.text.is_empty() {
            true => self.title.clone(),
            false => format!("{}\n{}", self.title, self.text),
        }
    }

    fn is_problem(&self) -> bool {
        matches!(self.kind.as_str(), "problem" | "fail")
    }
}

/// One message on its way.
struct Delivery<'a> {
    config: &'a NotifyConfig,
    message: &'a Message,
    /// Of a run: what its start and its end have in common.
    run_id: Option<&'a str>,
    /// Of a run: how long it took.
    took_ms: Option<u64>,
}

/// A way to deliver: its key in the configuration, and how.
struct Way {
    key: &'static str,
    deliver: fn(&Delivery<'_>) -> Result<()>,
}

const WAYS: &[Way] = &[
    Way { key: "webhook", deliver: webhook::deliver },
    Way { key: "email", deliver: email::deliver },
    Way { key: "ntfy", deliver: ntfy::deliver },
    Way { key: "slack", deliver: slack::deliver },
    Way { key: "discord", deliver: discord::deliver },
    Way { key: "healthchecks", deliver: healthchecks::deliver },
    Way { key: "uptime_kuma", deliver: uptime_kuma::deliver },
];

/// How long after a heartbeat that failed it is sent again, each time.
const BEAT_AGAIN_MS: &[u64] = &[500, 2_000, 5_000];
/// One that took so long is not sent again.
const BEAT_HOLDS_MS: u64 = 8_000;

/// Delivers one message now. What fails names the notifier, and never a secret.
fn deliver(name: &str, delivery: &Delivery<'_>) -> Result<()> {
    let key = delivery.config.ways().first().map(|(key, _)| *key);
    let way = WAYS.iter().find(|way| Some(way.key) == key);
    let Some(way) = way else {
        return Err(Error::new(Kind::Usage, format!("`{name}` has no way to deliver")));
    };
    let failed = |error: Error| error.context(format!("`{name}` was not told by {}", way.key));
    (way.deliver)(delivery).map_err(failed)
}

/// A run whose end is told.
pub(crate) struct Watch<'a> {
    session: &'a Session,
    env: Env,
    command: &'static str,
    run_id: String,
    begun_ms: u64,
}

impl<'a> Watch<'a> {
    /// Begins to watch a run, if anybody is told of it.
    pub(crate) fn begin(session: &'a Session, command: &'static str) -> Option<Watch<'a>> {
        if session.loaded().ok()?.config.notify.is_empty() {
            return None;
        }
        let env = session.env().ok()?;
        session.begin_noting();
        let run_id = env.new_uuid().to_string();
        let begun_ms = env.clock.monotonic_ms();
        let watch = Watch { session, env, command, run_id, begun_ms };
        watch.beat(|config| {
            // Whether its sources are part of this run is not known yet.
            let is_one = config.healthchecks.is_some() && config.sources.is_empty();
            is_one.then(|| watch.of_run("start", "is running", String::new()))
        });
        Some(watch)
    }

    /// Tells of its end. A run that a person ended, or asked for in a wrong way, is no news.
    pub(crate) fn end<T>(self, result: &Result<T>) {
        let mut ended = self.session.take_ended();
        let failure = result.as_ref().err().filter(|error| is_news(error.kind()));
        if result.is_err() && failure.is_none() {
            self.beat(|config| {
                let begun = config.healthchecks.is_some() && config.sources.is_empty();
                begun.then(|| self.of_run("log", "was ended", String::new()))
            });
            // What ended before it counts.
            return self.tell(&ended).unwrap_or_else(|error| self.warn(&error));
        }
        // What failed as a whole, where no single thing of it did.
        let is_told = ended.iter().any(|one| one.failure.is_some());
        ended.push(Ended {
            command: self.command,
            about: None,
            source: String::new(),
            repository: String::new(),
            failure: failure.filter(|_| !is_told).map(in_one),
            hint: failure.and_then(|error| error.hint_text()).map(str::to_owned),
        });
        self.beat(|config| {
            let theirs: Vec<&Ended> =
                ended.iter().filter(|one| config.is_about_source(&one.source)).collect();
            let is_theirs =
                config.sources.is_empty() || theirs.iter().any(|one| !one.source.is_empty());
            let said: Vec<String> = theirs.iter().filter_map(|one| one.failure.clone()).collect();
            (is_theirs || !said.is_empty()).then(|| match said.is_empty() {
                true => self.of_run("success", "is done", String::new()),
                false => self.of_run("fail", "failed", said.join("\n")),
            })
        });
        if let Err(error) = self.tell(&ended) {
            self.warn(&error);
        }
    }

    fn of_run(&self, kind: &str, says: &str, text: String) -> Message {
        Message {
            kind: kind.to_owned(),
            title: format!("{} on {} {says}", self.command, self.env.host),
            text,
            command: self.command.to_owned(),
            host: self.env.host.clone(),
            at: self.env.clock.now(),
            ..Message::default()
        }
    }

    /// Tells those who alarm when nothing comes: of each run, at once. Of an end that they did not
    /// hear they would alarm, so it is told again for a moment; after that the next run tells them
    /// anew.
    fn beat(&self, message: impl Fn(&NotifyConfig) -> Option<Message>) {
        let Ok(loaded) = self.session.loaded() else { return };
        let env = &self.env;
        let theirs = loaded
            .config
            .notify
            .iter()
            .filter(|(_, config)| config.is_heartbeat() && config.is_about(self.command));
        for (name, config) in theirs {
            let Some(message) = &message(config) else { continue };
            let took_ms = Some(env.elapsed_ms(self.begun_ms));
            let run_id = Some(self.run_id.as_str());
            let delivery = Delivery { config, message, run_id, took_ms };
            let begun_ms = env.clock.monotonic_ms();
            let mut ended = deliver(name, &delivery);
            for wait_ms in BEAT_AGAIN_MS {
                let may_pass =
                    ended.as_ref().is_err_and(|error| error.kind() == Kind::StoreUnavailable);
                // One that hangs holds a run up once.
                let has_time = env.elapsed_ms(begun_ms) < BEAT_HOLDS_MS;
                if !may_pass || !has_time || message.kind == "start" {
                    break;
                }
                env.clock.sleep_ms(*wait_ms);
                ended = deliver(name, &delivery);
            }
            if let Err(error) = &ended {
                self.warn(error);
            }
            let failure = ended.err().map(|error| in_one(&error));
            let noted =
                kept::change(self.session, |state| state.count(env.clock.now(), name, failure));
            if let Err(error) = noted {
                self.warn(&error);
            }
        }
    }

    /// Decides who is told what, and delivers it.
    fn tell(&self, ended: &[Ended]) -> Result<()> {
        let env = &self.env;
        let notifiers = &self.session.loaded()?.config.notify;
        let now = env.clock.now();
        // Kept before anything is sent: what is killed now is told by the next run.
        let due = kept::change(self.session, |state| {
            state.note(now, &env.host, notifiers, ended);
            let due = state.due(now);
            due.into_iter().map(|place| (place, state.outbox[place].clone())).collect::<Vec<_>>()
        })?;
        let mut results = Vec::new();
        let mut failed = BTreeSet::new();
        for (place, waiting) in &due {
            let Some(config) = notifiers.get(&waiting.notifier) else { continue };
            // One that hangs holds a run up once, however much waits for it.
            if failed.contains(&waiting.notifier) {
                continue;
            }
            let (run_id, took_ms) = (None, None);
            let delivery = Delivery { config, message: &waiting.message, run_id, took_ms };
            let ended = deliver(&waiting.notifier, &delivery);
            if let Err(error) = &ended {
                self.warn(error);
                failed.insert(waiting.notifier.clone());
            }
            results.push((*place, ended.err().map(|error| in_one(&error))));
        }
        match results.is_empty() {
            true => Ok(()),
            false => kept::change(self.session, |state| {
                let is_same = |(place, _): &(usize, Option<String>)| {
                    let ours = due.iter().find(|(one, _)| one == place).map(|(_, one)| one);
                    let there = state.outbox.get(*place);
                    there.zip(ours).is_some_and(|(there, ours)| {
                        there.notifier == ours.notifier && there.message == ours.message
                    })
                };
                // Another run may have delivered it meanwhile.
                results.retain(is_same);
                state.tried(env.clock.now(), results);
            }),
        }
    }

    fn warn(&self, error: &Error) {
        self.session.progress.clear();
        self.session.printer.warning("notify", &in_one(error));
    }
}

/// What a person did, or stopped, is no news to others.
pub(crate) fn is_news(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Usage
            | Kind::NeedsConfirmation
            | Kind::Interrupted
            | Kind::Terminated
            // A drive that is elsewhere: `status` counts the runs that missed it.
            | Kind::StoreAbsent
    )
}

/// An error with its causes, on one line.
pub(crate) fn in_one(error: &Error) -> String {
    let causes: String = report::causes(error).iter().map(|cause| format!(": {cause}")).collect();
    format!("{error}{causes}")
}

/// Tells one notifier that it works. The outcome is noted like any other.
pub(crate) fn test(session: &Session, env: &Env, name: &str, config: &NotifyConfig) -> Result<()> {
    let message = Message {
        kind: "test".to_owned(),
        title: format!("Lifeboat on {}: a test", env.host),
        text: "This notifier works.".to_owned(),
        host: env.host.clone(),
        at: env.clock.now(),
        ..Message::default()
    };
    let delivery = Delivery { config, message: &message, run_id: None, took_ms: None };
    let ended = deliver(name, &delivery);
    let failure = ended.as_ref().err().map(in_one);
    kept::change(session, |state| state.count(env.clock.now(), name, failure))?;
    ended
}

/// How deliveries went, by the names of the notifiers that are configured, and how many messages
/// wait for each.
pub(crate) fn standing(session: &Session) -> Result<Vec<(String, Deliveries, usize)>> {
    let notifiers = &session.loaded()?.config.notify;
    if notifiers.is_empty() {
        return Ok(Vec::new());
    }
    let state = kept::read(session)?;
    let one = |name: &String| {
        let waiting = state.outbox.iter().filter(|waiting| waiting.notifier == *name).count();
        (name.clone(), state.deliveries.get(name).cloned().unwrap_or_default(), waiting)
    };
    Ok(notifiers.keys().map(one).collect())
}

/// The messages that wait to be delivered, to whomever.
pub(crate) fn waiting(session: &Session) -> Result<Vec<Waiting>> {
    Ok(kept::read(session)?.outbox)
}

/// What is wrong with the deliveries to a notifier.
pub(crate) fn complaint(deliveries: &Deliveries, waiting: usize) -> Option<String> {
    let (at, why) = deliveries.last_failure.as_ref()?;
    let wait = match waiting {
        0 => String::new(),
        1 => ", 1 message waits".to_owned(),
        waiting => format!(", {waiting} messages wait"),
    };
    Some(format!("was not told at {at}: {why}{wait}"))
}
