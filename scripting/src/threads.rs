//! Threads of the work lane. How many there are at once is bounded by the permits of those who use them; one that has nothing to
//! do waits a while for the next call, for a new thread costs more than a short call.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::limits::STACK_BYTES;

/// How long a thread waits for something to do before it ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a thread is to do.
type Job = Box<dyn FnOnce() + Send>;

/// Threads that have nothing to do; the one that was busy last is the next.
type Idle = Mutex<Vec<(u64, SyncSender<Job>)>>;

/// The threads.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    idle: Arc<Idle>,
    made: std::sync::atomic::AtomicU64,
}

impl Threads {
    /// Does something on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn run(&self, mut job: Job) -> io::Result<()> {
        loop {
            let next = locked(&self.idle).pop();
            let Some((_, thread)) = next else { break };
            match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(SendError(back)) => job = back,
            }
        }
        let number = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, jobs) = sync_channel(1);
        let idle = Arc::clone(&self.idle);
        std::thread::Builder::new()
            .name("script-work".into())
            .stack_size(STACK_BYTES)
            .spawn(move || work(job, (number, &sender), &jobs, &idle))
            .map(drop)
    }
}

fn locked(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<(u64, SyncSender<Job>)>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does one thing after another, until nothing comes for a while.
fn work(first: Job, (number, sender): (u64, &SyncSender<Job>), jobs: &Receiver<Job>, idle: &Idle) {
    let mut job = first;
    loop {
        job();
        locked(idle).push((number, sender.clone()));
        job = match jobs.recv_timeout(PATIENCE) {
            Ok(next) => next,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let mut all = locked(idle);
                if let Some(own) = all.iter().position(|(other, _)| *other == number) {
                    all.remove(own);
                    return;
                }
                drop(all);
                // Somebody took it out just now, and sends something.
                match jobs.recv() {
                    Ok(next) => next,
                    Err(_) => return,
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_is_done_does_the_next_thing_and_busy_ones_hold_nobody_back() {
        let threads = Threads::default();
        let (told, done) = mpsc::sync_channel(3);
        let run = |told: &SyncSender<std::thread::ThreadId>, wait: Option<Receiver<()>>| {
            let told = told.clone();
            let job = move || {
                wait.map(|wait| wait.recv());
                told.send(std::thread::current().id()).unwrap();
            };
            threads.run(Box::new(job)).unwrap();
        };
        let (go, held) = sync_channel(1);
        run(&told, Some(held));
        run(&told, None);
        let second = done.recv().unwrap();
        go.send(()).unwrap();
        let first = done.recv().unwrap();
        assert_ne!(first, second);
        while locked(&threads.idle).len() < 2 {
            std::thread::yield_now();
        }
        run(&told, None);
        assert!([first, second].contains(&done.recv().unwrap()));
        assert_eq!(threads.made.into_inner(), 2);
    }
}
