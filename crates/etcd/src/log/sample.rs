//! Which of many equal messages are written: a flood of connections is not to become a flood of lines.
//!
//! Of the lines of one level with one message, the first hundred of a second are written, and then every hundredth. Messages are
//! told apart by their hashes, into a fixed number of counters: two may share one, which costs some of their lines in a flood.
//!
//! Upstream: zap's sampler with the settings of client/pkg/logutil/zap.go (3.5.30).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

const SPAN: Duration = Duration::from_secs(1);
/// Lines of a span that are written all.
const FIRST: u64 = 100;
/// Of those after them, one in so many.
const THEREAFTER: u64 = 100;
const COUNTERS: usize = 4096;

/// What was written lately.
pub(super) struct Sampler {
    /// Locked for a look at one counter.
    counters: Mutex<Vec<Counter>>,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    begun: SystemTime,
    count: u64,
}

impl Sampler {
    pub(super) fn new() -> Self {
        let unused = Counter { begun: SystemTime::UNIX_EPOCH, count: 0 };
        Self { counters: Mutex::new(vec![unused; COUNTERS]) }
    }

    /// Counts a line, and says whether it is to be written.
    pub(super) fn lets_pass(&self, level: &str, message: &str, now: SystemTime) -> bool {
        let mut hasher = DefaultHasher::new();
        (level, message).hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % COUNTERS as u64).unwrap_or(0);
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(counter) = counters.get_mut(index) else { return true };
        // A clock that was set back begins a new span too.
        if now.duration_since(counter.begun).is_ok_and(|elapsed| elapsed < SPAN) {
            counter.count += 1;
        } else {
            *counter = Counter { begun: now, count: 1 };
        }
        counter.count <= FIRST || (counter.count - FIRST).is_multiple_of(THEREAFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_thinned_and_other_lines_are_not() {
        let sampler = Sampler::new();
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let written = |message: &str, count: usize, now| {
            (0..count).filter(|_| sampler.lets_pass("warn", message, now)).count()
        };
        assert_eq!(written("refused", 10_000, begun), 100 + 99);
        assert_eq!(written("something else", 5, begun), 5);
        assert!(sampler.lets_pass("error", "refused", begun));
        let later = begun + SPAN;
        assert_eq!(written("refused", 100, later), 100);
        // The clock is set back.
        assert_eq!(written("refused", 100, begun), 100);
    }
}
