//! What the leader knows about one follower, and the three ways of feeding it.
//!
//! ```text
//!            accepted                     entries compacted away
//!   Probe ─────────────► Replicate ┐ ┌──────────────────────────► Snapshot
//!     ▲  ◄────────────── rejected  │ │                               │
//!     │    unreachable             └─┘ (from Probe too)              │
//!     └──────────────────────────────────────────────────────────────┘
//!                 snapshot reported, or an acknowledgement reconnects the log
//! ```
//!
//! - Probe: where the logs part is not known; one message at a time, and one more per heartbeat response.
//! - Replicate: messages are sent ahead, as many as [`Inflights`] allows.
//! - Snapshot: nothing is sent until the snapshot has arrived or failed.
//!
//! Invariant: `match_index < next`; in Snapshot, `next` is the pending snapshot's index plus one.
//!
//! Upstream: tracker/progress.go (3.7).

use std::fmt;

use crate::{inflights::Inflights, types::LogIndex};

/// How the leader feeds a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressState {
    /// One message at a time.
    #[default]
    Probe,
    /// Messages ahead of their acknowledgement.
    Replicate,
    /// Nothing, while a snapshot is under way.
    Snapshot,
}

impl fmt::Display for ProgressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "StateProbe",
            Self::Replicate => "StateReplicate",
            Self::Snapshot => "StateSnapshot",
        })
    }
}

/// The leader's knowledge of one member. On other roles only `is_learner` means anything.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The follower's log is known to equal the leader's up to here.
    pub match_index: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// The highest commit index on its way to the follower. Goes back when something may have been lost.
    sent_commit: LogIndex,
    /// How the follower is fed.
    pub state: ProgressState,
    /// In [`ProgressState::Snapshot`], the index of the snapshot that was sent; else zero.
    pub pending_snapshot: LogIndex,
    /// The follower said something within the last election time. Always set for the leader itself.
    pub recent_active: bool,
    /// No more appends until the follower answers a heartbeat.
    pub append_paused: bool,
    /// What is on its way in [`ProgressState::Replicate`].
    pub inflights: Inflights,
    /// The member receives the log and does not vote.
    pub is_learner: bool,
}

impl Progress {
    /// Returns the progress of a member of whom nothing is known, to be probed at `next`.
    pub fn new(next: LogIndex, is_learner: bool, inflights: Inflights) -> Self {
        Self {
            match_index: LogIndex::ZERO,
            next,
            sent_commit: LogIndex::ZERO,
            state: ProgressState::Probe,
            pending_snapshot: LogIndex::ZERO,
            recent_active: false,
            append_paused: false,
            inflights,
            is_learner,
        }
    }

    /// Returns whether appends are held back.
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.append_paused,
            ProgressState::Snapshot => true,
        }
    }

    /// Starts to probe behind what is known to match, or behind the snapshot if one was under way.
    pub(crate) fn become_probe(&mut self) {
        // Zero unless a snapshot was under way. Whoever reports a failed one resets it before.
        let pending_snapshot = self.pending_snapshot;
        self.enter(ProgressState::Probe);
        self.next = self.match_index.max(pending_snapshot).next();
        self.sent_commit = self.sent_commit.min(self.next.prev());
    }

    /// Starts to send ahead, from behind what is known to match.
    pub(crate) fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.match_index.next();
    }

    /// Notes that a snapshot is under way.
    pub(crate) fn become_snapshot(&mut self, index: LogIndex) {
        self.enter(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index.next();
        self.sent_commit = index;
    }

    fn enter(&mut self, state: ProgressState) {
        self.append_paused = false;
        self.pending_snapshot = LogIndex::ZERO;
        self.state = state;
        self.inflights.clear();
    }

    /// Notes an append message of `count` entries from `next` on, and decides whether it is the last for now.
    ///
    /// # Panics
    /// Panics while a snapshot is under way.
    pub(crate) fn sent_entries(&mut self, count: usize, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.next = self.next.plus(count);
                    self.inflights.add(self.next.prev(), bytes);
                }
                // A message that fills the window, or that is sent over a full one, counts as a probe.
                self.append_paused = self.inflights.is_full();
            }
            ProgressState::Probe => {
                if count > 0 {
                    self.append_paused = true;
                }
            }
            ProgressState::Snapshot => panic!("append sent while a snapshot is under way"),
        }
    }

    /// Notes that the commit index went out, with an append or a heartbeat.
    pub(crate) fn sent_commit(&mut self, commit: LogIndex) {
        self.sent_commit = commit;
    }

    /// Returns whether sending `commit` can move the follower's commit index. It cannot once the follower is on its way
    /// to commit all that it was sent.
    pub(crate) fn can_bump_commit(&self, commit: LogIndex) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next.prev()
    }

    /// Takes an acknowledgement. Returns whether it is news.
    pub(crate) fn maybe_update(&mut self, index: LogIndex) -> bool {
        if index <= self.match_index {
            return false;
        }
        self.match_index = index;
        self.next = self.next.max(index.next());
        self.append_paused = false;
        true
    }

    /// Takes a rejection of the append behind `rejected`; the logs may meet at `hint`. Returns whether it is news.
    pub(crate) fn maybe_decrease(&mut self, rejected: LogIndex, hint: LogIndex) -> bool {
        if self.state == ProgressState::Replicate {
            // Messages overtake each other: what is acknowledged already cannot be rejected.
            if rejected <= self.match_index {
                return false;
            }
            self.next = self.match_index.next();
        } else {
            // Only one probe is under way, so the answer to another one is stale.
            if self.next.prev() != rejected {
                return false;
            }
            self.next = rejected.min(hint.next()).max(self.match_index.next());
            self.append_paused = false;
        }
        self.sent_commit = self.sent_commit.min(self.next.prev());
        true
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} match={} next={}", self.state, self.match_index, self.next)?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot > LogIndex::ZERO {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            write!(f, " inflight={}", self.inflights.count())?;
            if self.inflights.is_full() {
                f.write_str("[full]")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(match_index: u64, next: u64) -> Progress {
        let mut progress = Progress::new(LogIndex(next), false, Inflights::new(10, u64::MAX));
        progress.match_index = LogIndex(match_index);
        progress
    }

    #[track_caller]
    fn check_decrease(
        state: ProgressState,
        (at, next): (u64, u64),
        (rejected, hint): (u64, u64),
        expected: Option<u64>,
    ) {
        let mut progress = progress(at, next);
        progress.state = state;
        let is_news = progress.maybe_decrease(LogIndex(rejected), LogIndex(hint));
        assert_eq!(is_news.then_some(progress.next.0), expected);
    }

    #[test]
    fn rejection_moves_next_back() {
        use ProgressState::{Probe, Replicate};
        // An answer that an acknowledgement overtook.
        check_decrease(Replicate, (5, 10), (5, 5), None);
        check_decrease(Replicate, (5, 10), (4, 4), None);
        check_decrease(Replicate, (5, 10), (9, 9), Some(6));
        // The answer to another probe than the one under way.
        check_decrease(Probe, (0, 10), (8, 8), None);
        check_decrease(Probe, (0, 10), (9, 9), Some(9));
        check_decrease(Probe, (0, 10), (9, 2), Some(3));
        check_decrease(Probe, (0, 10), (9, 0), Some(1));
        // Never behind what matches, whatever the hint; no overflow on a hostile one.
        check_decrease(Probe, (5, 10), (9, 0), Some(6));
        check_decrease(Probe, (0, 10), (9, u64::MAX), Some(9));
    }

    #[test]
    fn probing_after_a_snapshot_continues_behind_it() {
        let mut progress = progress(1, 5);
        progress.become_snapshot(LogIndex(10));
        assert!(progress.is_paused());
        progress.become_probe();
        assert_eq!(progress.next, LogIndex(11));

        progress.become_snapshot(LogIndex(10));
        progress.pending_snapshot = LogIndex::ZERO;
        progress.become_probe();
        assert_eq!(progress.next, LogIndex(2));
    }
}
