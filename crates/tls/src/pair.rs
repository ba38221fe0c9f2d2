//! A certificate and its key, read again when their files have changed.
//!
//! A pair that cannot be read fails that handshake, and is looked at again by the next.

use std::path::Path;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error as TlsError, InconsistentKeys, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

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
    let of_pair = |source| Error::Pair { pair: pair.clone(), source };
    let key = provider.key_provider.load_private_key(key).map_err(of_pair)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        // Of v1, or with an extension that the library does not know: whether it is believed is up to those it is shown to.
        Err(TlsError::InvalidCertificate(why)) => {
            check_key(&certified, why).map_err(of_pair)?;
        }
        Err(other) => return Err(of_pair(other)),
    }
    Ok(Arc::new(certified))
}

/// Whether the key is the one of a certificate that the library refuses to read.
fn check_key(certified: &CertifiedKey, why: CertificateError) -> Result<(), TlsError> {
    let parsed =
        certified.end_entity_cert().ok().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some((_, parsed)) = parsed else { return Err(TlsError::InvalidCertificate(why)) };
    match certified.key.public_key() {
        Some(own) if own.as_ref() == parsed.public_key().raw => Ok(()),
        Some(_) => Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)),
        None => Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)),
    }
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
