//! What a configuration says of the agent.

use lifeboat_core::retry::Retry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::listen::{Listen, TlsConfig};
use super::runs::RetryConfig;
use super::schedule::Schedule;
use super::values::{Period, Text};

/// So many backups run at once, however few processors there are: one that hangs must not keep all
/// others waiting.
const AT_ONCE_MIN: usize = 2;
const WATCH: &str = "*/5 * * * *";
/// A run that writes nothing may be reading.
const HANG_MS_MIN: u64 = 5_000;
const HANG_MS: u64 = 30 * 60_000;
const DRAIN_MS: u64 = 60_000;
const RETRY: Retry = Retry { times: 3, delay_ms: 60_000, delay_ms_max: 15 * 60_000 };

/// The long-running process, `lifeboat run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentConfig {
    /// The address of its web page; without one there is none. An address that other hosts reach
    /// needs `tls` or `proxy`, and somebody who may enter (`lifeboat web password NAME`). With
    /// `unix:/PATH` it is a socket for the user of the agent and root alone: what connects there is
    /// believed as a `proxy` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"127.0.0.1:6464")]
    pub(crate) listen: Option<String>,
    /// The certificate and the key of the web page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsConfig>,
    /// The addresses of proxies in front of the web page. They alone may connect, and are believed
    /// when they say for whom (`X-Forwarded-For`) and by what (`X-Forwarded-Proto`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["127.0.0.1"])]
    pub(crate) proxy: Vec<String>,
    /// The host names under which the web page is asked for; addresses and `localhost` are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["backup.example.org"])]
    pub(crate) names: Vec<String>,
    /// How many backups run at once. Default: as many as there are processors, and 2 at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 2)]
    pub(crate) at_once: Option<usize>,
    /// When `lifeboat watch` looks at everything and tells what is wrong: five fields as cron has
    /// them, or a word such as "hourly". Default: "*/5 * * * *".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"*/5 * * * *")]
    pub(crate) watch: Option<String>,
    /// How long a run may neither get on nor use the processor; then it is ended and tried again.
    /// Default: "30m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"30m")]
    pub(crate) hang: Option<Text<Period>>,
    /// How a run is tried again that failed for a reason that may pass by itself, until its next
    /// moment comes. Default: 3 times, the first after "1m", the longest delay "15m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<RetryConfig>,
    /// How long runs may go on when the agent is told to end. Default: "1m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"10m")]
    pub(crate) drain: Option<Text<Period>>,
}

impl AgentConfig {
    /// When everything is looked at.
    pub(crate) fn watch(&self) -> &str {
        self.watch.as_deref().unwrap_or(WATCH)
    }

    /// How many backups run at once.
    pub(crate) fn at_once(&self, processors: usize) -> usize {
        self.at_once.unwrap_or(processors.max(AT_ONCE_MIN))
    }

    /// Where the web page is, if there is to be one; the key that is wrong, and why.
    pub(crate) fn page(&self) -> Option<Result<Listen, (&'static str, String)>> {
        let address = self.listen.as_deref()?;
        Some(Listen::read(address, self.tls.as_ref(), &self.proxy, &self.names))
    }

    /// How long a run may do nothing.
    pub(crate) fn hang_ms(&self) -> u64 {
        self.hang.map_or(HANG_MS, |hang| hang.0.milliseconds)
    }

    /// How long runs may go on at the end.
    pub(crate) fn drain_ms(&self) -> u64 {
        self.drain.map_or(DRAIN_MS, |drain| drain.0.milliseconds)
    }

    /// How a run is tried again.
    pub(crate) fn retry(&self) -> Retry {
        self.retry.as_ref().map_or(RETRY, RetryConfig::retry)
    }

    /// The mistakes in it, each with its key.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        found.extend(self.page().and_then(Result::err));
        if self.at_once == Some(0) {
            found.push(("at_once", "no backup would ever run: write 1 or more".to_owned()));
        }
        if self.hang.is_some_and(|hang| hang.0.milliseconds < HANG_MS_MIN) {
            let message = "a run may be quiet for a moment: write \"5s\" or more".to_owned();
            found.push(("hang", message));
        }
        if let Some(Err(why)) = self.watch.as_deref().map(Schedule::read) {
            found.push(("watch", why));
        }
        found
    }
}
