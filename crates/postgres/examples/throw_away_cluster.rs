//! A server to measure on: `throw_away_cluster MAJOR [SETTING=VALUE ...]`.
//!
//! Prints the folder of its socket in one line, and lives until its standard input closes. The
//! settings come after those of every throw-away cluster, so that they win: a benchmark wants a
//! server that syncs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![expect(clippy::disallowed_methods, reason = "it has the real clock")]

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lifeboat_core::env::{Clock, Env, Random};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{ClientOptions, ThrowAwayCluster};

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
}

/// Nothing here needs chance.
struct NoChance;

impl Random for NoChance {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match live(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn live(arguments: &[String]) -> Result<()> {
    let wrong = || Error::new(Kind::Usage, "say `throw_away_cluster MAJOR [SETTING=VALUE ...]`");
    let (major, settings) = arguments.split_first().ok_or_else(wrong)?;
    let major = major.parse().map_err(|_| wrong())?;
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let env = Env::new(Arc::new(SystemClock(Instant::now())), Arc::new(NoChance), "host");
    let options = ClientOptions::default();
    let place = Path::new("/var/tmp");
    let cluster = ThrowAwayCluster::start(&env, &options, Some(major), place, &settings)?;
    println!("{}", cluster.address("postgres").get("host").unwrap_or_default());
    let waited = std::io::stdin().read_to_end(&mut Vec::new());
    waited.map(drop).map_err(|error| Error::io(Kind::Failed, "cannot wait", error))
}
