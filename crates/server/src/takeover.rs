//! Connections that leave HTTP.
//!
//! tonic's server keeps its connections to itself: when hyper is done with one that was upgraded, tonic drops it. So a
//! connection can be claimed while a request on it is answered, and goes to whoever claimed it when it is dropped:
//!
//! ```text
//!  request ──► Claim::make ──► "101 Switching Protocols" ──► hyper drops the connection ──► it arrives at the claimant
//! ```
//!
//! What was written and not flushed goes along. What hyper has read beyond the request does not, and cannot be told from the
//! request; as nobody may speak another protocol before the answer, a connection on which somebody did is closed.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use serving::Gathered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::transport::server::Connected;

use crate::access::ConnectionInfo;

/// A client's connection, as it is below HTTP.
pub(crate) type Socket = Gathered<tls::Stream>;

/// How a request's head ends.
const HEAD_END: [u8; 4] = *b"\r\n\r\n";

/// The way to a connection for those who answer its requests.
///
/// The lock guards who waits for it; it is held for an assignment.
#[derive(Clone, Default)]
pub(crate) struct Claim(Arc<Mutex<Option<oneshot::Sender<Socket>>>>);

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").finish_non_exhaustive()
    }
}

impl Claim {
    /// Asks for the connection. It comes when HTTP has let go of it, or an error if it must not be used.
    pub(crate) fn make(&self) -> oneshot::Receiver<Socket> {
        let (claimant, socket) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(claimant);
        socket
    }

    fn take(&self) -> Option<oneshot::Sender<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection that can be claimed.
#[derive(Debug)]
pub(crate) struct Claimable {
    /// There until it is dropped.
    socket: Option<Socket>,
    claim: Claim,
    /// The last bytes that were read.
    tail: [u8; HEAD_END.len()],
}

impl Claimable {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket: Some(socket), claim: Claim::default(), tail: HEAD_END }
    }

    fn socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Claimable {
    fn drop(&mut self) {
        if let (Some(socket), Some(claimant)) = (self.socket.take(), self.claim.take())
            && self.tail == HEAD_END
        {
            // A claimant who has gone does not want it.
            let _ = claimant.send(socket);
        }
    }
}

/// The last bytes of what was there and what came.
fn moved_on(tail: [u8; HEAD_END.len()], came: &[u8]) -> [u8; HEAD_END.len()] {
    if let Some((_, last)) = came.split_last_chunk() {
        return *last;
    }
    let mut moved = tail;
    moved.rotate_left(came.len());
    moved[HEAD_END.len() - came.len()..].copy_from_slice(came);
    moved
}

impl AsyncRead for Claimable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.socket()?.poll_read(context, buffer);
        self.tail = moved_on(self.tail, buffer.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Claimable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(context)
    }
}

impl Connected for Claimable {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        let claim = self.claim.clone();
        let Some(stream) = self.socket.as_ref().map(Gathered::inner) else {
            return ConnectionInfo { claim, ..ConnectionInfo::default() };
        };
        ConnectionInfo {
            remote: stream.peer_address(),
            local: stream.local_address(),
            is_secure: stream.is_secure(),
            common_name: stream.common_name().map(Arc::from),
            claim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_what_came_last() {
        for (pieces, expected) in [
            (&["GET / HTTP/1.1\r\n\r\n"][..], b"\r\n\r\n"),
            (&["GET /\r\n\r", "\n"], b"\r\n\r\n"),
            (&["abcd", "", "e", "fg"], b"defg"),
            (&["GET /\r\n\r\n", "\u{1}"], b"\n\r\n\x01"),
        ] {
            let tail = pieces.iter().fold([0; 4], |tail, piece| moved_on(tail, piece.as_bytes()));
            assert_eq!(&tail, expected, "{pieces:?}");
        }
    }
}
