//! What secures this member's connections: two listeners' sides and the one that dials, made once from the configuration.
//!
//! A listener is secured by its URL, not by the certificates that are there: `http://` beside certificates stays plain, which is
//! said, and `https://` without any is refused.
//!
//! Upstream: `server/embed/etcd.go` (3.5.30).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tls::{Acceptor, Connector, Settings};

use crate::bootstrap::StartError;
use crate::config::{Config, Url};
use crate::peer::Dialler;

/// What a listener for clients speaks on TLS, best first.
const CLIENT_PROTOCOLS: &[&str] = &["h2", "http/1.1"];
/// What members speak among themselves.
const PEER_PROTOCOLS: &[&str] = &["http/1.1"];

/// The member's ways to secure a connection.
#[derive(Debug, Clone)]
pub(crate) struct Secured {
    /// For clients' connections; `None` when no URL asks for it.
    pub(crate) clients: Option<Acceptor>,
    /// For other members' connections.
    pub(crate) peers: Option<Acceptor>,
    /// For connections to other members.
    pub(crate) dialler: Dialler,
}

/// One of the two sides.
#[derive(Debug, Clone, Copy)]
enum Side {
    Clients,
    Peers,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Clients => "client",
            Self::Peers => "peer",
        }
    }
}

impl Secured {
    /// Reads all files, and generates what is to be generated.
    pub(crate) fn of(config: &Config) -> Result<Self, StartError> {
        let clients = complete(config, Side::Clients)?;
        let peers = complete(config, Side::Peers)?;
        let dials_securely = peers.has_pair()
            || peers.trusted_ca.is_some()
            || config.initial_cluster.iter().flat_map(|(_, urls)| urls).any(Url::is_secure);
        let connector = match dials_securely {
            true => Some(Connector::new(&peers, &[])?),
            false => None,
        };
        if let Some(url) = config.listen_metrics_urls.iter().find(|url| url.is_secure())
            && !config.listen_client_urls.iter().any(Url::is_secure)
            && !clients.has_pair()
        {
            return Err(StartError::NoCertificate(format!(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {url}"
            )));
        }
        Ok(Self {
            clients: acceptor(Side::Clients, &of_clients(config), &clients, CLIENT_PROTOCOLS)?,
            peers: acceptor(Side::Peers, &config.listen_peer_urls, &peers, PEER_PROTOCOLS)?,
            dialler: Dialler::new(config.peer_dial_limit(), connector)
                .coming_from(config.local_address()),
        })
    }
}

/// The URLs that are under the settings for clients.
fn of_clients(config: &Config) -> Vec<Url> {
    let Config { listen_client_urls, listen_client_http_urls, listen_metrics_urls, .. } = config;
    let all = [listen_client_urls, listen_client_http_urls, listen_metrics_urls];
    all.into_iter().flatten().cloned().collect()
}

fn acceptor(
    side: Side,
    urls: &[Url],
    settings: &Settings,
    protocols: &[&str],
) -> Result<Option<Acceptor>, StartError> {
    let name = side.name();
    for url in urls.iter().filter(|url| !url.is_secure()) {
        if settings.has_pair() {
            tracing::warn!(
                url = %url,
                "scheme is http or unix while {name} key and cert files are present; ignoring key and cert files"
            );
        }
        if settings.client_cert_auth {
            tracing::warn!(
                url = %url,
                "scheme is http or unix while --{}client-cert-auth is enabled; ignoring client cert auth for this URL",
                if matches!(side, Side::Peers) { "peer-" } else { "" }
            );
        }
    }
    let Some(url) = urls.iter().find(|url| url.is_secure()) else { return Ok(None) };
    if !settings.has_pair() {
        return Err(match side {
            Side::Clients => StartError::NoCertificate(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            )),
            Side::Peers => StartError::NoCertificate(format!(
                "cannot listen on TLS for {url}: KeyFile and CertFile are not presented (--peer-cert-file, --peer-key-file)"
            )),
        });
    }
    tracing::info!(tls_info = settings.summary(), "starting with {name} TLS");
    for cipher in &settings.ciphers.left_out {
        tracing::warn!(
            cipher,
            "a cipher suite is too weak to be served, or not to be chosen in TLS 1.3; it is left out"
        );
    }
    Ok(Some(Acceptor::new(settings, protocols)?))
}

/// The settings of one side, with the pair that is generated for it if that is asked for.
fn complete(config: &Config, side: Side) -> Result<Settings, StartError> {
    let (settings, is_generated, urls) = match side {
        Side::Clients => (&config.client_tls, config.client_auto_tls, &config.listen_client_urls),
        Side::Peers => (&config.peer_tls, config.peer_auto_tls, &config.listen_peer_urls),
    };
    let mut settings = settings.clone();
    let name = side.name();
    if !is_generated {
        return Ok(settings);
    }
    if settings.has_pair() {
        tracing::warn!("ignoring {name} auto TLS since certs given");
        return Ok(settings);
    }
    let hosts: BTreeSet<String> = urls.iter().map(|url| url.host().to_owned()).collect();
    let hosts: Vec<String> = hosts.into_iter().collect();
    let folder = folder(&config.data_dir, side);
    let generated = tls::generate(&folder, &hosts, config.self_signed_years)?;
    if generated.is_new {
        tracing::warn!(years = config.self_signed_years, "automatically generate certificates");
        tracing::info!(path = %generated.pair.certificate.display(), "created cert file");
        tracing::info!(path = %generated.pair.key.display(), "created key file");
    }
    settings.pair = Some(generated.pair);
    // Nobody can check a certificate without an authority.
    settings.skip_server_check = true;
    Ok(settings)
}

/// Where etcd keeps what it generates.
fn folder(data_dir: &Path, side: Side) -> PathBuf {
    data_dir.join("fixtures").join(side.name())
}
