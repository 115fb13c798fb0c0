//! Where the tensors of a rank live.

use c10d::device::choose_attention;
use launch::rank_env::RankEnv;
use tch::{Cuda, Device};

/// Environment variable by which the launcher names the kind of device.
pub const DEVICE_VARIABLE: &str = "HQSAM_DEVICE";

/// The device of this rank: `cpu` (default) or `cuda`, then the GPU with the local rank's number, whose
/// attention is fused from then on.
///
/// # Errors
/// An unknown word, or CUDA asked for where libtorch sees no (or not enough) GPUs; one line that
/// says what to do.
pub fn device(wanted: Option<&str>, rank_env: Option<&RankEnv>) -> Result<Device, String> {
    match wanted.unwrap_or("cpu") {
        "cpu" => Ok(Device::Cpu),
        "cuda" => {
            let index = rank_env.map_or(0, |env| env.local_rank);
            let found = usize::try_from(Cuda::device_count()).unwrap_or(0);
            if !Cuda::is_available() || found == 0 {
                return Err(
                    "CUDA was asked for, but libtorch sees no GPU: on a machine with GPUs \
                     run `make setup-cuda` and rebuild; to train on CPU use `launch --procs N`"
                        .into(),
                );
            }
            if index >= found {
                return Err(format!(
                    "local rank {index} has no GPU: libtorch sees {found} (CUDA_VISIBLE_DEVICES?)"
                ));
            }
            let device = Device::Cuda(index);
            choose_attention(device).map_err(|error| error.to_string())?;
            Ok(device)
        }
        other => Err(format!("device `{other}` is not known; valid: cpu, cuda")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_the_default_and_unknown_words_are_refused() {
        assert_eq!(device(None, None), Ok(Device::Cpu));
        assert!(device(Some("tpu"), None).unwrap_err().contains("cpu, cuda"));
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
    fn cuda_without_a_gpu_says_what_to_do() {
        if Cuda::is_available() {
            println!("skipped: this machine has a GPU");
            return;
        }
        assert!(device(Some("cuda"), None).unwrap_err().contains("make setup-cuda"));
    }
}
