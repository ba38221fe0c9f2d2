//! A listener's side of the handshake.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use crate::fresh::Fresh;
use crate::pair::Current;
use crate::verify::Clients;
use crate::wording::Greeting;
use crate::{
    Error, HANDSHAKE_LIMIT, Refused, Settings, Socket, Stream, origin, provider_with, wording,
};

/// Accepts connections under one side's settings. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    settings: Arc<Settings>,
    protocols: Arc<[Vec<u8>]>,
    /// With the authorities as their file has them.
    config: Arc<Fresh<Arc<ServerConfig>>>,
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
        // What is shown to others must be readable too: better now than at the first dial.
        if let Some(pair) = &settings.client_pair {
            Current::new(pair.clone())?;
        }
        settings.ciphers.check(protocols.iter().map(|name| name.as_bytes()))?;
        let settings = Arc::new(settings.clone());
        let protocols: Arc<[Vec<u8>]> =
            protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let files = settings.trusted_ca.iter().cloned().collect();
        let config = Fresh::new(files, || config(&settings, &protocols))?;
        Ok(Self { settings, protocols, config: Arc::new(config) })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The other side says nothing for too long, something else than TLS, or shows a certificate that is not believed. Inside is a
    /// [`Refused`] once it has said something.
    pub async fn accept(&self, socket: impl Into<Socket>) -> io::Result<Stream> {
        timeout(HANDSHAKE_LIMIT, self.shake_hands(socket.into())).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout"))
        })
    }

    async fn shake_hands(&self, socket: Socket) -> io::Result<Stream> {
        // The state of a handshake is some KiB, which a connection that says nothing does not get.
        socket.readable().await?;
        let origin = socket.origin()?;
        let oldest = socket.first_version().await;
        let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket);
        let begun = begun.await.map_err(|error| {
            Refused::default().because(&wording::of_greeting(error, oldest, &Greeting::default()))
        })?;
        let greeting = Greeting::of(&begun.client_hello());
        let about = || Refused { server_name: greeting.server_name.clone(), ..Refused::default() };
        let config = self.config.get_or_last(|| config(&self.settings, &self.protocols));
        let stream = begun
            .into_stream(config)
            .await
            .map_err(|error| about().because(&wording::of_greeting(error, oldest, &greeting)))?;
        if self.settings.check_origin
            && let Some(address) = origin
            && let Some([leaf, ..]) = stream.get_ref().1.peer_certificates()
            && let Err(error) = origin::check(leaf, address).await
        {
            let (addresses, names) = origin::hosts(leaf);
            return Err(Refused { addresses, names, ..about() }.because(&error));
        }
        Ok(Stream::Accepted(Box::new(stream)))
    }
}

/// What the library needs to know of the settings.
fn config(settings: &Settings, protocols: &[Vec<u8>]) -> Result<Arc<ServerConfig>, Error> {
    let pair = settings.pair.clone().ok_or(Error::NoPair)?;
    let provider = provider_with(&settings.ciphers);
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&settings.versions.list())?;
    let config = match settings.asks_for_certificates() {
        true => config.with_client_cert_verifier(Arc::new(Clients::new(settings, provider)?)),
        false => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(Arc::new(Current::new(pair)?));
    config.alpn_protocols = protocols.to_vec();
    // A resumed session would go past what has been revoked or replaced since. Connections are long here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
