//! Append messages on their way to one follower.

use std::collections::VecDeque;

use crate::types::LogIndex;

/// A window over what was sent and not yet acknowledged, limited by messages and by bytes.
///
/// The limit on bytes is soft: a message may start while there is any room.
#[derive(Clone, Debug)]
pub struct Inflights {
    /// Last index and size of each message, oldest first. Indexes increase.
    window: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    messages_max: usize,
    bytes_max: u64,
}

impl Inflights {
    /// Returns an empty window.
    pub fn new(messages_max: usize, bytes_max: u64) -> Self {
        Self { window: VecDeque::new(), bytes: 0, messages_max, bytes_max }
    }

    /// Notes a message whose last entry is at `last`.
    ///
    /// # Panics
    /// Panics if the window is full.
    pub fn add(&mut self, last: LogIndex, bytes: u64) {
        assert!(!self.is_full(), "cannot add to full inflights");
        self.window.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Frees all messages whose entries end at or before `index`.
    pub fn free_up_to(&mut self, index: LogIndex) {
        while let Some(&(last, bytes)) = self.window.front() {
            if last > index {
                break;
            }
            self.bytes -= bytes;
            self.window.pop_front();
        }
    }

    /// Returns whether nothing more may be sent.
    pub fn is_full(&self) -> bool {
        self.window.len() >= self.messages_max || self.bytes >= self.bytes_max
    }

    /// Returns the number of messages in flight.
    pub fn count(&self) -> usize {
        self.window.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.window.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_limited_by_messages() {
        let mut inflights = Inflights::new(2, u64::MAX);
        inflights.add(LogIndex(5), 10);
        assert!(!inflights.is_full());
        inflights.add(LogIndex(7), 10);
        assert!(inflights.is_full());
        inflights.free_up_to(LogIndex(4));
        assert_eq!(inflights.count(), 2);
        inflights.free_up_to(LogIndex(6));
        assert_eq!(inflights.count(), 1);
        inflights.free_up_to(LogIndex(9));
        assert_eq!(inflights.count(), 0);
        assert_eq!(inflights.bytes, 0);
    }

    #[test]
    fn window_is_limited_by_bytes_and_one_message_may_exceed_them() {
        let mut inflights = Inflights::new(100, 10);
        inflights.add(LogIndex(1), 9);
        assert!(!inflights.is_full());
        inflights.add(LogIndex(2), 90);
        assert!(inflights.is_full());
        inflights.free_up_to(LogIndex(1));
        assert!(inflights.is_full());
        inflights.clear();
        assert!(!inflights.is_full());
    }
}
