//! Writes to a sample database at a rate, and notes when each commit ended and how long it took:
//! `log_writer PATH [--rate N] [--messages N] [--seconds N | --transactions N] [--seed N]
//! [--times FILE]`.
//!
//! A line of FILE is a commit: microseconds since 1970 when it had ended, and how many it took.
//! The same seed writes the same transactions to the same database.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![allow(clippy::disallowed_methods)] // a measurement, by the real clock

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use lifeboat_sqlite::sample::{Writer, WriterOptions};

/// A writer that was held up catches up at most this much.
const CATCH_UP: Duration = Duration::from_millis(500);

struct Options {
    path: PathBuf,
    writer: WriterOptions,
    seconds: u64,
    transactions: u64,
    times: Option<PathBuf>,
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        path: PathBuf::from(arguments.next().ok_or("the path of the database is missing")?),
        writer: WriterOptions { transactions_per_second: 0, ..WriterOptions::default() },
        seconds: u64::MAX,
        transactions: u64::MAX,
        times: None,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{name}: {value} is no number"));
        match name.as_str() {
            "--rate" => options.writer.transactions_per_second = number()?,
            "--messages" => options.writer.messages_per_transaction = number()?,
            "--seed" => options.writer.seed = number()?.into(),
            "--seconds" => options.seconds = number()?.into(),
            "--transactions" => options.transactions = number()?.into(),
            "--times" => options.times = Some(value.into()),
            _ => return Err(format!("{name} is not known")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<String, String> {
    let mut writer =
        Writer::open(&options.path, options.writer.clone()).map_err(|error| error.to_string())?;
    let rate = options.writer.transactions_per_second;
    let (begun, mut from, mut since) = (Instant::now(), Instant::now(), 0_u32);
    let (mut times, mut count) = (String::new(), 0_u64);
    while count < options.transactions && begun.elapsed().as_secs() < options.seconds {
        let before = Instant::now();
        writer.tick(now().as_millis() as i64).map_err(|error| error.to_string())?;
        let took = before.elapsed();
        let _ = writeln!(times, "{} {}", now().as_micros(), took.as_micros());
        (count, since) = (count + 1, since + 1);
        if rate > 0 {
            let due = from + Duration::from_secs(1) * since / rate;
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            } else if now - due > CATCH_UP {
                (from, since) = (now, 0);
            }
        }
    }
    if let Some(path) = &options.times {
        std::fs::write(path, times).map_err(|error| error.to_string())?;
    }
    Ok(format!("{count} transactions in {:.2} s", begun.elapsed().as_secs_f64()))
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
