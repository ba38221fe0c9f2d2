//! Addresses, listeners, and the connections that come in.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serving::{Gathered, Pings};
use tls::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::socket;

/// How long to wait after the system had no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait between their handshake and being served; one more waits in its handshake.
const READY_MAX: usize = 64;

/// What follows `scheme://`, up to the path.
pub(crate) fn without_scheme(address: &str) -> &str {
    match address.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or_default(),
        None => address,
    }
}

/// Splits at the colon before the port; brackets around an IPv6 address go.
pub(crate) fn host_and_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => Some((host, port)),
        None if host.contains([':', '[', ']']) => None,
        None => Some((host, port)),
    }
}

/// The reverse of [`host_and_port`].
pub(crate) fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Listens on `host:port`; without a host on all addresses, as in Go.
pub(crate) async fn bind(address: &str) -> io::Result<TcpListener> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let (host, port) = host_and_port(address).ok_or_else(|| invalid("missing port in address"))?;
    let port: u16 = port.parse().map_err(|_| invalid("invalid port"))?;
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    // As Go: of a name's addresses, the IPv4 one.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let first = addresses.first().ok_or_else(|| invalid("the host has no address"))?;
    TcpListener::bind(first).await
}

/// Whether accepting may go on after this error.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let is_out_of_files = matches!(error.raw_os_error(), Some(code)
        if code == rustix::io::Errno::MFILE.raw_os_error()
            || code == rustix::io::Errno::NFILE.raw_os_error());
    is_out_of_files
        || matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        )
}

/// Waits until there may be room for a connection again.
pub(crate) async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

/// Accepts connections, secured if there is an acceptor, whose clients may ping that often, if that is said. Handshakes run beside each other.
/// Ends when the listener fails.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<Acceptor>,
    ping_interval_min: Option<Duration>,
) -> Incoming {
    let (ready, connections) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        loop {
            let socket = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => socket,
                    Err(error) if is_passing(&error) => {
                        pause().await;
                        continue;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error)).await;
                        return;
                    }
                },
                () = ready.closed() => return,
            };
            socket::set_up(&socket);
            let (tls, ready) = (tls.clone(), ready.clone());
            tokio::spawn(async move {
                if let Some(stream) = secured(tls, socket).await {
                    let connection = Gathered::new(stream);
                    let connection = match ping_interval_min {
                        Some(min) => connection.with_pings(Pings::new(min)),
                        None => connection,
                    };
                    // Nobody serves any more.
                    let _ = ready.send(Ok(Accepted(connection))).await;
                }
            });
        }
    });
    Incoming { connections }
}

async fn secured(tls: Option<Acceptor>, socket: TcpStream) -> Option<tls::Stream> {
    let Some(acceptor) = tls else { return Some(tls::Stream::Plain(socket.into())) };
    let remote = socket.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    match acceptor.accept(socket).await {
        Ok(stream) => Some(stream),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => {
            tracing::warn!(remote_addr = remote, error = %error, "rejected connection");
            None
        }
    }
}

/// Connections that are ready to be served.
pub(crate) struct Incoming {
    connections: mpsc::Receiver<io::Result<Accepted>>,
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(context)
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Accepted(Gathered<tls::Stream>);

/// What is known of a client's connection: an extension of each of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) Option<SocketAddr>);

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(self.0.inner().peer_address())
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
