//! What an HTTP request's headers mean for the call: its deadline, and the metadata that goes with it.

use std::time::Duration;

use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use base64::engine::general_purpose;
use base64::{DecodeError, Engine as _};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::deadline::Arrival;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Headers under this prefix are metadata under the rest of their name.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// Prefix of the metadata that standard headers become. A service knows a call of the gateway by it.
const STANDARD_PREFIX: &str = "grpcgateway-";

/// The headers that go along under [`STANDARD_PREFIX`].
const STANDARD: &[HeaderName] = &[
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::FROM,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PRAGMA,
    header::REFERER,
    header::USER_AGENT,
    header::VIA,
    header::WARNING,
];

/// The deadline of a call that came then, if `Grpc-Timeout` sets one.
pub(super) fn deadline(
    headers: &HeaderMap,
    arrival: Option<Arrival>,
) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    if text.is_empty() {
        return Ok(None);
    }
    let timeout = timeout(&text)
        .ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
    Ok(timeout.and_then(|timeout| Arrival::deadline(arrival, timeout)))
}

/// Reads a number with a unit; zero is none, and what is negative has passed already.
fn timeout(text: &str) -> Option<Option<Duration>> {
    let (unit_at, unit) = text.char_indices().next_back()?;
    let amount: i64 = text[..unit_at].parse().ok()?;
    let nanoseconds_each: u64 = match unit {
        'H' => 3_600_000_000_000,
        'M' => 60_000_000_000,
        'S' => 1_000_000_000,
        'm' => 1_000_000,
        'u' => 1_000,
        'n' => 1,
        _ => return None,
    };
    let amount_past_zero = u64::try_from(amount).unwrap_or(0);
    let timeout = Duration::from_nanos(amount_past_zero.saturating_mul(nanoseconds_each));
    Some((amount != 0).then_some(timeout))
}

/// Refuses binary metadata that is not base64.
pub(super) fn check_binary(headers: &HeaderMap) -> Result<(), Status> {
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with(METADATA_PREFIX)
            && name.ends_with("-bin")
            && let Err(at) = check_base64(value.as_bytes())
        {
            let name = go_name(name);
            return Err(Status::invalid_argument(format!(
                "invalid binary header {name}: illegal base64 data at input byte {at}"
            )));
        }
    }
    Ok(())
}

/// Says where text is not base64, padded or not.
fn check_base64(text: &[u8]) -> Result<(), usize> {
    let engine = if text.len().is_multiple_of(4) {
        general_purpose::STANDARD
    } else {
        general_purpose::STANDARD_NO_PAD
    };
    match engine.decode(text) {
        Ok(_) => Ok(()),
        Err(DecodeError::InvalidByte(at, _)) => Err(at),
        Err(_) => Err(text.len()),
    }
}

/// A header's name as Go writes it: each of its words with a capital letter.
fn go_name(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        format!("{}{rest}", first.to_ascii_uppercase())
    });
    words.collect::<Vec<_>>().join("-")
}

/// A gRPC request with the metadata that the headers give it.
pub(super) fn with_metadata<T>(headers: &HeaderMap, message: T) -> tonic::Request<T> {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX) {
            append(&mut metadata, name, value);
        }
        if name == header::AUTHORIZATION {
            append(&mut metadata, name.as_str(), value);
        }
        if STANDARD.contains(name) {
            append(&mut metadata, &format!("{STANDARD_PREFIX}{name}"), value);
        }
    }
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(metadata);
    request
}

fn append(metadata: &mut HeaderMap, name: &str, value: &HeaderValue) {
    // A prefix alone is a header's name, and its rest none.
    if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
        metadata.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("0S", None),
            ("-1S", Some(Duration::ZERO)),
        ] {
            assert_eq!(timeout(text), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "x1S", "1.5S", "1é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }

    #[test]
    fn timeouts_that_cannot_be_read_are_refused() {
        let headers = HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static("soon"))]);
        let status = deadline(&headers, None).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::InvalidArgument, "invalid grpc-timeout: soon")
        );
    }

    #[test]
    fn binary_metadata_is_base64() {
        for (text, expected) in [("YQ==", Ok(())), ("YQ", Ok(())), ("", Ok(())), ("!!", Err(0))] {
            assert_eq!(check_base64(text.as_bytes()), expected, "{text}");
        }
        let name = HeaderName::from_static("grpc-metadata-foo-bin");
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("!!"))]);
        assert_eq!(
            check_binary(&headers).unwrap_err().message(),
            "invalid binary header Grpc-Metadata-Foo-Bin: illegal base64 data at input byte 0"
        );
    }

    #[test]
    fn metadata() {
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("grpc-metadata-hasleader"), HeaderValue::from_static("true")),
            (HeaderName::from_static("grpc-metadata-"), HeaderValue::from_static("nothing")),
            (header::AUTHORIZATION, HeaderValue::from_static("token")),
            (header::ACCEPT, HeaderValue::from_static("*/*")),
            (HeaderName::from_static("x-own"), HeaderValue::from_static("stays here")),
        ]);
        let request = with_metadata(&headers, ());
        let found =
            |name: &str| request.metadata().get(name).map(|value| value.as_bytes().to_vec());
        assert_eq!(found("hasleader").as_deref(), Some(b"true".as_slice()));
        assert_eq!(found("authorization").as_deref(), Some(b"token".as_slice()));
        assert_eq!(found("grpcgateway-authorization").as_deref(), Some(b"token".as_slice()));
        assert_eq!(found("grpcgateway-accept").as_deref(), Some(b"*/*".as_slice()));
        assert_eq!(request.metadata().len(), 4);
    }
}
