//! What is going to happen, by virtual time; of several things at one moment, what was planned first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time, and what comes when.
pub(crate) struct Queue<E> {
    now_us: u64,
    planned: u64,
    heap: BinaryHeap<Reverse<Due<E>>>,
}

struct Due<E> {
    at_us: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { now_us: 0, planned: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Queue<E> {
    /// The present.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    pub(crate) fn after(&mut self, span_us: u64, event: E) {
        self.at(self.now_us + span_us, event);
    }

    /// Plans an event; one in the past comes next.
    pub(crate) fn at(&mut self, at_us: u64, event: E) {
        self.planned += 1;
        let at_us = at_us.max(self.now_us);
        self.heap.push(Reverse(Due { at_us, number: self.planned, event }));
    }

    /// Moves on to what happens next.
    pub(crate) fn next(&mut self) -> Option<E> {
        let Reverse(due) = self.heap.pop()?;
        self.now_us = due.at_us;
        Some(due.event)
    }
}
