//! The side of the handshake of one who dials.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::pair::Current;
use crate::verify::Servers;
use crate::{Error, HANDSHAKE_LIMIT, Settings, Stream, provider_with, wording};

/// Secures dialled connections under one side's settings. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
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
        let provider = provider_with(&settings.ciphers);
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&settings.versions.list())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers::new(settings, provider)?));
        let mut config = match settings.client_pair.as_ref().or(settings.pair.as_ref()) {
            Some(pair) => config.with_client_cert_resolver(Arc::new(Current::new(pair.clone())?)),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Shakes hands with a server of that name, a host name or an address.
    ///
    /// # Errors
    /// The server says nothing for too long, something else than TLS, or shows a certificate that is not believed or not its own.
    pub async fn connect(&self, socket: TcpStream, name: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a host"))
        })?;
        match timeout(HANDSHAKE_LIMIT, self.connector.connect(name, socket)).await {
            Ok(stream) => Ok(Stream::Dialled(Box::new(stream.map_err(wording::as_go)?))),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout")),
        }
    }
}
