//! How fast a moment of a database can be read: a capture into nothing, several times.
//!
//! `cargo run --release -p lifeboat-sqlite --example read_speed -- DATABASE [none|quick|full]`
//!
//! Where there is no such database, one of 1 GB is made, and left there.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // a measurement, by the real clock

use std::sync::Arc;
use std::time::Instant;

use lifeboat_core::Result;
use lifeboat_core::env::{Clock, Env, Random};
use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::source::{BlockObserver, CaptureOptions, Sink, Source};
use lifeboat_sqlite::SqliteSource;
use lifeboat_sqlite::sample::{self, SampleOptions, Size};

const ROUNDS: usize = 5;

struct Real(Instant);

impl Clock for Real {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    }
}

impl Random for Real {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

/// Shows each batch to the observer of rows and forgets it.
struct Nothing {
    buffer: Vec<u8>,
    bytes: u64,
    observer: Option<Arc<dyn BlockObserver>>,
}

impl Sink for Nothing {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        if let Some(observer) = &self.observer {
            observer.observe(self.bytes, &self.buffer[..bytes]);
        }
        self.bytes += bytes as u64;
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "test.db".to_owned());
    let check = match arguments.next().as_deref() {
        Some("quick") => CheckLevel::Quick,
        Some("full") => CheckLevel::Full,
        _ => CheckLevel::None,
    };
    let real = Arc::new(Real(Instant::now()));
    let env = Env::new(real.clone(), real, "here");
    if !std::path::Path::new(&path).exists() {
        let options =
            SampleOptions { size: Size::Bytes(1_000_000_000), ..SampleOptions::default() };
        sample::create(path.as_ref(), &options)?;
    }
    let source = SqliteSource::new(path.into());
    println!("{}", source.inspect()?.description);
    for _ in 0..ROUNDS {
        let options = CaptureOptions {
            method: Method::Online,
            check,
            check_memory_bytes: 512 << 20,
            lock_ms_max: 60_000,
            wal_growth_bytes_max: 1 << 30,
        };
        let (begun, cpu_s) = (Instant::now(), cpu_s());
        let mut capture = source.capture(&env, &options)?;
        let observer = capture.artifacts().remove(0).observer;
        let mut sink = Nothing { buffer: vec![0; 1 << 20], bytes: 0, observer };
        capture.write(0, &mut sink)?;
        let read_s = begun.elapsed().as_secs_f64();
        let report = capture.finish()?;
        println!(
            "{} bytes read in {read_s:.3} s, finished in {:.3} s, CPU {:.3} s, {} tables, {:?}",
            sink.bytes,
            begun.elapsed().as_secs_f64(),
            self::cpu_s() - cpu_s,
            report.rows.map_or(0, |rows| rows.len()),
            report.check.map(|check| check.outcome),
        );
    }
    Ok(())
}

/// Processor time of this process so far, in seconds; to a hundredth, as the kernel tells it.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
