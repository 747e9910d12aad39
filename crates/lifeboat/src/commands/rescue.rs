//! `lifeboat rescue`: when it has already happened. What is there, what can be had of it, what to
//! take first; then it does that.

mod host_key;
mod leftovers;
mod look;
mod lost_backups;
mod offers;
mod scripts;
mod server;
mod space;
mod steps;
mod tell;
mod tighter;

use std::io::{self, BufRead as _};
use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use self::offers::{Facts, Offer, Verdict, Way, judge};
use self::steps::Step;
use crate::selection;
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::units;

/// Find out what can be had of a lost or damaged database, and bring it back
///
/// For three in the morning. It looks at the database itself with its -wal and its journal, at the
/// newest good restore points of every repository, at what earlier restores and migrations kept
/// beside it, at backups of scripts in the usual folders (of a server's database at their dumps),
/// and at what a salvage would read. It says of each what would be lost, and recommends in the
/// order of the guides: a backup, a backup with the -wal that is still there, what was kept aside,
/// the copy before a migration, a salvage, and last a fresh database. What is certain to lose
/// nothing goes before all of these.
///
/// Looking changes nothing. On a terminal it asks which one to take; --take N takes it. Each is
/// done by the commands that are shown, in their order. Whatever is taken, what is there now is
/// kept beside it, and `lifeboat undo` goes back to it; a configured service is stopped and
/// started. What a rescue left that was killed is told; what it did not finish goes with
/// the next one.
///
/// Three emergencies have an option of their own. --disk-full lists what may be deleted safely:
/// what killed runs left, what restores and migrations kept long ago, what retention would remove;
/// it deletes that after a yes, while the service is stopped. --lost-host-key puts the SSH host
/// key back from the newest backup that has it, or makes a new one and prints what users need.
/// --lost-backups makes a backup at once, to where there is room, checks all of it, and copies it.
///
/// Exit code 20: the database is lost or damaged, and nothing was taken.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of a source, the path of a database or of a lost host key, or a URL [default: the
    /// only source, the only key]
    #[arg(value_name = "SOURCE|PATH|URL")]
    what: Option<String>,
    /// Take this one of the list
    #[arg(long, value_name = "N")]
    take: Option<usize>,
    /// Look for backups of scripts in this folder, too
    #[arg(long, value_name = "DIR")]
    look_in: Vec<PathBuf>,
    /// The disk is full: what may be deleted safely
    #[arg(long, conflicts_with_all = ["lost_host_key", "lost_backups", "look_in"])]
    disk_full: bool,
    /// The SSH host key is lost: back from a backup, or a new one
    #[arg(long, conflicts_with_all = ["lost_backups", "look_in", "take"])]
    lost_host_key: bool,
    /// With a lost host key: how users reach this host, for their known_hosts [default: its name]
    #[arg(long, value_name = "HOST[:PORT]", requires = "lost_host_key")]
    address: Option<String>,
    /// All backups are lost: a new one at once, checked and copied
    #[arg(long, conflicts_with_all = ["look_in", "take"])]
    lost_backups: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    // At a question a signal ends the program, as everywhere.
    if session.globals.yes {
        env.stop = signals::catch();
    }
    if args.lost_host_key {
        return host_key::run(session, &env, args);
    }
    if args.disk_full {
        let target = args.what.as_deref().map(|what| target(session, Some(what))).transpose()?;
        return space::run(session, &env, target.as_ref(), args.take);
    }
    let target = target(session, args.what.as_deref())?;
    let facts = match target.path.is_some() {
        true => look::look(session, &env, &target, &args.look_in)?,
        false => server::look(session, &env, &target, &args.look_in)?,
    };
    session.progress.clear();
    let verdict = judge(&facts);
    if args.lost_backups {
        let what = args.what.as_deref().unwrap_or(&target.name);
        return lost_backups::run(session, &env, &target, what, (&facts, &verdict));
    }
    let Some(number) = chosen(session, args, &facts, &verdict)? else {
        return conclude(session, args, &facts, &verdict);
    };
    let offer = number.checked_sub(1).and_then(|index| verdict.offers.get(index));
    let offer = offer.ok_or_else(|| {
        let count = verdict.offers.len();
        Error::new(Kind::Usage, format!("the list has no number {number}, but 1 to {count}"))
            .hint("the list is made anew each time: run it without --take first")
    })?;
    take(session, &env, &target, offer)
}

/// What is to be rescued.
fn target(session: &Session, what: Option<&str>) -> Result<Target> {
    let config = &session.loaded()?.config;
    let targets = match what {
        Some(what) => match selection::target_of(session, what)? {
            Some(target) => vec![target],
            None => named(session, what)?,
        },
        None => Target::all(config)?.into_iter().filter(is_database).collect(),
    };
    let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
    let mut targets = targets.into_iter();
    match (targets.next(), names.len()) {
        (Some(target), 1) if is_database(&target) => Ok(target),
        (Some(target), 1) => {
            let name = units::shell_word(&target.name);
            Err(Error::new(Kind::Usage, format!("`{name}` is a source of files"))
                .hint(format!("lifeboat restore {name}")))
        }
        (None, _) => Err(Error::new(Kind::Usage, "no database is configured")
            .hint("name one: lifeboat rescue /path/of/the.db")),
        _ => Err(Error::new(Kind::Usage, "which one is to be rescued?")
            .hint(format!("lifeboat rescue {}", names.join("|")))),
    }
}

fn is_database(target: &Target) -> bool {
    target.path.is_some() || target.database.is_some() || target.is_cluster()
}

/// A database that nobody configured: by its path, also where it is gone, or by the name that a
/// repository has for it.
fn named(session: &Session, what: &str) -> Result<Vec<Target>> {
    match sources::named(&session.loaded()?.config, &[what.to_owned()]) {
        Err(error) if error.kind() == Kind::SourceUnavailable => {
            let env = session.env()?;
            match look::remembered(session, &env, what) {
                Some(target) => Ok(vec![target]),
                None => Err(error),
            }
        }
        found => found,
    }
}

/// The number that was asked for: by an option, or at the terminal.
fn chosen(
    session: &Session,
    args: &Args,
    facts: &Facts,
    verdict: &Verdict,
) -> Result<Option<usize>> {
    let (printer, surroundings) = (&session.printer, &session.surroundings);
    let at_terminal = surroundings.stdin_is_terminal && surroundings.stdout_is_terminal;
    let asks = args.take.is_none() && at_terminal && !printer.json() && !session.globals.yes;
    if args.take.is_none() || !session.globals.yes {
        match printer.json() && args.take.is_none() {
            true => printer.json_data(&tell::as_json(facts, verdict))?,
            false if args.take.is_none() => {
                printer.data(&tell::text(session, facts, verdict))?;
            }
            // The list is part of the question.
            false => {
                tell::text(session, facts, verdict).lines().for_each(|line| printer.line(line));
            }
        }
    }
    if !asks {
        return Ok(args.take);
    }
    let best = verdict.recommended.map_or(String::new(), |index| format!(" [{}]", index + 1));
    printer.prompt(&format!("which one? A number{best}, or `no`: "));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| {
        Error::io(Kind::NeedsConfirmation, "cannot read the answer", error).hint("give --take N")
    })?;
    match (answer.trim(), answer.ends_with('\n'), verdict.recommended) {
        ("", true, Some(index)) => Ok(Some(index + 1)),
        (text, ..) => Ok(text.parse().ok()),
    }
}

/// Nothing was taken.
fn conclude(session: &Session, args: &Args, facts: &Facts, verdict: &Verdict) -> Result<ExitCode> {
    if verdict.offers.first().is_some_and(|offer| offer.way == Way::Leave) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut words = vec![args.what.clone().unwrap_or_else(|| facts.name.clone())];
    if let Some(repo) = &session.globals.repo {
        words.extend(["--repo".to_owned(), repo.clone()]);
    }
    for folder in &args.look_in {
        words.extend(["--look-in".to_owned(), folder.to_string_lossy().into_owned()]);
    }
    let words: Vec<String> = words.iter().map(|word| units::shell_word(word)).collect();
    let message = format!("{}: {}", facts.place, verdict.diagnosis);
    Err(Error::new(Kind::CheckFailed, message).hint(match verdict.recommended {
        Some(index) => format!("lifeboat rescue {} --take {} --yes", words.join(" "), index + 1),
        None => {
            "nothing can be had here: look for copies on other disks, then --look-in DIR".into()
        }
    }))
}

/// Does it, step by step.
fn take(session: &Session, env: &Env, target: &Target, offer: &Offer) -> Result<ExitCode> {
    let printer = &session.printer;
    if offer.steps.is_empty() {
        printer.note("nothing is to be done, and nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    if !session.globals.yes {
        for (index, step) in offer.steps.iter().enumerate() {
            printer.line(&format!("  {}. {}", index + 1, step.text()));
        }
        let question = format!("taking {}", units::one_line(&offer.title));
        crate::ui::confirm::confirm(&session.surroundings, printer, &question, &target.name)?;
    }
    let place = target.path.as_deref().map(sources::place_of).transpose()?;
    let left = place.map_or_else(Vec::new, |place| leftovers::find(&place));
    let done = offer.steps.iter().try_for_each(|step| {
        printer.note(&format!("-> {}", step.text()));
        step.take(session, env, target.service.as_ref())
    });
    if done.is_err() {
        // What the steps made for each other is nobody's now.
        offer.steps.iter().for_each(Step::tidy);
    }
    done?;
    leftovers::remove(session, &left);
    if matches!(offer.way, Way::Salvage) {
        printer.note(
            "the tables _lifeboat_salvage and lost_and_found say what is in doubt; nobody else \
             needs them: docs/runbooks/corrupt-sqlite.md",
        );
    }
    if offer.way != Way::Fresh {
        printer.note(&format!("now: lifeboat backup {}", units::shell_word(&target.name)));
    }
    Ok(ExitCode::SUCCESS)
}
