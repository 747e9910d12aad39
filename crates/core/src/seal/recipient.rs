//! Recipients: to whom something is sealed. They are public.

use std::collections::BTreeSet;

use age::ssh::ParseRecipientKeyError;

use super::Identity;
use crate::error::{Error, Kind, Result};

/// One recipient.
#[derive(Clone)]
enum Recipient {
    Native(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

impl Recipient {
    fn parse(text: &str) -> Result<Self> {
        // It must not be repeated in a message: it would be in a log then.
        if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") || text.contains("PRIVATE KEY")
        {
            return Err(Error::new(Kind::Usage, "a secret key stands where a recipient belongs")
                .hint(
                    "put the recipient there, which begins with age1 or ssh-: `lifeboat key show \
                     FILE` says it. Whoever could read this file may have read the key: make a \
                     new one with `lifeboat key new`",
                ));
        }
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("`{text}` is not a recipient: {why}"))
                .hint("a recipient begins with age1, ssh-ed25519 or ssh-rsa")
        };
        if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-") {
            let parsed = text.parse().map(Recipient::Ssh);
            return parsed.map_err(|error| match error {
                ParseRecipientKeyError::RsaModulusTooLarge => wrong("its RSA key is too large"),
                ParseRecipientKeyError::RsaModulusTooSmall => wrong("its RSA key is too small"),
                ParseRecipientKeyError::Unsupported(kind) => {
                    wrong(&format!("keys of the kind {kind} cannot be used to seal"))
                }
                _ => wrong("it is not a whole line of a public key of SSH"),
            });
        }
        text.parse().map(Recipient::Native).map_err(wrong)
    }

    fn name(&self) -> String {
        match self {
            Recipient::Native(recipient) => recipient.to_string(),
            Recipient::Ssh(recipient) => recipient.to_string(),
        }
    }

    fn as_age(&self) -> &dyn age::Recipient {
        match self {
            Recipient::Native(recipient) => recipient,
            Recipient::Ssh(recipient) => recipient,
        }
    }
}

/// Those to whom something is sealed: each of them opens it alone.
#[derive(Clone)]
pub struct Recipients {
    recipients: Vec<Recipient>,
    names: Vec<String>,
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

impl PartialEq for Recipients {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for Recipients {}

impl Recipients {
    /// Reads recipients: `age1...`, or lines of public keys of SSH. None, and one that is there
    /// twice, are errors.
    pub fn parse(texts: &[impl AsRef<str>]) -> Result<Self> {
        let recipients: Result<Vec<Recipient>> =
            texts.iter().map(|text| Recipient::parse(text.as_ref().trim())).collect();
        let recipients = recipients?;
        if recipients.is_empty() {
            return Err(Error::new(Kind::Usage, "no recipient is named")
                .hint("name one, as `lifeboat key new` prints it"));
        }
        let names: Vec<String> = recipients.iter().map(Recipient::name).collect();
        let mut seen = BTreeSet::new();
        match names.iter().find(|name| !seen.insert(*name)) {
            Some(twice) => {
                Err(Error::new(Kind::Usage, format!("the recipient {twice} is named twice")))
            }
            None => Ok(Recipients { recipients, names }),
        }
    }

    /// How they are written, without comments.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The same and one key more, which is named nowhere: it is made here, and only what is in
    /// memory opens what is sealed to it.
    pub fn with_passing_key(&self) -> (Recipients, Identity) {
        let identity = age::x25519::Identity::generate();
        let mut more = self.clone();
        more.recipients.push(Recipient::Native(identity.to_public()));
        (more, Identity::of_native(identity))
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &dyn age::Recipient> {
        self.recipients.iter().map(Recipient::as_age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/\
                       XXUB+VHtZ6isGN";

    #[test]
    fn both_kinds_are_read_and_a_comment_is_left_out() {
        let recipients = Recipients::parse(&[ONE, &format!("{SSH} alice@rust")]).unwrap();
        assert_eq!(recipients.names(), [ONE, SSH]);
    }

    #[test]
    fn what_is_no_recipient_is_refused() {
        for wrong in ["", "age1", "age1xyz", "hello", "ssh-ed25519", "ecdsa-sha2-nistp256 AAAA"] {
            let error = Recipients::parse(&[wrong]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{wrong}");
        }
        assert!(Recipients::parse(&[] as &[&str]).is_err());
        let twice = Recipients::parse(&[ONE, ONE]).unwrap_err();
        assert!(twice.message().ends_with("is named twice"), "{twice}");
    }

    #[test]
    fn a_secret_key_is_refused_and_not_repeated() {
        let secret = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
        for text in [secret.to_owned(), secret.to_lowercase()] {
            let error = format!("{:?}", Recipients::parse(&[text]).unwrap_err());
            assert!(!error.to_uppercase().contains("GQ9778"), "{error}");
        }
    }
}
