//! Who is measured, and with which commands.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::server::{BUCKET, KEY, SECRET, Server};
use crate::bench::measure::allocated_bytes;
use crate::object_storage;
use crate::process::{is_there, run};

/// The guide's script, and then what its chapter on copies elsewhere says.
const GUIDE: &str = r#"
set -e
sqlite3 "$1" ".backup '$2/app.db'"
sqlite3 "$2/app.db" "PRAGMA integrity_check;"
gzip "$2/app.db"
python3 -m awscli s3 sync "$2" "s3://$3/guide/" --endpoint-url "$4" --only-show-errors
"#;
const GUIDE_BACK: &str = r#"
set -e
python3 -m awscli s3 sync "s3://$2/guide/" "$1" --endpoint-url "$3" --only-show-errors
gunzip "$1/app.db.gz"
"#;

pub(super) const LOCAL: &str = "lifeboat, to a folder";
pub(super) const BUCKET_OURS: &str = "lifeboat, to a bucket";
/// Client and server have a core each: then what the server does is not taken from the client.
pub(super) const LOCAL_APART: &str = "lifeboat on one core, to a folder";
pub(super) const BUCKET_APART: &str = "lifeboat on one core, to a bucket on the other";
pub(super) const RESTIC: &str = "restic, of the `.backup` file";
pub(super) const AWS: &str = "the guide: .backup, gzip, aws s3 sync";
pub(super) const COPY: &str = "sqlite3 .backup alone";
pub(super) const FLOOR: &str = "the same bytes by curl alone";

/// Where everything happens.
pub(super) struct Place {
    pub(super) database: PathBuf,
    pub(super) arena: PathBuf,
    pub(super) said: PathBuf,
    pub(super) lifeboat: PathBuf,
    pub(super) server: Server,
}

/// One way to back up and restore.
pub(super) struct Way {
    pub(super) name: &'static str,
    /// What comes before the clock starts.
    pub(super) prepare: fn(&Place, SocketAddr) -> Result<()>,
    pub(super) backup: fn(&Place, SocketAddr) -> Command,
    pub(super) restore: Option<fn(&Place, SocketAddr) -> Command>,
    /// Whether it asks the server for anything.
    pub(super) uses_server: bool,
    /// Whether the server keeps to a core of its own meanwhile.
    pub(super) is_apart: bool,
}

/// All of them, and who is missing on this host.
pub(super) fn all() -> (Vec<Way>, Vec<&'static str>) {
    let nothing: fn(&Place, SocketAddr) -> Result<()> = |_, _| Ok(());
    let mut all = vec![
        Way {
            name: LOCAL,
            prepare: nothing,
            backup: |place, _| place.ours(&["backup"], &place.folder_url(), None),
            restore: Some(|place, _| place.restore_ours(&place.folder_url(), None)),
            uses_server: false,
            is_apart: false,
        },
        Way {
            name: BUCKET_OURS,
            prepare: nothing,
            backup: |place, at| place.ours(&["backup"], &bucket_url(), Some(at)),
            restore: Some(|place, at| place.restore_ours(&bucket_url(), Some(at))),
            uses_server: true,
            is_apart: false,
        },
    ];
    let mut missing = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match is_there("taskset") && cores > 1 {
        true => all.extend(apart()),
        false => missing.push("taskset, or a second core"),
    }
    match is_there("curl") {
        true => all.push(Way {
            name: FLOOR,
            prepare: nothing,
            backup: |place, at| place.curl(at, |curl| curl.arg("-T").arg(place.artifact())),
            restore: Some(|place, at| {
                place.curl(at, |curl| curl.arg("-o").arg(place.restored().join("artifact")))
            }),
            uses_server: true,
            is_apart: false,
        }),
        false => missing.push("curl"),
    }
    all.push(Way {
        name: COPY,
        prepare: nothing,
        backup: |place, _| place.copy_command(),
        restore: None,
        uses_server: false,
        is_apart: false,
    });
    match is_there("restic") {
        true => all.push(Way {
            name: RESTIC,
            prepare: |place, at| {
                run(&mut place.copy_command())?;
                run(place.restic(at).arg("init").stdout(std::process::Stdio::null()))
            },
            backup: |place, at| with(place.restic(at), |it| it.arg("backup").arg(place.copy())),
            restore: Some(|place, at| {
                with(place.restic(at), |it| {
                    it.args(["restore", "latest", "--target"]).arg(place.restored())
                })
            }),
            uses_server: true,
            is_apart: false,
        }),
        false => missing.push("restic"),
    }
    match object_storage::awscli().is_some() {
        true => all.push(Way {
            name: AWS,
            prepare: nothing,
            backup: |place, at| {
                let mut command = place.bash(GUIDE);
                command.arg(&place.database).arg(place.folder("local"));
                with(command, |it| it.arg(BUCKET).arg(format!("http://{at}")))
            },
            restore: Some(|place, at| {
                let mut command = place.bash(GUIDE_BACK);
                command.arg(place.restored()).arg(BUCKET);
                with(command, |it| it.arg(format!("http://{at}")))
            }),
            uses_server: true,
            is_apart: false,
        }),
        false => missing.push("the command-line program of Amazon"),
    }
    (all, missing)
}

/// Ours once more, the client on the first core and the server on the second. Restores with the
/// check that they have.
fn apart() -> [Way; 2] {
    let prepare: fn(&Place, SocketAddr) -> Result<()> = |_, _| Ok(());
    [
        Way {
            name: LOCAL_APART,
            prepare,
            backup: |place, _| on_one_core(&place.ours(&["backup"], &place.folder_url(), None)),
            restore: Some(|place, _| {
                on_one_core(&place.restore_checked(&place.folder_url(), None))
            }),
            uses_server: false,
            is_apart: true,
        },
        Way {
            name: BUCKET_APART,
            prepare,
            backup: |place, at| on_one_core(&place.ours(&["backup"], &bucket_url(), Some(at))),
            restore: Some(|place, at| on_one_core(&place.restore_checked(&bucket_url(), Some(at)))),
            uses_server: true,
            is_apart: true,
        },
    ]
}

/// The same command on the first core alone.
fn on_one_core(command: &Command) -> Command {
    let mut alone = Command::new("taskset");
    alone.args(["-c", "0"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => alone.env(name, value),
            None => alone.env_remove(name),
        };
    }
    alone
}

fn with(mut command: Command, more: impl FnOnce(&mut Command) -> &mut Command) -> Command {
    more(&mut command);
    command
}

fn bucket_url() -> String {
    format!("s3://{BUCKET}/chat")
}

impl Place {
    fn folder(&self, name: &str) -> PathBuf {
        self.arena.join(name)
    }

    fn folder_url(&self) -> String {
        format!("file://{}", self.folder("local").display())
    }

    pub(super) fn restored(&self) -> PathBuf {
        self.folder("restored")
    }

    /// Where a copy of the newest artifact is that we stored.
    fn artifact(&self) -> PathBuf {
        self.folder("artifact")
    }

    fn copy(&self) -> PathBuf {
        self.folder("copy/app.db")
    }

    /// Nothing is left of the way before, and nothing is still being written.
    pub(super) fn clear(&self) -> Result<()> {
        self.server.empty()?;
        for name in ["local", "restored", "copy", "home"] {
            let folder = self.folder(name);
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(folder)?;
        }
        self.settle()
    }

    pub(super) fn settle(&self) -> Result<()> {
        run(&mut Command::new("sync"))?;
        std::io::copy(&mut fs::File::open(&self.database)?, &mut std::io::sink())?;
        Ok(())
    }

    /// Keeps the database's artifact of the local repository for the floor.
    pub(super) fn keep_artifact(&self) -> Result<()> {
        for entry in fs::read_dir(self.folder("local/app"))? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(".db.zst") {
                fs::copy(path, self.artifact())?;
                return Ok(());
            }
        }
        bail!("no artifact in {}", self.folder("local/app").display())
    }

    /// Bytes that a way stored, in the folder or at the server.
    pub(super) fn stored_bytes(&self, way: &Way) -> u64 {
        match (way.name, way.uses_server) {
            (COPY, _) => allocated_bytes(&[self.folder("copy")]),
            (_, true) => allocated_bytes(&[self.server.folder.join(BUCKET)]),
            (_, false) => allocated_bytes(&[self.folder("local")]),
        }
    }

    /// What was restored is the database, or what was made of it.
    pub(super) fn compare(&self, way: &Way) -> Result<()> {
        let compare = |a: &Path, b: &Path| run(Command::new("cmp").arg(a).arg(b));
        let restored = self.restored();
        match way.name {
            LOCAL | BUCKET_OURS | LOCAL_APART | BUCKET_APART => {
                compare(&self.database, &restored.join("app.db"))
            }
            FLOOR => compare(&self.artifact(), &restored.join("artifact")),
            RESTIC => {
                let copy = self.copy();
                compare(&copy, &restored.join(copy.strip_prefix("/").unwrap_or(&copy)))
            }
            _ => {
                let sizes =
                    (self.database.metadata()?.len(), restored.join("app.db").metadata()?.len());
                match sizes.1 * 10 >= sizes.0 * 9 {
                    true => Ok(()),
                    false => bail!("{} of {} bytes came back", sizes.1, sizes.0),
                }
            }
        }
    }

    /// A command that knows the server's keys, and nothing of this host's settings.
    pub(super) fn command(&self, program: &Path, at: Option<SocketAddr>) -> Command {
        let mut command = Command::new(program);
        let home = self.folder("home");
        command.env("HOME", &home).env("TMPDIR", &home);
        for variable in ["XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(variable, &home);
        }
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_DEFAULT_REGION", "us-east-1");
        command.env_remove("LIFEBOAT_CONFIG");
        if let Some(at) = at {
            command.env("AWS_ENDPOINT_URL", format!("http://{at}"));
        }
        command
    }

    fn ours(&self, arguments: &[&str], url: &str, at: Option<SocketAddr>) -> Command {
        let mut command = self.command(&self.lifeboat, at);
        command.args(arguments).args(["--repo", url, "--quiet"]).arg(&self.database);
        command
    }

    /// Our program with those arguments, on the repository in the bucket.
    pub(super) fn ours_in_bucket(&self, arguments: &[&str], at: SocketAddr) -> Command {
        let mut command = self.command(&self.lifeboat, Some(at));
        command.args(arguments).args(["--repo", &bucket_url()]);
        command
    }

    fn restore_ours(&self, url: &str, at: Option<SocketAddr>) -> Command {
        let mut command = self.restore_checked(url, at);
        command.args(["--check", "none"]);
        command
    }

    fn restore_checked(&self, url: &str, at: Option<SocketAddr>) -> Command {
        let mut command = self.command(&self.lifeboat, at);
        command.args(["restore", "app@latest", "--repo", url, "--quiet"]);
        command.args(["--yes", "--to"]).arg(self.restored().join("app.db"));
        command
    }

    fn copy_command(&self) -> Command {
        let mut command = self.command(Path::new("sqlite3"), None);
        command.arg(&self.database).arg(format!(".backup '{}'", self.copy().display()));
        command
    }

    fn restic(&self, at: SocketAddr) -> Command {
        let mut command = self.command(Path::new("restic"), None);
        command.args(["--quiet", "--repo", &format!("s3:http://{at}/{BUCKET}/restic")]);
        command.env("RESTIC_PASSWORD", "a password of the benchmark");
        command
    }

    fn curl(
        &self,
        at: SocketAddr,
        more: impl for<'a> FnOnce(&'a mut Command) -> &'a mut Command,
    ) -> Command {
        let mut command = self.command(Path::new("curl"), None);
        command.args(["--silent", "--show-error", "--fail", "--user", &format!("{KEY}:{SECRET}")]);
        command.args(["--aws-sigv4", "aws:amz:us-east-1:s3"]);
        command.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        more(&mut command).arg(format!("http://{at}/{BUCKET}/artifact"));
        command
    }

    fn bash(&self, script: &str) -> Command {
        let mut command = self.command(Path::new("bash"), None);
        command.env("PYTHONPATH", object_storage::awscli().unwrap_or_default());
        command.args(["-c", script, "bench"]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_a_name_of_its_own() {
        let (ways, missing) = all();
        let mut names: Vec<&str> = ways.iter().map(|way| way.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ways.len());
        let apart = usize::from(ways.iter().any(|way| way.is_apart));
        assert!(ways.len() + missing.len() == 7 + apart, "{names:?} {missing:?}");
    }
}
