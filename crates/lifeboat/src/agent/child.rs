//! The process that runs a job: what it says, whether it gets on, how it ends.
//!
//! It speaks JSON lines. Its warnings are passed on, the last error is kept; of what hooks and
//! other programs say, passwords in URLs are not. It gets on while the
//! bytes that it tells of grow, or while it and what it began use the processor.

use std::io::{BufReader, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use super::control::Bell;
use super::scheduler::Outcome;
use super::{PARENT, systemd};
use crate::control::Told;
use crate::hooks::next_line;
use crate::ui::Printer;
use crate::ui::units;
use crate::web::hidden_line;

/// A process that uses less of a processor than this, in percent, may only be waiting.
const BUSY_PERCENT: u64 = 2;
/// Ticks of the processor in a second, as Linux tells them to everybody.
const TICKS_PER_S: u64 = 100;
/// What a run prints at its end is smaller.
const RESULT_BYTES_MAX: u64 = 4 << 20;

/// What a run says, and who is to know that it said something.
pub(super) struct Ears {
    /// Where warnings go.
    pub(super) printer: Arc<Printer>,
    /// Who watches.
    pub(super) bell: Arc<Bell>,
    /// Whether what it prints is kept.
    pub(super) result: bool,
}

/// A run of a job.
pub(super) struct Run {
    child: Child,
    heard: Arc<Mutex<Heard>>,
    /// What was known at the last look: bytes and phases, ticks, when.
    seen: (u64, u64, u64),
}

/// What it said.
#[derive(Default)]
struct Heard {
    error: Option<String>,
    /// Grows with each piece of progress.
    progress: u64,
    told: Told,
    /// What it printed.
    result: Value,
    /// How many of its streams go on.
    streams: u32,
}

/// Starts a process in a group of its own, that ends with us and does not speak for us.
pub(super) fn spawn(command: &mut Command) -> std::io::Result<Child> {
    for name in systemd::VARIABLES {
        command.env_remove(name);
    }
    command.env(PARENT, std::process::id().to_string()).process_group(0).spawn()
}

impl Run {
    /// Begins it.
    pub(super) fn begin(
        words: &[String],
        subject: &str,
        ears: &Ears,
        now_ms: u64,
    ) -> std::io::Result<Self> {
        let mut command = Command::new(&words[0]);
        let out = if ears.result { Stdio::piped() } else { Stdio::null() };
        command.args(&words[1..]).stdin(Stdio::null()).stdout(out);
        let mut child = spawn(command.stderr(Stdio::piped()))?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        // Not joined: who inherited a pipe may hold it open for ever.
        if let Some(stream) = child.stderr.take() {
            let listener = Listener {
                heard: Arc::clone(&heard),
                printer: Arc::clone(&ears.printer),
                bell: Arc::clone(&ears.bell),
                subject: subject.to_owned(),
            };
            lock(&heard).streams += 1;
            std::thread::spawn(move || listener.listen(stream));
        }
        if let Some(stream) = child.stdout.take() {
            let heard = Arc::clone(&heard);
            lock(&heard).streams += 1;
            std::thread::spawn(move || take_result(stream, &heard));
        }
        Ok(Run { child, heard, seen: (0, 0, now_ms) })
    }

    /// What it told so far.
    pub(super) fn told(&self) -> Told {
        lock(&self.heard).told.clone()
    }

    /// What it printed at its end.
    pub(super) fn take_result(&self) -> Value {
        lock(&self.heard).result.take()
    }

    /// How it ended, if it has: the outcome, its code, what it said of its failure.
    pub(super) fn ended(&mut self) -> Option<(Outcome, Option<i32>, Option<String>)> {
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status,
            Err(error) => {
                let failed = Outcome::Failed { may_pass: true };
                return Some((failed, None, Some(error.to_string())));
            }
        };
        let outcome = outcome(status);
        let mut heard = lock(&self.heard);
        let error = match outcome {
            Outcome::Failed { .. } => {
                Some(heard.error.take().unwrap_or_else(|| format!("it ended with {status}")))
            }
            Outcome::Done | Outcome::Absent => None,
        };
        Some((outcome, status.code(), error))
    }

    /// Whether it has ended.
    pub(super) fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether what it had to say was heard; a moment after its end at the latest.
    pub(super) fn is_heard(&self) -> bool {
        lock(&self.heard).streams == 0
    }

    /// Whether it did anything since the last look that said so, or since its beginning.
    pub(super) fn has_got_on(&mut self, now_ms: u64) -> bool {
        let progress = lock(&self.heard).progress;
        let ticks = ticks_of_group(self.child.id());
        let (seen_progress, seen_ticks, seen_ms) = self.seen;
        let passed_ms = now_ms.saturating_sub(seen_ms).max(1);
        let used_ms = ticks.saturating_sub(seen_ticks) * 1000 / TICKS_PER_S;
        self.seen = (progress, ticks, now_ms);
        progress != seen_progress || used_ms * 100 >= passed_ms * BUSY_PERCENT
    }

    /// Asks it to end. What it began is its to end.
    pub(super) fn terminate(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// Kills it and its group.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what a run prints, where that is JSON; reads on whatever it is, so that it never waits.
fn take_result(mut stream: ChildStdout, heard: &Mutex<Heard>) {
    let mut bytes = Vec::new();
    let _ = stream.by_ref().take(RESULT_BYTES_MAX).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    let mut heard = lock(heard);
    heard.result = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    heard.streams -= 1;
}

/// What an exit code says.
fn outcome(status: ExitStatus) -> Outcome {
    match status.code() {
        Some(0) => Outcome::Done,
        Some(75) => Outcome::Absent,
        // Locked, a store or a source that cannot be reached: as `core::retry` has it.
        Some(11 | 13 | 15) => Outcome::Failed { may_pass: true },
        Some(_) => Outcome::Failed { may_pass: false },
        // Somebody killed it, such as a kernel without memory.
        None => Outcome::Failed { may_pass: status.signal().is_some() },
    }
}

struct Listener {
    heard: Arc<Mutex<Heard>>,
    printer: Arc<Printer>,
    bell: Arc<Bell>,
    subject: String,
}

impl Listener {
    fn listen(self, stream: ChildStderr) {
        let mut reader = BufReader::new(stream);
        while let Some(line) = next_line(&mut reader) {
            self.hear(&line);
        }
        lock(&self.heard).streams -= 1;
        self.bell.ring();
    }

    fn hear(&self, line: &str) {
        let said: Value = serde_json::from_str(line).unwrap_or(Value::Null);
        let line_of = |text: &str| hidden_line(&units::one_line(text));
        let text = |key: &str| said[key].as_str().map(line_of).unwrap_or_default();
        let mut heard = lock(&self.heard);
        match said["type"].as_str() {
            Some("progress") => {
                let told = &mut heard.told;
                let (before, is_running) = (told.bytes_done, said["state"] == "running");
                (told.subject, told.phase) = (text("subject"), text("phase"));
                told.bytes_done = said["bytes_done"].as_u64().unwrap_or(0);
                told.bytes_total = said["bytes_total"].as_u64();
                told.elapsed_ms = said["elapsed_ms"].as_u64().unwrap_or(0);
                told.left_ms = said["left_ms"].as_u64();
                if told.bytes_done != before || !is_running {
                    heard.progress += 1;
                }
            }
            Some("error") => {
                let causes = said["causes"].as_array().into_iter().flatten();
                let causes = causes.filter_map(|cause| cause.as_str());
                let causes: String = causes.map(|cause| format!(": {}", line_of(cause))).collect();
                let error = format!("{}{causes}", text("message"));
                heard.told.say("error", error.clone());
                if said["hint"].is_string() {
                    heard.told.say("hint", text("hint"));
                }
                heard.error = Some(error);
            }
            Some("warning") => {
                let subject = match text("subject") {
                    subject if subject.is_empty() => self.subject.clone(),
                    subject => subject,
                };
                self.printer.warning(&subject, &text("message"));
                heard.told.say("warning", format!("{subject}: {}", text("message")));
            }
            Some("backup-committed") => {
                let committed = format!("{} is in the repository", text("name"));
                heard.told.say("note", committed);
            }
            Some("hook") => heard.told.say("note", text("line")),
            Some("detail") => heard.told.say("note", text("message")),
            // What is not ours, such as the words of a program that died.
            None if !line.is_empty() => {
                let line = line_of(line);
                self.printer.detail(&format!("{}: {line}", self.subject));
                heard.told.say("note", line.clone());
                heard.error.get_or_insert(line);
            }
            _ => {}
        }
        drop(heard);
        self.bell.ring();
    }
}

/// The ticks that a group of processes has used; of those that ended and were waited for, too.
fn ticks_of_group(leader: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let mut text = String::new();
        let file = std::fs::File::open(entry.path().join("stat")).ok()?;
        file.take(4096).read_to_string(&mut text).ok()?;
        // The name, in parentheses, may hold anything. Behind it: state, parent, group.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        (number(2)? == u64::from(leader)).then_some(())?;
        // Its own ticks and those of its children.
        (11..=14).map(number).sum::<Option<u64>>()
    };
    entries.filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_uses_ticks_and_what_waits_does_not() {
        let mut busy = Command::new("sh");
        let busy = spawn(busy.args(["-c", "while :; do :; done"])).unwrap();
        let mut idle = Command::new("sleep");
        let idle = spawn(idle.arg("60")).unwrap();
        let mut children = [busy, idle];
        while ticks_of_group(children[0].id()) < 20 {
            std::thread::yield_now();
        }
        assert!(ticks_of_group(children[1].id()) < 10);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn codes_are_outcomes() {
        let of = |code: i32| outcome(ExitStatus::from_raw(code << 8));
        assert_eq!(of(0), Outcome::Done);
        assert_eq!(of(75), Outcome::Absent);
        assert_eq!(of(13), Outcome::Failed { may_pass: true });
        assert_eq!(of(20), Outcome::Failed { may_pass: false });
        assert_eq!(outcome(ExitStatus::from_raw(9)), Outcome::Failed { may_pass: true });
    }
}
