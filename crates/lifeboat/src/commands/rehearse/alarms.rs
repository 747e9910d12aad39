//! Each way to break something, and the alarm that is to come.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::CLUSTER_KIND;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Break;
use super::yard::{Ran, Yard, failed};

/// So much of a database fits into the full disk of a rehearsal: the beginning of a backup.
const SMALL_DISK: &str = "16k";

/// What was broken, and what was said of it.
pub(super) struct Alarm {
    /// What was broken.
    pub(super) broken: String,
    /// The command that noticed it.
    pub(super) command: String,
    /// Its exit code.
    pub(super) code: i32,
    /// The exit code of this alarm.
    pub(super) expected: u8,
    /// What it said.
    pub(super) said: String,
}

impl Alarm {
    fn of(broken: impl Into<String>, expected: Kind, ran: Ran) -> Self {
        let Ran { command, code, said } = ran;
        Alarm { broken: broken.into(), command, code, expected: expected.exit_code(), said }
    }

    /// Whether it came: the exit code that is documented, and words.
    pub(super) fn came(&self) -> bool {
        self.code == i32::from(self.expected) && !self.said.trim().is_empty()
    }
}

/// Breaks it, and runs what is to notice.
pub(super) fn rehearse(env: &Env, yard: &Yard, what: Break) -> Result<Alarm> {
    match what {
        Break::Bitflip => bitflip(yard),
        Break::WalGap => wal_gap(env, yard),
        Break::WrongKey => wrong_key(yard),
        Break::DiskFull => disk_full(yard),
        Break::Stale => stale(env, yard),
        Break::StoreDown => store_down(yard),
    }
}

/// A repository with the backup of a source, or with one that is made up: its path, the folder in
/// it, and the backup's name.
fn some_backup(yard: &Yard) -> Result<(&'static str, String, String)> {
    if let Some(copied) = &yard.copied {
        return Ok(("repo", copied.folder.clone(), copied.manifest.name.clone()));
    }
    let database = yard.made()?;
    if !yard.has("made") {
        yard.prepare(&["backup", &database.to_string_lossy(), "--repo", &yard.text("made")])?;
    }
    let name = newest_of(&yard.path("made/made"))?;
    Ok(("made", "made".to_owned(), name))
}

/// The name of the only backup of a folder that was just made.
fn newest_of(folder: &Path) -> Result<String> {
    let names = fs::read_dir(folder).map_err(|error| failed("list", &error))?.flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut manifests: Vec<String> = names
        .filter(|name| name != "source.json")
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .collect();
    manifests.sort();
    manifests.pop().ok_or_else(|| Error::new(Kind::Failed, "the backup made up is not there"))
}

/// The largest stored file of a backup.
fn largest(folder: &Path, name: &str) -> Result<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).map_err(|error| failed("list", &error))?.flatten();
    let of_it = entries.filter(|entry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        file.starts_with(&format!("{name}.")) && !file.ends_with(".json")
    });
    let sized = of_it.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())));
    let largest = sized.max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes > 0);
    largest.ok_or_else(|| Error::new(Kind::Failed, format!("{name} has no artifact")))
}

fn bitflip(yard: &Yard) -> Result<Alarm> {
    let (repo, folder, name) = some_backup(yard)?;
    let (path, bytes) = largest(&yard.path(repo).join(&folder), &name)?;
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| failed("write in", &error))?;
    let (at, mut byte) = (bytes / 2, [0]);
    let flip = |byte: &mut [u8; 1]| {
        file.read_exact_at(byte, at)?;
        byte[0] ^= 0x10;
        file.write_all_at(byte, at)
    };
    flip(&mut byte).map_err(|error| failed("write in", &error))?;
    let ran = yard.run(&["verify", &name, "--level", "hash", "--repo", &yard.text(repo)])?;
    // Whole again for what is rehearsed next.
    flip(&mut byte).map_err(|error| failed("write in", &error))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Alarm::of(
        format!("one bit of byte {at} of {file} was changed, as an old disk does it"),
        Kind::CheckFailed,
        ran,
    ))
}

fn wal_gap(env: &Env, yard: &Yard) -> Result<Alarm> {
    let own = yard.copied.as_ref().map(|copied| {
        let folder = yard.path("repo").join(&copied.folder);
        let log = match copied.manifest.source.kind.as_str() {
            CLUSTER_KIND => folder.join("wal"),
            _ => folder.join("log").join(&copied.manifest.name),
        };
        (copied, files_below(&log))
    });
    if let Some((copied, files)) = &own
        && files.len() >= 3
    {
        let name = &copied.manifest.name;
        let back = format!("{}@latest", copied.folder);
        let middle = &files[files.len() / 2];
        let ran = without(middle, || {
            let (to, repo) = (yard.text("gap.db"), yard.text("repo"));
            yard.run(&["restore", &back, "--to", &to, "--repo", &repo])
        })?;
        let file = middle.file_name().unwrap_or_default().to_string_lossy();
        let broken = format!("{file} in the middle of the log of {name} was removed");
        return Ok(Alarm::of(broken, Kind::NotCovered, ran));
    }
    let (database, repo) = (yard.made()?, yard.text("gap"));
    let database = database.to_string_lossy().into_owned();
    yard.prepare(&["backup", &database, "--repo", &repo])?;
    for _ in 0..3 {
        yard.change(env.clock.now())?;
        yard.prepare(&["backup", &database, "--incremental", "--repo", &repo])?;
    }
    let files = files_below(&yard.path("gap/made/log"));
    let middle = files
        .get(files.len() / 2)
        .ok_or_else(|| Error::new(Kind::Failed, "the incremental backups made up left no log"))?;
    let ran = without(middle, || {
        yard.run(&["restore", "made@latest", "--to", &yard.text("gap.db"), "--repo", &repo])
    })?;
    let whose = match own {
        Some(_) => "the source has no log of three files or more, so one was made up: ",
        None => "",
    };
    let file = middle.file_name().unwrap_or_default().to_string_lossy();
    let broken = format!("{whose}{file} in the middle of the log was removed");
    Ok(Alarm::of(broken, Kind::NotCovered, ran))
}

/// All files below a folder, sorted by their paths.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(files_below(&path)),
            path => files.push(path),
        }
    }
    files.sort();
    files
}

/// Does something while a file is away.
fn without(path: &Path, run: impl FnOnce() -> Result<Ran>) -> Result<Ran> {
    let mut away = path.as_os_str().to_owned();
    away.push(".away");
    // A name that begins with a dot is no object.
    let hidden = Path::new(&away).with_file_name(".rehearsal.away");
    fs::rename(path, &hidden).map_err(|error| failed("move a file in", &error))?;
    let ran = run();
    fs::rename(&hidden, path).map_err(|error| failed("move a file in", &error))?;
    ran
}

fn wrong_key(yard: &Yard) -> Result<Alarm> {
    let other = yard.text("other.key");
    if !yard.has("other.key") {
        yard.prepare(&["key", "new", &other])?;
    }
    let sealed = yard.copied.as_ref().filter(|copied| {
        copied.manifest.artifacts.iter().any(|artifact| artifact.name.ends_with(".age"))
    });
    let (name, repo, broken) = match sealed {
        Some(copied) => {
            let name = copied.manifest.name.clone();
            (name, yard.text("repo"), "the copy is opened with a key that was made just now")
        }
        None => {
            let name = sealed_up(yard)?;
            let broken = match yard.copied {
                Some(_) => {
                    "the source is not sealed, so a database made up was, and is opened with \
                     another key"
                }
                None => "a database made up was sealed, and is opened with another key",
            };
            (name, yard.text("sealed"), broken)
        }
    };
    let to = yard.text("wrong.db");
    let ran = yard.run(&["restore", &name, "--to", &to, "--identity", &other, "--repo", &repo])?;
    Ok(Alarm::of(broken, Kind::WrongKey, ran))
}

/// A database made up, sealed to a key of its own: the backup's name.
fn sealed_up(yard: &Yard) -> Result<String> {
    let (key, config) = (yard.text("own.key"), yard.path("sealed.toml"));
    if !yard.has("sealed") {
        yard.prepare(&["key", "new", &key])?;
        let text = fs::read_to_string(&key).map_err(|error| failed("read in", &error))?;
        let recipient = text.split_whitespace().find(|word| word.starts_with("age1"));
        let recipient = recipient.ok_or_else(|| {
            Error::new(Kind::Failed, "the key made for the rehearsal names no recipient")
        })?;
        let text = format!(
            "[repository.sealed]\nurl = \"file://{}\"\nencrypt_to = [\"{recipient}\"]\n",
            yard.text("sealed")
        );
        fs::write(&config, text).map_err(|error| failed("write in", &error))?;
        let database = yard.made()?;
        yard.prepare(&[
            "backup",
            &database.to_string_lossy(),
            "--config",
            &config.to_string_lossy(),
        ])?;
    }
    newest_of(&yard.path("sealed/made"))
}

fn disk_full(yard: &Yard) -> Result<Alarm> {
    let (database, small) = (yard.made()?, yard.text("small"));
    fs::create_dir_all(&small).map_err(|error| failed("make a folder in", &error))?;
    // A file system of its own, in a namespace of its own: really full, and gone with the process.
    let mount = format!("mount -t tmpfs -o size={SMALL_DISK} tmpfs \"$0\" || exit 99; exec \"$@\"");
    let before =
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount, small.as_str()];
    let database = database.to_string_lossy().into_owned();
    let words = ["backup", &database, "--repo", &small];
    let ran = yard.run_behind(&before, &words, &[]);
    match ran {
        Ok(ran) if ran.code != 99 && !ran.said.starts_with("unshare:") => {
            let broken = format!("a database made up goes to a disk of {SMALL_DISK}B, a real one");
            Ok(Alarm::of(broken, Kind::NoSpace, ran))
        }
        not_mounted => {
            let why = not_mounted.map_or_else(|error| error.to_string(), |ran| ran.said);
            Err(Error::new(
                Kind::Incomplete,
                format!("no small file system can be made here: {why}"),
            )
            .hint("run it as root, or allow user namespaces"))
        }
    }
}

fn stale(env: &Env, yard: &Yard) -> Result<Alarm> {
    let (repo, folder, name) = some_backup(yard)?;
    // One that is made up was made just now.
    let taken_at = yard.copied.as_ref().map_or(env.clock.now(), |copied| copied.manifest.taken_at);
    let later = taken_at.checked_add(SignedDuration::from_hours(2)).unwrap_or(taken_at);
    let (later, repo) = (later.to_string(), yard.text(repo));
    let words = ["status", &folder, "--repo", &repo, "--max-age", "1h", "--now", &later];
    let ran = yard.run(&words)?;
    let broken = format!("two hours passed after {name}, and one hour is promised");
    Ok(Alarm::of(broken, Kind::Stale, ran))
}

fn store_down(yard: &Yard) -> Result<Alarm> {
    let database = yard.made()?;
    let (_held, port) = silent_port().map_err(|error| failed("find a port for", &error.into()))?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let database = database.to_string_lossy().into_owned();
    let words = ["backup", &database, "--repo", "s3://rehearsal/down"];
    let ran = yard.run_behind(&[], &words, &[("AWS_ENDPOINT_URL", &endpoint)])?;
    let broken = format!("nobody answers at {endpoint}; it is tried again for a while");
    Ok(Alarm::of(broken, Kind::StoreUnavailable, ran))
}

/// A port at which nobody listens, and nobody else can while it is held.
fn silent_port() -> rustix::io::Result<(OwnedFd, u16)> {
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let bound = SocketAddrV4::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}
