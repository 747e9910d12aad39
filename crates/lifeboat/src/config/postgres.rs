//! What a configuration says of a PostgreSQL database: where it is, who we are there, what of it is
//! dumped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lifeboat_postgres::{Address, DumpFormat, Selection};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::model::OneOrMany;
use super::values::{FromText, Period, Size, Text};

/// How a PostgreSQL database is reached and dumped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresConfig {
    /// Its address: postgresql://user@host:5432/database?sslmode=require. Instead of it, or beside
    /// it, the parts below.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    #[schemars(example = &"postgresql://chatbot@localhost/chatbot_admin")]
    pub(crate) url: Option<String>,
    /// A service of pg_service.conf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"chatbot")]
    pub(crate) service: Option<String>,
    /// The server's name, or the folder of its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/var/run/postgresql")]
    pub(crate) host: Option<String>,
    /// The server's port. Default: 5432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 5432)]
    pub(crate) port: Option<u16>,
    /// The role that reads. A member of pg_read_all_data may read all of it, the passwords of
    /// roles too; row security needs BYPASSRLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"backup")]
    pub(crate) user: Option<String>,
    /// The database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"chatbot_admin")]
    pub(crate) dbname: Option<String>,
    /// Several databases of the server, or "all": each becomes a source named after this one and
    /// the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"all")]
    pub(crate) databases: Option<OneOrMany>,
    /// Where the password is: { file = "..." }, { env = "..." }, { command = [...] }, or
    /// { credential = "..." } of systemd. Without it, ~/.pgpass and PGPASSFILE are read as always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<SecretConfig>,
    /// How it is dumped: "custom" for pg_restore, or "plain" for SQL text. Default: "custom".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"custom")]
    pub(crate) format: Option<FormatName>,
    /// Of a whole cluster: how far back any moment can be restored, such as "14d". The log of older
    /// backups goes with the next prune; they show their own moment alone. Default: as far back as
    /// there are backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"14d")]
    pub(crate) wal_window: Option<Text<Period>>,
    /// Only these schemas, by name or pattern.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["public"])]
    pub(crate) schemas: Vec<String>,
    /// Not these schemas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["scratch"])]
    pub(crate) exclude_schemas: Vec<String>,
    /// Only these tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["public.message"])]
    pub(crate) tables: Vec<String>,
    /// Not these tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["public.cache"])]
    pub(crate) exclude_tables: Vec<String>,
    /// These tables without their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["public.session"])]
    pub(crate) exclude_table_data: Vec<String>,
    /// Whether the whole cluster is backed up, as files: all its databases, roles and settings, to
    /// be restored to any moment with the WAL. The role needs REPLICATION. Default: false, one
    /// database is dumped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) physical: bool,
    /// Of a whole cluster: whether `lifeboat run` receives the log as the server writes it, as
    /// `lifeboat wal receive` does, by a replication slot that stays. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) receive: bool,
    /// Of a physical backup: how the server makes the checkpoint before it, "fast" or "spread" over
    /// minutes. Default: "fast".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"spread")]
    pub(crate) checkpoint: Option<CheckpointName>,
    /// Of a physical backup: the most that the server sends in a second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"50MB")]
    pub(crate) max_rate: Option<Text<Size>>,
    /// Of a physical backup: how many incremental ones (`backup --incremental`) may follow a whole
    /// one. Default: 14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 6)]
    pub(crate) chain_max: Option<u32>,
    /// Of a physical backup: the data directory on this host. There `restore --all` brings the
    /// cluster back; what is there is kept beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/var/lib/postgresql/16/main")]
    pub(crate) data_directory: Option<PathBuf>,
    /// The folder of the client programs, where they are not found by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/usr/lib/postgresql/16/bin")]
    pub(crate) programs: Option<PathBuf>,
    /// What is put before each client program, for a server in a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["docker", "exec", "-i", "db"])]
    pub(crate) command: Vec<String>,
}

/// Where a secret is. One of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretConfig {
    /// A file that holds it alone, not readable by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/chatbot.password")]
    pub(crate) file: Option<PathBuf>,
    /// A variable of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"CHATBOT_PASSWORD")]
    pub(crate) env: Option<String>,
    /// A command that prints it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["pass", "show", "chatbot"])]
    pub(crate) command: Vec<String>,
    /// A credential that systemd gives to the unit: LoadCredential= in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"chatbot")]
    pub(crate) credential: Option<String>,
}

impl SecretConfig {
    /// What is wrong with it, if anything.
    pub(crate) fn mistake(&self) -> Option<String> {
        let set = [
            self.file.is_some(),
            self.env.is_some(),
            !self.command.is_empty(),
            self.credential.is_some(),
        ];
        let is_one = set.iter().filter(|set| **set).count() == 1;
        let message = "one of `file`, `env`, `command` and `credential` says where it is";
        (!is_one).then(|| message.to_owned())
    }
}

/// The words of [`DumpFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum FormatName {
    /// The archive of pg_dump.
    Custom,
    /// SQL text.
    Plain,
}

/// How a checkpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum CheckpointName {
    /// At once.
    Fast,
    /// As the server makes its own.
    Spread,
}

impl From<FormatName> for DumpFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Custom => DumpFormat::Custom,
            FormatName::Plain => DumpFormat::Plain,
        }
    }
}

impl FromText for PostgresConfig {
    const EXPECTED: &'static str = "the URL of a database, or a table with `url`, or `host` and \
                                    `dbname`";

    fn from_text(text: &str) -> Result<Self, String> {
        let config = PostgresConfig { url: Some(text.to_owned()), ..PostgresConfig::default() };
        config.address().map(|_| config.clone()).map_err(|error| error.message().to_owned())
    }

    fn to_text(&self) -> Option<String> {
        let alone = PostgresConfig { url: self.url.clone(), ..PostgresConfig::default() };
        (*self == alone).then(|| self.url.as_deref().map(without_password))?
    }
}

/// A configuration is shown and stored: the password in a URL is not.
fn without_password(url: &str) -> String {
    match Address::parse(url) {
        Ok(address) if address.password.is_none() => url.to_owned(),
        Ok(address) => address.label(),
        Err(_) => "not an address".to_owned(),
    }
}

fn shown<S: Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_deref().map(without_password).serialize(serializer)
}

impl PostgresConfig {
    /// Where it is. A password in the URL comes with it.
    pub(crate) fn address(&self) -> lifeboat_core::Result<Address> {
        let mut address = match &self.url {
            Some(url) => Address::parse(url)?,
            None => Address::default(),
        };
        let port = self.port.map(|port| port.to_string());
        let parts: BTreeMap<&str, &Option<String>> = [
            ("service", &self.service),
            ("host", &self.host),
            ("port", &port),
            ("user", &self.user),
            ("dbname", &self.dbname),
        ]
        .into();
        for (name, value) in parts {
            if let Some(value) = value {
                address = address.with(name, value.as_str());
            }
        }
        Ok(address)
    }

    /// What of it is dumped.
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            schemas: self.schemas.clone(),
            exclude_schemas: self.exclude_schemas.clone(),
            tables: self.tables.clone(),
            exclude_tables: self.exclude_tables.clone(),
            exclude_table_data: self.exclude_table_data.clone(),
        }
    }

    /// What is wrong with it: the key, and why.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        match self.address() {
            Err(error) => found.push(("url", error.message().to_owned())),
            Ok(address) => {
                let named = address.database().is_some() || address.get("service").is_some();
                if !named && self.databases.is_none() && !self.physical {
                    found.push(("dbname", "nothing names the database".to_owned()));
                }
                if self.databases.is_some() && self.dbname.is_some() {
                    found.push(("databases", "`databases` and `dbname` exclude each other".into()));
                }
                if address.password.is_some() && self.password.is_some() {
                    found.push(("password", "the URL has a password already".to_owned()));
                }
            }
        }
        if self.data_directory.as_ref().is_some_and(|path| !path.is_absolute()) {
            found.push(("data_directory", "`data_directory` must begin with /".to_owned()));
        }
        found.extend(self.mistakes_of_kind());
        if let Some(why) = self.password.as_ref().and_then(SecretConfig::mistake) {
            found.push(("password", why));
        }
        found
    }

    /// What is said of a dump, and is none; or of a cluster.
    fn mistakes_of_kind(&self) -> Vec<(&'static str, String)> {
        let of_dumps = [
            ("databases", self.databases.is_some()),
            ("format", self.format.is_some()),
            ("schemas", !self.schemas.is_empty()),
            ("exclude_schemas", !self.exclude_schemas.is_empty()),
            ("tables", !self.tables.is_empty()),
            ("exclude_tables", !self.exclude_tables.is_empty()),
            ("exclude_table_data", !self.exclude_table_data.is_empty()),
        ];
        let of_clusters = [
            ("checkpoint", self.checkpoint.is_some()),
            ("max_rate", self.max_rate.is_some()),
            ("wal_window", self.wal_window.is_some()),
            ("chain_max", self.chain_max.is_some()),
            ("data_directory", self.data_directory.is_some()),
        ];
        let (wrong, why) = match self.physical {
            true => (&of_dumps[..], "is for dumps: a physical backup holds the whole cluster"),
            false => (&of_clusters[..], "is for physical backups: `physical = true`"),
        };
        let set = wrong.iter().filter(|(_, is_set)| *is_set);
        let mut found: Vec<_> = set.map(|(name, _)| (*name, format!("`{name}` {why}"))).collect();
        if self.physical && !self.command.is_empty() {
            let message = "`command` is for client programs: a physical backup connects by itself";
            found.push(("command", message.to_owned()));
        }
        found
    }
}
