//! The text that goes with an exported model: what it was trained on, under which licences, how,
//! and how well it does. In the form that model hubs read: YAML, then Markdown.

use std::fmt::Write;
use std::path::Path;

use pipeline::{Dataset, Manifest};

use crate::config::TrainConfig;
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
    /// The run and its configuration, where a run was exported.
    pub run: Option<(&'a Path, &'a TrainConfig)>,
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
        match self.run {
            Some((folder, config)) => {
                evaluation(&mut card, folder);
                data(&mut card, config);
                training(&mut card, config);
            }
            None => card.push_str(
                "Converted from a model file: its training data and results are not known here.\n",
            ),
        }
        card
    }
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

/// The tables that `hqsam eval` left in the run, of whole splits first; else those of the epochs.
fn evaluation(card: &mut String, run: &Path) {
    card.push_str("## Evaluation\n\n");
    let mut tables: Vec<_> = std::fs::read_dir(run.join("eval"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    tables.sort();
    let (epochs, mut shown): (Vec<_>, Vec<_>) = tables.into_iter().partition(|path| {
        path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("-epoch-"))
    });
    if shown.is_empty() {
        shown.extend(epochs.into_iter().next_back());
    }
    if shown.is_empty() {
        card.push_str("None was made.\n\n");
    }
    for path in shown {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        match std::fs::read_to_string(&path) {
            Ok(table) => drop(write!(card, "`{name}`, in percent:\n\n{}\n\n", table.trim_end())),
            Err(error) => drop(write!(card, "`{name}` cannot be read: {error}\n\n")),
        }
    }
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
    let configured = manifest.config["source"].as_array().cloned().unwrap_or_default();
    for (source, rows) in &manifest.sources {
        let Some(rows) = rows.get(split).filter(|rows| **rows > 0) else { continue };
        let license = configured
            .iter()
            .find(|entry| entry["name"] == source.as_str())
            .and_then(|entry| entry["license"].as_str())
            .unwrap_or("not stated");
        let _ = writeln!(card, "| {source} | {rows} | {license} |");
    }
    card.push_str(
        "\nThe licences of the training images may bind users of the weights; where one forbids \
         commercial use, ask its owner before using this model in a product.\n\n",
    );
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

    #[test]
    fn a_run_tells_its_tables_and_what_is_missing() {
        let run = tempfile::tempdir().unwrap();
        let toml = "output = \"runs/x\"\n[model]\nencoder = \"vit_b\"\nrandom_sam = true\n\
                    [data]\npath = \"nowhere/data\"\n";
        let file = run.path().join("config.toml");
        std::fs::write(&file, toml).unwrap();
        let config = TrainConfig::load(&file, &[]).unwrap();
        let encoder = config.model.encoder.resolve().unwrap();
        let card = ModelCard {
            origin: "step-7",
            encoder: &encoder,
            format: ExportFormat::Pth,
            run: Some((run.path(), &config)),
        };
        let text = card.text();
        assert!(text.contains("`vit_b`, 1024 x 1024 pixels. Exported from `step-7`"), "{text}");
        assert!(text.contains("None was made"), "{text}");
        assert!(text.contains("`nowhere/data` is not at hand"), "{text}");
        assert!(text.contains("encoder = \"vit_b\""), "{text}");
        for (name, table) in [("val-epoch-001", "| a |"), ("val-epoch-002", "| b |")] {
            std::fs::create_dir_all(run.path().join("eval")).unwrap();
            std::fs::write(run.path().join(format!("eval/{name}.md")), table).unwrap();
        }
        assert!(card.text().contains("`val-epoch-002`, in percent:\n\n| b |"));
        assert!(!card.text().contains("| a |"));
        std::fs::write(run.path().join("eval/val.md"), "| whole |").unwrap();
        assert!(card.text().contains("| whole |") && !card.text().contains("| b |"));
    }

    #[test]
    fn sources_come_with_their_licences() {
        let manifest = Manifest {
            schema_version: dataset::schema::SCHEMA_VERSION,
            splits: Default::default(),
            sources: [
                ("DIS5K".to_owned(), [("train".to_owned(), 3000)].into()),
                ("HRSOD".to_owned(), [("val".to_owned(), 287)].into()),
            ]
            .into(),
            config: serde_json::json!({
                "source": [{ "name": "DIS5K", "license": "non-commercial" }]
            }),
        };
        let mut card = String::new();
        sources(&mut card, &manifest, "train");
        assert!(card.contains("| DIS5K | 3000 | non-commercial |"), "{card}");
        assert!(!card.contains("HRSOD"), "{card}");
    }
}
