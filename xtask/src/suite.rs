//! All tests: built once, then their programs are run side by side.
//!
//! Cargo runs one program of tests after the other, and half of a test's time is waiting: for
//! servers that start, for moments that must pass. So the largest program, that of the real program
//! `lifeboat`, runs on a lane of its own, and all others beside it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{run, shown};
use crate::root;

/// For so long salvage is given databases that were damaged in ways that nobody thought of.
const FUZZ_S: u64 = 20;
/// The package whose tests take longer than all others together.
const LARGEST: &str = "lifeboat";
/// For so long nothing may come from a program that has ended, until it is at its end.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// What begins a line that names a test which could not run here.
const SKIPPED: &str = "SKIPPED";

/// A program of tests.
struct Program {
    /// The package, and the name of the program in it.
    name: String,
    path: PathBuf,
    /// Where Cargo would run it: the folder of its package.
    folder: PathBuf,
    package: String,
}

/// What was built.
#[derive(Default)]
pub(crate) struct Built {
    programs: Vec<Program>,
    /// The program itself.
    pub(crate) lifeboat: PathBuf,
}

/// How a program of tests ended.
struct Ended {
    name: String,
    seconds: f64,
    is_good: bool,
    skipped: Vec<String>,
}

/// Runs all tests. Of all that fails it is told, not of the first alone.
pub(crate) fn run_all(built: Built) -> Result<()> {
    let Built { programs, lifeboat } = built;
    let (largest, others): (Vec<Program>, Vec<Program>) =
        programs.into_iter().partition(|program| program.package == LARGEST);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (sender, ended) = channel();
    std::thread::scope(|scope| {
        // Twice as many tests at once as there are cores, and beside them as many as there are.
        for (lane, threads) in [(largest, 2 * cores), (others, cores)] {
            let (sender, lifeboat) = (sender.clone(), &lifeboat);
            scope.spawn(move || {
                for one in lane {
                    let mut command = command(&one, lifeboat, threads);
                    // Whoever waits for it is there until all lanes are at their end.
                    let _ = sender.send(run_one(&one.name, &mut command));
                }
            });
        }
    });
    drop(sender);
    let doc_tests = documents();
    summary(ended.into_iter().collect::<Result<_>>()?)?;
    doc_tests
}

/// Builds all tests, and what they run.
pub(crate) fn build() -> Result<Built> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--locked", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics").current_dir(root());
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(&command)))?;
    let mut built = Built::default();
    let said = child.stdout.take().context("its output is a pipe")?;
    for line in BufReader::new(said).lines() {
        built.add(&line?)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(&command));
    }
    if built.programs.is_empty() || !built.lifeboat.is_absolute() {
        bail!("`{}` told of no tests, or of no program", shown(&command));
    }
    built.programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(built)
}

impl Built {
    /// Takes in what a message of Cargo's tells of, if that is a program.
    fn add(&mut self, line: &str) -> Result<()> {
        let message: Value = serde_json::from_str(line).context("cargo wrote no JSON")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (path, manifest) = (text(&message["executable"]), text(&message["manifest_path"]));
        let (Some(path), Some(manifest)) = (path, manifest) else { return Ok(()) };
        let target = text(&message["target"]["name"]).unwrap_or_default();
        if message["profile"]["test"] != true {
            let kinds = message["target"]["kind"].as_array();
            if target == LARGEST && kinds.is_some_and(|kinds| kinds.contains(&"bin".into())) {
                self.lifeboat = path.into();
            }
            return Ok(());
        }
        let mut folder = PathBuf::from(manifest);
        folder.pop();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_own = target.replace('_', "-").trim_start_matches("lifeboat-") == package;
        let name = if is_own { package.clone() } else { format!("{package}/{target}") };
        self.programs.push(Program { name, path: path.into(), folder, package });
        Ok(())
    }
}

/// How a program of tests is run: as Cargo would, with what else it needs.
fn command(program: &Program, lifeboat: &Path, threads: usize) -> Command {
    let mut command = Command::new(&program.path);
    command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
    command.env("LIFEBOAT_FUZZ_S", FUZZ_S.to_string()).env("LIFEBOAT_PROGRAM", lifeboat);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", threads.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs one to its end. Its lines are told as they come, with its name before them.
fn run_one(name: &str, command: &mut Command) -> Result<Ended> {
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let (sender, lines) = channel();
    let (said, told) = (child.stdout.take(), child.stderr.take());
    for pipe in [said.map(Pipe::from_output), told.map(Pipe::from_errors)].into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || pipe.send_lines(&sender));
    }
    drop(sender);
    let mut skipped = Vec::new();
    let mut status = None;
    loop {
        match lines.recv_timeout(AFTERWARDS) {
            Ok(line) => {
                println!("{name}: {line}");
                // It may stand behind what the harness has begun to say.
                skipped.extend(line.find(SKIPPED).map(|at| format!("{name}: {}", &line[at..])));
            }
            // Something that it left behind may hold its pipes for ever.
            Err(RecvTimeoutError::Timeout) if status.is_some() => break,
            Err(RecvTimeoutError::Timeout) => status = child.try_wait()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = status.map_or_else(|| child.wait(), Ok)?;
    if !status.success() {
        println!("{name}: FAILED ({status})");
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Ended { name: name.to_owned(), seconds, is_good: status.success(), skipped })
}

/// What a program says, on either way.
struct Pipe(Box<dyn Read + Send>);

impl Pipe {
    fn from_output(pipe: ChildStdout) -> Self {
        Pipe(Box::new(pipe))
    }

    fn from_errors(pipe: ChildStderr) -> Self {
        Pipe(Box::new(pipe))
    }

    /// Sends each line, until there are no more.
    fn send_lines(self, to: &Sender<String>) {
        let mut said = BufReader::new(self.0);
        let mut bytes = Vec::new();
        while said.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            if to.send(String::from_utf8_lossy(&bytes).trim_end().to_owned()).is_err() {
                return;
            }
            bytes.clear();
        }
    }
}

/// The examples in the documents of the code, which only Cargo can run.
fn documents() -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--locked", "--quiet", "--doc", "--no-fail-fast"]);
    run(command.current_dir(root()))
}

/// What took how long, what was skipped, and what failed.
fn summary(mut all: Vec<Ended>) -> Result<()> {
    all.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    println!();
    for one in &all {
        let how = if one.is_good { "good" } else { "FAILED" };
        println!("{:>7.1} s  {how:6}  {}", one.seconds, one.name);
    }
    let mut skipped: Vec<&String> = all.iter().flat_map(|one| &one.skipped).collect();
    skipped.sort();
    skipped.dedup();
    for line in skipped {
        println!("{line}");
    }
    let failed: Vec<&str> =
        all.iter().filter(|one| !one.is_good).map(|one| one.name.as_str()).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("tests failed in {}: look for `FAILED` above", failed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tests_are_told_from_what_else_is_built() {
        let mut built = Built::default();
        for (target, is_test, path) in [
            ("sftp", true, "\"/sftp\""),
            ("lifeboat_stores", true, "\"/unit\""),
            ("lifeboat_stores", true, "null"),
            ("lifeboat", false, "\"/lifeboat\""),
        ] {
            let line = format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/here/crates/stores/Cargo.toml",
                "target":{{"name":"{target}","kind":["bin"]}},"profile":{{"test":{is_test}}},
                "executable":{path}}}"#
            );
            built.add(&line).unwrap();
        }
        built.add(r#"{"reason":"build-finished","success":true}"#).unwrap();
        let names: Vec<&str> = built.programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["stores/sftp", "stores"]);
        assert_eq!(built.lifeboat, Path::new("/lifeboat"));
        assert!(built.add("warning: words").is_err());
    }

    #[test]
    fn what_was_skipped_is_found_and_what_is_left_behind_holds_nothing_up() {
        let words = "printf 'test one ... SKIPPED: moto is not installed\\ntest two ... ok\\n' >&2; \
                     sleep 60 & echo $!; exit 3";
        let mut command = Command::new("sh");
        command.args(["-c", words]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = run_one("it", &mut command).unwrap();
        assert_eq!(ended.skipped, ["it: SKIPPED: moto is not installed"]);
        assert!(!ended.is_good && ended.seconds < 50.0);
    }

    #[test]
    fn one_that_failed_is_named_among_all() {
        let ended = |name: &str, is_good| {
            Ok::<_, anyhow::Error>(Ended {
                name: name.into(),
                seconds: 1.0,
                is_good,
                skipped: vec![],
            })
        };
        let all = |second| [ended("one", true), ended("two", second)];
        let of = |second| summary(all(second).into_iter().collect::<Result<_>>().unwrap());
        assert!(of(true).is_ok());
        assert!(of(false).unwrap_err().to_string().contains("failed in two:"));
    }
}
