//! The flags about certificates, of both sides.

use tls::{Ciphers, Names, Pair, Settings, Versions};

use super::Notice;
use super::config::Lookup;

/// What the flags say about secured connections.
pub(super) struct Security {
    pub(super) client_tls: Settings,
    pub(super) peer_tls: Settings,
    pub(super) client_auto_tls: bool,
    pub(super) peer_auto_tls: bool,
    pub(super) self_signed_years: u32,
}

/// Which sides are secured by their URLs.
pub(super) struct IsSecure {
    pub(super) clients: bool,
    pub(super) peers: bool,
}

/// Reads the flags; the files they name are read when the member starts.
pub(super) fn build(
    get: &Lookup<'_>,
    is_secure: &IsSecure,
    notices: &mut Vec<Notice>,
) -> Result<Security, String> {
    let text = |error: tls::Error| error.to_string();
    let versions = Versions::parse(&get.text("tls-min-version"), &get.text("tls-max-version"))
        .map_err(text)?;
    let ciphers = match get.is_given("cipher-suites") {
        true => Ciphers::parse(&get.text("cipher-suites"), versions).map_err(text)?,
        false => Ciphers::default(),
    };
    let mut side = |prefix: &str| -> Result<Settings, String> {
        let name = |name: &str| format!("{prefix}{name}");
        let path =
            |flag: &str| Some(get.text(flag)).filter(|path| !path.is_empty()).map(Into::into);
        let is_peer = !prefix.is_empty();
        // The two sides' names differ here.
        let (revoked, common, hosts) = match is_peer {
            false => ("client-crl-file", None, "client-cert-allowed-hostname"),
            true => ("peer-crl-file", Some("peer-cert-allowed-cn"), "peer-cert-allowed-hostname"),
        };
        let list = |flag: Option<&str>| flag.map(|flag| get.list(flag)).unwrap_or_default();
        let [certificate, key] = ["cert-file", "key-file"].map(|flag| get.text(&name(flag)));
        let pair = match Pair::of(&certificate, &key) {
            // Members dial each other whatever they listen on.
            Err(_) if !is_peer && !is_secure.clients => {
                notices.push(Notice::Warning(
                    "scheme is http or unix while client key and cert files are present; ignoring key and cert files"
                        .to_owned(),
                ));
                None
            }
            pair => pair.map_err(text)?,
        };
        let [certificate, key] =
            ["client-cert-file", "client-key-file"].map(|flag| get.text(&name(flag)));
        let is_needed = pair.is_some() || if is_peer { is_secure.peers } else { is_secure.clients };
        let client_pair = match Pair::of(&certificate, &key) {
            Err(_) if !is_needed => {
                notices.push(Notice::Warning(format!(
                    "--{} and --{} have no effect without each other; ignoring them, as nothing is secured",
                    name("client-cert-file"),
                    name("client-key-file")
                )));
                None
            }
            // The bracket is etcd's.
            pair => pair.map_err(|_| {
                format!(
                    "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {certificate}]"
                )
            })?,
        };
        Ok(Settings {
            pair,
            client_pair,
            trusted_ca: path(&name("trusted-ca-file")),
            client_cert_auth: get.boolean(&name("client-cert-auth"))?,
            revoked: path(revoked),
            names: Names::of(list(common), list(Some(hosts))).map_err(text)?,
            skip_server_check: false,
            check_origin: is_peer && !get.boolean("peer-skip-client-san-verification")?,
            versions,
            ciphers: ciphers.clone(),
        })
    };
    let security = Security {
        client_tls: side("")?,
        peer_tls: side("peer-")?,
        client_auto_tls: get.boolean("auto-tls")?,
        peer_auto_tls: get.boolean("peer-auto-tls")?,
        self_signed_years: get.count("self-signed-cert-validity")?,
    };
    if (security.client_auto_tls || security.peer_auto_tls) && security.self_signed_years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
    }
    for (settings, side) in [(&security.client_tls, "client"), (&security.peer_tls, "peer")] {
        if settings.client_cert_auth && settings.trusted_ca.is_none() {
            notices.push(Notice::Warning(format!(
                "{side} certificates are asked for without an authority of their own: those of the system are believed"
            )));
        }
    }
    Ok(security)
}
