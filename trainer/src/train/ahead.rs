//! The frozen part of the next batch beside the decoder of this one.
//!
//! ```text
//! thread "encoder":  encode k+1, embed its prompts | encode k+2 ...
//! training thread:   decoder, loss, backward of k, all-reduce, update | the same of k+1 ...
//! ```
//!
//! On a GPU each thread has a stream of its own, and an event hands over: the host waits for nothing.
//! What is computed is the same, in the same order, so every bit of a run is as without it. It never
//! runs beyond the end of an epoch, where the evaluation needs the encoder and the cache is counted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use c10d::device::{self, Event};
use pipeline::{Batch, StreamError, TrainStream};
use tch::{Cuda, Device};

use super::{TrainError, internal};
use crate::frozen_stage::{EncodedPart, FrozenStage};
use crate::part_clock::{PartClock, StepTimes};

/// Parts that may wait for the decoder, besides the one that is being made.
const WAITING_PARTS: usize = 1;

type Made = Result<Handed, TrainError>;

/// A part, and when it is there.
struct Handed {
    part: EncodedPart,
    ready: Event,
}

/// A thread that encodes batches in the order in which they are submitted.
pub struct Ahead {
    // Both dropped before `thread` is joined.
    jobs: Option<Sender<Arc<Batch>>>,
    parts: Option<Receiver<Made>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread.
    ///
    /// # Errors
    /// A system without room for a thread.
    pub(crate) fn start(stage: FrozenStage) -> Result<Self, TrainError> {
        // The weights came by the stream of this thread, which another one does not wait for.
        if let Device::Cuda(index) = stage.device() {
            Cuda::synchronize(index as i64);
        }
        let (jobs, queue) = channel::<Arc<Batch>>();
        let (sender, parts) = sync_channel(WAITING_PARTS);
        let work = move || {
            if let Err(error) = device::own_stream(stage.device()) {
                let _ = sender.send(Err(error.into()));
                return;
            }
            while let Ok(batch) = queue.recv() {
                if !encode(&stage, &batch, &sender) {
                    return;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("encoder".into()).spawn(work).map_err(internal)?;
        Ok(Self { jobs: Some(jobs), parts: Some(parts), thread: Some(thread) })
    }

    /// Adds a batch to those that are encoded.
    pub(crate) fn submit(&self, batch: &Arc<Batch>) {
        // A thread that has ended says why when a part is asked for.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(Arc::clone(batch)));
    }

    /// The next part of the batches that were submitted; work given to this thread's stream from now
    /// on comes after it.
    ///
    /// # Errors
    /// What CUDA reports.
    ///
    /// # Panics
    /// Where the encoder has panicked, with its message.
    pub(crate) fn next_part(&mut self) -> Result<EncodedPart, TrainError> {
        let made = self.parts.as_ref().and_then(|parts| parts.recv().ok());
        let Some(made) = made else {
            if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
            return Err(TrainError::Internal("the encoder's thread has ended".into()));
        };
        let Handed { part, ready } = made?;
        ready.block()?;
        for tensor in part.tensors() {
            device::used_here(tensor)?;
        }
        Ok(part)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.jobs = None;
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was or will be another error's; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Sends every part of a batch; false when nobody wants them any more.
fn encode(stage: &FrozenStage, batch: &Batch, parts: &SyncSender<Made>) -> bool {
    let (mut clock, mut times) = (PartClock::start(stage.device(), false), StepTimes::default());
    for (from, to) in stage.parts_of(batch) {
        let part = stage.encode(batch, from, to, &mut clock, &mut times);
        let made = Event::now(stage.device()).map_err(TrainError::from);
        if parts.send(made.map(|ready| Handed { part, ready })).is_err() {
            return false;
        }
    }
    true
}

/// The batches of a run, submitted to the encoder one step before they are trained on.
pub(super) struct Batches {
    stream: TrainStream,
    /// What the next step is for, once the encoder has it.
    taken: Option<Result<Option<Arc<Batch>>, StreamError>>,
}

impl Batches {
    pub(super) fn new(stream: TrainStream) -> Self {
        Self { stream, taken: None }
    }

    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.stream.steps_per_epoch()
    }

    /// The batch of this step; the one after it is on its way to the encoder.
    pub(super) fn next(
        &mut self,
        ahead: Option<&Ahead>,
    ) -> Result<Option<Arc<Batch>>, StreamError> {
        let batch = match self.taken.take() {
            Some(taken) => taken?,
            None => self.take(ahead)?,
        };
        let is_last = |batch: &Arc<Batch>| batch.step + 1 == self.steps_per_epoch();
        if ahead.is_some() && batch.as_ref().is_some_and(|batch| !is_last(batch)) {
            // A batch that cannot be read is told when its turn comes.
            self.taken = Some(self.take(ahead));
        }
        Ok(batch)
    }

    fn take(&mut self, ahead: Option<&Ahead>) -> Result<Option<Arc<Batch>>, StreamError> {
        let batch = self.stream.next_batch()?.map(Arc::new);
        if let (Some(batch), Some(ahead)) = (&batch, ahead) {
            ahead.submit(batch);
        }
        Ok(batch)
    }
}
