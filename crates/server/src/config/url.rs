//! URLs of members and clients, in the few forms that etcd takes.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// A listening or advertised URL. Its text is kept as given, since member ids are hashed from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    /// `None` is a number that no port has: others may be told of it, and nobody listens there.
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

/// Why a URL is refused; the texts are etcd's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No `host:port`.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// Something behind `host:port`.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// A name where a listener needs an address.
    #[error("expected IP in URL for binding ({0})")]
    NotAnAddress(String),
    /// A listener's port that there is not.
    #[error("listen tcp: address {0}: invalid port")]
    Port(String),
}

impl Url {
    /// Reads one URL.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("unix", rest)) => (Scheme::Unix, rest),
            Some(("unixs", rest)) => (Scheme::Unixs, rest),
            _ => return Err(UrlError::Scheme(text.to_owned())),
        };
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Self { text: text.to_owned(), scheme, host: rest.to_owned(), port: None });
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let address = authority.rsplit('@').next().unwrap_or_default();
        let Some((host, port)) = address.rsplit_once(':') else {
            return Err(UrlError::HostPort(text.to_owned()));
        };
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UrlError::HostPort(text.to_owned()));
        }
        let port = port.parse::<u16>().ok();
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => return Err(UrlError::HostPort(text.to_owned())),
            None => host,
        };
        if rest.len() > authority.len() {
            return Err(UrlError::Path(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), scheme, host: host.to_owned(), port })
    }

    /// Reads a list with commas; equal ones count once.
    ///
    /// # Errors
    /// The first one that cannot be read.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UrlError> {
        let mut urls: Vec<Self> = Vec::new();
        for item in text.split(',') {
            let url = Self::parse(item)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        Ok(urls)
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 where there is none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or_default()
    }

    /// Whether a listener can bind it: an address, or `localhost`.
    ///
    /// # Errors
    /// It holds another name, or a number that is no port.
    pub fn check_bindable(&self) -> Result<(), UrlError> {
        let is_http = matches!(self.scheme, Scheme::Http | Scheme::Https);
        if is_http && self.host != "localhost" && self.host.parse::<IpAddr>().is_err() {
            return Err(UrlError::NotAnAddress(self.text.clone()));
        }
        if is_http && self.port.is_none() {
            let port = self.text.rsplit(':').next().unwrap_or_default();
            return Err(UrlError::Port(port.to_owned()));
        }
        Ok(())
    }

    /// The same with an address in the place of a name of the network; `localhost` stays. Asks DNS, and blocks.
    ///
    /// # Errors
    /// The name is not known.
    pub(crate) fn resolve(&self) -> io::Result<Self> {
        use std::net::ToSocketAddrs as _;
        let is_name = self.socket_path().is_none()
            && self.host != "localhost"
            && self.host.parse::<IpAddr>().is_err();
        if !is_name {
            return Ok(self.clone());
        }
        let address = (self.host.as_str(), self.port())
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
        let text =
            self.text.replacen(&format!("{}:{}", self.host, self.port()), &address.to_string(), 1);
        Ok(Self { text, host: address.ip().to_string(), ..self.clone() })
    }

    /// Whether both name the same place, whatever the spelling of its address and the login.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        let address = |url: &Self| url.host.parse::<IpAddr>().ok();
        let same_host =
            self.host == other.host || address(self).is_some_and(|own| Some(own) == address(other));
        same_host && self.scheme == other.scheme && self.port == other.port
    }

    /// Its text for a log: `user:***` where a password is in it.
    #[must_use]
    pub fn without_password(&self) -> String {
        let Some((scheme, rest)) = self.text.split_once("://") else { return self.text.clone() };
        match rest.rsplit_once('@') {
            Some((login, place)) => {
                let user = login.split(':').next().unwrap_or_default();
                let hidden = if login.contains(':') { ":***" } else { "" };
                format!("{scheme}://{user}{hidden}@{place}")
            }
            None => self.text.clone(),
        }
    }

    /// Whether its connections are secured.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The file of a socket, relative to the working directory; `None` for an address of the network.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        match self.scheme {
            Scheme::Http | Scheme::Https => None,
            Scheme::Unix | Scheme::Unixs => Some(Path::new(&self.host)),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_etcd_are_read() {
        let url = Url::parse(" http://10.4.7.121:2380 ").unwrap();
        assert_eq!(
            (url.host(), url.port(), url.to_string().as_str()),
            ("10.4.7.121", 2380, "http://10.4.7.121:2380")
        );
        assert_eq!(Url::parse("http://[::1]:2379").unwrap().host(), "::1");
        assert_eq!(Url::parse_list("http://a:1,http://a:1,http://b:2").unwrap().len(), 2);
    }

    #[test]
    fn the_rest_is_refused_with_the_rule() {
        for (text, want) in [
            ("bad", "URL scheme must be http, https, unix, or unixs: bad"),
            ("http://foo", "URL address does not have the form \"host:port\": http://foo"),
            ("http://a:b", "URL address does not have the form \"host:port\": http://a:b"),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
        ] {
            assert_eq!(Url::parse(text).unwrap_err().to_string(), want);
        }
        let named = Url::parse("http://foo.com:1234").unwrap();
        assert_eq!(
            named.check_bindable().unwrap_err().to_string(),
            "expected IP in URL for binding (http://foo.com:1234)"
        );
        let high = Url::parse("http://127.0.0.1:99999").unwrap();
        assert_eq!(
            high.check_bindable().unwrap_err().to_string(),
            "listen tcp: address 99999: invalid port"
        );
        assert_eq!(Url::parse("https://localhost:1").unwrap().socket_path(), None);
        for (text, path) in [("unix://localhost:1", "localhost:1"), ("unixs:///run/x", "/run/x")] {
            assert_eq!(Url::parse(text).unwrap().socket_path(), Some(Path::new(path)), "{text}");
        }
    }
}
