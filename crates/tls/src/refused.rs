//! A connection that was turned away, with what is known of the other side.

use std::net::IpAddr;
use std::{fmt, io};

/// Why a listener turned a connection away: what is inside of the error of [`Acceptor::accept`](crate::Acceptor::accept).
#[derive(Debug, Default)]
pub struct Refused {
    /// The host that was asked for; empty where none was.
    pub server_name: String,
    /// The addresses of a certificate that was believed, and belongs elsewhere.
    pub addresses: Vec<IpAddr>,
    /// Its names.
    pub names: Vec<String>,
    pub(crate) why: String,
}

impl Refused {
    /// The same error, with what is known.
    pub(crate) fn because(self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), Self { why: error.to_string(), ..self })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refused {}
