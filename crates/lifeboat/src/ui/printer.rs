//! The one way out: data to standard output, all else to standard error.
//!
//! A reader who goes away ends our printing, not our run, and never the truth of the exit code.
//! An error of standard output other than that fails the run: a result that nobody got is not
//! a success.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::{Error, Kind, Result};
use serde::Serialize;

use crate::world::Surroundings;

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Warnings and errors.
    Quiet,
    /// What was done as well.
    Default,
    /// How it was done as well.
    Verbose,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The colours that a text can have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// Errors.
    Bad,
    /// Warnings.
    Doubtful,
    /// Success.
    Good,
    /// Headings and hints.
    Strong,
    /// What matters less.
    Faint,
}

/// Prints.
pub(crate) struct Printer {
    level: Level,
    json: bool,
    color_out: bool,
    color_err: bool,
    out_gone: AtomicBool,
}

impl Printer {
    /// A printer as the command line asks for it.
    pub(crate) fn new(
        surroundings: &Surroundings,
        level: Level,
        color: ColorChoice,
        json: bool,
    ) -> Self {
        let dumb = surroundings.variable("TERM").is_some_and(|term| term == "dumb");
        let wanted = surroundings.variable("NO_COLOR").is_none() && !dumb;
        let decide = |is_terminal: bool| match color {
            ColorChoice::Auto => is_terminal && wanted,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Printer {
            level,
            json,
            color_out: decide(surroundings.stdout_is_terminal) && !json,
            color_err: decide(surroundings.stderr_is_terminal) && !json,
            out_gone: AtomicBool::new(false),
        }
    }

    /// Whether results are JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether that much is said.
    pub(crate) fn says(&self, level: Level) -> bool {
        level <= self.level
    }

    /// A text in that style, for standard output.
    pub(crate) fn paint_out(&self, style: Style, text: &str) -> String {
        paint(self.color_out, style, text)
    }

    /// A text in that style, for standard error.
    pub(crate) fn paint_err(&self, style: Style, text: &str) -> String {
        paint(self.color_err, style, text)
    }

    /// Writes a result as it is to standard output.
    pub(crate) fn data(&self, text: &str) -> Result<()> {
        self.raw(text.as_bytes())
    }

    /// Writes a result as pretty JSON to standard output.
    pub(crate) fn json_data(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| {
            Error::new(Kind::Failed, "cannot write the result as JSON").caused_by(error)
        })?;
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Writes bytes to standard output.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<()> {
        if self.out_gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.out_gone.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Error::io(Kind::Failed, "cannot write to standard output", error)),
        }
    }

    /// Says what was done: one or more lines on standard error, unless quiet.
    pub(crate) fn note(&self, text: &str) {
        if self.says(Level::Default) && !self.json {
            self.line(text);
        }
    }

    /// Says how it was done, with `--verbose`.
    pub(crate) fn detail(&self, text: &str) {
        if self.says(Level::Verbose) {
            match self.json {
                true => self.json_line(&serde_json::json!({ "type": "detail", "message": text })),
                false => self.line(&self.paint_err(Style::Faint, text)),
            }
        }
    }

    /// Warns, also when quiet.
    pub(crate) fn warning(&self, subject: &str, message: &str) {
        if self.json {
            let warning = serde_json::json!({
                "type": "warning", "subject": subject, "message": message,
            });
            return self.json_line(&warning);
        }
        let mark = self.paint_err(Style::Doubtful, "warning:");
        match subject.is_empty() {
            true => self.line(&format!("{mark} {message}")),
            false => self.line(&format!("{mark} {subject}: {message}")),
        }
    }

    /// One JSON object on a line of standard error.
    pub(crate) fn json_line(&self, value: &serde_json::Value) {
        self.line(&value.to_string());
    }

    /// A line on standard error. That nobody can read it is not worth failing for.
    pub(crate) fn line(&self, text: &str) {
        let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
    }

    /// The beginning of a line on standard error, where an answer follows.
    pub(crate) fn prompt(&self, text: &str) {
        let mut err = io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

fn paint(color: bool, style: Style, text: &str) -> String {
    let code = match style {
        _ if !color => return text.to_owned(),
        Style::Bad => "1;31",
        Style::Doubtful => "1;33",
        Style::Good => "32",
        Style::Strong => "1",
        Style::Faint => "2",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}
