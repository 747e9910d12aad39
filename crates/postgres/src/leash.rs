//! A server of ours ends when the run that it belongs to must end.
//!
//! Whoever waits for an answer of it looks at nothing else meanwhile: a query or a load may take
//! hours. So a thread looks at the run, and lets go of the pipe by which the server's shell holds
//! it. The client then hears that the server went away; why, the run says.

use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lifeboat_core::env::Env;

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What a server hangs on: it ends when this is let go.
pub(crate) struct Leash {
    pipe: Arc<Mutex<Option<ChildStdin>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Leash {
    /// Holds a server by the pipe to its shell.
    pub(crate) fn new(pipe: Option<ChildStdin>) -> Self {
        Leash { pipe: Arc::new(Mutex::new(pipe)), is_over: Arc::default(), thread: None }
    }

    /// Lets it go as soon as the run must end. Without a thread it is held until it is let go.
    pub(crate) fn watch(&mut self, env: &Env) {
        let (env, pipe, is_over) = (env.clone(), Arc::clone(&self.pipe), Arc::clone(&self.is_over));
        let watch = move || {
            while !is_over.load(Ordering::Acquire) {
                if env.proceed().is_err() {
                    drop(pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("server-leash".to_owned()).spawn(watch);
        self.thread = thread.ok();
    }

    /// Lets the server go.
    pub(crate) fn let_go(&mut self) {
        self.is_over.store(true, Ordering::Release);
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.let_go();
    }
}
