//! What is to be done with the tables, handed to the threads so that none waits while another has
//! too much: tables are loaded first, the largest before the others; where a table is there, its
//! indexes are built and its rows compared beside each other; then it is closed. Its foreign keys
//! are made when the tables that they refer to are closed, too.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One thing to do, with the place of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Make it and send its rows.
    Load(usize),
    /// Run one of its steps that go on beside each other.
    Step(usize, usize),
    /// Read it back and compare it.
    Compare(usize),
    /// What is left, which needs it alone.
    Close(usize),
    /// Make its foreign keys.
    Keys(usize),
}

/// What a table asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    pub(crate) rows: u64,
    pub(crate) steps: usize,
    pub(crate) compares: bool,
    /// The places of the tables that its foreign keys refer to.
    pub(crate) parents: Vec<usize>,
}

/// The tasks of all tables.
pub(crate) struct Queue {
    jobs: Vec<Job>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    loads: VecDeque<usize>,
    ready: Vec<Task>,
    /// How many steps and comparisons of each table are not done.
    open: Vec<usize>,
    is_closed: Vec<bool>,
    running: usize,
    is_stopped: bool,
}

impl Queue {
    /// A queue of tables, by their places, in the order in which they are loaded.
    pub(crate) fn new(jobs: Vec<Job>, order: &[usize]) -> Self {
        let is_closed = vec![false; jobs.len()];
        let open = jobs.iter().map(|job| job.steps + usize::from(job.compares)).collect();
        let state = State {
            loads: order.iter().copied().collect(),
            ready: Vec::new(),
            open,
            is_closed,
            running: 0,
            is_stopped: false,
        };
        Queue { jobs, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The next task; waits while others may bring one. `None`: all is done, or stopped.
    pub(crate) fn next(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.is_stopped {
                return None;
            }
            let task = match state.loads.pop_front() {
                Some(place) => Some(Task::Load(place)),
                None => self.heaviest(&state).map(|at| state.ready.swap_remove(at)),
            };
            if let Some(task) = task {
                state.running += 1;
                return Some(task);
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A task is done: what it makes possible is ready.
    pub(crate) fn done(&self, task: Task) {
        let mut state = self.state();
        state.running -= 1;
        match task {
            Task::Load(place) => {
                let job = &self.jobs[place];
                state.ready.extend((0..job.steps).map(|step| Task::Step(place, step)));
                state.ready.extend(job.compares.then_some(Task::Compare(place)));
                if state.open[place] == 0 {
                    state.ready.push(Task::Close(place));
                }
            }
            Task::Step(place, _) | Task::Compare(place) => {
                state.open[place] -= 1;
                if state.open[place] == 0 {
                    state.ready.push(Task::Close(place));
                }
            }
            Task::Close(place) => {
                state.is_closed[place] = true;
                let keys = self.keys_after(place, &state);
                state.ready.extend(keys);
            }
            Task::Keys(_) => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing more is handed out.
    pub(crate) fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }

    /// The foreign keys that can be made now that a table is closed.
    fn keys_after(&self, closed: usize, state: &State) -> Vec<Task> {
        let is_ready = |place: &usize| {
            let parents = &self.jobs[*place].parents;
            let is_concerned = *place == closed || parents.contains(&closed);
            let mut tables = parents.iter().chain([place]);
            !parents.is_empty() && is_concerned && tables.all(|table| state.is_closed[*table])
        };
        (0..self.jobs.len()).filter(is_ready).map(Task::Keys).collect()
    }

    fn heaviest(&self, state: &State) -> Option<usize> {
        let weight = |task: &Task| match task {
            Task::Load(place) | Task::Compare(place) => 3 * self.jobs[*place].rows,
            Task::Step(place, _) => 2 * self.jobs[*place].rows,
            Task::Close(place) | Task::Keys(place) => self.jobs[*place].rows,
        };
        let ready = state.ready.iter().enumerate();
        ready.max_by_key(|(_, task)| weight(task)).map(|(at, _)| at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops the queue when a thread breaks off, so that the others do not wait for it.
pub(crate) struct StopOnPanic<'a>(pub(crate) &'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_closed_when_all_of_it_is_done() {
        let jobs = vec![
            Job { rows: 10, steps: 2, compares: true, parents: vec![] },
            Job { rows: 1, ..Job::default() },
        ];
        let queue = Queue::new(jobs, &[0, 1]);
        assert_eq!(queue.next(), Some(Task::Load(0)));
        assert_eq!(queue.next(), Some(Task::Load(1)));
        queue.done(Task::Load(1));
        assert_eq!(queue.next(), Some(Task::Close(1)));
        queue.done(Task::Load(0));
        let mut rest = Vec::new();
        while let Some(task) = queue.next() {
            if let Task::Close(0) = task {
                assert_eq!(rest.len(), 3);
            }
            rest.push(task);
            queue.done(task);
            if rest.len() == 4 {
                queue.done(Task::Close(1));
            }
        }
        assert_eq!(rest.last(), Some(&Task::Close(0)));
        assert!(rest.contains(&Task::Compare(0)) && rest.contains(&Task::Step(0, 1)));
    }

    #[test]
    fn foreign_keys_wait_for_both_tables_and_come_once() {
        let jobs = vec![
            Job { rows: 9, parents: vec![1, 1, 0], ..Job::default() },
            Job { rows: 1, parents: vec![0], ..Job::default() },
            Job { rows: 1, ..Job::default() },
        ];
        let queue = Queue::new(jobs, &[0, 1, 2]);
        let mut done = Vec::new();
        while let Some(task) = queue.next() {
            if let Task::Keys(_) = task {
                assert!(done.contains(&Task::Close(0)) && done.contains(&Task::Close(1)));
            }
            queue.done(task);
            done.push(task);
        }
        let keys = done.iter().filter(|task| matches!(task, Task::Keys(_))).count();
        assert_eq!((keys, done.len()), (2, 8), "{done:?}");
    }

    #[test]
    fn nothing_comes_after_a_stop() {
        let queue = Queue::new(vec![Job { rows: 1, ..Job::default() }; 2], &[0, 1]);
        assert!(queue.next().is_some());
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
