//! The one runtime behind all object stores of the process: a thread or two that wait for sockets.
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
        // Half of the cores, and no more than keeps a fast link busy: the others compress.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads((cores / 2).clamp(1, 2))
            .thread_name("object store")
            .enable_all()
            .build()
            .ok()
    };
    match RUNTIME.get_or_init(start) {
        Some(runtime) => Ok(runtime.handle().clone()),
        None => Err(Error::new(Kind::Failed, "cannot start the threads of the object store")),
    }
}
