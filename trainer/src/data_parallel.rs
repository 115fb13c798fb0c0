//! Data parallelism: one flat bucket per step, summed over ranks, with the flags that all ranks
//! must agree on before the update travelling in it.

use c10d::{C10dError, ProcessGroup, ReduceOp};
use tch::{Kind, Tensor};

use crate::sample_digest::SampleDigest;

/// Sums of a step that travel with the gradients: the mask loss, the dice loss, whether a stop was
/// asked for, and which samples the step has.
pub const STEP_SUMS: usize = 3 + SampleDigest::LANES as usize;

/// The group of ranks, or a single process.
pub struct DataParallel {
    group: Option<ProcessGroup>,
}

impl DataParallel {
    /// A single process: every collective is the identity.
    #[must_use]
    pub fn single() -> Self {
        Self { group: None }
    }

    /// The ranks of `group`.
    #[must_use]
    pub fn new(group: ProcessGroup) -> Self {
        Self { group: Some(group) }
    }

    /// Sums `gradients` (in place) and the values of `sums` (one dimension, on the same device)
    /// over ranks in one flat all-reduce of float32.
    ///
    /// Every rank has scaled its losses by `1 / global_batch`, so the sum is the mean over the
    /// global batch whatever the number of ranks. A gradient that is not finite on any rank is
    /// not finite on all of them after the sum, so each rank takes the same decision.
    ///
    /// # Errors
    /// A rank that is gone or too slow.
    pub fn all_reduce(&self, gradients: &mut [Tensor], sums: &Tensor) -> Result<Tensor, C10dError> {
        let Some(group) = &self.group else { return Ok(sums.shallow_clone()) };
        let mut bucket = bucket(gradients, sums);
        group.all_reduce(&mut bucket, ReduceOp::Sum)?;
        let mut offset = 0;
        for gradient in gradients.iter_mut() {
            let length = gradient.numel() as i64;
            gradient.copy_(&bucket.narrow(0, offset, length).view_as(gradient));
            offset += length;
        }
        Ok(bucket.narrow(0, offset, sums.numel() as i64).to_kind(sums.kind()))
    }

    /// Copies rank 0's values into every rank's tensors.
    ///
    /// # Errors
    /// A rank that is gone or too slow.
    pub fn broadcast(&self, tensors: &mut [Tensor]) -> Result<(), C10dError> {
        let Some(group) = &self.group else { return Ok(()) };
        for tensor in tensors {
            let mut copy = tensor.detach().contiguous();
            group.broadcast(&mut copy, 0)?;
            tch::no_grad(|| tensor.copy_(&copy));
        }
        Ok(())
    }

    /// Sums a vector over ranks in f64.
    ///
    /// # Errors
    /// A rank that is gone or too slow.
    pub fn sum(&self, values: &[f64], device: tch::Device) -> Result<Vec<f64>, C10dError> {
        let Some(group) = &self.group else { return Ok(values.to_vec()) };
        let mut tensor = Tensor::from_slice(values).to_device(device);
        group.all_reduce(&mut tensor, ReduceOp::Sum)?;
        Ok(Vec::try_from(tensor.to_device(tch::Device::Cpu)).unwrap_or_default())
    }

    /// Whether `digest` is the same on every rank.
    ///
    /// # Errors
    /// A rank that is gone or too slow.
    pub fn agree(&self, digest: &[u8], device: tch::Device) -> Result<bool, C10dError> {
        let Some(group) = &self.group else { return Ok(true) };
        let values: Vec<i64> = digest.iter().map(|&byte| i64::from(byte)).collect();
        let mut lowest = Tensor::from_slice(&values).to_device(device);
        let mut highest = lowest.copy();
        group.all_reduce(&mut lowest, ReduceOp::Min)?;
        group.all_reduce(&mut highest, ReduceOp::Max)?;
        Ok(lowest.equal(&highest))
    }

    /// Every rank's bytes, in the order of ranks.
    ///
    /// # Errors
    /// A rank that is gone or too slow.
    pub fn all_gather_bytes(
        &self,
        bytes: &[u8],
        device: tch::Device,
    ) -> Result<Vec<Vec<u8>>, C10dError> {
        let Some(group) = &self.group else { return Ok(vec![bytes.to_vec()]) };
        let length = Tensor::from_slice(&[bytes.len() as i64]).to_device(device);
        let lengths: Vec<usize> =
            group.all_gather(&length)?.iter().map(|l| l.int64_value(&[0]) as usize).collect();
        // A collective needs the same size everywhere: pad to the longest.
        let mut padded = bytes.to_vec();
        padded.resize(lengths.iter().copied().max().unwrap_or(0).max(1), 0);
        let gathered = group.all_gather(&Tensor::from_slice(&padded).to_device(device))?;
        Ok(gathered
            .into_iter()
            .zip(lengths)
            .map(|(tensor, length)| {
                let mut part: Vec<u8> =
                    Vec::try_from(tensor.to_device(tch::Device::Cpu)).unwrap_or_default();
                part.truncate(length);
                part
            })
            .collect())
    }

    /// Waits for every rank.
    ///
    /// # Errors
    /// Names the rank that did not come in time.
    pub fn barrier(&self) -> Result<(), C10dError> {
        self.group.as_ref().map_or(Ok(()), ProcessGroup::barrier)
    }
}

/// What one all-reduce moves: the gradients and the sums, one after the other, float32 in one
/// dimension.
pub fn bucket(gradients: &[Tensor], sums: &Tensor) -> Tensor {
    let mut parts: Vec<Tensor> = gradients.iter().map(|g| g.reshape([-1])).collect();
    parts.push(sums.to_kind(Kind::Float));
    Tensor::cat(&parts, 0)
}

/// Bytes of a [`bucket`] for so many trained values.
#[must_use]
pub fn bucket_bytes(trained_values: usize) -> usize {
    (trained_values + STEP_SUMS) * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::EncoderConfig;

    #[test]
    fn the_bucket_is_flat_and_of_five_mebibytes_for_vit_l() {
        for (name, mebibytes) in
            [("vit_b", "4.09"), ("vit_l", "5.09"), ("vit_h", "6.09"), ("vit_tiny", "1.71")]
        {
            let values = EncoderConfig::named(name).unwrap().num_trained_values();
            // In two parts, of which one has several dimensions.
            let gradients = [
                Tensor::zeros([64, 4, 4], (Kind::Float, Device::Cpu)),
                Tensor::zeros([values - 1024], (Kind::Float, Device::Cpu)),
            ];
            let sums = Tensor::zeros([STEP_SUMS as i64], (Kind::Double, Device::Cpu));
            let bucket = bucket(&gradients, &sums);
            assert_eq!((bucket.dim(), bucket.kind()), (1, Kind::Float));
            assert_eq!(bucket.numel() * 4, bucket_bytes(values as usize));
            let found = bucket_bytes(values as usize) as f64 / f64::from(1 << 20);
            assert_eq!(format!("{found:.2}"), mebibytes, "{name}");
        }
    }
}
