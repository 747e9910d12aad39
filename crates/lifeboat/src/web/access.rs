//! Who may enter: people with a password, programs with a token. A private file in the state
//! folder has their names, what they may do, and what Argon2 makes of their secrets.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::private;
use crate::session::Session;

/// A password has so many characters.
pub(crate) const PASSWORD_CHARACTERS_MIN: usize = 10;
/// A hash takes 19 MiB for a moment: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Look.
    Reader,
    /// Restore, run jobs and stop them as well.
    Operator,
}

/// One who may enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Person {
    /// What they may do.
    pub(crate) role: Role,
    /// Whether their secret is a token, which programs show with each request.
    pub(crate) is_token: bool,
    /// What Argon2 makes of it.
    pub(crate) hash: String,
}

/// All who may enter, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct People(pub(crate) BTreeMap<String, Person>);

/// The folder of what the page keeps.
pub(crate) fn folder(session: &Session) -> Result<PathBuf> {
    let state = session.folders.locks.as_deref().and_then(Path::parent);
    state.map(|state| state.join("web")).ok_or_else(|| {
        Error::new(Kind::Usage, "there is no folder to keep who may enter")
            .hint("set HOME or XDG_STATE_HOME")
    })
}

/// The file.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("access.json")
}

/// All who may enter; nobody where there is no file.
pub(crate) fn read(folder: &Path) -> Result<People> {
    let path = path(folder);
    let wrong = |why: String| {
        Error::new(Kind::Failed, format!("cannot read {}: {why}", path.display()))
            .hint("remove it and name those who may enter anew: lifeboat web password NAME")
    };
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(People::default()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Writes the file.
pub(crate) fn write(folder: &Path, people: &People) -> Result<()> {
    let path = path(folder);
    let text = serde_json::to_vec_pretty(people).map_err(std::io::Error::from);
    text.and_then(|text| private::replace(&path, &text))
        .map_err(|error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error))
}

/// What Argon2 makes of a secret.
pub(crate) fn hash(env: &Env, secret: &str) -> Result<String> {
    let failed = |error: argon2::password_hash::Error| {
        Error::new(Kind::Failed, format!("cannot hash a secret: {error}"))
    };
    let mut salt = [0; 16];
    env.random.fill(&mut salt);
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Argon2::default().hash_password(secret.as_bytes(), &salt).map_err(failed)?.to_string())
}

fn is_right(hash: &str, secret: &str) -> bool {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok()
}

/// What takes as long as a right name does.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA\
                      $AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

impl People {
    /// Whoever has that name and that secret, of people or of programs.
    pub(crate) fn entering(&self, name: &str, secret: &str, is_token: bool) -> Option<&Person> {
        let person = self.0.get(name).filter(|person| person.is_token == is_token);
        let is_right = is_right(person.map_or(NOBODY, |person| &person.hash), secret);
        person.filter(|_| is_right)
    }

    /// Whether a person with a password, or a program with a token, can enter at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A secret that nobody guesses: 256 bits, as hexadecimal digits.
pub(crate) fn secret(env: &Env) -> String {
    let mut bytes = [0; 32];
    env.random.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_secret_enter_and_nothing_else_does() {
        let env = crate::world::looking();
        let person = |secret: &str, is_token| {
            let hash = hash(&env, secret).unwrap();
            Person { role: Role::Reader, is_token, hash }
        };
        let mut people = People::default();
        people.0.insert("ann".to_owned(), person("correct horse", false));
        people.0.insert("bot".to_owned(), person("abc", true));
        assert!(people.entering("ann", "correct horse", false).is_some());
        for (name, secret, is_token) in [
            ("ann", "correct hors", false),
            ("ann", "correct horse", true),
            ("ann", "", false),
            ("bob", "correct horse", false),
            ("bot", "abc", false),
        ] {
            assert!(people.entering(name, secret, is_token).is_none(), "{name} {secret}");
        }
        assert!(people.0["ann"].hash.starts_with("$argon2id$"));
        assert!(PasswordHash::new(NOBODY).is_ok());
    }
}
