//! The one runtime behind all object stores of the process: two threads that wait for sockets.
//!
//! It is started when the first such store is opened. Callers block on it from threads of their
//! own; nothing outside this folder knows that it is there.

use std::sync::OnceLock;

use lifeboat_core::{Error, Kind, Result};
use tokio::runtime::{Builder, Handle, Runtime};

static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();

/// The runtime.
pub(super) fn handle() -> Result<Handle> {
    let start = || {
        // The library asks for the process's provider; another one set before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("object store").enable_all().build().ok()
    };
    match RUNTIME.get_or_init(start) {
        Some(runtime) => Ok(runtime.handle().clone()),
        None => Err(Error::new(Kind::Failed, "cannot start the threads of the object store")),
    }
}
