//! What a configuration says of notifications: who is told, by what way, and of what.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::postgres::SecretConfig;
use super::values::{FromText, Period, Text, TextOr};

/// After so long a problem that goes on is told again.
const REPEAT_MS: u64 = 24 * 3_600_000;
/// How long one delivery may take.
const TIMEOUT_MS: u64 = 10_000;

/// Somebody who is told how runs of `backup`, `verify`, `drill`, `prune`, `copy` and `watch` end.
/// One key says by what way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotifyConfig {
    /// A URL that is sent a request with `body`, or with JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://example.org/hook")]
    pub(crate) webhook: Option<TextOr<UrlConfig>>,
    /// A topic of ntfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://ntfy.sh/my-backups")]
    pub(crate) ntfy: Option<TextOr<UrlConfig>>,
    /// An incoming webhook of Slack, or of what understands the same: its URL is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slack: Option<TextOr<UrlConfig>>,
    /// A webhook of Discord: its URL is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) discord: Option<TextOr<UrlConfig>>,
    /// A check of healthchecks.io or of a server of its kind: told of the start and the end of each
    /// run, with an id, so that it alarms when nothing comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://hc-ping.com/your-uuid")]
    pub(crate) healthchecks: Option<TextOr<UrlConfig>>,
    /// The push URL of a monitor of Uptime Kuma, told of the end of each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://kuma.example.org/api/push/TOKEN")]
    pub(crate) uptime_kuma: Option<TextOr<UrlConfig>>,
    /// A server of mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<EmailConfig>,
    /// Of a webhook: what is sent. {title}, {text}, {kind}, {source}, {command}, {host} and {time}
    /// stand for what they name, written so that they fit between quotation marks of JSON.
    /// Default: JSON with all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"{\"text\": \"{title}: {text}\"}")]
    pub(crate) body: Option<String>,
    /// Of a webhook or ntfy: a token that is sent as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<SecretConfig>,
    /// What is told: "problem", "recovery", "digest" (each week what happened), "success". Default:
    /// all but "success". A check of healthchecks.io and Uptime Kuma are told of every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = ["problem", "recovery"])]
    pub(crate) on: Option<Vec<TellOf>>,
    /// Of which commands: "backup", "verify", "drill", "prune", "copy", "watch". Default: all; of a
    /// check of healthchecks.io and of Uptime Kuma: "backup".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["backup", "drill"])]
    pub(crate) commands: Vec<String>,
    /// Of which sources. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["superchat"])]
    pub(crate) sources: Vec<String>,
    /// After how long a problem that goes on is told again, as urgent. Default: "24h".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"24h")]
    pub(crate) repeat: Option<Text<Period>>,
    /// How long a delivery may take. Default: "10s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"10s")]
    pub(crate) timeout: Option<Text<Period>>,
    /// Whether http:// may be used beyond this host. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = true)]
    pub(crate) allow_http: bool,
    /// A file with certificates that are trusted beside those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/ca.pem")]
    pub(crate) ca_certificate: Option<PathBuf>,
}

/// A URL, or where it is kept, as it often is a secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UrlConfig {
    /// The URL itself. Written as a text.
    #[serde(skip)]
    pub(crate) text: Option<String>,
    /// A file that holds it alone, not readable by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/slack.url")]
    pub(crate) file: Option<PathBuf>,
    /// A variable of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"SLACK_URL")]
    pub(crate) env: Option<String>,
    /// A command that prints it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["pass", "show", "slack"])]
    pub(crate) command: Vec<String>,
    /// A credential that systemd gives to the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"slack")]
    pub(crate) credential: Option<String>,
}

impl std::fmt::Debug for UrlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl UrlConfig {
    /// Where it is kept, where it does not stand here itself.
    pub(crate) fn secret(&self) -> SecretConfig {
        SecretConfig {
            file: self.file.clone(),
            env: self.env.clone(),
            command: self.command.clone(),
            credential: self.credential.clone(),
        }
    }
}

impl FromText for UrlConfig {
    const EXPECTED: &'static str = "a URL, or a table that says where it is kept";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.starts_with("https://") || text.starts_with("http://") {
            true => Ok(UrlConfig { text: Some(text.to_owned()), ..UrlConfig::default() }),
            // It may be a secret that was written to the wrong place.
            false => Err("a URL begins with https://".to_owned()),
        }
    }

    /// Without what may be a secret: `config show` prints it.
    fn to_text(&self) -> Option<String> {
        let (scheme, rest) = self.text.as_ref()?.split_once("://")?;
        let host = rest.split(['/', '?']).next()?.rsplit('@').next()?;
        Some(format!("{scheme}://{host}/***"))
    }
}

/// How a server of mail is reached, and who is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmailConfig {
    /// The server.
    #[schemars(example = &"mail.example.org")]
    pub(crate) host: String,
    /// Its port. Default: 465 with "implicit" TLS, 587 with "starttls", else 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 587)]
    pub(crate) port: Option<u16>,
    /// "starttls", "implicit", or "none", which is for this host alone. Default: "starttls".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"starttls")]
    pub(crate) tls: Option<MailTls>,
    /// Who signs in, if anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"lifeboat@example.org")]
    pub(crate) user: Option<String>,
    /// Where the password is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<SecretConfig>,
    /// The sender.
    #[schemars(example = &"Lifeboat <lifeboat@example.org>")]
    pub(crate) from: String,
    /// Who is written to.
    #[schemars(example = ["ops@example.org"])]
    pub(crate) to: Vec<String>,
}

/// How a connection to a server of mail is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum MailTls {
    /// Begun in the clear, and then protected, or not used.
    #[default]
    Starttls,
    /// From the first byte.
    Implicit,
    /// Not at all.
    None,
}

/// What is told.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum TellOf {
    /// Something failed, for the first time or still.
    Problem,
    /// What failed is well again.
    Recovery,
    /// What happened in a week.
    Digest,
    /// Each run that ended well.
    Success,
}

/// The commands whose runs are told.
pub(crate) const COMMANDS: &[&str] = &["backup", "verify", "drill", "prune", "copy", "watch"];

impl NotifyConfig {
    /// The ways that are set: the key, and the URL where it has one.
    pub(crate) fn ways(&self) -> Vec<(&'static str, Option<&UrlConfig>)> {
        let urls = [
            ("webhook", &self.webhook),
            ("ntfy", &self.ntfy),
            ("slack", &self.slack),
            ("discord", &self.discord),
            ("healthchecks", &self.healthchecks),
            ("uptime_kuma", &self.uptime_kuma),
        ];
        let set = urls.into_iter().filter_map(|(key, url)| Some((key, Some(&url.as_ref()?.0))));
        set.chain(self.email.iter().map(|_| ("email", None))).collect()
    }

    /// Whether it wants to be told of each run, so that it can alarm when none comes.
    pub(crate) fn is_heartbeat(&self) -> bool {
        self.healthchecks.is_some() || self.uptime_kuma.is_some()
    }

    /// Whether it is told of that.
    pub(crate) fn is_told_of(&self, what: TellOf) -> bool {
        match &self.on {
            Some(on) => on.contains(&what),
            None => what != TellOf::Success,
        }
    }

    /// Whether runs of that command are its matter.
    pub(crate) fn is_about(&self, command: &str) -> bool {
        match self.commands.is_empty() {
            true => !self.is_heartbeat() || command == "backup",
            false => self.commands.iter().any(|name| name == command),
        }
    }

    /// Whether that source is its matter; an empty name stands for all of them.
    pub(crate) fn is_about_source(&self, source: &str) -> bool {
        self.sources.is_empty() || source.is_empty() || self.sources.iter().any(|one| one == source)
    }

    /// After how long a problem that goes on is told again.
    pub(crate) fn repeat_ms(&self) -> u64 {
        self.repeat.map_or(REPEAT_MS, |repeat| repeat.0.milliseconds)
    }

    /// How long a delivery may take.
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.timeout.map_or(TIMEOUT_MS, |timeout| timeout.0.milliseconds)
    }

    /// The mistakes in it, each with its key.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let ways = self.ways();
        if ways.len() != 1 {
            let message = "one of `webhook`, `email`, `ntfy`, `slack`, `discord`, `healthchecks` \
                           and `uptime_kuma` says by what way";
            found.push(("", message.to_owned()));
        }
        for (key, url) in ways {
            let kept = url.filter(|url| url.text.is_none()).map(UrlConfig::secret);
            found.extend(kept.and_then(|kept| kept.mistake()).map(|why| (key, why)));
        }
        if let Some(why) = self.token.as_ref().and_then(SecretConfig::mistake) {
            found.push(("token", why));
        }
        if self.body.is_some() && self.webhook.is_none() {
            found.push(("body", "it belongs to `webhook`".to_owned()));
        }
        if self.token.is_some() && self.webhook.is_none() && self.ntfy.is_none() {
            found.push(("token", "it belongs to `webhook` and `ntfy`".to_owned()));
        }
        if let Some(name) = self.commands.iter().find(|name| !COMMANDS.contains(&name.as_str())) {
            found.push(("commands", super::diagnose::unknown_word("command", name, COMMANDS)));
        }
        if self.timeout_ms() == 0 {
            found.push(("timeout", "nothing can be delivered in no time".to_owned()));
        }
        if let Some(email) = &self.email {
            found.extend(email.mistake().map(|why| ("email", why)));
        }
        found
    }
}

impl EmailConfig {
    fn mistake(&self) -> Option<String> {
        let is_here = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if self.tls == Some(MailTls::None) && !is_here {
            return Some("without TLS everybody in between reads it: use \"starttls\"".to_owned());
        }
        if self.user.is_some() != self.password.is_some() {
            return Some("`user` and `password` belong together".to_owned());
        }
        if self.to.is_empty() {
            return Some("`to` names nobody".to_owned());
        }
        if let Some(why) = self.password.as_ref().and_then(SecretConfig::mistake) {
            return Some(why);
        }
        let wrong = |address: &&String| address.parse::<lettre::message::Mailbox>().is_err();
        let address = self.to.iter().chain([&self.from]).find(wrong)?;
        Some(format!("`{}` is no address of mail", address.escape_debug()))
    }
}
