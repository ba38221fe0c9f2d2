//! Listeners: bound before anything else happens; for gRPC and HTTP over one port, or for one of them.
//!
//! ```text
//!  URLs ──► bind ──► Listener ──► serve(entrance)
//!                    one for each address: if one of its URLs is https and another http, the first byte of a
//!                    connection tells (a TLS record begins with 22, no HTTP request does)
//! ```
//!
//! Handshakes run beside each other: one that takes long holds up nobody.
//!
//! Upstream: server/embed/serve.go, client/pkg/transport/unix_listener.go (3.5.30).

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serving::{Gathered, Pings, bind_error};
use tls::{Acceptor, Socket};
use tokio::net::{TcpListener, TcpSocket, UnixListener, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

use crate::bootstrap::StartError;
use crate::config::{Config, Url};
use crate::deadline::Stamps;
use crate::entrance::Entrance;
use crate::socket;
use crate::takeover::Claimable;

/// The first byte of a TLS handshake.
const TLS_RECORD: u8 = 22;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Door {
    /// At an address of the network.
    Tcp(TcpListener),
    /// At a file.
    Unix {
        listener: UnixListener,
        /// Dropped with it.
        _file: SocketFile,
    },
}

/// The file of a socket; it goes with its listener.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have taken it away; the next listener copes with one that is left.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Door {
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        std::future::poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        Poll::Ready(Ok(match self {
            Self::Tcp(listener) => ready!(listener.poll_accept(context))?.0.into(),
            Self::Unix { listener, .. } => ready!(listener.poll_accept(context))?.0.into(),
        }))
    }
}

/// A bound listener and the URLs it stands for.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The first URL; others differ from it in their scheme.
    url: Url,
    /// Whether connections are secured.
    security: Security,
    door: Door,
}

/// Whether a listener's connections are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Plain,
    Secured,
    /// Some are, some are not.
    Mixed,
}

impl Listener {
    /// Where it listens, for the log: host and port, or a path.
    pub(crate) fn address(&self) -> String {
        match &self.door {
            Door::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| self.url.to_string(), |at| at.to_string())
            }
            Door::Unix { .. } => self.url.to_string(),
        }
    }

    /// The socket, and what secures it if its URL says so. Of mixed ones all are secured: members do not mix.
    pub(crate) fn into_parts(self, tls: Option<&Acceptor>) -> (Door, Option<Acceptor>) {
        let tls = tls.filter(|_| self.security != Security::Plain).cloned();
        (self.door, tls)
    }
}

/// What a listener for clients serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Both gRPC and HTTP.
    All,
    /// gRPC alone: HTTP has listeners of its own.
    Grpc,
    /// HTTP alone.
    Http,
    /// Health and metrics alone.
    Metrics,
}

impl Traffic {
    fn name(self) -> &'static str {
        match self {
            Self::All => "grpc+http",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Metrics => "metrics",
        }
    }
}

/// What is set on client connections.
#[derive(Debug, Clone)]
pub(crate) struct GrpcOptions {
    max_concurrent_streams: u32,
    keepalive_interval: Option<Duration>,
    keepalive_timeout: Duration,
    /// Shortest time between two pings of a client.
    keepalive_min_time: Duration,
}

impl GrpcOptions {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: Some(config.keepalive_interval)
                .filter(|interval| !interval.is_zero()),
            keepalive_timeout: config.keepalive_timeout,
            keepalive_min_time: config.keepalive_min_time,
        }
    }
}

/// Window of one stream: a large request is not held up by acknowledgements, and a thousand streams that send nothing cost
/// nothing.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Window of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// After an `accept` that failed: most often there are too many open files, and trying at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds all URLs, those of one address together.
pub(crate) async fn bind(urls: &[Url], reuse_port: bool) -> Result<Vec<Listener>, StartError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for url in urls {
        let security = if url.is_secure() { Security::Secured } else { Security::Plain };
        let is_same = |listener: &&mut Listener| {
            url.socket_path().is_none()
                && (listener.url.host(), listener.url.port()) == (url.host(), url.port())
                && url.port() != 0
        };
        if let Some(listener) = listeners.iter_mut().find(is_same) {
            if listener.security != security {
                listener.security = Security::Mixed;
            }
            continue;
        }
        let door = bind_one(url, reuse_port).await.map_err(|error| StartError::Listen {
            url: url.to_string(),
            source: io::Error::new(error.kind(), bind_error(&error)),
        })?;
        listeners.push(Listener { url: url.clone(), security, door });
    }
    Ok(listeners)
}

async fn bind_one(url: &Url, reuse_port: bool) -> io::Result<Door> {
    if let Some(path) = url.socket_path() {
        // What a member left that was killed; anything else than a socket stays.
        use std::os::unix::fs::FileTypeExt as _;
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        return Ok(Door::Unix { listener, _file: SocketFile(path.to_owned()) });
    }
    let mut addresses: Vec<SocketAddr> = lookup_host((url.host(), url.port())).await?.collect();
    // As Go: of a name's addresses, the IPv4 one.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let Some(address) = addresses.first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    };
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    // Connections of a member before this one may linger.
    socket.set_reuseaddr(true)?;
    if reuse_port {
        socket.set_reuseport(true)?;
    }
    socket.bind(*address)?;
    socket.listen(BACKLOG).map(Door::Tcp)
}

/// Serves clients until told to stop.
pub(crate) async fn serve(
    listener: Listener,
    traffic: Traffic,
    tls: Option<&Acceptor>,
    entrance: Entrance,
    options: GrpcOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let address = listener.address();
    let server = tonic::transport::Server::builder()
        .layer(Stamps)
        .accept_http1(traffic != Traffic::Grpc)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(options.keepalive_interval)
        .http2_keepalive_timeout(Some(options.keepalive_timeout));
    match (traffic, listener.security) {
        (Traffic::Metrics, _) => tracing::info!(address, "serving metrics"),
        (_, Security::Secured | Security::Mixed) => {
            tracing::info!(traffic = traffic.name(), address, "serving client traffic securely");
        }
        (_, Security::Plain) => tracing::info!(
            traffic = traffic.name(),
            address,
            "serving client traffic insecurely; this is strongly discouraged!"
        ),
    }
    let stopped = async move {
        // An error means that the member is gone, which is a stop too.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    let is_mixed = listener.security == Security::Mixed;
    let (door, tls) = listener.into_parts(tls);
    let incoming = Incoming {
        door,
        tls,
        is_mixed,
        handshakes: JoinSet::new(),
        pause: None,
        pings: PingPolicy {
            min: options.keepalive_min_time,
            // As in etcd, where another server takes secured connections that may carry both.
            holds_when_secured: traffic == Traffic::Grpc,
        },
    };
    let served = server.serve_with_incoming_shutdown(entrance, incoming, stopped).await;
    if let Err(error) = served {
        tracing::error!(address, error = %error, "listener failed");
    }
}

/// How often clients may ping.
#[derive(Debug, Clone, Copy)]
struct PingPolicy {
    /// Shortest time between two pings.
    min: Duration,
    /// Whether that holds for secured connections.
    holds_when_secured: bool,
}

impl PingPolicy {
    fn connection(self, stream: tls::Stream) -> Gathered<tls::Stream> {
        let holds = self.holds_when_secured || !stream.is_secure();
        let connection = Gathered::new(stream);
        if holds { connection.with_pings(Pings::new(self.min)) } else { connection }
    }
}

/// Connections that are ready to be served.
struct Incoming {
    door: Door,
    tls: Option<Acceptor>,
    /// Not all of them are secured.
    is_mixed: bool,
    /// Those that are being secured; `None` came of one that failed.
    handshakes: JoinSet<Option<tls::Stream>>,
    /// Until when nobody is let in.
    pause: Option<Pin<Box<Sleep>>>,
    pings: PingPolicy,
}

impl Incoming {
    /// Waits until connections are taken in again, if the last one could not be.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// A connection as HTTP sees it.
    fn connection(&self, stream: tls::Stream) -> Claimable {
        Claimable::new(self.pings.connection(stream))
    }
}

impl Stream for Incoming {
    type Item = io::Result<Claimable>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.poll_pause(context).is_ready() {
            let socket = match self.door.poll_accept(context) {
                Poll::Ready(Ok(socket)) => socket,
                Poll::Ready(Err(error)) => {
                    tracing::warn!(error = %error, "failed to accept a connection of a client");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                    continue;
                }
                Poll::Pending => break,
            };
            socket::set_up_any(&socket);
            let Some(acceptor) = self.tls.clone() else {
                return Poll::Ready(Some(Ok(self.connection(tls::Stream::Plain(socket)))));
            };
            let is_mixed = self.is_mixed;
            self.handshakes.spawn(async move {
                if is_mixed && !begins_tls(&socket).await {
                    return Some(tls::Stream::Plain(socket));
                }
                secured(acceptor, socket, "client").await
            });
        }
        // The set says that it is empty at once, and is asked again when a connection has come.
        while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(context) {
            if let Ok(Some(stream)) = ended {
                return Poll::Ready(Some(Ok(self.connection(stream))));
            }
        }
        Poll::Pending
    }
}

/// Whether the client begins a handshake. One that says nothing in time does, and fails at it.
async fn begins_tls(socket: &Socket) -> bool {
    let Some(socket) = socket.tcp() else { return true };
    let mut first = [0];
    match tokio::time::timeout(tls::HANDSHAKE_LIMIT, socket.peek(&mut first)).await {
        Ok(Ok(1..)) => first == [TLS_RECORD],
        Ok(Ok(0) | Err(_)) | Err(_) => true,
    }
}

/// Shakes hands with a client or peer, and tells of those it did not come to terms with.
pub(crate) async fn secured(
    acceptor: Acceptor,
    socket: Socket,
    side: &'static str,
) -> Option<tls::Stream> {
    let remote = socket.peer_address().map(|address| address.to_string()).unwrap_or_default();
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
            let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<tls::Refused>());
            let server_name =
                refused.map(|refused| refused.server_name.as_str()).unwrap_or_default();
            match refused
                .filter(|refused| !(refused.addresses.is_empty() && refused.names.is_empty()))
            {
                // Of a certificate that was believed, and belongs elsewhere.
                Some(tls::Refused { addresses, names, .. }) => tracing::warn!(
                    remote_addr = remote,
                    server_name,
                    ip_addresses = ?addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    dns_names = ?names,
                    error = %error,
                    "rejected connection on {side} endpoint"
                ),
                None => tracing::warn!(
                    remote_addr = remote,
                    server_name,
                    error = %error,
                    "rejected connection on {side} endpoint"
                ),
            }
            None
        }
    }
}

#[cfg(test)]
pub(crate) mod served;
#[cfg(test)]
mod tests;
