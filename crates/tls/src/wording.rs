//! What went wrong in a handshake, in the words that operators of Go programs search for.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library has more errors than Go has words for, and adds to them"
)]

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// The same error with Go's text, where Go has one.
pub(crate) fn as_go(error: io::Error) -> io::Error {
    let Some(text) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()).and_then(text) else {
        return error;
    };
    io::Error::new(error.kind(), text)
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
