//! A certificate and its key, read again when their files have changed.
//!
//! Operators and their tools replace the two files while the member runs. At each handshake the files are looked at, and read if
//! they are others than the last time. A pair that cannot be read fails that handshake, and is looked at again by the next.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::{Error, Pair};

/// What tells two versions of a file apart.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

/// A pair and what its files held when they were last read.
#[derive(Debug)]
pub(crate) struct Current {
    pair: Pair,
    provider: CryptoProvider,
    /// Held while the files are looked at.
    read: Mutex<([Stamp; 2], Arc<CertifiedKey>)>,
}

impl Current {
    pub(crate) fn new(pair: Pair) -> Result<Self, Error> {
        let provider = crate::provider();
        let stamps = stamps(&pair)?;
        let key = load(&pair, &provider)?;
        Ok(Self { pair, provider, read: Mutex::new((stamps, Arc::new(key))) })
    }

    fn get(&self) -> Result<Arc<CertifiedKey>, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.pair)?;
        if read.0 != stamps {
            *read = (stamps, Arc::new(load(&self.pair, &self.provider)?));
        }
        Ok(Arc::clone(&read.1))
    }

    fn get_or_warn(&self, complaint: &'static str) -> Option<Arc<CertifiedKey>> {
        self.get()
            .inspect_err(|error| {
                tracing::warn!(
                    cert_file = %self.pair.certificate.display(),
                    key_file = %self.pair.key.display(),
                    error = %error,
                    "{complaint}"
                );
            })
            .ok()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get_or_warn("failed to find peer cert files")
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.get_or_warn("failed to find client cert files")
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn stamps(pair: &Pair) -> Result<[Stamp; 2], Error> {
    let of = |path: &Path| {
        std::fs::metadata(path).map(|m| stamp(&m)).map_err(|source| Error::file(path, source))
    };
    Ok([of(&pair.certificate)?, of(&pair.key)?])
}

fn load(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let chain = certificates(&pair.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| pem_error(&pair.key, error))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| Error::Pair { pair: pair.clone(), source })
}

/// All certificates of a PEM file, of which there is at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| pem_error(path, error))?;
    let all: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| pem_error(path, error))?;
    match all.is_empty() {
        true => Err(Error::content(path, "it holds no certificate in PEM")),
        false => Ok(all),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest differs in its text alone")]
fn pem_error(path: &Path, error: pem::Error) -> Error {
    match error {
        pem::Error::Io(source) => Error::file(path, source),
        pem::Error::NoItemsFound => Error::content(path, "it holds nothing of this kind in PEM"),
        other => Error::content(path, other.to_string()),
    }
}
