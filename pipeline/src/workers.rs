//! A fixed number of threads for decoding and resizing, kept apart from the threads that wait for
//! storage. Each job answers through its own slot; reading the slots in the order of submission
//! gives results in that order whatever the number of threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// Most threads that a setting may ask for: far above any machine's cores, far below what a process
/// may start.
pub const MAX_THREADS: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The answer of one job. `Err` means that the job panicked.
pub(crate) type Slot<T> = oneshot::Receiver<T>;

/// Hands jobs to the threads. The threads end once every clone is dropped.
#[derive(Clone)]
pub(crate) struct Workers {
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
}

impl Workers {
    /// Starts `threads` threads, named `name`. Without any, jobs run in [`Workers::wait`] alone.
    pub(crate) fn start(name: &str, threads: usize) -> std::io::Result<(Self, WorkerThreads)> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads)
            .map(|index| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .spawn(move || work(&queue))
            })
            .collect::<std::io::Result<_>>()?;
        Ok((Self { jobs, queue }, WorkerThreads(threads)))
    }

    /// The answer of a job; `None` if it panicked. Where it is not there yet, this thread works through the queue.
    pub(crate) fn wait<T>(&self, mut slot: Slot<T>) -> Option<T> {
        loop {
            match slot.try_recv() {
                Err(TryRecvError::Empty) if self.help() => {}
                Err(TryRecvError::Empty) => return slot.blocking_recv().ok(),
                answered => return answered.ok(),
            }
        }
    }

    /// Runs the next job, if one is left. A thread that waits for one holds the lock: then none is.
    fn help(&self) -> bool {
        let job = match self.queue.try_lock() {
            Ok(queue) => queue.try_recv(),
            Err(_) => return false,
        };
        job.is_ok_and(|job| {
            run(job);
            true
        })
    }

    /// Queues a job. The queue itself is unbounded: callers bound the slots they keep.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Slot<T> {
        let (answer, slot) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits for the answer once a stream is dropped: skip the work as well.
            if !answer.is_closed() {
                let _nobody_left = answer.send(work());
            }
        });
        // Fails only when every thread is gone; the slot then reports it.
        let _closed = self.jobs.send(job);
        slot
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting and released before the job runs.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        run(job);
    }
}

/// A panicking decoder costs its sample, not the thread; the dropped slot says so.
fn run(job: Job) {
    let _panicked = catch_unwind(AssertUnwindSafe(job));
}

/// The running threads; joins them when dropped. Drop every [`Workers`] first.
pub(crate) struct WorkerThreads(Vec<JoinHandle<()>>);

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// Threads to use where none are asked for: one per core.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread::{ThreadId, current};

    use super::*;

    #[test]
    fn whoever_waits_for_an_answer_works_for_it() {
        for threads in [0, 1, 3] {
            let (workers, running) = Workers::start("test", threads).unwrap();
            let slots: Vec<Slot<(usize, ThreadId)>> =
                (0..200).map(|job| workers.submit(move || (job, current().id()))).collect();
            let answers: Vec<_> =
                slots.into_iter().map(|slot| workers.wait(slot).unwrap()).collect();
            assert!(answers.iter().enumerate().all(|(index, (job, _))| index == *job));
            let threads_seen: BTreeSet<String> =
                answers.iter().map(|(_, thread)| format!("{thread:?}")).collect();
            assert!(threads_seen.len() <= threads + 1);
            if threads == 0 {
                assert_eq!(answers[0].1, current().id());
            }
            let broken = workers.submit(|| -> u8 { panic!("a broken decoder") });
            assert!(workers.wait(broken).is_none());
            drop(workers);
            drop(running);
        }
    }
}
