//! The configurations of the hosts that write here, kept so that a bare host finds them.
//!
//! `config/<host>/<time>-<digest>.toml`, sealed where the repository seals. A new one is stored
//! when it differs from the newest of its host; none is ever deleted.

use sha2::{Digest, Sha256};

use super::Repository;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::moment::compact;
use crate::seal::{self, open_bytes, opener_of, seal_bytes};
use crate::store::{ObjectName, get_bytes, put_bytes};

/// The folder of configurations.
const CONFIGURATIONS: &str = "config";

const ENDING: &str = ".toml";
const BYTES_MAX: u64 = 4 << 20;

/// The configuration of a host, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptConfiguration {
    /// The host, as the name of a folder.
    pub host: String,
    /// The object.
    pub object: ObjectName,
}

impl KeptConfiguration {
    fn of(object: &ObjectName) -> Option<Self> {
        let mut parts = object.as_str().split('/');
        let (folder, host, file) = (parts.next()?, parts.next()?, parts.next()?);
        let plain = file.strip_suffix(seal::SUFFIX).unwrap_or(file);
        let is_one = folder == CONFIGURATIONS && plain.ends_with(ENDING) && parts.next().is_none();
        is_one.then(|| KeptConfiguration { host: host.to_owned(), object: object.clone() })
    }
}

/// A host's name as a folder's.
fn folder_of(host: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = host.chars().map(|c| if plain(c) { c } else { '-' }).take(160).collect();
    match name.trim_matches('.').is_empty() {
        true => "host".to_owned(),
        false => name,
    }
}

impl Repository {
    /// The newest configuration of each host, in the order of their names.
    pub fn configurations(&self) -> Result<Vec<KeptConfiguration>> {
        let mut objects: Vec<ObjectName> = self
            .store()
            .list(Some(CONFIGURATIONS))?
            .into_iter()
            .map(|object| object.name)
            .collect();
        objects.sort();
        let mut newest: Vec<KeptConfiguration> = Vec::new();
        for kept in objects.iter().filter_map(KeptConfiguration::of) {
            match newest.last_mut() {
                Some(last) if last.host == kept.host => *last = kept,
                _ => newest.push(kept),
            }
        }
        Ok(newest)
    }

    /// Keeps the configuration of a host, if it is not the one that was kept last. Says whether
    /// it was stored.
    pub fn keep_configuration(&self, env: &Env, host: &str, text: &str) -> Result<bool> {
        let host = folder_of(host);
        let mut hash = Sha256::new_with_prefix(text);
        // The same text for other recipients is another object.
        let names = self.recipients().map(|recipients| recipients.names());
        names.into_iter().flatten().for_each(|name| hash.update(name));
        let digest: String =
            hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let last = self.configurations()?.into_iter().find(|kept| kept.host == host);
        let ending = format!("-{digest}{ENDING}{}", self.seal_suffix());
        if last.is_some_and(|last| last.object.as_str().ends_with(&ending)) {
            return Ok(false);
        }
        let time = compact(env.clock.now());
        let object = ObjectName::new(format!("{CONFIGURATIONS}/{host}/{time}{ending}"))?;
        let bytes = match self.recipients() {
            Some(recipients) => seal_bytes(recipients, text.as_bytes())?,
            None => text.as_bytes().to_vec(),
        };
        match put_bytes(self.store(), &object, &bytes) {
            // Another run of this second kept the same.
            Err(error) if error.kind() == Kind::Refused => return Ok(false),
            put => put?,
        }
        match get_bytes(self.store(), &object, BYTES_MAX)? == bytes {
            true => Ok(true),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("{object}, read back from {}, is not what was sent", self.url()),
            )),
        }
    }

    /// Reads a configuration, and opens it.
    pub fn read_configuration(&self, kept: &KeptConfiguration) -> Result<String> {
        let name = kept.object.as_str();
        let mut bytes = get_bytes(self.store(), &kept.object, BYTES_MAX)?;
        if name.ends_with(seal::SUFFIX) {
            let keys = self.keys().map(|keys| &**keys);
            bytes = open_bytes(&opener_of(keys, name, &[])?, name, &bytes)?;
        }
        String::from_utf8(bytes).map_err(|error| {
            Error::new(Kind::CheckFailed, format!("{name} is damaged: it is not a text"))
                .caused_by(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_leads_out_of_its_folder() {
        for (host, folder) in [
            ("db1.example.org", "db1.example.org"),
            ("..", "host"),
            ("a/b c", "a-b-c"),
            ("", "host"),
        ] {
            assert_eq!(folder_of(host), folder);
        }
    }
}
