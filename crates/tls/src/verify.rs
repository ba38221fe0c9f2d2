//! Whose certificates are believed.
//!
//! rustls checks the chain, the dates, the use and the signature of the handshake. Around it come the rules that etcd has
//! besides: revoked serial numbers, restricted names, and a certificate that is trusted itself although it could sign others,
//! as self-signed ones of operators often are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::pair::certificates;
use crate::{Error, Names, Settings};

/// The authorities that are believed, and their certificates as such.
struct Trusted {
    roots: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn of(settings: &Settings) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let mut own = Vec::new();
        match &settings.trusted_ca {
            Some(path) => {
                own = certificates(path)?;
                for certificate in &own {
                    roots
                        .add(certificate.clone())
                        .map_err(|error| Error::content(path, error.to_string()))?;
                }
            }
            None => {
                // The system's, of which some may be unreadable to rustls.
                let found = rustls_native_certs::load_native_certs();
                for error in found.errors {
                    tracing::debug!(error = %error, "a certificate of the system cannot be read");
                }
                roots.add_parsable_certificates(found.certs);
            }
        }
        Ok(Self { roots: Arc::new(roots), certificates: own })
    }
}

/// Whether a refused certificate is one of those trusted by themselves. The library takes none that could sign others for
/// anybody's own, which is how operators often make a single one; Go does.
fn is_trusted_itself(
    refusal: &TlsError,
    leaf: &CertificateDer<'_>,
    trusted: &[CertificateDer<'static>],
    now: UnixTime,
) -> bool {
    // That rule has no name in rustls' list. Dates, names and uses have, and stay refused.
    let is_other = matches!(refusal, TlsError::InvalidCertificate(CertificateError::Other(_)));
    if !is_other || !trusted.iter().any(|certificate| certificate == leaf) {
        return false;
    }
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return false };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    x509_parser::time::ASN1Time::from_timestamp(seconds)
        .is_ok_and(|now| parsed.validity().is_valid_at(now))
}

/// Checks those who dial.
#[derive(Debug)]
pub(crate) struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    trusted: Vec<CertificateDer<'static>>,
    revoked: Option<PathBuf>,
    names: Names,
}

impl Clients {
    pub(crate) fn new(settings: &Settings, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let trusted = Trusted::of(settings)?;
        let chain = WebPkiClientVerifier::builder_with_provider(trusted.roots, provider)
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?;
        Ok(Self {
            chain,
            trusted: trusted.certificates,
            revoked: settings.revoked.clone(),
            names: settings.names.clone(),
        })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = match self.chain.verify_client_cert(leaf, others, now) {
            Err(error) if is_trusted_itself(&error, leaf, &self.trusted, now) => {
                ClientCertVerified::assertion()
            }
            verified => verified?,
        };
        if let Some(path) = &self.revoked {
            check_revoked(path, std::iter::once(leaf).chain(others))?;
        }
        check_names(&self.names, leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Reads the list anew: it is replaced while the member runs.
fn check_revoked<'a>(
    path: &Path,
    presented: impl Iterator<Item = &'a CertificateDer<'a>>,
) -> Result<(), TlsError> {
    let refuse = |text: String| TlsError::General(text);
    let bytes =
        std::fs::read(path).map_err(|error| refuse(format!("open {}: {error}", path.display())))?;
    let der = match x509_parser::pem::parse_x509_pem(&bytes) {
        Ok((_, pem)) => pem.contents,
        Err(_) => bytes,
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| {
        refuse(format!("{}: it is no list of revoked certificates", path.display()))
    })?;
    for certificate in presented {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        let serial = &parsed.tbs_certificate.serial;
        if list.iter_revoked_certificates().any(|revoked| &revoked.user_certificate == serial) {
            return Err(refuse(format!("transport: certificate serial {serial:x} revoked")));
        }
    }
    Ok(())
}

fn check_names(names: &Names, leaf: &CertificateDer<'_>) -> Result<(), TlsError> {
    let is_accepted = match names {
        Names::Any => true,
        Names::Common(allowed) => {
            let (_, parsed) = X509Certificate::from_der(leaf)
                .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
            let mut found = parsed.subject().iter_common_name().filter_map(|n| n.as_str().ok());
            found.any(|name| allowed.iter().any(|allowed| allowed == name))
        }
        Names::Hosts(hosts) => {
            let parsed = ParsedCertificate::try_from(leaf)?;
            hosts.iter().any(|host| {
                ServerName::try_from(host.as_str())
                    .is_ok_and(|name| rustls::client::verify_server_name(&parsed, &name).is_ok())
            })
        }
    };
    match is_accepted {
        true => Ok(()),
        // The other side is told "bad certificate". From the library itself it comes with the names.
        false => Err(TlsError::InvalidCertificate(CertificateError::NotValidForName)),
    }
}

/// Checks those who are dialled.
#[derive(Debug)]
pub(crate) struct Servers {
    /// `None` believes anybody; signatures are checked all the same.
    chain: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    pub(crate) fn new(settings: &Settings, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        if settings.skip_server_check {
            return Ok(Self { chain: None, trusted: Vec::new(), provider });
        }
        let trusted = Trusted::of(settings)?;
        let chain =
            WebPkiServerVerifier::builder_with_provider(trusted.roots, Arc::clone(&provider))
                .build()
                .map_err(|error| TlsError::General(error.to_string()))?;
        Ok(Self { chain: Some(chain), trusted: trusted.certificates, provider })
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(leaf, others, name, ocsp, now) {
            Err(error) if is_trusted_itself(&error, leaf, &self.trusted, now) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
