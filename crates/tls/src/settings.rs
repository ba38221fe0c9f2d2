//! What one side, clients' or peers', is told about its connections.

use std::path::{Path, PathBuf};

use crate::{Ciphers, Error, Versions};

/// A certificate (with those that lead to its authority) and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Pair {
    /// Of two flags, both or neither.
    ///
    /// # Errors
    /// Only one is given.
    pub fn of(certificate: &str, key: &str) -> Result<Option<Self>, Error> {
        match (certificate.is_empty(), key.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(Self { certificate: certificate.into(), key: key.into() })),
            _ => Err(Error::HalfPair { certificate: certificate.to_owned(), key: key.to_owned() }),
        }
    }
}

/// Which names the certificate of somebody who dials may carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Names {
    /// Any.
    #[default]
    Any,
    /// One of these common names.
    Common(Vec<String>),
    /// Valid for one of these host names or addresses.
    Hosts(Vec<String>),
}

impl Names {
    /// Of two lists, at most one of which holds something.
    ///
    /// # Errors
    /// Both do.
    pub fn of(common: Vec<String>, hosts: Vec<String>) -> Result<Self, Error> {
        match (common.is_empty(), hosts.is_empty()) {
            (true, true) => Ok(Self::Any),
            (false, true) => Ok(Self::Common(common)),
            (true, false) => Ok(Self::Hosts(hosts)),
            (false, false) => Err(Error::TwoKindsOfNames(format!(
                "cns={}, hostnames={}",
                common.join(","),
                hosts.join(",")
            ))),
        }
    }
}

/// What one side, clients' or peers', is told. `Default` secures nothing.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Shown to those who dial, and to those who are dialled unless there is another pair for them.
    pub pair: Option<Pair>,
    /// Shown to those who are dialled.
    pub client_pair: Option<Pair>,
    /// Authorities that are believed; the system's where there are none.
    pub trusted_ca: Option<PathBuf>,
    /// Whether those who dial must show a certificate. Authorities that are given imply it.
    pub client_cert_auth: bool,
    /// Certificates that are believed no more, as DER or PEM.
    pub revoked: Option<PathBuf>,
    /// Whose certificates of those who dial are accepted.
    pub names: Names,
    /// Whether servers' certificates go unchecked, as generated ones have to.
    pub skip_server_check: bool,
    /// Whether a certificate is compared with the address that it comes from.
    pub check_origin: bool,
    /// Versions of the protocol.
    pub versions: Versions,
    /// Cipher suites of TLS 1.2.
    pub ciphers: Ciphers,
}

impl Settings {
    /// Whether a listener has something to show.
    #[must_use]
    pub fn has_pair(&self) -> bool {
        self.pair.is_some()
    }

    /// Whether those who dial must show a certificate.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca.is_some()
    }

    /// All in one line, for the log; etcd's words. Holds names of files, and nothing from them.
    #[must_use]
    pub fn summary(&self) -> String {
        let path = |path: Option<&Path>| path.unwrap_or(Path::new("")).display().to_string();
        let pair = |pair: &Option<Pair>| {
            let certificate = path(pair.as_ref().map(|pair| pair.certificate.as_path()));
            (certificate, path(pair.as_ref().map(|pair| pair.key.as_path())))
        };
        let (certificate, key) = pair(&self.pair);
        let (client_certificate, client_key) = pair(&self.client_pair);
        format!(
            "cert = {certificate}, key = {key}, client-cert={client_certificate}, client-key={client_key}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            path(self.trusted_ca.as_deref()),
            self.client_cert_auth,
            path(self.revoked.as_deref()),
        )
    }
}
