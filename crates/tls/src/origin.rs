//! Whether a certificate belongs to the address that it comes from.
//!
//! A member's certificate names its hosts. One that was copied to another machine is still signed by the right authority, so a
//! listener for members compares the names with the address:
//!
//! - without any name there is nothing to compare, and it passes;
//! - the address is among those named: it passes;
//! - a host name is named which the address resolves to, or which resolves to the address: it passes. A name that begins with `*.` stands for
//!   all names below one domain, and only the first way is open to it;
//! - else the connection is refused.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::CertificateDer;
use tokio::net::lookup_host;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate says it is for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

impl Hosts {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only hosts are compared with addresses")]
    fn of(certificate: &CertificateDer<'_>) -> io::Result<Self> {
        let unreadable =
            || io::Error::new(io::ErrorKind::InvalidData, "the certificate's names cannot be read");
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
        let Some(named) = parsed.subject_alternative_name().map_err(|_| unreadable())? else {
            return Ok(Self::default());
        };
        let mut hosts = Self::default();
        for name in &named.value.general_names {
            match name {
                GeneralName::DNSName(name) => hosts.names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => hosts.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(hosts)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The addresses and names of a certificate; none where they cannot be read.
pub(crate) fn hosts(certificate: &CertificateDer<'_>) -> (Vec<IpAddr>, Vec<String>) {
    let Hosts { addresses, names } = Hosts::of(certificate).unwrap_or_default();
    (addresses, names)
}

/// Compares a certificate with the address of its connection.
pub(crate) async fn check(certificate: &CertificateDer<'_>, from: IpAddr) -> io::Result<()> {
    let hosts = Hosts::of(certificate)?;
    let from = from.to_canonical();
    if hosts.addresses.is_empty() && hosts.names.is_empty() {
        return Ok(());
    }
    if hosts.addresses.contains(&from) {
        return Ok(());
    }
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if hosts.names.is_empty() {
        let valid: Vec<String> = hosts.addresses.iter().map(ToString::to_string).collect();
        let valid = valid.join(", ");
        return refuse(format!("x509: certificate is valid for {valid}, not {from}"));
    }
    let own_name = name_of(from).await;
    if own_name.is_some_and(|own| hosts.names.iter().any(|name| covers(name, &own))) {
        return Ok(());
    }
    for name in hosts.names.iter().filter(|name| !name.starts_with("*.")) {
        // A name that nobody knows is not where it comes from.
        let Ok(found) = lookup_host((name.as_str(), 0)).await else { continue };
        if found.map(|found| found.ip().to_canonical()).any(|found| found == from) {
            return Ok(());
        }
    }
    refuse(format!("tls: \"{from}\" does not match any of DNSNames {:?}", hosts.names))
}

/// The name that an address has, if it has one.
async fn name_of(address: IpAddr) -> Option<String> {
    let asked = move || dns_lookup::getnameinfo(&SocketAddr::from((address, 0)), 0);
    let (name, _) = tokio::task::spawn_blocking(asked).await.ok()?.ok()?;
    // An address without a name is its own.
    name.parse::<IpAddr>().is_err().then_some(name)
}

/// Whether a name in a certificate stands for a host.
fn covers(named: &str, host: &str) -> bool {
    let (named, host) = (named.trim_end_matches('.'), host.trim_end_matches('.'));
    match named.strip_prefix("*.") {
        None => named.eq_ignore_ascii_case(host),
        Some(domain) => host
            .len()
            .checked_sub(domain.len() + 1)
            .filter(|&before| before > 0 && host.is_char_boundary(before))
            .is_some_and(|before| {
                let (_, rest) = host.split_at(before);
                rest.strip_prefix('.').is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_what_is_below_a_domain() {
        assert!(covers("*.example.org", "a.example.org."));
        assert!(covers("*.Example.org", "b.a.example.org"));
        assert!(covers("a.example.org", "A.example.org"));
        for host in ["example.org", ".example.org", "badexample.org", "org", ""] {
            assert!(!covers("*.example.org", host), "{host}");
        }
    }

    /// A certificate for these hosts.
    fn certificate(hosts: &[&str]) -> CertificateDer<'static> {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        made.cert.der().clone()
    }

    #[tokio::test]
    async fn a_certificate_passes_from_where_it_belongs() {
        let home: IpAddr = "127.0.0.1".parse().unwrap();
        for (hosts, from, passes) in [
            (&[][..], home, true),
            (&["127.0.0.1"], home, true),
            (&["127.0.0.1"], "::ffff:127.0.0.1".parse().unwrap(), true),
            (&["10.4.7.121"], home, false),
            (&["localhost"], home, true),
            (&["10.4.7.121", "localhost"], home, true),
            (&["no.such.host.invalid"], home, false),
            (&["localhost"], "192.0.2.1".parse().unwrap(), false),
        ] {
            let checked = check(&certificate(hosts), from).await;
            assert_eq!(checked.is_ok(), passes, "{hosts:?} from {from}: {checked:?}");
        }
        let refusal = check(&certificate(&["x.invalid"]), home).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "tls: \"127.0.0.1\" does not match any of DNSNames [\"x.invalid\"]"
        );
        let refusal = check(&certificate(&["10.4.7.121", "::1"]), home).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "x509: certificate is valid for 10.4.7.121, ::1, not 127.0.0.1"
        );
    }
}
