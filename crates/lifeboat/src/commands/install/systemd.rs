//! Units of systemd: a service and a timer for each job, and the commands that put them in force.
//!
//! What a service may do is what a backup needs, and no more. What is left, and why:
//! - `CAP_DAC_OVERRIDE`: databases and their `-shm` belong to other users. `CAP_CHOWN`: a `-wal`
//!   or `-shm` that root creates must belong to the database's owner, or the application is
//!   locked out.
//! - systemd lets root stop a unit by its socket, whatever capabilities it has; a service that is
//!   stopped for a cold backup is started again by a process of its own, which must not be killed
//!   with the run: `KillMode=process`.
//! - The network: a server on this host or elsewhere, as its address says; its socket is a file
//!   that is there whatever is cut off. Passwords come from where the configuration says, those of
//!   `{ credential = }` by `LoadCredential=`; `~/.pgpass` is read, as homes are not hidden.
//! - Commands of the configuration (hooks, those of a service) may need anything; their job keeps
//!   the rest of the sandbox: they write only where the run does, unless a drop-in says more.
//!
//! A user's manager may not set up mounts or drop capabilities: its services have what needs no
//! privilege.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use lifeboat_core::{Error, Kind, Result};

use super::jobs::{Job, Network, Program};

const PREFIX: &str = "lifeboat-";
/// How the names of our units go on.
const JOBS: [&str; 8] =
    ["agent.", "backup-", "copy-", "drill-", "drill.", "prune.", "verify.", "watch."];

/// The unit of `lifeboat run`.
pub(crate) const AGENT: &str = "lifeboat-agent.service";
/// The agent tells that it is alive twice in that time.
const WATCHDOG_S: u64 = 60;
/// What the agent takes to end beyond the time that its runs get.
const STOP_MARGIN_S: u64 = 150;

/// What systemd takes as the name of a unit.
const UNIT_NAME_BYTES_MAX: usize = 255;

/// What any service can be given, without privilege.
const COMMON: &str = "\
NoNewPrivileges=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
";

/// What only the system's manager can set up.
const SYSTEM: &str = "\
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
PrivateDevices=yes
KeyringMode=private
";

/// Whether a file in the folder of the units can be ours.
pub(crate) fn is_ours(name: &str) -> bool {
    let job = name.strip_prefix(PREFIX).unwrap_or_default();
    JOBS.iter().any(|start| job.starts_with(start))
        && (name.ends_with(".service") || name.ends_with(".timer"))
}

/// The names and texts of the units of a job.
pub(crate) fn units(
    program: &Program,
    job: &Job,
    user: bool,
    on_failure: Option<&str>,
) -> Result<[(String, String); 2]> {
    let name = unit_name(job)?;
    Ok([
        (format!("{name}.service"), service(program, job, user, on_failure)),
        (format!("{name}.timer"), timer(job)),
    ])
}

/// The name and the text of a job's timer.
pub(crate) fn timer_of(job: &Job) -> Result<(String, String)> {
    Ok((format!("{}.timer", unit_name(job)?), timer(job)))
}

fn unit_name(job: &Job) -> Result<String> {
    let name = format!("{PREFIX}{}", escaped(&job.name));
    if name.len() + ".service".len() > UNIT_NAME_BYTES_MAX {
        let message = format!("the name of `{}` is too long for a unit", job.name);
        return Err(Error::new(Kind::Usage, message).hint("give the source a shorter name"));
    }
    Ok(name)
}

fn service(program: &Program, job: &Job, user: bool, on_failure: Option<&str>) -> String {
    let mut text = begin(job, on_failure);
    let command: Vec<String> = program.command(job).iter().map(|w| argument(w)).collect();
    let _ = write!(text, "\n[Service]\nType=oneshot\nExecStart={}\n", command.join(" "));
    let timeout = job.timeout_s.map_or("infinity".to_owned(), |seconds| format!("{seconds}s"));
    let _ = writeln!(text, "TimeoutStartSec={timeout}");
    if job.may_be_absent {
        text.push_str("SuccessExitStatus=75\n");
    }
    what_it_may(&mut text, program, job, user);
    text
}

/// The name and the text of the service of `lifeboat run`, which may do what all of its jobs may.
/// `drain_s` is how long its runs may go on when it is to end.
pub(crate) fn agent(
    program: &Program,
    job: &Job,
    drain_s: u64,
    user: bool,
    on_failure: Option<&str>,
) -> (String, String) {
    let mut text = begin(job, on_failure);
    if !user && job.network == Network::Any {
        text.push_str("Wants=network-online.target\nAfter=network-online.target\n");
    }
    let command: Vec<String> = program.command(job).iter().map(|w| argument(w)).collect();
    // Runs that were ended before they were done are the code 143: they begin anew with the next
    // agent. SIGTERM is for the agent alone: it ends its runs itself.
    let _ = write!(
        text,
        "\n[Service]\nType=notify\nNotifyAccess=main\nExecStart={}\n\
         ExecReload=kill -HUP $MAINPID\nSuccessExitStatus=143\nRestart=on-failure\n\
         RestartSec=10s\nWatchdogSec={WATCHDOG_S}s\nTimeoutStopSec={}s\n",
        command.join(" "),
        drain_s.saturating_add(STOP_MARGIN_S),
    );
    if !job.stops {
        text.push_str("KillMode=mixed\n");
    }
    what_it_may(&mut text, program, job, user);
    let target = if user { "default.target" } else { "multi-user.target" };
    let _ = write!(text, "\n[Install]\nWantedBy={target}\n");
    (AGENT.to_owned(), text)
}

fn begin(job: &Job, on_failure: Option<&str>) -> String {
    let mut text = format!("\n[Unit]\nDescription={}\n", plain(&job.title));
    if let Some(unit) = on_failure {
        let _ = writeln!(text, "OnFailure={unit}");
    }
    text
}

fn what_it_may(text: &mut String, program: &Program, job: &Job, user: bool) {
    for (name, value) in &program.environment {
        let _ = writeln!(text, "Environment={}", quoted(&format!("{name}={value}")));
    }
    text.push_str("Nice=10\nIOSchedulingClass=best-effort\n");
    text.push_str("IOSchedulingPriority=7\nUMask=0077\n");
    if job.stops {
        // As the module says: what starts the application again outlives the run.
        text.push_str("KillMode=process\n");
    }
    let _ = write!(text, "\n{COMMON}");
    match job.runs_commands || job.network > Network::Files {
        true => text.push_str("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"),
        false => text.push_str("RestrictAddressFamilies=AF_UNIX\n"),
    }
    for name in &job.credentials {
        // From /etc/credstore, or what the manager itself was given.
        let _ = writeln!(text, "LoadCredential={}", name.replace('%', "%%"));
    }
    if !user {
        sandbox(text, program, job);
    }
}

fn sandbox(text: &mut String, program: &Program, job: &Job) {
    text.push_str(SYSTEM);
    if !job.runs_commands {
        text.push_str(match job.network {
            Network::Files => "PrivateNetwork=yes\nIPAddressDeny=any\n",
            Network::Host => "IPAddressDeny=any\nIPAddressAllow=localhost\n",
            Network::Any => "",
        });
        text.push_str("CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_CHOWN\n");
    }
    // A private /tmp would hide what lies in the real one.
    let temporary = |path: &Path| path.starts_with("/tmp") || path.starts_with("/var/tmp");
    let hidden = job.sees.iter().any(|path| temporary(path))
        || temporary(Path::new(&program.binary))
        || program.config.as_deref().is_some_and(|path| temporary(Path::new(path)));
    match hidden {
        true => text.push_str("PrivateTmp=no\nReadWritePaths=\"-/var/tmp\"\n"),
        false => text.push_str("PrivateTmp=yes\n"),
    }
    // With `-` one that is missing is the backup's error, which says more than systemd's.
    for folder in &job.writes {
        let _ = writeln!(text, "ReadWritePaths={}", quoted(&format!("-{folder}")));
    }
}

fn timer(job: &Job) -> String {
    let mut text = format!("\n[Unit]\nDescription=Schedule: {}\n\n[Timer]\n", plain(&job.title));
    for moment in job.schedule.on_calendar() {
        let _ = writeln!(text, "OnCalendar={moment}");
    }
    let delay_s = job.random_delay_s;
    let _ = write!(
        text,
        "Persistent=true\nRandomizedDelaySec={delay_s}s\nAccuracySec=15s\n\n\
         [Install]\nWantedBy=timers.target\n"
    );
    text
}

/// A source's name as a part of a unit's: other bytes than these as `\xNN`, as systemd does it.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
                text.push(char::from(byte));
            }
            byte => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

/// A text without specifiers, on a line that is not quoted.
fn plain(text: &str) -> String {
    text.replace('%', "%%").replace('\\', "\\\\")
}

/// One word in quotes.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

/// One word of a command, in which systemd would expand variables as well.
pub(crate) fn argument(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "/_-.+:,@".contains(c);
    match !word.is_empty() && word.chars().all(safe) {
        true => word.to_owned(),
        false => quoted(word).replace('$', "$$"),
    }
}

/// Whether systemd is what this system was started with.
pub(crate) fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The manager that the units are for.
pub(crate) struct Manager {
    /// The user's instead of the system's.
    pub(crate) user: bool,
    /// Whether the files are for this system, not for one below another root.
    pub(crate) there: bool,
}

impl Manager {
    /// Stops timers, and an agent, whose files will go.
    pub(crate) fn disable(&self, timers: &[String]) -> Result<()> {
        match timers.is_empty() {
            true => Ok(()),
            false => self.run(&["disable", "--now"], timers),
        }
    }

    /// Reads all units again, and starts these timers with what their files say now.
    pub(crate) fn enable(&self, timers: &[String]) -> Result<()> {
        self.run(&["daemon-reload"], &[])?;
        match timers.is_empty() {
            true => Ok(()),
            false => self.run(&["enable"], timers).and_then(|()| self.run(&["restart"], timers)),
        }
    }

    fn run(&self, arguments: &[&str], timers: &[String]) -> Result<()> {
        if !self.there || !is_running() {
            return Ok(());
        }
        let user = if self.user { &["--user"][..] } else { &[] };
        let output = Command::new("systemctl")
            .args(user)
            .args(arguments)
            .arg("--")
            .args(timers)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Error::io(Kind::Failed, "cannot run systemctl", error))?;
        if output.status.success() {
            return Ok(());
        }
        let command =
            format!("systemctl {} {}", [user, arguments].concat().join(" "), timers.join(" "));
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let message = format!("`{}` ended with {}: {said}", command.trim(), output.status);
        Err(Error::new(Kind::Failed, message)
            .hint("mend what it names, then run the same command again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_words_are_escaped_for_systemd() {
        assert_eq!(escaped("chat-1.db"), "chat-1.db");
        assert_eq!(escaped("a b"), "a\\x20b");
        assert_eq!(escaped("é"), "\\xc3\\xa9");
        assert_eq!(argument("/usr/bin/lifeboat"), "/usr/bin/lifeboat");
        assert_eq!(argument("a \"b\" $c 100%"), "\"a \\\"b\\\" $$c 100%%\"");
        assert_eq!(quoted("A=/x y\\z%"), "\"A=/x y\\\\z%%\"");
    }
}
