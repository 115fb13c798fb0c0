//! One file: attempt after attempt, each going on where the last one stopped, until it is whole.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};

use super::FetchError;
use super::client::{Announced, Client, Failure};
use super::content::{HEAD_BYTES, other_content};
use super::disk::Reservation;
use super::error::Authority;
use super::partial::{Partial, Version};
use super::pauses::{Pauses, RetryPolicy};
use super::progress::Progress;
use super::record::Record;

/// What all downloads of a run share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) retry: RetryPolicy,
    /// Bytes that the running downloads have still to write.
    pub(super) outstanding: AtomicU64,
}

/// A file to bring.
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    pub(super) addresses: Vec<String>,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
    /// What an earlier download saw.
    pub(super) record: Option<Record>,
}

/// Downloads a file from the first address that has it.
pub(super) async fn download(
    context: &Context,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Record, FetchError> {
    let path = wanted.path.clone();
    // Reads and hashes what an earlier run left, gigabytes perhaps.
    let mut partial = tokio::task::spawn_blocking(move || Partial::open(&path))
        .await
        .expect("opening does not panic and is not cancelled")?;
    let mut first = None;
    for address in &wanted.addresses {
        match from_address(context, wanted, address, &mut partial, progress).await {
            Ok(record) => return Ok(record),
            Err(error) => {
                let local = error.is_local();
                if wanted.addresses.len() > 1 {
                    progress.suspend(|| tracing::warn!("{error}"));
                }
                first.get_or_insert(error);
                if local {
                    break;
                }
            }
        }
    }
    partial.remove_if_empty()?;
    Err(first.expect("the catalogue refuses files without an address"))
}

async fn from_address(
    context: &Context,
    wanted: &Wanted,
    address: &str,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<Record, FetchError> {
    let mut pauses = Pauses::new(context.retry);
    let (mut pieced_together, mut started_over) = (false, false);
    loop {
        pieced_together |= partial.len() > 0;
        match attempt(context, wanted, address, partial, progress).await {
            Ok(announced) => match finish(wanted, address, partial, &announced) {
                // Perhaps only a seam is wrong: once more, from the beginning.
                Err(FetchError::WrongHash { .. }) if pieced_together && !started_over => {
                    progress.suspend(|| {
                        tracing::warn!(file = %wanted.path.display(), "wrong hash, starting over");
                    });
                    partial.clear()?;
                    started_over = true;
                    pauses = Pauses::new(context.retry);
                }
                result => return result,
            },
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Retry { reason, pause }) => {
                let pause = pauses.next(address, &reason, pause, partial.len())?;
                let millis = pause.as_millis();
                progress.suspend(|| tracing::warn!("{address}: {reason}; again in {millis} ms"));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// One request and the bytes of its answer. Success means that the file is whole.
async fn attempt(
    context: &Context,
    wanted: &Wanted,
    address: &str,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<Announced, Failure> {
    let validator = partial.version().and_then(|version| version.validator.clone());
    if validator.is_none() && wanted.sha256.is_none() {
        // Nothing could tell whether the bytes to come belong to those that are here.
        partial.clear()?;
    }
    let offset = partial.len();
    let (mut response, announced) =
        context.client.get(address, offset, validator.as_deref()).await?;
    agree_on_hash(wanted, &announced)?;
    if !begin(context, wanted, address, partial, &response)? {
        return Ok(announced);
    }
    let total = partial.version().and_then(|version| version.total);
    let expected = expected_bytes(wanted, &announced);
    if let (Some(total), Some((expected, authority))) = (total, expected)
        && total != expected
    {
        let path = PathBuf::from(address);
        return Err(FetchError::WrongSize { path, found: total, expected, authority }.into());
    }
    let expected = total.or(expected.map(|(expected, _)| expected));
    progress.start(partial.len(), expected);
    let missing = expected.map_or(0, |expected| expected.saturating_sub(partial.len()));
    let mut reservation = Reservation::new(&context.outstanding, &wanted.path, missing)?;
    while let Some(chunk) = response.chunk().await.map_err(Failure::connection)? {
        let looked_at = partial.head().len() == HEAD_BYTES;
        partial.write(&chunk)?;
        reservation.written(chunk.len() as u64);
        progress.inc(chunk.len() as u64);
        if !looked_at && partial.head().len() == HEAD_BYTES {
            look(wanted, address, partial)?;
        }
        if expected.is_some_and(|expected| partial.len() > expected) {
            partial.clear()?;
            return Err(Failure::retry("more bytes came than were announced"));
        }
    }
    match total {
        Some(total) if partial.len() < total => {
            Err(Failure::retry(format!("the connection ended after {} bytes", partial.len())))
        }
        _ => Ok(announced),
    }
}

/// Prepares the partial file for the body of an answer. False if there is none because every
/// byte has come already.
fn begin(
    context: &Context,
    wanted: &Wanted,
    address: &str,
    partial: &mut Partial,
    response: &Response,
) -> Result<bool, Failure> {
    let (headers, offset) = (response.headers(), partial.len());
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    match response.status() {
        StatusCode::OK => {
            let total = number(headers, &CONTENT_LENGTH);
            partial.begin(Version { validator: validator(headers), total })?;
            Ok(true)
        }
        StatusCode::PARTIAL_CONTENT => {
            let known = partial.version().and_then(|version| version.total);
            match range.and_then(parse_range) {
                Some((start, total)) if start == offset && (known.is_none() || total == known) => {
                    Ok(true)
                }
                _ => {
                    partial.clear()?;
                    Err(Failure::retry("the server sent another part than was asked for"))
                }
            }
        }
        StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
            let total = range.and_then(|range| range.strip_prefix("bytes */")?.parse().ok());
            if total == Some(offset) {
                return Ok(false);
            }
            partial.clear()?;
            Err(Failure::retry("the file on the server is shorter than what has come"))
        }
        status => Err(refusal(context, wanted, address, status, headers)),
    }
}

/// What a status other than success means for the user.
fn refusal(
    context: &Context,
    wanted: &Wanted,
    address: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Failure {
    if status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
    {
        let pause = number(headers, &RETRY_AFTER).map(Duration::from_secs);
        return Failure::Retry { reason: format!("the server answers {}", status.as_u16()), pause };
    }
    let hint = match (status, address.starts_with("hf://"), context.client.has_token()) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, true, false) => {
            ": if the repository is gated, ask for access on its page and set HF_TOKEN".into()
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, true, true) => {
            ": the account of HF_TOKEN has no access; ask for it on the repository's page".into()
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, false, _) => {
            format!(": ask there for the file and put it at {}", wanted.path.display())
        }
        (StatusCode::NOT_FOUND | StatusCode::GONE, _, _) => format!(
            ": the file has moved; find it and put it at {}, or name its address with --catalogue",
            wanted.path.display()
        ),
        _ => String::new(),
    };
    let address = address.to_owned();
    FetchError::Refused { address, status: status.as_u16(), hint }.into()
}

/// The checks on a whole file, then its final name and its record.
fn finish(
    wanted: &Wanted,
    address: &str,
    partial: &mut Partial,
    announced: &Announced,
) -> Result<Record, FetchError> {
    look(wanted, address, partial)?;
    let (path, bytes, sha256) = (&wanted.path, partial.len(), partial.sha256());
    if let Some((expected, authority)) = expected_bytes(wanted, announced)
        && expected != bytes
    {
        partial.clear()?;
        return Err(FetchError::WrongSize {
            path: path.clone(),
            found: bytes,
            expected,
            authority,
        });
    }
    for (expected, authority) in expected_hashes(wanted, announced) {
        if *expected != sha256 {
            partial.clear()?;
            return Err(FetchError::WrongHash {
                path: path.clone(),
                found: sha256,
                expected: expected.clone(),
                authority,
            });
        }
    }
    partial.publish(path)?;
    let record = Record { address: address.to_owned(), bytes, sha256 };
    record.write(path)?;
    Ok(record)
}

/// Refuses a web page and the like; nothing of it is kept.
fn look(wanted: &Wanted, address: &str, partial: &mut Partial) -> Result<(), FetchError> {
    let Some(found) = other_content(&wanted.path, partial.head()) else { return Ok(()) };
    partial.clear()?;
    Err(FetchError::OtherContent { address: address.to_owned(), path: wanted.path.clone(), found })
}

fn expected_bytes(wanted: &Wanted, announced: &Announced) -> Option<(u64, Authority)> {
    let catalogue = wanted.bytes.map(|bytes| (bytes, Authority::Catalogue));
    catalogue.or(announced.bytes.map(|bytes| (bytes, Authority::Hub)))
}

/// Every hash that the file must have, the most trusted first. A hash in the catalogue outranks
/// the record, which then only tells what an older catalogue led to.
fn expected_hashes<'a>(
    wanted: &'a Wanted,
    announced: &'a Announced,
) -> impl Iterator<Item = (&'a String, Authority)> {
    let recorded = wanted.record.as_ref().map(|record| &record.sha256);
    let recorded = recorded.filter(|_| wanted.sha256.is_none());
    let catalogue = wanted.sha256.as_ref().map(|hash| (hash, Authority::Catalogue));
    let hub = announced.sha256.as_ref().map(|hash| (hash, Authority::Hub));
    [catalogue, recorded.map(|hash| (hash, Authority::Record)), hub].into_iter().flatten()
}

/// Refuses before the download what the hub already says is another file.
fn agree_on_hash(wanted: &Wanted, announced: &Announced) -> Result<(), FetchError> {
    let Some(found) = &announced.sha256 else { return Ok(()) };
    match expected_hashes(wanted, announced).find(|(expected, _)| *expected != found) {
        None => Ok(()),
        Some((expected, authority)) => Err(FetchError::WrongHash {
            path: wanted.path.clone(),
            found: found.clone(),
            expected: expected.clone(),
            authority,
        }),
    }
}

/// What `If-Range` may be given: a weak entity tag does not promise the same bytes.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = text(&ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(&LAST_MODIFIED)).map(str::to_owned)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// First byte and whole length of `bytes 5-9/10`; the length may be `*`.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let start = span.split_once('-')?.0.parse().ok()?;
    Some((start, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(parse_range("bytes */10"), None);
        assert_eq!(parse_range("items 5-9/10"), None);
    }
}
