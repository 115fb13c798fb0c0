use std::path::Path;

use serde::Deserialize;

use super::{ConfigError, parse_config};

#[derive(Debug, Deserialize)]
struct Run {
    output: String,
    train: Train,
    #[serde(default)]
    source: Vec<Source>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Train {
    epochs: u32,
    #[serde(default)]
    lr: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Source {
    name: String,
    #[serde(default)]
    layout: Layout,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Layout {
    #[default]
    Flat,
    Nested {
        depth: u32,
    },
}

const TEXT: &str = "output = 'a'\n[train]\nepochs = 3\n[[source]]\nname = 'x'\n";

fn parse(text: &str, overrides: &[&str]) -> Result<Run, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    parse_config(Path::new("configs/x.toml"), text, &overrides)
}

fn message(text: &str, overrides: &[&str]) -> String {
    parse(text, overrides).unwrap_err().to_string()
}

#[test]
fn overrides_are_typed_and_fall_back_to_text() {
    let run = parse(
        TEXT,
        &[
            "train.epochs=5",
            "output=data/b",
            "train.lr=1e-3",
            "source.x.layout={nested={depth=2}}",
            "source.0.name=y",
        ],
    )
    .unwrap();
    assert_eq!((run.train.epochs, run.train.lr, run.output.as_str()), (5, Some(1e-3), "data/b"));
    assert_eq!(run.source[0].layout, Layout::Nested { depth: 2 });
    assert_eq!(run.source[0].name, "y");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    assert_eq!(
        message(&TEXT.replace("epochs", "epcohs"), &[]),
        "configs/x.toml: unknown key `train.epcohs`; did you mean `epochs`?"
    );
    assert_eq!(
        message(TEXT, &["outptu=b"]),
        "configs/x.toml: unknown key `outptu`; did you mean `output`?"
    );
    assert_eq!(
        message(&TEXT.replace("name = 'x'", "name = 'x'\nzzz = 1"), &[]),
        "configs/x.toml: unknown key `source[0].zzz`; valid keys are `name`, `layout`"
    );
    assert_eq!(
        message(TEXT, &["source.x.layout={nested={dept=2}}"]),
        "configs/x.toml: unknown key `source[0].layout.nested.dept`; did you mean `depth`?"
    );
}

#[test]
fn wrong_values_name_file_and_key() {
    assert_eq!(
        message(TEXT, &["train.epochs=ten"]),
        "configs/x.toml: invalid type: string \"ten\", expected u32 (at `train.epochs`)"
    );
    assert_eq!(
        message(TEXT, &["source.x.layout=flatt"]),
        "configs/x.toml: unknown value `flatt`; did you mean `flat`? (at `source[0].layout`)"
    );
    assert_eq!(message("output = 'a'\n", &[]), "configs/x.toml: missing field `train`");
    assert!(message("output = 'a'\n=\n", &[]).starts_with("configs/x.toml:2: not valid TOML"));
}

#[test]
fn bad_overrides_say_what_is_expected() {
    assert_eq!(
        message(TEXT, &["output"]),
        "--set output: expected key=value, for example output=data/set"
    );
    assert_eq!(
        message(TEXT, &["output.a=1"]),
        "--set output.a=1: `output` is a string, it has no keys"
    );
    assert_eq!(
        message(TEXT, &["source.z.name=1"]),
        "--set source.z.name=1: the list `source` has no entry `z`"
    );
}
