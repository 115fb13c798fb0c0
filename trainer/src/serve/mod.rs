//! A local web page to prompt pictures and to look at a run.
//!
//! ```text
//! browser -> guard (host, origin) -> routes -> worker (one thread owns the model; bounded queue)
//!                                          \-> run_view (curves and pictures of a run, read only)
//! ```
//!
//! The page is part of the program and needs nothing from elsewhere. It is meant for the machine
//! it runs on: requests whose `Host` is a name that was not allowed are refused, so that no page of
//! another site can reach it through a name that it points here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

mod answer;
mod guard;
mod routes;
mod run_view;
mod worker;

use crate::model::SamHq;
use worker::Worker;

/// What the page may be used for, and how far.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Names by which the page may be opened besides `localhost` and addresses.
    pub allowed_hosts: Vec<String>,
    /// Folder of the run to show.
    pub run: Option<PathBuf>,
    /// Most bytes of an uploaded picture.
    pub max_upload_bytes: usize,
    /// Most pixels of an uploaded picture.
    pub max_pixels: u64,
}

/// Why the page is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not of this machine.
    #[error("cannot listen on {address}: {source}; choose another with --port or --bind")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The run is no folder.
    #[error("{}: no such folder of a run", .0.display())]
    Run(PathBuf),
    /// The server stopped.
    #[error("the server stopped: {0}")]
    Stopped(#[from] io::Error),
}

/// What every request may use.
struct Shared {
    worker: Worker,
    options: ServeOptions,
    origin: String,
}

/// Serves the page until `stop` receives or is dropped. `ready` is told the address.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    model: SamHq,
    origin: String,
    options: ServeOptions,
    stop: oneshot::Receiver<()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if let Some(run) = options.run.as_ref().filter(|run| !run.is_dir()) {
        return Err(ServeError::Run(run.clone()));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let address = options.address;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        ready(listener.local_addr()?);
        let worker = Worker::start(model, options.max_pixels)?;
        let router = router(Arc::new(Shared { worker, options, origin }));
        let stopped = async {
            // A dropped sender means the same.
            let _ = stop.await;
        };
        Ok(axum::serve(listener, router).with_graceful_shutdown(stopped).await?)
    })
}

fn router(shared: Arc<Shared>) -> Router {
    let max_upload = shared.options.max_upload_bytes;
    Router::new()
        .route("/", get(routes::page))
        .route("/page.css", get(routes::style))
        .route("/page.js", get(routes::script))
        .route("/curves.js", get(routes::curves))
        .route("/api/about", get(routes::about))
        .route("/api/images", post(routes::open_image).layer(DefaultBodyLimit::max(max_upload)))
        .route(
            "/api/images/{id}/masks",
            post(routes::masks).layer(DefaultBodyLimit::max(routes::MAX_PROMPT_BYTES)),
        )
        .route("/api/run", get(routes::run))
        .route("/run/{*path}", get(routes::run_picture))
        .fallback(routes::not_found)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::guard))
        .with_state(shared)
}
