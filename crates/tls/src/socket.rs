//! What is below a connection: TCP, or a socket in the file system.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Of the network.
    Tcp(TcpStream),
    /// Of this machine.
    Unix(UnixStream),
}

impl Socket {
    /// The TCP connection, if it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Unix(_) => None,
        }
    }

    /// The other side's address; a socket of this machine has none.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    /// This side's address; a socket of this machine has none.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// Waits until there is something to read, or the other side has gone.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Unix(socket) => socket.readable().await,
        }
    }

    /// The version that a greeting which is already there begins with, as TLS writes it. Newer ones are told further behind.
    pub(crate) async fn first_version(&self) -> Option<u16> {
        /// Headers of the record and of the message in it, and the version.
        const LEN: usize = 5 + 4 + 2;
        let mut begin = [0; LEN];
        let len = self.tcp()?.peek(&mut begin).await.ok()?;
        let &[.., high, low] = begin.get(..len).filter(|read| read.len() == LEN)? else {
            return None;
        };
        Some(u16::from_be_bytes([high, low]))
    }

    /// Where the other side is, for a check of its names; `None` on this machine.
    pub(crate) fn origin(&self) -> io::Result<Option<IpAddr>> {
        match self {
            Self::Tcp(socket) => Ok(Some(socket.peer_addr()?.ip())),
            Self::Unix(_) => Ok(None),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

/// Calls a method of whatever is inside.
macro_rules! inner {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, socket => Pin::new(socket).poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, socket => Pin::new(socket).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, socket => Pin::new(socket).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, socket => Pin::new(socket).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, socket => Pin::new(socket).poll_shutdown(context))
    }
}
