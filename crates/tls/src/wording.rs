//! What went wrong in a handshake, in the words that operators of Go programs search for.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library has more errors than Go has words for, and adds to them"
)]

use std::io;

use rustls::server::ClientHello;
use rustls::{
    AlertDescription, CertificateError, CipherSuite, Error, InvalidMessage, PeerIncompatible,
};

/// Versions of the protocol as they are written in a greeting, from 1.2 to 1.0: who begins with one of them offers those below too.
const VERSIONS: [u16; 3] = [0x303, 0x302, 0x301];
/// The first byte of the suites of TLS 1.3.
const SUITES_OF_13: u8 = 0x13;

/// The same error with Go's text, where Go has one.
pub(crate) fn as_go(error: io::Error) -> io::Error {
    let Some(text) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()).and_then(text) else {
        return error;
    };
    io::Error::new(error.kind(), text)
}

/// What somebody who dials offers, as far as a refusal tells it.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    pub(crate) server_name: String,
    suites: Vec<CipherSuite>,
    protocols: Vec<String>,
}

impl Greeting {
    pub(crate) fn of(hello: &ClientHello<'_>) -> Self {
        let protocols = hello.alpn().into_iter().flatten();
        Self {
            server_name: hello.server_name().unwrap_or_default().to_owned(),
            suites: hello.cipher_suites().to_vec(),
            protocols: protocols.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        }
    }
}

/// As [`as_go`], for an answer to a greeting that begins with this version.
pub(crate) fn of_greeting(
    error: io::Error,
    version: Option<u16>,
    greeting: &Greeting,
) -> io::Error {
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    match inner.and_then(|inner| unmet(inner, version, greeting)) {
        Some(text) => io::Error::new(error.kind(), text),
        None => as_go(error),
    }
}

/// What is offered and not to be had.
fn unmet(error: &Error, version: Option<u16>, greeting: &Greeting) -> Option<String> {
    let hex = |numbers: Vec<u16>| {
        let texts: Vec<String> = numbers.iter().map(|number| format!("{number:x}")).collect();
        texts.join(" ")
    };
    let suites = || greeting.suites.iter().map(|suite| u16::from(*suite)).collect::<Vec<_>>();
    Some(match error {
        Error::NoApplicationProtocol => {
            let quoted: Vec<String> =
                greeting.protocols.iter().map(|name| format!("{name:?}")).collect();
            let quoted = quoted.join(" ");
            format!("tls: client requested unsupported application protocols ([{quoted}])")
        }
        Error::PeerIncompatible(
            why @ (PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon),
        ) => {
            // Without a suite of TLS 1.3 the groups belong to those of 1.2.
            let has_13 = suites().iter().any(|suite| suite.to_be_bytes()[0] == SUITES_OF_13);
            if *why == PeerIncompatible::NoKxGroupsInCommon && has_13 {
                return None;
            }
            format!(
                "tls: no cipher suite supported by both client and server; client offered: [{}]",
                hex(suites())
            )
        }
        Error::PeerIncompatible(
            PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => {
            let version = version?;
            let offered = VERSIONS.into_iter().filter(|known| *known <= version).collect();
            format!("tls: client offered only unsupported versions: [{}]", hex(offered))
        }
        _ => return None,
    })
}

fn text(error: &Error) -> Option<String> {
    Some(match error {
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::AlertReceived(alert) => format!("remote error: tls: {}", self::alert(*alert)?),
        // Of a client, whose name is not among those that are let in.
        Error::InvalidCertificate(CertificateError::NotValidForName) => {
            "client certificate authentication failed".to_owned()
        }
        Error::InvalidCertificate(why) => {
            format!("tls: failed to verify certificate: x509: {}", certificate(why)?)
        }
        Error::General(text) => text.clone(),
        _ => return None,
    })
}

fn certificate(error: &CertificateError) -> Option<String> {
    Some(match error {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::NotValidYet => {
            "certificate has expired or is not yet valid".to_owned()
        }
        // With the times, which say which of the two it is.
        CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. } => {
            format!("certificate has expired or is not yet valid: {error}")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!(
                "certificate is valid for {}, not {}",
                presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", "),
                expected.to_str()
            )
        }
        CertificateError::UnhandledCriticalExtension => "unhandled critical extension".to_owned(),
        // Of the library below, which has it without a name here.
        CertificateError::Other(other)
            if format!("{:?}", other.0) == "UnsupportedCriticalExtension" =>
        {
            "unhandled critical extension".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        _ => return None,
    })
}

/// A name without the kind that the library puts around it: `DnsName("x")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn alert(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::InternalError => "internal error",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        _ => return None,
    })
}
