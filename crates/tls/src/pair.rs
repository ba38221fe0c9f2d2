//! A certificate and its key, read again when their files have changed.
//!
//! A pair that cannot be read fails that handshake, and is looked at again by the next.

use std::path::Path;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::fresh::Fresh;
use crate::{Error, Pair};

/// A pair as its files have it.
pub(crate) struct Current {
    pair: Pair,
    provider: CryptoProvider,
    key: Fresh<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("pair", &self.pair).finish_non_exhaustive()
    }
}

impl Current {
    pub(crate) fn new(pair: Pair) -> Result<Self, Error> {
        let provider = crate::provider();
        let files = vec![pair.certificate.clone(), pair.key.clone()];
        let key = Fresh::new(files, || load(&pair, &provider))?;
        Ok(Self { pair, provider, key })
    }

    fn get_or_warn(&self, complaint: &'static str) -> Option<Arc<CertifiedKey>> {
        self.key
            .get(|| load(&self.pair, &self.provider))
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

fn load(pair: &Pair, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(&pair.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| pem_error(&pair.key, error))?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
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
