//! From an address to the parameters of a connection, as the client library would find them: what
//! the address says, then a service file, then the environment, then the defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

use super::passfile;
use crate::address::{Address, Secret};
use crate::client::{Client, ClientOptions};

/// Where Debian's servers have their sockets; then where others have them.
const SOCKET_FOLDERS: &[&str] = &["/var/run/postgresql", "/run/postgresql", "/tmp"];
const PORT: u16 = 5432;
const CONNECT_TIMEOUT_S: u64 = 15;

/// The environment variable of each parameter.
const VARIABLES: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("dbname", "PGDATABASE"),
    ("service", "PGSERVICE"),
    ("passfile", "PGPASSFILE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("sslmode", "PGSSLMODE"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("channel_binding", "PGCHANNELBINDING"),
];

/// One place at which a server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A socket in the file system.
    Socket(PathBuf),
    /// A host. `address` is what is connected to, `name` what a certificate must say.
    Host { name: String, address: String, port: u16 },
}

/// How much of TLS is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TlsMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Everything that a connection is made with.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) places: Vec<Place>,
    pub(super) user: String,
    pub(super) database: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) connect_timeout_ms: u64,
    pub(super) tls_mode: TlsMode,
    /// `None` where the file is not there; the text `system` is the host's own collection.
    pub(super) root_certificates: Option<PathBuf>,
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
    given: BTreeMap<String, String>,
    home: Option<PathBuf>,
}

impl Parameters {
    /// Finds them all. Connects to nothing.
    pub(super) fn of(address: &Address, options: &ClientOptions) -> Result<Self> {
        let given = merged(address, options)?;
        let get = |name: &str| given.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let user = get("user").map(str::to_owned).or_else(|| options.system_user.clone());
        let user = user.ok_or_else(|| {
            Error::new(Kind::Usage, format!("nothing says which role reads {}", address.label()))
                .hint("write postgresql://ROLE@HOST, or user = \"ROLE\" in the configuration")
        })?;
        if get("channel_binding") == Some("require") {
            return Err(unsupported("channel_binding=require", "channel_binding=prefer"));
        }
        let connect_timeout_s = match get("connect_timeout") {
            None => CONNECT_TIMEOUT_S,
            // As the client library has it: zero and less wait without end.
            Some(text) => match text.parse::<i64>() {
                Ok(seconds) if seconds > 0 => seconds.unsigned_abs().max(2),
                Ok(_) => u64::from(u32::MAX),
                Err(_) => return Err(wrong("connect_timeout", text)),
            },
        };
        let tls_mode = match get("sslmode").unwrap_or("prefer") {
            "disable" => TlsMode::Disable,
            "allow" | "prefer" => TlsMode::Prefer,
            "require" => TlsMode::Require,
            "verify-ca" => TlsMode::VerifyCa,
            "verify-full" => TlsMode::VerifyFull,
            other => return Err(wrong("sslmode", other)),
        };
        let home = options.home.clone();
        let of_home = |file: &str| {
            let path = home.as_ref()?.join(".postgresql").join(file);
            path.is_file().then_some(path)
        };
        let named = |name: &str| get(name).map(PathBuf::from);
        let certificate = named("sslcert").or_else(|| of_home("postgresql.crt"));
        let key = named("sslkey").or_else(|| of_home("postgresql.key"));
        Ok(Parameters {
            places: places(&get)?,
            database: get("dbname").map(str::to_owned),
            password: address.password.clone(),
            connect_timeout_ms: connect_timeout_s.saturating_mul(1_000),
            tls_mode,
            root_certificates: named("sslrootcert").or_else(|| of_home("root.crt")),
            client_certificate: certificate.zip(key),
            user,
            home,
            given,
        })
    }

    /// The password for that place: what was given, the environment's, or the password file's.
    pub(super) fn password_for(&self, place: &Place, options: &ClientOptions) -> Option<Secret> {
        if self.password.is_some() {
            return self.password.clone();
        }
        if let Some(password) = &options.password_variable {
            return Some(password.clone());
        }
        let file = match self.given.get("passfile") {
            Some(file) => PathBuf::from(file),
            None => self.home.as_ref()?.join(".pgpass"),
        };
        let (host, port) = match place {
            // A socket in its usual folder is `localhost` in that file.
            Place::Socket(path) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                let port = path.extension().unwrap_or_default().to_string_lossy();
                let usual = SOCKET_FOLDERS.iter().any(|usual| Path::new(usual) == folder);
                let host = if usual { "localhost".into() } else { folder.to_string_lossy() };
                (host, port.into_owned())
            }
            Place::Host { name, port, .. } => (name.as_str().into(), port.to_string()),
        };
        let database = self.database.as_deref().unwrap_or(&self.user);
        passfile::password(&file, &host, &port, &["replication", database], &self.user)
    }
}

/// What a connection to a server uses of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsUse {
    /// The servers that may be asked for their certificates.
    pub servers: Vec<TlsServer>,
    /// The file of our own certificate, and that of those that are trusted, where there are such.
    pub certificates: Vec<PathBuf>,
}

/// A server that may speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsServer {
    /// The name that its certificate must say.
    pub name: String,
    /// What is connected to.
    pub address: String,
    /// The port.
    pub port: u16,
}

impl TlsUse {
    /// Of a client, by its address, service and environment. Connects to nothing.
    pub fn of(client: &Client) -> Result<Self> {
        let parameters = Parameters::of(client.address(), client.options())?;
        // What runs behind a command is reached from there.
        if parameters.tls_mode == TlsMode::Disable || !client.is_local() {
            return Ok(TlsUse::default());
        }
        let server = |place: Place| match place {
            Place::Host { name, address, port } => Some(TlsServer { name, address, port }),
            Place::Socket(_) => None,
        };
        let servers: Vec<TlsServer> = parameters.places.into_iter().filter_map(server).collect();
        if servers.is_empty() {
            return Ok(TlsUse::default());
        }
        let own = parameters.client_certificate.map(|(certificate, _)| certificate);
        let files = own.into_iter().chain(parameters.root_certificates);
        let certificates = files.filter(|file| file.is_file()).collect();
        Ok(TlsUse { servers, certificates })
    }
}

/// What the address, its service and the environment say, in this order.
fn merged(address: &Address, options: &ClientOptions) -> Result<BTreeMap<String, String>> {
    let variable = |name: &str| options.variables.get(name).cloned();
    let mut all = address.parameters().clone();
    let service = all.get("service").cloned().or_else(|| variable("PGSERVICE"));
    if let Some(service) = service {
        let files = [
            variable("PGSERVICEFILE").map(PathBuf::from),
            options.home.as_ref().map(|home| home.join(".pg_service.conf")),
            variable("PGSYSCONFDIR").map(|folder| Path::new(&folder).join("pg_service.conf")),
            Some(PathBuf::from("/etc/postgresql-common/pg_service.conf")),
        ];
        let found = files.into_iter().flatten();
        let Some(of_service) = found.filter_map(|file| passfile::service(&file, &service)).next()
        else {
            let message = format!("the service `{service}` is in no service file");
            return Err(Error::new(Kind::Usage, message)
                .hint("name it in ~/.pg_service.conf, or say where that is: PGSERVICEFILE"));
        };
        for (name, value) in of_service {
            all.entry(name).or_insert(value);
        }
    }
    for (name, of_environment) in VARIABLES {
        if let Some(value) = variable(of_environment) {
            all.entry((*name).to_owned()).or_insert(value);
        }
    }
    Ok(all)
}

fn places<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Result<Vec<Place>> {
    let ports: Vec<&str> = get("port").unwrap_or_default().split(',').collect();
    let names: Vec<&str> = get("host").unwrap_or_default().split(',').collect();
    let addresses: Vec<&str> = get("hostaddr").unwrap_or_default().split(',').collect();
    let mut places = Vec::new();
    for index in 0..names.len().max(addresses.len()) {
        let port = match ports.get(index).or(ports.first()).copied().unwrap_or_default() {
            "" => PORT,
            text => text.parse().map_err(|_| wrong("port", text))?,
        };
        let name = names.get(index).copied().unwrap_or_default();
        let address = addresses.get(index).copied().filter(|address| !address.is_empty());
        let socket = format!(".s.PGSQL.{port}");
        places.push(match (name, address) {
            ("", None) => {
                let folders = SOCKET_FOLDERS.iter().map(Path::new);
                let paths: Vec<PathBuf> = folders.map(|folder| folder.join(&socket)).collect();
                let there = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
                Place::Socket(there.clone())
            }
            (folder, None) if folder.starts_with('/') => {
                Place::Socket(Path::new(folder).join(&socket))
            }
            (name, None) if name.starts_with('@') => {
                return Err(unsupported("an abstract socket", "a socket in a folder"));
            }
            (name, address) => {
                let address = address.unwrap_or(name).to_owned();
                let name = if name.is_empty() { address.clone() } else { name.to_owned() };
                Place::Host { name, address, port }
            }
        });
    }
    Ok(places)
}

fn wrong(name: &str, value: &str) -> Error {
    Error::new(Kind::Usage, format!("the parameter {name} cannot be `{value}`"))
        .hint("mend the address, the service file or the environment")
}

fn unsupported(what: &str, instead: &str) -> Error {
    Error::new(Kind::Usage, format!("{what} is not known to physical backups"))
        .hint(format!("use {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, variables: &[(&str, &str)]) -> Result<Parameters> {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = ClientOptions {
            variables: variables.collect(),
            system_user: Some("me".into()),
            ..ClientOptions::default()
        };
        Parameters::of(&Address::parse(text)?, &options)
    }

    #[test]
    fn an_address_says_more_than_the_environment() {
        let environment = [("PGPORT", "6000"), ("PGUSER", "eve"), ("PGSSLMODE", "verify-full")];
        let of_address = of("postgresql://ann@h:5433/chat", &environment).unwrap();
        let host = |name: &str, port| Place::Host { name: name.into(), address: name.into(), port };
        assert_eq!(of_address.places, [host("h", 5433)]);
        assert_eq!((of_address.user.as_str(), of_address.tls_mode), ("ann", TlsMode::VerifyFull));
        let of_environment = of("postgresql://a,b/chat", &environment).unwrap();
        assert_eq!(of_environment.places, [host("a", 6000), host("b", 6000)]);
        assert_eq!(of_environment.user, "eve");
        let socket = of("postgresql:///x?host=/run/pg&port=7", &[]).unwrap();
        assert_eq!(socket.places, [Place::Socket("/run/pg/.s.PGSQL.7".into())]);
        assert_eq!(socket.user, "me");
    }

    #[test]
    fn a_service_is_found_in_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# x\n[other]\nhost=o\n[main]\nhost=h\nport = 7\n").unwrap();
        let variable = [("PGSERVICEFILE", file.path().to_str().unwrap())];
        let found = of("service=main port=8", &variable).unwrap();
        let place = Place::Host { name: "h".into(), address: "h".into(), port: 8 };
        assert_eq!(found.places, [place]);
        assert!(of("service=absent", &variable).unwrap_err().message().contains("absent"));
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (wrong, named) in [
            ("host=h port=x", "port"),
            ("host=h sslmode=yes", "sslmode"),
            ("host=h connect_timeout=soon", "connect_timeout"),
            ("host=h channel_binding=require", "channel_binding"),
        ] {
            let error = of(wrong, &[]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.message().contains(named), "{error}");
        }
    }
}
