//! Messages on their way to one connection.
//!
//! Filled by the member's heart, which never waits: a full queue refuses. Emptied by a task, a batch at a time. Appends stand in
//! a lane of their own behind everything else, so that heartbeats and votes do not wait for entries where both go the same way.
//! (Raft puts up with any order.)

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use raft::{Body, Message};

use super::codec::estimated_bytes;

/// Forwarded proposals find room up to so many messages, however short the queue is: raft does not send them again, and who waits for
/// one that is lost learns of it by his timeout. Before the first stream to a new leader stands, they all go by POST.
const PROPOSALS_MAX: usize = 4096;

/// A bounded queue with two lanes.
#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    /// Held for a push or for taking a batch, never while encoding.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Everything that is small and urgent.
    urgent: VecDeque<Message>,
    /// Appends and forwarded proposals.
    bulk: VecDeque<Message>,
    is_closed: bool,
    /// Of the tasks that found nothing.
    waiting: Vec<Waker>,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue holds as many as it may.
    Full,
    /// Nobody will ever send it.
    Closed,
}

impl Queue {
    /// An empty queue for so many messages.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default() }
    }

    /// Queues the message.
    pub(crate) fn push(&self, message: Message) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        let is_proposal = matches!(message.body, Body::Propose { .. });
        let capacity = if is_proposal { self.capacity.max(PROPOSALS_MAX) } else { self.capacity };
        if state.urgent.len() + state.bulk.len() >= capacity {
            return Err(Refused::Full);
        }
        let is_bulk = is_proposal || matches!(message.body, Body::Append { .. });
        let lane = if is_bulk { &mut state.bulk } else { &mut state.urgent };
        lane.push_back(message);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        wake_all(waiting);
        Ok(())
    }

    /// Appends messages to `batch` until they come to about so many bytes; one at least. Ready with nothing when the
    /// queue is closed.
    pub(crate) fn poll_batch(
        &self,
        context: &Context<'_>,
        bytes_max: usize,
        batch: &mut Vec<Message>,
    ) -> Poll<()> {
        let mut state = self.lock();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(message) = state.urgent.pop_front().or_else(|| state.bulk.pop_front()) else {
                break;
            };
            bytes += estimated_bytes(&message);
            batch.push(message);
        }
        if bytes > 0 || state.is_closed {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Takes one message; `None` when the queue is closed.
    pub(crate) async fn take_one(&self) -> Option<Message> {
        let mut one = Vec::with_capacity(1);
        std::future::poll_fn(|context| self.poll_batch(context, 1, &mut one)).await;
        one.pop()
    }

    /// Takes no more, drops what is queued, and ends whoever waits. Returns how many messages were dropped.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.lock();
        state.is_closed = true;
        let dropped = (std::mem::take(&mut state.urgent), std::mem::take(&mut state.bulk));
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        wake_all(waiting);
        dropped.0.len() + dropped.1.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake_all(waiting: Vec<Waker>) {
    for waker in waiting {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::{Entry, NodeId, Term};

    use super::*;

    fn message(body: Body) -> Message {
        Message { to: NodeId(2), from: NodeId(1), term: Term::ZERO, body }
    }

    #[test]
    fn proposals_find_room_where_others_do_not() {
        let queue = Queue::new(2);
        let heartbeat = || message(Body::HeartbeatResponse { context: Bytes::new() });
        let proposal = || message(Body::Propose { entries: vec![Entry::default()] });
        assert_eq!([queue.push(heartbeat()), queue.push(heartbeat())], [Ok(()), Ok(())]);
        assert_eq!(queue.push(heartbeat()), Err(Refused::Full));
        for _ in 2..PROPOSALS_MAX {
            assert_eq!(queue.push(proposal()), Ok(()));
        }
        assert_eq!(queue.push(proposal()), Err(Refused::Full));
    }
}
