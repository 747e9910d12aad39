//! Replicas of Litestream, as the commands name them: a folder, or a URL, with a transaction behind
//! a `+` where one state is meant.

use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::store::ObjectName;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::litestream::Replica;

use crate::repositories;
use crate::session::Session;

/// A replica that was named.
pub(crate) struct Named {
    /// It.
    pub(crate) replica: Replica,
    /// The transaction that was named.
    pub(crate) transaction: Option<u64>,
}

/// The replica that an argument names; `None` where it names something else.
pub(crate) fn find(session: &Session, env: &Env, argument: &str) -> Result<Option<Named>> {
    let (place, transaction) = split(argument);
    if !is_place(place)? {
        return Ok(None);
    }
    let is_folder = !place.contains("://");
    let named = if is_folder && !place.contains('/') { format!("./{place}") } else { place.into() };
    let store = repositories::place_of(session, &named)?.store(env)?;
    if store.head(&ObjectName::new("lifeboat.json")?)?.is_some() {
        return Ok(None);
    }
    match Replica::find(store.clone())? {
        Some(replica) => Ok(Some(Named { replica, transaction })),
        None if !store.list(Some("generations"))?.is_empty() => {
            let message = format!("{place} is a replica of Litestream 0.3, which is not read");
            Err(Error::new(Kind::Usage, message).hint(
                "restore it with Litestream, then back the database up: litestream restore -o PATH",
            ))
        }
        None => Ok(None),
    }
}

/// The place, and the transaction behind a `+`: 16 hexadecimal digits, as files are named.
fn split(argument: &str) -> (&str, Option<u64>) {
    let parts = argument.rsplit_once('+').filter(|(_, digits)| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    match parts.and_then(|(place, digits)| Some((place, u64::from_str_radix(digits, 16).ok()?))) {
        Some((place, transaction)) => (place, Some(transaction)),
        None => (argument, None),
    }
}

/// Whether something of the kind can be there: a bucket or a host is asked, a folder is looked at.
fn is_place(place: &str) -> Result<bool> {
    let folder = match place.split_once("://") {
        Some(("file", path)) => lifeboat_stores::path_of_url(path)?,
        Some(_) => return Ok(lifeboat_stores::check_url(place).is_ok()),
        None => PathBuf::from(place),
    };
    let has = |name: &str| Path::new(&folder).join(name).is_dir();
    // The last two as a copy of a bucket has it.
    Ok(["ltx", "generations", "0000", "0009"].into_iter().any(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_named_as_files_are() {
        assert_eq!(split("/r+00000000000000ff"), ("/r", Some(255)));
        for whole in ["/r", "/r+17", "app+20250108-140000", "s3://b/c+d"] {
            assert_eq!(split(whole), (whole, None));
        }
    }
}
