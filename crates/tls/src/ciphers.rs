//! Protocol versions and cipher suites, by the names that etcd's flags take.

use std::fmt;

use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

use crate::Error;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        })
    }
}

impl Version {
    fn parse(text: &str) -> Result<Option<Self>, Error> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Self::Tls12)),
            "TLS1.3" => Ok(Some(Self::Tls13)),
            other => Err(Error::Version(other.to_owned())),
        }
    }
}

/// The lowest and the highest version that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    min: Version,
    max: Version,
}

impl Default for Versions {
    fn default() -> Self {
        Self { min: Version::Tls12, max: Version::Tls13 }
    }
}

impl Versions {
    /// Reads the two flags; an empty text leaves that end open.
    ///
    /// # Errors
    /// A name that is no version, or a range that holds none.
    pub fn parse(min: &str, max: &str) -> Result<Self, Error> {
        let all = Self::default();
        let versions = Self {
            min: Version::parse(min)?.unwrap_or(all.min),
            max: Version::parse(max)?.unwrap_or(all.max),
        };
        if versions.min > versions.max {
            return Err(Error::NoVersion(versions.min, versions.max));
        }
        Ok(versions)
    }

    pub(crate) fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let all =
            [(Version::Tls12, &rustls::version::TLS12), (Version::Tls13, &rustls::version::TLS13)];
        let is_spoken = |version: Version| version >= self.min && version <= self.max;
        all.into_iter().filter(|(version, _)| is_spoken(*version)).map(|(_, v)| v).collect()
    }
}

/// The cipher suites of TLS 1.2 that are offered; empty stands for all that are. Those of TLS 1.3 are not chosen, as in Go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ciphers {
    chosen: Vec<CipherSuite>,
    /// Named, known to Go, and too weak to be served: an operator may be told.
    pub left_out: Vec<String>,
}

/// What Go calls the suites that are served in TLS 1.2.
const SERVED: &[(&str, CipherSuite)] = &[
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// HTTP/2 over TLS 1.2 asks for one of these.
const OF_HTTP2: [CipherSuite; 2] = [
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
];

/// Known to Go: of TLS 1.3, where there is no choice, or without forward secrecy or authenticated encryption.
const NOT_CHOSEN: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

impl Ciphers {
    /// Reads a list with commas.
    ///
    /// # Errors
    /// A name that Go does not know either, an empty one included, or a list without effect.
    pub fn parse(text: &str, versions: Versions) -> Result<Self, Error> {
        let mut ciphers = Self::default();
        for name in text.split(',').map(str::trim) {
            match SERVED.iter().find(|(served, _)| *served == name) {
                Some((_, suite)) => ciphers.chosen.push(*suite),
                None if NOT_CHOSEN.contains(&name) => ciphers.left_out.push(name.to_owned()),
                None => return Err(Error::Cipher(name.to_owned())),
            }
        }
        match versions.min {
            Version::Tls12 => Ok(ciphers),
            Version::Tls13 => Err(Error::CiphersWithoutEffect),
        }
    }

    fn is_given(&self) -> bool {
        !self.chosen.is_empty() || !self.left_out.is_empty()
    }

    /// Whether what was chosen is enough for somebody who speaks these protocols.
    pub(crate) fn check<'a>(
        &self,
        mut protocols: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Error> {
        if !self.is_given() {
            return Ok(());
        }
        if protocols.any(|name| name == b"h2")
            && !OF_HTTP2.iter().any(|suite| self.chosen.contains(suite))
        {
            return Err(Error::NoCipherOfHttp2);
        }
        match self.chosen.is_empty() {
            true => Err(Error::NoCipher(self.left_out.join(","))),
            false => Ok(()),
        }
    }

    pub(crate) fn allow(&self, suite: &SupportedCipherSuite) -> bool {
        !self.is_given() || suite.tls13().is_some() || self.chosen.contains(&suite.suite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_etcd_s() {
        let text = |min, max| Versions::parse(min, max).unwrap_err().to_string();
        assert_eq!(Versions::parse("", "").unwrap().list().len(), 2);
        assert_eq!(Versions::parse("TLS1.3", "").unwrap().list(), [&rustls::version::TLS13]);
        assert_eq!(
            text("TLS1.1", ""),
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"
        );
        assert_eq!(
            text("TLS1.3", "TLS1.2"),
            "min version (TLS1.3) is greater than max version (TLS1.2)"
        );
    }

    #[test]
    fn ghsa_5x4g_q5rc_36jp_suites_that_go_knows_are_read_and_weak_ones_left_out() {
        let all = Versions::default();
        let some = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_RSA_WITH_AES_128_CBC_SHA";
        let some = Ciphers::parse(some, all).unwrap();
        assert_eq!(some.chosen, [CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
        assert_eq!(some.left_out, ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        let left = crate::provider_with(&some);
        assert_eq!(left.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
        let text = |text, versions| Ciphers::parse(text, versions).unwrap_err().to_string();
        assert_eq!(text("BAD", all), "unexpected TLS cipher suite \"BAD\"");
        for empty in ["", ",", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,"] {
            assert_eq!(text(empty, all), "unexpected TLS cipher suite \"\"");
        }
        let check = |text, protocol: &str| {
            let ciphers = Ciphers::parse(text, all).unwrap();
            ciphers.check([protocol.as_bytes()].into_iter()).map_err(|error| error.to_string())
        };
        let weak = "TLS_RSA_WITH_RC4_128_SHA";
        assert!(check(weak, "http/1.1").unwrap_err().starts_with("none of the TLS cipher suites"));
        let other = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
        assert_eq!(check(other, "http/1.1"), Ok(()));
        for text in [weak, other] {
            let why = check(text, "h2").unwrap_err();
            assert!(why.contains("HTTP/2-required AES_128_GCM_SHA256"), "{why}");
        }
        assert_eq!(check("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "h2"), Ok(()));
        let only_13 = Versions::parse("TLS1.3", "").unwrap();
        assert_eq!(
            text("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", only_13),
            "cipher suites cannot be configured when only TLS1.3 is enabled"
        );
    }
}
