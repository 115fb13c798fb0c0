//! The text that goes with an exported model: what it was trained on, under which licences, how,
//! and how well it does. In the form that model hubs read: YAML, then Markdown.

use std::fmt::Write;
use std::path::Path;

use dataset::source::SourceSpec;
use pipeline::{Dataset, Manifest};

use crate::config::TrainConfig;
use crate::evaluate::EvalReport;
use crate::export::ExportFormat;
use crate::model::EncoderConfig;

/// transformers 5.23 (`models/sam_hq`) drops what its two-way transformer does to the image and
/// upsamples the embedding from before it, with rows and columns exchanged. A test runs this text.
const TRANSFORMERS_CORRECTION: &str = r#"## Use with transformers

`SamHQModel` of transformers 5.23 upsamples the image embedding from before its two-way transformer,
so its masks are not those of HQ-SAM, whatever the weights. After `model =
SamHQModel.from_pretrained(...)` this puts it right, to within 1e-5 of the published code:

```python
keys = {}
decoder = model.mask_decoder
decoder.transformer.register_forward_hook(lambda _, inputs, output: keys.update(image=output[1]))
decoder.upscale_conv1.register_forward_pre_hook(
    lambda _, inputs: (keys["image"].transpose(2, 3).reshape(inputs[0].shape),)
)
```

"#;

/// What a card tells.
pub struct ModelCard<'a> {
    /// One line naming the checkpoint or file behind the export.
    pub origin: &'a str,
    /// The image encoder.
    pub encoder: &'a EncoderConfig,
    /// The form of the export.
    pub format: ExportFormat,
    /// [`digest`](crate::checkpoint::digest) of the HQ values: which evaluations are of this model.
    pub hq_sha256: &'a str,
    /// The run's configuration, where a run was exported.
    pub config: Option<&'a TrainConfig>,
    /// The run's folder, where it lies in one.
    pub folder: Option<&'a Path>,
}

impl ModelCard<'_> {
    /// The card. A data set that is no longer at hand and an evaluation that was not made are
    /// named as missing, not left out.
    #[must_use]
    pub fn text(&self) -> String {
        let mut card = String::from(
            "---\nlicense: other\nlicense_name: see-training-data\ntags:\n- segment-anything\n\
             - hq-sam\n- image-segmentation\n---\n\n# HQ-SAM\n\n",
        );
        let _ = writeln!(
            card,
            "Image encoder: {}. Exported from `{}`.\n",
            describe(self.encoder),
            self.origin
        );
        if self.format == ExportFormat::Transformers {
            card.push_str(TRANSFORMERS_CORRECTION);
        }
        match self.config {
            Some(config) => {
                self.evaluation(&mut card, config);
                data(&mut card, config);
                training(&mut card, config);
            }
            None => card.push_str(
                "Converted from a model file: its training data and results are not known here.\n",
            ),
        }
        card
    }

    /// What was found of these very weights on the run's own data set, for each split where most images were evaluated, with
    /// that of `hqsam eval` before that of an epoch.
    fn evaluation(&self, card: &mut String, config: &TrainConfig) {
        card.push_str("## Evaluation\n\n");
        // The logs of a run in a store lie in a folder of the machine that trained it.
        let folder = self.folder.map_or_else(|| config.folder(), Path::to_owned);
        if !folder.is_dir() {
            let _ = writeln!(
                card,
                "Not known here: the run lies in a store, its evaluations where it was trained.\n"
            );
            return;
        }
        let reports = reports(&folder.join("eval"));
        let is_own_data = own_data(&reports, config);
        let (mut own, other): (Vec<_>, Vec<_>) = reports.into_iter().partition(|(name, report)| {
            report.hq_sha256 == self.hq_sha256 && is_own_data(name, report)
        });
        own.sort_by_key(|(name, report)| {
            (report.split.clone(), std::cmp::Reverse(report.num_images()), is_of_epoch(name))
        });
        own.dedup_by(|(_, later), (_, first)| later.split == first.split);
        if own.is_empty() && other.is_empty() {
            card.push_str("None was made.\n\n");
        } else if own.is_empty() {
            card.push_str(
                "None was made of these weights on the run's data set; those of the run are of other \
                 weights or data sets. `hqsam eval` makes one.\n\n",
            );
        }
        for (name, report) in own {
            let _ = writeln!(card, "`{name}`, in percent:\n\n{}\n", report.table());
        }
    }
}

fn is_of_epoch(name: &str) -> bool {
    name.contains("-epoch-")
}

/// Which reports are of the run's own data set: those that training made, and those of the data set that
/// training evaluated or, where it evaluated none, that the configuration names.
fn own_data(
    reports: &[(String, EvalReport)],
    config: &TrainConfig,
) -> impl Fn(&str, &EvalReport) -> bool + use<> {
    let of_epochs = reports.iter().filter(|(name, _)| is_of_epoch(name));
    let digest =
        of_epochs.map(|(_, report)| report.data_sha256.clone()).find(|digest| !digest.is_empty());
    let digest = digest.or_else(|| Some(Dataset::open(&config.data.path).ok()?.manifest_sha256()));
    let path = config.data.path.clone();
    move |name, report| {
        is_of_epoch(name)
            || match &digest {
                Some(digest) => report.data_sha256 == *digest,
                // It is no longer at hand.
                None => report.data == path,
            }
    }
}

/// The evaluations in a folder, by name. Other files are none of ours.
fn reports(folder: &Path) -> Vec<(String, EvalReport)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            path.extension().filter(|extension| *extension == "json")?;
            let report = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            Some((path.file_stem()?.to_string_lossy().into_owned(), report))
        })
        .collect();
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    found
}

fn describe(encoder: &EncoderConfig) -> String {
    let named = EncoderConfig::names()
        .iter()
        .find(|name| EncoderConfig::named(name).as_ref() == Some(encoder));
    let kind = match (named, encoder) {
        (Some(name), _) => format!("`{name}`"),
        (None, EncoderConfig::Vit(vit)) => {
            format!("ViT of {} blocks, {} channels", vit.depth, vit.embed_dim)
        }
        (None, EncoderConfig::TinyVit(tiny)) => {
            format!("TinyViT of {:?} channels", tiny.embed_dims)
        }
    };
    format!("{kind}, {0} x {0} pixels", encoder.img_size())
}

fn data(card: &mut String, config: &TrainConfig) {
    card.push_str("## Training data\n\n");
    match Dataset::open(&config.data.path) {
        Ok(dataset) => sources(card, dataset.manifest(), &config.data.split),
        Err(error) => drop(writeln!(card, "`{}` is not at hand ({error}).\n", config.data.path)),
    }
}

fn sources(card: &mut String, manifest: &Manifest, split: &str) {
    card.push_str("| source | images | licence |\n|---|---:|---|\n");
    for (source, rows) in &manifest.sources {
        let Some(rows) = rows.get(split).filter(|rows| **rows > 0) else { continue };
        let license = license(manifest, source).unwrap_or_else(|| "not stated".into());
        let _ = writeln!(card, "| {source} | {rows} | {license} |");
    }
    card.push_str(
        "\nThe licences of the training images may bind users of the weights; where one forbids \
         commercial use, ask its owner before using this model in a product.\n\n",
    );
}

/// The configuration's word, else the catalogue's.
fn license(manifest: &Manifest, source: &str) -> Option<String> {
    let configured = manifest.config["source"].as_array()?;
    let entry = configured.iter().find(|entry| entry["name"] == source)?;
    match serde_json::from_value::<SourceSpec>(entry.clone()) {
        Ok(spec) => spec.terms().license,
        // Of another version of the program.
        Err(_) => entry["license"].as_str().map(str::to_owned),
    }
}

fn training(card: &mut String, config: &TrainConfig) {
    card.push_str(
        "## Training\n\nOnly the High-Quality token, its perceptron and three \
                   convolution blocks were trained; the SAM behind them is unchanged.\n\n",
    );
    match toml::to_string_pretty(config) {
        Ok(text) => drop(write!(card, "```toml\n{}```\n", text)),
        Err(error) => drop(writeln!(card, "The configuration cannot be shown: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Protocol, Score, SetScore};

    fn report(split: &str, weights: &str, images: usize, hq: f64) -> EvalReport {
        let score = Score { mask_iou: hq, boundary_iou: hq };
        EvalReport {
            split: split.into(),
            split_images: 20,
            data: "nowhere/data".into(),
            data_sha256: "mine".into(),
            hq_sha256: weights.into(),
            conditions: String::new(),
            hq_output: Default::default(),
            dilation_ratio: 0.02,
            seed: 42,
            sets: vec![SetScore {
                protocol: Protocol::Box,
                set: "all".into(),
                images,
                sam: score,
                hq: score,
                both_empty: Default::default(),
                prompts_replaced: 0,
            }],
            images: Vec::new(),
        }
    }

    #[test]
    fn a_run_tells_the_tables_of_its_weights_and_what_is_missing() {
        let run = tempfile::tempdir().unwrap();
        let toml = "output = \"runs/x\"\n[model]\nencoder = \"vit_b\"\nrandom_sam = true\n\
                    [data]\npath = \"nowhere/data\"\n";
        let file = run.path().join("config.toml");
        std::fs::write(&file, toml).unwrap();
        let config = TrainConfig::load(&file, &[]).unwrap();
        let encoder = config.model.encoder.resolve().unwrap();
        let mut card = ModelCard {
            origin: "step-7",
            encoder: &encoder,
            format: ExportFormat::Pth,
            hq_sha256: "ours",
            config: Some(&config),
            folder: Some(run.path()),
        };
        let text = card.text();
        assert!(text.contains("`vit_b`, 1024 x 1024 pixels. Exported from `step-7`"), "{text}");
        assert!(text.contains("None was made.") && text.contains("encoder = \"vit_b\""), "{text}");
        assert!(text.contains("`nowhere/data` is not at hand"), "{text}");
        std::fs::create_dir_all(run.path().join("eval")).unwrap();
        let write = |name: &str, report: &EvalReport| {
            let json = serde_json::to_string(report).unwrap();
            std::fs::write(run.path().join(format!("eval/{name}.json")), json).unwrap();
        };
        // Training went on after `hqsam eval`.
        write("val", &report("val", "before", 20, 0.11));
        write("val-epoch-001", &report("val", "", 20, 0.12));
        let text = card.text();
        assert!(
            text.contains("None was made of these weights") && !text.contains("11.00"),
            "{text}"
        );
        write("val-epoch-002", &report("val", "ours", 5, 0.22));
        let text = card.text();
        assert!(text.contains("`val-epoch-002`, in percent:\n\n| prompt"), "{text}");
        assert!(text.contains("22.00") && text.contains("Only 5 of the 20 images"), "{text}");
        assert!(!text.contains("11.00") && !text.contains("12.00"), "{text}");
        write("val", &report("val", "ours", 20, 0.33));
        write("test", &report("test", "ours", 20, 0.44));
        let text = card.text();
        assert!(text.contains("33.00") && text.contains("44.00"), "{text}");
        assert!(text.contains("All 20 images") && !text.contains("22.00"), "{text}");
        // Of another data set, however good; without a digest it is the path that tells.
        let other = EvalReport { data: "other".into(), ..report("elsewhere", "ours", 20, 0.99) };
        write("elsewhere", &other);
        assert!(card.text().contains("99.00"), "the digest tells before the path");
        write("elsewhere", &EvalReport { data_sha256: "other".into(), ..other });
        assert!(!card.text().contains("99.00"));
        std::fs::remove_file(run.path().join("eval/val-epoch-001.json")).unwrap();
        std::fs::remove_file(run.path().join("eval/val-epoch-002.json")).unwrap();
        let text = card.text();
        assert!(text.contains("33.00") && !text.contains("99.00"), "{text}");
        // Of a run in a store: where it was trained, its logs are at hand.
        card.folder = None;
        assert!(card.text().contains("Not known here: the run lies in a store"));
    }

    #[test]
    fn sources_come_with_their_licences_from_the_configuration_or_the_catalogue() {
        let manifest = Manifest {
            schema_version: dataset::schema::SCHEMA_VERSION,
            splits: Default::default(),
            sources: ["DIS5K", "ECSSD", "mine", "photos"]
                .map(|name| (name.to_owned(), [("train".to_owned(), 3000)].into()))
                .into_iter()
                .chain([("HRSOD".to_owned(), [("val".to_owned(), 287)].into())])
                .collect(),
            config: serde_json::json!({"source": [
                {"name": "DIS5K", "layout": "dis5k", "root": "raw/DIS5K"},
                {"name": "mine", "layout": "custom", "root": "raw/mine"},
                {"name": "ECSSD", "layout": "ecssd", "root": "raw/ECSSD", "license": "bought"},
                {"name": "photos", "layout": "of a later version", "license": "CC0"},
            ]}),
        };
        let mut card = String::new();
        sources(&mut card, &manifest, "train");
        for line in [
            "| DIS5K | 3000 | non-commercial research and education, no redistribution |",
            "| ECSSD | 3000 | bought |",
            "| mine | 3000 | not stated |",
            "| photos | 3000 | CC0 |",
        ] {
            assert!(card.contains(line), "{card}");
        }
        assert!(!card.contains("HRSOD"), "{card}");
    }
}
