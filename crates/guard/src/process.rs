//! The child: `lifeboat guard --caller`, which speaks one line of JSON when the backup is there and
//! one when it has judged what became of the database, and hears one word in between.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::Guard;

/// What failed, and what mends it.
pub(crate) type Why = (String, Option<String>);

pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Reads what it says on standard error, so that it never waits for us.
    errors: Option<JoinHandle<String>>,
}

impl Process {
    pub(crate) fn start(guard: &Guard) -> Result<Process, Why> {
        let program = guard.program.display();
        let mut child = Command::new(&guard.program)
            .args(&guard.globals)
            .args(["--json", "guard", "--caller"])
            .args(&guard.options)
            .arg(&guard.database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let hint = "install lifeboat, or name its file with `Guard::program`".to_owned();
                (format!("cannot run {program}: {error}"), Some(hint))
            })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(mut errors)) = pipes else {
            return Err((format!("{program} has no pipes"), None));
        };
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read until then is all that there is to tell.
            let _ = errors.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let output = BufReader::new(output);
        Ok(Process { child, input: Some(input), output, errors: Some(errors) })
    }

    /// The next line that it says; `None` at its end.
    pub(crate) fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Says one word. Whether it could be said.
    pub(crate) fn tell(&mut self, word: &str) -> bool {
        let input = self.input.take();
        input.is_some_and(|mut input| input.write_all(format!("{word}\n").as_bytes()).is_ok())
    }

    /// Waits for its end. Whether it says success.
    pub(crate) fn ended_well(&mut self) -> bool {
        self.input = None;
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Why it ended, in its own words.
    pub(crate) fn why(&mut self) -> Why {
        self.input = None;
        let status = self.child.wait();
        let said = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        let lines = said.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let error = lines.into_iter().find(|line| line["type"] == "error");
        match error {
            Some(error) => {
                let part = |value: &Value| value.as_str().map(str::to_owned);
                let causes = error["causes"].as_array().into_iter().flatten().filter_map(part);
                let message = part(&error["message"]).into_iter().chain(causes);
                (message.collect::<Vec<_>>().join(": "), part(&error["hint"]))
            }
            None => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                (format!("lifeboat ended with {status}"), None)
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input says that nobody will tell it how the work went.
        self.input = None;
        let _ = self.child.wait();
    }
}
