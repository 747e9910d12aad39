//! What is to be done with the tables, handed to the threads so that none waits while another has
//! too much: tables are loaded first, the largest before the others; where a table is there, its
//! indexes are built and its rows compared beside each other; then it is closed. Its foreign keys
//! are made when the tables that they refer to are closed, too.
//!
//! What is to be done with one table has an order, and the largest takes the longest. Its tasks
//! never wait; those of others only fill what it leaves of the processors, so that some are left
//! for its end, which is one task after the other.

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

impl Task {
    /// The place of its table.
    pub(crate) fn place(self) -> usize {
        let (Task::Load(place)
        | Task::Step(place, _)
        | Task::Compare(place)
        | Task::Close(place)
        | Task::Keys(place)) = self;
        place
    }
}

impl Job {
    /// How many tasks it makes: it is loaded and closed, too.
    fn tasks(&self) -> usize {
        2 + self.steps + usize::from(self.compares) + usize::from(!self.parents.is_empty())
    }
}

/// The tasks of all tables.
pub(crate) struct Queue {
    jobs: Vec<Job>,
    /// So many processors there are.
    cores: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    loads: VecDeque<usize>,
    ready: Vec<Task>,
    /// How many steps and comparisons of each table are not done.
    open: Vec<usize>,
    is_closed: Vec<bool>,
    /// How many tasks of each table are not done.
    left: Vec<usize>,
    running: usize,
    is_stopped: bool,
}

impl Queue {
    /// A queue of tables, by their places, in the order in which they are loaded.
    pub(crate) fn new(jobs: Vec<Job>, order: &[usize], cores: usize) -> Self {
        let left = jobs.iter().map(Job::tasks).collect();
        let is_closed = vec![false; jobs.len()];
        let open = jobs.iter().map(|job| job.steps + usize::from(job.compares)).collect();
        let state = State {
            loads: order.iter().copied().collect(),
            ready: Vec::new(),
            open,
            is_closed,
            left,
            running: 0,
            is_stopped: false,
        };
        Queue { jobs, cores, state: Mutex::new(state), changed: Condvar::new() }
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
                None => self.best(&state).map(|at| state.ready.swap_remove(at)),
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
        state.left[task.place()] -= 1;
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

    /// The task that is taken next: one of the table that takes the longest, else the heaviest,
    /// where a processor is free for it.
    fn best(&self, state: &State) -> Option<usize> {
        let places = (0..self.jobs.len()).filter(|place| state.left[*place] > 0);
        let longest = places.max_by_key(|place| self.jobs[*place].rows);
        let of_longest = self.heaviest(state, |task| Some(task.place()) == longest);
        of_longest.or_else(|| {
            let is_free = state.running < self.cores;
            is_free.then(|| self.heaviest(state, |_| true)).flatten()
        })
    }

    fn heaviest(&self, state: &State, is_meant: impl Fn(&Task) -> bool) -> Option<usize> {
        let weight = |task: &Task| match task {
            Task::Load(place) | Task::Compare(place) => 3 * self.jobs[*place].rows,
            Task::Step(place, _) => 2 * self.jobs[*place].rows,
            Task::Close(place) | Task::Keys(place) => self.jobs[*place].rows,
        };
        let ready = state.ready.iter().enumerate().filter(|(_, task)| is_meant(task));
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
        let queue = Queue::new(jobs, &[0, 1], 2);
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
        let queue = Queue::new(jobs, &[0, 1, 2], 2);
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
    fn what_takes_the_longest_never_waits_and_others_fill_the_rest() {
        let jobs = vec![
            Job { rows: 9, steps: 3, ..Job::default() },
            Job { rows: 5, steps: 2, ..Job::default() },
        ];
        let queue = Queue::new(jobs, &[0, 1], 2);
        let take = |count: usize| (0..count).map(|_| queue.next().unwrap()).collect::<Vec<_>>();
        assert_eq!(take(2), [Task::Load(0), Task::Load(1)]);
        queue.done(Task::Load(1));
        // Beside the load of the other one there is room for one step, and no more.
        let filler = take(1)[0];
        assert_eq!(filler.place(), 1);
        queue.done(Task::Load(0));
        let steps = take(3);
        assert!(steps.iter().all(|step| step.place() == 0), "{steps:?}");
        steps[..2].iter().for_each(|step| queue.done(*step));
        queue.done(filler);
        assert_eq!(take(1)[0].place(), 1);
        queue.done(steps[2]);
        assert_eq!(take(1), [Task::Close(0)]);
    }

    #[test]
    fn nothing_comes_after_a_stop() {
        let queue = Queue::new(vec![Job { rows: 1, ..Job::default() }; 2], &[0, 1], 2);
        assert!(queue.next().is_some());
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
