//! The writer of a demo: a process of its own, and the witness of what it committed.

use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use lifeboat_core::env::{Clock, Env};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::sample::{Tick, Writer, WriterOptions};

use super::own_program;
use crate::session::Session;

/// Write to a database of a demo until killed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The database
    database: PathBuf,
    /// Transactions in a second
    #[arg(long, default_value_t = 300)]
    rate: u32,
}

/// Says of each transaction, after its commit, which one it was. Ends when nobody listens.
pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let options = WriterOptions { transactions_per_second: args.rate, ..WriterOptions::default() };
    let mut writer = Writer::open(&args.database, options)?;
    let mut out = std::io::stdout().lock();
    writer.run(&*env.clock, &mut |tick| {
        let line = format!("{} {} {}\n", tick.sequence, tick.at_ms, tick.digest);
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A transaction that the writer said it had committed.
struct Acknowledged {
    tick: Tick,
    /// When we heard of it, by our monotonic clock.
    heard_ms: u64,
}

/// A running writer.
pub(super) struct WriterProcess {
    child: Child,
    clock: Arc<dyn Clock>,
    heard: Arc<Mutex<Vec<Acknowledged>>>,
    listener: Option<JoinHandle<()>>,
}

impl WriterProcess {
    /// Starts this program once more, as a writer.
    pub(super) fn start(env: &Env, database: &Path, rate: u32) -> Result<Self> {
        let failed = |error| Error::io(Kind::Failed, "cannot start the writer", error);
        let mut child = Command::new(own_program()?)
            .arg("demo-writer")
            .arg(database)
            .args(["--rate", &rate.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let clock = Arc::clone(&env.clock);
        let listener = child.stdout.take().map(|said| {
            let (heard, clock) = (Arc::clone(&heard), Arc::clone(&clock));
            std::thread::spawn(move || {
                for line in BufReader::new(said).lines() {
                    let Some(tick) = line.ok().and_then(|line| parse(&line)) else { break };
                    lock(&heard).push(Acknowledged { tick, heard_ms: clock.monotonic_ms() });
                }
            })
        });
        Ok(WriterProcess { child, clock, heard, listener })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it write for so long. Fails if it ended meanwhile.
    pub(super) fn wait_ms(&mut self, milliseconds: u64) -> Result<()> {
        self.clock.sleep_ms(milliseconds);
        self.still_there()
    }

    fn still_there(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Error::new(Kind::Failed, format!("the writer ended by itself with {status}")))
            }
            Err(error) => Err(Error::io(Kind::Failed, "cannot look at the writer", error)),
        }
    }

    /// The last transaction of a writer that is still writing.
    pub(super) fn last(&mut self) -> Result<Tick> {
        self.still_there()?;
        Ok(self.acknowledged_last())
    }

    /// The last transaction that it said it had committed; number 0 before the first.
    pub(super) fn acknowledged_last(&self) -> Tick {
        let before_first = || Tick { sequence: 0, at_ms: 0, digest: String::new() };
        lock(&self.heard).last().map_or_else(before_first, |last| last.tick.clone())
    }

    /// What it said of a transaction.
    pub(super) fn acknowledged(&self, sequence: u64) -> Option<Tick> {
        let heard = lock(&self.heard);
        heard.iter().rev().find(|one| one.tick.sequence == sequence).map(|one| one.tick.clone())
    }

    /// The longest time between two transactions since then, in milliseconds.
    pub(super) fn longest_pause_ms(&self, since_ms: u64) -> u64 {
        let heard = lock(&self.heard);
        let times: Vec<u64> = heard.iter().map(|one| one.heard_ms).collect();
        let pauses = times.windows(2).filter(|pair| pair[1] >= since_ms);
        pauses.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Kills it as a power cut would, and hears what it had still said.
    pub(super) fn kill(&mut self) -> Result<()> {
        let failed = |error| Error::io(Kind::Failed, "cannot kill the writer", error);
        self.child.kill().map_err(failed)?;
        self.child.wait().map_err(failed)?;
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        Ok(())
    }
}

impl Drop for WriterProcess {
    fn drop(&mut self) {
        // After a failed step it must not write on into a folder that is removed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock(heard: &Mutex<Vec<Acknowledged>>) -> MutexGuard<'_, Vec<Acknowledged>> {
    heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn parse(line: &str) -> Option<Tick> {
    let mut words = line.split(' ');
    let (sequence, at_ms) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Tick { sequence, at_ms, digest: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_writer_is_read_and_half_a_line_is_not() {
        let tick = parse("17 1736344800123 ab12").unwrap();
        assert_eq!((tick.sequence, tick.at_ms, tick.digest.as_str()), (17, 1736344800123, "ab12"));
        assert_eq!(parse("17 17363"), None);
        assert_eq!(parse(""), None);
    }
}
