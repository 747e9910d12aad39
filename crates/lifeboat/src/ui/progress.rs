//! Shows the events of a run while it goes on: a bar on a terminal, a line now and then
//! elsewhere, JSON lines with `--json`. Warnings are shown in every mode.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_core::env::Clock;
use lifeboat_core::event::{Event, Observer};
use serde_json::json;

use super::printer::{Level, Printer};
use super::units;

/// Between two lines where there is no terminal: short runs say nothing.
const LINE_INTERVAL_MS: u64 = 10_000;

/// Between two JSON lines of one phase.
const JSON_INTERVAL_MS: u64 = 500;

/// An observer that prints.
pub(crate) struct Progress {
    printer: Arc<Printer>,
    clock: Arc<dyn Clock>,
    mode: Mode,
    state: Mutex<Option<Phase>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bar,
    Lines,
    Json,
    Silent,
}

/// The phase that goes on.
struct Phase {
    subject: String,
    name: &'static str,
    bytes_total: Option<u64>,
    bytes_done: u64,
    began_ms: u64,
    shown_ms: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// An observer for that printer; `is_terminal` says whether standard error is one.
    pub(crate) fn new(printer: Arc<Printer>, clock: Arc<dyn Clock>, is_terminal: bool) -> Self {
        let mode = match () {
            () if !printer.says(Level::Default) => Mode::Silent,
            () if printer.json() => Mode::Json,
            () if is_terminal => Mode::Bar,
            () => Mode::Lines,
        };
        Progress { printer, clock, mode, state: Mutex::new(None) }
    }

    fn state(&self) -> MutexGuard<'_, Option<Phase>> {
        // A panic elsewhere leaves a phase that is at worst shown wrongly.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, subject: &str, name: &'static str, bytes_total: Option<u64>) {
        let now_ms = self.clock.monotonic_ms();
        let mut state = self.state();
        if let Some(before) = state.take() {
            self.end(&before);
        }
        let subject = units::one_line(subject);
        let phase = Phase {
            bar: (self.mode == Mode::Bar).then(|| bar(&subject, name, bytes_total)),
            subject,
            name,
            bytes_total,
            bytes_done: 0,
            began_ms: now_ms,
            shown_ms: now_ms,
        };
        if self.mode == Mode::Json {
            self.json_line(&phase, "began", now_ms);
        }
        *state = Some(phase);
    }

    fn advance(&self, bytes: u64) {
        let mut state = self.state();
        let Some(phase) = state.as_mut() else { return };
        phase.bytes_done = phase.bytes_done.saturating_add(bytes);
        if let Some(bar) = &phase.bar {
            return bar.set_position(phase.bytes_done);
        }
        let interval_ms = match self.mode {
            Mode::Lines => LINE_INTERVAL_MS,
            Mode::Json => JSON_INTERVAL_MS,
            Mode::Bar | Mode::Silent => return,
        };
        let now_ms = self.clock.monotonic_ms();
        if now_ms.saturating_sub(phase.shown_ms) < interval_ms {
            return;
        }
        phase.shown_ms = now_ms;
        match self.mode {
            Mode::Json => self.json_line(phase, "running", now_ms),
            _ => self.printer.note(&line(phase, now_ms)),
        }
    }

    fn end(&self, phase: &Phase) {
        let now_ms = self.clock.monotonic_ms();
        if let Some(bar) = &phase.bar {
            bar.finish_and_clear();
        }
        match self.mode {
            Mode::Json => self.json_line(phase, "ended", now_ms),
            _ if self.printer.says(Level::Verbose) => {
                let elapsed_ms = now_ms.saturating_sub(phase.began_ms);
                let speed = units::speed(phase.bytes_done, elapsed_ms)
                    .filter(|_| phase.bytes_done > 0)
                    .map_or(String::new(), |speed| {
                        format!(", {} at {speed}", units::bytes(phase.bytes_done))
                    });
                let length = units::duration(elapsed_ms);
                self.printer.detail(&format!("{} {}: {length}{speed}", phase.name, phase.subject));
            }
            _ => {}
        }
    }

    fn json_line(&self, phase: &Phase, state: &str, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(phase.began_ms);
        self.printer.json_line(&json!({
            "type": "progress",
            "state": state,
            "subject": phase.subject,
            "phase": phase.name,
            "bytes_done": phase.bytes_done,
            "bytes_total": phase.bytes_total,
            "elapsed_ms": elapsed_ms,
            "left_ms": left_ms(phase, elapsed_ms),
        }));
    }

    /// Clears what is drawn: a phase that failed leaves its bar, and the error comes after it.
    pub(crate) fn clear(&self) {
        if let Some(phase) = self.state().take()
            && let Some(bar) = &phase.bar
        {
            bar.finish_and_clear();
        }
    }

    /// Prints a line without tearing the bar.
    fn aside(&self, print: impl FnOnce(&Printer)) {
        match self.state().as_ref().and_then(|phase| phase.bar.as_ref()) {
            Some(bar) => bar.suspend(|| print(&self.printer)),
            None => print(&self.printer),
        }
    }
}

impl Observer for Progress {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::PhaseBegan { subject, phase, bytes_total } => {
                self.begin(subject, phase, bytes_total);
            }
            Event::Advanced { bytes } => self.advance(bytes),
            Event::PhaseEnded { phase } => {
                let mut state = self.state();
                if state.as_ref().is_some_and(|current| current.name == phase)
                    && let Some(ended) = state.take()
                {
                    self.end(&ended);
                }
            }
            Event::Warning { subject, message } => {
                self.aside(|printer| printer.warning(&units::one_line(subject), message));
            }
            Event::Detail { message } => self.aside(|printer| printer.detail(message)),
            Event::BackupCommitted { subject, name } => {
                if self.mode == Mode::Json {
                    self.printer.json_line(&json!({
                        "type": "backup-committed", "subject": subject, "name": name,
                    }));
                }
            }
        }
    }
}

fn bar(subject: &str, name: &str, bytes_total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(bytes_total, ProgressDrawTarget::stderr_with_hz(10));
    let template = match bytes_total {
        Some(_) => {
            "{msg} [{bar:30}] {decimal_bytes} of {decimal_total_bytes}, \
                    {decimal_bytes_per_sec}, {eta} left"
        }
        None => "{msg} {spinner} {decimal_bytes}, {elapsed}",
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    bar.set_style(style);
    bar.set_message(format!("{name} {subject}"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn left_ms(phase: &Phase, elapsed_ms: u64) -> Option<u64> {
    let left = phase.bytes_total?.checked_sub(phase.bytes_done)?;
    let left_ms = u128::from(left) * u128::from(elapsed_ms);
    u64::try_from(left_ms.checked_div(u128::from(phase.bytes_done))?).ok()
}

fn line(phase: &Phase, now_ms: u64) -> String {
    let elapsed_ms = now_ms.saturating_sub(phase.began_ms);
    let mut line = format!("{} {}: {}", phase.name, phase.subject, units::bytes(phase.bytes_done));
    if let Some(total) = phase.bytes_total {
        line.push_str(&format!(" of {}", units::bytes(total)));
    }
    if let Some(speed) = units::speed(phase.bytes_done, elapsed_ms) {
        line.push_str(&format!(", {speed}"));
    }
    if let Some(left_ms) = left_ms(phase, elapsed_ms) {
        line.push_str(&format!(", {} left", units::duration(left_ms)));
    }
    line
}
