//! Rows in, prepared samples out, in the order of the rows.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::StreamError;
use super::dataset::{Dataset, Fetched};
use super::sample::verify_checksums;
use crate::workers::{MAX_THREADS, Slot, WorkerThreads, Workers};

/// Reads that wait for storage at once, for each decoding thread.
const READS_PER_THREAD: usize = 4;
/// Prepared samples that may wait for the consumer, for each decoding thread.
pub(super) const SAMPLES_PER_THREAD: usize = 2;

/// Prepared samples of a list of rows, in order.
pub(super) struct Samples<T> {
    location: String,
    slots: Option<mpsc::Receiver<Slot<Result<T, StreamError>>>>,
    feeder: JoinHandle<()>,
    // Joined on drop, after the feeder, which holds the other end of their queue, is gone.
    _threads: WorkerThreads,
}

impl<T: Send + 'static> Samples<T> {
    /// Starts to fetch `rows` (pairs of a row and whatever `equip` needs to know of it) and to
    /// prepare them on `threads` threads. A row whose checksums are wrong is read once more, past the
    /// cache, before that is an error; `prepare` gets only rows whose checksums are right. `equip` gets what `prepare` needs beside the row; it is
    /// called in the order of the rows, when there is room for one more prepared sample.
    pub(super) fn start<K, E, I>(
        dataset: &Dataset,
        split: &str,
        rows: I,
        threads: usize,
        mut equip: impl FnMut(K) -> E + Send + 'static,
        prepare: impl Fn(&Fetched, E) -> Result<T, StreamError> + Send + Sync + 'static,
    ) -> Result<Self, StreamError>
    where
        K: Send + 'static,
        E: Send + 'static,
        I: Iterator<Item = (u64, K)> + Send + 'static,
    {
        let location = dataset.location().to_owned();
        check_threads(&location, threads)?;
        let (workers, worker_threads) = Workers::start("hqseg-cpu", threads)
            .map_err(|error| broken(&location, format!("cannot start threads: {error}")))?;
        let threads = threads.max(1);
        let (sender, receiver) = mpsc::channel(threads * SAMPLES_PER_THREAD);
        let (shards, prepare) = (dataset.shards(), Arc::new(prepare));
        let split: Arc<str> = split.into();
        let (runtime, again) = (dataset.runtime().handle().clone(), Arc::clone(&shards));
        let whole = move |fetched: Fetched, split: &str| match verify_checksums(&fetched) {
            Ok(()) => Ok(fetched),
            Err(error) => {
                tracing::warn!(%error, "reading the row once more");
                let fetched = runtime.block_on(again.fetch_again(split, fetched.split_row))?;
                verify_checksums(&fetched).map(|()| fetched)
            }
        };
        let whole = Arc::new(whole);
        let feeder = dataset.runtime().spawn(async move {
            let fetches = futures::stream::iter(rows)
                .map(|(row, extra)| {
                    let (shards, split) = (&shards, &split);
                    async move { (shards.fetch(split, row).await, extra) }
                })
                .buffered(threads * READS_PER_THREAD);
            let mut fetches = std::pin::pin!(fetches);
            while let Some((fetched, extra)) = fetches.next().await {
                let (whole, prepare) = (Arc::clone(&whole), Arc::clone(&prepare));
                let split = Arc::clone(&split);
                // Room first: a sample is prepared only when it has a place to wait.
                let Ok(place) = sender.reserve().await else { return };
                let equipment = equip(extra);
                place.send(workers.submit(move || prepare(&whole(fetched?, &split)?, equipment)));
            }
        });
        Ok(Self { location, slots: Some(receiver), feeder, _threads: worker_threads })
    }

    /// Blocks for the next sample; `None` after the last.
    pub(super) fn next(&mut self) -> Option<Result<T, StreamError>> {
        let slot = self.slots.as_mut()?.blocking_recv()?;
        Some(slot.blocking_recv().unwrap_or_else(|_| {
            Err(broken(&self.location, "a decoding thread panicked (see above)".to_owned()))
        }))
    }
}

impl<T> Drop for Samples<T> {
    fn drop(&mut self) {
        // Closing the slots tells queued jobs that nobody waits for them, and the abort drops the
        // feeder's end of the job queue, so that the threads can be joined.
        self.slots.take();
        self.feeder.abort();
    }
}

/// Refuses a number of threads that would end the process rather than start.
pub(super) fn check_threads(location: &str, threads: usize) -> Result<(), StreamError> {
    if threads <= MAX_THREADS {
        return Ok(());
    }
    Err(StreamError::Threads { location: location.to_owned(), threads })
}

pub(super) fn broken(location: &str, message: String) -> StreamError {
    StreamError::Broken { location: location.to_owned(), message }
}
