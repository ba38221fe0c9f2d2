//! Ended spans that wait to be sent: bounded, and never in anybody's way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::span::Record;

/// Spans of one message to the collector: OpenTelemetry's default.
pub(crate) const BATCH_SPANS: usize = 512;
/// Most spans that wait: OpenTelemetry's default.
const SPANS_MAX: usize = 2048;
/// Most memory that they take.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    /// Held for a move in or out.
    state: Mutex<State>,
    /// There is a batch, or the end has come.
    is_due: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Record>,
    len_bytes: usize,
    /// Since somebody asked.
    dropped: u64,
    is_closed: bool,
}

impl std::fmt::Debug for Queue {
    /// Leaves the spans out: there are keys in them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    /// Puts a span in, or drops it where there is no room.
    pub(crate) fn push(&self, record: Record) {
        let len_bytes = record.len_bytes();
        let mut state = self.lock();
        let is_full = state.records.len() >= SPANS_MAX || state.len_bytes + len_bytes > BYTES_MAX;
        if is_full || state.is_closed {
            state.dropped += 1;
            return;
        }
        state.len_bytes += len_bytes;
        state.records.push_back(record);
        let is_due = state.records.len() == BATCH_SPANS;
        drop(state);
        if is_due {
            self.is_due.notify_one();
        }
    }

    /// Takes the oldest spans, a batch at most.
    pub(crate) fn take(&self) -> Vec<Record> {
        let mut state = self.lock();
        let count = state.records.len().min(BATCH_SPANS);
        let taken: Vec<Record> = state.records.drain(..count).collect();
        state.len_bytes -= taken.iter().map(Record::len_bytes).sum::<usize>();
        taken
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// How many were dropped since this was asked last.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// Takes no more in.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.is_due.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Returns when there may be a batch, or the queue is closed. Whatever else there is to send is for the caller's timer.
    pub(crate) async fn due(&self) {
        self.is_due.notified().await;
    }

    /// Nothing panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Context, SpanId, TraceId};
    use crate::span::{Kind, Scope, TEXT_BYTES_MAX, Value};

    fn record(texts: usize) -> Record {
        let text = || ("key", Value::of_bytes(&[b'k'; 2 * TEXT_BYTES_MAX]));
        Record {
            scope: Scope { name: "test", version: "" },
            name: "call".into(),
            kind: Kind::Server,
            context: Context::root(TraceId([1; 16]), SpanId([1; 8])),
            parent: None,
            is_parent_remote: false,
            start_unix_ns: 0,
            end_unix_ns: 0,
            attributes: (0..texts).map(|_| text()).collect(),
            events: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let queue = Queue::default();
        for _ in 0..SPANS_MAX + 10 {
            queue.push(record(0));
        }
        assert_eq!((queue.len(), queue.take_dropped(), queue.take_dropped()), (SPANS_MAX, 10, 0));
        assert_eq!(queue.take().len(), BATCH_SPANS);
        queue.push(record(0));
        assert_eq!((queue.len(), queue.take_dropped()), (SPANS_MAX - BATCH_SPANS + 1, 0));
    }

    #[test]
    fn large_spans_fill_it_sooner() {
        let queue = Queue::default();
        for _ in 0..SPANS_MAX {
            queue.push(record(16));
        }
        let held = queue.len();
        assert!(held * 16 * TEXT_BYTES_MAX <= BYTES_MAX && held > SPANS_MAX / 8, "{held}");
        assert_eq!(queue.take_dropped(), (SPANS_MAX - held) as u64);
        while !queue.take().is_empty() {}
        assert_eq!(queue.lock().len_bytes, 0);
    }

    #[test]
    fn closed_it_takes_nothing() {
        let queue = Queue::default();
        queue.push(record(0));
        queue.close();
        queue.push(record(0));
        assert_eq!((queue.take().len(), queue.take_dropped()), (1, 1));
    }
}
