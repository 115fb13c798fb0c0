//! Who may ask: pages of this server, opened by an address of this machine or an allowed name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::answer::{Answer, Refusal};

/// Only what comes from here is loaded; pictures of masks are data URLs, opened ones are blobs.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// Checks host and origin of every request, and sets the headers of every answer.
pub(super) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let options = &shared.options;
    let allowed = check(request.headers(), &options.allowed_hosts)
        .and_then(|()| check_length(request.headers(), options.max_upload_bytes));
    let mut response = match allowed {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pictures of a run bring their own.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    response
}

fn check(headers: &HeaderMap, allowed: &[String]) -> Answer<()> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !is_allowed(host_name(host), allowed) {
        let problem = format!(
            "the host `{host}` is not allowed: open the page by its address, or start it with \
             --allow-host {}",
            host_name(host)
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, problem));
    }
    let is_foreign = |origin: &str| origin.split_once("://").is_none_or(|(_, from)| from != host);
    if headers.contains_key(header::ORIGIN) && text(header::ORIGIN).is_none_or(is_foreign) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "requests of other sites are refused"));
    }
    Ok(())
}

/// Says no before anything of a body that is too long has been sent.
fn check_length(headers: &HeaderMap, limit: usize) -> Answer<()> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > limit as u64 => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{length} bytes are more than the {limit} that are taken"),
        )),
        _ => Ok(()),
    }
}

/// Without the port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// A name that someone else controls can be made to point here; an address cannot.
fn is_allowed(host: &str, allowed: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_allowed_names_are_let_in() {
        let allowed = ["workstation".to_owned()];
        for host in ["localhost:80", "127.0.0.1:7860", "[::1]:7860", "[::1]", "Workstation:1"] {
            assert!(is_allowed(host_name(host), &allowed), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example"] {
            assert!(!is_allowed(host_name(host), &allowed), "{host}");
        }
    }

    #[test]
    fn other_origins_are_refused() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:1"));
            origin.map(|origin| headers.insert(header::ORIGIN, HeaderValue::from_static(origin)));
            headers
        };
        for origin in [None, Some("http://localhost:1")] {
            assert!(check(&headers(origin), &[]).is_ok());
        }
        for origin in ["http://localhost:2", "null", "https://evil.example"] {
            assert!(check(&headers(Some(origin)), &[]).is_err(), "{origin}");
        }
    }
}
