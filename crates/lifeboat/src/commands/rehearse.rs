//! `lifeboat rehearse`: a copy is broken on purpose, so that people see each alarm once before it
//! is real.

mod alarms;
mod yard;

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use self::alarms::Alarm;
use self::yard::Yard;
use crate::session::Session;
use crate::signals;
use crate::ui::printer::Style;
use crate::ui::units;

/// Break a copy on purpose, to see the alarm
///
/// The newest good backup of the source goes into a repository of its own in a scratch folder, and
/// that is broken; the real repository is only read, the source not at all. Then the command runs
/// that is to notice it, as it would at night, and its words and its exit code are shown. Of a
/// whole PostgreSQL cluster the backup comes with what it builds on and with some of its log. What
/// cannot be broken in a copy of the source's (a log where it has none, a key where it is not
/// sealed) is shown on a database that is made for it, and that is said. Afterwards everything is
/// removed.
///
/// Exit code 0: each alarm came. 20: one did not. 3: one could not be rehearsed here.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of a source, or the path of a database [default: none, all is made up]
    #[arg(value_name = "SOURCE|PATH")]
    what: Option<String>,
    /// What is broken; may be given again [default: all of them, one after the other]
    #[arg(long = "break", value_name = "WHAT")]
    breaks: Vec<Break>,
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Break {
    /// A file of the log is missing: what came after it cannot be restored
    WalGap,
    /// One bit of a stored backup has changed
    Bitflip,
    /// A sealed backup, and a key that is not its
    WrongKey,
    /// The disk of the repository is full during a backup
    DiskFull,
    /// The newest backup is older than promised
    Stale,
    /// The server of the repository does not answer
    StoreDown,
}

impl Break {
    const ALL: [Break; 6] = [
        Break::Bitflip,
        Break::WalGap,
        Break::WrongKey,
        Break::DiskFull,
        Break::Stale,
        Break::StoreDown,
    ];

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Break::WalGap => "wal-gap",
            Break::Bitflip => "bitflip",
            Break::WrongKey => "wrong-key",
            Break::DiskFull => "disk-full",
            Break::Stale => "stale",
            Break::StoreDown => "store-down",
        }
    }
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let breaks = if args.breaks.is_empty() { &Break::ALL[..] } else { &args.breaks[..] };
    let yard = Yard::new(session, &env, args.what.as_deref())?;
    let (mut results, mut silent, mut impossible) = (Vec::new(), Vec::new(), Vec::new());
    for what in breaks {
        env.proceed()?;
        match alarms::rehearse(&env, &yard, *what) {
            Ok(alarm) => {
                if !alarm.came() {
                    silent.push(what.name());
                }
                results.push(as_json(*what, &alarm));
                show(session, *what, &alarm)?;
            }
            Err(error) if error.kind() == Kind::Incomplete => {
                session.printer.warning(what.name(), &error.to_string());
                impossible.push(what.name());
                let why = error.to_string();
                results.push(json!({ "break": what.name(), "outcome": "impossible", "why": why }));
            }
            Err(error) => return Err(error),
        }
    }
    session.progress.clear();
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    match (silent.is_empty(), impossible.is_empty()) {
        (false, _) => {
            let message = format!("no alarm came for: {}", silent.join(", "));
            Err(Error::new(Kind::CheckFailed, message)
                .hint("this is a fault of this program or of this host: do not rely on it"))
        }
        (true, false) => {
            let message = format!("could not be rehearsed here: {}", impossible.join(", "));
            Err(Error::new(Kind::Incomplete, message).hint("the warnings above say why"))
        }
        (true, true) => Ok(ExitCode::SUCCESS),
    }
}

fn show(session: &Session, what: Break, alarm: &Alarm) -> Result<()> {
    let printer = &session.printer;
    if printer.json() {
        return Ok(());
    }
    let mut text = format!("{}: {}\n", printer.paint_out(Style::Strong, what.name()), alarm.broken);
    text.push_str(&format!("  $ {}\n", units::one_line(&alarm.command)));
    for line in alarm.said.lines() {
        text.push_str(&format!("  | {}\n", units::one_line(line)));
    }
    let (style, word) = match alarm.came() {
        true => (Style::Good, "the alarm came".to_owned()),
        false => (Style::Bad, format!("NO ALARM: exit code {} was to come", alarm.expected)),
    };
    let word = printer.paint_out(style, &word);
    text.push_str(&format!("  exit code {}: {word}\n\n", alarm.code));
    printer.data(&text)
}

fn as_json(what: Break, alarm: &Alarm) -> serde_json::Value {
    json!({
        "break": what.name(),
        "outcome": if alarm.came() { "alarm" } else { "silent" },
        "broken": alarm.broken,
        "command": alarm.command,
        "exit_code": alarm.code,
        "expected_exit_code": alarm.expected,
        "said": alarm.said,
    })
}
