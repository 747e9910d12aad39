//! `lifeboat agent`: what the running agent does, and what it is to do.

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};

use crate::config::values::Period;
use crate::control::{self, AgentState, Answer, JobState, Question, RunState};
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// A pause longer than this is a backup forgotten.
const PAUSE_MS_MAX: u64 = 24 * 3_600_000;

/// Ask the running agent what it does, or tell it what to do
///
/// The agent is `lifeboat run`. It is asked by a socket in the state folder, which only the user
/// that it runs as, and root, may use. Every other command works without it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What runs, how far it is, and what runs next
    Status {
        /// Tell it again whenever it changes, until a signal comes or the agent ends
        #[arg(long)]
        follow: bool,
    },
    /// Run a job now, whatever its schedule says
    Run {
        /// Its name, as `agent status` lists it: backup-superchat
        job: String,
    },
    /// Ask a run to end
    Stop {
        /// Its name, as `agent status` lists it
        run: String,
    },
    /// Read the configuration anew, if it is right
    Reload,
    /// Let runs end, then end
    Drain,
    /// Begin nothing by itself for a time; what is missed meanwhile is caught up
    Pause {
        /// How long, a day at most. A restart of the agent ends it, too
        #[arg(long = "for", value_name = "TIME", default_value = "1h")]
        time: Period,
    },
    /// End a pause
    Resume,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let question = match args.action {
        Action::Status { follow: false } => return status(session),
        Action::Status { follow: true } => return follow(session),
        Action::Run { job } => Question::Run { job },
        Action::Stop { run } => Question::Stop { run },
        Action::Reload => Question::Reload,
        Action::Drain => Question::Drain,
        Action::Pause { time } if time.milliseconds > PAUSE_MS_MAX => {
            return Err(Error::new(Kind::Usage, "a pause is no longer than a day")
                .hint("to stop for good, stop the service"));
        }
        Action::Pause { time } => Question::Pause { for_ms: time.milliseconds },
        Action::Resume => Question::Resume,
    };
    let path = control::path(session).ok_or_else(nobody)?;
    match control::ask(&path, &question)?.ok_or_else(nobody)? {
        Answer::Done(what) if session.printer.json() => {
            session.printer.json_data(&serde_json::json!({ "outcome": "done", "what": what }))?;
        }
        Answer::Done(what) => session.printer.note(&units::one_line(&what)),
        Answer::Refused(why) => return Err(Error::new(Kind::Refused, why)),
        Answer::State(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn nobody() -> Error {
    Error::new(Kind::Failed, "no agent runs here")
        .hint("`lifeboat run` is one; it is asked as the user that it runs as, or as root")
}

fn status(session: &Session) -> Result<ExitCode> {
    let path = control::path(session).ok_or_else(nobody)?;
    let state = control::state(&path)?.ok_or_else(nobody)?;
    match session.printer.json() {
        true => session.printer.json_data(&state)?,
        false => print(session, &state)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn follow(session: &Session) -> Result<ExitCode> {
    let path = control::path(session).ok_or_else(nobody)?;
    let mut printed = Ok(());
    let mut last = String::new();
    let runs = control::watch(&path, |state| {
        let line = match session.printer.json() {
            true => serde_json::json!(state).to_string(),
            false => {
                let lines: Vec<String> =
                    state.runs.iter().filter(|run| run.ended.is_none()).map(line).collect();
                if lines.is_empty() { "nothing runs".to_owned() } else { lines.join("; ") }
            }
        };
        if line != last {
            printed = session.printer.data(&format!("{line}\n"));
            last = line;
        }
        printed.is_ok()
    })?;
    printed?;
    match runs {
        true => Ok(ExitCode::SUCCESS),
        false => Err(nobody()),
    }
}

/// A run that goes on, in a line.
pub(crate) fn line(run: &RunState) -> String {
    let told = &run.told;
    let mut line = units::one_line(&run.id);
    if !told.phase.is_empty() {
        line.push_str(&format!(": {} {}", told.phase, units::one_line(&told.subject)));
    }
    if told.bytes_done > 0 {
        line.push_str(&format!(", {}", units::bytes(told.bytes_done)));
    }
    if let Some(total) = told.bytes_total {
        line.push_str(&format!(" of {}", units::bytes(total)));
    }
    if let Some(speed) = units::speed(told.bytes_done, told.elapsed_ms) {
        line.push_str(&format!(", {speed}"));
    }
    if let Some(left_ms) = told.left_ms {
        line.push_str(&format!(", {} left", units::duration(left_ms)));
    }
    line
}

fn print(session: &Session, state: &AgentState) -> Result<()> {
    let zone = &session.surroundings.time_zone;
    let mut text = format!(
        "process {}, since {}{}\n",
        state.pid,
        units::moment(state.begun_at, zone),
        if state.is_ending { ", ending" } else { "" },
    );
    if let Some(until) = state.paused_until {
        text.push_str(&format!("paused until {}\n", units::moment(until, zone)));
    }
    for run in state.runs.iter().filter(|run| run.ended.is_none()) {
        text.push_str(&format!("runs: {}\n", line(run)));
    }
    for (name, is_running) in &state.lasting {
        let word = if *is_running { "runs" } else { "is begun anew" };
        text.push_str(&format!("all the time: {} {word}\n", units::one_line(name)));
    }
    session.printer.data(&text)?;
    let columns =
        [("job", Align::Left), ("next", Align::Left), ("last", Align::Left), ("at", Align::Left)];
    let mut table = Table::new(&columns);
    for job in &state.jobs {
        let next = job.next.map(|next| units::moment(next, zone)).unwrap_or_default();
        let at = job.last.as_ref().map(|last| units::moment(last.ended_at, zone));
        table.row(vec![
            (units::one_line(&job.name), None),
            (if job.is_running { "runs now".to_owned() } else { next }, None),
            last(job),
            (at.unwrap_or_default(), None),
        ]);
    }
    session.printer.data(&table.to_text(&session.printer))
}

fn last(job: &JobState) -> (String, Option<Style>) {
    match &job.last {
        None => ("never".to_owned(), None),
        Some(last) if last.outcome == "failed" => {
            let why = last.error.as_deref().unwrap_or_default();
            (format!("failed: {}", units::one_line(why)), Some(Style::Bad))
        }
        Some(last) => (last.outcome.clone(), None),
    }
}
