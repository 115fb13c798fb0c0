//! `README.md`: the data card, in the form that the Hugging Face Hub and `datasets` read.

use std::fmt::Write as _;

use dataset::source::Permission;

use super::super::BuildConfig;
use super::{BuildReport, SourceReport};
use crate::manifest::Manifest;

/// Size classes of the Hub: the largest number of rows of each, and its name.
const SIZES: [(u64, &str); 7] = [
    (999, "n<1K"),
    (9_999, "1K<n<10K"),
    (99_999, "10K<n<100K"),
    (999_999, "100K<n<1M"),
    (9_999_999, "1M<n<10M"),
    (99_999_999, "10M<n<100M"),
    (999_999_999, "100M<n<1B"),
];

/// The columns as `datasets` names their types.
const FEATURES: &str = "  features:
  - name: image
    dtype: image
  - name: mask
    dtype: image
  - name: sample_id
    dtype: string
  - name: source
    dtype: string
  - name: split
    dtype: string
  - name: class
    dtype: string
  - name: height
    dtype: uint32
  - name: width
    dtype: uint32
  - name: foreground_pixels
    dtype: uint64
  - name: box_xyxy
    sequence: uint32
    length: 4
  - name: image_sha256
    dtype: string
  - name: mask_sha256
    dtype: string
  - name: perceptual_hash
    dtype: uint64
  - name: license
    dtype: string
";

/// The card as text. The same data set has the same card.
pub(in super::super) fn card(
    config: &BuildConfig,
    report: &BuildReport,
    manifest: &Manifest,
) -> Vec<u8> {
    let mut card = String::new();
    front_matter(&mut card, report, manifest);
    let sources: Vec<&str> = report.sources.iter().map(|source| source.name.as_str()).collect();
    let mut line = |text: String| {
        card.push_str(&text);
        card.push('\n');
    };
    line(format!("# Images and masks: {}\n", sources.join(", ")));
    line(format!(
        "{} pairs of an image and a mask for high-quality promptable segmentation, in {} Parquet \
         shards ({} bytes). Built by `hqseg` {}; pictures, distributions and every refused pair \
         are in `report/index.html`.\n",
        report.rows,
        report.shards,
        report.bytes,
        env!("CARGO_PKG_VERSION")
    ));
    line("## Before you pass it on\n".to_owned());
    line(
        "The images and masks belong to the authors of the collections below, each with terms of \
         its own; the column `license` has them for every row. **A copy of these shards is a copy \
         of the collections:** where redistribution is forbidden or not stated, keep the shards to \
         yourself and share the build configuration instead. Nothing here is legal advice.\n"
            .to_owned(),
    );
    licences(&mut line, report);
    counts(&mut line, report);
    columns(&mut line);
    how_built(&mut line, config, report);
    card.into_bytes()
}

fn front_matter(card: &mut String, report: &BuildReport, manifest: &Manifest) {
    let size = SIZES.iter().find(|(most, _)| report.rows <= *most).map_or("n>1T", |(_, name)| name);
    card.push_str("---\nlicense: other\nlicense_name: one-per-source\n");
    card.push_str("task_categories:\n- image-segmentation\n- mask-generation\n");
    let _ = write!(card, "size_categories:\n- {size}\n");
    card.push_str("configs:\n- config_name: default\n  data_files:\n");
    for path in manifest.splits.keys() {
        let name = hub_name(path);
        // A split may be called `val` and another `val-hard`: digits only.
        let _ = write!(card, "  - split: {name}\n    path: \"shards/{path}-[0-9]*.parquet\"\n");
    }
    card.push_str("dataset_info:\n");
    card.push_str(FEATURES);
    card.push_str("  splits:\n");
    for (name, split) in &manifest.splits {
        let bytes = split.shards.iter().map(|shard| shard.bytes).sum::<u64>();
        let (name, rows) = (hub_name(name), split.num_samples);
        let _ =
            write!(card, "  - name: {name}\n    num_bytes: {bytes}\n    num_examples: {rows}\n");
    }
    let bytes = manifest.num_bytes();
    let _ = write!(card, "  download_size: {bytes}\n  dataset_size: {bytes}\n---\n\n");
}

/// Split names of `datasets` are words.
fn hub_name(split: &str) -> String {
    let word = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    split.chars().map(word).collect()
}

fn licences(line: &mut impl FnMut(String), report: &BuildReport) {
    line("| source | licence | commercial use | redistribution |\n|---|---|---|---|".to_owned());
    for source in &report.sources {
        let terms = &source.terms;
        line(format!(
            "| {} | {} | {} | {} |",
            cell(&source.name),
            cell(terms.license.as_deref().unwrap_or("not stated")),
            terms.commercial,
            terms.redistribution
        ));
    }
    line(String::new());
    let named = |wanted: fn(&SourceReport) -> bool| {
        let names = report.sources.iter().filter(|source| wanted(source));
        names.map(|source| cell(&source.name)).collect::<Vec<_>>().join(", ")
    };
    let closed = named(|source| source.terms.redistribution != Permission::Yes);
    if !closed.is_empty() {
        line(format!("Not known to permit redistribution: {closed}.\n"));
    }
    for source in &report.left_out {
        let license = source.license.as_deref().unwrap_or("licence not stated");
        line(format!(
            "- Left out: {} ({}): {}.\n",
            cell(&source.name),
            cell(license),
            source.reason
        ));
    }
    line("To cite, and where each source comes from:\n".to_owned());
    for source in &report.sources {
        let terms = &source.terms;
        let known = [&terms.citation, &terms.home_page];
        let known: Vec<String> = known.into_iter().flatten().map(|text| cell(text)).collect();
        let known = if known.is_empty() { "nothing known".to_owned() } else { known.join(". ") };
        line(format!("- {}: {known}", cell(&source.name)));
    }
    line(String::new());
}

fn counts(line: &mut impl FnMut(String), report: &BuildReport) {
    line("## Sources and counts\n".to_owned());
    line(
        "| source | rows by split | rows | refused | found | published |\n\
         |---|---|---:|---:|---:|---:|"
            .to_owned(),
    );
    for source in &report.sources {
        let rows: Vec<String> =
            source.rows.iter().map(|(split, rows)| format!("{} {rows}", cell(split))).collect();
        let expected = source.expected.map_or("not known".to_owned(), |count| count.to_string());
        line(format!(
            "| {} | {} | {} | {} | {} | {expected} |",
            cell(&source.name),
            rows.join(", "),
            source.rows.values().sum::<u64>(),
            source.refused.values().sum::<u64>(),
            source.found
        ));
    }
    line(String::new());
    parts(line, report);
    let mut reasons = std::collections::BTreeMap::new();
    for (reason, count) in report.sources.iter().flat_map(|source| &source.refused) {
        *reasons.entry(reason.as_str()).or_insert(0) += count;
    }
    if reasons.is_empty() {
        line("No pair was refused.\n".to_owned());
    } else {
        line("Refused pairs, each with its files and reason in `quarantine.jsonl`:\n".to_owned());
        for (reason, count) in reasons {
            line(format!("- {count}: {}", cell(&reason.replace('_', " "))));
        }
        line(String::new());
    }
    let found = &report.duplicates;
    line(format!(
        "{} rows share their image file with another row. Pairs of alike images: {} in different \
         splits ({} rows of `train`), {} of different sources in one split, {} within a source.\n",
        found.identical,
        found.across_splits,
        found.leaked,
        found.across_sources,
        found.within_sources
    ));
}

/// Found and announced pairs of the parts of published collections.
fn parts(line: &mut impl FnMut(String), report: &BuildReport) {
    let mut known = 0;
    for source in &report.sources {
        for part in source.parts.iter().filter(|part| !part.name.is_empty()) {
            let splits = if part.splits.is_empty() { "not there" } else { &part.splits.join(", ") };
            let expected = part.expected.map_or("not known".to_owned(), |count| count.to_string());
            line(format!(
                "- {}, {} ({}): {} found, {expected} published",
                cell(&source.name),
                cell(&part.name),
                cell(splits),
                part.found
            ));
            known += 1;
        }
    }
    if known > 0 {
        line(String::new());
    }
}

fn columns(line: &mut impl FnMut(String)) {
    line("## Columns\n".to_owned());
    line(
        "`image` is the file as it was found; `mask` an 8-bit grey PNG of the same size, 0..255, \
         foreground above 128. `box_xyxy` is the tight box of the foreground, inclusive pixel \
         indices; `foreground_pixels` its area; the digests are SHA-256 of the two files; \
         `perceptual_hash` a 64-bit difference hash.\n\n\
         ```python\n\
         import datasets\n\
         data = datasets.load_dataset(\"path/of/this/folder\")\n\
         ```\n"
            .to_owned(),
    );
}

fn how_built(line: &mut impl FnMut(String), config: &BuildConfig, report: &BuildReport) {
    line("## How it was built\n".to_owned());
    line(
        "Every pair was decoded and checked: image and mask of the same size, masks normalised to \
         0..255 and not empty. The same raw files and configuration give the same bytes.\n"
            .to_owned(),
    );
    line(format!("- fingerprint of files and configuration: `{}`", report.fingerprint));
    line(format!("- rows of a row group: at most {}", config.rows_per_group));
    line(format!(
        "- images for training that other splits have: {}",
        match config.drop_leaks {
            true => "left out",
            false => "reported, not left out",
        }
    ));
    line(format!(
        "- sources not known to permit commercial use: {}",
        match config.commercial_only {
            true => "left out",
            false => "used",
        }
    ));
    for source in &config.source {
        let rule = serde_json::to_string(&source.split).expect("a split rule serialises");
        line(format!(
            "- source {}: layout `{}`, split {}",
            cell(&source.name),
            source.layout.name(),
            cell(&rule)
        ));
    }
}

/// Text from a configuration inside Markdown: one line that neither ends a table cell nor opens a
/// tag.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '|' | '*' | '`' | '[' | ']' | '\\' => {
                safe.push('\\');
                safe.push(letter);
            }
            '<' => safe.push_str("&lt;"),
            '\n' | '\r' => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_card() {
        assert_eq!(hub_name("DIS-VD"), "DIS_VD");
        assert_eq!(cell("a|b\n<script>"), "a\\|b &lt;script>");
    }

    #[test]
    fn the_features_are_those_of_the_schema() {
        let names: Vec<&str> =
            FEATURES.lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();
        let schema = dataset::schema::arrow_schema();
        let fields: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, fields);
    }
}
