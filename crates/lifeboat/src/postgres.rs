//! PostgreSQL databases as the configuration, the command line and manifests name them.
//!
//! Nothing connects, and no secret is fetched, before a run needs it: `list` works while a server
//! is down.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use lifeboat_core::env::Env;
use lifeboat_core::source::{Capture, CaptureOptions, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{
    Address, Client, ClientOptions, DumpFormat, MomentGroup, PostgresEngine, PostgresSource,
    Secret, Selection, Session,
};

use crate::config::postgres::{PostgresConfig, SecretConfig};
use crate::world;

/// The kind of these sources.
pub(crate) use lifeboat_postgres::KIND;

/// A password longer than this is a file that was named by mistake.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// Where systemd looks for the credentials that a unit asks for by name.
const CREDENTIALS: &str = "/etc/credstore";

/// So many databases are taken hold of at once.
const HOLDERS_MAX: usize = 16;

/// Variables in which addresses with passwords are kept. The client programs have no use for them.
const SECRET_VARIABLES: &[&str] = &["ADMIN_DATABASE_URL", "DATABASE_URL"];

/// Whether an argument is the address of a PostgreSQL database.
pub(crate) fn is_address(argument: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| argument.starts_with(scheme))
}

/// The address that was typed. One with a password is refused: everybody on the host could see it.
pub(crate) fn typed(argument: &str) -> Result<Address> {
    let address = Address::parse(argument)?;
    match address.password {
        None => Ok(address),
        Some(_) => Err(Error::new(
            Kind::Usage,
            format!("the address of {} has a password in it", address.label()),
        )
        .hint(
            "everybody can read a command line: put the password into ~/.pgpass, or into a \
             configuration as password = { file = \"...\" }",
        )),
    }
}

/// A database of a server: how it is reached, and what of it is dumped.
#[derive(Clone)]
pub(crate) struct Database {
    address: Address,
    secret: Option<SecretConfig>,
    options: ClientOptions,
    format: DumpFormat,
    selection: Selection,
    /// What was made of it when it was first read: its secrets are fetched once.
    opened: Arc<OnceLock<PostgresSource>>,
}

impl Database {
    /// One that nobody configured.
    pub(crate) fn at(address: Address) -> Self {
        Database {
            address,
            secret: None,
            options: options(),
            format: DumpFormat::Custom,
            selection: Selection::default(),
            opened: Arc::default(),
        }
    }

    /// The same, with that before each client program.
    pub(crate) fn behind(mut self, command: &[String]) -> Self {
        self.options.prefix = command.to_vec();
        self
    }

    /// What the configuration says.
    pub(crate) fn configured(config: &PostgresConfig) -> Result<Self> {
        let mut options = options();
        options.folders.extend(config.programs.clone());
        options.prefix = config.command.clone();
        let variable = config.password.as_ref().and_then(|secret| secret.env.clone());
        options.secret_variables.extend(variable);
        Ok(Database {
            address: config.address()?,
            secret: config.password.clone(),
            options,
            format: config.format.map(DumpFormat::from).unwrap_or_default(),
            selection: config.selection(),
            opened: Arc::default(),
        })
    }

    /// The same server and role, another database.
    pub(crate) fn named(&self, database: &str) -> Self {
        let address = self.address.clone().with_database(database);
        Database { address, opened: Arc::default(), ..self.clone() }
    }

    /// The same database as the role that was typed, if one was: a backup is made by a role that
    /// may read, a restore needs one that may write.
    pub(crate) fn as_typed(&self, typed: &Address) -> Self {
        let role = typed.get("user").filter(|role| self.address.get("user") != Some(role));
        let Some(role) = role else { return self.clone() };
        let mut address = self.address.clone().with("user", role);
        address.password = None;
        Database { address, secret: None, opened: Arc::default(), ..self.clone() }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Where its programs are.
    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// What of it is dumped.
    pub(crate) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// A client of it, with its password.
    pub(crate) fn client(&self) -> Result<Client> {
        let mut address = self.address.clone();
        if let Some(secret) = &self.secret {
            address.password = Some(fetch(secret)?);
        }
        Client::new(address, self.options.clone())
    }

    /// The databases of its server that are worth a backup.
    pub(crate) fn all_of_server(&self) -> Result<Vec<String>> {
        let there = match self.address.database() {
            Some(_) => self.clone(),
            None => self.named("postgres"),
        };
        let what = format!("cannot list the databases of {}", self.address.label());
        Session::open(&there.client()?, &what)?.databases()
    }

    /// As a source.
    pub(crate) fn source(self) -> LazySource {
        LazySource { database: self }
    }

    /// Takes hold of the moment that its next backup shows, together with others.
    pub(crate) fn hold(&self, env: &Env, group: &Arc<MomentGroup>) -> Result<()> {
        self.open()?.hold(env, group)
    }

    /// What tells one server from another.
    pub(crate) fn server(&self) -> String {
        self.address.clone().with_database("").label()
    }

    fn open(&self) -> Result<&PostgresSource> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let source = PostgresSource::new(self.client()?, self.format, self.selection.clone());
        Ok(self.opened.get_or_init(|| source))
    }
}

/// Holds all databases of a run that share a server with another one, at once. One that cannot be
/// held is no matter here: its own backup says why.
pub(crate) fn hold_together(env: &Env, databases: &[&Database]) {
    let mut groups: BTreeMap<String, Vec<&Database>> = BTreeMap::new();
    for database in databases {
        groups.entry(database.server()).or_default().push(database);
    }
    for members in groups.values().filter(|members| members.len() > 1) {
        let group = Arc::new(MomentGroup::default());
        std::thread::scope(|scope| {
            for some in members.chunks(members.len().div_ceil(HOLDERS_MAX)) {
                let group = &group;
                scope.spawn(move || {
                    for database in some {
                        let _ = database.hold(env, group);
                    }
                });
            }
        });
    }
}

/// A source that fetches its secrets when it is first read.
pub(crate) struct LazySource {
    database: Database,
}

impl Source for LazySource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn location(&self) -> Result<String> {
        Ok(self.database.address.label())
    }

    fn inspect(&self) -> Result<Inspection> {
        self.database.open()?.inspect()
    }

    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        self.database.open()?.capture(env, options)
    }
}

/// The engine of these sources, which knows where programs are.
pub(crate) fn engine() -> &'static PostgresEngine {
    static ENGINE: OnceLock<PostgresEngine> = OnceLock::new();
    ENGINE.get_or_init(|| PostgresEngine { options: options() })
}

/// Where client programs are, and what they inherit.
pub(crate) fn options() -> ClientOptions {
    let (variables, password) = world::postgres_variables();
    ClientOptions {
        variables,
        password_variable: password.map(Secret::new),
        home: world::home(),
        system_user: lifeboat_core::owner::user_name(rustix::process::geteuid().as_raw()),
        search_path: world::search_path(),
        secret_variables: SECRET_VARIABLES.iter().map(|name| (*name).to_owned()).collect(),
        ..ClientOptions::default()
    }
}

/// Reads a secret from where it is.
/// Fetches a secret from where it is.
pub(crate) fn fetch(secret: &SecretConfig) -> Result<Secret> {
    let text = if let Some(path) = &secret.file {
        of_file(path)?
    } else if let Some(name) = &secret.env {
        world::secret_variable(name).ok_or_else(|| {
            Error::new(Kind::Usage, format!("the variable {name} holds no secret"))
                .hint("set it, or name another place for the secret")
        })?
    } else if let Some(name) = &secret.credential {
        of_file(&credential(name, world::credentials_folder(), Path::new(CREDENTIALS))?)?
    } else {
        of_command(&secret.command)?
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    match text.is_empty() || text.len() > SECRET_BYTES_MAX {
        true => Err(Error::new(Kind::Usage, "the place of a password holds nothing, or too much")
            .hint("it must hold the password alone, in one line")),
        false => Ok(Secret::new(text)),
    }
}

fn of_file(path: &Path) -> Result<String> {
    let failed = |error| {
        let message = format!("cannot read the password in {}", path.display());
        Error::io(Kind::Usage, message, error)
    };
    let found = fs::metadata(path).map_err(failed)?;
    if found.mode() & 0o007 != 0 {
        return Err(Error::new(
            Kind::Usage,
            format!("everybody can read the password in {}", path.display()),
        )
        .hint(format!("chmod 600 {}", path.display())));
    }
    if found.len() > SECRET_BYTES_MAX as u64 {
        return Err(Error::new(Kind::Usage, format!("{} is no password file", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The file of a credential: in the folder that systemd gave to the unit, else where systemd takes
/// it from, so that a person at a terminal has what the schedule has.
fn credential(name: &str, given: Option<PathBuf>, store: &Path) -> Result<PathBuf> {
    if Path::new(name).components().count() != 1 || name.starts_with('.') {
        return Err(Error::new(Kind::Usage, format!("`{name}` is not the name of a credential")));
    }
    let stored = || store.join(name).exists().then(|| store.to_owned());
    let folder = given.or_else(stored).ok_or_else(|| {
        let store = store.display();
        Error::new(Kind::Usage, format!("there is no credential {name}: systemd gave none"))
            .hint(format!("put the password alone into {store}/{name}, with mode 600"))
    })?;
    Ok(folder.join(name))
}

fn of_command(command: &[String]) -> Result<String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::new(Kind::Usage, "nothing says where the password is"));
    };
    let failed = |why: String| {
        Error::new(Kind::Usage, format!("`{program}` gave no password: {why}"))
            .hint("run it by hand: it must print the password alone")
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(|_| failed("it is not UTF-8".to_owned())),
        false => Err(failed(output.status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_password_is_refused_and_not_repeated() {
        let error = typed("postgresql://ann:hush@localhost/chat").unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        assert_eq!(typed("postgres://ann@localhost/chat").unwrap().database(), Some("chat"));
    }

    #[test]
    fn another_role_that_is_typed_comes_without_the_password_of_the_first() {
        let url = "postgresql://backup:hush@localhost/chat?sslmode=require".to_owned();
        let config = PostgresConfig { url: Some(url), ..PostgresConfig::default() };
        let configured = Database::configured(&config).unwrap();
        let with = |typed: &str| configured.as_typed(&Address::parse(typed).unwrap());
        let other = with("postgresql://postgres@localhost/chat");
        assert_eq!(other.address.get("user"), Some("postgres"));
        assert_eq!(other.address.get("sslmode"), Some("require"));
        assert!(other.address.password.is_none());
        for same in ["postgresql://backup@localhost/chat", "postgresql://localhost/chat"] {
            assert!(with(same).address.password.is_some(), "{same}");
        }
    }

    #[test]
    fn a_credential_is_what_systemd_gave_or_would_give() {
        let (given, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of = |name: &str, given: Option<&Path>| {
            credential(name, given.map(Path::to_owned), store.path())
        };
        assert!(of("ann", None).unwrap_err().hint_text().unwrap().contains("mode 600"));
        fs::write(store.path().join("ann"), "hush\n").unwrap();
        assert_eq!(of("ann", None).unwrap(), store.path().join("ann"));
        assert_eq!(of("ann", Some(given.path())).unwrap(), given.path().join("ann"));
        for wrong in ["../ann", "a/b", "/etc/passwd", "", ".."] {
            assert_eq!(of(wrong, None).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn secrets_come_from_private_files_and_commands() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hush\n").unwrap();
        let secret = SecretConfig { file: Some(file.path().into()), ..SecretConfig::default() };
        assert_eq!(fetch(&secret).unwrap().expose(), "hush");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let error = fetch(&secret).unwrap_err();
        assert!(error.message().starts_with("everybody can read"), "{error}");
        let command = |words: &[&str]| SecretConfig {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            ..SecretConfig::default()
        };
        assert_eq!(fetch(&command(&["echo", "a b"])).unwrap().expose(), "a b");
        for wrong in [command(&["false"]), command(&["true"]), command(&["/no/such"])] {
            assert_eq!(fetch(&wrong).unwrap_err().kind(), Kind::Usage);
        }
    }
}
