//! `lifeboat prune`: what the configuration does not keep goes, in two steps.

mod simulate;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::prune::{self, Action, Item, PrunePlan, Pruned};
use lifeboat_core::retention;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::list;
use crate::config::values::Period;
use crate::notify::Ended;
use crate::repositories::{self, Opened};
use crate::rotation::{self, Days, Rule};
use crate::runs::RunHooks;
use crate::selection;
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::{report, units};

/// Remove the backups that the configuration does not keep
///
/// What `keep` of the source, or of the repository, does not ask for is listed no more, and its
/// bytes are deleted by the first prune after seven days, or after 24 hours while the repository's
/// disk is 80 % full. Until then `lifeboat undelete` takes it back. The three newest good backups,
/// those that are pinned and those dated in the future always stay. Nothing goes unless there is a
/// newer good backup than at the last prune.
///
/// Logs of SQLite databases are thinned out as `log` says, by default to one state of each minute
/// after a day and one of each hour after a week, until they are 30 days old; a backup stays as
/// long as its log holds such a state. Their files are put into packs, and go an hour later.
///
/// A plan that takes more than half of the good backups, or follows another `keep` than the last
/// one, is refused (exit code 23) until --approve names it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of configured sources, or paths of their databases; without any, all that have `keep`
    #[arg(value_name = "SOURCE|PATH")]
    sources: Vec<String>,
    /// Print what would become of every backup and why, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The plan that was looked at and may be carried out, although it takes much
    #[arg(long, value_name = "PLAN")]
    approve: Vec<String>,
    /// Print what there would be after that time, such as 2y, if backups went on by the source's
    /// schedule, and do nothing
    #[arg(long, value_name = "PERIOD", conflicts_with_all = ["dry_run", "approve"])]
    simulate: Option<Period>,
    /// How often a backup is made in a simulation, instead of the schedule: 1h, 1d
    #[arg(long, value_name = "PERIOD", requires = "simulate")]
    every: Option<Period>,
    /// Keep what is younger than so many days as well; without `keep`, nothing but that
    #[arg(long, value_name = "N")]
    retention_days: Option<Days>,
    /// Ask nothing, as a schedule needs it. What must wait for a newer backup is said, and is no
    /// failure; what needs an approval is one
    #[arg(long)]
    unattended: bool,
    /// Wait for so long, such as 10m, where a backup or a prune of the same source is running, on
    /// this host or on another one. Without it that is exit code 11
    #[arg(long, value_name = "PERIOD", conflicts_with_all = ["dry_run", "simulate"])]
    wait: Option<Period>,
    /// Run no hooks
    #[arg(long)]
    no_hooks: bool,
}

/// One source in one repository, and what is to be kept of it.
struct Job<'a> {
    opened: &'a Opened,
    folder: &'a str,
    entry: &'a SourceEntry,
    rule: Rule,
    schedule: Option<String>,
}

impl Args {
    /// Whether nothing is done, of which somebody could be told.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run || self.simulate.is_some()
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    if session.globals.now.is_some() && !args.dry_run && args.simulate.is_none() {
        return Err(Error::new(Kind::Usage, "a prune with --now would delete by a wrong clock")
            .hint("add --dry-run or --simulate, or leave --now away"));
    }
    let mut env = session.env()?;
    // At a question a signal ends the program, as everywhere.
    if args.unattended || session.globals.yes {
        env.stop = signals::catch();
    }
    let hooks = RunHooks::of(session, &env, "prune", args.no_hooks)?;
    match args.dry_run || args.simulate.is_some() {
        true => {
            let (before, after) = hooks.lines();
            before.iter().chain(&after).for_each(|line| session.printer.note(line));
            prune_all(session, &env, &args)
        }
        false => hooks.around(|| prune_all(session, &env, &args)),
    }
}

fn prune_all(session: &Session, env: &Env, args: &Args) -> Result<ExitCode> {
    let targets = targets(session, &args.sources)?;
    // What is deleted is decided by what is there, not by what was once read.
    let (opened, failures) = match args.dry_run {
        true => repositories::look_over(session, env)?,
        false => repositories::open_all_to_prune(session, env)?,
    };
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for job in jobs(session, env, &opened, &targets, args.retention_days)? {
        let done = match args.simulate {
            Some(length) => simulate::one(session, env, &job, length, args.every),
            None => in_turn(session, env, args, &job),
        };
        let failure = done.as_ref().err();
        session.note_ended(Ended::of("prune", job.folder, &job.opened.place.url, failure));
        match done {
            Ok(result) => results.push(result),
            Err(error) => {
                session.progress.clear();
                let (url, folder) = (&job.opened.place.url, job.folder);
                results.push(json!({
                    "repository": url, "folder": folder, "outcome": "failed",
                    "error": report::as_json(&error),
                }));
                let is_ended = matches!(error.kind(), Kind::Interrupted | Kind::Terminated);
                errors.push(error);
                if is_ended {
                    errors.rotate_right(1);
                    break;
                }
            }
        }
    }
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    if errors.is_empty() {
        return super::incomplete(&failures);
    }
    let first = errors.remove(0);
    errors.iter().for_each(|error| report::report(&session.printer, error));
    Err(first)
}

/// The configured sources that are meant.
fn targets(session: &Session, arguments: &[String]) -> Result<Vec<Target>> {
    let config = &session.loaded()?.config;
    if arguments.is_empty() {
        return Target::all(config);
    }
    let mut targets = Vec::new();
    for argument in arguments {
        // A path that nobody configured is a target too, with nothing to keep by.
        match sources::named(config, std::slice::from_ref(argument)) {
            Ok(named) => targets.extend(named),
            Err(error) if error.kind() == Kind::SourceUnavailable => {
                return Err(nothing_says(Some(argument)).caused_by(error));
            }
            Err(error) => return Err(error),
        }
    }
    let mut names = BTreeSet::new();
    targets.retain(|target| names.insert(target.name.clone()));
    Ok(targets)
}

fn jobs<'a>(
    session: &Session,
    env: &Env,
    opened: &'a [Opened],
    targets: &[Target],
    days: Option<Days>,
) -> Result<Vec<Job<'a>>> {
    let (mut jobs, mut without) = (Vec::new(), Vec::new());
    let several = targets.len() > 1;
    for target in targets {
        for one in opened {
            let named = |names: &Vec<String>| {
                one.place.name.as_ref().is_some_and(|name| names.contains(name))
            };
            let elsewhere = target.repositories.as_ref().is_some_and(|names| !named(names));
            if elsewhere && session.globals.repo.is_none() {
                continue;
            }
            match Rule::of(&one.place, target, days) {
                None => without.push(target.name.as_str()),
                Some(rule) => {
                    // A database may be configured twice: the folder of the other name has its own
                    // rule.
                    let own = selection::own_entry(env, one, target)?.filter(|entry| {
                        entry.record.name == target.name || target.id == Some(entry.record.id)
                    });
                    let Some(entry) = own else { continue };
                    let schedule = target.schedule.clone();
                    jobs.push(Job { opened: one, folder: &entry.folder, entry, rule, schedule });
                }
            }
        }
    }
    match (without.first(), several && !jobs.is_empty()) {
        (Some(name), false) => Err(nothing_says(Some(name))),
        (Some(_), true) => {
            let list: BTreeSet<&str> = without.into_iter().collect();
            let list: Vec<&str> = list.into_iter().collect();
            session
                .printer
                .note(&format!("everything is kept, without `keep`: {}", list.join(", ")));
            Ok(jobs)
        }
        (None, _) if targets.is_empty() => Err(nothing_says(None)),
        (None, _) => Ok(jobs),
    }
}

/// Without a rule nothing is pruned. `name` is a source's, if one was meant.
fn nothing_says(name: Option<&str>) -> Error {
    let name = name.map(units::one_line);
    let message = match &name {
        None => "nothing says what to keep: no source is configured".to_owned(),
        Some(name) => format!("nothing says what to keep of `{name}`"),
    };
    let name = name.as_deref().unwrap_or("NAME");
    Error::new(Kind::Refused, message).hint(format!(
        "write into the configuration, under [source.{name}]: keep = {{ daily = 7, weekly = 8 }}"
    ))
}

/// Where another run is at work on it, its end is waited for, and what is left is planned anew.
fn in_turn(session: &Session, env: &Env, args: &Args, job: &Job<'_>) -> Result<Value> {
    let begun_ms = env.clock.monotonic_ms();
    let wait_ms = args.wait.map_or(0, |wait| wait.milliseconds);
    loop {
        let error = match one(session, env, args, job) {
            Err(error) if error.kind() == Kind::Locked => error,
            done => {
                if done.is_ok() && !args.dry_run {
                    rotation::pack(env, &job.opened.repository, job.folder);
                }
                return done;
            }
        };
        let left_ms = wait_ms.saturating_sub(env.elapsed_ms(begun_ms));
        if left_ms == 0 {
            return Err(error);
        }
        env.warn(job.folder, &format!("{error}: waiting for it"));
        let locks = session.folders.locks.as_deref();
        prune::await_turn(env, &job.opened.repository, job.folder, locks, left_ms)?;
    }
}

fn one(session: &Session, env: &Env, args: &Args, job: &Job<'_>) -> Result<Value> {
    let Job { opened, folder, rule, .. } = job;
    let request = rule.request(session, env, &opened.repository, folder);
    if !args.dry_run {
        retention::extend(env, &opened.repository, folder)?;
    }
    let plan = prune::plan(env, &opened.repository, &request)?;
    session.progress.clear();
    if args.dry_run {
        if !session.printer.json() {
            session.printer.data(&text(session, &plan, true))?;
        }
        return Ok(as_json("planned", opened, &plan, &Pruned::default()));
    }
    // The one that means this plan, else any: the error then says which plan this is.
    let approval = args.approve.iter().find(|id| **id == plan.id).or(args.approve.first());
    let waits = plan.gates.iter().find(|gate| !gate.opens_with_approval);
    if let Some(gate) = waits.filter(|_| args.unattended) {
        return Ok(waiting(session, opened, &plan, &gate.message));
    }
    plan.permit(approval.map(String::as_str))?;
    if plan.is_idle() {
        session.printer.note(&format!("nothing of {} has to go", units::one_line(folder)));
        return Ok(as_json("nothing-to-do", opened, &plan, &Pruned::default()));
    }
    let approved = approval.is_some_and(|approval| *approval == plan.id);
    if !session.globals.yes && !args.unattended && !approved {
        for line in text(session, &plan, false).lines() {
            session.printer.line(line);
        }
        let question = format!("pruning {}", units::one_line(folder));
        confirm(&session.surroundings, &session.printer, &question, folder)?;
    }
    let locks = session.folders.locks.as_deref();
    let approval = approval.map(String::as_str);
    let pruned = match prune::apply(env, &opened.repository, &request, &plan, approval, locks) {
        Err(error) if error.kind() == Kind::Locked && args.unattended && args.wait.is_none() => {
            return Ok(waiting(session, opened, &plan, error.message()));
        }
        pruned => pruned?,
    };
    let done = session.printer.paint_err(Style::Good, "pruned");
    session.printer.note(&format!("{done} {}: {}", units::one_line(folder), summary(&plan)));
    if let Some((_, until)) = pruned.locked.iter().max_by_key(|(_, until)| *until) {
        let (count, folder) = (pruned.locked.len(), units::one_line(folder));
        let when = units::moment(*until, &session.surroundings.time_zone);
        session.printer.note(&format!("{folder}: {count} still locked by the store, until {when}"));
    }
    if let Some(because) = &pruned.denied_because {
        let (count, url) = (pruned.denied.len(), &opened.place.url);
        let message = format!("{count} of `{folder}` could not be deleted in {url}: {because}");
        return Err(Error::new(Kind::Denied, message).hint(
            "what was to go is marked; delete it by lifeboat prune on a host whose credentials may: \
             see `prune_credentials` of the repository",
        ));
    }
    Ok(as_json("pruned", opened, &plan, &pruned))
}

/// Nobody is there to be asked, and the next run of the schedule will do.
fn waiting(session: &Session, opened: &Opened, plan: &PrunePlan, why: &str) -> Value {
    let folder = units::one_line(&plan.folder);
    session.printer.note(&format!("nothing of {folder} is pruned for now: {why}"));
    as_json("waiting", opened, plan, &Pruned::default())
}

fn as_json(outcome: &str, opened: &Opened, plan: &PrunePlan, pruned: &Pruned) -> Value {
    json!({
        "outcome": outcome,
        "repository": opened.place.url,
        "folder": plan.folder,
        "plan": plan,
        "marked": pruned.marked,
        "unmarked": pruned.unmarked,
        "deleted": pruned.deleted,
        "log_objects": pruned.log_objects,
        "log_merged": pruned.thinned.merged,
        "log_thinned": pruned.thinned.deleted,
        "log_packed": pruned.thinned.packed,
        "freed_bytes": pruned.freed_bytes,
        "locked": pruned.locked.iter().map(|(name, until)| {
            json!({ "name": name, "until": until })
        }).collect::<Vec<_>>(),
    })
}

/// The plan for people: every backup, or only what would change.
fn text(session: &Session, plan: &PrunePlan, all: bool) -> String {
    let mut table = Table::new(&[
        ("backup", Align::Left),
        ("condition", Align::Left),
        ("stored", Align::Right),
        ("plan", Align::Left),
        ("why", Align::Left),
    ]);
    let changes = |item: &&Item| all || !matches!(item.action, Action::Keep | Action::Wait);
    for item in plan.items.iter().filter(changes) {
        let condition = match item.condition {
            Some(condition) => list::condition(condition),
            None => ("none".to_owned(), Some(Style::Doubtful)),
        };
        table.row(vec![
            (units::one_line(&item.name), None),
            condition,
            (units::bytes(item.stored_bytes), None),
            word(session, item),
            (units::one_line(&item.reasons.join(", ")), None),
        ]);
    }
    let mut text = String::new();
    if !plan.items.is_empty() {
        text.push_str(&table.to_text(&session.printer));
    }
    let folder = units::one_line(&plan.folder);
    let _ = writeln!(text, "{folder}: {}", summary(plan));
    text.push_str(&log_text(session, plan, all));
    if let Some(why) = &plan.grace_shortened {
        let hours = grace(plan);
        let _ = writeln!(text, "{folder}: bytes are deleted {hours} after their removal: {why}");
    }
    for gate in &plan.gates {
        let needs = match gate.opens_with_approval {
            true => format!(" (--approve {})", plan.id),
            false => String::new(),
        };
        let _ = writeln!(text, "{folder}: refused for now: {}{needs}", gate.message);
    }
    text
}

/// What becomes of the source's log, in lines.
fn log_text(session: &Session, plan: &PrunePlan, all: bool) -> String {
    let zone = &session.surroundings.time_zone;
    let mut text = String::new();
    for item in plan.log.iter().filter(|item| all || item.action == Action::Delete) {
        let files = match item.count {
            1 => item.first.clone(),
            count => format!("{} to {}, {count} files", item.first, item.last),
        };
        let what = match item.action {
            Action::Delete => "delete".to_owned(),
            Action::Wait => {
                let when = item.delete_after.map(|at| units::moment(at, zone)).unwrap_or_default();
                format!("deleted after {when}")
            }
            _ => "keep".to_owned(),
        };
        let (part, bytes) = (&item.part, units::bytes(item.stored_bytes));
        let line = format!("log, {part}: {what} {files} ({bytes}): {}", item.reason);
        let _ = writeln!(text, "{}", units::one_line(&line));
    }
    text.push_str(&thinned_text(plan, all));
    text
}

/// What becomes of the states of the logs of its backups, in lines.
fn thinned_text(plan: &PrunePlan, all: bool) -> String {
    let mut text = String::new();
    for one in plan.thinned.iter().filter(|one| all || one.has_work()) {
        let (states, files) = (one.states, one.files);
        let number = |number: usize| units::count(number as u64);
        let mut what = match (&one.waits, one.takes_states()) {
            (Some(why), _) => format!("its states stay: {why}"),
            (None, false) => {
                format!("keep {} states in {} files", number(states.0), number(files.0))
            }
            (None, true) => format!(
                "keep {} of {} states: write {} files, delete {} of {} ({})",
                number(states.1),
                number(states.0),
                number(one.merged),
                number(files.0 + one.merged - files.1),
                number(files.0),
                units::bytes(one.going_bytes)
            ),
        };
        if one.packed.1 > 0 {
            let (files, packs) = one.packed;
            what.push_str(&format!("; put {} files into {packs} packs", number(files)));
        }
        if one.spare > 0 {
            what.push_str(&format!("; delete {} that are in packs", number(one.spare)));
        }
        let _ = writeln!(text, "{}", units::one_line(&format!("log of {}: {what}", one.backup)));
    }
    text
}

fn word(session: &Session, item: &Item) -> (String, Option<Style>) {
    let zone = &session.surroundings.time_zone;
    let when = item.delete_after.map(|at| units::moment(at, zone)).unwrap_or_default();
    match item.action {
        Action::Keep => ("keep".to_owned(), Some(Style::Good)),
        Action::Leave => ("left alone".to_owned(), Some(Style::Doubtful)),
        Action::Mark => ("remove".to_owned(), Some(Style::Bad)),
        Action::Wait => (format!("removed, deleted after {when}"), None),
        Action::Delete => ("delete".to_owned(), Some(Style::Bad)),
        Action::Unmark => ("take back".to_owned(), Some(Style::Good)),
        Action::Forget => ("forget".to_owned(), None),
    }
}

/// "7 days", "24 hours".
fn grace(plan: &PrunePlan) -> String {
    match plan.grace.as_hours() {
        hours if hours % 24 == 0 && hours > 24 => format!("{} days", hours / 24),
        hours => format!("{hours} hours"),
    }
}

fn summary(plan: &PrunePlan) -> String {
    let part = |action: Action, words: &str| {
        let count = plan.with(action).count();
        let bytes = units::bytes(plan.bytes_of(action));
        (count > 0).then(|| format!("{count} {words} ({bytes})"))
    };
    let parts = [
        part(Action::Keep, "kept"),
        part(Action::Unmark, "taken back"),
        part(Action::Mark, &format!("removed, deleted in {}", grace(plan))),
        part(Action::Wait, "removed before"),
        part(Action::Delete, "deleted"),
        part(Action::Leave, "left alone"),
    ];
    let of_log: Vec<_> = plan.log.iter().filter(|item| item.action == Action::Delete).collect();
    let files: usize = of_log.iter().map(|item| item.count).sum();
    let bytes: u64 = of_log.iter().map(|item| item.stored_bytes).sum();
    let log = (files > 0).then(|| format!("{files} files of the log ({})", units::bytes(bytes)));
    let thinned = plan.thinned.iter().filter(|one| one.has_work()).count();
    let thinned = (thinned > 0).then(|| format!("{thinned} logs thinned out"));
    let parts: Vec<String> = parts.into_iter().flatten().chain(log).chain(thinned).collect();
    match parts.is_empty() {
        true => "there are no backups".to_owned(),
        false => parts.join(", "),
    }
}
