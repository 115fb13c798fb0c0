use std::ffi::OsString;

use super::*;

fn sample() -> Checkpoint {
    let tensor = Tensor::from_slice(&[1.5f32, -2.0]);
    let name = "mask_decoder.hf_token.weight".to_owned();
    Checkpoint {
        info: CheckpointInfo {
            version: CHECKPOINT_VERSION,
            global_step: 7,
            epoch: 1,
            step: 2,
            seed: 42,
            global_batch: 4,
            data_sha256: "d".into(),
            sam_sha256: "s".into(),
            tensors_sha256: String::new(),
            config: String::new(),
            program: String::new(),
        },
        hq_parameters: StateDict::from([(name.clone(), tensor.copy())]),
        adam: AdamState {
            step: 7,
            exp_avg: vec![(name.clone(), tensor.copy())],
            exp_avg_sq: vec![(name, tensor)],
        },
    }
}

#[test]
fn round_trip_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), &sample()).unwrap();
    assert_eq!(list(folder.path()).unwrap(), std::slice::from_ref(&path));
    let back = load(&path).unwrap();
    assert_eq!(back.info.global_step, 7);
    assert_eq!(digest(&back.hq_parameters), digest(&sample().hq_parameters));
    assert_eq!(back.adam.step, 7);
}

#[test]
fn the_one_before_a_damaged_one_is_used() {
    let folder = tempfile::tempdir().unwrap();
    assert!(load_newest(folder.path()).unwrap().0.is_none());
    let older = save(folder.path(), &sample()).unwrap();
    let mut newer = sample();
    newer.info.global_step = 8;
    let newer = save(folder.path(), &newer).unwrap();
    let whole = std::fs::read(&newer).unwrap();
    std::fs::write(&newer, &whole[..whole.len() / 2]).unwrap();
    let (found, damaged) = load_newest(folder.path()).unwrap();
    assert_eq!(found.unwrap().0, older);
    assert!(damaged[0].to_string().contains("step-0000000008"), "{}", damaged[0]);
    std::fs::write(&older, b"").unwrap();
    assert!(load_newest(folder.path()).err().unwrap().to_string().contains("step-0000000008"));
}

#[test]
fn the_best_stays_when_a_worse_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), &sample()).unwrap();
    assert!(keep_best(folder.path(), &path, 0.5).unwrap());
    assert!(!keep_best(folder.path(), &path, 0.4).unwrap());
    assert!(keep_best(folder.path(), &path, 0.6).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(load(&folder.path().join("checkpoints/best.safetensors")).unwrap().info.step, 2);
    assert!(list(folder.path()).unwrap().is_empty(), "the best one is no newest one");
}

#[test]
fn one_flipped_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), &sample()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = load(&path).err().unwrap().to_string();
    assert!(error.contains("do not match the hash"), "{error}");
}

fn at_step(global_step: u64) -> Checkpoint {
    let mut checkpoint = sample();
    checkpoint.info.global_step = global_step;
    checkpoint
}

#[test]
fn damaged_ones_that_are_newer_take_no_place_of_whole_ones() {
    let folder = tempfile::tempdir().unwrap();
    let place = Checkpoints::open(None, folder.path()).unwrap();
    let names = || {
        let found = list(folder.path()).unwrap();
        found.iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let damaged = save(folder.path(), &at_step(9)).unwrap();
    std::fs::write(&damaged, b"torn").unwrap();
    for step in 5..=8 {
        let written = place.save(&at_step(step), 2).unwrap();
        assert_eq!(load_newest(folder.path()).unwrap().0.unwrap().0, written);
    }
    assert_eq!(names(), [7, 8, 9].map(|step| OsString::from(file_name(step))));
    // The step of the damaged one is made again, or passed.
    place.save(&at_step(10), 2).unwrap();
    place.save(&at_step(11), 2).unwrap();
    assert_eq!(names(), [10, 11].map(|step| OsString::from(file_name(step))));
}

#[test]
fn what_a_kill_left_of_a_new_best_one_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let place = Checkpoints::open(None, folder.path()).unwrap();
    let best = folder.path().join("checkpoints/best.safetensors");
    save(folder.path(), &at_step(1)).unwrap();
    assert!(place.keep_best(1, 0.5).unwrap());
    let before = std::fs::read(&best).unwrap();
    save(folder.path(), &at_step(2)).unwrap();
    assert!(place.keep_best(2, 0.6).unwrap());
    // Killed when the note was there and the file was not.
    std::fs::remove_file(&best).unwrap();
    std::fs::write(&best, before).unwrap();
    place.settle().unwrap();
    assert_eq!(load(&best).unwrap().info.global_step, 2);
    assert!(!place.keep_best(1, 0.55).unwrap());
    // What the note names may be gone by now.
    std::fs::remove_file(folder.path().join("checkpoints").join(file_name(2))).unwrap();
    place.settle().unwrap();
    assert_eq!(load(&best).unwrap().info.global_step, 2);
}
