//! A lane: jobs go in at one end in order, results come out at the other in the same order, and
//! between them work as many threads as there are cores.
//!
//! The number of jobs under way is bounded, and so is memory. Whichever end stops first, the
//! other one notices at its next step: no thread is left waiting.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// A result that is being worked on.
type Pending<R> = Receiver<R>;

/// The end of a lane at which jobs go in.
pub(crate) struct Entry<J, R> {
    jobs: SyncSender<(J, SyncSender<R>)>,
    order: SyncSender<Pending<R>>,
}

/// The end at which results come out.
pub(crate) struct Exit<R> {
    order: Receiver<Pending<R>>,
}

/// Starts `threads` workers in `scope`; each calls `make_worker` once and its result for each job.
pub(crate) fn open<'scope, J, R, W>(
    scope: &'scope Scope<'scope, '_>,
    threads: usize,
    make_worker: impl Fn() -> W,
) -> (Entry<J, R>, Exit<R>)
where
    J: Send + 'scope,
    R: Send + 'scope,
    W: FnMut(J) -> R + Send + 'scope,
{
    let threads = threads.max(1);
    let (jobs, queue) = sync_channel::<(J, SyncSender<R>)>(threads);
    let (order, results) = sync_channel(threads + 1);
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..threads {
        let queue = Arc::clone(&queue);
        let mut work = make_worker();
        scope.spawn(move || {
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((job, reply)) = job else { break };
                // A closed reply means that the exit is gone; the entry will see that too.
                let _ = reply.send(work(job));
            }
        });
    }
    (Entry { jobs, order }, Exit { order: results })
}

impl<J, R> Entry<J, R> {
    /// Puts a job in. Waits while the lane is full; `false` when the exit is gone.
    pub(crate) fn put(&self, job: J) -> bool {
        let (reply, pending) = sync_channel(1);
        self.order.send(pending).is_ok() && self.jobs.send((job, reply)).is_ok()
    }
}

impl<R> Exit<R> {
    /// The next result in order; `None` when the entry is closed and all results were taken, or a
    /// worker panicked.
    pub(crate) fn next(&self) -> Option<R> {
        self.order.recv().ok()?.recv().ok()
    }
}

/// Buffers that go round instead of being allocated for each job.
#[derive(Clone)]
pub(crate) struct Pool {
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    kept_max: usize,
}

impl Pool {
    /// A pool that keeps up to `kept_max` buffers for later.
    pub(crate) fn new(kept_max: usize) -> Self {
        Pool { buffers: Arc::default(), kept_max }
    }

    /// A buffer as it was given back, contents and length too: clearing it, only to fill it again
    /// with zeros, would cost as much as hashing its bytes.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// One of so many bytes, whatever they are. Where there is none yet the kernel gives zeros,
    /// page by page as they are used.
    pub(crate) fn take_of(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.take();
        if buffer.capacity() == 0 {
            return vec![0; bytes];
        }
        buffer.resize(bytes, 0);
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < self.kept_max {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_jobs() {
        std::thread::scope(|scope| {
            let (entry, exit) = open(scope, 4, || |job: u64| job * job);
            scope.spawn(move || (0..1000).for_each(|job| assert!(entry.put(job))));
            for job in 0..1000 {
                assert_eq!(exit.next(), Some(job * job));
            }
            assert_eq!(exit.next(), None);
        });
    }

    #[test]
    fn a_closed_exit_stops_the_entry() {
        std::thread::scope(|scope| {
            let (entry, exit) = open(scope, 2, || |job: u64| job);
            assert!(entry.put(1));
            drop(exit);
            assert!((0..100).any(|job| !entry.put(job)));
        });
    }
}
