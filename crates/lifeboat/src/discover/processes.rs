//! What the processes of a host have open, out of `/proc`.
//!
//! A process in a container calls its files by paths of its own. Device and inode tell whether
//! the path means the same file here; where not, they find the file under its name on this host.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_sqlite::glance;

use super::{Search, rules};

/// More of a list of mapped files than this is not read.
const MAPS_BYTES_MAX: u64 = 8 << 20;

/// Units that start programs of others, and are not what has a database open.
const LAUNCHERS: &[&str] =
    &["cron", "crond", "atd", "ssh", "sshd", "docker", "containerd", "podman", "anacron"];

/// A process that has a database open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opener {
    /// Its number.
    pub(crate) pid: u32,
    /// Its name, as `ps` shows it.
    pub(crate) name: String,
    /// The unit of the system that it belongs to: what stops and starts it.
    pub(crate) unit: Option<String>,
    /// Whether what it has open was seen to be a database; not known before it is looked at.
    pub(super) is_database: bool,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    by_path: BTreeMap<PathBuf, Vec<Opener>>,
    elsewhere: Vec<((u64, u64), PathBuf, Opener)>,
    removed: BTreeSet<(PathBuf, String, u32)>,
    denied: usize,
    /// The folders that servers of PostgreSQL run on.
    pub(super) clusters: Vec<(u32, Option<PathBuf>)>,
}

impl Seen {
    /// Files with whoever has them open.
    pub(super) fn by_path(&self) -> impl Iterator<Item = (&Path, &[Opener])> {
        self.by_path.iter().map(|(path, openers)| (path.as_path(), openers.as_slice()))
    }

    /// Files that are called otherwise here, or not at all.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = (&(u64, u64), &Path, &Opener)> {
        self.elsewhere.iter().map(|(identity, path, opener)| (identity, path.as_path(), opener))
    }

    /// What could not be seen.
    pub(super) fn notes(&self) -> Option<String> {
        let processes = match self.denied {
            0 => return None,
            1 => "1 process".to_owned(),
            count => format!("{count} processes"),
        };
        Some(format!(
            "the open files of {processes} cannot be seen by this user: run it as root to see them"
        ))
    }

    /// Databases that were removed while a process has them open.
    pub(super) fn removed(&self) -> impl Iterator<Item = String> {
        self.removed.iter().map(|(path, name, pid)| {
            format!(
                "{name} ({pid}) has {} open, which was removed or replaced: what it writes there \
                 is lost when it ends, and no backup has it",
                path.display()
            )
        })
    }
}

/// Looks at all processes but our own.
pub(super) fn look(search: &Search) -> Seen {
    let mut seen = Seen::default();
    let own = std::process::id();
    let proc = search.real(Path::new("/proc"));
    let mut pids: Vec<u32> = fs::read_dir(&proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids.into_iter().filter(|&pid| !search.is_here() || pid != own) {
        let process = Process { search, folder: proc.join(pid.to_string()), pid };
        process.look(&mut seen);
    }
    seen
}

struct Process<'a> {
    search: &'a Search,
    folder: PathBuf,
    pid: u32,
}

impl Process<'_> {
    fn look(&self, seen: &mut Seen) {
        let name = self.text("comm").trim_end().to_owned();
        if matches!(name.as_str(), "postgres" | "postmaster") {
            self.server(seen);
        }
        let opener =
            Opener { pid: self.pid, name, unit: unit(&self.text("cgroup")), is_database: false };
        let mut paths = BTreeSet::new();
        match fs::read_dir(self.folder.join("fd")) {
            Ok(descriptors) => {
                for descriptor in descriptors.flatten() {
                    self.descriptor(&descriptor.path(), &opener, &mut paths, seen);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => seen.denied += 1,
            // It has ended, or is one of the kernel's own.
            Err(_) => {}
        }
        self.maps(&mut paths);
        for path in paths {
            seen.by_path.entry(path).or_default().push(opener.clone());
        }
    }

    fn descriptor(
        &self,
        descriptor: &Path,
        opener: &Opener,
        paths: &mut BTreeSet<PathBuf>,
        seen: &mut Seen,
    ) {
        let Ok(target) = fs::read_link(descriptor) else { return };
        let Some(path) = of_a_database(&target) else { return };
        if let Some(path) = without_mark(&path) {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            let lasting = rules::open_file(&path, self.search.meant(&path)).is_none();
            let is_main = path.extension().is_some() && rules::may_be_database(&name);
            // A copy of ours that is open still is what a restore has replaced.
            if lasting && is_main && self.is_database(descriptor) {
                seen.removed.insert((path, opener.name.clone(), opener.pid));
            }
            return;
        }
        if !self.search.is_here() {
            paths.insert(path);
            return;
        }
        let identity = |path: &Path| {
            fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|it| (it.dev(), it.ino()))
        };
        let Some(open) = identity(descriptor) else { return };
        match identity(&target) {
            Some(here) if here == open => drop(paths.insert(path)),
            _ if path == target => {
                let is_database = self.is_database(descriptor);
                let opener = Opener { is_database, ..opener.clone() };
                if is_database {
                    seen.elsewhere.push((open, path, opener));
                }
            }
            _ => {}
        }
    }

    /// Whether what a descriptor has open begins as a database does.
    fn is_database(&self, descriptor: &Path) -> bool {
        self.search.is_here() && glance(descriptor).is_ok_and(|found| found.is_some())
    }

    /// Shared memory of databases in WAL mode, which is mapped while it is in use.
    fn maps(&self, paths: &mut BTreeSet<PathBuf>) {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.folder.join("maps"));
        let read = file.and_then(|file| file.take(MAPS_BYTES_MAX).read_to_end(&mut bytes));
        if read.is_err() {
            return;
        }
        for line in bytes.split(|&byte| byte == b'\n') {
            let Some(start) = line.iter().position(|&byte| byte == b'/') else { continue };
            let Some(main) = line[start..].strip_suffix(b"-shm") else { continue };
            let path = PathBuf::from(OsStr::from_bytes(main));
            // In a container the path means something else: its descriptors tell.
            let is_ours = !self.search.is_here() || paths.contains(&path);
            if is_ours {
                paths.insert(path);
            }
        }
    }

    /// A server of PostgreSQL names its folder on its command line.
    fn server(&self, seen: &mut Seen) {
        let command = self.text("cmdline");
        let mut words = command.split('\0');
        // Its workers have other titles, one word.
        if words.next().is_some_and(|program| program.contains(':')) {
            return;
        }
        let words: Vec<&str> = words.collect();
        let folder = words.iter().position(|word| *word == "-D").and_then(|at| words.get(at + 1));
        let joined =
            words.iter().find_map(|word| word.strip_prefix("-D")).filter(|it| !it.is_empty());
        if let Some(folder) = folder.copied().or(joined) {
            seen.clusters.push((self.pid, Some(PathBuf::from(folder))));
        }
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The database that an open file belongs to; `None` for what is no file of a disk.
fn of_a_database(target: &Path) -> Option<PathBuf> {
    const NOT_FILES: &[&str] = &["/dev", "/proc", "/sys", "/memfd:", "/run", "/[", "/anon_"];
    let bytes = target.as_os_str().as_bytes();
    let is_file = target.is_absolute()
        && !NOT_FILES.iter().any(|start| bytes.starts_with(start.as_bytes()))
        && target.file_name().is_some();
    if !is_file {
        return None;
    }
    let sides = [&b"-wal"[..], b"-shm", b"-journal"];
    let main = sides.iter().find_map(|side| bytes.strip_suffix(*side)).unwrap_or(bytes);
    Some(PathBuf::from(OsStr::from_bytes(main)))
}

/// The path of a file that was removed while it was open.
fn without_mark(path: &Path) -> Option<PathBuf> {
    let path = path.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// The system's unit of a process, out of its control groups.
fn unit(cgroup: &str) -> Option<String> {
    let lines =
        cgroup.lines().filter(|line| line.starts_with("0::") || line.contains("name=systemd"));
    let path = lines.filter_map(|line| line.splitn(3, ':').nth(2)).next()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // What runs in a user's own manager, or in a session, is none of the system's.
    if parts.next()? != "system.slice" {
        return None;
    }
    let unit = parts.find(|part| part.ends_with(".service"))?;
    let name = unit.trim_end_matches(".service");
    let is_launcher = LAUNCHERS.contains(&name)
        || ["systemd-", "getty@", "user@"].iter().any(|start| name.starts_with(start));
    (!is_launcher && !unit.contains('\\')).then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_the_system() {
        let unit_of = |text: &str| unit(text);
        assert_eq!(unit_of("0::/system.slice/superchat.service\n").unwrap(), "superchat.service");
        assert_eq!(
            unit_of("12:cpu:/x\n1:name=systemd:/system.slice/a@1.service/sub\n").unwrap(),
            "a@1.service"
        );
        for none in [
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service\n",
            "0::/system.slice/docker-0a.scope\n",
            "0::/system.slice/cron.service\n",
            "0::/\n",
            "",
        ] {
            assert_eq!(unit_of(none), None, "{none}");
        }
    }

    #[test]
    fn side_files_lead_to_their_database() {
        let main = |text: &str| of_a_database(Path::new(text));
        assert_eq!(main("/srv/a b.db-wal").unwrap(), Path::new("/srv/a b.db"));
        assert_eq!(main("socket:[12]"), None);
        assert_eq!(main("/dev/null"), None);
        assert_eq!(
            without_mark(&main("/srv/a.db (deleted)").unwrap()).unwrap(),
            Path::new("/srv/a.db")
        );
    }
}
