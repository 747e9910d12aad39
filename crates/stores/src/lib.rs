//! The stores: adapters that put, get, list and delete the immutable objects of a repository.
//!
//! Each store is one file and one line in [`open`]; all pass the same [`conformance`] suite.
//! Nothing here knows what the objects mean.

pub mod conformance;
mod local;

use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::store::Store;
use lifeboat_core::{Error, Kind, Result};

pub use local::{LocalStore, path_of_url};

/// Opens the store behind a repository's URL: `file:///path`, or a path as it is.
pub fn open(env: &Env, url: &str) -> Result<Arc<dyn Store>> {
    match url.split_once("://") {
        Some(("file", path)) => Ok(Arc::new(LocalStore::new(env, local::path_of_url(path)?)?)),
        Some((scheme, _)) => Err(Error::new(
            Kind::Usage,
            format!("the repository {url} is of a kind that is not known: {scheme}"),
        )
        .hint("use file:///path/to/folder")),
        None => Ok(Arc::new(LocalStore::new(env, url.into())?)),
    }
}
