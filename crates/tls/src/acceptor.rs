//! A listener's side of the handshake.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::pair::Current;
use crate::verify::Clients;
use crate::{Error, HANDSHAKE_LIMIT, Settings, Stream, origin, provider_with, wording};

/// Accepts connections under one side's settings. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
    checks_origin: bool,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Reads the files. `protocols` are offered to those who ask for one, best first: `h2`, `http/1.1`.
    ///
    /// # Errors
    /// A file is missing or holds something else, or there is no certificate to show.
    pub fn new(settings: &Settings, protocols: &[&str]) -> Result<Self, Error> {
        let pair = settings.pair.clone().ok_or(Error::NoPair)?;
        // What is shown to others must be readable too: better now than at the first dial.
        if let Some(pair) = &settings.client_pair {
            Current::new(pair.clone())?;
        }
        let provider = provider_with(&settings.ciphers);
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&settings.versions.list())?;
        let config = match settings.asks_for_certificates() {
            true => config.with_client_cert_verifier(Arc::new(Clients::new(settings, provider)?)),
            false => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::new(Current::new(pair)?));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        // A resumed session would go past what has been revoked or replaced since. Connections are long here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            checks_origin: settings.check_origin,
        })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The other side says nothing for too long, something else than TLS, or shows a certificate that is not believed.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<Stream> {
        timeout(HANDSHAKE_LIMIT, self.shake_hands(socket)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout"))
        })
    }

    async fn shake_hands(&self, socket: TcpStream) -> io::Result<Stream> {
        // The state of a handshake is some KiB, which a connection that says nothing does not get.
        socket.readable().await?;
        let address = socket.peer_addr()?.ip();
        let stream = self.acceptor.accept(socket).await.map_err(wording::as_go)?;
        if self.checks_origin
            && let Some([leaf, ..]) = stream.get_ref().1.peer_certificates()
        {
            origin::check(leaf, address).await?;
        }
        Ok(Stream::Accepted(Box::new(stream)))
    }
}
