//! The stores: adapters that put, get, list and delete the immutable objects of a repository.
//!
//! Each store is one file and one line in [`open`]; all pass the same [`conformance`] suite.
//! Nothing here knows what the objects mean.

pub mod conformance;
mod drive;
mod local;
mod object;
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
pub use object::BucketStore;
pub use options::{LockMode, ObjectLock, Options, VARIABLES};
pub use sftp::{SftpAddress, SftpStore};

/// Opens the store behind a repository's URL: `file:///path`, or a path as it is;
/// `sftp://user@host/path`; `s3://`, `gs://` or `az://` and a bucket.
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
            let address = address
                .with_ssh_config(options.ssh_config.as_deref())
                .with_timeout_ms(options.timeout_ms);
            Ok(Arc::new(SftpStore::new(env, address)))
        }
        _ if object::is_url(url) => Ok(Arc::new(BucketStore::open(env, url, options)?)),
        Some((scheme, _)) => Err(Error::new(
            Kind::Usage,
            format!("the repository {url} is of a kind that is not known: {scheme}"),
        )
        .hint("use file:///path/to/folder, sftp://user@host/path or s3://bucket/folder")),
        None => Ok(Arc::new(LocalStore::new(env, url.into())?)),
    }
}

/// Whether a URL names a place that a store of ours can have. Asks no place.
pub fn check_url(url: &str) -> Result<()> {
    let hint = "write file:// and an absolute path, as in file:///var/backups; a host and a folder \
                there, as in sftp://user@host/var/backups; or a bucket and a folder in it, as in \
                s3://my-backups/chat";
    match url.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Ok(()),
        Some(("file", _)) => {
            Err(Error::new(Kind::Usage, format!("the URL `{url}` has no absolute path")).hint(hint))
        }
        Some(("sftp", _)) => SftpAddress::parse(url).map(drop),
        Some(_) if object::is_url(url) => object::Place::parse(url).map(drop),
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
