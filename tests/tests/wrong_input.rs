//! What users get wrong: one actionable line each, never a panic.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tch::{Device, Kind, Tensor};
use tests::{fail, run, succeed, tiny};
use trainer::export::{ExportFormat, export};
use trainer::model::{EncoderConfig, SamHq, StateDict, VitConfig};
use trainer::weights::save_pth;

const CONFIG: &str = r#"
output = "run"
[model]
encoder = "lite_medsam"
checkpoint = "sam.pth"
[data]
path = "data"
"#;

fn folder_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    folder
}

#[test]
fn unknown_key_names_the_nearest_valid_one() {
    let folder = folder_with(&format!("{CONFIG}\n[train]\nepcohs = 3\n"));
    let error = fail(folder.path(), "hqsam", &["train", "config.toml"]);
    assert!(error.contains("epcohs") && error.contains("epochs"), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
}

#[test]
fn unknown_encoder_lists_the_known_ones() {
    let folder = folder_with(&CONFIG.replace("lite_medsam", "vit_xl"));
    let error = fail(folder.path(), "hqsam", &["train", "config.toml"]);
    assert!(error.contains("vit_xl") && error.contains("vit_l"), "{error}");
}

#[test]
fn data_that_is_not_there_is_named() {
    let folder = folder_with(CONFIG);
    let error = fail(folder.path(), "hqsam", &["train", "config.toml"]);
    assert!(error.contains("data"), "{error}");
}

#[test]
fn sizes_that_no_encoder_can_have_are_refused_by_name() {
    let sizes = "{ kind = \"vit\", img_size = 128, embed_dim = 32, depth = 2, num_heads = 2, \
                 window_size = 3, global_attn_indexes = [1] }";
    let config = CONFIG.replace("\"lite_medsam\"", sizes);
    let folder = folder_with(&format!("{config}\n[prompt]\nkinds = [\"box\"]\n"));
    let bench = ["bench", "config.toml", "--batch", "1", "--steps", "1", "--set"];
    for (setting, words) in [
        ("model.encoder.mlp_ratio=-1.0", "model.encoder: mlp_ratio -1"),
        ("model.encoder.mlp_ratio=0.0", "model.encoder: mlp_ratio 0"),
        ("model.encoder.mlp_ratio=nan", "model.encoder: mlp_ratio NaN"),
        ("model.encoder.mlp_ratio=1e9", "model.encoder: mlp_ratio 1000000000"),
        ("model.encoder.norm_eps=0.0", "model.encoder: norm_eps 0"),
        ("model.encoder.norm_eps=nan", "model.encoder: norm_eps NaN"),
        ("model.encoder.embed_dim=17", "model.encoder: embed_dim 17 is not a multiple"),
        ("prompt.kinds=[\"noise_mask\"]", "prompt.kinds has noise_mask, which needs"),
    ] {
        let error = fail(folder.path(), "hqsam", &[&bench[..], &[setting]].concat());
        assert!(error.contains(words), "{setting}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
}

#[test]
fn more_points_than_any_evaluation_needs_are_refused() {
    let folder = folder_with(CONFIG);
    for protocol in ["points:100000000", "clicks:10001"] {
        let error = fail(folder.path(), "hqsam", &["eval", "absent.pth", "--protocol", protocol]);
        assert!(error.contains(protocol) && error.contains("from 1 to 10000"), "{error}");
        let setting = format!("eval.protocols=[{protocol:?}]");
        let error = fail(folder.path(), "hqsam", &["train", "config.toml", "--set", &setting]);
        assert!(error.contains(protocol) && error.contains("from 1 to 10000"), "{error}");
    }
}

#[test]
fn wrong_input_is_not_started_again() {
    let folder = tiny(r#"model = { random_sam = false, checkpoint = "absent.pth" }"#);
    let launched = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let arguments = ["--procs", "1", "--max-restarts", "3", "tiny.toml"].into_iter();
        let arguments: Vec<&str> = arguments.chain(settings).collect();
        let output = run(folder.path(), "launch", &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("not restarted: it would fail in the same way"), "{stderr}");
        stderr
    };
    assert!(launched(&[]).contains("absent.pth: no such file"));
    assert!(launched(&["data.path=\"elsewhere\""]).contains("elsewhere"));
    assert!(launched(&["train.epcohs=3"]).contains("epcohs"));
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
fn no_gpu_says_how_to_train_on_cpu() {
    if tch::Cuda::is_available() {
        println!("skipped: this machine has a GPU");
        return;
    }
    let root = tests::workspace_root();
    let error = fail(&root, "launch", &["--gpus", "8", "configs/hqsam_l.toml"]);
    assert!(error.contains("--procs"), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
}

#[test]
fn another_libtorch_is_refused_by_name_before_anything_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let torch = folder.path().join("torch");
    for part in ["include", "lib"] {
        std::fs::create_dir_all(torch.join(part)).unwrap();
    }
    std::fs::write(torch.join("version.py"), "__version__ = '2.4.0+cpu'\n").unwrap();
    // The package that checks it has no dependencies: nothing else is built.
    let check = |libtorch: &Path| {
        let output = Command::new(env!("CARGO"))
            .args(["check", "--quiet", "--offline", "--package", "locate"])
            .current_dir(tests::workspace_root())
            .env("LIBTORCH", libtorch)
            .env("CARGO_TARGET_DIR", folder.path().join("target"))
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = check(&torch);
    assert!(
        error.contains("libtorch 2.4.0+cpu at") && error.contains("2.13.0 is needed"),
        "{error}"
    );
    assert!(!error.contains("panicked"), "{error}");
    let error = check(&folder.path().join("absent"));
    assert!(error.contains("make setup"), "{error}");
}

#[test]
fn checkpoints_of_another_kind_are_named_by_group() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.png");
    image::GrayImage::from_pixel(32, 32, image::Luma([9])).save(&image).unwrap();
    let predict = |name: &str| {
        let arguments = ["predict", name, "image.png", "--box", "1,1,20,20"];
        fail(folder.path(), "hqsam", &arguments)
    };

    let other: StateDict = BTreeMap::from([(
        "layer.weight".into(),
        Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)),
    )]);
    save_pth(&folder.path().join("other.pth"), &other).unwrap();
    let error = predict("other.pth");
    assert!(error.contains("other.pth") && error.contains("HQ-SAM"), "{error}");

    // A plain SAM, as users pass it by mistake.
    let encoder = EncoderConfig::named("lite_medsam").unwrap();
    let mut sam = SamHq::random(&encoder, 1, Device::Cpu).state_dict();
    sam.retain(|name, _| {
        !["hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature"]
            .iter()
            .any(|part| name.contains(part))
    });
    save_pth(&folder.path().join("sam.pth"), &sam).unwrap();
    let error = predict("sam.pth");
    assert!(error.contains("sam.pth") && error.contains("HQ-SAM"), "{error}");

    // Half of a model.
    sam.retain(|name, _| !name.starts_with("prompt_encoder."));
    sam.insert("surprise".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
    let path = folder.path().join("half.safetensors");
    trainer::weights::save_safetensors(&path, &sam, &BTreeMap::new()).unwrap();
    let state = trainer::weights::load(&path).unwrap().state;
    let hq = trainer::model::HqInit::Fresh { seed: 0 };
    let error = SamHq::from_state(&encoder, state, hq, Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("prompt_encoder") && error.contains("surprise"), "{error}");

    std::fs::write(folder.path().join("text.pth"), "not a checkpoint").unwrap();
    assert!(predict("text.pth").contains("text.pth"));
    assert!(predict("absent.pth").contains("no such"));
}

/// Names and bytes of the files in a folder.
fn contents(folder: &Path) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn a_refused_export_leaves_every_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = EncoderConfig::Vit(VitConfig {
        img_size: 64,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        window_size: 3,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    });
    let state = SamHq::random(&encoder, 1, Device::Cpu).state_dict();
    let source = folder.path().join("source.safetensors");
    export(&state, &encoder, &source, ExportFormat::Safetensors).unwrap();
    std::os::unix::fs::symlink(&source, folder.path().join("link.safetensors")).unwrap();
    let before = contents(folder.path());
    let cases: [(&[&str], &str); 7] = [
        (&["-o", "source.safetensors"], "source.safetensors: this is what the export is made of"),
        (&["-o", "link.safetensors"], "link.safetensors: this is what the export is made of"),
        (
            &["--format", "pth", "-o", "source.safetensors"],
            "source.safetensors: a file of this format must end in .pth",
        ),
        (&["--format", "safetensors", "-o", "out.pth"], "must end in .safetensors"),
        (&["-o", "out.onnx"], "out.onnx: its name does not say which format"),
        (&["-o", "out1"], "--format transformers"),
        (&["-o", "absent/out.pth"], "absent/out.pth: No such file"),
    ];
    for (arguments, words) in cases {
        let export = [&["export", "source.safetensors"], arguments].concat();
        let error = fail(folder.path(), "hqsam", &export);
        assert!(error.contains(words), "{arguments:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
        assert!(contents(folder.path()) == before, "{arguments:?} changed a file");
    }
    let _ = succeed(folder.path(), "hqsam", &["export", "source.safetensors", "-o", "out.pth"]);
    let copy = ["export", "out.pth", "-o", "copy.safetensors", "--encoder", "encoder.toml"];
    std::fs::write(folder.path().join("encoder.toml"), toml::to_string(&encoder).unwrap()).unwrap();
    let _ = succeed(folder.path(), "hqsam", &copy);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("copy.safetensors") == read("source.safetensors"), "not the same model");
    let is_hidden = |name: &std::ffi::OsString| name.as_encoded_bytes()[0] == b'.';
    assert!(!contents(folder.path()).keys().any(is_hidden), "a staged file is left");
}
