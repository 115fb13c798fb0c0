//! One sample whose loss is not finite, among others.

use std::path::Path;

use serde_json::Value;
use tch::{Kind, Tensor};
use tests::{lines, run, tiny};
use trainer::checkpoint;

use crate::train;

/// Three steps of three samples an epoch: each epoch has every sample once. Nothing is drawn of a
/// sample's pixels, so that its features are kept.
const CHANGES: &str = "[train]\nepochs = 1\nglobal_batch = 3\ncheckpoint_every_steps = 0\n\
    on_non_finite = \"skip\"\ncache_embeddings = \"cache\"\n\
    [augment]\nscale_range = []\nflip_probability = 0.0\n[eval]\nsplits = []\n";
const EPOCHS: usize = 12;

/// Makes one value of one sample's kept features NaN, and their checksum fit.
fn poison(cache: &Path) {
    let entries = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let mut entries: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    assert_eq!(entries.len(), 9);
    entries.sort();
    let tensors = Tensor::read_safetensors(&entries[4]).unwrap();
    let tensor =
        |name| tensors.iter().find(|(key, _)| key == name).map(|(_, found)| found).unwrap();
    let features = tensor("image_embeddings_bhwc");
    let _ = features.view([-1]).narrow(0, 0, 1).fill_(f64::NAN);
    let bytes = Vec::<u8>::try_from(features.view_dtype(Kind::Uint8).flatten(0, -1)).unwrap();
    let checksum = crc_fast::crc32_iscsi(&bytes);
    let _ = tensor("crc32").narrow(0, 0, 1).fill_(i64::from(checksum));
    Tensor::write_safetensors(&tensors, &entries[4]).unwrap();
}

fn records(folder: &Path) -> Vec<Value> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .collect()
}

#[test]
fn the_step_of_a_poisoned_sample_is_skipped_by_all_ranks_and_training_goes_on() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    train(folder, "clean", &[]);
    poison(&folder.join("cache"));
    let epochs = format!("train.epochs={EPOCHS}");
    let arguments =
        ["--procs", "2", "tiny.toml", "--set", "output=\"run\"", "--set", epochs.as_str()];
    let output = run(folder, "launch", &arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // One in each epoch: more than may be skipped in a row.
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches("skipped, not finite").count(), EPOCHS, "{stderr}");

    let steps = lines(&folder.join("run/steps.jsonl"));
    assert_eq!(steps.len(), 2 * EPOCHS);
    for step in &steps {
        assert!(step["loss"].is_f64() && step["grad_norm"].is_f64(), "{step}");
    }
    let newest = checkpoint::list(&folder.join("run")).unwrap().pop().unwrap();
    let newest = checkpoint::load(&newest).unwrap();
    assert_eq!(newest.info.global_step, 3 * EPOCHS as u64);
    for (name, tensor) in &newest.hq_parameters {
        assert!(bool::try_from(tensor.isfinite().all()).unwrap(), "{name}");
    }

    let records = records(&folder.join("run/nonfinite"));
    assert_eq!(records.len(), EPOCHS);
    let ids = |record: &Value| -> Vec<String> {
        serde_json::from_value(record["sample_ids"].clone()).unwrap()
    };
    let mut common = ids(&records[0]);
    for (epoch, record) in records.iter().enumerate() {
        let ids = ids(record);
        assert_eq!((record["epoch"].as_u64(), ids.len()), (Some(epoch as u64), 3), "{record}");
        common.retain(|id| ids.contains(id));
    }
    assert_eq!(common.len(), 1, "the poisoned sample is in every record: {records:?}");

    // From what was saved, the same step is met again.
    let replay = ["--procs", "1", "tiny.toml", "--resume", "--set", "output=\"run/nonfinite\""];
    let stop = ["--set", "train.on_non_finite=\"stop\"", "--set", epochs.as_str()];
    let error = tests::fail(folder, "launch", &[&replay[..], &stop].concat());
    let last = &records[EPOCHS - 1];
    let met = format!("not finite in epoch {}, step {}", last["epoch"], last["step"]);
    assert!(error.contains(&met) && error.contains(&common[0]), "{met}: {error}");
}
