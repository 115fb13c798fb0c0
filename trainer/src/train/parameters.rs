//! Whether all ranks hold the same parameters, to the bit, and if not, which do not.

use sha2::{Digest, Sha256};
use tch::Device;

use super::{TrainError, internal};
use crate::checkpoint::digest;
use crate::data_parallel::DataParallel;
use crate::model::StateDict;

/// Tensors that are named when ranks differ in more.
const NAMED: usize = 3;

/// Compares the parameters of all ranks after step `global_step`; `when` says so in words.
///
/// # Errors
/// [`TrainError::Diverged`], on every rank with the same words, naming the rank and the tensors; a
/// rank that is gone.
pub(super) fn compare(
    data_parallel: &DataParallel,
    parameters: &StateDict,
    global_step: u64,
    when: &str,
    device: Device,
) -> Result<(), TrainError> {
    let whole = format!("{global_step} {}", digest(parameters));
    if data_parallel.agree(&Sha256::digest(whole.as_bytes()), device)? {
        return Ok(());
    }
    let each = parameters
        .iter()
        .map(|(name, tensor)| digest(&StateDict::from([(name.clone(), tensor.shallow_clone())])));
    let own: (u64, Vec<String>) = (global_step, each.collect());
    let own = serde_json::to_vec(&own).map_err(internal)?;
    let states = data_parallel.all_gather_bytes(&own, device)?;
    let states: Vec<(u64, Vec<String>)> = states
        .iter()
        .map(|state| serde_json::from_slice(state).map_err(internal))
        .collect::<Result<_, _>>()?;
    let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
    Err(TrainError::Diverged(difference(&states, &names, when)))
}

/// What differs between the state that most ranks hold (the first of several) and the first other.
fn difference(states: &[(u64, Vec<String>)], names: &[&str], when: &str) -> String {
    let holders =
        |state: &(u64, Vec<String>)| states.iter().filter(|other| *other == state).count();
    let common = (0..states.len()).rev().max_by_key(|&rank| holders(&states[rank])).unwrap_or(0);
    let others: Vec<usize> =
        (0..states.len()).filter(|&rank| states[rank] != states[common]).collect();
    let Some(&odd) = others.first() else {
        return format!("the ranks' parameters differ {when}, and then no longer");
    };
    let rest = match others.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more ranks differ"),
    };
    if states[odd].0 != states[common].0 {
        let (odd_step, step) = (states[odd].0, states[common].0);
        return format!(
            "the ranks diverged: rank {odd} is at step {odd_step}, rank {common} at {step}{rest}"
        );
    }
    let pairs = states[odd].1.iter().zip(&states[common].1);
    let tensors: Vec<&str> =
        pairs.zip(names).filter(|((a, b), _)| a != b).map(|(_, name)| *name).collect();
    let named = tensors.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    format!(
        "the ranks diverged: {when}, rank {odd} and rank {common} hold other values of {named} \
         ({} of {} tensors){rest}",
        tensors.len(),
        names.len()
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use c10d::{Backend, ProcessGroup, Rendezvous};
    use tch::{Kind, Tensor};

    use super::*;

    /// Makes [`one_rank`] a rank of the test below: its number, the number of ranks and the port.
    const RANK: &str = "HQSAM_TEST_RANK";

    #[test]
    fn a_changed_parameter_names_its_rank_and_its_tensor() {
        for (world_size, named) in [(2, "rank 1 and rank 0"), (3, "rank 1 and rank 0")] {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let ranks: Vec<_> = (0..world_size)
                .map(|rank| {
                    Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", "train::parameters::tests::one_rank", "--nocapture"])
                        .env(RANK, format!("{rank} {world_size} {port}"))
                        .stdout(Stdio::piped())
                        .spawn()
                        .unwrap()
                })
                .collect();
            for rank in ranks {
                let output = rank.wait_with_output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                let expected = format!(
                    "the ranks diverged: after step 7, {named} hold other values of b (1 of 3 tensors)\n"
                );
                assert!(output.status.success() && text.contains(&expected), "{text}");
            }
        }
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "what a rank of the test above found")]
    fn one_rank() {
        let Ok(text) = std::env::var(RANK) else { return };
        let [rank, world_size, port] =
            text.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<usize>>()[..]
        else {
            panic!("{text}")
        };
        let timeout = Duration::from_secs(60);
        let port = u16::try_from(port).unwrap();
        let rendezvous = Rendezvous::fixed("127.0.0.1", port);
        let gloo = Backend::Gloo;
        let group =
            ProcessGroup::new(gloo, rank, world_size, &rendezvous, timeout, &|| false).unwrap();
        let ranks = DataParallel::new(group);
        let value = |seed: i64| Tensor::arange(seed + 5, (Kind::Float, Device::Cpu)) / 3.0;
        let state: StateDict = ["a", "b", "c"]
            .iter()
            .zip(1..)
            .map(|(name, i)| ((*name).to_owned(), value(i)))
            .collect();
        let compared = |step| compare(&ranks, &state, step, "after step 7", Device::Cpu);
        compared(7).unwrap();
        if rank == 1 {
            // The smallest difference that a float can have.
            let bits = state["b"].double_value(&[3]) as f32;
            let _ = state["b"].get(3).fill_(f64::from(f32::from_bits(bits.to_bits() ^ 1)));
        }
        println!("{}", compared(7).unwrap_err());
    }

    #[test]
    fn the_rank_that_most_do_not_agree_with_is_named() {
        let state = |step: u64, digests: &[&str]| {
            (step, digests.iter().map(|&digest| digest.to_owned()).collect::<Vec<_>>())
        };
        let (common, odd) = (state(4, &["1", "2"]), state(4, &["8", "9"]));
        let text = difference(&[odd, common.clone(), common.clone()], &["a", "b"], "at the start");
        assert!(text.contains("rank 0 and rank 1 hold other values of a, b (2 of 2"), "{text}");
        let late = state(3, &["1", "2"]);
        let text = difference(&[common.clone(), late.clone(), late, common], &["a", "b"], "now");
        assert!(
            text.ends_with("rank 1 is at step 3, rank 0 at 4, and 1 more ranks differ"),
            "{text}"
        );
    }
}
