//! Where the time of a step goes.

use std::time::{Duration, Instant};

use tch::{Cuda, Device};

/// Measures one part after another.
#[derive(Debug)]
pub struct PartClock {
    device: Device,
    synchronize: bool,
    since: Instant,
}

impl PartClock {
    /// Starts. A GPU works behind the host: with `synchronize` each part ends when the GPU is done
    /// with it, without it a part is only the host's share, and nothing waits.
    #[must_use]
    pub fn start(device: Device, synchronize: bool) -> Self {
        Self { device, synchronize, since: Instant::now() }
    }

    /// The time since the last lap (or the start); the next part begins.
    pub fn lap(&mut self) -> Duration {
        if let (Device::Cuda(index), true) = (self.device, self.synchronize) {
            Cuda::synchronize(index as i64);
        }
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.since, now))
    }
}

/// Time of this rank in the parts of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepTimes {
    /// Pixels to the device and the frozen encoder; where a thread encodes ahead, the wait for it.
    pub encode: Duration,
    /// Prompt encoder and HQ decoder.
    pub decode: Duration,
    /// Loss and backward.
    pub loss_backward: Duration,
    /// The all-reduce, with the wait for slower ranks.
    pub all_reduce: Duration,
    /// The optimiser's update.
    pub optimizer: Duration,
}
