//! Speed of the training step, measured on drawn samples: no data set and no weights are needed.

mod report;
mod shares;

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d::device::{self, DeviceMemory};
use dataset::augment::{JitterParams, LargeScaleJitter};
use dataset::prompt::{Prompt, PromptRecipe};
use dataset::raster::{Mask255, RgbRaster};
use dataset::rng::{Draw, sample_rng};
use pipeline::Batch;
use tch::{Kind, Tensor};

pub use self::report::{AllReduce, BenchReport, PartSeconds};
pub use self::shares::PartShare;
use self::shares::Shares;
use crate::config::TrainConfig;
use crate::data_parallel::{STEP_SUMS, bucket};
use crate::model::{EncoderConfig, Precision, multiplies_bf16, published_flop};
use crate::part_clock::{PartClock, StepTimes};
use crate::run::load_frozen_sam;
use crate::step::{StepContext, train_step};
use crate::train::{Ahead, TrainError, TrainOptions, check_prompts, join_ranks, step_context};

/// Rows and columns of the drawn pictures, before they are scaled to the encoder's input.
const PICTURE_HW: (usize, usize) = (800, 1200);
/// All-reduces that are measured alone.
const ALL_REDUCES: usize = 20;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Samples a step and rank.
    pub batch: usize,
    /// Steps measured.
    pub steps: usize,
    /// Steps before them that do not count.
    pub warm_up: usize,
}

/// Measures real training steps: the same drawn samples in each, prompts of the kinds that the
/// configuration names in turn. A checkpoint that does not exist is replaced by random weights.
///
/// # Errors
/// See [`TrainError`].
pub fn bench(
    config: &TrainConfig,
    train: &TrainOptions,
    options: BenchOptions,
) -> Result<BenchReport, TrainError> {
    let mut config = config.clone();
    config.model.checkpoint.take_if(|path| !path.exists());
    let encoder = config.model.encoder.resolve()?;
    check_prompts(&config.prompt.kinds, &encoder)?;
    let world_size = train.rank_env.as_ref().map_or(1, |env| env.world_size);
    config.train.global_batch = options.batch * world_size;
    let (world, data_parallel) = join_ranks(&config, train, &|| false)?;
    let (model, _) = load_frozen_sam(&config, train.device)?;
    let context = step_context(&config, train.device, model, data_parallel);
    let mut context = StepContext { synchronize_parts: true, ..context };

    let measured = measure(&config, &encoder, options, world.rank, &mut context)?;
    let all_reduce = match world.world_size {
        1 => None,
        _ => Some(all_reduce_alone(&context)?),
    };
    let mut seconds = measured.seconds();
    let memory = device::device_memory(train.device)?;
    if config.train.encode_ahead.is_on(train.device) {
        let pictures = drawn_pictures(options.batch);
        let batch = drawn_batch(&config, &encoder, &pictures, world.rank);
        seconds.ahead = Some(measure_ahead(&config, batch, options, &mut context)?);
    }
    let precision = config.train.encoder_precision();
    let shares = Shares::measure(
        precision,
        &encoder,
        &measured.prompts,
        options.batch,
        &seconds,
        train.device,
    );
    let loss = |loss: Option<&f64>| loss.copied().unwrap_or(f64::NAN);
    Ok(BenchReport {
        device: format!("{:?}", train.device),
        threads: tch::get_num_threads(),
        precision: match precision {
            Precision::Float32 => "float32",
            Precision::BFloat16 => "bfloat16",
        },
        native_bf16: multiplies_bf16(train.device),
        random_weights: config.model.checkpoint.is_none(),
        batch: options.batch,
        steps: options.steps,
        world_size: world.world_size,
        images_per_second: config.train.global_batch as f64 / seconds.ahead.unwrap_or(seconds.step),
        seconds,
        published_gflop_per_image: published_flop(&encoder) / 1e9,
        encoder: shares.encoder,
        decoder: shares.decoder,
        backward: shares.backward,
        all_reduce,
        losses: [loss(measured.losses.first()), loss(measured.losses.last())],
        peak_resident_mib: measured.peak_resident_mib,
        peak_device_mib: mib(memory, |memory| memory.peak_allocated),
        peak_device_reserved_mib: mib(memory, |memory| memory.peak_reserved),
    })
}

fn mib(memory: Option<DeviceMemory>, bytes: fn(DeviceMemory) -> u64) -> Option<u64> {
    memory.map(|memory| bytes(memory) >> 20)
}

/// Median seconds of a step as training makes it, with the next batch encoded meanwhile.
fn measure_ahead(
    config: &TrainConfig,
    batch: Batch,
    options: BenchOptions,
    context: &mut StepContext,
) -> Result<f64, TrainError> {
    context.synchronize_parts = false;
    let ahead = context.ahead.insert(Ahead::start(context.frozen.clone())?);
    let batch = Arc::new(batch);
    ahead.submit(&batch);
    let mut steps = Vec::new();
    for step in 0..options.warm_up + options.steps {
        let start = Instant::now();
        if let Some(ahead) = &context.ahead {
            ahead.submit(&batch);
        }
        train_step(context, &batch, config.train.lr, false)?;
        if step >= options.warm_up {
            steps.push(start.elapsed());
        }
    }
    context.ahead = None;
    Ok(median(steps.into_iter()))
}

/// What was measured, step by step.
struct Measured {
    data: Vec<Duration>,
    steps: Vec<(Duration, StepTimes)>,
    /// Those of the warm-up included.
    losses: Vec<f64>,
    /// Of a batch; all have the same.
    prompts: Vec<Prompt>,
    peak_resident_mib: u64,
}

impl Measured {
    fn seconds(&self) -> PartSeconds {
        let part =
            |of: fn(&StepTimes) -> Duration| median(self.steps.iter().map(|(_, times)| of(times)));
        PartSeconds {
            step: median(self.steps.iter().map(|(whole, _)| *whole)),
            data: median(self.data.iter().copied()),
            encoder: part(|times| times.encode),
            decoder: part(|times| times.decode),
            loss_backward: part(|times| times.loss_backward),
            all_reduce: part(|times| times.all_reduce),
            optimizer: part(|times| times.optimizer),
            ahead: None,
        }
    }
}

fn measure(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    options: BenchOptions,
    rank: usize,
    context: &mut StepContext,
) -> Result<Measured, TrainError> {
    let (mut data, mut steps, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    let mut prompts = Vec::new();
    // Training decodes pictures where this draws them; neither belongs to what `data` is the time of.
    let pictures = drawn_pictures(options.batch);
    for step in 0..options.warm_up + options.steps {
        let start = Instant::now();
        let batch = drawn_batch(config, encoder, &pictures, rank);
        let made = start.elapsed();
        let start = Instant::now();
        let report = train_step(context, &batch, config.train.lr, false)?;
        losses.push(report.loss_mask + report.loss_dice);
        if step >= options.warm_up {
            data.push(made);
            steps.push((start.elapsed(), report.times));
        }
        prompts = batch.prompts;
    }
    Ok(Measured { data, steps, losses, prompts, peak_resident_mib: peak_resident_mib() })
}

/// Every rank begins when all are there, so that nobody's time is that of waiting.
fn all_reduce_alone(context: &StepContext) -> Result<AllReduce, TrainError> {
    let parameters = &context.hq_parameters;
    let mut gradients: Vec<Tensor> =
        parameters.iter().map(|(_, parameter)| parameter.detach().zeros_like()).collect();
    let sums = Tensor::zeros([STEP_SUMS as i64], (Kind::Double, context.device));
    let bytes = bucket(&gradients, &sums).numel() * size_of::<f32>();
    let mut durations = Vec::new();
    for _ in 0..ALL_REDUCES {
        context.data_parallel.barrier()?;
        let mut clock = PartClock::start(context.device, true);
        let _ = context.data_parallel.all_reduce(&mut gradients, &sums)?;
        durations.push(clock.lap());
    }
    Ok(AllReduce { bytes, seconds: median(durations.into_iter()) })
}

fn median(durations: impl Iterator<Item = Duration>) -> f64 {
    let mut seconds: Vec<f64> = durations.map(|duration| duration.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

type Pictures = Vec<(RgbRaster, Mask255)>;

/// Ellipses on noise.
fn drawn_pictures(count: usize) -> Pictures {
    (0..count).map(drawn_pair).collect()
}

/// Pictures scaled to the encoder's input as training samples are, with their prompts.
fn drawn_batch(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    pictures: &Pictures,
    rank: usize,
) -> Batch {
    let side = encoder.img_size() as usize;
    let jitter = LargeScaleJitter { output_size: side, scale_range: [1.0, 1.0] };
    let params = JitterParams { random_scale: 1.0, crop_offset_yx: [0, 0] };
    let (mut images, mut masks) = (Vec::new(), Vec::new());
    let (mut prompts, mut sample_ids) = (Vec::new(), Vec::new());
    for (index, (image, mask)) in pictures.iter().enumerate() {
        let (image, mask) = jitter.apply(&params, image, mask);
        let sample_id = format!("drawn/{rank}/{index}");
        let kinds = &config.prompt.kinds;
        let recipe =
            PromptRecipe { kinds: vec![kinds[index % kinds.len()]], ..config.prompt.recipe() };
        let mut rng = sample_rng(config.train.seed, 0, &sample_id, Draw::Prompt);
        prompts.extend(recipe.draw_all(&mut rng, &mask));
        images.extend(image.pixels);
        masks.extend(mask.pixels);
        sample_ids.push(sample_id);
    }
    Batch {
        epoch: 0,
        step: 0,
        height: side,
        width: side,
        images: images.into(),
        masks: masks.into(),
        prompts,
        sample_ids,
    }
}

/// A picture of noise with an ellipse, and the ellipse; `index` decides its size.
fn drawn_pair(index: usize) -> (RgbRaster, Mask255) {
    let (height, width) = PICTURE_HW;
    let radius = 120.0 + 40.0 * (index % 5) as f64;
    let inside = |y: usize, x: usize| {
        let (y, x) = (y as f64 - 400.0, (x as f64 - 600.0) / 1.5);
        y * y + x * x < radius * radius
    };
    let cells = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let mask: Vec<u8> = cells.map(|(y, x)| if inside(y, x) { 255 } else { 0 }).collect();
    let noise = (0..height * width * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 / 2);
    let pixels = noise.zip(mask.iter().flat_map(|&value| [value; 3]));
    let pixels = pixels.map(|(noise, value)| noise + value / 2).collect();
    (RgbRaster { height, width, pixels }, Mask255 { height, width, pixels: mask })
}

/// Most memory that this process held so far, as Linux counts it; 0 elsewhere.
fn peak_resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tch::Device;

    use super::*;
    use crate::config::EncodeAhead;

    const SMALL: &str = r#"
        output = "unused"
        [model]
        checkpoint = "no/such/file.pth"
        [model.encoder]
        kind = "vit"
        img_size = 64
        embed_dim = 16
        depth = 2
        num_heads = 2
        window_size = 3
        global_attn_indexes = [1]
        [data]
        path = "no/such/data"
        [prompt]
        kinds = ["box", "points"]
    "#;

    #[test]
    fn steps_on_drawn_samples_train_and_every_part_is_timed() {
        for bf16 in [false, true] {
            let mut config: TrainConfig = toml::from_str(SMALL).unwrap();
            config.train.bf16 = bf16;
            // Once with and once without a thread that encodes ahead.
            config.train.encode_ahead = if bf16 { EncodeAhead::On } else { EncodeAhead::Auto };
            let stop = Arc::new(AtomicBool::new(false));
            let train = TrainOptions { resume: false, device: Device::Cpu, rank_env: None, stop };
            let options = BenchOptions { batch: 3, steps: 4, warm_up: 0 };
            let report = bench(&config, &train, options).unwrap();
            let seconds = &report.seconds;
            let parts = [
                seconds.data,
                seconds.encoder,
                seconds.decoder,
                seconds.loss_backward,
                seconds.all_reduce,
                seconds.optimizer,
            ];
            assert!(parts.iter().all(|&part| part > 0.0), "{report:?}");
            assert!(parts[1..].iter().sum::<f64>() < 2.0 * seconds.step, "{report:?}");
            assert!(report.losses[1] < report.losses[0], "{report:?}");
            assert_eq!(report.precision, if bf16 { "bfloat16" } else { "float32" });
            assert_eq!(seconds.ahead.is_some(), bf16);
            assert!(report.random_weights && report.peak_resident_mib > 0);
            for share in [report.encoder, report.decoder, report.backward] {
                assert!(share.gflop_per_image > 0.0 && share.share_of_floor > 0.0, "{report:?}");
            }
            assert_eq!((report.peak_device_mib, report.peak_device_reserved_mib), (None, None));
        }
    }
}
