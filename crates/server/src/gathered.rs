//! Connections that write when everybody had a turn.
//!
//! The connection's task is woken by the first answer that is ready, and would send it at once, although the tasks of other
//! answers are about to run: one system call for each answer, which is nearly half of what a small request costs. So the
//! first write after a flush is put off by one turn of the executor. The task goes to the end of the run queue, the other
//! answers join the connection's buffer, and one call sends them all. Alone, an answer waits for nothing but that turn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A connection whose first write after a flush waits for a turn.
#[derive(Debug)]
pub(crate) struct Gathered<S> {
    inner: S,
    /// The turn was given; writes go through until the next flush.
    had_turn: bool,
}

impl<S> Gathered<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, had_turn: false }
    }

    fn give_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.had_turn {
            return Poll::Ready(());
        }
        self.had_turn = true;
        // A task that wakes itself goes to the end of the queue.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.give_turn(context));
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.give_turn(context));
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.had_turn = false;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Gathered<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn the_first_write_after_a_flush_waits_for_a_turn_and_the_rest_do_not() {
        let mut connection = Gathered::new(Vec::new());
        let mut context = Context::from_waker(Waker::noop());
        let mut write = |connection: &mut Gathered<Vec<u8>>, text: &[u8]| {
            Pin::new(connection).poll_write(&mut context, text).map(Result::unwrap)
        };
        assert_eq!(write(&mut connection, b"a"), Poll::Pending);
        assert_eq!(write(&mut connection, b"a"), Poll::Ready(1));
        assert_eq!(write(&mut connection, b"b"), Poll::Ready(1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut connection).poll_flush(&mut context).is_ready());
        assert!(Pin::new(&mut connection).poll_write(&mut context, b"c").is_pending());
        assert_eq!(connection.inner, b"ab");
    }
}
