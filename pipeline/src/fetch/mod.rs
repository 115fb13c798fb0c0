//! Brings raw collections and checkpoints: `hqseg fetch` and `hqsam fetch`.
//!
//! ```text
//! data.toml, weights.toml ─ catalogue ─> place (what is there already?)
//!                                          │ missing            │ packed
//!                                          v                    v
//!   client ─ range of one version ─> download ─> file ───> unpack ─> folder
//!                                    x.zip.partial, x.zip.partial.json   while it comes
//!                                    x.zip, x.zip.fetched.json           once it is whole
//! ```
//!
//! A download goes on where it stopped, after a broken connection and after the end of the process
//! alike, as long as the server still has the same version (`If-Range`). It gets its name only when
//! size and hash are as the catalogue, the Hugging Face hub and the record of the first download
//! say, as far as each knows them. The terms come first: nothing is downloaded before they are
//! accepted. What has no direct address is asked for by hand and then checked and unpacked alike.

mod arguments;
mod catalogue;
mod client;
mod content;
mod disk;
mod download;
mod error;
mod partial;
mod pauses;
mod place;
mod progress;
mod record;
mod unpack;

use std::io::{self, Write};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::StreamExt;
use indicatif::{DecimalBytes, MultiProgress};

pub use arguments::FetchArguments;
pub use catalogue::{Catalogue, RemoteFile, Source};
pub use error::{Authority, FetchError};

use client::{Client, Hub};
use download::{Context, download};
use pauses::RetryPolicy;
use place::{Place, Status};
use progress::Progress;

/// Brings the sources that the arguments name, from `shipped` or the catalogue they name instead.
/// Writes what a user should read to `out`; progress and warnings go to standard error.
///
/// # Errors
/// [`FetchError`]; [`FetchError::exit_code`] is the program's. Other files are finished before the
/// failure of one ends the run.
pub fn fetch(
    shipped: Catalogue,
    arguments: &FetchArguments,
    out: &mut dyn Write,
) -> Result<(), FetchError> {
    let catalogue = match &arguments.catalogue {
        Some(path) => Catalogue::load(path)?,
        None => shipped,
    };
    if arguments.list {
        return list(&catalogue, out).map_err(output);
    }
    let sources = catalogue.select(&arguments.sources)?;
    let mut places = Vec::new();
    for source in sources {
        for file in &source.file {
            let place = Place::new(source, file, arguments);
            let status = place.status(arguments.verify)?;
            places.push((place, status));
        }
    }
    show(&places, out).map_err(output)?;
    let missing = with_status(&places, Status::Missing);
    if !missing.is_empty() && !arguments.accept_license {
        return Err(FetchError::LicenseNotAccepted { names: source_names(&missing) });
    }
    let bars = MultiProgress::new();
    let outcome = download_all(&missing, arguments, &bars);
    // What did come is unpacked even where something else failed.
    for (place, _) in &places {
        if let Some(folder) = &place.folder
            && place.path.exists()
            && !unpack::is_filled(folder)
        {
            let progress = Progress::new(&bars, &format!("unpacking {}", place.name()));
            let files = unpack::unpack(&place.path, folder, &progress)?;
            progress.finish();
            writeln!(out, "{}: {files} files unpacked", folder.display()).map_err(output)?;
        }
    }
    outcome?;
    let by_hand = with_status(&places, Status::ByHand);
    if by_hand.is_empty() {
        return Ok(());
    }
    let files: Vec<String> = by_hand.iter().map(|place| place.path.display().to_string()).collect();
    Err(FetchError::ByHand { files: files.join(", ") })
}

fn output(error: io::Error) -> FetchError {
    FetchError::io("standard output".as_ref(), "cannot write")(error)
}

fn with_status<'a, 'b>(places: &'b [(Place<'a>, Status)], status: Status) -> Vec<&'b Place<'a>> {
    places.iter().filter(|(_, found)| *found == status).map(|(place, _)| place).collect()
}

fn source_names(places: &[&Place<'_>]) -> String {
    let mut names: Vec<&str> = places.iter().map(|place| place.source.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// Downloads all files, several at a time, and goes on with the others where one fails.
fn download_all(
    missing: &[&Place<'_>],
    arguments: &FetchArguments,
    bars: &MultiProgress,
) -> Result<(), FetchError> {
    if missing.is_empty() {
        return Ok(());
    }
    let context = Context {
        client: Client::new(Hub::from_env()?, Duration::from_millis(arguments.stall))?,
        retry: RetryPolicy {
            failures: arguments.retries,
            pause: Duration::from_millis(arguments.retry_pause),
        },
        outstanding: AtomicU64::new(0),
    };
    let parallel = usize::from(arguments.parallel);
    // Each download writes and hashes between two reads; a thread for each keeps them apart.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(parallel)
        .thread_name("fetch")
        .enable_all()
        .build()
        .map_err(|error| FetchError::Client { message: error.to_string() })?;
    let alone = missing.len() == 1;
    let downloads = missing.iter().map(|place| one(place, &context, bars, alone));
    let outcomes: Vec<Result<(), FetchError>> =
        runtime.block_on(futures::stream::iter(downloads).buffer_unordered(parallel).collect());
    let mut failures: Vec<FetchError> = outcomes.into_iter().filter_map(Result::err).collect();
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        failed => {
            let first = Box::new(failures.swap_remove(0));
            Err(FetchError::Several { failed, files: missing.len(), first })
        }
    }
}

async fn one(
    place: &Place<'_>,
    context: &Context,
    bars: &MultiProgress,
    alone: bool,
) -> Result<(), FetchError> {
    let wanted = place.wanted()?;
    let progress = Progress::new(bars, &place.name());
    let outcome = download(context, &wanted, &progress).await;
    progress.finish();
    match &outcome {
        Ok(record) => bars.suspend(|| {
            let size = DecimalBytes(record.bytes);
            tracing::info!("{}: {size}, sha256 {}", wanted.path.display(), record.sha256);
        }),
        // The only failure is the program's own last line.
        Err(error) if !alone => bars.suspend(|| tracing::error!("{error}")),
        Err(_) => {}
    }
    outcome.map(drop)
}

fn list(catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<()> {
    for source in catalogue.sources() {
        writeln!(out, "{:<22} {}", source.name, source.title)?;
        for file in &source.file {
            let by_hand = if file.by_hand.is_some() { ", by hand" } else { "" };
            let path = source.folder.join(&file.path);
            writeln!(out, "{:<22} {}: {}{by_hand}", "", path.display(), file.size_text())?;
        }
        writeln!(out, "{:<22} licence: {}; {}", "", source.license, source.terms)?;
    }
    for (group, members) in catalogue.groups() {
        writeln!(out, "{group:<22} all of {}", members.join(", "))?;
    }
    Ok(())
}

/// What will happen to each file, and the terms of what will be downloaded.
fn show(places: &[(Place<'_>, Status)], out: &mut dyn Write) -> io::Result<()> {
    let mut previous = "";
    for (place, status) in places {
        let Place { source, file, path, folder } = place;
        if *status == Status::There {
            let shown = folder.as_ref().filter(|_| !path.exists()).unwrap_or(path);
            writeln!(out, "{}: is there", shown.display())?;
            continue;
        }
        if previous != source.name {
            writeln!(out, "{} ({})", source.name, source.title)?;
            writeln!(out, "  licence: {}", source.license)?;
            writeln!(out, "  terms: {}", source.terms)?;
            previous = &source.name;
        }
        let (size, shown) = (file.size_text(), path.display());
        match (status, &file.by_hand) {
            (Status::ByHand, Some(place)) => {
                writeln!(out, "  {shown}: ask for it at {place} and put it there")?;
            }
            (Status::Packed, _) => writeln!(out, "  {shown}: is there, to be unpacked")?,
            _ => writeln!(out, "  {shown}: {size}, from {}", file.urls.join(" or "))?,
        }
    }
    Ok(())
}
