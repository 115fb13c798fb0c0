//! HTTP as the downloads need it: a range of one version of a file, through any redirects.
//!
//! reqwest, which the object stores use too, and not hf-hub: most sources are not on the Hugging
//! Face hub, and hf-hub 1.0 neither takes up a partial file again nor writes to a path of our
//! choice (it keeps its own cache, and brings the Xet client with it). Not object_store's HTTP
//! store either: it hides redirects, and with them what the hub says about a file.
//!
//! Redirects are followed here, so that the token goes to the hub alone and never from `https` to
//! `http`, and so that the size and hash that the hub announces on the way are seen.

use std::env;
use std::error::Error;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, IF_RANGE, LOCATION, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use url::Url;

use super::FetchError;
use super::catalogue::is_sha256;

/// As many as browsers follow is not needed; the hub and its storage take two or three.
const MAX_REDIRECTS: usize = 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why one attempt failed.
pub(super) enum Failure {
    /// Another attempt may succeed, after the pause that the server asks for.
    Retry { reason: String, pause: Option<Duration> },
    /// No attempt at this address will.
    Fatal(FetchError),
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self::Fatal(error)
    }
}

impl Failure {
    pub(super) fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), pause: None }
    }

    /// A connection that could not be made or broke. Addresses are left out: those of a content
    /// delivery network carry signatures.
    pub(super) fn connection(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason = format!("{reason}: {error}");
            cause = error.source();
        }
        Self::retry(reason)
    }
}

/// What the hub says about a file before it sends the client to the storage.
#[derive(Clone, Debug, Default)]
pub(super) struct Announced {
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
}

/// The Hugging Face hub or a mirror of it.
pub(super) struct Hub {
    endpoint: Url,
    token: Option<String>,
}

impl Hub {
    /// `$HF_ENDPOINT` (default <https://huggingface.co>) and `$HF_TOKEN`.
    pub(super) fn from_env() -> Result<Self, FetchError> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let address = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = Url::parse(&address).map_err(|error| FetchError::Address {
            address: format!("$HF_ENDPOINT {address}"),
            message: error.to_string(),
        })?;
        Ok(Self { endpoint, token: set("HF_TOKEN").map(|token| token.trim().to_owned()) })
    }

    /// The URL of an address of the catalogue.
    fn url(&self, address: &str) -> Result<Url, FetchError> {
        let wrong = |message: String| FetchError::Address { address: address.to_owned(), message };
        let Some(place) = address.strip_prefix("hf://") else {
            let url = Url::parse(address).map_err(|error| wrong(error.to_string()))?;
            return match url.scheme() {
                "http" | "https" => Ok(url),
                other => Err(wrong(format!("`{other}` is neither http, https nor hf"))),
            };
        };
        let mut parts = place.splitn(3, '/');
        let (Some(owner), Some(repository), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong("hf://OWNER/REPOSITORY/PATH is needed".into()));
        };
        let base = self.endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{owner}/{repository}/resolve/main/{path}"))
            .map_err(|error| wrong(error.to_string()))
    }

    /// The token, for the hub itself.
    fn token_for(&self, url: &Url) -> Option<&str> {
        self.token.as_deref().filter(|_| url.origin() == self.endpoint.origin())
    }
}

/// Asks servers for files. Proxies come from the usual environment variables.
pub(super) struct Client {
    http: reqwest::Client,
    hub: Hub,
}

impl Client {
    /// `stall` is the longest time without a byte before a connection counts as broken.
    pub(super) fn new(hub: Hub, stall: Duration) -> Result<Self, FetchError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("hqseg/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(stall)
            .build()
            .map_err(|error| FetchError::Client { message: error.to_string() })?;
        Ok(Self { http, hub })
    }

    /// The answer to a request for the bytes from `offset` on, of the version that `validator`
    /// names, and what the hub said on the way.
    pub(super) async fn get(
        &self,
        address: &str,
        offset: u64,
        validator: Option<&str>,
    ) -> Result<(Response, Announced), Failure> {
        let mut url = self.hub.url(address)?;
        let mut announced = Announced::default();
        for _ in 0..=MAX_REDIRECTS {
            // The bytes of the file itself are counted and hashed, not those of a compressed copy.
            let mut request = self.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.hub.token_for(&url) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
                if let Some(validator) = validator {
                    request = request.header(IF_RANGE, validator);
                }
            }
            let response = request.send().await.map_err(Failure::connection)?;
            announced.note(response.headers());
            match next_url(address, &url, &response)? {
                Some(next) => url = next,
                None => return Ok((response, announced)),
            }
        }
        let message = format!("more than {MAX_REDIRECTS} redirects");
        Err(FetchError::Address { address: address.to_owned(), message }.into())
    }

    /// Whether a token is there to be sent.
    pub(super) fn has_token(&self) -> bool {
        self.hub.token.is_some()
    }
}

/// Where an answer sends the client, if it does.
fn next_url(address: &str, from: &Url, response: &Response) -> Result<Option<Url>, Failure> {
    let moved = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !moved {
        return Ok(None);
    }
    let wrong = |message: &str| FetchError::Address {
        address: address.to_owned(),
        message: message.into(),
    };
    let next = response
        .headers()
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| wrong("the server redirects to no usable address"))?;
    if !matches!((from.scheme(), next.scheme()), (_, "https") | ("http", "http")) {
        return Err(wrong("the server redirects from https to an unprotected address").into());
    }
    Ok(Some(next))
}

impl Announced {
    /// Keeps what the first answer that knows says: the hub comes before its storage.
    fn note(&mut self, headers: &HeaderMap) {
        let text = |name: &'static str| {
            headers.get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok())
        };
        // For files in large-file storage the entity tag is the SHA-256; for others a git hash.
        let sha256 = text("x-linked-etag")
            .map(|tag| tag.trim_start_matches("W/").trim_matches('"'))
            .filter(|tag| is_sha256(tag));
        self.sha256 = self.sha256.take().or_else(|| sha256.map(str::to_owned));
        self.bytes = self.bytes.or_else(|| text("x-linked-size")?.parse().ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_addresses_go_to_the_endpoint_and_the_token_nowhere_else() {
        let hub = Hub {
            endpoint: Url::parse("https://mirror.example/hf/").unwrap(),
            token: Some("secret".into()),
        };
        let url = hub.url("hf://team/repository/data/a b.zip").unwrap();
        let expected = "https://mirror.example/hf/team/repository/resolve/main/data/a%20b.zip";
        assert_eq!(url.as_str(), expected);
        assert_eq!(hub.token_for(&url), Some("secret"));
        for other in [
            "https://cdn.mirror.example/x",
            "http://mirror.example/x",
            "https://mirror.example:444/x",
            "https://example/x",
        ] {
            assert_eq!(hub.token_for(&hub.url(other).unwrap()), None, "{other}");
        }
        for wrong in ["hf://team/repository", "ftp://a/b", "file:///etc/passwd", "no address"] {
            assert!(hub.url(wrong).is_err(), "{wrong}");
        }
    }
}
