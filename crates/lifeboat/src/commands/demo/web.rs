//! `lifeboat demo --web`: the page of an agent with several sources, one of them broken on
//! purpose, until somebody has seen enough.
//!
//! All of it is real: databases that are written to, the agent with its schedules, two
//! repositories, a drill, and a database whose file is damaged, so that no backup of it is made.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::sample::{self, SampleOptions, Size};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::folder::{self, DemoFolder};
use super::own_program;
use super::writer::WriterProcess;
use crate::session::Session;
use crate::signals;
use crate::ui::printer::Style;

/// Databases, with their sizes in bytes.
const DATABASES: &[(&str, u64)] =
    &[("chat", 8_000_000), ("shop", 3_000_000), ("wiki", 1_000_000), ("accounts", 3_000_000)];
/// The one that is damaged.
const BROKEN: &str = "accounts";
/// Transactions in a second of the one that is written to.
const RATE: u32 = 20;
/// How long the page may take to come, and the agent to end.
const PATIENCE_MS: u64 = 30_000;
/// Between two looks.
const LOOK_MS: u64 = 100;

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct WebDemo<'a> {
    session: &'a Session,
    env: Env,
    folder: PathBuf,
}

/// Shows the page until a signal comes, in a folder that is removed then.
pub(super) fn run(session: &Session, keep: bool) -> Result<()> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let folder = DemoFolder::create(&session.folders.scratch)?;
    let demo = WebDemo { session, env, folder: folder.path().to_owned() };
    let shown = demo.show();
    match keep {
        true => folder.keep(),
        false => folder.remove()?,
    }
    shown
}

impl WebDemo<'_> {
    fn show(&self) -> Result<()> {
        let printer = &self.session.printer;
        for (name, bytes) in DATABASES {
            let options = SampleOptions { size: Size::Bytes(*bytes), ..SampleOptions::default() };
            sample::create(&self.database(name), &options)?;
        }
        let failed = |error| Error::io(Kind::Failed, "cannot write the demo's files", error);
        std::fs::write(self.folder.join("settings.toml"), "theme = \"dark\"\n").map_err(failed)?;
        std::fs::write(self.config(), self.configuration()).map_err(failed)?;
        let mut writer = WriterProcess::start(&self.env, &self.database("chat"), RATE)?;
        printer.note("first backups are made and proved");
        self.lifeboat(&["backup", "chat", "shop", "wiki", "settings"])?;
        self.lifeboat(&["drill", "chat", "shop", "wiki"])?;
        folder::overwrite(&self.database(BROKEN))?;
        if self.lifeboat(&["backup", BROKEN]).is_ok() {
            return Err(Error::new(Kind::Failed, "the broken database was backed up"));
        }
        let mut agent = self.command(&["run"]);
        let agent = agent.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut agent = Ended(agent.map_err(failed)?);
        let link = self.link(&mut agent)?;
        let title = printer.paint_out(Style::Strong, "The page of a living agent:");
        printer.data(&format!("{title}\n  {link}\n"))?;
        printer.data("The link can be used once, within five minutes. Ctrl-C ends it all.\n")?;
        while self.env.proceed().is_ok() {
            self.alive(&mut agent)?;
            self.env.clock.sleep_ms(LOOK_MS);
        }
        writer.kill()?;
        self.end(&mut agent);
        printer.note("ended: page, agent and databases are gone");
        Ok(())
    }

    fn database(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.db"))
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    fn configuration(&self) -> String {
        let place = |name: &str| self.folder.join(name).display().to_string();
        let mut text = format!(
            "host = \"demo\"\n\
             [agent]\nlisten = \"127.0.0.1:0\"\ndrain = \"1s\"\n\
             [repository.here]\nurl = \"file://{}\"\n\
             [repository.elsewhere]\nurl = \"file://{}\"\n\
             [source.settings]\nfiles = [{:?}]\nrepository = \"here\"\nschedule = \"hourly\"\n",
            place("backups"),
            place("elsewhere"),
            place("settings.toml"),
        );
        for (name, _) in DATABASES {
            text.push_str(&format!(
                "[source.{name}]\nsqlite = {:?}\nschedule = \"* * * * *\"\nrandom_delay = \"0s\"\n\
                 rpo = \"5m\"\nrto = \"1m\"\nkeep = {{ last = 20, hourly = 48, daily = 14 }}\n",
                self.database(name),
            ));
        }
        text
    }

    /// This program, in the folder of the demo and without anything of the user's.
    fn command(&self, arguments: &[&str]) -> Command {
        let program: &Path = &own_program().unwrap_or_else(|_| PathBuf::from("lifeboat"));
        let mut command = Command::new(program);
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "TMPDIR"] {
            command.env(variable, &self.folder);
        }
        command
    }

    /// Runs a command to its end. Gives what it printed as JSON.
    fn lifeboat(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command(arguments);
        let output = command.args(["--json", "--quiet"]).output().map_err(|error| {
            Error::io(Kind::Failed, format!("cannot run lifeboat {}", arguments[0]), error)
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("lifeboat {} ended with {}", arguments[0], output.status);
            return Err(Error::new(Kind::Failed, format!("{message}: {}", said.trim())));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// The link to the page, when the agent shows it.
    fn link(&self, agent: &mut Ended) -> Result<String> {
        let begun_ms = self.env.clock.monotonic_ms();
        loop {
            self.env.proceed()?;
            self.alive(agent)?;
            let opened = self.lifeboat(&["web", "open"]);
            match opened.as_ref().ok().and_then(|opened| opened["link"].as_str()) {
                Some(link) => return Ok(link.to_owned()),
                None if self.env.elapsed_ms(begun_ms) > PATIENCE_MS => {
                    let message = "the page did not come in half a minute";
                    return Err(Error::new(Kind::Failed, message));
                }
                None => self.env.clock.sleep_ms(LOOK_MS),
            }
        }
    }

    fn alive(&self, agent: &mut Ended) -> Result<()> {
        match agent.0.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(Error::new(Kind::Failed, "the agent of the demo has ended by itself")
                .hint("look at what it says: lifeboat demo --web --keep, then lifeboat run")),
        }
    }

    /// Lets the agent end what it began.
    fn end(&self, agent: &mut Ended) {
        let begun_ms = self.env.clock.monotonic_ms();
        let _ = kill_process(Pid::from_child(&agent.0), Signal::TERM);
        while matches!(agent.0.try_wait(), Ok(None)) && self.env.elapsed_ms(begun_ms) < PATIENCE_MS
        {
            self.env.clock.sleep_ms(LOOK_MS);
        }
    }
}
