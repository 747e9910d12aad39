//! Children that are started beside, each of which holds for a while what is open in this process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Does the work while two threads start one child after the other.
pub(crate) fn while_children_start(work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also where the work panics: the threads are waited for at the end.
        let _over = Over(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    start_child();
                }
            });
        }
        work();
    });
}

/// With a hook it is a real fork, which takes its time.
fn start_child() {
    let mut child = Command::new("true");
    // SAFETY: it waits, and touches nothing.
    unsafe {
        child.pre_exec(|| {
            thread::yield_now();
            Ok(())
        })
    };
    child.status().unwrap();
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
