//! The published recipe, the shipped configurations, and what is refused.

use super::*;
use crate::evaluate::Protocol;

#[test]
fn published_schedule_drops_after_epoch_ten() {
    let section = TrainSection::default();
    assert_eq!(section.lr_at(0), 1e-3);
    assert_eq!(section.lr_at(9), 1e-3);
    assert!((section.lr_at(10) - 1e-4).abs() < 1e-12);
    assert!((section.lr_at(11) - 1e-4).abs() < 1e-12);
}

/// The training configurations of `configs/`, by file name.
fn shipped() -> std::collections::BTreeMap<String, TrainConfig> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("[model]"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, TrainConfig::load(&path, &[]).unwrap())
        })
        .collect()
}

#[test]
fn shipped_configurations_load_and_name_known_encoders() {
    let shipped = shipped();
    assert!(shipped.len() >= 6, "{:?}", shipped.keys());
    for (name, config) in shipped {
        assert!(config.model.encoder.resolve().is_ok(), "{name}");
        assert!(config.model.checkpoint.is_some(), "{name}: trains on random weights");
    }
}

#[test]
fn departures_are_off_by_default_and_refused_by_name() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/hqsam_b.toml");
    let load = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        TrainConfig::load(&path, &overrides)
    };
    let config = load(&[]).unwrap();
    assert_eq!(config.prompt.recipe(), PromptRecipe::default());
    assert_eq!(config.augment.color_jitter, None);
    let config = load(&[
        "prompt.negative_points=3",
        "prompt.box_noise=0.2",
        "prompt.prompts_per_image=4",
        "augment.color_jitter={ hue = 0.1 }",
    ])
    .unwrap();
    let recipe = config.prompt.recipe();
    assert_eq!((recipe.negative_points, recipe.prompts_per_image), (3, 4));
    assert_eq!(config.augment.color_jitter.unwrap().hue, 0.1);
    for (setting, message) in [
        ("prompt.box_noise=1.0", "prompt.box_noise = 1 "),
        ("prompt.prompts_per_image=0", "prompt.prompts_per_image must"),
        ("prompt.num_points=0", "prompt.num_points must"),
        ("eval.protocols=[]", "eval.protocols is empty"),
        ("eval.protocols=[\"box\", \"points:0\"]", "`points:0`"),
        ("eval.protocols=[\"box\", \"box\"]", "names box twice"),
        ("eval.dilation_ratio=0.0", "eval.dilation_ratio = 0 "),
        ("eval.batch=0", "eval.batch must"),
        ("eval.limit=0", "eval.limit must"),
        ("train.lr_drop_factor=nan", "train.lr_drop_factor must"),
        ("train.cache_limit_gib=nan", "train.cache_limit_gib must"),
        ("train.collective_timeout_secs=0", "train.collective_timeout_secs must"),
        ("augment.scale_range=[0.1, inf]", "augment.scale_range must"),
        ("data.threads=100000", "data.threads = 100000 is more than"),
        ("data.prefetch_batches=1000000000", "data.prefetch_batches = 1000000000 is more"),
        ("prompt.num_points=1000000000", "prompt.num_points = 1000000000 is more than"),
        ("prompt.prompts_per_image=1000000", "prompt.prompts_per_image = 1000000 is more"),
        ("augment.color_jitter={ hue = 0.6 }", "augment.color_jitter.hue = 0.6 "),
    ] {
        let error = load(&[setting]).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn shipped_published_recipes_are_the_published_recipe() {
    let shipped = shipped();
    for (file, encoder) in [("hqsam_b", "vit_b"), ("hqsam_l", "vit_l"), ("hqsam_h", "vit_h")] {
        let config = &shipped[file];
        assert!(matches!(&config.model.encoder, EncoderChoice::Named(name) if name == encoder));
        let train = &config.train;
        assert_eq!((train.epochs, train.global_batch, train.world_size), (12, 32, 8), "{file}");
        assert_eq!((train.lr, train.lr_drop_epoch, train.lr_drop_factor), (1e-3, 10, 0.1));
        assert_eq!(config.augment.scale_range, [0.1, 2.0]);
        assert_eq!(config.augment.flip_probability, 0.5);
        assert_eq!((config.prompt.kinds.len(), config.prompt.num_points), (3, 10));
    }
}

#[test]
fn pixels_come_again_without_drawn_crops_and_colours_or_with_few_copies() {
    let published = AugmentSection::default();
    let repeats = |section: AugmentSection| section.pixels_repeat(12);
    assert!(!repeats(published.clone()));
    assert!(repeats(AugmentSection { scale_range: vec![], ..published.clone() }));
    assert!(repeats(AugmentSection { scale_range: vec![0.5, 0.5], ..published.clone() }));
    assert!(!repeats(AugmentSection { scale_range: vec![1.5, 1.5], ..published.clone() }));
    let color_jitter = Some(ColorJitter { hue: 0.1, ..ColorJitter::default() });
    assert!(!repeats(AugmentSection { scale_range: vec![], color_jitter, ..published.clone() }));
    for (copies, expected) in [(1, true), (4, true), (12, false)] {
        let section = AugmentSection { copies: Some(copies), ..published.clone() };
        assert_eq!(repeats(section), expected, "{copies} copies");
    }
}

#[test]
fn evaluation_is_the_published_one_unless_configured() {
    for (file, config) in shipped() {
        assert_eq!(config.eval.protocols, [Protocol::Box], "{file}");
        assert_eq!((config.eval.hq_output, config.eval.dilation_ratio), (HqOutput::Hq, 0.02));
    }
}

#[test]
fn an_output_in_a_store_has_a_working_folder_of_its_own() {
    let config = |text: &str| {
        let rest = "[model]\nencoder = \"vit_b\"\nrandom_sam = true\n[data]\npath = \"data\"\n";
        TrainConfig::parse(Path::new("run.toml"), &format!("{text}\n{rest}"))
    };
    for (text, store, folder) in [
        ("output = 'runs/a'", None, "runs/a"),
        ("output = 'file:///runs/a'", None, "/runs/a"),
        ("output = 's3://bucket/x/a'", Some("s3://bucket/x/a"), "runs/bucket/x/a"),
        ("output = 's3://bucket/../a/'", Some("s3://bucket/../a/"), "runs/bucket/a"),
        ("output = 'gs://bucket/a'\nwork_dir = 'w'", Some("gs://bucket/a"), "w"),
    ] {
        let config = config(text).unwrap();
        assert_eq!((config.store_url(), config.folder()), (store, PathBuf::from(folder)), "{text}");
    }
    let error = config("output = 'runs/a'\nwork_dir = 'w'").unwrap_err().to_string();
    assert!(error.contains("work_dir is for an output in an object store"), "{error}");
}
