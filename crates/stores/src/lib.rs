//! The stores: adapters that put, get, list and delete the immutable objects of a repository.
//!
//! Each store is one file and one line in [`open`]; all pass the same [`conformance`] suite.
//! Nothing here knows what the objects mean.

pub mod conformance;
mod drive;
mod local;
mod options;
mod part;
mod sftp;

use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::store::Store;
use lifeboat_core::{Error, Kind, Result};

pub use drive::Drive;
use drive::DriveStore;
pub use local::{LocalStore, path_of_url};
pub use options::Options;
pub use sftp::{SftpAddress, SftpStore};

/// Opens the store behind a repository's URL: `file:///path`, or a path as it is; or
/// `sftp://user@host/path`.
pub fn open(env: &Env, url: &str, options: &Options) -> Result<Arc<dyn Store>> {
    match url.split_once("://") {
        Some(("file", path)) => {
            let folder = local::path_of_url(path)?;
            Ok(match &options.drive {
                Some(drive) => Arc::new(DriveStore::open(env, &folder, drive, url)?),
                None => Arc::new(LocalStore::new(env, folder)?),
            })
        }
        Some(("sftp", _)) => {
            let address = SftpAddress::parse(url)?;
            let address = address.with_ssh_config(options.ssh_config.as_deref());
            Ok(Arc::new(SftpStore::new(env, address)))
        }
        Some((scheme, _)) => Err(Error::new(
            Kind::Usage,
            format!("the repository {url} is of a kind that is not known: {scheme}"),
        )
        .hint("use file:///path/to/folder, or sftp://user@host/path/to/folder")),
        None => Ok(Arc::new(LocalStore::new(env, url.into())?)),
    }
}

/// Whether a URL names a place that a store of ours can have. Asks no place.
pub fn check_url(url: &str) -> Result<()> {
    let hint = "write file:// and an absolute path, as in file:///var/backups; or a host and a \
                folder there, as in sftp://user@host/var/backups";
    match url.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Ok(()),
        Some(("file", _)) => {
            Err(Error::new(Kind::Usage, format!("the URL `{url}` has no absolute path")).hint(hint))
        }
        Some(("sftp", _)) => SftpAddress::parse(url).map(drop),
        Some((scheme, _)) => {
            let message = format!("no store is known for `{scheme}://` in `{url}`");
            Err(Error::new(Kind::Usage, message).hint(hint))
        }
        None => {
            Err(Error::new(Kind::Usage, format!("`{url}` is not the URL of a repository"))
                .hint(hint))
        }
    }
}
