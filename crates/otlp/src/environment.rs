//! What variables of the environment say of the exporter, as far as etcd's library looks at them and its own options leave them room.
//!
//! Address and sampling are etcd's flags alone. What is not read here, and has an effect in etcd: compression, the times and sizes of
//! its queue, limits of spans.
//!
//! Upstream: `otlptracegrpc` (1.45: `internal/otlpconfig`, `internal/envconfig`), `sdk/resource/env.go`.

use std::fmt;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

/// For the collector's answer, where nothing else is said.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// No answer is waited for longer: the limit of etcd's library for one batch.
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(30);

/// Variables that would have a connection encrypted.
const OF_TLS: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
];

/// What the environment says.
#[derive(Clone)]
pub struct Environment {
    /// Sent with each batch. A collector's keys are here, so they are shown nowhere.
    pub(crate) headers: MetadataMap,
    /// How long an answer is waited for.
    pub(crate) answer_limit: Duration,
    /// Said of this process, unless its owner says otherwise.
    pub(crate) resource: Vec<(String, String)>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { headers: MetadataMap::new(), answer_limit: ANSWER_LIMIT, resource: Vec::new() }
    }
}

impl fmt::Debug for Environment {
    /// Leaves the headers out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("answer_limit", &self.answer_limit)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

/// A variable asks for an encrypted connection, which is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncryptionError {
    /// The variable.
    pub variable: &'static str,
}

impl fmt::Display for EncryptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is set, and connections to a collector of traces are not encrypted here",
            self.variable
        )
    }
}

impl std::error::Error for EncryptionError {}

impl Environment {
    /// Reads the variables; an empty one is as none. What cannot be read is left out, and logged without its value.
    ///
    /// # Errors
    /// One asks for an encrypted connection: what goes over it must not be sent in the clear.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, EncryptionError> {
        let get = |name: &str| {
            get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        if let Some(variable) = OF_TLS.into_iter().find(|name| get(name).is_some()) {
            return Err(EncryptionError { variable });
        }
        // The one for traces counts alone.
        let of_exporter = |name: &str| {
            get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
                .or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let timeout = of_exporter("TIMEOUT").and_then(|text| {
            let milliseconds = text.parse::<i64>().ok();
            if milliseconds.is_none() {
                left_out("OTEL_EXPORTER_OTLP_TIMEOUT");
            }
            milliseconds
        });
        let answer_limit = timeout.map_or(ANSWER_LIMIT, |milliseconds| {
            match u64::try_from(milliseconds) {
                Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds).min(ANSWER_LIMIT_MAX),
                // Without a limit of its own.
                Ok(0) | Err(_) => ANSWER_LIMIT_MAX,
            }
        });
        Ok(Self {
            headers: of_exporter("HEADERS").map_or_else(MetadataMap::new, |text| headers(&text)),
            answer_limit,
            resource: get("OTEL_RESOURCE_ATTRIBUTES").map_or_else(Vec::new, |text| resource(&text)),
        })
    }

    /// What is said of this process: its owner's words count before the environment's.
    pub(crate) fn resource_with(&self, own: Vec<(&'static str, String)>) -> Vec<(String, String)> {
        let is_own = |key: &str| own.iter().any(|(own, _)| *own == key);
        let mut resource: Vec<_> =
            self.resource.iter().filter(|(key, _)| !is_own(key)).cloned().collect();
        resource.extend(own.into_iter().map(|(key, value)| (key.to_owned(), value)));
        resource.sort();
        resource
    }
}

fn left_out(variable: &str) {
    tracing::warn!(variable, "a part of a variable for traces cannot be read, and is left out");
}

/// `name=value,...`, values with `%`-escapes. Of equal names the last counts.
fn headers(text: &str) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for pair in text.split(',') {
        let read = || {
            let (name, value) = pair.split_once('=')?;
            let name = MetadataKey::<Ascii>::from_bytes(name.trim().as_bytes()).ok()?;
            let value = unescape(value)?;
            Some((name, MetadataValue::<Ascii>::try_from(value.trim()).ok()?))
        };
        match read() {
            Some((name, value)) => drop(headers.insert(name, value)),
            None => left_out("OTEL_EXPORTER_OTLP_HEADERS"),
        }
    }
    headers
}

/// `key=value,...`, values with `%`-escapes, or as they are if these are none. Of equal keys the last counts.
fn resource(text: &str) -> Vec<(String, String)> {
    let mut resource: Vec<(String, String)> = Vec::new();
    for pair in text.split(',') {
        let Some((key, value)) = pair.split_once('=') else {
            left_out("OTEL_RESOURCE_ATTRIBUTES");
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            continue;
        }
        resource.retain(|(known, _)| known != key);
        resource.push((key.to_owned(), unescape(value).unwrap_or_else(|| value.to_owned())));
    }
    resource
}

/// Resolves `%41` and the like; `None` if one is malformed, or what comes out is no text.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        // Digits only: the parser would take a sign.
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, EncryptionError> {
        Environment::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn headers_are_names_and_escaped_values() {
        let found = read(&[(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "Api-Key = s%3Dcret%20 ,x=1,none,bad name=1,y=%zz,y=%+1,x=2",
        )])
        .unwrap();
        let mut pairs: Vec<_> = found
            .headers
            .as_ref()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        pairs.sort_unstable();
        assert_eq!(pairs, [("api-key", "s=cret"), ("x", "2")]);
        assert!(!format!("{found:?}").contains("cret"));
        let found = read(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2"),
        ]);
        assert!(found.unwrap().headers.keys().len() == 1);
    }

    #[test]
    fn times_are_milliseconds() {
        for (text, expected) in [
            ("250", Duration::from_millis(250)),
            ("60000", ANSWER_LIMIT_MAX),
            ("0", ANSWER_LIMIT_MAX),
            ("-1", ANSWER_LIMIT_MAX),
            ("5s", ANSWER_LIMIT),
            ("", ANSWER_LIMIT),
        ] {
            let found = read(&[("OTEL_EXPORTER_OTLP_TIMEOUT", text)]).unwrap();
            assert_eq!(found.answer_limit, expected, "{text}");
        }
    }

    #[test]
    fn the_owner_s_attributes_count_first() {
        let found = read(&[(
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=other, zone = a%2Fb ,rate=50%,none,zone=c%2Fd",
        )])
        .unwrap();
        let resource = found.resource_with(vec![("service.name", "etcd".to_owned())]);
        let expected = [("rate", "50%"), ("service.name", "etcd"), ("zone", "c/d")];
        assert_eq!(resource, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_would_be_encrypted_is_not_sent_in_the_clear() {
        for variable in OF_TLS {
            assert_eq!(read(&[(variable, "ca.pem")]).unwrap_err(), EncryptionError { variable });
            assert!(read(&[(variable, "")]).is_ok());
        }
    }
}
