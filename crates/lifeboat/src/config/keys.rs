//! What a configuration says of keys: to whom backups are sealed, and where the key is that opens
//! them.

use std::path::PathBuf;

use lifeboat_core::seal::Recipients;
use lifeboat_core::{Error, Kind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::postgres::SecretConfig;
use super::values::{FromText, TextOr};

/// A recipient, or a file of recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecipientConfig {
    /// The recipient itself. Written as a text.
    #[serde(skip)]
    pub(crate) text: Option<String>,
    /// A file with a recipient on each line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/lifeboat/recipients")]
    pub(crate) file: Option<PathBuf>,
}

impl FromText for RecipientConfig {
    const EXPECTED: &'static str = "a recipient such as \"age1...\", or a table with `file`";

    fn from_text(text: &str) -> Result<Self, String> {
        // It is read later: what is wrong with it must not be shown if it is a secret.
        Ok(RecipientConfig { text: Some(text.to_owned()), file: None })
    }

    fn to_text(&self) -> Option<String> {
        self.text.clone()
    }
}

/// Where the key is. One of the four, and where its passphrase is, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityConfig {
    /// A file of `lifeboat key new` or age-keygen, or a private key of SSH; not readable by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/root/lifeboat.key")]
    pub(crate) file: Option<PathBuf>,
    /// A variable of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"LIFEBOAT_KEY")]
    pub(crate) env: Option<String>,
    /// A command that prints it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["pass", "show", "lifeboat"])]
    pub(crate) command: Vec<String>,
    /// A credential that systemd gives to the unit: LoadCredential= in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"lifeboat-key")]
    pub(crate) credential: Option<String>,
    /// Where the passphrase is, for a key that has one and is used where nobody can be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passphrase: Option<SecretConfig>,
}

impl IdentityConfig {
    /// The place, where it is not a file.
    pub(crate) fn secret(&self) -> SecretConfig {
        SecretConfig {
            file: None,
            env: self.env.clone(),
            command: self.command.clone(),
            credential: self.credential.clone(),
        }
    }
}

/// Whether the recipients that stand in the configuration itself are such; looks at no file.
pub(crate) fn check_literal(recipients: &[TextOr<RecipientConfig>]) -> Result<()> {
    if recipients.is_empty() {
        return Err(Error::new(Kind::Usage, "`encrypt_to` names no recipient")
            .hint("name one, as `lifeboat key new` prints it, or leave `encrypt_to` away"));
    }
    let mut texts = Vec::new();
    for recipient in recipients {
        match (&recipient.0.text, &recipient.0.file) {
            (Some(text), None) => texts.push(text.as_str()),
            (None, Some(file)) if file.is_absolute() => {}
            (None, Some(_)) => return Err(Error::new(Kind::Usage, "the path is not absolute")),
            _ => return Err(Error::new(Kind::Usage, "the table has no `file`")),
        }
    }
    match texts.is_empty() {
        true => Ok(()),
        false => Recipients::parse(&texts).map(drop),
    }
}

/// An error with its hint, for a place where only text fits.
pub(crate) fn in_one(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{}: {hint}", error.message()),
        None => error.message().to_owned(),
    }
}
