//! What waits for the commit thread: readings in order of arrival, bounded in bytes by the permits
//! that they hold.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{AppendError, Committed, NewReading};

/// The readings of one call, and who waits for them.
pub(super) struct Job {
    /// In order.
    pub(super) readings: Vec<NewReading>,
    /// Who waits.
    pub(super) done: oneshot::Sender<Result<Committed, AppendError>>,
    /// The room it takes in the queue, given back when this is dropped.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// When it came.
    pub(super) queued: Instant,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closing: bool,
    roll: bool,
}

/// What the commit thread is to do next.
pub(super) enum Work {
    /// Commit these, in order.
    Commit(Vec<Job>),
    /// Close the segment that is being written, if all in it is confirmed.
    Roll,
    /// Nothing came in time.
    Idle,
    /// End: nothing waits, and nothing more will come.
    Close,
}

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    came: Condvar,
}

impl Queue {
    /// Puts a job at the end; it is told when the store is closing.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.state.lock();
        if state.closing {
            drop(state);
            let _ = job.done.send(Err(AppendError::Closed));
            return;
        }
        state.jobs.push_back(job);
        drop(state);
        self.came.notify_one();
    }

    /// Asks for a roll.
    pub(super) fn roll(&self) {
        self.state.lock().roll = true;
        self.came.notify_one();
    }

    /// No more jobs are taken; those that are there still are committed.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.came.notify_one();
    }

    /// Whether [`Queue::close`] was called.
    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Waits at most `patience` for work, and then `delay` for more of it; takes jobs of up to
    /// `bytes_max`, at least one.
    pub(super) fn next(&self, patience: Duration, delay: Duration, bytes_max: usize) -> Work {
        let mut state = self.state.lock();
        if state.jobs.is_empty() && !state.closing && !state.roll {
            self.came.wait_for(&mut state, patience);
        }
        if !state.jobs.is_empty() && !delay.is_zero() && !state.closing {
            let until = Instant::now() + delay;
            while !self.came.wait_until(&mut state, until).timed_out() {}
        }
        if !state.jobs.is_empty() {
            return Work::Commit(take(&mut state.jobs, bytes_max));
        }
        if state.closing {
            return Work::Close;
        }
        if std::mem::take(&mut state.roll) {
            return Work::Roll;
        }
        Work::Idle
    }

    /// Sleeps `pause`, or until the queue is closed.
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.state.lock();
        while !state.closing && !self.came.wait_until(&mut state, until).timed_out() {}
    }
}

fn take(jobs: &mut VecDeque<Job>, bytes_max: usize) -> Vec<Job> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    while let Some(job) = jobs.front() {
        bytes += job
            .readings
            .iter()
            .map(NewReading::size_bytes)
            .sum::<usize>();
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.extend(jobs.pop_front());
    }
    taken
}
