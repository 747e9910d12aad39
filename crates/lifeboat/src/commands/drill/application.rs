//! The application itself, run on what was restored: it ends well, or it answers.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use lifeboat_core::drill::{DrillCheck, Outcome};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::config::drill::DrillConfig;
use crate::ui::units;

const NAME: &str = "application";
/// Between two questions.
const LOOK_MS: u64 = 50;
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to end when it is told to.
const GRACE_MS: u64 = 2_000;
const ANSWER_BYTES_MAX: u64 = 4_096;
/// Ports that services seldom have, up to those that Linux deals out where nothing else is set.
const PORTS_FROM: u16 = 20_000;
const PORTS_END: u16 = 32_768;
const PORTS_TRIED: u32 = 50;

/// What was restored, as the application is told.
pub(super) struct Restored<'a> {
    /// The database's file, where it is one.
    pub(super) database: Option<&'a Path>,
    /// The folder that stands for `/` of the companion files.
    pub(super) files: &'a Path,
    /// The URL of the database, where a server has it.
    pub(super) url: Option<&'a str>,
    /// Where its output goes.
    pub(super) scratch: &'a Path,
}

/// Runs the application that is configured. `None` where none is.
pub(super) fn check(
    env: &Env,
    config: &DrillConfig,
    restored: &Restored<'_>,
) -> Result<Option<DrillCheck>> {
    if config.command.is_empty() {
        return Ok(None);
    }
    let port = free_port(env)?;
    let fill = |text: &String| {
        let path = |path: Option<&Path>| path.map(|path| path.to_string_lossy().into_owned());
        text.replace("{database}", &path(restored.database).unwrap_or_default())
            .replace("{files}", &restored.files.to_string_lossy())
            .replace("{url}", restored.url.unwrap_or_default())
            .replace("{port}", &port.to_string())
    };
    let words: Vec<String> = config.command.iter().map(fill).collect();
    let log = restored.scratch.join("application.log");
    let mut running = match start(&words, &log) {
        Ok(child) => Running { env, child, reaped: false },
        Err(error) => {
            let detail = format!("cannot run `{}`: {error}", units::one_line(&words[0]));
            return Ok(Some(DrillCheck::new(NAME, Outcome::Failed, detail)));
        }
    };
    let probe = config.probe.as_ref().map(fill);
    let found = running.watch(config.command_timeout_ms(), probe.as_deref(), port)?;
    drop(running);
    Ok(Some(match found {
        Ok(detail) => DrillCheck::new(NAME, Outcome::Passed, detail),
        Err(why) => {
            let said = last_lines(&log);
            let detail = if said.is_empty() { why } else { format!("{why}; it said: {said}") };
            DrillCheck::new(NAME, Outcome::Failed, detail)
        }
    }))
}

/// A port that nobody uses now, and that nobody else is given before the application takes it: none
/// of those that the kernel deals out, and drills at the same time choose by chance.
fn free_port(env: &Env) -> Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let dealt = range.split_whitespace().next().and_then(|first| first.parse().ok());
    let end = dealt.unwrap_or(PORTS_END);
    for _ in 0..PORTS_TRIED {
        let mut random = [0; 2];
        env.random.fill(&mut random);
        let Some(room) = end.checked_sub(PORTS_FROM).filter(|room| *room > 0) else { break };
        let port = PORTS_FROM + u16::from_le_bytes(random) % room;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    let found = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let failed = |error| Error::io(Kind::Failed, "cannot find a free port", error);
    found.map(|address| address.port()).map_err(failed)
}

fn start(words: &[String], log: &Path) -> std::io::Result<Child> {
    let out = File::create(log)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    command.process_group(0).spawn()
}

/// The application and all that it started. Ended when dropped.
struct Running<'a> {
    env: &'a Env,
    child: Child,
    reaped: bool,
}

impl Running<'_> {
    /// Waits for what must happen: that it ends with 0, or that it answers. The inner error says
    /// why that did not happen, the outer one why the drill itself must end.
    fn watch(
        &mut self,
        timeout_ms: u64,
        probe: Option<&str>,
        port: u16,
    ) -> Result<Result<String, String>> {
        let begun_ms = self.env.clock.monotonic_ms();
        let mut unanswered = String::new();
        loop {
            self.env.proceed()?;
            let ended = if self.has_ended() { Some(self.end()?) } else { None };
            let took = units::duration(self.env.elapsed_ms(begun_ms));
            match (ended, probe) {
                (Some(status), None) if status.success() => {
                    return Ok(Ok(format!("it ended well after {took}")));
                }
                (Some(status), None) => return Ok(Err(format!("it ended with {status}"))),
                (Some(status), Some(_)) => {
                    return Ok(Err(format!("it ended with {status} before it answered")));
                }
                (None, Some(probe)) => match ask(probe, port) {
                    Ok(answer) => return Ok(Ok(format!("{answer} after {took}"))),
                    Err(why) => unanswered = why,
                },
                (None, None) => {}
            }
            if self.env.elapsed_ms(begun_ms) >= timeout_ms {
                return Ok(Err(match probe {
                    Some(probe) => format!("{probe} gave no answer within {took}: {unanswered}"),
                    None => format!("it did not end within {took}"),
                }));
            }
            self.env.clock.sleep_ms(LOOK_MS);
        }
    }
}

impl Running<'_> {
    /// Whether its first process has ended. It is not waited for: until then its number is its own.
    fn has_ended(&self) -> bool {
        let looks = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(Pid::from_child(&self.child)), looks), Ok(None))
    }

    /// Ends what is left of its group, and waits for it.
    fn end(&mut self) -> Result<ExitStatus> {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.reaped = true;
        self.child
            .wait()
            .map_err(|error| Error::io(Kind::Failed, "cannot wait for the application", error))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::TERM);
        let begun_ms = self.env.clock.monotonic_ms();
        while self.env.elapsed_ms(begun_ms) < GRACE_MS && !self.has_ended() {
            self.env.clock.sleep_ms(10);
        }
        let _ = self.end();
    }
}

/// Asks once. Gives what was answered, or why nothing was.
fn ask(probe: &str, port: u16) -> Result<String, String> {
    let connect = |address: SocketAddr| {
        let stream = TcpStream::connect_timeout(&address, ANSWER).map_err(text_of)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(text_of)?;
        stream.set_write_timeout(Some(ANSWER)).map_err(text_of)?;
        Ok::<TcpStream, String>(stream)
    };
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match probe {
        "tcp" => connect(own).map(|_| "it takes connections".to_owned()),
        "ssh" => {
            let mut greeting = [0; 4];
            connect(own)?.read_exact(&mut greeting).map_err(text_of)?;
            match &greeting == b"SSH-" {
                true => Ok("it greets as a server of SSH".to_owned()),
                false => Err("what it says is no greeting of SSH".to_owned()),
            }
        }
        url => {
            let rest = url.strip_prefix("http://").ok_or("only http:// can be asked")?;
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
            let mut addresses = with_port.to_socket_addrs().map_err(text_of)?;
            let mut stream = connect(addresses.next().ok_or("its host has no address")?)?;
            let request =
                format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).map_err(text_of)?;
            status_of(stream)
        }
    }
}

fn status_of(stream: TcpStream) -> Result<String, String> {
    let mut answer = Vec::new();
    // The first line is enough, whatever comes behind it.
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let line = answer.lines().next().unwrap_or_default();
    match line.split_whitespace().nth(1) {
        Some(status) if status.len() == 3 && status.starts_with('2') => {
            Ok(format!("it answers {status}"))
        }
        Some(_) => Err(format!("it answers `{}`", units::one_line(line))),
        None => Err(read.map_or_else(text_of, |_| "it answers nothing".to_owned())),
    }
}

fn text_of(error: std::io::Error) -> String {
    error.to_string()
}

/// The end of what it said, in one line.
fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(2_000);
    let text = String::from_utf8_lossy(&text[from..]).into_owned();
    let lines: Vec<&str> =
        text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    let lines: Vec<String> = lines.into_iter().rev().map(units::one_line).collect();
    lines.join(" / ")
}
