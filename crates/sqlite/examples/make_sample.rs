//! Makes a sample database: `make_sample PATH [--bytes N | --messages N] [--seed N]
//! [--page-bytes N] [--journal-mode MODE]`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_sqlite::sample::{SampleOptions, Size, create};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
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

fn run(mut arguments: impl Iterator<Item = String>) -> Result<String, String> {
    let path = PathBuf::from(arguments.next().ok_or("the path of the database is missing")?);
    let mut options = SampleOptions::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value} is no number"));
        match name.as_str() {
            "--bytes" => options.size = Size::Bytes(number()?),
            "--messages" => options.size = Size::Messages(number()?),
            "--seed" => options.seed = number()?,
            "--page-bytes" => {
                options.page_bytes = number()?.try_into().map_err(|_| format!("{value}?"))?;
            }
            "--journal-mode" => options.journal_mode = value,
            _ => return Err(format!("{name} is not known")),
        }
    }
    let sample = create(&path, &options).map_err(|error| format!("{error:?}"))?;
    Ok(format!(
        "{}: {} bytes, {} messages, {} reactions",
        path.display(),
        sample.bytes,
        sample.messages,
        sample.reactions
    ))
}
