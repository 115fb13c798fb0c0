//! One thread owns the model; requests wait in a bounded queue.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use axum::body::Bytes;
use axum::http::StatusCode;
use base64::Engine as _;
use dataset::codec::{DecodeLimits, decode_image};
use dataset::raster::{MASK_THRESHOLD, Mask255};
use dataset::verify::RejectReason;
use image::ImageEncoder as _;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use serde::Serialize;
use tokio::sync::oneshot;

use super::answer::{Answer, Refusal};
use crate::model::SamHq;
use crate::panic_line::panic_line;
use crate::predict::{
    EncodedImage, ImagePrompt, MaskInput, MaskMode, PredictError, Prediction, Predictor,
    refusal_text,
};

/// Requests that may wait. An upload waits as a whole.
const QUEUE: usize = 8;
/// Pictures whose features are kept; about 16 MiB each at published sizes.
const KEPT_IMAGES: usize = 8;
/// Answers whose logits are kept to be refined; half a MiB each at published sizes.
const KEPT_ANSWERS: usize = 32;
/// Colours of SAM's and the HQ mask on the page; the outline is opaque.
const SAM_COLOR: [u8; 3] = [255, 140, 0];
const HQ_COLOR: [u8; 3] = [30, 144, 255];
const FILL_ALPHA: u8 = 110;

/// A picture that was opened.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct OpenedImage {
    id: u64,
    width: usize,
    height: usize,
}

/// Both masks of one prompt.
#[derive(Debug, Serialize)]
pub(super) struct BothMasks {
    /// Names these masks in a request to refine them.
    id: u64,
    sam: MaskPicture,
    hq: MaskPicture,
}

/// A mask as the page draws it.
#[derive(Debug, Serialize)]
struct MaskPicture {
    /// Data URL of an RGBA PNG of the picture's size.
    png: String,
    /// Predicted IoU of SAM's mask.
    score: f32,
    /// Foreground, in pixels.
    area: usize,
}

/// What the page asks for.
pub(super) struct MaskRequest {
    pub(super) image: u64,
    pub(super) prompt: ImagePrompt,
    /// An earlier answer on the same picture: each model's mask of it is a prompt to that model.
    pub(super) refine: Option<u64>,
    /// `Hq` or `Sum`.
    pub(super) mode: MaskMode,
    pub(super) multimask: bool,
}

enum Job {
    Open(Bytes, oneshot::Sender<Answer<OpenedImage>>),
    Masks(Box<MaskRequest>, oneshot::Sender<Answer<BothMasks>>),
}

/// The queue of the model's thread, which ends with it.
pub(super) struct Worker {
    jobs: SyncSender<Job>,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(model: SamHq, max_pixels: u64) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("model".into());
        thread.spawn(move || work(&model, max_pixels, &queue))?;
        Ok(Self { jobs })
    }

    /// Decodes and encodes a picture.
    pub(super) async fn open(&self, bytes: Bytes) -> Answer<OpenedImage> {
        self.ask(|reply| Job::Open(bytes, reply)).await
    }

    /// Predicts both masks of a prompt.
    pub(super) async fn masks(&self, request: MaskRequest) -> Answer<BothMasks> {
        self.ask(|reply| Job::Masks(Box::new(request), reply)).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Answer<T>>) -> Job) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the model has stopped");
        self.jobs.try_send(job(reply)).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{QUEUE} requests wait for the model already; try again"),
            ),
            TrySendError::Disconnected(_) => stopped(),
        })?;
        answer.await.map_err(|_| stopped())?
    }
}

fn work(model: &SamHq, max_pixels: u64, queue: &Receiver<Job>) {
    let mut session = Session {
        predictor: Predictor::new(model),
        max_pixels,
        images: VecDeque::new(),
        answers: VecDeque::new(),
        next_id: 1,
    };
    while let Ok(job) = queue.recv() {
        // A page that no longer waits does not need its answer.
        match job {
            Job::Open(_, reply) if reply.is_closed() => {}
            Job::Masks(_, reply) if reply.is_closed() => {}
            Job::Open(bytes, reply) => {
                let _ = reply.send(guarded(|| session.open(&bytes)));
            }
            Job::Masks(request, reply) => {
                let _ = reply.send(guarded(|| session.masks(&request)));
            }
        }
    }
}

/// Tensor operations panic with libtorch's message; the next request may do better.
fn guarded<T>(job: impl FnOnce() -> Answer<T>) -> Answer<T> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| {
        let line = panic_line(&*panic);
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal error: {line}")))
    })
}

struct Session<'a> {
    predictor: Predictor<'a>,
    max_pixels: u64,
    images: VecDeque<(u64, EncodedImage)>,
    answers: VecDeque<KeptAnswer>,
    /// Of the next picture or answer.
    next_id: u64,
}

/// What a later prompt may refine.
struct KeptAnswer {
    id: u64,
    image: u64,
    /// Low-resolution logits.
    sam: MaskInput,
    hq: MaskInput,
}

impl Session<'_> {
    fn open(&mut self, bytes: &[u8]) -> Answer<OpenedImage> {
        let limits = DecodeLimits { max_pixels: self.max_pixels, ..DecodeLimits::default() };
        let image = decode_image(bytes, &limits).map_err(|reason| {
            let problem = refusal_text(&reason);
            match reason {
                RejectReason::TooLarge { .. } => Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("{problem}, or start the page with a larger --max-megapixels"),
                ),
                _ => Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem),
            }
        })?;
        let encoded = self.predictor.encode(&image).map_err(|error| unusable(&error))?;
        let id = self.next_id;
        self.next_id += 1;
        self.images.push_back((id, encoded));
        if self.images.len() > KEPT_IMAGES {
            self.images.pop_front();
        }
        Ok(OpenedImage { id, width: image.width, height: image.height })
    }

    fn masks(&mut self, request: &MaskRequest) -> Answer<BothMasks> {
        let gone = |what| Refusal::new(StatusCode::NOT_FOUND, what);
        let kept = self.images.iter().find(|(id, _)| *id == request.image);
        let (_, image) =
            kept.ok_or_else(|| gone("this picture is no longer kept; open it again"))?;
        let is_refined = |answer: &&KeptAnswer| {
            Some(answer.id) == request.refine && answer.image == request.image
        };
        let refined = self.answers.iter().find(is_refined);
        if request.refine.is_some() && refined.is_none() {
            return Err(gone("the mask to refine is no longer kept; click again without it"));
        }
        let mut fitted = request.prompt.clone();
        // Drawn a little over the edge; one that is all outside is refused below.
        fitted.fit_box(image.original_hw);
        let predict = |mode, mask: Option<&MaskInput>| -> Answer<Prediction> {
            let prompt = ImagePrompt { mask: mask.cloned(), ..fitted.clone() };
            let found = self.predictor.predict(image, &[prompt], mode, request.multimask);
            Ok(found.map_err(|error| unusable(&error))?.swap_remove(0))
        };
        let sam = predict(MaskMode::Sam, refined.map(|answer| &answer.sam))?;
        let hq = predict(request.mode, refined.map(|answer| &answer.hq))?;
        let id = self.next_id;
        self.next_id += 1;
        self.answers.push_back(KeptAnswer {
            id,
            image: request.image,
            sam: sam.best_mask_input(),
            hq: hq.best_mask_input(),
        });
        if self.answers.len() > KEPT_ANSWERS {
            self.answers.pop_front();
        }
        Ok(BothMasks { id, sam: picture(sam, SAM_COLOR)?, hq: picture(hq, HQ_COLOR)? })
    }
}

fn unusable(error: &PredictError) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
}

fn picture(mut found: Prediction, color: [u8; 3]) -> Answer<MaskPicture> {
    let best = found.best();
    let mask = found.masks.swap_remove(best);
    let (score, area) = (found.scores[best], mask.foreground_pixels());
    let png = tinted_png(&mask, color).map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the mask is not written: {error}"))
    })?;
    let png = base64::engine::general_purpose::STANDARD.encode(png);
    Ok(MaskPicture { png: format!("data:image/png;base64,{png}"), score, area })
}

/// The mask in a colour, clear where there is none.
fn tinted_png(mask: &Mask255, [red, green, blue]: [u8; 3]) -> image::ImageResult<Vec<u8>> {
    let outline = mask.outline();
    let pixels: Vec<u8> = mask
        .pixels
        .iter()
        .zip(outline)
        .flat_map(|(&value, is_outline)| match (is_outline, value > MASK_THRESHOLD) {
            (true, _) => [red, green, blue, u8::MAX],
            (false, true) => [red, green, blue, FILL_ALPHA],
            (false, false) => [0; 4],
        })
        .collect();
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Up).write_image(
        &pixels,
        mask.width as u32,
        mask.height as u32,
        image::ExtendedColorType::Rgba8,
    )?;
    Ok(png)
}
