//! Data directories that were restored by hand, and servers on them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lifeboat_core::manifest::Manifest;
use lifeboat_postgres::physical::{ROLE_BASE, ROLE_SERVER_MANIFEST, ROLE_TABLESPACE};
use lifeboat_postgres::{Address, Client};

use crate::support::{Place, options};

/// The user that servers run as here.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let numbers = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(numbers("postgres").or_else(|| numbers("nobody")).unwrap_or((65_534, 65_534)))
}

/// A program of a server of that version.
pub(crate) fn program(major: u32, name: &str) -> PathBuf {
    let finder = Client::new(Address::default(), options()).unwrap();
    let found = finder.programs("initdb").into_iter().find(|program| program.major == major);
    found.unwrap_or_else(|| panic!("PostgreSQL {major}")).path.with_file_name(name)
}

/// A folder that a server may have.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder =
        tempfile::Builder::new().prefix("lifeboat-restored-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A command as the user of servers.
pub(crate) fn as_server(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    command
}

/// Unpacks a backup with `zstd` and `tar` alone, tablespaces beside the data directory.
pub(crate) fn unpack(place: &Place, manifest: &Manifest, folder: &Path) -> PathBuf {
    let data = folder.join("data");
    let mut spaces = Vec::new();
    let store = place.folder.path().join(&manifest.source.name);
    let tar = |stored: &str, to: &Path| {
        fs::create_dir_all(to).unwrap();
        let script = "set -e; zstd -dc \"$1\" | tar -xpf - -C \"$2\"";
        let stored = store.join(stored);
        let status = Command::new("sh").args(["-c", script, "sh"]).arg(stored).arg(to).status();
        assert!(status.unwrap().success());
    };
    for artifact in &manifest.artifacts {
        match artifact.role.as_str() {
            ROLE_BASE => tar(&artifact.name, &data),
            ROLE_TABLESPACE => {
                let (_, oid) = artifact.name.rsplit_once(".ts-").unwrap();
                let oid = oid.split('.').next().unwrap();
                let space = folder.join(format!("space-{oid}"));
                tar(&artifact.name, &space);
                spaces.push((oid.to_owned(), space));
            }
            ROLE_SERVER_MANIFEST => {
                let script = "zstd -dc \"$1\" > \"$2\"";
                let to = data.join("backup_manifest");
                fs::create_dir_all(&data).unwrap();
                let mut command = Command::new("sh");
                command.args(["-c", script, "sh"]).arg(store.join(&artifact.name)).arg(&to);
                assert!(command.status().unwrap().success());
            }
            _ => {}
        }
    }
    for (oid, space) in &spaces {
        std::os::unix::fs::symlink(space, data.join("pg_tblspc").join(oid)).unwrap();
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    own(folder);
    data
}

/// Says where the tablespaces of an unpacked backup are, as README.txt has it: the server makes the
/// links by this file.
pub(crate) fn map_spaces(data: &Path) {
    let mut map = String::new();
    for link in fs::read_dir(data.join("pg_tblspc")).unwrap() {
        let link = link.unwrap();
        let place = fs::read_link(link.path()).unwrap();
        map.push_str(&format!("{} {}\n", link.file_name().to_str().unwrap(), place.display()));
    }
    fs::write(data.join("tablespace_map"), map).unwrap();
}

/// Gives everything in a folder to the user of servers.
pub(crate) fn own(folder: &Path) {
    if let Some((uid, gid)) = server_user() {
        let owner = format!("{uid}:{gid}");
        let status = Command::new("chown").arg("-R").arg(owner).arg(folder).status();
        assert!(status.unwrap().success());
    }
}

/// A server on a data directory. Stopped when dropped.
pub(crate) struct Server {
    child: Child,
    sockets: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(major: u32, data: &Path) -> Server {
        let sockets = folder();
        own(sockets.path());
        let log = fs::File::create(sockets.path().join("log")).unwrap();
        let child = as_server(&program(major, "postgres"))
            .arg("-D")
            .arg(data)
            .args(["-c", "listen_addresses=", "-c", "port=5432", "-c", "fsync=off"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", sockets.path().display()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server { child, sockets };
        for _ in 0..600 {
            let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return server;
            }
            if server.child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let log = fs::read_to_string(server.sockets.path().join("log")).unwrap_or_default();
        panic!("the restored server did not start:\n{log}");
    }

    /// Stops it in order, all written.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn client(&self, database: &str) -> Client {
        let address = Address::default()
            .with("host", self.sockets.path().to_string_lossy())
            .with("port", "5432")
            .with("user", "postgres")
            .with_database(database);
        Client::new(address, options()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            let _ = self.child.wait();
        }
    }
}
