//! Identities: what opens what was sealed. They are secret.
//!
//! The file of one is that of `age-keygen`, the same protected by a passphrase, or a private key of
//! SSH. Nothing of it is ever in a message.

use std::io::{BufReader, Read, Write};
use std::iter;

use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, Decryptor, Encryptor};

use super::{ARMOR, MAGIC};
use crate::error::{Error, Kind, Result};

/// The work of a passphrase: 2^18 rounds of scrypt, about a second.
const WORK: u8 = 18;

/// More work than this is refused: a file may say anything.
const WORK_MAX: u8 = 22;

/// A passphrase. It is never shown.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// As it was typed.
    pub fn new(text: String) -> Self {
        Passphrase(SecretString::from(text))
    }
}

/// Asks for the passphrase of what is named.
pub type AskPassphrase<'a> = dyn Fn(&str) -> Result<Passphrase> + 'a;

#[derive(Clone)]
enum Key {
    Native(age::x25519::Identity),
    Ssh(age::ssh::Identity),
}

/// One or more secret keys.
#[derive(Clone)]
pub struct Identity {
    keys: Vec<Key>,
    recipients: Vec<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the key of {}", self.recipients.join(", "))
    }
}

impl Identity {
    /// A new key.
    pub fn generate() -> Self {
        Identity::of_native(age::x25519::Identity::generate())
    }

    pub(super) fn of_native(key: age::x25519::Identity) -> Self {
        let recipients = vec![key.to_public().to_string()];
        Identity { keys: vec![Key::Native(key)], recipients }
    }

    /// Reads the content of a file; `file` is its name for messages.
    pub fn parse(content: &[u8], file: &str, ask: &AskPassphrase<'_>) -> Result<Self> {
        if content.starts_with(MAGIC) || content.trim_ascii_start().starts_with(ARMOR) {
            let plain = unprotect(content, file, &ask(&format!("passphrase of {file}"))?)?;
            return Identity::parse_plain(plain.expose_secret(), file, None);
        }
        let text = std::str::from_utf8(content).map_err(|_| no_identity(file, "it is no text"))?;
        Identity::parse_plain(text, file, Some(ask))
    }

    fn parse_plain(text: &str, file: &str, ask: Option<&AskPassphrase<'_>>) -> Result<Self> {
        if text.trim_start().starts_with("-----BEGIN") {
            return ssh(text, file, ask);
        }
        let mut all = Identity { keys: Vec::new(), recipients: Vec::new() };
        for (index, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with("age1") || line.starts_with("ssh-") {
                return Err(no_identity(file, "it holds a recipient, which opens nothing"));
            }
            let key = line.parse::<age::x25519::Identity>().map_err(|_| {
                no_identity(file, &format!("line {} is not a secret key", index + 1))
            })?;
            all.join(Identity::of_native(key));
        }
        match all.keys.is_empty() {
            true => Err(no_identity(file, "there is no key in it")),
            false => Ok(all),
        }
    }

    /// Adds the keys of another.
    pub fn join(&mut self, other: Identity) {
        self.keys.extend(other.keys);
        self.recipients.extend(other.recipients);
    }

    /// The recipients whose keys they are.
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    /// The keys of age among them as a file for `age -d -i`, to be kept secret.
    pub fn to_file(&self, created: &str) -> Passphrase {
        let mut text = format!("# created: {created}\n");
        for (key, recipient) in self.keys.iter().zip(&self.recipients) {
            if let Key::Native(key) = key {
                let secret = key.to_string();
                text.push_str(&format!("# public key: {recipient}\n{}\n", secret.expose_secret()));
            }
        }
        Passphrase::new(text)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|key| match key {
            Key::Native(key) => key as &dyn age::Identity,
            Key::Ssh(key) => key,
        })
    }
}

impl Passphrase {
    /// The secret, for the one place that writes it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Protects a secret by a passphrase, as text: `age -d` asks for it and gives the secret.
pub fn protect(secret: &Passphrase, passphrase: &Passphrase) -> Result<String> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(WORK);
    let protected = (|| {
        let encryptor = Encryptor::with_recipients(iter::once(&recipient as &dyn age::Recipient))
            .map_err(std::io::Error::other)?;
        let format = age::armor::Format::AsciiArmor;
        let armored = age::armor::ArmoredWriter::wrap_output(Vec::new(), format)?;
        let mut writer = encryptor.wrap_output(armored)?;
        writer.write_all(secret.expose().as_bytes())?;
        writer.finish()?.finish()
    })();
    let failed = |error| Error::new(Kind::Failed, "cannot protect the key").caused_by(error);
    let bytes = protected.map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unprotect(content: &[u8], file: &str, passphrase: &Passphrase) -> Result<SecretString> {
    let damaged = |error: String| no_identity(file, &format!("it cannot be opened: {error}"));
    let armored = age::armor::ArmoredReader::new(BufReader::new(content.trim_ascii_start()));
    let decryptor = Decryptor::new_buffered(armored).map_err(|error| damaged(error.to_string()))?;
    if !decryptor.is_scrypt() {
        return Err(no_identity(file, "it is sealed to a key itself, not by a passphrase"));
    }
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(WORK_MAX);
    let opened = decryptor.decrypt(iter::once(&identity as &dyn age::Identity));
    let mut text = String::new();
    match opened {
        Ok(mut reader) => {
            reader.read_to_string(&mut text).map_err(|error| damaged(error.to_string()))?;
            Ok(SecretString::from(text))
        }
        Err(DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed) => {
            Err(Error::new(Kind::WrongKey, format!("the passphrase of {file} is wrong")))
        }
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// A private key of SSH, unprotected or with its passphrase.
fn ssh(text: &str, file: &str, ask: Option<&AskPassphrase<'_>>) -> Result<Identity> {
    let parsed = age::ssh::Identity::from_buffer(text.trim_start().as_bytes(), None)
        .map_err(|_| no_identity(file, "it is not a private key of SSH that can be used"))?;
    let key = match parsed {
        age::ssh::Identity::Encrypted(protected) => {
            let Some(ask) = ask else {
                return Err(no_identity(file, "it is protected twice"));
            };
            let passphrase = ask(&format!("passphrase of {file}"))?;
            let opened = protected.decrypt(passphrase.0).map_err(|_| {
                Error::new(Kind::WrongKey, format!("the passphrase of {file} is wrong"))
            })?;
            age::ssh::Identity::from(opened)
        }
        age::ssh::Identity::Unsupported(_) => {
            return Err(no_identity(file, "keys of SSH of its kind open nothing"));
        }
        unprotected => unprotected,
    };
    let recipient = age::ssh::Recipient::try_from(key.clone())
        .map_err(|_| no_identity(file, "it has no public key"))?;
    Ok(Identity { keys: vec![Key::Ssh(key)], recipients: vec![recipient.to_string()] })
}

fn no_identity(file: &str, why: &str) -> Error {
    Error::new(Kind::WrongKey, format!("{file} is not the file of a key: {why}")).hint(
        "it is a file of `lifeboat key new` or age-keygen, or a private key of SSH (ed25519 or RSA)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: &str) -> Result<Passphrase> {
        panic!("nobody may ask")
    }

    #[test]
    fn a_file_of_keys_is_read_back() {
        let mut identity = Identity::generate();
        identity.join(Identity::generate());
        let file = identity.to_file("2026-01-02");
        let read = Identity::parse(file.expose().as_bytes(), "key", &never).unwrap();
        assert_eq!(read.recipients(), identity.recipients());
        assert_eq!(read.recipients().len(), 2);
    }

    #[test]
    fn a_protected_file_needs_its_passphrase() {
        let identity = Identity::generate();
        let right = Passphrase::new("correct horse".into());
        let file = protect(&identity.to_file("2026-01-02"), &right).unwrap();
        assert!(!file.contains("AGE-SECRET"));
        let read = Identity::parse(file.as_bytes(), "key", &|_| Ok(right.clone())).unwrap();
        assert_eq!(read.recipients(), identity.recipients());
        let wrong = |_: &str| Ok(Passphrase::new("wrong".into()));
        let error = Identity::parse(file.as_bytes(), "key", &wrong).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongKey);
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_repeated() {
        let recipient = Identity::generate().recipients()[0].clone();
        for text in ["", "# only\n", "hunter2\n", "AGE-SECRET-KEY-1HUNTER2", &recipient] {
            let error = Identity::parse(text.as_bytes(), "key", &never).unwrap_err();
            assert_eq!(error.kind(), Kind::WrongKey, "{text}");
            assert!(!format!("{error:?}").to_lowercase().contains("hunter2"), "{error:?}");
        }
        assert!(Identity::parse(&[0xff, 0xfe], "key", &never).is_err());
    }
}
