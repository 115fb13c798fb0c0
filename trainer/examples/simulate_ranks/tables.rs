//! The tables of docs/scaling.md, computed from what the document assumes.

use std::fmt::Write;

use trainer::data_parallel::bucket_bytes;
use trainer::model::{EncoderConfig, computed_flop};

/// Operations a second that the encoder reaches on one GPU: 40 % of an H100's dense bfloat16 peak.
const FLOP_PER_SECOND: f64 = 0.4 * 989e12;
/// Seconds of decoder, loss and backward for each image, and of a step however small it is.
const DECODER_SECONDS: f64 = 5e-3;
const STEP_SECONDS: f64 = 15e-3;
/// GPUs of a machine.
const GPUS: usize = 8;
/// Seconds that one message between machines takes, of NCCL and of Gloo over TCP.
const NCCL_HOP: f64 = 10e-6;
const TCP_HOP: f64 = 30e-6;
/// Processor seconds of a sample, stored bytes, and requests: see the document.
const SAMPLE_CPU_SECONDS: f64 = 15e-3;
const SAMPLE_BYTES: f64 = 300e3;
const SAMPLE_REQUESTS: f64 = 3.0;
/// Samples and shards of HQSeg-44K.
const SAMPLES: f64 = 44_320.0;
const SHARD_BYTES: f64 = 268_435_456.0;
const FOOTER_BYTES: f64 = 262_144.0;
/// Epochs of the published recipe.
const EPOCHS: f64 = 12.0;
const PUBLISHED_BATCH: usize = 32;
const PER_RANK: usize = 4;
const WORLDS: [usize; 5] = [8, 32, 64, 256, 1024];
const ENCODERS: [(&str, &str, f64); 3] =
    [("vit_b", "ViT-B", 0.375), ("vit_l", "ViT-L", 1.249), ("vit_h", "ViT-H", 2.564)];

/// Seconds of a rank's step on so many images, without the other ranks.
fn compute_seconds(encoder: &EncoderConfig, images: usize) -> f64 {
    let encoder_seconds = computed_flop(encoder) / FLOP_PER_SECOND;
    images as f64 * (encoder_seconds + DECODER_SECONDS) + STEP_SECONDS
}

/// Bytes that each rank sends, and receives, in a ring all-reduce of one bucket.
fn ring_bytes(encoder: &EncoderConfig, ranks: usize) -> f64 {
    let bucket = bucket_bytes(encoder.num_trained_values() as usize) as f64;
    2.0 * (ranks as f64 - 1.0) / ranks as f64 * bucket
}

/// Seconds of the all-reduce: its bytes over the link, and the way up and down a tree of ranks.
fn all_reduce_seconds(encoder: &EncoderConfig, ranks: usize, link: f64) -> f64 {
    ring_bytes(encoder, ranks) / link + 2.0 * (ranks as f64).log2() * NCCL_HOP
}

/// Seconds in which the ranks compare what they are about to do: a ring of small messages.
fn agreement_seconds(ranks: usize) -> f64 {
    (ranks as f64 - 1.0) * TCP_HOP
}

fn named(name: &str) -> EncoderConfig {
    EncoderConfig::named(name).expect("a published encoder")
}

/// All tables, with a line that names each.
pub(crate) fn all() -> String {
    [published(), step(), loader(), start()].join("\n")
}

/// The published recipe on more ranks.
fn published() -> String {
    let mut text = row(&["32 samples a step", "8 ranks", "16 ranks", "32 ranks", "33 and more"]);
    rule(&mut text, 5);
    for (name, shown, _) in ENCODERS {
        let mut cells = vec![format!("{shown}, ms a step; minutes of 12 epochs")];
        for ranks in [8, 16, 32] {
            let seconds = compute_seconds(&named(name), PUBLISHED_BATCH / ranks)
                + all_reduce_seconds(&named(name), ranks, 50e9)
                + agreement_seconds(ranks);
            let steps = EPOCHS * (SAMPLES / PUBLISHED_BATCH as f64).floor();
            cells.push(format!("{:.0}; {:.0}", 1e3 * seconds, seconds * steps / 60.0));
        }
        cells.push("refused".to_owned());
        text += &row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// One step with four images a rank.
fn step() -> String {
    let mut head = vec!["4 images a rank".to_owned()];
    head.extend(WORLDS.map(|ranks| format!("{ranks} ranks")));
    let mut text = cells(&head);
    rule(&mut text, head.len());
    for (name, shown, _) in ENCODERS {
        let encoder = named(name);
        let compute = compute_seconds(&encoder, PER_RANK);
        let mut line = |what: &str, of: &dyn Fn(usize) -> String| {
            let mut line = vec![format!("{shown}: {what}")];
            line.extend(WORLDS.map(of));
            text += &cells(&line);
        };
        line("compute, ms", &|_| format!("{:.0}", 1e3 * compute));
        line("ring, MB a rank and step", &|ranks| {
            format!("{:.2}", ring_bytes(&encoder, ranks) / 1e6)
        });
        for (link, bytes) in [("400 Gbit/s", 50e9), ("100 Gbit/s", 12.5e9), ("10 Gbit/s", 1.25e9)] {
            line(&format!("all-reduce over {link}, ms"), &|ranks| {
                format!("{:.2}", 1e3 * all_reduce_seconds(&encoder, ranks, bytes))
            });
        }
        line("share of the step that computes, 400 Gbit/s", &|ranks| {
            let others = all_reduce_seconds(&encoder, ranks, 50e9) + agreement_seconds(ranks);
            format!("{:.0} %", 100.0 * compute / (compute + others))
        });
    }
    let mut line = vec!["agreement on the call, ms".to_owned()];
    line.extend(WORLDS.map(|ranks| format!("{:.1}", 1e3 * agreement_seconds(ranks))));
    text + &cells(&line)
}

/// What the streams have to deliver while every rank computes without waiting.
fn loader() -> String {
    let mut head = vec!["4 images a rank".to_owned()];
    head.extend(WORLDS.map(|ranks| format!("{ranks} ranks")));
    let mut text = cells(&head);
    rule(&mut text, head.len());
    for (name, shown, _) in ENCODERS {
        let each = PER_RANK as f64 / compute_seconds(&named(name), PER_RANK);
        for (what, factor) in [
            ("samples a second", 1.0),
            ("MB a second", SAMPLE_BYTES / 1e6),
            ("requests a second", SAMPLE_REQUESTS),
        ] {
            let mut line = vec![format!("{shown}: {what}")];
            line.extend(WORLDS.map(|ranks| format!("{:.0}", ranks as f64 * each * factor)));
            text += &cells(&line);
        }
        let cores = each * SAMPLE_CPU_SECONDS;
        let mut line = vec![format!("{shown}: decoding cores a GPU")];
        line.extend(WORLDS.map(|_| format!("{cores:.1}")));
        text += &cells(&line);
    }
    text
}

/// What is read once, before the first step, and what is written.
fn start() -> String {
    let mut head = vec!["at the start".to_owned()];
    head.extend(WORLDS.map(|ranks| format!("{ranks} ranks")));
    let mut text = cells(&head);
    rule(&mut text, head.len());
    let shards = (SAMPLES * SAMPLE_BYTES / SHARD_BYTES).ceil();
    let mut line = |what: String, of: &dyn Fn(f64) -> f64| {
        let mut line = vec![what];
        line.extend(WORLDS.map(|ranks| format!("{:.1}", of(ranks as f64))));
        text += &cells(&line);
    };
    line(format!("footers of {shards:.0} shards, GB"), &|r| r * shards * FOOTER_BYTES / 1e9);
    for (name, shown, gigabytes) in ENCODERS {
        let checkpoint = 12.0 * named(name).num_trained_values() as f64 / 1e9;
        line(format!("{shown}: weights, one read a machine, GB"), &|r| {
            (r / GPUS as f64).ceil() * gigabytes
        });
        line(format!("{shown}: a checkpoint of {:.1} MB, each rank, GB", 1e3 * checkpoint), &|r| {
            r * checkpoint
        });
    }
    text
}

fn cells(cells: &[String]) -> String {
    row(&cells.iter().map(String::as_str).collect::<Vec<_>>())
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn rule(text: &mut String, columns: usize) {
    let _ = writeln!(text, "|---|{}", "---:|".repeat(columns - 1));
}
