//! What a configuration says of runs: hooks, retries, and what a run does that meets another.

use std::fmt;

use lifeboat_core::retry::Retry;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::values::{Period, Text};

/// Commands that are run around backups. Each is a text, which /bin/sh runs, or a list of the
/// program and its arguments, which is run without a shell; or a list of such lists, run one after
/// the other. They get LIFEBOAT_ variables; what they print goes to standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HooksConfig {
    /// Before anything is read or stored. If it fails, no backup is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = ["systemctl", "stop", "reports.timer"])]
    pub(crate) before: Option<Commands>,
    /// When all is done, also after a failure: LIFEBOAT_OUTCOME tells. If it fails, the backup is
    /// good, and the exit code is 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = ["systemctl", "start", "reports.timer"])]
    pub(crate) after: Option<Commands>,
    /// After a failure, after `after`. If it fails as well, that is said and changes nothing.
    #[serde(default, alias = "on-failure", skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"echo \"$LIFEBOAT_ERROR\" | mail -s \"no backup\" root")]
    pub(crate) on_failure: Option<Commands>,
    /// How long each command may take; then it is killed with all that it started.
    /// Default: "60s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"60s")]
    pub(crate) timeout: Option<Text<Period>>,
}

/// One command, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Commands {
    /// A text for /bin/sh.
    Shell(String),
    /// A program and its arguments.
    One(Vec<String>),
    /// Several programs with their arguments, one after the other.
    Many(Vec<Vec<String>>),
}

impl Commands {
    /// The programs with their arguments, in order.
    pub(crate) fn each(&self) -> Vec<Vec<String>> {
        match self {
            Commands::Shell(text) => vec![vec!["/bin/sh".into(), "-c".into(), text.clone()]],
            Commands::One(command) => vec![command.clone()],
            Commands::Many(commands) => commands.clone(),
        }
    }
}

/// A part of a list: a word of the one command, or one of several commands.
enum Part {
    Word(String),
    Command(Vec<String>),
}

const EXPECTED: &str = "a text for /bin/sh, a list of a program and its arguments, or a list of \
                        such lists";

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Part;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_str<E>(self, word: &str) -> Result<Part, E> {
                Ok(Part::Word(word.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Part, A::Error> {
                let words = de::value::SeqAccessDeserializer::new(seq);
                Vec::deserialize(words).map(Part::Command)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Commands {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Commands;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Commands, E> {
                match text.trim().is_empty() || text.contains('\0') {
                    true => Err(E::custom("the command is empty, or holds a zero byte")),
                    false => Ok(Commands::Shell(text.to_owned())),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Commands, A::Error> {
                let (mut words, mut commands) = (Vec::new(), Vec::new());
                while let Some(part) = seq.next_element()? {
                    match part {
                        Part::Word(word) => words.push(word),
                        Part::Command(command) => commands.push(command),
                    }
                }
                let wrong = |command: &Vec<String>| {
                    command.first().is_none_or(String::is_empty)
                        || command.iter().any(|word| word.contains('\0'))
                };
                match (words.is_empty(), commands.is_empty()) {
                    (false, false) => Err(de::Error::custom(format!("mixed: write {EXPECTED}"))),
                    (false, true) if !wrong(&words) => Ok(Commands::One(words)),
                    (true, false) if !commands.iter().any(wrong) => Ok(Commands::Many(commands)),
                    _ => Err(de::Error::custom(
                        "a command is empty, names no program, or holds a zero byte",
                    )),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for Commands {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Commands".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
            { "type": "array", "items": { "type": "array", "items": { "type": "string" } } },
        ] })
    }
}

/// How a backup is tried again that failed for a reason that may pass by itself: locked, the store
/// or the source cannot be reached now. Never one that failed a check, or for lack of space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryConfig {
    /// How many times, after the first. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = 3)]
    pub(crate) times: Option<u32>,
    /// How long to wait before the first of them; before each further one twice as long. Up to
    /// half of it is left off by chance. Default: "10s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"10s")]
    pub(crate) delay: Option<Text<Period>>,
    /// The longest wait. Default: "5m".
    #[serde(default, alias = "delay-max", skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"5m")]
    pub(crate) delay_max: Option<Text<Period>>,
}

impl RetryConfig {
    /// What core is given.
    pub(crate) fn retry(&self) -> Retry {
        let default = Retry::DEFAULT;
        Retry {
            times: self.times.unwrap_or(3),
            delay_ms: self.delay.map_or(default.delay_ms, |delay| delay.0.milliseconds),
            delay_ms_max: self.delay_max.map_or(default.delay_ms_max, |max| max.0.milliseconds),
        }
    }
}

/// What a backup does while another run has the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Overlap {
    /// It fails, with the exit code 11.
    #[default]
    Fail,
    /// It ends without a backup and says so, with the exit code 0.
    Skip,
    /// It waits for the other one's end, as long as its `time_limit` lets it.
    Wait,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HooksConfig, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn commands_are_read_in_three_forms() {
        let each = |text: &str| read(text).unwrap().before.unwrap().each();
        assert_eq!(each("before = 'a | b'"), [["/bin/sh", "-c", "a | b"]]);
        assert_eq!(each("before = ['a', 'b c']"), [["a", "b c"]]);
        assert_eq!(each("before = [['a', 'b'], ['c', 'd']]"), [["a", "b"], ["c", "d"]]);
        assert!(read("on-failure = 'x'").unwrap().on_failure.is_some());
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for text in ["''", "[]", "['']", "[[]]", "['a', ['b']]", "3", "[1]", "' '"] {
            assert!(read(&format!("before = {text}")).is_err(), "{text}");
        }
    }
}
