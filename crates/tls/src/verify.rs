//! Whose certificates are believed.
//!
//! rustls checks the chain, the dates, the use and the signature of the handshake. Around it come the rules that etcd has
//! besides: revoked serial numbers, restricted names, and the forms of certificates that Go takes and rustls does not (`direct`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::direct::{self, Purpose};
use crate::pair::certificates;
use crate::{Error, Names, Settings};

/// The authorities that are believed, and their certificates as such.
struct Trusted {
    /// Those that may sign others.
    roots: Arc<RootCertStore>,
    /// Those of the file, all of them; the system's are not among them.
    certificates: Vec<CertificateDer<'static>>,
    /// What those who dial are told to have a certificate of.
    subjects: Vec<DistinguishedName>,
}

impl Trusted {
    fn of(settings: &Settings) -> Result<Self, Error> {
        let Some(path) = &settings.trusted_ca else {
            // The system's, of which some may be unreadable to rustls.
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::debug!(error = %error, "a certificate of the system cannot be read");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            let subjects = roots.subjects();
            return Ok(Self { roots: Arc::new(roots), certificates: Vec::new(), subjects });
        };
        let certificates = certificates(path)?;
        let store = |is_taken: fn(&CertificateDer<'_>) -> bool| {
            let mut roots = RootCertStore::empty();
            for certificate in certificates.iter().filter(|certificate| is_taken(certificate)) {
                roots
                    .add(certificate.clone())
                    .map_err(|error| Error::content(path, error.to_string()))?;
            }
            Ok::<_, Error>(roots)
        };
        let subjects = store(|_| true)?.subjects();
        // Somebody's own certificate is believed for itself, and signs for nobody else.
        let roots = Arc::new(store(direct::is_authority)?);
        Ok(Self { roots, certificates, subjects })
    }

    /// Whether there are certificates, and none of an authority.
    fn is_without_authority(&self) -> bool {
        self.roots.is_empty() && !self.certificates.is_empty()
    }
}

/// What the library says where it has no authority to look for.
const fn nobody() -> TlsError {
    TlsError::InvalidCertificate(CertificateError::UnknownIssuer)
}

/// Checks those who dial.
#[derive(Debug)]
pub(crate) struct Clients {
    /// `None` without an authority.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    trusted: Vec<CertificateDer<'static>>,
    subjects: Vec<DistinguishedName>,
    revoked: Option<PathBuf>,
    names: Names,
}

impl Clients {
    pub(crate) fn new(settings: &Settings, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let trusted = Trusted::of(settings)?;
        let algorithms = provider.signature_verification_algorithms;
        let chain = match trusted.is_without_authority() {
            true => None,
            false => Some(
                WebPkiClientVerifier::builder_with_provider(trusted.roots, provider)
                    .build()
                    .map_err(|error| TlsError::General(error.to_string()))?,
            ),
        };
        Ok(Self {
            chain,
            algorithms,
            trusted: trusted.certificates,
            subjects: trusted.subjects,
            revoked: settings.revoked.clone(),
            names: settings.names.clone(),
        })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = match &self.chain {
            Some(chain) => chain.verify_client_cert(leaf, others, now).map(drop),
            None => Err(nobody()),
        };
        let (trusted, algorithms) = (&self.trusted, &self.algorithms);
        match verified {
            Ok(()) => direct::check_authorities(leaf, others, trusted, Purpose::Client, now)?,
            Err(refusal) => {
                direct::verify(refusal, leaf, trusted, Purpose::Client, algorithms, now)?;
            }
        }
        if let Some(path) = &self.revoked {
            check_revoked(path, std::iter::once(leaf).chain(others))?;
        }
        check_names(&self.names, leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        direct::verify_signature_of_12(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        direct::verify_signature_of_13(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
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
            // Of several the last, as in Go.
            let found = parsed.subject().iter_common_name().filter_map(|n| n.as_str().ok()).last();
            found.is_some_and(|name| allowed.iter().any(|allowed| allowed == name))
        }
        Names::Hosts(hosts) => {
            // One that the library cannot read, of v1, has no names.
            let parsed = ParsedCertificate::try_from(leaf);
            parsed.is_ok_and(|parsed| {
                hosts.iter().any(|host| {
                    ServerName::try_from(host.as_str()).is_ok_and(|name| {
                        rustls::client::verify_server_name(&parsed, &name).is_ok()
                    })
                })
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
    chain: Chain,
    trusted: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Chain {
    /// Believes anybody; signatures are checked all the same.
    Unchecked,
    /// There is no authority, but certificates that are believed themselves.
    Pinned,
    Checked(Arc<WebPkiServerVerifier>),
}

impl Servers {
    pub(crate) fn new(settings: &Settings, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let algorithms = provider.signature_verification_algorithms;
        if settings.skip_server_check {
            return Ok(Self { chain: Chain::Unchecked, trusted: Vec::new(), algorithms });
        }
        let trusted = Trusted::of(settings)?;
        let chain = match trusted.is_without_authority() {
            true => Chain::Pinned,
            false => Chain::Checked(
                WebPkiServerVerifier::builder_with_provider(trusted.roots, provider)
                    .build()
                    .map_err(|error| TlsError::General(error.to_string()))?,
            ),
        };
        Ok(Self { chain, trusted: trusted.certificates, algorithms })
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
        let verified = match &self.chain {
            Chain::Unchecked => return Ok(ServerCertVerified::assertion()),
            Chain::Pinned => Err(nobody()),
            Chain::Checked(chain) => chain.verify_server_cert(leaf, others, name, ocsp, now),
        };
        let (trusted, algorithms) = (&self.trusted, &self.algorithms);
        let refusal = match verified {
            Ok(verified) => {
                direct::check_authorities(leaf, others, trusted, Purpose::Server, now)?;
                return Ok(verified);
            }
            Err(refusal) => refusal,
        };
        direct::verify(refusal, leaf, trusted, Purpose::Server, algorithms, now)?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(|_| {
            TlsError::General(
                "tls: failed to verify certificate: x509: certificate relies on legacy Common Name field, use SANs instead"
                    .to_owned(),
            )
        })?;
        rustls::client::verify_server_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        direct::verify_signature_of_12(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        direct::verify_signature_of_13(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
