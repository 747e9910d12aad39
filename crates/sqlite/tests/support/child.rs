//! Other processes: the test binary starts itself again. Locks of one process do not conflict
//! with each other, only a process can be killed, and only a process can be another user.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;

const ROLE_VARIABLE: &str = "LIFEBOAT_TEST_ROLE";
const PATH_VARIABLE: &str = "LIFEBOAT_TEST_PATH";
/// The user "nobody" of most systems.
const NOBODY: u32 = 65_534;

/// What another process does with a database, until it is killed or told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Has it open, without a transaction.
    Open,
    /// Has read, and keeps its read transaction.
    Read,
    /// Has it for itself.
    Exclusive,
    /// Has committed 3,000 rows to table `t` that are in the `-wal` alone.
    UncopiedRows,
}

const ROLES: [(&str, Role); 4] = [
    ("open", Role::Open),
    ("read", Role::Read),
    ("exclusive", Role::Exclusive),
    ("uncopied-rows", Role::UncopiedRows),
];

/// Such a process, killed with the value.
pub(crate) struct Other(Child);

impl Other {
    /// Starts it, and returns when it is where it should be.
    pub(crate) fn begin(path: &Path, role: Role) -> Self {
        let name = ROLES.iter().find(|known| known.1 == role).unwrap().0;
        let mut child = itself(&std::env::current_exe().unwrap(), path, name);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(b"ready") {
            output.read_exact(&mut byte).expect("the other process comes to its place");
            seen.push(byte[0]);
        }
        Other(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Captures a database as a user who may not write where it lies, and returns the image and the
/// warnings, or the error.
pub(crate) fn capture_as_nobody(path: &Path) -> Result<(Vec<u8>, String), String> {
    let folder = tempfile::tempdir().unwrap();
    let everybody = PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), everybody).unwrap();
    let program = folder.path().join("program");
    lifeboat_test_support::copied_program(&std::env::current_exe().unwrap(), &program);
    let mut command = itself(&program, path, "capture");
    command.env("LIFEBOAT_TEST_OUTPUT", folder.path());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let output = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let text = String::from_utf8(output("text")).unwrap();
    match folder.path().join("image").exists() {
        true => Ok((output("image"), text)),
        false => Err(text),
    }
}

fn itself(program: &Path, path: &Path, role: &str) -> Command {
    let mut command = Command::new(program);
    command
        .args(["support::child::process", "--exact", "--nocapture"])
        .env(ROLE_VARIABLE, role)
        .env(PATH_VARIABLE, path);
    command
}

/// Not a test but the process; passes at once in an ordinary run.
#[test]
fn process() {
    let (Some(path), Ok(role)) = (std::env::var_os(PATH_VARIABLE), std::env::var(ROLE_VARIABLE))
    else {
        return;
    };
    let path = PathBuf::from(path);
    if role == "capture" {
        let output = PathBuf::from(std::env::var_os("LIFEBOAT_TEST_OUTPUT").unwrap());
        return capture_to(&path, &output);
    }
    let connection = Connection::open(&path).unwrap();
    match ROLES.iter().find(|known| known.0 == role).unwrap().1 {
        Role::Open => connection.execute_batch("SELECT * FROM sqlite_schema").unwrap(),
        Role::Read => {
            connection.execute_batch("BEGIN").unwrap();
            connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
                .unwrap();
        }
        Role::Exclusive => connection.execute_batch("BEGIN EXCLUSIVE").unwrap(),
        Role::UncopiedRows => connection
            .execute_batch(
                "PRAGMA wal_autocheckpoint = 0;
                 WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3000)
                 INSERT INTO t(body) SELECT hex(randomblob(40)) FROM c;",
            )
            .unwrap(),
    }
    print!("ready");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(300));
}

fn capture_to(path: &Path, output: &Path) {
    let options = super::options(lifeboat_core::manifest::CheckLevel::Quick);
    let text = match super::capture_with(path, &options, 1 << 16, Box::new(|_| {})) {
        Ok(captured) => {
            std::fs::write(output.join("image"), &captured.image).unwrap();
            let rows = captured.report.rows.unwrap_or_default();
            format!("{:?} {:?} {rows:?}", captured.report.warnings, captured.report.check_deferred)
        }
        Err(error) => format!("{error:?}"),
    };
    std::fs::write(output.join("text"), text).unwrap();
}
