//! Secure connections: whose certificates are shown, whose are believed, and when files are read.
//!
//! ```text
//!  Settings (files and rules) ──► Acceptor  ──► Stream        what a listener does with a connection
//!                            └──► Connector ──► Stream        what somebody who dials does
//! ```
//!
//! The cryptography is rustls'. What is here are etcd's rules around it:
//!
//! - Certificate, key and trusted authorities are read again when their files change, and the list of revoked certificates at
//!   each handshake, so that rotating them needs no restart (`fresh`, `pair`, `verify`). etcd reads the authorities once.
//! - Certificates that Go believes and the library does not are looked at again (`direct`).
//! - A listener that has trusted authorities, or is told so, accepts nobody without a certificate; there is no optional mode.
//! - A certificate's names can be restricted, and a member's checked against the address it comes from (`origin`).
//! - Certificates can be generated for those who want encryption without an authority (`generated`).
//! - A handshake has [`HANDSHAKE_LIMIT`]; until its first byte a connection costs nothing but its socket.
//!
//! What fails: making an [`Acceptor`] or a [`Connector`], when a file is missing or no PEM ([`Error`], which names the file); and a
//! handshake ([`std::io::Error`]), which concerns that connection alone.
//!
//! Upstream: `client/pkg/transport` (3.5.30).

mod acceptor;
mod ciphers;
mod connector;
mod direct;
mod fresh;
mod generated;
mod origin;
mod pair;
mod refused;
mod settings;
mod socket;
mod stream;
mod subject;
mod verify;
mod wording;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

pub use acceptor::Acceptor;
pub use ciphers::{Ciphers, Version, Versions};
pub use connector::Connector;
pub use generated::{Generated, generate};
pub use refused::Refused;
pub use settings::{Names, Pair, Settings};
pub use socket::Socket;
pub use stream::Stream;
pub use subject::common_name;

/// How long a handshake may take, from the first byte on or to it.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why a connection cannot be secured as asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("open {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected, or what is wrong.
        what: String,
    },
    /// A key that does not belong to its certificate, or of a kind that is not known.
    #[error("certificate {} and key {}: {source}", pair.certificate.display(), pair.key.display())]
    Pair {
        /// The two files.
        pair: Pair,
        /// The reason.
        source: rustls::Error,
    },
    /// Only one of the two; the text is etcd's.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]")]
    HalfPair {
        /// The certificate, or nothing.
        certificate: String,
        /// The key, or nothing.
        key: String,
    },
    /// A listener without a certificate.
    #[error("KeyFile and CertFile are not presented")]
    NoPair,
    /// Both ways of restricting names; the text is etcd's.
    #[error("AllowedCNs and AllowedHostnames are mutually exclusive ({0})")]
    TwoKindsOfNames(String),
    /// A name of a protocol version.
    #[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
    Version(String),
    /// A range of versions that holds none.
    #[error("min version ({0}) is greater than max version ({1})")]
    NoVersion(Version, Version),
    /// A name of a cipher suite.
    #[error("unexpected TLS cipher suite {0:?}")]
    Cipher(String),
    /// Cipher suites that would have no effect.
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    CiphersWithoutEffect,
    /// Cipher suites of which none is offered by this program.
    #[error(
        "none of the TLS cipher suites {0} is secure enough to be served; leave the list out, or name one of ECDHE with AES-GCM or ChaCha20"
    )]
    NoCipher(String),
    /// Cipher suites without which there is no HTTP/2; the text is Go's.
    #[error(
        "http2: TLSConfig.CipherSuites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher (need at least one of \
         TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)"
    )]
    NoCipherOfHttp2,
    /// What the library refuses.
    #[error(transparent)]
    Library(#[from] rustls::Error),
    /// A certificate that could not be generated.
    #[error("generate a certificate: {0}")]
    Generate(String),
}

impl Error {
    fn content(path: &std::path::Path, what: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), what: what.into() }
    }

    fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// The algorithms, without a process-wide default: every configuration names its own.
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// The algorithms, restricted to some cipher suites of TLS 1.2.
fn provider_with(ciphers: &Ciphers) -> Arc<CryptoProvider> {
    let mut provider = provider();
    provider.cipher_suites.retain(|suite| ciphers.allow(suite));
    Arc::new(provider)
}
