//! The streams that this member writes: the answers to requests that the peer sent.
//!
//! An answer's body never ends. The server asks it for bytes whenever the socket takes some, and gets what is queued by then
//! as one chunk: the busier the connection, the larger the chunks. So nothing is copied between tasks, and a peer that reads slowly
//! fills the queue and no more.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use raft::{Message, NodeId};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::Host;
use super::codec::{Encoder, StreamKind};
use super::queue::{Queue, Refused};
use super::status::Status;

/// Messages that wait for one stream, as in etcd.
const QUEUE_MESSAGES: usize = 4096;
/// About the largest chunk; a larger message makes a larger one.
const CHUNK_BYTES: usize = 64 * 1024;
/// A reader gives up after 5 s without a byte.
const LINK_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(5_000 / 3);

/// One kind of stream to one peer, connected or not.
#[derive(Debug)]
pub(crate) struct Outgoing {
    kind: StreamKind,
    peer: NodeId,
    host: Arc<dyn Host>,
    status: Arc<Status>,
    /// Held to look at or change it; the queue's own lock is taken after it or without it.
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    /// What the connection sends; `None` without one.
    queue: Option<Arc<Queue>>,
    /// The peer is no longer one.
    is_stopped: bool,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is on its way.
    Queued,
    /// It is lost.
    Full,
}

impl Outgoing {
    pub(crate) fn new(
        kind: StreamKind,
        peer: NodeId,
        host: Arc<dyn Host>,
        status: Arc<Status>,
    ) -> Self {
        Self { kind, peer, host, status, link: Mutex::default() }
    }

    /// Queues the message; it comes back if there is no connection.
    pub(crate) fn push(&self, message: Message) -> Result<Pushed, Message> {
        let queue = match &self.lock().queue {
            Some(queue) => Arc::clone(queue),
            None => return Err(message),
        };
        Ok(match queue.push(message) {
            Ok(()) => Pushed::Queued,
            // Closed in between: what is lost with a connection is lost.
            Err(Refused::Full | Refused::Closed) => Pushed::Full,
        })
    }

    /// Whether the peer reads this stream.
    #[cfg(test)]
    pub(crate) fn is_connected(&self) -> bool {
        self.lock().queue.is_some()
    }

    /// Takes over a connection: its answer's body. The one before ends. `None` if the peer is no longer one.
    pub(crate) fn attach(self: &Arc<Self>) -> Option<StreamBody> {
        let queue = Arc::new(Queue::new(QUEUE_MESSAGES));
        let mut link = self.lock();
        if link.is_stopped {
            return None;
        }
        let replaced = link.queue.replace(Arc::clone(&queue));
        drop(link);
        if let Some(replaced) = replaced {
            if replaced.close() > 0 {
                self.host.unreachable(self.peer);
            }
            tracing::warn!(
                stream_writer_type = %self.kind,
                remote_peer_id = %self.peer,
                "closed TCP streaming connection with remote peer"
            );
        }
        tracing::info!(
            stream_writer_type = %self.kind,
            remote_peer_id = %self.peer,
            "established TCP streaming connection with remote peer"
        );
        self.status.activate();
        Some(StreamBody::new(Arc::clone(self), queue))
    }

    /// Ends the connection, and takes no other.
    pub(crate) fn stop(&self) {
        let mut link = self.lock();
        link.is_stopped = true;
        let queue = link.queue.take();
        drop(link);
        if let Some(queue) = queue {
            queue.close();
            tracing::info!(
                stream_writer_type = %self.kind,
                remote_peer_id = %self.peer,
                "stopped TCP streaming connection with remote peer"
            );
        }
    }

    /// The connection is gone. If it is still the one in use, messages were lost.
    fn lost(&self, queue: &Arc<Queue>) {
        let mut link = self.lock();
        if !link.queue.as_ref().is_some_and(|current| Arc::ptr_eq(current, queue)) {
            return;
        }
        link.queue = None;
        drop(link);
        queue.close();
        self.status.figures().send_failures.count();
        self.status.deactivate(&self.kind.to_string(), "write", &"the connection was closed");
        // What the socket had taken may be lost too, so that an empty queue proves nothing.
        self.host.unreachable(self.peer);
        tracing::warn!(
            stream_writer_type = %self.kind,
            remote_peer_id = %self.peer,
            "lost TCP streaming connection with remote peer"
        );
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of one connection's answer.
#[derive(Debug)]
pub(crate) struct StreamBody {
    outgoing: Arc<Outgoing>,
    queue: Arc<Queue>,
    encoder: Encoder,
    /// Taken from the queue, about to be encoded; empty between calls.
    batch: Vec<Message>,
    /// Chunks are cut off it; once they are sent, it starts over in the same memory.
    buffer: BytesMut,
    link_heartbeat: Interval,
}

impl StreamBody {
    fn new(outgoing: Arc<Outgoing>, queue: Arc<Queue>) -> Self {
        let encoder = Encoder::new(outgoing.kind);
        let start = Instant::now() + LINK_HEARTBEAT_INTERVAL;
        let mut link_heartbeat = interval_at(start, LINK_HEARTBEAT_INTERVAL);
        link_heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            outgoing,
            queue,
            encoder,
            batch: Vec::new(),
            buffer: BytesMut::new(),
            link_heartbeat,
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        match this.queue.poll_batch(context, CHUNK_BYTES, &mut this.batch) {
            Poll::Ready(()) if this.batch.is_empty() => return Poll::Ready(None),
            Poll::Ready(()) => {
                for message in this.batch.drain(..) {
                    this.encoder.encode(&message, &mut this.buffer);
                }
            }
            Poll::Pending if this.link_heartbeat.poll_tick(context).is_ready() => {
                this.encoder.encode_link_heartbeat(&mut this.buffer);
            }
            Poll::Pending => return Poll::Pending,
        }
        let chunk = this.buffer.split().freeze();
        this.outgoing.status.figures().sent_bytes.add(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.outgoing.lost(&self.queue);
    }
}
