//! Listeners: bound before anything else happens, served over one port for gRPC and HTTP.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;

use crate::bootstrap::StartError;
use crate::config::{Config, Url};
use crate::gathered::Gathered;

/// A bound listener and the URL it stands for.
#[derive(Debug)]
pub(crate) struct Listener {
    url: String,
    listener: TcpListener,
}

impl Listener {
    /// The socket alone.
    pub(crate) fn into_inner(self) -> TcpListener {
        self.listener
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
        listeners.push(Listener { url: url.to_string(), listener });
    }
    Ok(listeners)
}

async fn bind_one(url: &Url) -> std::io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = lookup_host((url.host(), url.port())).await?.collect();
    // As Go: of a name's addresses, the IPv4 one.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let Some(address) = addresses.first() else {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address"));
    };
    TcpListener::bind(address).await
}

/// Serves until told to stop.
pub(crate) async fn serve(
    listener: Listener,
    routes: Routes,
    options: Option<GrpcOptions>,
    mut stopping: watch::Receiver<bool>,
) {
    let Listener { url, listener } = listener;
    let mut server = tonic::transport::Server::builder()
        .accept_http1(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    match options {
        Some(options) => {
            server = server
                .max_concurrent_streams(options.max_concurrent_streams)
                .http2_keepalive_interval(options.keepalive_interval)
                .http2_keepalive_timeout(Some(options.keepalive_timeout));
            tracing::info!(
                traffic = "grpc+http",
                address = url,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        None => tracing::info!(address = url, "serving peer traffic"),
    }
    let stopped = async move {
        // An error means that the member is gone, which is a stop too.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    let incoming = TcpListenerStream::new(listener);
    let served =
        server.add_routes(routes).serve_with_incoming_shutdown(Accepted(incoming), stopped).await;
    if let Err(error) = served {
        tracing::error!(address = url, error = %error, "listener failed");
    }
}

/// Accepted connections, set up.
struct Accepted(TcpListenerStream);

impl Stream for Accepted {
    type Item = std::io::Result<Gathered<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = ready!(Pin::new(&mut self.0).poll_next(context));
        Poll::Ready(accepted.map(|stream| {
            let stream = stream?;
            // Answers are small, and waiting to fill a packet costs a round trip. A socket that cannot be set still serves.
            let _ = stream.set_nodelay(true);
            Ok(Gathered::new(stream))
        }))
    }
}
