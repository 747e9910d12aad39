//! The agent's socket: what can be asked of it, and how it is asked.
//!
//! A socket in the state folder that only its owner may use. A question is one line of JSON; so is
//! the answer, or one line after the other where the question is `watch`. Whoever is asked knows
//! by the kernel who asks. Where no agent runs there is nobody to ask, which is no failure: every
//! command works without.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use lifeboat_core::{Error, Kind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::session::Session;

/// How long an answer may take: the agent answers between two looks.
const ANSWER: Duration = Duration::from_secs(10);
/// What an agent says at most, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// The longest path that an address of a socket can have.
const PATH_BYTES_MAX: usize = 107;
/// So many lines of a run are kept.
const LINES_MAX: usize = 200;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub(crate) enum Question {
    /// What it does.
    State,
    /// The same, again and again, as it changes.
    Watch,
    /// To run a job now.
    Run {
        /// The job's name.
        job: String,
    },
    /// To ask a run to end.
    Stop {
        /// Its id.
        run: String,
    },
    /// To read the configuration anew.
    Reload,
    /// To let runs end, and then to end.
    Drain,
    /// To begin nothing of itself for a time.
    Pause {
        /// How long, in milliseconds.
        for_ms: u64,
    },
    /// To go on.
    Resume,
    /// To restore: `lifeboat restore` with those arguments.
    Restore {
        /// Behind the verb.
        arguments: Vec<String>,
        /// For people: "app to /tmp/app.db".
        title: String,
        /// Who asks, where that is not who runs the agent.
        by: String,
    },
}

/// What it does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AgentState {
    /// Its process.
    pub(crate) pid: u32,
    /// The version of its program.
    pub(crate) version: String,
    /// When it began.
    pub(crate) begun_at: Timestamp,
    /// It was told to end, and waits for its runs.
    pub(crate) is_ending: bool,
    /// It begins nothing before that moment.
    pub(crate) paused_until: Option<Timestamp>,
    /// How many runs have ended since it began.
    pub(crate) ended: u64,
    /// What runs, and what was asked for and has ended.
    pub(crate) runs: Vec<RunState>,
    /// What is scheduled.
    pub(crate) jobs: Vec<JobState>,
    /// What runs all the time, and whether it does.
    pub(crate) lasting: Vec<(String, bool)>,
}

/// A job of the schedules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobState {
    /// Its name.
    pub(crate) name: String,
    /// When it runs next.
    pub(crate) next: Option<Timestamp>,
    /// Whether it runs.
    pub(crate) is_running: bool,
    /// Whether its last run failed.
    pub(crate) is_failing: bool,
    /// How its last run ended.
    pub(crate) last: Option<Ended>,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunState {
    /// By which it is named: that of its job, or one of its own.
    pub(crate) id: String,
    /// What it is, for people.
    pub(crate) title: String,
    /// Who asked for it, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// When it began.
    pub(crate) begun_at: Timestamp,
    /// What it told so far.
    pub(crate) told: Told,
    /// How it ended, where it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Ended>,
    /// What it printed at its end.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) result: Value,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// When it began.
    pub(crate) begun_at: Timestamp,
    /// When it ended.
    pub(crate) ended_at: Timestamp,
    /// "done", "absent" or "failed".
    pub(crate) outcome: String,
    /// Its exit code; none where a signal ended it.
    pub(crate) exit_code: Option<i32>,
    /// What it said of its failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What a run told while it went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Of what the last phase is: a source or a backup.
    pub(crate) subject: String,
    /// What is being done: "reading".
    pub(crate) phase: String,
    /// How far that is.
    pub(crate) bytes_done: u64,
    /// How far it goes, where that is known.
    pub(crate) bytes_total: Option<u64>,
    /// Since when, in milliseconds.
    pub(crate) elapsed_ms: u64,
    /// How long it may still take.
    pub(crate) left_ms: Option<u64>,
    /// Its last lines.
    pub(crate) lines: VecDeque<Line>,
}

/// A line of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// "warning", "error", or "note".
    pub(crate) kind: String,
    /// What it says.
    pub(crate) text: String,
}

impl Told {
    /// One more line; of too many the first is forgotten.
    pub(crate) fn say(&mut self, kind: &str, text: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { kind: kind.to_owned(), text });
    }
}

/// What is answered: what was asked for, or why not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// What it does.
    State(Box<AgentState>),
    /// It is done, or begun; of a run, its id.
    Done(String),
    /// It is not, for that reason.
    Refused(String),
}

/// Where the socket of this user's agent is; `None` where there is no state folder.
pub(crate) fn path(session: &Session) -> Option<PathBuf> {
    Some(session.folders.locks.as_deref()?.parent()?.join("agent/control.sock"))
}

/// An address of a socket, however long its path is. What is given with it must live as long.
pub(crate) fn address(path: &Path) -> rustix::io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(rustix::io::Errno::INVAL);
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let short = Path::new("/proc/self/fd").join(number.to_string()).join(name);
    Ok((SocketAddrUnix::new(&short)?, Some(folder)))
}

/// A socket as the agent and those who ask it use it.
pub(crate) fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Listens at a path, for the owner alone. Nobody else does: a socket that is there was left.
pub(crate) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let (address, _folder) = address(path)?;
    let socket = socket()?;
    // Before it has a name, so that nobody ever finds it open.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(UnixListener::from(socket))
}

/// The way to a running agent; `None` where none runs.
fn connect(path: &Path) -> Result<Option<UnixStream>> {
    let failed = |errno: rustix::io::Errno| {
        let message = format!("cannot ask the agent by {}", path.display());
        Error::io(Kind::Failed, message, errno.into())
    };
    let (address, _folder) = match address(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        address => address.map_err(failed)?,
    };
    let socket = socket().map_err(failed)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok(Some(UnixStream::from(socket))),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

/// Asks the agent. `None` where none runs.
pub(crate) fn ask(path: &Path, question: &Question) -> Result<Option<Answer>> {
    let Some(mut stream) = connect(path)? else { return Ok(None) };
    let failed = |error| Error::io(Kind::Failed, "the agent does not answer", error);
    stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    let mut lines = put(&mut stream, question).map_err(failed)?;
    match next(&mut lines).map_err(failed)? {
        Some(answer) => Ok(Some(answer)),
        None => Err(Error::new(Kind::Failed, "the agent ended before it answered")
            .hint("ask again: lifeboat agent status")),
    }
}

/// What the agent does; `None` where none runs.
pub(crate) fn state(path: &Path) -> Result<Option<AgentState>> {
    match ask(path, &Question::State)? {
        None => Ok(None),
        Some(Answer::State(state)) => Ok(Some(*state)),
        Some(_) => Err(Error::new(Kind::Failed, "the agent says something else than was asked")
            .hint("it may be of another version: restart it")),
    }
}

/// Tells `each` what the agent does, whenever that changes, until it says `false` or the agent
/// ends. `false` where none runs.
pub(crate) fn watch(path: &Path, mut each: impl FnMut(AgentState) -> bool) -> Result<bool> {
    let Some(mut stream) = connect(path)? else { return Ok(false) };
    let failed = |error| Error::io(Kind::Failed, "the agent does not answer", error);
    // The agent says something at least that often, also where nothing changed.
    stream.set_read_timeout(Some(3 * HEARTBEAT)).map_err(failed)?;
    let mut lines = put(&mut stream, &Question::Watch).map_err(failed)?;
    while let Some(answer) = next(&mut lines).map_err(failed)? {
        if let Answer::State(state) = answer
            && !each(*state)
        {
            break;
        }
    }
    Ok(true)
}

/// So often who watches is told something.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

fn put(
    stream: &mut UnixStream,
    question: &Question,
) -> std::io::Result<BufReader<impl Read + use<>>> {
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(BufReader::new(stream.try_clone()?))
}

fn next(lines: &mut impl BufRead) -> std::io::Result<Option<Answer>> {
    let mut line = Vec::new();
    lines.take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.is_empty() {
        true => Ok(None),
        false => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_lines_that_can_be_typed() {
        let run: Question = serde_json::from_str(r#"{"ask":"run","job":"backup-app"}"#).unwrap();
        assert_eq!(run, Question::Run { job: "backup-app".to_owned() });
        let text = serde_json::to_string(&Question::Pause { for_ms: 7 }).unwrap();
        assert_eq!(text, r#"{"ask":"pause","for_ms":7}"#);
    }

    #[test]
    fn a_long_path_has_an_address_and_a_missing_folder_is_told() {
        let folder = std::env::temp_dir().join("x".repeat(PATH_BYTES_MAX));
        assert_eq!(address(&folder.join("s")).unwrap_err(), rustix::io::Errno::NOENT);
        assert!(address(Path::new("/a/s")).unwrap().1.is_none());
        assert!(state(&folder.join("s")).unwrap().is_none());
    }

    #[test]
    fn the_first_lines_are_forgotten() {
        let mut told = Told::default();
        (0..LINES_MAX + 5).for_each(|number| told.say("note", number.to_string()));
        assert_eq!((told.lines.len(), told.lines[0].text.as_str()), (LINES_MAX, "5"));
    }
}
