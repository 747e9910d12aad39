//! `lifeboat demo`: the main promise, shown on a database that is really lost.
//!
//! Everything in it is real: the database, the process that writes to it, the commands (this
//! program, started as anybody would start it), the signal that kills the writer. What the writer
//! said that it had committed is the witness against which the restored database is held; a demo
//! that cannot prove its point fails.

mod folder;
mod web;
mod writer;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::sample::{self, SampleOptions, Size, Tick};
use serde_json::{Value, json};

use self::folder::DemoFolder;
use self::writer::WriterProcess;
pub(crate) use self::writer::{Args as WriterArgs, run as run_writer};
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::units;

/// Watch a database being written to, backed up, lost, restored and proved, in a minute
///
/// Makes a chat database in a temporary folder, starts another process that writes hundreds of
/// transactions a second to it, backs it up meanwhile, kills the writer, destroys the database,
/// restores it, and proves that what came back is one moment of the writer's life, whole. Then
/// removes everything.
///
/// With --web it shows the web page of an agent with several sources instead, one of them broken
/// on purpose, until it is ended by Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Size of the database, in millions of bytes
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    size_mb: u64,
    /// Transactions in a second
    #[arg(long, value_name = "N", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Show the web page of an agent with several sources
    #[arg(long, conflicts_with_all = ["size_mb", "rate"])]
    web: bool,
    /// Keep the folder with the database and the repository
    #[arg(long)]
    keep: bool,
}

/// How long the writer writes before the backup, and on after it.
const WRITE_MS: u64 = 2_000;
/// The writer must have committed so much before, or it is not under load.
const TICKS_MIN: u64 = 20;
/// How long that is waited for on a slow disk.
const WRITE_MS_MAX: u64 = 60_000;

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    if args.web {
        return web::run(session, args.keep).map(|()| ExitCode::SUCCESS);
    }
    let env = session.env()?;
    let folder = DemoFolder::create(&session.folders.scratch)?;
    let mut demo = Demo {
        session,
        env: &env,
        database: folder.path().join("chat.db"),
        repository: format!("file://{}", folder.path().join("repository").display()),
        folder: folder.path().to_owned(),
        steps: Vec::new(),
        begun_ms: env.clock.monotonic_ms(),
    };
    demo.play(&args)?;
    demo.end(args.keep)?;
    match args.keep {
        true => folder.keep(),
        false => folder.remove()?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Demo<'a> {
    session: &'a Session,
    env: &'a Env,
    folder: PathBuf,
    database: PathBuf,
    repository: String,
    steps: Vec<Value>,
    begun_ms: u64,
}

impl Demo<'_> {
    fn play(&mut self, args: &Args) -> Result<()> {
        self.make_database(args.size_mb * 1_000_000)?;
        let mut writer = self.start_writer(args.rate)?;
        let (before, after) = self.back_up(&mut writer)?;
        self.write_on(&mut writer)?;
        let last = self.destroy(&mut writer)?;
        self.restore()?;
        self.prove(&writer, (&before, &after), &last)
    }

    fn make_database(&mut self, bytes: u64) -> Result<()> {
        let begun_ms = self.env.clock.monotonic_ms();
        let options = SampleOptions { size: Size::Bytes(bytes), ..SampleOptions::default() };
        let made = sample::create(&self.database, &options)?;
        self.told(
            "a chat database is made",
            begun_ms,
            &[format!(
                "{}, {} messages, WAL mode: {}",
                units::bytes(made.bytes),
                units::count(made.messages),
                self.database.display()
            )],
        )
    }

    fn start_writer(&mut self, rate: u32) -> Result<WriterProcess> {
        let begun_ms = self.env.clock.monotonic_ms();
        let mut writer = WriterProcess::start(self.env, &self.database, rate)?;
        writer.wait_ms(WRITE_MS)?;
        while writer.last()?.sequence < TICKS_MIN && self.env.elapsed_ms(begun_ms) < WRITE_MS_MAX {
            writer.wait_ms(WRITE_MS / 20)?;
        }
        let (ticks, took_ms) = (writer.last()?.sequence, self.env.elapsed_ms(begun_ms));
        if ticks < TICKS_MIN {
            let message = format!("the writer committed only {ticks} transactions in {took_ms} ms");
            return Err(Error::new(Kind::Failed, message)
                .hint("is the disk very slow? try with a smaller --rate, and TMPDIR elsewhere"));
        }
        let line = format!(
            "process {} has committed {} transactions, {} a second; longest pause {} ms",
            writer.pid(),
            units::count(ticks),
            ticks * 1_000 / took_ms,
            writer.longest_pause_ms(begun_ms)
        );
        self.told("another process writes to it", begun_ms, &[line])?;
        Ok(writer)
    }

    /// Returns the last ticks that were acknowledged before and after.
    fn back_up(&mut self, writer: &mut WriterProcess) -> Result<(Tick, Tick)> {
        let (before, begun_ms) = (writer.last()?, self.env.clock.monotonic_ms());
        let database = self.database.display().to_string();
        let result = self.lifeboat(&["backup", &database], &["--json"])?;
        let took_ms = self.env.elapsed_ms(begun_ms);
        let after = writer.last()?;
        let backup = result.get(0).ok_or_else(|| no_result("backup"))?;
        let number = |name: &str| backup.get(name).and_then(Value::as_u64).unwrap_or_default();
        let checks = backup.pointer("/manifest/checks").and_then(Value::as_array);
        let checks = checks.into_iter().flatten().filter_map(|check| check.get("name")?.as_str());
        let checks: Vec<String> = checks.map(|name| name.replace('_', " ")).collect();
        self.told(
            "it is backed up meanwhile",
            begun_ms,
            &[
                self.shown(&["backup", &database]),
                format!(
                    "{} stored of {}, proved by: {}",
                    units::bytes(number("stored_bytes")),
                    units::bytes(number("plain_bytes")),
                    checks.join(", ")
                ),
                format!(
                    "the writer committed {} transactions in these {}; longest pause {} ms",
                    units::count(after.sequence - before.sequence),
                    units::duration(took_ms),
                    writer.longest_pause_ms(begun_ms)
                ),
            ],
        )?;
        Ok((before, after))
    }

    fn write_on(&mut self, writer: &mut WriterProcess) -> Result<()> {
        let (begun_ms, before) = (self.env.clock.monotonic_ms(), writer.last()?.sequence);
        writer.wait_ms(WRITE_MS)?;
        let more = writer.last()?.sequence - before;
        let line = format!("{} more transactions, which no backup has", units::count(more));
        self.told("the writer writes on", begun_ms, &[line])
    }

    /// Kills the writer and makes the database unusable. Returns the last tick.
    fn destroy(&mut self, writer: &mut WriterProcess) -> Result<Tick> {
        let begun_ms = self.env.clock.monotonic_ms();
        writer.kill()?;
        let last = writer.acknowledged_last();
        folder::overwrite(&self.database)?;
        let Err(lost) = sample::prove(&self.database) else {
            return Err(Error::new(Kind::Failed, "the database survived its destruction"));
        };
        let cause =
            std::error::Error::source(&lost).map_or(lost.to_string(), |cause| cause.to_string());
        self.told(
            "disaster",
            begun_ms,
            &[
                format!("the writer is killed (SIGKILL) after transaction {}", last.sequence),
                "the database's pages are overwritten, its -wal is deleted".to_owned(),
                format!("SQLite says: {cause}"),
            ],
        )?;
        Ok(last)
    }

    fn restore(&mut self) -> Result<()> {
        let begun_ms = self.env.clock.monotonic_ms();
        let database = self.database.display().to_string();
        self.lifeboat(&["restore", &database], &["--yes", "--json"])?;
        let kept = folder::kept_aside(&self.database)?;
        if kept.is_empty() {
            return Err(Error::new(Kind::Failed, "the ruins of the database were not kept aside"));
        }
        let line = format!("what was left of it is kept: {}", kept.join(", "));
        self.told(
            "the database is restored",
            begun_ms,
            &[self.shown(&["restore", &database]), line],
        )
    }

    /// The restored database must be a moment between the last tick before the backup began and
    /// the first that could not be in it, and hold what the writer said of that moment.
    fn prove(
        &mut self,
        writer: &WriterProcess,
        (before, after): (&Tick, &Tick),
        last: &Tick,
    ) -> Result<()> {
        let begun_ms = self.env.clock.monotonic_ms();
        let restored = sample::prove(&self.database)?;
        let not = |why: String| Err(Error::new(Kind::CheckFailed, why));
        // One more may have been committed whose acknowledgement came after the end.
        if restored.sequence < before.sequence || restored.sequence > after.sequence + 1 {
            return not(format!(
                "the restored database shows transaction {}, the backup was taken between {} and {}",
                restored.sequence, before.sequence, after.sequence
            ));
        }
        let Some(said) = writer.acknowledged(restored.sequence) else {
            return not(format!("the writer never committed transaction {}", restored.sequence));
        };
        if said != restored {
            return not(format!(
                "transaction {} was {} for the writer and is {} in the restored database",
                restored.sequence, said.digest, restored.digest
            ));
        }
        self.told(
            "proof",
            begun_ms,
            &[
                format!(
                    "it is transaction {} of the writer, whole: every message, balance and counter",
                    restored.sequence
                ),
                format!("digest of the messages  {}  is what the writer said", &said.digest[..16]),
                format!(
                    "committed before the backup began: {}; when it ended: {}; in all: {}",
                    before.sequence, after.sequence, last.sequence
                ),
                "integrity_check: ok".to_owned(),
            ],
        )
    }

    fn end(&self, keep: bool) -> Result<()> {
        let printer = &self.session.printer;
        let total_ms = self.env.elapsed_ms(self.begun_ms);
        if printer.json() {
            return printer.json_data(&json!({ "steps": self.steps, "elapsed_ms": total_ms }));
        }
        let good = printer.paint_out(Style::Good, "Lost, restored and proved");
        let place = match keep {
            true => format!("Everything is kept in {}", self.folder.display()),
            false => "The folder is removed".to_owned(),
        };
        printer.data(&format!("\n{good} in {}. {place}.\n", units::duration(total_ms)))
    }

    /// Notes a step that is done, and prints it.
    fn told(&mut self, title: &str, begun_ms: u64, lines: &[String]) -> Result<()> {
        let elapsed_ms = self.env.elapsed_ms(begun_ms);
        self.steps.push(json!({ "step": title, "elapsed_ms": elapsed_ms, "lines": lines }));
        let printer = &self.session.printer;
        if printer.json() {
            return Ok(());
        }
        let number = format!("{}.", self.steps.len());
        let title = printer.paint_out(Style::Strong, title);
        let mut text = format!("{number} {title} ({})\n", units::duration(elapsed_ms));
        for line in lines {
            text.push_str(&format!("   {line}\n"));
        }
        printer.data(&text)
    }

    fn shown(&self, arguments: &[&str]) -> String {
        let command = format!("$ lifeboat {} --repo {}", arguments.join(" "), self.repository);
        self.session.printer.paint_out(Style::Faint, &command)
    }

    /// Runs this program as anybody would, without anything of the user's configuration.
    fn lifeboat(&self, arguments: &[&str], more: &[&str]) -> Result<Value> {
        let failed = |error: std::io::Error| {
            Error::io(Kind::Failed, format!("cannot run lifeboat {}", arguments[0]), error)
        };
        let config = self.folder.join("config.toml");
        std::fs::write(&config, "").map_err(failed)?;
        let mut command = Command::new(own_program()?);
        command.args(arguments).args(more).arg("--quiet").arg("--config").arg(config);
        command.args(["--repo", &self.repository]);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "TMPDIR"] {
            command.env(variable, &self.folder);
        }
        let output = command.stdin(Stdio::null()).output().map_err(failed)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(
                Kind::Failed,
                format!("lifeboat {} ended with {}: {}", arguments[0], output.status, said.trim()),
            ));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| no_result(arguments[0]).caused_by(error))
    }
}

fn no_result(command: &str) -> Error {
    Error::new(Kind::Failed, format!("lifeboat {command} printed no result"))
}

/// A path that starts this very program, also when its file was replaced by a newer one.
pub(super) fn own_program() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe().map_err(|error| {
            Error::io(Kind::Failed, "cannot find out where this program is", error)
        }),
    }
}
