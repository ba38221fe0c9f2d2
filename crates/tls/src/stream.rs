//! A connection, secured or not.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Socket, wording};

/// A connection, with or without TLS on it.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(Socket),
    /// Accepted with TLS.
    Accepted(Box<tokio_rustls::server::TlsStream<Socket>>),
    /// Dialled with TLS.
    Dialled(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Stream {
    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Accepted(stream) => stream.get_ref().0,
            Self::Dialled(stream) => stream.get_ref().0,
        }
    }

    /// The common name in the certificate that a client showed and that was verified, empty if it has none; `None` without a
    /// certificate, and on connections that were dialled. Of several names the last, as in Go.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        let Self::Accepted(stream) = self else { return None };
        let leaf = stream.get_ref().1.peer_certificates()?.first()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let name = certificate.subject().iter_common_name().last();
        Some(name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned())
    }

    /// Whether what goes over it is encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The other side's address, while there is one.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.socket().peer_address()
    }

    /// This side's address, while there is one.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.socket().local_address()
    }
}

/// Calls a method of whatever is inside.
macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Accepted($stream) => $call,
            Stream::Dialled($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Here, and not in the handshake, a client of TLS 1.3 learns that its certificate is refused.
        let read = inner!(self, stream => Pin::new(stream).poll_read(context, buffer));
        read.map_err(wording::as_go)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Accepted(stream) => stream.is_write_vectored(),
            Self::Dialled(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
