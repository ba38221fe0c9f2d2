//! Endpoint texts: `host:port`, `http://host:port`, `unix://path`, `unix:path`, and the TLS forms that are recognised to be refused.
//!
//! Upstream: client/v3/internal/endpoint/endpoint.go (3.5). An unknown scheme is kept as an address that no dial can reach, as there: the
//! call then waits until its deadline instead of failing early.

use std::path::PathBuf;

/// Whether an endpoint asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// No scheme was given: plain unless certificates are configured.
    None,
    /// `http` or `unix`.
    Plain,
    /// `https` or `unixs`.
    Tls,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port` as given; resolved at each dial.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

/// One endpoint, with the text it was given as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As the user wrote it: outputs repeat it literally.
    pub text: String,
    /// What the scheme says about TLS.
    pub scheme: Scheme,
    /// Where to connect.
    pub address: Address,
}

impl Endpoint {
    /// Reads an endpoint text. There is no wrong one: a nonsensical address fails when it is dialled.
    pub fn parse(text: &str) -> Self {
        let (scheme, address) = match text.split_once(':') {
            Some(("unix", path)) => (Scheme::Plain, unix(path)),
            Some(("unixs", path)) => (Scheme::Tls, unix(path)),
            Some(("http", rest)) if rest.starts_with("//") => (Scheme::Plain, tcp(rest)),
            Some(("https", rest)) if rest.starts_with("//") => (Scheme::Tls, tcp(rest)),
            Some(_) | None => (Scheme::None, Address::Tcp(text.to_owned())),
        };
        Self { text: text.to_owned(), scheme, address }
    }

    /// The address without its scheme, as logs and the HTTP/2 authority show it.
    pub fn target(&self) -> String {
        match &self.address {
            Address::Tcp(address) => match address.split_once("://") {
                Some((_, host)) => host.to_owned(),
                None => address.clone(),
            },
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// The `:authority` of requests: gRPC names Unix sockets `localhost`.
    pub(crate) fn authority(&self) -> http::uri::Authority {
        let fallback = || http::uri::Authority::from_static("localhost");
        match &self.address {
            Address::Tcp(address) => address.parse().unwrap_or_else(|_| fallback()),
            Address::Unix(_) => fallback(),
        }
    }
}

/// Both `unix:path` and `unix://path` are in use; three slashes are an absolute path after two.
fn unix(rest: &str) -> Address {
    Address::Unix(PathBuf::from(rest.strip_prefix("//").unwrap_or(rest)))
}

/// Only the host counts: a path after it is ignored.
fn tcp(rest: &str) -> Address {
    let host = rest.trim_start_matches("//");
    Address::Tcp(host.split('/').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, scheme: Scheme, target: &str) {
        let endpoint = Endpoint::parse(text);
        assert_eq!(endpoint.scheme, scheme, "{text}");
        assert_eq!(endpoint.target(), target, "{text}");
    }

    #[test]
    fn all_forms() {
        check("127.0.0.1:2379", Scheme::None, "127.0.0.1:2379");
        check("http://127.0.0.1:2379", Scheme::Plain, "127.0.0.1:2379");
        check("http://h:1/path", Scheme::Plain, "h:1");
        check("https://h:1", Scheme::Tls, "h:1");
        check("unix:///tmp/s", Scheme::Plain, "/tmp/s");
        check("unix://s", Scheme::Plain, "s");
        check("unix:s", Scheme::Plain, "s");
        check("unixs:s", Scheme::Tls, "s");
        check("ftp://h:1", Scheme::None, "h:1");
        check("[::1]:1", Scheme::None, "[::1]:1");
    }
}
