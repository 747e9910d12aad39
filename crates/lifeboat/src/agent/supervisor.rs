//! The loop: sees what ended, asks the scheduler, does what it says, tells of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::asked::{self, AllAsked};
use super::child::{Ears, Run};
use super::control::{self, Bell, Socket};
use super::kept::{self, State};
use super::lasting::AllLasting;
use super::plan::{self, Plan};
use super::scheduler::{Action, Event, Now, Outcome, Scheduler, Why};
use super::systemd::Systemd;
use crate::config::diagnose;
use crate::control::{AgentState, Answer, Ended, JobState, Question, RunState, Told};
use crate::memory;
use crate::said;
use crate::session::Session;
use crate::ui::units;

/// Between two looks at everything.
const LOOK_MS: u64 = 200;
/// Between two looks at the schedules of all jobs, while none runs.
const TICK_MS: u64 = 1_000;
/// Between two looks whether runs get on.
const GET_ON_MS: u64 = 10_000;
/// How long what a run said is waited for after its end.
pub(super) const HEARD_MS: u64 = 2_000;
/// What an end takes beyond the time that runs may take: being asked, being killed.
const END_MS: u64 = 120_000;

/// Which signals came.
struct Signals {
    term: Arc<AtomicBool>,
    int: Arc<AtomicBool>,
    hup: Arc<AtomicBool>,
}

/// A run that goes on.
struct Going {
    run: Run,
    begun_at: Timestamp,
    begun_ms: u64,
    /// When it was first seen to have ended, before all was heard.
    ended_ms: Option<u64>,
}

/// The agent.
struct Agent<'a> {
    session: &'a Session,
    env: Env,
    plan: Plan,
    scheduler: Scheduler,
    going: BTreeMap<String, Going>,
    lasting: AllLasting,
    /// What people asked for.
    asked: AllAsked,
    /// Wakes those who watch.
    bell: Arc<Bell>,
    /// What is asked by the socket, where there is one.
    questions: Option<Receiver<control::Asked>>,
    systemd: Systemd,
    begun_at: Timestamp,
    /// How many runs have ended.
    ended: u64,
    /// When it was told to end, by the steady clock.
    ending_ms: u64,
    state: State,
    state_is_lost: bool,
    looked_ms: u64,
    /// When schedules are looked at next.
    tick_ms: u64,
    /// The signal by which it was told to end.
    ending: Option<Kind>,
    is_finished: bool,
    /// How many runs were ended because all was to end.
    cut_off: u64,
}

/// Runs until it is told to end. `follow` are the options of the follower.
pub(crate) fn run(session: &Session, follow: &[String]) -> Result<ExitCode> {
    memory::share_heaps();
    let env = session.env()?;
    let signals = Signals::catch()?;
    let locks = session.folders.locks.as_deref();
    let _lock = SourceLock::named(&env, locks, "agent", "", "another `lifeboat run`")?;
    let plan = Plan::of(session, &env, follow)?;
    let path = kept::path(session);
    let state = kept::read(session, path.as_deref());
    // What spreads the moments of hosts.
    let seed = env
        .host
        .bytes()
        .fold(7_u64, |seed, byte| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let now = Now { wall: env.clock.now(), steady_ms: env.clock.monotonic_ms() };
    let scheduler = Scheduler::new(plan.specs.clone(), plan.limits, &state.jobs, seed, now);
    let bell = Arc::new(Bell::default());
    let (_socket, questions) = listen(session, &bell).unzip();
    let mut agent = Agent {
        session,
        asked: AllAsked::read(session, now),
        bell,
        questions,
        begun_at: now.wall,
        ended: 0,
        ending_ms: 0,
        env,
        plan,
        scheduler,
        going: BTreeMap::new(),
        lasting: AllLasting::default(),
        systemd: Systemd::of(&session.surroundings),
        state,
        state_is_lost: false,
        looked_ms: now.steady_ms,
        tick_ms: 0,
        ending: None,
        is_finished: false,
        cut_off: 0,
    };
    agent.lasting.want(&agent.plan.lasting, now.steady_ms);
    agent.save();
    agent.greet();
    agent.systemd.ready();
    while !(agent.is_finished && agent.lasting.is_over() && agent.asked.is_over()) {
        agent.look(&signals, follow);
        agent.hear(follow);
    }
    agent.save();
    match agent.cut_off {
        // What was asked for is what happened.
        0 => {
            session.printer.note("ended, with nothing left running");
            Ok(ExitCode::SUCCESS)
        }
        runs => {
            let kind = agent.ending.unwrap_or(Kind::Terminated);
            let message = format!("ended before {runs} runs were done");
            Err(Error::new(kind, message).hint("they begin again with the next `lifeboat run`"))
        }
    }
}

/// The socket by which the agent is asked. Without one, all runs that is scheduled.
fn listen(session: &Session, bell: &Arc<Bell>) -> Option<(Socket, Receiver<control::Asked>)> {
    let path = crate::control::path(session)?;
    control::listen(&path, bell)
        .inspect_err(|error| session.printer.warning("", &error.to_string()))
        .ok()
}

impl Signals {
    fn catch() -> Result<Self> {
        let of = |signal| {
            let came = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&came))
                .map_err(|error| Error::io(Kind::Failed, "cannot receive signals", error))?;
            Ok(came)
        };
        Ok(Signals { term: of(SIGTERM)?, int: of(SIGINT)?, hup: of(SIGHUP)? })
    }

    fn end(&self) -> Option<Kind> {
        let came = |signal: &AtomicBool| signal.swap(false, Ordering::Relaxed);
        match (came(&self.term), came(&self.int)) {
            (true, _) => Some(Kind::Terminated),
            (_, true) => Some(Kind::Interrupted),
            _ => None,
        }
    }
}

impl Agent<'_> {
    fn now(&self) -> Now {
        Now { wall: self.env.clock.now(), steady_ms: self.env.clock.monotonic_ms() }
    }

    fn look(&mut self, signals: &Signals, follow: &[String]) {
        if let Some(kind) = signals.end() {
            self.begin_end(kind);
        }
        if signals.hup.swap(false, Ordering::Relaxed) && self.ending.is_none() {
            // What is wrong with it was said.
            let _ = self.reload(follow);
        }
        self.see_ended();
        self.see_asked();
        self.see_getting_on();
        self.tick();
        self.lasting.look(self.session, &self.env);
        let steady_ms = self.env.clock.monotonic_ms();
        self.systemd.alive(steady_ms);
        // Of hundreds of jobs it is not made for nobody.
        if self.systemd.is_there() {
            let status = self.status();
            self.systemd.status(status);
        }
    }

    fn tick(&mut self) {
        let now_ms = self.env.clock.monotonic_ms();
        if now_ms >= self.tick_ms || !self.going.is_empty() || self.ending.is_some() {
            self.tick_ms = now_ms + TICK_MS;
            self.tell_scheduler(Event::Tick);
        }
    }

    fn begin_end(&mut self, kind: Kind) {
        let now = self.now();
        if self.ending.is_none() {
            let runs = self.scheduler.running();
            let drain = units::duration(self.plan.limits.drain_ms);
            let waits = match runs {
                0 => String::new(),
                _ => format!(": {runs} runs may go on for {drain}"),
            };
            self.session.printer.note(&format!("ending{waits}"));
            self.systemd.stopping(self.plan.limits.drain_ms + END_MS);
            self.lasting.end(now.steady_ms);
            self.ending_ms = now.steady_ms;
        } else {
            // Told twice, it waits no longer.
            self.cut_off += self.asked.end(now);
        }
        self.ending = Some(kind);
        self.tell_scheduler(Event::Drain);
    }

    /// Takes the configuration as it is now, if it can be taken.
    fn reload(&mut self, follow: &[String]) -> Result<(), String> {
        self.systemd.reloading(monotonic_us());
        let session = self.session.again();
        let taken = match Plan::of(&session, &self.env, follow) {
            Ok(plan) => {
                self.plan = plan;
                let now_ms = self.env.clock.monotonic_ms();
                self.lasting.want(&self.plan.lasting, now_ms);
                let reload = Event::Reload(self.plan.specs.clone(), self.plan.limits);
                self.tell_scheduler(reload);
                self.greet();
                Ok(())
            }
            Err(error) => {
                let message =
                    format!("the configuration is not taken, the one before holds: {error}");
                self.session.printer.warning("", &message);
                Err(message)
            }
        };
        self.systemd.ready();
        taken
    }

    /// Says what there is to do, and forgets what there is no more.
    fn greet(&self) {
        if let Some(folder) = said_in(self.session) {
            said::retain(&folder, self.plan.commands.keys());
        }
        let count = self.plan.specs.len();
        let next = self.scheduler.next().map(|(name, at)| {
            let at = units::moment(at, &self.session.surroundings.time_zone);
            format!(", the next is {} at {at}", units::one_line(name))
        });
        let lasting: Vec<&str> = self.plan.lasting.keys().map(String::as_str).collect();
        let lasting = match lasting.is_empty() {
            true => String::new(),
            false => format!("; all the time: {}", units::one_line(&lasting.join(", "))),
        };
        let next = next.unwrap_or_default();
        self.session.printer.note(&format!("scheduled: {count} jobs{next}{lasting}"));
    }

    fn status(&self) -> String {
        let mut parts = Vec::new();
        if self.ending.is_some() {
            parts.push("ending".to_owned());
        }
        let running: Vec<&str> = self.going.keys().map(String::as_str).collect();
        if !running.is_empty() {
            parts.push(format!("running {}", running.join(", ")));
        }
        let failing: Vec<&str> = self.scheduler.failing().collect();
        if !failing.is_empty() {
            parts.push(format!("failed last: {}", failing.join(", ")));
        }
        if let Some((name, at)) = self.scheduler.next() {
            let at = units::moment(at, &self.session.surroundings.time_zone);
            parts.push(format!("next {name} at {at}"));
        }
        units::one_line(&parts.join("; "))
    }

    fn see_ended(&mut self) {
        let now = self.now();
        for name in self.going.keys().cloned().collect::<Vec<_>>() {
            let Some(going) = self.going.get_mut(&name) else { continue };
            // Asked again after its end, it says the same, but for what it was heard to say.
            let since_ms = match going.ended_ms {
                Some(since_ms) => since_ms,
                None if !going.run.is_over() => continue,
                None => *going.ended_ms.insert(now.steady_ms),
            };
            if !going.run.is_heard() && now.steady_ms.saturating_sub(since_ms) < HEARD_MS {
                continue;
            }
            let Some((outcome, exit_code, error)) = going.run.ended() else { continue };
            let told = going.run.told();
            let took_ms = now.steady_ms.saturating_sub(going.begun_ms);
            let last = Ended {
                begun_at: going.begun_at,
                ended_at: now.wall,
                outcome: asked::word(outcome).to_owned(),
                exit_code,
                error,
            };
            self.going.remove(&name);
            self.ended += 1;
            self.tell_ended(&name, &last, took_ms);
            self.keep_said(&name, &last, &told);
            self.state.runs.insert(name.clone(), last);
            self.tell_scheduler(Event::Ended(name, outcome));
            self.bell.ring();
        }
    }

    /// Restores and the like: they may end when all is to end, and for so long only.
    fn see_asked(&mut self) {
        let now = self.now();
        let ended = self.asked.look(self.session, now);
        if ended > 0 {
            self.ended += ended;
            self.bell.ring();
        }
        let drain_ms = self.plan.limits.drain_ms;
        let waited_ms = now.steady_ms.saturating_sub(self.ending_ms);
        if self.ending.is_some() && waited_ms >= drain_ms {
            self.cut_off += self.asked.end(now);
        }
    }

    /// Waits until the next look, and answers meanwhile.
    fn hear(&mut self, follow: &[String]) {
        let heard = self
            .questions
            .as_ref()
            .map(|questions| questions.recv_timeout(Duration::from_millis(LOOK_MS)));
        match heard {
            Some(Ok(asked)) => {
                let answer = self.answer(asked.question, follow);
                // Who asked may be gone.
                let _ = asked.answer.send(answer);
            }
            Some(Err(RecvTimeoutError::Timeout)) => {}
            None | Some(Err(RecvTimeoutError::Disconnected)) => self.env.clock.sleep_ms(LOOK_MS),
        }
    }

    fn answer(&mut self, question: Question, follow: &[String]) -> Answer {
        let is_ending = self.ending.is_some();
        let begins = matches!(question, Question::Run { .. } | Question::Restore { .. });
        if is_ending && begins {
            return Answer::Refused("the agent is ending".to_owned());
        }
        let done = |text: &str| Answer::Done(text.to_owned());
        match question {
            Question::State | Question::Watch => Answer::State(Box::new(self.told())),
            Question::Run { job } => self.run_now(job),
            Question::Stop { run } => self.stop(&run),
            Question::Reload => match self.reload(follow) {
                Ok(()) => done("the configuration is taken"),
                Err(why) => Answer::Refused(why),
            },
            Question::Drain => {
                self.begin_end(Kind::Terminated);
                done("it ends when its runs have ended")
            }
            Question::Pause { for_ms } => {
                self.tell_scheduler(Event::Pause(for_ms));
                self.session.printer.note(&format!("paused for {}", units::duration(for_ms)));
                done("it begins nothing by itself for that time")
            }
            Question::Resume => {
                self.tell_scheduler(Event::Pause(0));
                self.session.printer.note("the pause is over");
                done("it goes on")
            }
            Question::Restore { arguments, title, by } => {
                let options = ["--json", "--verbose", "--yes", "restore"].map(str::to_owned);
                let words = [&self.plan.base[..], &options, &arguments].concat();
                let now = self.now();
                let begun = self.asked.begin(self.session, &self.bell, &words, (title, by), now);
                self.bell.ring();
                begun.map_or_else(Answer::Refused, Answer::Done)
            }
        }
    }

    fn run_now(&mut self, job: String) -> Answer {
        if !self.plan.commands.contains_key(&job) {
            let known: Vec<&str> = self.plan.commands.keys().map(String::as_str).collect();
            let why = diagnose::unknown_word("job", &job, &known);
            return Answer::Refused(format!("{why} (lifeboat agent status lists them)"));
        }
        if self.going.contains_key(&job) {
            return Answer::Refused(format!("{job} runs already"));
        }
        self.tell_scheduler(Event::Asked(job.clone()));
        match self.going.contains_key(&job) {
            true => Answer::Done(job),
            false => Answer::Refused(format!("{job} could not be begun: the log says why")),
        }
    }

    fn stop(&mut self, id: &str) -> Answer {
        let now = self.now();
        let is_one = match self.going.get(id) {
            Some(going) => {
                going.run.terminate();
                true
            }
            None => self.asked.stop(id, now),
        };
        match is_one {
            true => Answer::Done("it is asked to end".to_owned()),
            false => Answer::Refused(format!("nothing runs that is called {id}")),
        }
    }

    /// What it does, for who asks.
    fn told(&self) -> AgentState {
        let now = self.now();
        let of_schedule = |(name, going): (&String, &Going)| RunState {
            id: name.clone(),
            title: name.clone(),
            by: None,
            begun_at: going.begun_at,
            told: going.run.told(),
            ended: None,
            result: serde_json::Value::Null,
        };
        let job = |(name, next, is_running, is_failing): (&str, _, _, _)| JobState {
            name: name.to_owned(),
            next,
            is_running,
            is_failing,
            last: self.state.runs.get(name).cloned(),
        };
        let paused_ms = self.scheduler.paused_ms(now);
        let until = |ms| now.wall.saturating_add(SignedDuration::from_millis(ms)).ok();
        AgentState {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            begun_at: self.begun_at,
            is_ending: self.ending.is_some(),
            paused_until: i64::try_from(paused_ms).ok().filter(|ms| *ms > 0).and_then(until),
            ended: self.ended,
            runs: self.going.iter().map(of_schedule).chain(self.asked.states()).collect(),
            jobs: self.scheduler.all().map(job).collect(),
            lasting: self.lasting.states(),
        }
    }

    fn tell_ended(&self, name: &str, last: &Ended, took_ms: u64) {
        let (printer, took) = (&self.session.printer, units::duration(took_ms));
        let subject = units::one_line(name);
        if printer.json() {
            let mut line = json!(last);
            line["job"] = name.into();
            // Nobody reads any more: that ends nothing.
            let _ = printer.data(&format!("{line}\n"));
        }
        match last.error.as_deref() {
            Some(error) => printer.warning(&subject, &format!("failed after {took}: {error}")),
            None if last.outcome == "absent" => {
                printer.note(&format!("{subject}: its repository is not there for now"));
            }
            // Every few minutes, and what it found it has told.
            None if name == plan::WATCH => printer.detail(&format!("{subject}: done in {took}")),
            None => printer.note(&format!("{subject}: done in {took}")),
        }
    }

    /// Keeps what a run said. Where that cannot be, it was told when it came.
    fn keep_said(&self, name: &str, last: &Ended, told: &Told) {
        let Some(folder) = said_in(self.session) else { return };
        if let Err(error) = said::note(&folder, name, last, &told.lines) {
            let message = format!("what it said is not kept: {}: {error}", folder.display());
            self.session.printer.detail(&format!("{}: {message}", units::one_line(name)));
        }
    }

    fn see_getting_on(&mut self) {
        let now_ms = self.env.clock.monotonic_ms();
        let every_ms = GET_ON_MS.min(self.plan.limits.hang_ms / 4);
        if now_ms.saturating_sub(self.looked_ms) < every_ms {
            return;
        }
        self.looked_ms = now_ms;
        let mut alive = Vec::new();
        for (name, going) in &mut self.going {
            if going.run.has_got_on(now_ms) {
                alive.push(name.clone());
            }
        }
        alive.into_iter().for_each(|name| self.tell_scheduler(Event::Alive(name)));
    }

    fn tell_scheduler(&mut self, event: Event) {
        let now = self.now();
        for action in self.scheduler.step(now, event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        let printer = Arc::clone(&self.session.printer);
        match action {
            Action::Start { job, late_ms, attempt } => self.start(job, late_ms, attempt),
            Action::Terminate { job, why } => {
                self.cut_off += u64::from(why == Why::Drain);
                let hang = units::duration(self.plan.limits.hang_ms);
                let why = match why {
                    Why::Limit => "it takes too long".to_owned(),
                    Why::Hang => format!("it did nothing for {hang}"),
                    Why::Drain => "the time for that is over".to_owned(),
                };
                printer.warning(&units::one_line(&job), &format!("asked to end: {why}"));
                if let Some(going) = self.going.get(&job) {
                    going.run.terminate();
                }
            }
            Action::Kill { job } => {
                printer.warning(&units::one_line(&job), "killed: it did not end when asked to");
                if let Some(going) = self.going.get(&job) {
                    going.run.kill();
                }
            }
            Action::GiveUp { job } => {
                let message = "not even killed it ends (a disk or a file server may be gone): \
                               others go on, it is not begun again before";
                printer.warning(&units::one_line(&job), message);
            }
            Action::Retry { job, in_ms } => {
                let when = units::duration(in_ms);
                printer.note(&format!("{}: tried again in {when}", units::one_line(&job)));
            }
            Action::SetBack { by_ms } => {
                let by = units::coarse(by_ms);
                printer.warning("", &format!("the clock went back by {by}: schedules follow it"));
            }
            Action::Save => self.save(),
            Action::Finished => self.is_finished = true,
        }
    }

    fn start(&mut self, job: String, late_ms: u64, attempt: u32) {
        let printer = Arc::clone(&self.session.printer);
        let subject = units::one_line(&job);
        match (late_ms, attempt) {
            (0, 0) => printer.detail(&format!("{subject}: begins")),
            (0, _) => printer.note(&format!("{subject}: attempt {}", attempt + 1)),
            (late_ms, _) => {
                let late = units::coarse(late_ms);
                printer.note(&format!("{subject}: begins, {late} late"));
            }
        }
        let now = self.now();
        let words = self.plan.commands.get(&job).cloned().unwrap_or_default();
        let begun = match words.is_empty() {
            true => Err(std::io::Error::other("its source is gone")),
            false => {
                let (printer, bell) = (Arc::clone(&printer), Arc::clone(&self.bell));
                let ears = Ears { printer, bell, result: false };
                Run::begin(&words, &subject, &ears, now.steady_ms)
            }
        };
        self.bell.ring();
        match begun {
            Ok(run) => {
                let (begun_at, begun_ms) = (now.wall, now.steady_ms);
                self.going.insert(job, Going { run, begun_at, begun_ms, ended_ms: None });
            }
            Err(error) => {
                printer.warning(&subject, &format!("cannot be begun: {error}"));
                self.tell_scheduler(Event::Ended(job, Outcome::Failed { may_pass: true }));
            }
        }
    }

    fn save(&mut self) {
        self.state.jobs = self.scheduler.kept();
        let wanted = &self.state.jobs;
        self.state.runs.retain(|name, _| wanted.contains_key(name));
        let path = kept::path(self.session);
        kept::write(self.session, path.as_deref(), &self.state, &mut self.state_is_lost);
    }
}

/// Where it is kept what runs said.
fn said_in(session: &Session) -> Option<PathBuf> {
    said::folder(&crate::control::path(session)?)
}

/// The clock by which the service manager orders a reload.
fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}
