//! PostgreSQL clusters: by their configuration, data folders, sockets and processes.
//!
//! No server is asked anything here. What is found is told, so that nobody takes a host for
//! protected where a cluster is on it that no source stands for.

use std::fs;
use std::path::{Path, PathBuf};

use super::Search;
use super::processes::Seen;

/// A configuration file larger than this is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Folders of folders that hold data folders.
const DATA: &[&str] = &["/var/lib/postgresql", "/var/lib/pgsql", "/var/lib/postgres"];

/// Folders in which servers put their sockets.
const SOCKETS: &[&str] = &["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// A PostgreSQL cluster, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Its major version.
    pub(crate) version: Option<String>,
    /// Its data folder.
    pub(crate) data: Option<PathBuf>,
    /// The port, and name of the socket.
    pub(crate) port: Option<u16>,
    /// The folder of its socket.
    pub(crate) sockets: Option<PathBuf>,
    /// Whether a server runs on it.
    pub(crate) is_running: bool,
}

impl Cluster {
    /// One line for a person.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::from("PostgreSQL");
        if let Some(version) = &self.version {
            text.push_str(&format!(" {version}"));
        }
        if let Some(port) = self.port {
            text.push_str(&format!(", port {port}"));
        }
        if let Some(data) = &self.data {
            text.push_str(&format!(", data in {}", data.display()));
        }
        text.push_str(if self.is_running { ", running" } else { ", not seen running" });
        text
    }
}

/// Finds the clusters. `walked` are data folders that were met elsewhere.
pub(super) fn find(search: &Search, seen: &Seen, walked: &[PathBuf]) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    for version in names(search, Path::new("/etc/postgresql")) {
        for name in names(search, &Path::new("/etc/postgresql").join(&version)) {
            let file = Path::new("/etc/postgresql").join(&version).join(&name);
            if let Some(cluster) = configured(search, &file.join("postgresql.conf"), &version) {
                merge(&mut clusters, cluster);
            }
        }
    }
    // Clusters of our own last as long as a check; somebody who names one means it.
    let is_wanted = |data: &Path| {
        !is_throw_away(data) || search.named.iter().any(|folder| data.starts_with(folder))
    };
    for folder in data_folders(search, walked).into_iter().filter(|folder| is_wanted(folder)) {
        merge(&mut clusters, of_data(search, folder));
    }
    for (_, data) in &seen.clusters {
        let Some(data) = data.as_ref().filter(|data| is_wanted(data)) else { continue };
        let running = Cluster { is_running: true, ..of_data(search, data.clone()) };
        merge(&mut clusters, running);
    }
    for (port, folder) in sockets(search) {
        let sockets = Some(folder);
        let socket = Cluster { port: Some(port), sockets, is_running: true, ..Cluster::default() };
        merge(&mut clusters, socket);
    }
    clusters
}

fn is_throw_away(data: &Path) -> bool {
    let is_ours =
        |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b"lifeboat-cluster-");
    data.iter().any(is_ours)
}

/// Joins what two ways say of one cluster: the data folder tells them apart, else the port.
fn merge(clusters: &mut Vec<Cluster>, new: Cluster) {
    let same = |old: &&mut Cluster| match (&old.data, &new.data) {
        (Some(old), Some(new)) => old == new,
        _ => old.port.is_some() && old.port == new.port,
    };
    match clusters.iter_mut().find(same) {
        None => clusters.push(new),
        Some(old) => {
            old.version = old.version.take().or(new.version);
            old.data = old.data.take().or(new.data);
            old.port = old.port.or(new.port);
            old.sockets = old.sockets.take().or(new.sockets);
            old.is_running |= new.is_running;
        }
    }
}

fn configured(search: &Search, file: &Path, version: &str) -> Option<Cluster> {
    let text = text(search, file)?;
    let data = setting(&text, "data_directory").map(PathBuf::from);
    let of_data = data.map(|data| of_data(search, data)).unwrap_or_default();
    let port = setting(&text, "port").and_then(|port| port.parse().ok());
    Some(Cluster { version: Some(version.to_owned()), port: of_data.port.or(port), ..of_data })
}

/// The last line that sets a key of `postgresql.conf`.
fn setting(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| {
        let rest = line.trim_start().strip_prefix(key)?;
        let rest = rest.trim_start_matches([' ', '\t', '=']);
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next(),
            None => rest.split(['#', ' ', '\t']).next(),
        };
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    text.lines().rev().find_map(value)
}

/// What a data folder tells, with the file that a running server keeps in it.
fn of_data(search: &Search, folder: PathBuf) -> Cluster {
    let version = text(search, &folder.join("PG_VERSION")).map(|text| text.trim().to_owned());
    let pid_file = text(search, &folder.join("postmaster.pid"));
    let line = |index: usize| pid_file.as_ref()?.lines().nth(index).map(str::trim);
    let port = line(3).and_then(|port| port.parse().ok());
    let is_running = line(0).is_some_and(|pid| {
        let alive = pid.parse::<u32>().is_ok();
        alive && search.real(&Path::new("/proc").join(pid)).exists()
    });
    // Its first folder of sockets, where it has any.
    let sockets = line(4).filter(|folder| folder.starts_with('/')).map(PathBuf::from);
    Cluster { version, data: Some(folder), port, sockets, is_running }
}

fn data_folders(search: &Search, walked: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = walked.to_vec();
    for start in DATA.iter().map(Path::new) {
        let mut level = vec![start.to_owned()];
        for _ in 0..3 {
            let is_data = |folder: &PathBuf| search.real(&folder.join("PG_VERSION")).exists();
            found.extend(level.iter().filter(|folder| is_data(folder)).cloned());
            level = level
                .iter()
                .flat_map(|folder| names(search, folder).into_iter().map(|name| folder.join(name)))
                .collect();
        }
    }
    found.sort();
    found.dedup();
    found
}

fn sockets(search: &Search) -> Vec<(u16, PathBuf)> {
    let mut ports: Vec<(u16, PathBuf)> = Vec::new();
    for folder in SOCKETS {
        let entries = fs::read_dir(search.real(Path::new(folder))).into_iter().flatten().flatten();
        ports.extend(entries.filter_map(|entry| {
            let name = entry.file_name();
            let port = name.to_str()?.strip_prefix(".s.PGSQL.")?.parse::<u16>().ok()?;
            Some((port, PathBuf::from(folder)))
        }));
    }
    // The first folder that has it: one of them is a link to another.
    ports.sort_by_key(|(port, _)| *port);
    ports.dedup_by_key(|(port, _)| *port);
    ports
}

/// The folders in a folder, sorted.
fn names(search: &Search, folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(search.real(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn text(search: &Search, path: &Path) -> Option<String> {
    let path = search.real(path);
    let is_small = fs::metadata(&path).is_ok_and(|it| it.is_file() && it.len() <= FILE_BYTES_MAX);
    if is_small { fs::read_to_string(path).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_the_server_does() {
        let text = "# port = 1\nport = 5433\t# (change)\ndata_directory = '/var/lib/pg data'\n\
                    ports = 3\n";
        assert_eq!(setting(text, "data_directory").unwrap(), "/var/lib/pg data");
        assert_eq!(setting("port = 5433 # x\n", "port").unwrap(), "5433");
        assert_eq!(setting("#port = 5433\n", "port"), None);
    }

    #[test]
    fn one_cluster_that_is_found_in_three_ways_is_one() {
        let data = Some(PathBuf::from("/var/lib/postgresql/15/main"));
        let mut clusters = Vec::new();
        merge(
            &mut clusters,
            Cluster {
                version: Some("15".into()),
                port: Some(5432),
                data: data.clone(),
                sockets: None,
                is_running: false,
            },
        );
        merge(&mut clusters, Cluster { data, is_running: true, ..Cluster::default() });
        merge(&mut clusters, Cluster { port: Some(5432), ..Cluster::default() });
        merge(&mut clusters, Cluster { port: Some(5433), is_running: true, ..Cluster::default() });
        assert_eq!(clusters.len(), 2);
        assert!(clusters[0].is_running);
    }
}
