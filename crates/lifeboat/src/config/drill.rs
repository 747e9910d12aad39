//! What a configuration says of drills: what must hold of a restored source, and how often one is
//! restored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::OneOrMany;
use super::values::{Period, Size, Text};

/// By how much tables may have grown or shrunk since the restore point, in percent.
const ROWS_WITHIN_PERCENT: u64 = 50;
/// A difference of so many rows is always as it may be.
const ROWS_SLACK: u64 = 1_000;
/// How long an application may take until it answers.
const COMMAND_TIMEOUT_MS: u64 = 30_000;

/// How `lifeboat drill` rehearses the restore of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillConfig {
    /// How often a drill must pass: `status` and `doctor` tell when one is overdue. Default: no
    /// promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"31d")]
    pub(crate) every: Option<Text<Period>>,
    /// Whether an overdue drill makes `status` end with exit code 21, as an old backup does.
    /// Default: false, it is a warning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) required: bool,
    /// Queries in SQL that are asked of what was restored. The first value of each answer must be
    /// true: a number other than 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["SELECT count(*) > 0 FROM User"])]
    pub(crate) assert: Vec<String>,
    /// Of a whole PostgreSQL cluster: the database that `assert` asks. Default: "postgres".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"chatbot_admin")]
    pub(crate) database: Option<String>,
    /// A query in SQL whose first value is the version of the application's schema: what was
    /// restored and the live database are asked, and a difference is told. Default: the tables of
    /// known migration tools, and `user_version` of SQLite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"SELECT value FROM settings WHERE name = 'schema'")]
    pub(crate) schema_version: Option<String>,
    /// By how many percent the rows of a table may differ from those of the live database, where
    /// that can be asked. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 50)]
    pub(crate) rows_within_percent: Option<u64>,
    /// A difference of so many rows is never too much. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 1000)]
    pub(crate) rows_slack: Option<u64>,
    /// The application itself: a program and its arguments, in which {database}, {files}, {url}
    /// and {port} stand for what was restored and for a free port. It must end with code 0, or,
    /// where there is a `probe`, answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["/usr/bin/superchat", "--db", "{database}", "--port", "{port}"])]
    pub(crate) command: Vec<String>,
    /// How the application is asked: "tcp" connects to {port}, "ssh" also waits for the greeting
    /// of a server of SSH, a URL such as "http://127.0.0.1:{port}/health" must answer with 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"http://127.0.0.1:{port}/health")]
    pub(crate) probe: Option<String>,
    /// How long the application may take. Default: "30s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"30s")]
    pub(crate) command_timeout: Option<Text<Period>>,
    /// The fingerprint of each host key among the companion files, as `ssh-keygen -l` prints it.
    /// Without it they are compared with those of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"SHA256:jHYOpHiKPHHC5vnUNBHBNEMjH1TO2cyE/8kKLJ6PVYk")]
    pub(crate) host_key: Option<OneOrMany>,
    /// How much space the scratch restore may take. Default: what is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"20GB")]
    pub(crate) space_max: Option<Text<Size>>,
    /// How much memory the check of what was restored, or the server that it is restored into, may
    /// use, about. Default: `check_memory` of the source; for a server 128 MB for its pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"256MB")]
    pub(crate) memory_max: Option<Text<Size>>,
    /// How long the drill may take. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"1h")]
    pub(crate) time_limit: Option<Text<Period>>,
}

/// When `install systemd` and `install cron` have restores rehearsed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillSchedules {
    /// When each source is restored and checked: as `schedule` of a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"monthly")]
    pub(crate) schedule: Option<String>,
    /// When everything is rebuilt from what the repositories alone know, as on another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"0 6 1 1,4,7,10 *")]
    pub(crate) rebuild: Option<String>,
}

impl DrillConfig {
    /// By how much the rows of a table may differ: percent, and a number that is never too much.
    pub(crate) fn rows_bounds(&self) -> (u64, u64) {
        let percent = self.rows_within_percent.unwrap_or(ROWS_WITHIN_PERCENT);
        (percent, self.rows_slack.unwrap_or(ROWS_SLACK))
    }

    /// How long the application may take.
    pub(crate) fn command_timeout_ms(&self) -> u64 {
        self.command_timeout.map_or(COMMAND_TIMEOUT_MS, |timeout| timeout.0.milliseconds)
    }

    /// The mistakes in it, each with its key.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.assert.iter().any(|sql| sql.trim().is_empty()) {
            found.push(("assert", "a query is empty".to_owned()));
        }
        if self.schema_version.as_ref().is_some_and(|sql| sql.trim().is_empty()) {
            found.push(("schema_version", "the query is empty".to_owned()));
        }
        if self.probe.is_some() && self.command.is_empty() {
            found.push(("probe", "it belongs to `command`, which starts what is asked".to_owned()));
        }
        match self.probe.as_deref() {
            None | Some("tcp" | "ssh") => {}
            Some(url) if url.starts_with("http://") => {}
            Some(other) => found.push((
                "probe",
                format!("`{other}` is no probe: write \"tcp\", \"ssh\" or \"http://...\""),
            )),
        }
        if self.required && self.every.is_none() {
            found.push(("required", "it needs `every`, which says how often".to_owned()));
        }
        let fingerprints = self.host_key.as_ref().map(OneOrMany::names).unwrap_or_default();
        if let Some(wrong) = fingerprints.iter().find(|text| !text.starts_with("SHA256:")) {
            let message = format!("`{wrong}` is no fingerprint: `ssh-keygen -lf FILE` prints it");
            found.push(("host_key", message));
        }
        found
    }
}
