//! Connections that write when everybody had a turn.
//!
//! The connection's task is woken by the first answer that is ready, and would send it at once, although the tasks of other
//! answers are about to run: one system call for each answer, which is nearly half of what a small request costs. So what is
//! written is kept until the connection flushes, and the flush is put off by one turn of the executor: the task goes to
//! the end of the run queue, the other answers join, and one call sends them all.
//!
//! ```text
//!  write ──► buffer ──► flush ──► a turn ──► flush ──► socket
//!    └────── too large to copy: buffer and all at once ──────────►
//! ```
//!
//! What is read and written is shown to [`Pings`] where the policy on them is to be kept. A connection with too many of them reads
//! its end, and the last that it writes is the reason.
//!
//! A turn costs a caller who is alone a way around the executor, which is often another thread. So a connection on which turns
//! have brought nothing for a while writes at once, and only tries again now and then.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pings::Pings;

/// What does not fit is written through: above it, copying costs more than a system call.
const BUFFER_BYTES: usize = 16 * 1024;
/// Most slices of one write.
const SLICES_MAX: usize = 16;
/// So many turns in a row that bring nothing, and turns are left out.
const FRUITLESS_MAX: u8 = 8;
/// So many flushes go without a turn until one is tried again.
const LEFT_OUT: u8 = 64;

/// A connection whose flush waits for a turn.
#[derive(Debug)]
pub struct Gathered<S> {
    inner: S,
    /// Written by the connection, not yet by the socket.
    buffer: BytesMut,
    stage: Stage,
    /// Turns in a row after which there was no more to write than before.
    fruitless: u8,
    /// Flushes that still go without a turn.
    left_out: u8,
    /// Where clients must not ping as they like.
    pings: Option<Box<Pings>>,
    /// The client is being sent away.
    is_over: bool,
}

/// Where a connection is between two flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Collecting what is written.
    Open,
    /// A turn is given; there were so many bytes before it.
    Waiting { before: usize },
    /// On its way to the socket.
    Writing,
}

impl<S> Gathered<S> {
    /// A connection whose client may ping as it likes.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            buffer: BytesMut::new(),
            stage: Stage::Open,
            fruitless: 0,
            left_out: 0,
            pings: None,
            is_over: false,
        }
    }

    /// What is under it.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The same, whose client is sent away if it pings too often.
    #[must_use]
    pub fn with_pings(self, pings: Pings) -> Self {
        Self { pings: Some(Box::new(pings)), ..self }
    }

    /// Shows the first bytes of these parts to the policy on pings.
    fn show_written(&mut self, parts: &[IoSlice<'_>], count: usize) {
        let Some(pings) = &mut self.pings else { return };
        let mut left = count;
        for part in parts {
            let (shown, _) = part.split_at(part.len().min(left));
            pings.send(shown);
            left -= shown.len();
        }
    }

    /// Says why a connection ends whose client is sent away, if that can be said now. The last that it says.
    fn say_farewell(&mut self) {
        if std::mem::take(&mut self.is_over)
            && let Some(farewell) = self.pings.take().and_then(|pings| pings.farewell())
        {
            self.buffer.extend_from_slice(&farewell);
        }
    }

    fn give_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        match self.stage {
            Stage::Open if self.left_out > 0 => self.left_out -= 1,
            Stage::Open => {
                self.stage = Stage::Waiting { before: self.buffer.len() };
                // A task that wakes itself goes to the end of the queue.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Stage::Waiting { before } if self.buffer.len() > before => self.fruitless = 0,
            Stage::Waiting { .. } if self.fruitless < FRUITLESS_MAX => self.fruitless += 1,
            Stage::Waiting { .. } => self.left_out = LEFT_OUT,
            Stage::Writing => {}
        }
        self.stage = Stage::Writing;
        Poll::Ready(())
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn write_buffer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the buffer and these parts together, until something of the parts is written.
    fn write_through(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while !self.buffer.is_empty() {
            let mut all = [IoSlice::new(&[]); SLICES_MAX];
            all[0] = IoSlice::new(&self.buffer);
            let count = parts.len().min(SLICES_MAX - 1);
            all[1..=count].copy_from_slice(&parts[..count]);
            let written =
                ready!(Pin::new(&mut self.inner).poll_write_vectored(context, &all[..=count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_buffer = written.min(self.buffer.len());
            self.buffer.advance(of_buffer);
            if written > of_buffer {
                return Poll::Ready(Ok(written - of_buffer));
            }
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(pings) = &mut this.pings else {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        };
        let missing = pings.missing();
        if pings.are_too_many() && missing > 0 {
            // The library ends a connection in order between two frames only: the one that is under way is read.
            let room = missing.min(buffer.remaining());
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut part))?;
            let count = part.filled().len();
            pings.receive(part.filled(), Instant::now);
            buffer.advance(count);
            return Poll::Ready(Ok(()));
        }
        if pings.are_too_many() {
            // That nothing is read is the end. What is there to be written is written, answers to pings too.
            this.is_over = true;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        pings.receive(buffer.filled().get(before..).unwrap_or_default(), Instant::now);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.buffer.len() + offered > BUFFER_BYTES {
            let written = ready!(self.write_through(context, parts))?;
            self.show_written(parts, written);
            return Poll::Ready(Ok(written));
        }
        self.show_written(parts, offered);
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        Poll::Ready(Ok(offered))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() {
            ready!(self.give_turn(context));
            ready!(self.write_buffer(context))?;
        }
        self.stage = Stage::Open;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.say_farewell();
        ready!(self.write_buffer(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// A socket that takes a few bytes at a time, and counts its calls.
    #[derive(Debug, Default)]
    struct Socket {
        taken: Vec<u8>,
        most: usize,
        calls: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.calls += 1;
            if self.most < usize::MAX && self.calls.is_multiple_of(3) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = bytes.len().min(self.most);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn connection(most: usize) -> Gathered<Socket> {
        Gathered::new(Socket { most, ..Socket::default() })
    }

    fn write(connection: &mut Gathered<Socket>, bytes: &[u8]) -> Poll<usize> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(connection).poll_write(&mut context, bytes).map(Result::unwrap)
    }

    fn flush(connection: &mut Gathered<Socket>) -> Poll<()> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(connection).poll_flush(&mut context).map(Result::unwrap)
    }

    #[test]
    fn what_joins_during_the_turn_is_sent_by_the_same_call() {
        let mut connection = connection(usize::MAX);
        assert_eq!(write(&mut connection, b"a"), Poll::Ready(1));
        assert!(flush(&mut connection).is_pending());
        assert_eq!(write(&mut connection, b"b"), Poll::Ready(1));
        assert!(flush(&mut connection).is_ready());
        assert_eq!((connection.inner.taken.as_slice(), connection.inner.calls), (&b"ab"[..], 1));
    }

    #[test]
    fn who_is_always_alone_waits_now_and_then_only() {
        let mut connection = connection(usize::MAX);
        let mut turns = 0;
        for _ in 0..10 * usize::from(LEFT_OUT) {
            assert!(write(&mut connection, b"a").is_ready());
            while flush(&mut connection).is_pending() {
                turns += 1;
            }
        }
        let least = 10 + usize::from(FRUITLESS_MAX);
        assert!((least - 2..least + 2).contains(&turns), "{turns}");
        // A turn that brings something makes turns worth while again.
        assert!(write(&mut connection, b"a").is_ready());
        while flush(&mut connection).is_ready() {
            assert!(write(&mut connection, b"a").is_ready());
        }
        assert!(write(&mut connection, b"b").is_ready());
        assert!(flush(&mut connection).is_ready());
        for _ in 0..FRUITLESS_MAX {
            assert!(write(&mut connection, b"a").is_ready());
            assert!(flush(&mut connection).is_pending());
            assert!(flush(&mut connection).is_ready());
        }
    }

    #[tokio::test]
    async fn whoever_pings_too_often_is_told_and_sent_away() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0 a ping ";
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server =
            Gathered::new(server).with_pings(Pings::new(std::time::Duration::from_secs(5)));
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&PING.repeat(5)).await.unwrap();
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 24 + 5 * PING.len(), "what came is taken");
        // The last ping is answered, then comes the reason.
        server.write_all(b"\0\0\x08\x06\x01\0\0\0\0 answer ").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        assert!(told[8..].starts_with(b"\0 answer \0\0\x16\x07"), "{told:?}");
        assert!(told.ends_with(b"\0\0\0\x0btoo_many_pings"), "{told:?}");
    }

    proptest! {
        #[test]
        fn all_that_is_written_arrives_in_order(
            lengths in prop::collection::vec(0..3 * BUFFER_BYTES, 1..20),
            most in 1..40_000_usize,
        ) {
            let mut connection = connection(most);
            let mut expected = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|at| u8::try_from((at + number) % 251).unwrap()).collect();
                expected.extend_from_slice(&bytes);
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    if let Poll::Ready(count) = write(&mut connection, rest) {
                        rest = &rest[count..];
                    }
                }
                if number % 2 == 0 {
                    while flush(&mut connection).is_pending() {}
                    prop_assert_eq!(connection.inner.taken.len(), expected.len());
                }
            }
            while flush(&mut connection).is_pending() {}
            prop_assert!(connection.inner.taken == expected);
        }
    }
}
