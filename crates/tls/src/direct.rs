//! Certificates that the library has no way for and Go has: of X.509 v1, an authority's shown as somebody's own, and those that
//! are trusted themselves.
//!
//! The library stays the judge. Only what it refuses for one of these forms is looked at again, and only against the authorities
//! of a file: the certificate is one of them, or signed by one of them without anything in between. What is checked then is what
//! Go checks: who issued and signed it, the dates and the uses of both, and that no critical extension is unknown. Where an
//! authority restricts names, nothing is believed here. Names and revocation are the caller's, as for every other certificate;
//! a certificate of v1 has no names, so that a server's never passes.
//!
//! Keys and algorithms are those of the library: RSA below 2048 bits, SHA-1 and MD5 are in none of them.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Client,
    Server,
}

/// Critical extensions that are understood here.
const UNDERSTOOD: [Oid<'static>; 4] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
];

/// Why the library refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// X.509 v1, or an authority's.
    Unsupported,
    /// Nobody signed it who is believed.
    Unknown,
}

impl Form {
    fn of(refusal: &Error) -> Option<Self> {
        let Error::InvalidCertificate(why) = refusal else { return None };
        if *why == CertificateError::UnknownIssuer {
            return Some(Self::Unknown);
        }
        // They have no name in rustls' list.
        let CertificateError::Other(other) = why else { return None };
        match format!("{:?}", other.0).as_str() {
            "UnsupportedCertVersion" | "CaUsedAsEndEntity" => Some(Self::Unsupported),
            _ => None,
        }
    }
}

/// Looks again at a certificate that the library refused.
///
/// # Errors
/// The refusal, or a better one.
pub(crate) fn verify(
    refusal: Error,
    leaf: &CertificateDer<'_>,
    trusted: &[CertificateDer<'static>],
    purpose: Purpose,
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> Result<(), Error> {
    let Some(form) = Form::of(&refusal) else { return Err(refusal) };
    let is_pinned = trusted.iter().any(|certificate| certificate == leaf);
    if !is_pinned && form == Form::Unknown {
        return Err(refusal);
    }
    let Some(parsed) = parse(leaf) else { return Err(refusal) };
    check_itself(&parsed, purpose, now)?;
    if is_pinned {
        return Ok(());
    }
    let is_issued = trusted.iter().any(|issuer| {
        parse(issuer).is_some_and(|parsed_issuer| {
            parsed_issuer.subject().as_raw() == parsed.issuer().as_raw()
                && may_sign(&parsed_issuer)
                && matches!(parsed_issuer.name_constraints(), Ok(None))
                && check_itself(&parsed_issuer, purpose, now).is_ok()
                && is_signed_by(leaf, &parsed, &parsed_issuer, algorithms)
        })
    });
    match is_issued {
        true => Ok(()),
        false => Err(CertificateError::UnknownIssuer.into()),
    }
}

/// Whether a certificate may sign others: an authority, as far as it says what it is. One of v1 cannot say.
pub(crate) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_none_or(|parsed| may_sign(&parsed))
}

fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    let is_authority = match issuer.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => issuer.version() != X509Version::V3,
        Err(_) => false,
    };
    let signs = match issuer.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    is_authority && signs
}

/// Looks at the authorities behind a certificate that the library has accepted: it takes them for names and keys, whatever their dates and
/// uses are.
///
/// # Errors
/// What is wrong with the first of those that may be meant, if something is wrong with all of them.
pub(crate) fn check_authorities(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    trusted: &[CertificateDer<'static>],
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let presented: Vec<_> = std::iter::once(leaf).chain(others).filter_map(parse).collect();
    let mut first = Ok(());
    for authority in trusted.iter().filter_map(parse) {
        let is_meant =
            |one: &X509Certificate<'_>| one.issuer().as_raw() == authority.subject().as_raw();
        if !presented.iter().any(is_meant) {
            continue;
        }
        let checked = check_dates_and_uses(&authority, purpose, now);
        if checked.is_ok() {
            return Ok(());
        }
        first = first.and(checked);
    }
    first
}

/// Dates, uses, and that all it insists on is understood.
fn check_itself(
    certificate: &X509Certificate<'_>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), CertificateError> {
    check_dates_and_uses(certificate, purpose, now)?;
    let mut critical = certificate.extensions().iter().filter(|extension| extension.critical);
    if critical.any(|extension| !UNDERSTOOD.contains(&extension.oid)) {
        return Err(CertificateError::UnhandledCriticalExtension);
    }
    Ok(())
}

fn check_dates_and_uses(
    certificate: &X509Certificate<'_>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(now).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after {
        return Err(CertificateError::Expired);
    }
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if !serves(usage.value, purpose) => Err(CertificateError::InvalidPurpose),
        Ok(_) => Ok(()),
        Err(_) => Err(CertificateError::BadEncoding),
    }
}

fn serves(usage: &ExtendedKeyUsage<'_>, purpose: Purpose) -> bool {
    usage.any
        || match purpose {
            Purpose::Client => usage.client_auth,
            Purpose::Server => usage.server_auth,
        }
}

/// A public key: the contents of its algorithm's sequence, and its bits.
struct Key<'a> {
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Key<'a> {
    fn of(certificate: &'a X509Certificate<'a>) -> Option<Self> {
        let info = certificate.public_key();
        let (_, outer) = Any::from_der(info.raw).ok()?;
        let (_, algorithm) = Any::from_der(outer.data).ok()?;
        let bits = &info.subject_public_key;
        (bits.unused_bits == 0).then_some(Self { algorithm: algorithm.data, bits: &bits.data })
    }

    fn verifies(
        &self,
        algorithm: &dyn SignatureVerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        algorithm.public_key_alg_id().as_ref() == self.algorithm
            && algorithm.verify_signature(self.bits, message, signature).is_ok()
    }
}

fn is_signed_by(
    der: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    // What is signed, and how, as it was written; the algorithm is named inside of what is signed too.
    let parts = || {
        let (_, outer) = Any::from_der(der).ok()?;
        let (rest, _) = Any::from_der(outer.data).ok()?;
        let signed = outer.data.get(..outer.data.len().checked_sub(rest.len())?)?;
        let (_, algorithm) = Any::from_der(rest).ok()?;
        Some((signed, algorithm.data))
    };
    let (Some((signed, algorithm)), Some(key)) = (parts(), Key::of(issuer)) else { return false };
    let signature = &parsed.signature_value;
    parsed.signature_algorithm == parsed.tbs_certificate.signature
        && signature.unused_bits == 0
        && algorithms
            .all
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == algorithm)
            .any(|known| key.verifies(*known, signed, &signature.data))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    let is_known = matches!(parsed.version(), X509Version::V1 | X509Version::V2 | X509Version::V3);
    (rest.is_empty() && is_known).then_some(parsed)
}

/// A certificate that the library cannot even read the key of.
fn of_old<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    parse(certificate).filter(|parsed| parsed.version() != X509Version::V3)
}

/// The signature of a handshake in TLS 1.2.
///
/// # Errors
/// It is not the certificate's key's.
pub(crate) fn verify_signature_of_12(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let Some(parsed) = of_old(leaf) else {
        return verify_tls12_signature(message, leaf, signed, algorithms);
    };
    let Some((_, candidates)) =
        algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme)
    else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    let is_valid = Key::of(&parsed).is_some_and(|key| {
        candidates.iter().any(|known| key.verifies(*known, message, signed.signature()))
    });
    match is_valid {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}

/// The signature of a handshake in TLS 1.3.
///
/// # Errors
/// It is not the certificate's key's.
pub(crate) fn verify_signature_of_13(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    match of_old(leaf) {
        None => verify_tls13_signature(message, leaf, signed, algorithms),
        Some(parsed) => {
            let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
            verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
        }
    }
}
