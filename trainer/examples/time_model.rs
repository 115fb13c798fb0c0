//! Seconds an image of the encoder and the decoder on this machine's CPU.
//!
//! `cargo run --release -p trainer --example time_model -- weights.pth [encoder] [images] [device]`

use std::path::Path;
use std::time::Instant;

use tch::{Device, Kind, Tensor};
use trainer::loss::{LossConfig, LossPoints, point_sampled_loss};
use trainer::model::{DecodeOutput, EncoderConfig, HqInit, ImageFeatures, PromptBatch, SamHq};

/// Repetitions; the fastest is reported, after one that does not count.
const REPETITIONS: usize = 5;

fn fastest(images: i64, mut work: impl FnMut()) -> f64 {
    work();
    let seconds = (0..REPETITIONS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min) / images as f64
}

fn training_step(model: &SamHq, features: &ImageFeatures, prompts: &PromptBatch, images: i64) {
    let device = model.device();
    let side = 4 * model.logits_size();
    let target = Tensor::zeros([images, 1, side, side], (Kind::Float, device));
    let config = LossConfig::default();
    let draw = |count: i64| Tensor::rand([images, count, 2], (Kind::Float, device));
    let points =
        LossPoints { candidates: draw(config.num_candidates()), random: draw(config.num_random()) };
    let prompts = model.embed_prompts(prompts);
    let logits = model.decode(features, &prompts, DecodeOutput::Hq).hq_logits;
    let logits = logits.expect("the HQ mask is always decoded");
    let loss = point_sampled_loss(&logits, &target, &points, &config);
    let parameters: Vec<Tensor> =
        model.hq_parameters().into_iter().map(|(_, parameter)| parameter).collect();
    let _ = Tensor::run_backward(&[loss.total()], &parameters, false, false);
}

#[expect(clippy::print_stdout, reason = "an example prints its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.get(1).map_or("lite_medsam", String::as_str);
    let images: i64 = arguments.get(2).map_or(Ok(1), |count| count.parse())?;
    let device = match arguments.get(3).map(String::as_str) {
        Some("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    };
    let config = EncoderConfig::named(name).ok_or("unknown encoder")?;
    let model = match arguments.first().map(String::as_str) {
        None | Some("random") => SamHq::random(&config, 1, device),
        Some(path) => {
            let state = trainer::weights::load(Path::new(path))?.state;
            SamHq::from_state(&config, state, HqInit::Fresh { seed: 1 }, device)?
        }
    };
    let side = config.img_size();
    let pixels = Tensor::randint(256, [images, side, side, 3], (Kind::Uint8, device));
    let input = model.preprocess(&pixels);
    let features = model.encode(&input);
    let corner = side as f32;
    let box_xyxy = Tensor::from_slice(&[0.2 * corner, 0.2 * corner, 0.8 * corner, 0.7 * corner]);
    let prompts = PromptBatch::Boxes(box_xyxy.repeat([images, 1]).to_device(device));
    let wait = || {
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
    };
    let encode = fastest(images, || {
        let _ = model.encode(&input);
        wait();
    });
    let decode = fastest(images, || {
        tch::no_grad(|| {
            let embeddings = model.embed_prompts(&prompts);
            let _ = model.decode(&features, &embeddings, DecodeOutput::Hq);
        });
        wait();
    });
    let step = fastest(images, || {
        training_step(&model, &features, &prompts, images);
        wait();
    });
    println!("{name}, {images} image(s), {} threads, {device:?}", tch::get_num_threads());
    println!("encode                    {encode:.4} s/image");
    println!("decode HQ                 {decode:.4} s/image");
    println!("decode HQ, loss, backward {step:.4} s/image");
    Ok(())
}
