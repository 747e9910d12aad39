//! What a configuration file can say. The doc comment of a field is its entry in the manual, in
//! the example that `config init` writes, and in the schema.
//!
//! No internally tagged enums: the key names the kind, so that an error points at its line.
//! Whatever is absent stays `None` here; the defaults are in the accessors, and
//! `config show` tells the one from the other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::policy::Keep;
use lifeboat_sqlite::pagelog::Resolution;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent::AgentConfig;
use super::drill::{DrillConfig, DrillSchedules};
use super::keys::IdentityConfig;
use super::notify::NotifyConfig;
use super::postgres::PostgresConfig;
use super::repository::RepositoryConfig;
use super::runs::{HooksConfig, Overlap, RetryConfig};
use super::values::{FromText, Period, Size, Text, TextOr};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The name of this host in manifests. Default: the system's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"db1")]
    pub(crate) host: Option<String>,
    /// Whom to call when this host is lost: a line for the recovery kit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"Ann, +49 30 1234567, ann@example.org")]
    pub(crate) contact: Option<String>,
    /// Where the key is that opens sealed backups: { file = "..." }, { env = "..." },
    /// { command = [...] }, or { credential = "..." } of systemd. A host that makes backups needs
    /// none, and should have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<IdentityConfig>,
    /// Where backups live, each under a name. Without any, the default repository is used:
    /// /var/backups/lifeboat for root, else ~/.local/share/lifeboat.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) repository: BTreeMap<String, RepositoryConfig>,
    /// What is protected, each under the name that its backups have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) source: BTreeMap<String, SourceConfig>,
    /// Commands around a whole run of `backup` or `prune`: before the first source, after the last
    /// one, and where any has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hooks: Option<HooksConfig>,
    /// How failed backups are tried again, where a source says nothing else. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<RetryConfig>,
    /// When restores are rehearsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drill: Option<DrillSchedules>,
    /// Who is told how runs end, each under a name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) notify: BTreeMap<String, NotifyConfig>,
    /// The long-running process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<AgentConfig>,
}

/// Something to protect: a SQLite or PostgreSQL database with its companion files, or a set of
/// files.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceConfig {
    /// The database: its path, or a table with `path` or `glob`, and how it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/var/lib/superchat/superchat.db")]
    pub(crate) sqlite: Option<TextOr<SqliteConfig>>,
    /// The database: its URL, or a table that says how it is reached and dumped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"postgresql://chatbot@localhost/chatbot_admin")]
    pub(crate) postgres: Option<TextOr<PostgresConfig>>,
    /// Beside a database: companion files, backed up in the same run. Alone: a source of files.
    /// Each is a path, { path = "...", optional = true } where it may be missing, or
    /// { glob = "..." } for a pattern.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["/var/lib/superchat/ssh_host_key", "/etc/superchat/config.toml"])]
    pub(crate) files: Vec<TextOr<FileConfig>>,
    /// The repository that takes the backups, or a list of them. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"local")]
    pub(crate) repository: Option<OneOrMany>,
    /// How backups are named: {source}, {date} and {time} in UTC, and fixed text.
    /// Default: "{source}-{date}-{time}".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"{source}-{date}-{time}")]
    pub(crate) name: Option<Text<NamePattern>>,
    /// How artifacts of this source are compressed, instead of what the repository says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"gzip:6")]
    pub(crate) compression: Option<Text<Compression>>,
    /// How thoroughly the database is checked in each run: "none", "quick" or "full".
    /// Default: "quick".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<CheckName>", example = &"quick")]
    pub(crate) check: Option<CheckLevel>,
    /// What a prune keeps: "forever", or numbers by age and a time within which
    /// everything is kept. Default: "forever".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"forever")]
    pub(crate) keep: Option<TextOr<KeepConfig>>,
    /// Of a SQLite database that is followed or backed up by increments: how finely the states of
    /// its log can be told apart, by their age. Default: every one for a day, one of each minute
    /// for a week, one of each hour for 30 days; with `keep = "forever"`, every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<LogConfig>,
    /// When what `keep` does not ask for goes: "on-command" with `lifeboat prune` alone,
    /// "after-backup" with each backup of the source as well. Default: "on-command".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"after-backup")]
    pub(crate) prune: Option<PruneWhen>,
    /// For files alone: "on-change" makes no new backup where nothing changed, "always" does.
    /// Default: "always".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"on-change")]
    pub(crate) when: Option<When>,
    /// When `lifeboat run`, or the timers of `install systemd` or the lines of `install cron`, have
    /// a backup made: "hourly", "daily", "weekly", "monthly", "daily 02:00", five fields as cron
    /// has them, or what systemd takes after OnCalendar=. In the host's local time, or in that of a
    /// zone behind it: "daily 02:00 Europe/Berlin".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"hourly")]
    pub(crate) schedule: Option<String>,
    /// How far the moment is moved, the same for a host and a source, so that not all begin at
    /// once; cron does without. Default: up to "5m" for "hourly", "15m" for the other words, "30s"
    /// where a time is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"10m")]
    pub(crate) random_delay: Option<Text<Period>>,
    /// How old the newest backup may be before `status` calls the source stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"1h")]
    pub(crate) rpo: Option<Text<Period>>,
    /// How long a restore may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"15m")]
    pub(crate) rto: Option<Text<Period>>,
    /// The service that uses the database: a systemd unit, or a table with commands. It is
    /// stopped and started again by the method "cold" and by a restore in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"superchat")]
    pub(crate) service: Option<TextOr<ServiceConfig>>,
    /// Commands around each backup of this source, once for all of its repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hooks: Option<HooksConfig>,
    /// How a failed backup is tried again. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<RetryConfig>,
    /// What a backup does while another run backs up the same source: "fail" (exit code 11),
    /// "skip" or "wait", which needs a `time_limit`. Default: "fail".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"skip")]
    pub(crate) overlap: Option<Overlap>,
    /// How long one backup may take, with hooks, waiting and further attempts. Then it ends, and
    /// nothing of it is left. Default: no limit.
    #[serde(default, alias = "time-limit", skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"2h")]
    pub(crate) time_limit: Option<Text<Period>>,
    /// How `lifeboat guard` runs a migration behind a backup of this database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guard: Option<GuardConfig>,
    /// How `lifeboat drill` rehearses its restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drill: Option<DrillConfig>,
    /// The source's id, where its backups must be found again under another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = &"7d2c8a7e-0c0f-4a55-9f0e-3b8f6c1d2e4a")]
    pub(crate) id: Option<uuid::Uuid>,
    /// What each of its backups has to say; no key of a file, but known where a source was made
    /// of variables.
    #[serde(skip)]
    #[schemars(skip)]
    pub(crate) warnings: Vec<String>,
}

/// How a SQLite database is found and read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqliteConfig {
    /// The database's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/var/lib/superchat/superchat.db")]
    pub(crate) path: Option<PathBuf>,
    /// Databases by pattern, * and ? within a name. Each becomes a source named after this one
    /// and what the wildcards stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/srv/tenants/*/app.db")]
    pub(crate) glob: Option<String>,
    /// How the moment is obtained: "online", "checkpoint" or "cold". Default: "online".
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "method")]
    #[schemars(with = "Option<MethodName>", example = &"online")]
    pub(crate) method: Option<Method>,
    /// The longest that writers are held up in rollback-journal mode, in milliseconds.
    /// Default: 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 5000)]
    pub(crate) lock_ms_max: Option<u64>,
    /// How much memory a check may use. Default: "512MB".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"512MB")]
    pub(crate) check_memory: Option<Text<Size>>,
}

/// A file, a folder with all that is in it, or files by pattern. A log may be written meanwhile,
/// emptied or rotated: of each file that which it holds when the run begins is backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileConfig {
    /// The absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/superchat/config.toml")]
    pub(crate) path: Option<PathBuf>,
    /// Or files by pattern, * and ? within a name: rotated logs. Looked for in each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/var/log/superchat/*.log*")]
    pub(crate) glob: Option<String>,
    /// Whether it may be missing, or match nothing. Default: false, that fails the run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) optional: bool,
}

/// How a service is stopped and started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceConfig {
    /// The systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"superchat.service")]
    pub(crate) unit: Option<String>,
    /// The command that stops it, instead of systemd: the program and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["docker", "stop", "superchat"])]
    pub(crate) stop: Vec<String>,
    /// The command that starts it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["docker", "start", "superchat"])]
    pub(crate) start: Vec<String>,
    /// How long each of them may take. Default: "60s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"60s")]
    pub(crate) timeout: Option<Text<Period>>,
}

/// How a migration is guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardConfig {
    /// Where the backup goes: "repository", "beside" the database as
    /// NAME.backup-vVERSION-YYYYMMDD-HHMMSS, or "both". Default: "repository".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"both")]
    pub(crate) place: Option<GuardPlace>,
    /// Queries in SQL. What each answers must be the same before and after the command; one that
    /// begins with "after:" is asked only afterwards, and must be true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["SELECT count(*) FROM User", "after: SELECT count(*) > 0 FROM Channel"])]
    pub(crate) invariants: Vec<String>,
    /// Whether the backup is restored when the command fails. Default: false, the way back is
    /// said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) rollback: bool,
    /// The folder of migrations that `lifeboat guard --watch` compares with the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/usr/share/superchat/migrations")]
    pub(crate) pending: Option<PathBuf>,
}

/// Where the backup before a migration goes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum GuardPlace {
    /// Into the source's repositories
    #[default]
    Repository,
    /// Beside the database, as a plain copy
    Beside,
    /// Both
    Both,
}

/// How many backups are kept. Written as "forever", or as a table. Only good ones are counted:
/// the newest of each hour, day and so on, as far back as so many of them have any. A backup stays
/// if any line keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeepConfig {
    /// Everything is kept. Written as the text "forever".
    #[serde(skip)]
    pub(crate) forever: bool,
    /// The newest ones, whatever their age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 3)]
    pub(crate) last: Option<u32>,
    /// One of each hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 48)]
    pub(crate) hourly: Option<u32>,
    /// One of each day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 30)]
    pub(crate) daily: Option<u32>,
    /// One of each week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 8)]
    pub(crate) weekly: Option<u32>,
    /// One of each month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 12)]
    pub(crate) monthly: Option<u32>,
    /// One of each quarter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 8)]
    pub(crate) quarterly: Option<u32>,
    /// One of each year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 5)]
    pub(crate) yearly: Option<u32>,
    /// Everything not older than this, when the newest good backup is taken for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"2d")]
    pub(crate) within: Option<Text<Period>>,
}

/// How finely the states of a log can be told apart, by their age, which counts from the newest
/// one. What is older than all of these goes with the next prune, and so do backups that were kept
/// for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// For so long every state is kept. Default: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"1d")]
    pub(crate) all: Option<Text<Period>>,
    /// For so long the last one of each minute. Default: a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"7d")]
    pub(crate) minutely: Option<Text<Period>>,
    /// For so long the last one of each hour. Default: 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"30d")]
    pub(crate) hourly: Option<Text<Period>>,
}

/// When a source is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum PruneWhen {
    /// When `lifeboat prune` is run.
    OnCommand,
    /// After each backup that succeeded, too.
    AfterBackup,
}

/// When files are backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum When {
    /// In each run.
    Always,
    /// Where their content, owner or mode changed since the newest backup.
    OnChange,
}

/// One name, or a list of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The names.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            OneOrMany::One(name) => std::slice::from_ref(name),
            OneOrMany::Many(names) => names,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> serde::de::Visitor<'de> for Names {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name or a list of names")
            }
            fn visit_str<E>(self, name: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(name.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                seq: A,
            ) -> Result<OneOrMany, A::Error> {
                let names = serde::de::value::SeqAccessDeserializer::new(seq);
                Vec::deserialize(names).map(OneOrMany::Many)
            }
        }
        deserializer.deserialize_any(Names)
    }
}

/// The words of [`CheckLevel`], for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum CheckName {
    None,
    Quick,
    Full,
}

/// The words of [`Method`] that can be asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum MethodName {
    Online,
    Checkpoint,
    Cold,
}

fn method<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Method>, D::Error> {
    let name = Option::<MethodName>::deserialize(deserializer)?;
    Ok(name.map(|name| match name {
        MethodName::Online => Method::Online,
        MethodName::Checkpoint => Method::Checkpoint,
        MethodName::Cold => Method::Cold,
    }))
}

/// Whoever writes a pattern as a path means a pattern.
fn require_literal(text: &str) -> Result<(), String> {
    match text.contains(['*', '?']) {
        true => Err(format!(
            "`{text}` would be taken literally: write {{ glob = \"{text}\" }}, or {{ path = ... }}"
        )),
        false => Ok(()),
    }
}

impl FromText for SqliteConfig {
    const EXPECTED: &'static str = "the path of a database, or a table with `path` or `glob`";

    fn from_text(text: &str) -> Result<Self, String> {
        require_literal(text)?;
        match text.is_empty() {
            true => Err("the path of the database is empty".to_owned()),
            false => Ok(SqliteConfig { path: Some(text.into()), ..SqliteConfig::default() }),
        }
    }

    fn to_text(&self) -> Option<String> {
        let path = self.path.as_ref()?.to_str()?;
        let alone = SqliteConfig { path: Some(path.into()), ..SqliteConfig::default() };
        (*self == alone && require_literal(path).is_ok()).then(|| path.to_owned())
    }
}

impl FromText for FileConfig {
    const EXPECTED: &'static str = "a path, or a table with `path` or `glob`, and `optional`";

    fn from_text(text: &str) -> Result<Self, String> {
        require_literal(text)?;
        match text.starts_with('/') {
            true => Ok(FileConfig { path: Some(text.into()), ..FileConfig::default() }),
            false => Err(format!("`{text}` is not an absolute path")),
        }
    }

    fn to_text(&self) -> Option<String> {
        let text = self.path.as_ref()?.to_str()?;
        let alone = self.glob.is_none() && !self.optional;
        (alone && require_literal(text).is_ok()).then(|| text.to_owned())
    }
}

impl FileConfig {
    /// The path, or the pattern as one.
    pub(crate) fn place(&self) -> PathBuf {
        let glob = self.glob.as_ref().map(PathBuf::from);
        self.path.clone().or(glob).unwrap_or_default()
    }
}

impl FromText for ServiceConfig {
    const EXPECTED: &'static str = "a systemd unit, or a table with `unit`, or `stop` and `start`";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.is_empty() || text.starts_with('-') {
            true => Err(format!("`{text}` is not the name of a systemd unit")),
            false => Ok(ServiceConfig { unit: Some(text.to_owned()), ..ServiceConfig::default() }),
        }
    }

    fn to_text(&self) -> Option<String> {
        let alone = ServiceConfig { unit: self.unit.clone(), ..ServiceConfig::default() };
        (*self == alone).then(|| self.unit.clone())?
    }
}

impl FromText for KeepConfig {
    const EXPECTED: &'static str = "\"forever\", or a table with last, hourly, daily, weekly, \
                                    monthly, quarterly, yearly and within";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(KeepConfig { forever: true, ..KeepConfig::default() }),
            _ => Err(format!("`{text}` is not a retention: write \"forever\" or a table")),
        }
    }

    fn to_text(&self) -> Option<String> {
        self.forever.then(|| "forever".to_owned())
    }
}

impl LogConfig {
    /// What thins out logs is given.
    pub(crate) fn resolution(&self) -> Resolution {
        let default = Resolution::default();
        let length = |period: Option<Text<Period>>, default: u64| {
            period.map_or(default, |period| period.0.milliseconds)
        };
        Resolution {
            all_ms: length(self.all, default.all_ms),
            minutely_ms: length(self.minutely, default.minutely_ms),
            hourly_ms: length(self.hourly, default.hourly_ms),
        }
    }
}

impl KeepConfig {
    /// What the rule of retention is given.
    pub(crate) fn keep(&self) -> Keep {
        let within = self.within.map(|within| {
            let milliseconds = i64::try_from(within.0.milliseconds).unwrap_or(i64::MAX);
            jiff::SignedDuration::from_millis(milliseconds)
        });
        Keep {
            forever: self.forever,
            last: self.last.unwrap_or(0),
            hourly: self.hourly.unwrap_or(0),
            daily: self.daily.unwrap_or(0),
            weekly: self.weekly.unwrap_or(0),
            monthly: self.monthly.unwrap_or(0),
            quarterly: self.quarterly.unwrap_or(0),
            yearly: self.yearly.unwrap_or(0),
            within,
        }
    }
}
