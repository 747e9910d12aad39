//! Hooks: commands of the configuration that are run around backups.
//!
//! Each runs in a process group of its own, with a limit of its time, after which the whole group
//! is killed. What it prints is not trusted: it goes line by line to standard error, bounded, and
//! with control characters escaped; never to standard output, which is for results. A hook that
//! leaves a process behind in the background does not hold us up.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::json;

use crate::config::runs::HooksConfig;
use crate::session::Session;
use crate::ui::{Printer, report, units};

const TIMEOUT_MS: u64 = 60_000;
/// Between SIGTERM and SIGKILL for a hook that took too long.
const GRACE_MS: u64 = 2_000;
/// How long the end of the output is waited for, when the hook itself has ended.
const OUTPUT_END: Duration = Duration::from_millis(500);
/// Lines of one hook that are shown.
const LINES_MAX: usize = 200;
/// Bytes of a line that are shown.
const LINE_BYTES_MAX: u64 = 1_000;
/// Last lines that an error repeats.
const LINES_IN_ERROR: usize = 5;
/// Bytes of a variable: a kernel refuses a program with a longer one.
const VARIABLE_BYTES_MAX: usize = 16_000;

/// Every variable that hooks can have. What is not set for a hook is removed, so that none sees
/// that of another.
const VARIABLES: &[&str] = &[
    "LIFEBOAT_HOOK",
    "LIFEBOAT_COMMAND",
    "LIFEBOAT_SOURCE",
    "LIFEBOAT_REPOSITORY",
    "LIFEBOAT_OUTCOME",
    "LIFEBOAT_BACKUP",
    "LIFEBOAT_STORED_BYTES",
    "LIFEBOAT_PLAIN_BYTES",
    "LIFEBOAT_ERROR",
    "LIFEBOAT_KIND",
    "LIFEBOAT_EXIT_CODE",
];

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before.
    Before,
    /// After, whatever happened.
    After,
    /// After a failure.
    OnFailure,
}

impl Phase {
    const ALL: [Phase; 3] = [Phase::Before, Phase::After, Phase::OnFailure];

    fn word(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::After => "after",
            Phase::OnFailure => "on-failure",
        }
    }
}

/// The hooks of a source, or of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    before: Vec<Vec<String>>,
    after: Vec<Vec<String>>,
    on_failure: Vec<Vec<String>>,
    timeout_ms: u64,
}

/// The variables of a hook.
pub(crate) type Variables = Vec<(&'static str, String)>;

/// What an error adds to the variables.
pub(crate) fn variables_of(error: &Error) -> Variables {
    let causes: String = report::causes(error).iter().map(|cause| format!(": {cause}")).collect();
    vec![
        ("LIFEBOAT_OUTCOME", "failed".to_owned()),
        ("LIFEBOAT_ERROR", format!("{error}{causes}")),
        ("LIFEBOAT_KIND", report::kind_name(error.kind())),
        ("LIFEBOAT_EXIT_CODE", error.kind().exit_code().to_string()),
    ]
}

impl Hooks {
    /// As they are configured.
    pub(crate) fn of(config: Option<&HooksConfig>) -> Hooks {
        let Some(config) = config else { return Hooks::default() };
        let each = |commands: &Option<_>| {
            commands.as_ref().map(crate::config::runs::Commands::each).unwrap_or_default()
        };
        Hooks {
            before: each(&config.before),
            after: each(&config.after),
            on_failure: each(&config.on_failure),
            timeout_ms: config.timeout.map_or(TIMEOUT_MS, |timeout| timeout.0.milliseconds),
        }
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        Phase::ALL.iter().all(|phase| self.commands(*phase).is_empty())
    }

    fn commands(&self, phase: Phase) -> &[Vec<String>] {
        match phase {
            Phase::Before => &self.before,
            Phase::After => &self.after,
            Phase::OnFailure => &self.on_failure,
        }
    }

    /// The commands of a phase for people, a line each.
    pub(crate) fn lines(&self, phase: Phase) -> Vec<String> {
        let line = |command: &Vec<String>| match phase {
            Phase::Before => format!("run before: {}", shown(command)),
            Phase::After => format!("run after: {}", shown(command)),
            Phase::OnFailure => format!("run after a failure: {}", shown(command)),
        };
        self.commands(phase).iter().map(line).collect()
    }

    /// Puts them around the steps of a plan.
    pub(crate) fn surround(&self, steps: &mut Vec<String>) {
        steps.splice(0..0, self.lines(Phase::Before));
        steps.extend(self.lines(Phase::After));
        steps.extend(self.lines(Phase::OnFailure));
    }

    /// Runs the commands of a phase, up to the first that fails. `subject` is the source, or what
    /// stands for the run.
    pub(crate) fn run(
        &self,
        session: &Session,
        env: &Env,
        phase: Phase,
        subject: &str,
        variables: &Variables,
    ) -> Result<()> {
        for command in self.commands(phase) {
            session.progress.clear();
            let hook = Hook { session, env, phase, subject, command, timeout_ms: self.timeout_ms };
            hook.run(variables)?;
        }
        Ok(())
    }
}

/// One command.
struct Hook<'a> {
    session: &'a Session,
    env: &'a Env,
    phase: Phase,
    subject: &'a str,
    command: &'a [String],
    timeout_ms: u64,
}

impl Hook<'_> {
    fn run(&self, variables: &Variables) -> Result<()> {
        let detail = format!("hook {} of {}: {}", self.phase.word(), self.subject, self.shown());
        self.session.printer.detail(&detail);
        let mut child = self.spawn(variables)?;
        let output = Output::of(&mut child, self);
        let status = self.wait(&mut child);
        output.end();
        let why = match status? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => format!("ended with {status}"),
            None => format!("took longer than {}", units::duration(self.timeout_ms)),
        };
        let error = self.failed(&format!("`{}` {why}", self.shown()));
        Err(match output.last_lines() {
            lines if lines.is_empty() => error,
            lines => error.caused_by(lines),
        })
    }

    fn shown(&self) -> String {
        shown(self.command)
    }

    fn failed(&self, why: &str) -> Error {
        let message = format!("the hook `{}` of {} failed: {why}", self.phase.word(), self.subject);
        Error::new(Kind::Failed, message)
            .hint("mend the command in the configuration; --no-hooks does without")
    }

    fn spawn(&self, variables: &Variables) -> Result<Child> {
        let (program, arguments) = self.command.split_first().ok_or_else(|| {
            Error::new(Kind::Usage, format!("a hook of {} is empty", self.subject))
        })?;
        let mut command = Command::new(program);
        command.args(arguments);
        for name in VARIABLES {
            command.env_remove(name);
        }
        command.env("LIFEBOAT_HOOK", self.phase.word());
        for (name, value) in variables {
            debug_assert!(VARIABLES.contains(name), "{name} is missing in VARIABLES");
            command.env(name, plain(value));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).spawn().map_err(|error| {
            self.failed(&format!("cannot run `{}`", self.shown())).caused_by(error)
        })
    }

    /// How it ended; `None` if it was killed at its limit. Where the run itself must end, it is
    /// killed too, and the reason is the error.
    fn wait(&self, child: &mut Child) -> Result<Option<ExitStatus>> {
        let begun_ms = self.env.clock.monotonic_ms();
        loop {
            let waited = child.try_wait();
            if let Some(status) = waited.map_err(|error| self.failed("").caused_by(error))? {
                return Ok(Some(status));
            }
            if let Err(error) = self.env.proceed() {
                self.kill(child);
                let hook = format!("the hook `{}` of {}", self.phase.word(), self.subject);
                return Err(error.context(format!("{hook} was killed")));
            }
            if self.env.elapsed_ms(begun_ms) >= self.timeout_ms {
                self.kill(child);
                return Ok(None);
            }
            self.env.clock.sleep_ms(10);
        }
    }

    /// Ends its whole process group: politely first, then not.
    fn kill(&self, child: &mut Child) {
        // Until it is waited for, nobody else can get its number.
        let group = Pid::from_child(child);
        let _ = kill_process_group(group, Signal::TERM);
        let begun_ms = self.env.clock.monotonic_ms();
        let looks = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while self.env.elapsed_ms(begun_ms) < GRACE_MS
            && matches!(waitid(WaitId::Pid(group), looks), Ok(None))
        {
            self.env.clock.sleep_ms(10);
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait();
    }
}

/// What a hook prints, read by two threads.
struct Output {
    ended: Receiver<()>,
    last: Arc<Mutex<Vec<String>>>,
}

impl Output {
    fn of(child: &mut Child, hook: &Hook<'_>) -> Output {
        let (sender, ended) = channel();
        let last = Arc::new(Mutex::new(Vec::new()));
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let lines = Lines {
                printer: Arc::clone(&hook.session.printer),
                phase: hook.phase.word(),
                subject: hook.subject.to_owned(),
                last: Arc::clone(&last),
                ended: sender.clone(),
            };
            // Not joined: who inherited the pipe may hold it open for ever.
            std::thread::spawn(move || lines.read(stream));
        }
        Output { ended, last }
    }

    /// Waits for the end of both streams, for a moment.
    fn end(&self) {
        for _ in 0..2 {
            let _ = self.ended.recv_timeout(OUTPUT_END);
        }
    }

    fn last_lines(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

struct Lines {
    printer: Arc<Printer>,
    phase: &'static str,
    subject: String,
    last: Arc<Mutex<Vec<String>>>,
    ended: Sender<()>,
}

impl Lines {
    fn read(self, stream: Box<dyn Read + Send>) {
        let mut reader = BufReader::new(stream);
        let mut count: usize = 0;
        while let Some(line) = next_line(&mut reader) {
            count += 1;
            let line = units::one_line(&line);
            match count {
                count if count <= LINES_MAX => self.say(&line),
                count if count == LINES_MAX + 1 => self.say("... (more lines are left out)"),
                _ => {}
            }
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LINES_IN_ERROR {
                last.remove(0);
            }
            last.push(line);
        }
        let _ = self.ended.send(());
    }

    fn say(&self, line: &str) {
        match self.printer.json() {
            true => self.printer.json_line(&json!({
                "type": "hook", "hook": self.phase, "subject": self.subject, "line": line,
            })),
            false => self.printer.note(&format!("[{} {}] {line}", self.subject, self.phase)),
        }
    }
}

/// The next line without its end, of a bounded length; what is beyond is read and left out.
pub(crate) fn next_line(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
    if line.is_empty() {
        return None;
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LINE_BYTES_MAX {
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut piece).ok()?;
            if read == 0 || piece.last() == Some(&b'\n') {
                break;
            }
        }
        line.extend_from_slice(b"...");
    }
    Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
}

/// A command for people: what stands in the configuration.
fn shown(command: &[String]) -> String {
    let text = match command {
        [shell, option, text] if shell == "/bin/sh" && option == "-c" => text.clone(),
        words => {
            let words: Vec<String> = words.iter().map(|word| units::shell_word(word)).collect();
            words.join(" ")
        }
    };
    units::one_line(&text)
}

/// A value that every kernel takes.
fn plain(value: &str) -> String {
    let mut end = value.len().min(VARIABLE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_the_next_one_is_whole() {
        let long = "x".repeat(5_000);
        let mut reader = std::io::Cursor::new(format!("{long}\nshort\r\n\nlast"));
        let first = next_line(&mut reader).unwrap();
        assert_eq!(first.len(), LINE_BYTES_MAX as usize + 3);
        assert_eq!(next_line(&mut reader).as_deref(), Some("short"));
        assert_eq!(next_line(&mut reader).as_deref(), Some(""));
        assert_eq!(next_line(&mut reader).as_deref(), Some("last"));
        assert_eq!(next_line(&mut reader), None);
    }

    #[test]
    fn variables_are_ones_that_a_kernel_takes() {
        assert_eq!(plain("a\0b"), "ab");
        assert!(plain(&"é".repeat(20_000)).len() <= VARIABLE_BYTES_MAX);
    }
}
