//! An OpenSSH server of the distribution on loopback, with keys and a configuration of its own,
//! and a configuration for clients that knows it as `backup-host`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lifeboat_test_support::free_port;
use tempfile::TempDir;

const SERVER: &str = "/usr/sbin/sshd";

/// A server that ends with this value.
pub(crate) struct Sshd {
    folder: TempDir,
    listener: Child,
    port: u16,
}

impl Sshd {
    /// Starts a server; `more` are lines of its configuration. `None`, and a line that says so,
    /// where the host has no OpenSSH server.
    pub(crate) fn start(test: &str, more: &str) -> Option<Sshd> {
        Sshd::start_by(test, more, &[])
    }

    /// The same, started by a command that has the server's command line behind its own.
    pub(crate) fn start_by(test: &str, more: &str, starter: &[&str]) -> Option<Sshd> {
        if !Path::new(SERVER).exists() {
            skipped(test, &format!("there is no {SERVER} (package openssh-server)"));
            return None;
        }
        if user() == "root" {
            // Where the server, run as root, wants to lock up what has no rights.
            let _ = fs::create_dir_all("/run/sshd");
            let _ = fs::set_permissions("/run/sshd", Permissions::from_mode(0o755));
        }
        let folder = tempfile::Builder::new().prefix("lifeboat-sshd-").tempdir().unwrap();
        for name in ["host_key", "user_key", "other_key"] {
            keygen(&folder.path().join(name));
        }
        fs::copy(folder.path().join("user_key.pub"), folder.path().join("authorized_keys"))
            .unwrap();
        fs::write(folder.path().join("more"), more).unwrap();
        let port = free_port();
        let listener = listen(folder.path(), port, more, starter);
        let server = Sshd { folder, listener, port };
        server.write_client_files();
        Some(server)
    }

    fn write_client_files(&self) {
        let key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        let known = format!("[127.0.0.1]:{} {key}", self.port);
        fs::write(self.path("known_hosts"), known).unwrap();
        self.configure_client("user_key", "known_hosts", "");
    }

    /// Writes the configuration of the client anew: which key, which known hosts, and more lines.
    pub(crate) fn configure_client(&self, key: &str, known_hosts: &str, more: &str) {
        let text = format!(
            "{more}\n\
             Host backup-host jump-host\n  HostName 127.0.0.1\n  Port {}\n\
             Host *\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
            self.port,
            user(),
            self.path(key).display(),
            self.path(known_hosts).display(),
        );
        fs::write(self.client_config(), text).unwrap();
    }

    /// A path in the server's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration for clients.
    pub(crate) fn client_config(&self) -> PathBuf {
        self.path("client_config")
    }

    /// Ends all sessions, as a network that breaks would; the server goes on listening.
    pub(crate) fn cut_sessions(&self) -> usize {
        let sessions = descendants(self.listener.id());
        kill(&sessions);
        sessions.len()
    }

    /// All sessions hang: their connections stay, and nothing comes. The server goes on listening.
    pub(crate) fn hang_sessions(&self) -> usize {
        let sessions = descendants(self.listener.id());
        for pid in &sessions {
            let _ = Command::new("kill").args(["-STOP", &pid.to_string()]).output();
        }
        sessions.len()
    }

    /// All of it hangs, whoever comes next too: a host that is there, and says nothing.
    #[allow(dead_code, reason = "the tests of the stores do not use it")]
    pub(crate) fn hang(&self) {
        self.hang_sessions();
        let listener = self.listener.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &listener]).status().unwrap().success());
    }

    /// It goes on.
    #[allow(dead_code, reason = "the tests of the stores do not use it")]
    pub(crate) fn wake(&self) {
        let mut all = descendants(self.listener.id());
        all.push(self.listener.id());
        for pid in all {
            let _ = Command::new("kill").args(["-CONT", &pid.to_string()]).output();
        }
    }

    /// The server goes away, with all its sessions.
    pub(crate) fn stop(&mut self) {
        let sessions = descendants(self.listener.id());
        let _ = self.listener.kill();
        let _ = self.listener.wait();
        kill(&sessions);
    }

    /// It comes back on the same port.
    pub(crate) fn restart(&mut self) {
        let more = fs::read_to_string(self.path("more")).unwrap();
        self.listener = listen(self.folder.path(), self.port, &more, &[]);
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Says that a test does not run, past the harness, which keeps what a passing test prints.
pub(crate) fn skipped(test: &str, why: &str) {
    lifeboat_test_support::skipped(&format!("{test}: {why}"));
}

/// The user of this process, whom the server lets in.
pub(crate) fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn keygen(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    assert!(command.status().unwrap().success());
}

fn listen(folder: &Path, port: u16, more: &str, starter: &[&str]) -> Child {
    let shown = folder.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host_key\nPidFile none\n\
         AuthorizedKeysFile {shown}/authorized_keys\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nMaxStartups 200\nLogLevel VERBOSE\n{}\n{more}\n",
        if more.contains("Subsystem") { "" } else { "Subsystem sftp internal-sftp" },
    );
    fs::write(folder.join("sshd_config"), config).unwrap();
    let mut words: Vec<String> = starter.iter().map(|word| (*word).to_owned()).collect();
    words.extend([SERVER.to_owned(), "-D".to_owned(), "-f".to_owned()]);
    words.extend([format!("{shown}/sshd_config"), "-E".to_owned(), format!("{shown}/log")]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    for _ in 0..12_000 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return child;
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("no server came up: {:?}", fs::read_to_string(folder.join("log")));
}

fn kill(processes: &[u32]) {
    for pid in processes {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
    }
}

/// The processes below one.
fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // Behind the name, which may hold anything: state, parent.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parents.extend(parent.and_then(|parent| parent.parse::<u32>().ok()).map(|of| (pid, of)));
    }
    let mut found = vec![root];
    let mut looked = 0;
    while looked < found.len() {
        let of = found[looked];
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        looked += 1;
    }
    found.split_off(1)
}
