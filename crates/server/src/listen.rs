//! Listeners: bound before anything else happens, served over one port for gRPC and HTTP.
//!
//! Handshakes run beside each other: one that takes long holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tls::Acceptor;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::service::Routes;

use crate::bootstrap::StartError;
use crate::config::{Config, Url};
use crate::gathered::Gathered;
use crate::socket;

/// A bound listener and the URL it stands for.
#[derive(Debug)]
pub(crate) struct Listener {
    url: Url,
    listener: TcpListener,
}

impl Listener {
    /// Host and port, for the log.
    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().map_or_else(|_| self.url.to_string(), |at| at.to_string())
    }

    /// The socket, and what secures it if its URL says so.
    pub(crate) fn into_parts(self, tls: Option<&Acceptor>) -> (TcpListener, Option<Acceptor>) {
        let tls = tls.filter(|_| self.url.is_secure()).cloned();
        (self.listener, tls)
    }
}

/// What is set on client connections.
#[derive(Debug, Clone)]
pub(crate) struct GrpcOptions {
    max_concurrent_streams: u32,
    keepalive_interval: Option<Duration>,
    keepalive_timeout: Duration,
}

impl GrpcOptions {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: Some(config.keepalive_interval)
                .filter(|interval| !interval.is_zero()),
            keepalive_timeout: config.keepalive_timeout,
        }
    }
}

/// Window of one stream: a large request is not held up by acknowledgements, and a thousand streams that send nothing cost
/// nothing.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Window of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Binds all URLs.
pub(crate) async fn bind(urls: &[Url]) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for url in urls {
        let listener = bind_one(url)
            .await
            .map_err(|source| StartError::Listen { url: url.to_string(), source })?;
        listeners.push(Listener { url: url.clone(), listener });
    }
    Ok(listeners)
}

async fn bind_one(url: &Url) -> io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = lookup_host((url.host(), url.port())).await?.collect();
    // As Go: of a name's addresses, the IPv4 one.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let Some(address) = addresses.first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    };
    TcpListener::bind(address).await
}

/// Serves clients until told to stop.
pub(crate) async fn serve(
    listener: Listener,
    tls: Option<&Acceptor>,
    routes: Routes,
    options: GrpcOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let address = listener.address();
    let (listener, tls) = listener.into_parts(tls);
    let mut server = tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(options.keepalive_interval)
        .http2_keepalive_timeout(Some(options.keepalive_timeout));
    match tls {
        Some(_) => {
            tracing::info!(traffic = "grpc+http", address, "serving client traffic securely");
        }
        None => tracing::info!(
            traffic = "grpc+http",
            address,
            "serving client traffic insecurely; this is strongly discouraged!"
        ),
    }
    let stopped = async move {
        // An error means that the member is gone, which is a stop too.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    let incoming = Incoming { listener, tls, handshakes: JoinSet::new() };
    let served = server.add_routes(routes).serve_with_incoming_shutdown(incoming, stopped).await;
    if let Err(error) = served {
        tracing::error!(address, error = %error, "listener failed");
    }
}

/// Connections that are ready to be served.
struct Incoming {
    listener: TcpListener,
    tls: Option<Acceptor>,
    /// Those that are being secured; `None` came of one that failed.
    handshakes: JoinSet<Option<tls::Stream>>,
}

impl Stream for Incoming {
    type Item = io::Result<Gathered<tls::Stream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let socket = match self.listener.poll_accept(context) {
                Poll::Ready(Ok((socket, _))) => socket,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => break,
            };
            socket::set_up(&socket);
            let Some(acceptor) = self.tls.clone() else {
                return Poll::Ready(Some(Ok(Gathered::new(tls::Stream::Plain(socket)))));
            };
            self.handshakes.spawn(secured(acceptor, socket, "client"));
        }
        // The set says that it is empty at once, and is asked again when a connection has come.
        while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(context) {
            if let Ok(Some(stream)) = ended {
                return Poll::Ready(Some(Ok(Gathered::new(stream))));
            }
        }
        Poll::Pending
    }
}

/// Shakes hands with a client or peer, and tells of those it did not come to terms with.
pub(crate) async fn secured(
    acceptor: Acceptor,
    socket: TcpStream,
    side: &'static str,
) -> Option<tls::Stream> {
    let remote = socket.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    match acceptor.accept(socket).await {
        Ok(stream) => Some(stream),
        // Port scans and health checks of load balancers.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(
                remote_addr = remote,
                "connection on {side} endpoint ended before its handshake"
            );
            None
        }
        Err(error) => {
            tracing::warn!(remote_addr = remote, error = %error, "rejected connection on {side} endpoint");
            None
        }
    }
}
