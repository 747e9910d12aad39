//! Links by which the user of this host enters, once: who may read the state folder may do all
//! that the page can.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::access;
use super::sessions::{Who, digest_of};
use crate::private;

/// How long a link can be used.
const AGE_S: i64 = 300;

#[derive(Serialize, Deserialize)]
struct Link {
    who: Who,
    made_at: Timestamp,
}

fn place(folder: &Path, secret: &str) -> PathBuf {
    folder.join("links").join(format!("{}.json", digest_of(secret)))
}

/// Makes one. Gives its secret.
pub(crate) fn make(env: &Env, folder: &Path, who: Who) -> Result<String> {
    let secret = access::secret(env);
    let path = place(folder, &secret);
    let link = Link { who, made_at: env.clock.now() };
    forget_old(folder, env.clock.now());
    let text = serde_json::to_vec(&link).map_err(std::io::Error::from);
    text.and_then(|text| private::replace(&path, &text)).map_err(|error| {
        Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
    })?;
    Ok(secret)
}

/// Who enters by that secret. It is used up.
pub(super) fn take(folder: &Path, secret: &str, now: Timestamp) -> Option<Who> {
    let path = place(folder, secret);
    let bytes = fs::read(&path).ok()?;
    // Of two who come at once, the one who removes it enters.
    fs::remove_file(&path).ok()?;
    let link: Link = serde_json::from_slice(&bytes).ok()?;
    is_young(&link, now).then_some(link.who)
}

fn is_young(link: &Link, now: Timestamp) -> bool {
    (0..AGE_S).contains(&(now.as_second() - link.made_at.as_second()))
}

fn forget_old(folder: &Path, now: Timestamp) {
    let Ok(entries) = fs::read_dir(folder.join("links")) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let link =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Link>(&bytes).ok());
        if !link.is_some_and(|link| is_young(&link, now)) {
            let _ = fs::remove_file(&path);
        }
    }
}
