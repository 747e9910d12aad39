//! Who has entered: a cookie that says nothing, and what it stands for here.
//!
//! A session begins with an id of ours, never with one that a browser brought. Kept are digests
//! alone, so that who reads the file cannot enter. Kept they are because the page begins anew with
//! each change of the configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::access::{self, People, Role};
use crate::private;

/// One that is not used for so long is over.
const IDLE_S: i64 = 12 * 3600;
/// And one that is so old, too.
const AGE_S: i64 = 7 * 86_400;
/// So many at once; of more, the oldest are over.
const COUNT_MAX: usize = 200;

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    /// Their name.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) role: Role,
}

/// Somebody who has entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entered {
    /// Who.
    pub(super) who: Who,
    /// What each form of theirs carries.
    pub(super) form_key: String,
    /// The hash by which they entered; none where that was a link.
    by: Option<String>,
    begun_at: Timestamp,
    seen_at: Timestamp,
}

/// All of them.
pub(super) struct Sessions {
    all: Mutex<BTreeMap<String, Entered>>,
    path: PathBuf,
}

impl Sessions {
    /// Those of before.
    pub(super) fn read(path: PathBuf) -> Self {
        let read = fs::read(&path).ok();
        let all = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Sessions { all: Mutex::new(all), path }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Entered>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one. Gives its id, which only the browser knows.
    pub(super) fn begin(&self, env: &Env, who: Who, by: Option<String>) -> String {
        let (id, form_key) = (access::secret(env), access::secret(env));
        let now = env.clock.now();
        let mut all = self.all();
        all.retain(|_, one| one.is_alive(now));
        while all.len() >= COUNT_MAX {
            let oldest = all.iter().min_by_key(|(_, one)| one.seen_at).map(|(id, _)| id.clone());
            oldest.map(|id| all.remove(&id));
        }
        all.insert(digest_of(&id), Entered { who, form_key, by, begun_at: now, seen_at: now });
        self.save(&all);
        id
    }

    /// Whose id that is, if it is one that still holds.
    pub(super) fn of(&self, id: &str, people: &People, now: Timestamp) -> Option<Entered> {
        let mut all = self.all();
        let id = digest_of(id);
        let one = all.get_mut(&id)?;
        let is_known = match &one.by {
            None => true,
            Some(hash) => people
                .0
                .get(&one.who.name)
                .is_some_and(|person| person.hash == *hash && person.role == one.who.role),
        };
        if !is_known || !one.is_alive(now) {
            all.remove(&id);
            self.save(&all);
            return None;
        }
        one.seen_at = now;
        Some(one.clone())
    }

    /// Ends one.
    pub(super) fn end(&self, id: &str) {
        let mut all = self.all();
        all.remove(&digest_of(id));
        self.save(&all);
    }

    fn save(&self, all: &BTreeMap<String, Entered>) {
        // Where that fails, people enter anew after a restart.
        if let Ok(text) = serde_json::to_vec(all) {
            let _ = private::replace(&self.path, &text);
        }
    }
}

impl Entered {
    fn is_alive(&self, now: Timestamp) -> bool {
        let since = |at: Timestamp| now.as_second() - at.as_second();
        (0..IDLE_S).contains(&since(self.seen_at)) && (0..AGE_S).contains(&since(self.begun_at))
    }
}

/// What stands for a secret where it may be read.
pub(super) fn digest_of(secret: &str) -> String {
    let digest = digest(&SHA256, secret.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::access::Person;
    use super::*;

    #[test]
    fn a_session_ends_by_time_and_with_the_one_who_began_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions.json");
        let env = crate::world::looking();
        let sessions = Sessions::read(path.clone());
        let who = Who { name: "ann".to_owned(), role: Role::Operator };
        let mut people = People::default();
        let person = Person { role: Role::Operator, is_token: false, hash: "h".to_owned() };
        people.0.insert("ann".to_owned(), person);
        let id = sessions.begin(&env, who.clone(), Some("h".to_owned()));
        let now = env.clock.now();
        assert_eq!(sessions.of(&id, &people, now).unwrap().who, who);
        assert!(sessions.of("brought along", &people, now).is_none());
        // Another process knows it, and the file does not tell how to enter.
        assert!(Sessions::read(path.clone()).of(&id, &people, now).is_some());
        assert!(!fs::read_to_string(&path).unwrap().contains(&id));
        let later = now + jiff::SignedDuration::from_secs(IDLE_S);
        assert!(Sessions::read(path.clone()).of(&id, &people, later).is_none());
        people.0.get_mut("ann").unwrap().hash = "another password".to_owned();
        assert!(sessions.of(&id, &people, now).is_none());
    }
}
