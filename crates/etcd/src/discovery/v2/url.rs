//! URLs of the service and of a proxy, and what is written of them in a request.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// An `http` or `https` URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebUrl {
    pub(super) is_secure: bool,
    /// A name or an address; IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Begins with a slash.
    path: String,
    /// Behind the question mark; may be empty.
    query: String,
    /// `host` or `host:port`, as it was written.
    authority: String,
    /// Name and password, as they were written.
    login: Option<String>,
}

impl WebUrl {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// What it lacks.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let shown = crate::log::without_passwords(text);
        let uri: http::Uri =
            text.parse().map_err(|error: http::uri::InvalidUri| format!("{shown:?}: {error}"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            other => {
                return Err(format!("unsupported protocol scheme {:?}", other.unwrap_or_default()));
            }
        };
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty())
        else {
            return Err(format!("{shown:?} has no host"));
        };
        let (login, place) = match authority.as_str().rsplit_once('@') {
            Some((login, place)) => (Some(login.to_owned()), place),
            None => (None, authority.as_str()),
        };
        let port = match place.rsplit_once(':') {
            Some((_, port)) if !port.is_empty() && !port.ends_with(']') => {
                port.parse().map_err(|_| format!("invalid port {port:?} in {shown:?}"))?
            }
            _ => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
        };
        Ok(Self {
            is_secure,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            authority: place.to_owned(),
            login,
        })
    }

    /// The same place, another path and more of a query.
    pub(super) fn with(&self, path: &str, query: &str) -> Self {
        let query = match self.query.is_empty() {
            true => query.to_owned(),
            false => format!("{}&{query}", self.query),
        };
        Self { path: path.to_owned(), query, ..self.clone() }
    }

    /// The path with parts below it; empty parts are left out.
    pub(super) fn path_below(&self, parts: &[&str]) -> String {
        let parts = self.path.split('/').chain(parts.iter().copied());
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        format!("/{}", parts.join("/"))
    }

    /// Path and query, as a request to the server itself has them.
    pub(super) fn target(&self) -> String {
        match self.query.is_empty() {
            true => self.path.clone(),
            false => format!("{}?{}", self.path, self.query),
        }
    }

    /// The `Host` header.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Host and port, for dialling and for a tunnel.
    pub(super) fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Scheme, host and port: what logs name. Never holds a password.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Name and password as a header has them.
    pub(super) fn basic(&self) -> Option<String> {
        let login = self.login.as_ref()?;
        let (name, password) = login.split_once(':').unwrap_or((login, ""));
        let login = [unescaped(name), b":".to_vec(), unescaped(password)].concat();
        Some(format!("Basic {}", STANDARD.encode(login)))
    }
}

impl fmt::Display for WebUrl {
    /// The whole, without name and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.target())
    }
}

/// Reads `%41` as `A`; what is no such escape stands for itself.
fn unescaped(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if let (b'%', [high, low, behind @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            bytes.push(high * 16 + low);
            rest = behind;
        } else {
            bytes.push(first);
        }
    }
    bytes
}

/// One field of a form, as a body has it.
pub(super) fn form(name: &str, value: &str) -> String {
    let mut text = format!("{name}=");
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            b' ' => text.push('+'),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url = WebUrl::parse("http://me:s%3Acret@[::1]:4001/v2/keys//t/?q=1").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.is_secure), ("::1", 4001, false));
        assert_eq!((url.address().as_str(), url.authority()), ("[::1]:4001", "[::1]:4001"));
        assert_eq!(url.origin(), "http://[::1]:4001");
        assert_eq!(url.path_below(&["_config", "size"]), "/v2/keys/t/_config/size");
        assert_eq!(url.with("/x", "a=b").target(), "/x?q=1&a=b");
        // `me:s:cret`
        assert_eq!(url.basic().as_deref(), Some("Basic bWU6czpjcmV0"));
        assert!(!url.to_string().contains("cret"));
        let url = WebUrl::parse("https://host").unwrap();
        assert_eq!((url.port, url.path_below(&[]), url.basic()), (443, "/".to_owned(), None));
        assert_eq!(WebUrl::parse("http://[::1]/t").unwrap().port, 80);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (text, want) in [
            ("foo", "unsupported protocol scheme \"\""),
            ("/foo", "unsupported protocol scheme \"\""),
            ("ftp://h/t", "unsupported protocol scheme \"ftp\""),
            ("http://h:99999/t", "invalid port"),
            ("http://", "empty"),
            ("", "empty"),
        ] {
            let why = WebUrl::parse(text).unwrap_err();
            assert!(why.contains(want), "{text:?}: {why}");
        }
        assert!(!WebUrl::parse("http://me:secret@ho st").unwrap_err().contains("secret"));
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(form("value", "a=http://h:1,ü +"), "value=a%3Dhttp%3A%2F%2Fh%3A1%2C%C3%BC+%2B");
    }
}
