//! A bit that flips in the memory of a rank.

use std::os::unix::fs::FileExt;
use std::process::Command;

use tch::Device;
use tests::{lines, program, ranks};
use trainer::checkpoint;
use trainer::config::TrainConfig;
use trainer::model::SamHq;

use crate::running::wait_for;
use crate::{ended, folder, rank_1, start, train};

/// Flips a bit of the first value of `values` wherever the memory of `pid` holds them, as a bad memory
/// module might. Returns how often; `None`, saying so, where that is not allowed.
#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
fn flip_a_bit(pid: u32, values: &[f32]) -> Option<usize> {
    let opened = std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
    let Ok(memory) = opened else {
        println!("skipped: the memory of another process cannot be written here");
        return None;
    };
    let pattern: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut flipped = 0;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        // Guard pages cannot be read; parameters do not lie there.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        // Tensors are aligned to 64 bytes.
        for at in (0..bytes.len().saturating_sub(pattern.len())).step_by(16) {
            if bytes[at..].starts_with(&pattern) {
                memory.write_all_at(&[pattern[0] ^ 1], from + at as u64).unwrap();
                flipped += 1;
            }
        }
    }
    Some(flipped)
}

#[test]
fn a_bit_that_flips_in_one_rank_stops_the_run_and_is_named() {
    let folder = folder();
    let folder = folder.path();
    // Steps too small to change a float, so that the values in memory are known.
    let settings = ["train.lr=1e-30", "train.check_parameters_every_steps=1"];
    train(folder, "known", &settings);
    let newest = checkpoint::list(&folder.join("known")).unwrap().pop().unwrap();
    let name = "mask_decoder.hf_token.weight";
    let token = &checkpoint::load(&newest).unwrap().hq_parameters[name];
    let values: Vec<f32> = Vec::try_from(token.reshape([-1])).unwrap();

    let mut command = Command::new(program("launch"));
    command.args(["--procs", "2", "tiny.toml", "--set", "train.epochs=100000"]);
    command.args(settings.iter().flat_map(|setting| ["--set", *setting])).current_dir(folder);
    let launcher = start(&mut command);
    wait_for("the first steps", || lines(&folder.join("run/steps.jsonl")).len() > 2);
    let Some(flipped) = flip_a_bit(rank_1(launcher.id()).unwrap(), &values) else { return };
    assert!(flipped > 0, "the parameter was not found in memory");
    let (output, stderr) = ended(launcher);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("the ranks diverged: after step "), "{stderr}");
    let expected = format!("rank 1 and rank 0 hold other values of {name} (1 of 25 tensors)");
    assert!(last.contains(&expected), "{stderr}");
}

/// The flip is in a tensor that only the decoder has, laid out for its products; the file's are whole.
#[test]
fn a_bit_that_flips_in_a_frozen_tensor_that_computes_is_told_when_the_run_stops() {
    let folder = folder();
    let folder = folder.path();
    let config = TrainConfig::load(&folder.join("tiny.toml"), &[]).unwrap();
    let encoder = config.model.encoder.resolve().unwrap();
    let sam = SamHq::random(&encoder, config.train.seed, Device::Cpu).state_dict();
    let part = "mask_decoder.transformer.layers.0.cross_attn_token_to_image";
    let [keys, values] = ["k_proj", "v_proj"].map(|name| {
        Vec::<f32>::try_from(sam[&format!("{part}.{name}.weight")].reshape([-1])).unwrap()
    });
    // Both weights are one there: the end of one beside the beginning of the other.
    let seam = [&keys[keys.len() - 32..], &values[..32]].concat();

    let mut command = Command::new(program("launch"));
    command.args(["--procs", "1", "tiny.toml", "--set", "train.epochs=100000"]).current_dir(folder);
    let launcher = start(&mut command);
    wait_for("the first steps", || lines(&folder.join("run/steps.jsonl")).len() > 2);
    let Some(flipped) = flip_a_bit(ranks(launcher.id())[0], &seam) else { return };
    assert_eq!(flipped, 1, "the laid out weights were not found in memory");
    let id = launcher.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let (output, stderr) = ended(launcher);
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.contains(&format!("training changed {part}, which is frozen")), "{stderr}");
}
