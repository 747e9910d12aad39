//! Keys as the command line and the configuration name them: what a repository is sealed to, and
//! what opens it.
//!
//! No file is read, and nobody is asked for a passphrase, before something sealed is to be opened:
//! `list` needs no key.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_core::seal::{Identity, Keys, Passphrase, Recipients};
use lifeboat_core::{Error, Kind, Result};

use crate::config::keys::{IdentityConfig, RecipientConfig};
use crate::config::repository::RepositoryConfig;
use crate::postgres::fetch;
use crate::session::Session;
use crate::ui::Printer;
use crate::ui::passphrase;

/// A file of keys that is larger was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How a repository is sealed.
#[derive(Clone, Default)]
pub(crate) struct Sealing {
    encrypt_to: Vec<RecipientConfig>,
    /// What opens what is sealed there.
    pub(crate) keys: Option<Arc<dyn Keys>>,
    /// Where this host keeps what it must know of what it seals.
    pub(crate) known: Option<PathBuf>,
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.encrypt_to.fmt(f)
    }
}

impl PartialEq for Sealing {
    fn eq(&self, other: &Self) -> bool {
        self.encrypt_to == other.encrypt_to
    }
}

impl Eq for Sealing {}

impl Sealing {
    /// Of a place of which nothing is configured.
    pub(crate) fn unsealed(keys: Option<Arc<dyn Keys>>) -> Self {
        Sealing { keys, ..Sealing::default() }
    }

    /// As it is configured. `known` is where this host keeps what it must know of what it seals.
    pub(crate) fn of(
        repository: &RepositoryConfig,
        keys: Option<Arc<dyn Keys>>,
        known: Option<&Path>,
    ) -> Self {
        let encrypt_to = repository.encrypt_to.iter().flatten().map(|to| to.0.clone()).collect();
        Sealing { encrypt_to, keys, known: known.map(PathBuf::from) }
    }

    /// To whom, with what their files hold now.
    pub(crate) fn recipients(&self) -> Result<Option<Arc<Recipients>>> {
        if self.encrypt_to.is_empty() {
            return Ok(None);
        }
        let mut texts = Vec::new();
        for recipient in &self.encrypt_to {
            texts.extend(recipient.text.clone());
            if let Some(file) = &recipient.file {
                texts.extend(lines_of(file)?);
            }
        }
        Recipients::parse(&texts).map(|recipients| Some(Arc::new(recipients)))
    }
}

/// The recipients of a file, as `age -R` reads it.
fn lines_of(file: &Path) -> Result<Vec<String>> {
    let content = read(file).map_err(|error| {
        let message = format!("cannot read the recipients in {}", file.display());
        Error::io(Kind::Usage, message, error)
    })?;
    let text = String::from_utf8(content).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let lines: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    match lines.is_empty() {
        true => {
            Err(Error::new(Kind::Usage, format!("there is no recipient in {}", file.display())))
        }
        false => Ok(lines),
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if fs::metadata(file)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is too large"));
    }
    fs::read(file)
}

/// The keys that were named, read when they are first needed.
pub(crate) struct Keyring {
    files: Vec<PathBuf>,
    configured: Option<IdentityConfig>,
    printer: Arc<Printer>,
    has_terminal: bool,
    read: Mutex<Option<Arc<Identity>>>,
}

impl Keyring {
    /// `None` where no key was named.
    pub(crate) fn new(
        files: &[PathBuf],
        configured: Option<IdentityConfig>,
        session: &Session,
    ) -> Option<Self> {
        if files.is_empty() && configured.is_none() {
            return None;
        }
        Some(Keyring {
            files: files.to_vec(),
            configured,
            printer: Arc::clone(&session.printer),
            has_terminal: session.surroundings.stdin_is_terminal,
            read: Mutex::default(),
        })
    }

    fn all(&self) -> Result<Identity> {
        let configured = self.configured.as_ref().map(|configured| self.configured(configured));
        let named = self.files.iter().map(|file| self.of_file(file, None));
        let mut all: Option<Identity> = None;
        for identity in named.chain(configured) {
            match &mut all {
                Some(all) => all.join(identity?),
                None => all = Some(identity?),
            }
        }
        all.ok_or_else(|| Error::new(Kind::WrongKey, "no key was named"))
    }

    fn configured(&self, config: &IdentityConfig) -> Result<Identity> {
        let passphrase = config.passphrase.as_ref();
        let fetched =
            || passphrase.map(|secret| Ok(Passphrase::new(fetch(secret)?.expose().to_owned())));
        if let Some(file) = &config.file {
            return self.of_file(file, fetched().transpose()?.as_ref());
        }
        let secret = fetch(&config.secret()).map_err(|error| {
            Error::new(Kind::WrongKey, "cannot fetch the key that `identity` names")
                .caused_by(error)
        })?;
        let fetched = fetched().transpose()?;
        Identity::parse(secret.expose().as_bytes(), "`identity` of the configuration", &|what| {
            self.ask(what, fetched.as_ref())
        })
    }

    fn of_file(&self, file: &Path, passphrase: Option<&Passphrase>) -> Result<Identity> {
        let shown = file.display().to_string();
        let content = read(file).map_err(|error| {
            Error::io(Kind::WrongKey, format!("cannot read the key in {shown}"), error)
                .hint("name the file of the key: --identity FILE")
        })?;
        if fs::metadata(file).is_ok_and(|found| found.mode() & 0o077 != 0) {
            let warning = format!("others can read this key: chmod 600 {shown}");
            self.printer.warning(&shown, &warning);
        }
        Identity::parse(&content, &shown, &|what| self.ask(what, passphrase))
    }

    fn ask(&self, what: &str, known: Option<&Passphrase>) -> Result<Passphrase> {
        match known {
            Some(passphrase) => Ok(passphrase.clone()),
            None => passphrase::ask(&self.printer, self.has_terminal, what),
        }
    }
}

impl Keys for Keyring {
    fn identity(&self) -> Result<Arc<Identity>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = &*read {
            return Ok(Arc::clone(identity));
        }
        let identity = Arc::new(self.all()?);
        *read = Some(Arc::clone(&identity));
        Ok(identity)
    }
}
