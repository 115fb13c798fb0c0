//! What is answered under which path.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, Refusal};
use super::run_view::{self, RunSummary};
use super::worker::{BothMasks, MaskRequest, OpenedImage};
use crate::predict::{ImagePrompt, MaskMode};

/// Most bytes of a prompt: thousands of points.
pub(super) const MAX_PROMPT_BYTES: usize = 64 << 10;

type Asset = ([(HeaderName, &'static str); 1], &'static str);

fn asset(kind: &'static str, text: &'static str) -> Asset {
    ([(header::CONTENT_TYPE, kind)], text)
}

pub(super) async fn page() -> Asset {
    asset("text/html; charset=utf-8", include_str!("page.html"))
}

pub(super) async fn style() -> Asset {
    asset("text/css; charset=utf-8", include_str!("page.css"))
}

pub(super) async fn script() -> Asset {
    asset("text/javascript; charset=utf-8", include_str!("page.js"))
}

pub(super) async fn curves() -> Asset {
    asset("text/javascript; charset=utf-8", include_str!("curves.js"))
}

pub(super) async fn about(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "model": shared.origin,
        "has_run": shared.options.run.is_some(),
        "max_upload_bytes": shared.options.max_upload_bytes,
    }))
}

pub(super) async fn open_image(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Json<OpenedImage>> {
    expect_kind(&headers, &["image/jpeg", "image/png"])?;
    let bytes = whole(body, shared.options.max_upload_bytes)?;
    shared.worker.open(bytes).await.map(Json)
}

/// The prompt of one object in pixels of the picture.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PagePrompt {
    #[serde(rename = "box")]
    box_xyxy: Option<[f32; 4]>,
    /// x, y, and 1 for foreground or 0 for background.
    #[serde(default)]
    points: Vec<(f32, f32, u8)>,
    /// The earlier answer whose masks are prompts as well.
    #[serde(default)]
    refine: Option<u64>,
    #[serde(default)]
    sum: bool,
    #[serde(default)]
    multimask: bool,
}

pub(super) async fn masks(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Json<BothMasks>> {
    expect_kind(&headers, &["application/json"])?;
    let image = id
        .parse()
        .map_err(|_| Refusal::new(StatusCode::NOT_FOUND, format!("`{id}` is no picture")))?;
    let bytes = whole(body, MAX_PROMPT_BYTES)?;
    let page: PagePrompt = serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("no prompt: {error}")))?;
    if page.points.iter().any(|(.., label)| *label > 1) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the label of a point is 0 or 1"));
    }
    let prompt = ImagePrompt {
        box_xyxy: page.box_xyxy,
        points: page.points.iter().map(|&(x, y, _)| [x, y]).collect(),
        point_labels: page.points.iter().map(|&(.., label)| label.into()).collect(),
        mask: None,
    };
    let mode = if page.sum { MaskMode::Sum } else { MaskMode::Hq };
    let request =
        MaskRequest { image, prompt, refine: page.refine, mode, multimask: page.multimask };
    shared.worker.masks(request).await.map(Json)
}

pub(super) async fn run(State(shared): State<Arc<Shared>>) -> Answer<Json<RunSummary>> {
    let run = shown_run(&shared)?.to_owned();
    blocking(move || run_view::summary(&run)).await.map(Json)
}

pub(super) async fn run_picture(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Answer<Response> {
    let run = shown_run(&shared)?.to_owned();
    let (kind, bytes) = blocking(move || run_view::picture(&run, &name)).await?;
    // A vector picture is a document: it may not run or load anything.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy)];
    Ok((headers, bytes).into_response())
}

pub(super) async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing under {}", uri.path()))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let problem = format!("{method} is not allowed on {}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, problem)
}

fn shown_run(shared: &Shared) -> Answer<&std::path::Path> {
    shared.options.run.as_deref().ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "no run is shown; start with --run FOLDER")
    })
}

/// Files are read aside, so that a slow disk does not hold up other requests.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
    tokio::task::spawn_blocking(job).await.map_err(|_| failed())?
}

fn expect_kind(headers: &HeaderMap, kinds: &[&str]) -> Answer<()> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let found = found.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kinds.contains(&found) {
        return Ok(());
    }
    let problem = format!("`{found}` is not taken, only {}", kinds.join(" and "));
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem))
}

fn whole(body: Result<Bytes, BytesRejection>, limit: usize) -> Answer<Bytes> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("more than {limit} bytes are not taken"),
        ),
        status => Refusal::new(status, rejection.body_text()),
    })
}
