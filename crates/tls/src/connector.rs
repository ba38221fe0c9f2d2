//! The side of the handshake of one who dials.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::fresh::Fresh;
use crate::pair::Current;
use crate::verify::Servers;
use crate::{Error, HANDSHAKE_LIMIT, Settings, Socket, Stream, provider_with, wording};

/// Secures dialled connections under one side's settings. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    settings: Arc<Settings>,
    protocols: Arc<[Vec<u8>]>,
    /// With the authorities as their file has them.
    config: Arc<Fresh<Arc<ClientConfig>>>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files. `protocols` are asked for; none leaves it to the server.
    ///
    /// # Errors
    /// A file is missing or holds something else.
    pub fn new(settings: &Settings, protocols: &[&str]) -> Result<Self, Error> {
        settings.ciphers.check(std::iter::empty())?;
        let settings = Arc::new(settings.clone());
        let protocols: Arc<[Vec<u8>]> =
            protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let files = settings.trusted_ca.iter().cloned().collect();
        let config = Fresh::new(files, || config(&settings, &protocols))?;
        Ok(Self { settings, protocols, config: Arc::new(config) })
    }

    /// Shakes hands with a server of that name, a host name or an address.
    ///
    /// # Errors
    /// The server says nothing for too long, something else than TLS, or shows a certificate that is not believed or not its own.
    pub async fn connect(&self, socket: impl Into<Socket>, name: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a host"))
        })?;
        let config = self.config.get_or_last(|| config(&self.settings, &self.protocols));
        let connecting = TlsConnector::from(config).connect(name, socket.into());
        match timeout(HANDSHAKE_LIMIT, connecting).await {
            Ok(stream) => Ok(Stream::Dialled(Box::new(stream.map_err(wording::as_go)?))),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout")),
        }
    }
}

/// What the library needs to know of the settings.
fn config(settings: &Settings, protocols: &[Vec<u8>]) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider_with(&settings.ciphers);
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&settings.versions.list())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Servers::new(settings, provider)?));
    let mut config = match settings.client_pair.as_ref().or(settings.pair.as_ref()) {
        Some(pair) => config.with_client_cert_resolver(Arc::new(Current::new(pair.clone())?)),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.to_vec();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
