//! Servers of PostgreSQL that were found: asked who we may be there, and written down as sources;
//! those that do not let us in become comments that say how they would.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat_core::{Result, names};
use lifeboat_postgres::{Address, Rights, Secret, Session};

use super::grouping::free;
use super::inner;
use super::proposal::{comment, key};
use crate::discover::{Cluster, Findings, Search};
use crate::postgres::Database;

/// How long a server may take to answer, in seconds.
const CONNECT_TIMEOUT_S: &str = "10";
/// How root becomes the user whom a server takes for its administrator (`peer`).
const AS_POSTGRES: &[&str] =
    &["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
/// The port of a server that says none.
const PORT: u16 = 5432;
/// How often a server is backed up, and what is kept.
const RHYTHM: &str = "schedule = \"daily\"\nkeep = { daily = 30, monthly = 12 }\n\
                      prune = \"after-backup\"\nrpo = \"26h\"\n";

/// A server, or one database of it, that is proposed as a source.
pub(super) struct Server {
    /// The source's name.
    pub(super) name: String,
    /// Where it is, without secrets.
    pub(super) label: String,
    /// What was found, in a line.
    pub(super) facts: String,
    /// Why it cannot be backed up as it is, if so; empty where nobody asked it.
    pub(super) hindrance: Option<String>,
    /// What mends that.
    help: Option<String>,
    /// The text behind `postgres = `.
    value: String,
    /// The file that will hold the password, and the password.
    pub(super) secret: Option<(PathBuf, Secret)>,
    /// The port on this host where all databases are taken.
    port_of_all: Option<u16>,
}

/// The servers that clusters and files of variables name. `config` is the configuration's path:
/// passwords are kept beside it.
pub(super) fn of(
    search: &Search,
    findings: &Findings,
    config: &Path,
    taken: &mut BTreeSet<String>,
) -> Vec<Server> {
    let is_here = search.root == Path::new("/");
    let mut servers: Vec<Server> =
        findings.clusters.iter().map(|cluster| of_cluster(cluster, is_here, taken)).collect();
    let ports: Vec<u16> = servers.iter().filter_map(|server| server.port_of_all).collect();
    let mut seen: Vec<&Address> = Vec::new();
    for settings in &findings.settings {
        for (variable, address) in &settings.servers {
            let is_among = is_local(address) && ports.contains(&port_of(address));
            if is_among || seen.contains(&address) {
                continue;
            }
            seen.push(address);
            let facts = format!("{variable} in {}", settings.file.display());
            servers.push(of_address(address, facts, is_here, config, taken));
        }
    }
    servers
}

fn of_cluster(cluster: &Cluster, is_here: bool, taken: &mut BTreeSet<String>) -> Server {
    let folder = cluster.sockets.as_deref().and_then(Path::to_str);
    let port = cluster.port.unwrap_or(PORT);
    let address = Address::default()
        .with("host", folder.unwrap_or("/var/run/postgresql"))
        .with("port", port.to_string());
    let wanted = ["postgres".to_owned(), format!("postgres-{port}")];
    let name = free(wanted.to_vec(), "postgres", taken);
    let asked = match is_here && cluster.is_running {
        true => Some(enter(&address)),
        false => None,
    };
    let value = |host: &str, user: &str, more: &str| {
        let (host, user) = (inner(host), inner(user));
        format!(
            "{{ host = \"{host}\", port = {port}, user = \"{user}\", databases = \"all\"{more} }}"
        )
    };
    let mut server = Server {
        name,
        label: address.label(),
        facts: cluster.describe(),
        hindrance: None,
        help: None,
        value: String::new(),
        secret: None,
        port_of_all: None,
    };
    match asked {
        Some(Ok(Entrance { role, command, databases })) => {
            let words: Vec<String> =
                command.iter().map(|word| format!("\"{}\"", inner(word))).collect();
            let more = match words.is_empty() {
                true => String::new(),
                false => format!(", command = [{}]", words.join(", ")),
            };
            server.value = value(address.get("host").unwrap_or_default(), &role, &more);
            server.facts.push_str(&format!(", databases {}", databases.join(", ")));
            server.port_of_all = Some(port);
        }
        not => {
            let why = not.map(|asked| asked.err().unwrap_or_default());
            server.hindrance = Some(why.unwrap_or_default());
            let start = match is_here && !cluster.is_running {
                true => "Start it, and run `lifeboat init` again. Or: give it a role",
                false => "Give it a role",
            };
            server.help = Some(format!(
                "{start} that may read, as its administrator: CREATE ROLE lifeboat LOGIN \
                 PASSWORD '...' IN ROLE pg_read_all_data; the line localhost:{port}:*:lifeboat:... \
                 goes into ~/.pgpass (chmod 600). Or run backups as the user postgres, with host = \
                 \"/var/run/postgresql\" and user = \"postgres\". Then take the # away:"
            ));
            server.value = value("localhost", "lifeboat", "");
        }
    }
    server
}

fn of_address(
    address: &Address,
    facts: String,
    is_here: bool,
    config: &Path,
    taken: &mut BTreeSet<String>,
) -> Server {
    let database = address.database().unwrap_or_default();
    let stem = names::source_name(database);
    let name = free(vec![stem.clone(), format!("{stem}-postgres")], &stem, taken);
    let folder = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let file = folder.with_file_name(format!("{name}.password"));
    let secret = address.password.clone().map(|password| (file, password));
    let hindrance = match is_here {
        true => session(address, &[]).err(),
        false => Some(String::new()),
    };
    let help = hindrance.is_some().then(|| match &secret {
        Some((file, _)) => format!(
            "Where the server is reached from here, put its password alone into {} (chmod 600), \
             and take the # away:",
            file.display()
        ),
        None => "Where the server is reached from here, take the # away:".to_owned(),
    });
    Server {
        name,
        label: address.label(),
        facts,
        value: value_of(address, secret.as_ref().map(|(file, _)| file.as_path())),
        secret: secret.filter(|_| hindrance.is_none()),
        hindrance,
        help,
        port_of_all: None,
    }
}

/// An address as the configuration has it: never with its password.
fn value_of(address: &Address, secret: Option<&Path>) -> String {
    let shown = address.conninfo();
    let mut value = format!("{{ url = \"{}\"", inner(&shown));
    if let Some(file) = secret {
        let file = inner(&file.to_string_lossy());
        value.push_str(&format!(", password = {{ file = \"{file}\" }}"));
    }
    value.push_str(" }");
    value
}

/// How a server lets us in.
struct Entrance {
    role: String,
    command: Vec<String>,
    databases: Vec<String>,
}

/// As whom a server lets us in; else why not.
fn enter(address: &Address) -> Result<Entrance, String> {
    let own = address.clone().with_database("postgres");
    let administrator = own.clone().with("user", "postgres");
    // As the administrator, else under the name of whoever asks.
    let mut ways = vec![(administrator.clone(), Vec::new()), (own, Vec::new())];
    if rustix::process::geteuid().is_root() {
        let command = AS_POSTGRES.iter().map(|word| (*word).to_owned()).collect();
        ways.push((administrator, command));
    }
    let mut why = String::new();
    for (address, command) in ways {
        let entered = session(&address, &command)
            .and_then(|mut session| look(&mut session, command).map_err(said));
        match entered {
            Ok(entrance) => return Ok(entrance),
            Err(error) if why.is_empty() => why = error,
            Err(_) => {}
        }
    }
    Err(why)
}

fn look(session: &mut Session, command: Vec<String>) -> Result<Entrance> {
    let role = Rights::read(session)?.role;
    Ok(Entrance { role, command, databases: session.databases()? })
}

fn session(address: &Address, command: &[String]) -> Result<Session, String> {
    let bounded = address.clone().with("connect_timeout", CONNECT_TIMEOUT_S);
    let what = format!("cannot connect to {}", address.label());
    let client = Database::at(bounded).behind(command).client();
    client.and_then(|client| Session::open(&client, &what)).map_err(said)
}

fn said(error: lifeboat_core::Error) -> String {
    error.message().to_owned()
}

/// Whether a server is on this host, by its address.
fn is_local(address: &Address) -> bool {
    let host = address.get("host").unwrap_or_default();
    host.is_empty()
        || host.starts_with('/')
        || host.starts_with("127.")
        || ["localhost", "::1"].contains(&host)
}

fn port_of(address: &Address) -> u16 {
    address.get("port").and_then(|port| port.parse().ok()).unwrap_or(PORT)
}

impl Server {
    /// Whether it can be backed up as it is.
    pub(super) fn is_reached(&self) -> bool {
        self.hindrance.is_none()
    }

    /// What stands in its way, for a person.
    pub(super) fn complaint(&self) -> Option<String> {
        let why = self.hindrance.as_deref()?;
        Some(match why.is_empty() {
            true => self.facts.clone(),
            false => format!("{}: {why}", self.facts),
        })
    }

    /// Its part of the configuration: comments alone where it cannot be backed up as it is.
    pub(super) fn text(&self) -> String {
        let section = format!("[source.{}]\npostgres = {}\n{RHYTHM}", key(&self.name), self.value);
        match &self.hindrance {
            None => format!("\n{}{section}", comment(&self.facts)),
            Some(why) => {
                let mut text = comment(&format!("found, not yet protected: {}", self.facts));
                if !why.is_empty() {
                    text.push_str(&comment(&format!("It does not let us in: {why}.")));
                }
                text.push_str(&self.help.iter().map(|help| comment(help)).collect::<String>());
                text.extend(section.lines().map(|line| format!("# {line}\n")));
                format!("\n{text}")
            }
        }
    }
}
