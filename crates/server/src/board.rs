//! What every request may want to know at once: term, leader, commit and applied index.
//!
//! The node loop and the apply stage write it, everybody reads it, nobody waits for it. Numbers that belong together are not
//! read together; each is right at the moment of its reading, which is all that headers and health promise.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft::{LogIndex, NodeId, Role, Term};
use replica::Status;
use tokio::sync::watch;

/// The board.
#[derive(Debug)]
pub(crate) struct Board {
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    applied: AtomicU64,
    role: AtomicU8,
    reads_locally: AtomicBool,
    is_learner: AtomicBool,
    /// The moment that `ticked_ms` counts from.
    epoch: Instant,
    /// When the node loop last ticked.
    ticked_ms: AtomicU64,
    /// How often the node loop was held up so long that another member may lead by now.
    pauses: AtomicU64,
    /// After how many of these pauses this member proved that it leads.
    pauses_overcome: AtomicU64,
    /// Counts changes of leadership, for those who wait for one.
    leadership: watch::Sender<u64>,
    /// The applied index, for those who wait for one.
    progress: watch::Sender<u64>,
}

/// Every access is of one number and orders nothing else, but for `applied` and `reads_locally`: whoever sees an index there
/// must also see what was applied, hence acquire and release; and for ticks and pauses, of which the pause must be seen first.
impl Board {
    pub(crate) fn new(applied: u64) -> Self {
        Self {
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            applied: AtomicU64::new(applied),
            role: AtomicU8::new(0),
            reads_locally: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            epoch: Instant::now(),
            ticked_ms: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            pauses_overcome: AtomicU64::new(0),
            leadership: watch::channel(0).0,
            progress: watch::channel(applied).0,
        }
    }

    /// Takes over what the node loop says.
    pub(crate) fn update(&self, status: &Status) {
        self.term.store(status.term.0, Ordering::Relaxed);
        self.commit.store(status.commit.0, Ordering::Relaxed);
        self.is_learner.store(status.is_learner, Ordering::Relaxed);
        self.role.store(status.role as u8, Ordering::Relaxed);
        self.reads_locally.store(status.reads_locally, Ordering::Release);
        if self.leader.swap(status.leader.0, Ordering::Relaxed) != status.leader.0 {
            self.leadership.send_modify(|count| *count += 1);
        }
    }

    /// Says that the node loop ticks, and `had_paused` that it was held up before for longer than leadership is sure.
    pub(crate) fn ticked(&self, had_paused: bool) {
        if had_paused {
            self.pauses.fetch_add(1, Ordering::SeqCst);
        }
        self.ticked_ms.store(self.elapsed_ms(), Ordering::SeqCst);
    }

    /// Whether a member that was the leader may have stopped being it without having noticed: it has not ticked for
    /// `limit`, or has not proved its leadership since it was held up. If so, how many pauses a proof overcomes: see
    /// [`Board::leadership_proved`].
    pub(crate) fn doubts_leadership(&self, limit: Duration) -> Option<u64> {
        let pauses = self.pauses.load(Ordering::SeqCst);
        let since_ms = self.elapsed_ms().saturating_sub(self.ticked_ms.load(Ordering::SeqCst));
        let is_late = u128::from(since_ms) > limit.as_millis();
        (is_late || self.pauses_overcome.load(Ordering::SeqCst) < pauses).then_some(pauses)
    }

    /// This member proved its leadership, after so many pauses.
    pub(crate) fn leadership_proved(&self, pauses: u64) {
        self.pauses_overcome.fetch_max(pauses, Ordering::SeqCst);
    }

    /// Whether the node loop has not ticked for so long.
    pub(crate) fn is_silent_for(&self, limit: Duration) -> bool {
        let ticked_ms = self.ticked_ms.load(Ordering::SeqCst);
        Duration::from_millis(self.elapsed_ms().saturating_sub(ticked_ms)) > limit
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says how far entries are applied and visible.
    pub(crate) fn set_applied(&self, index: LogIndex) {
        self.applied.store(index.0, Ordering::Release);
        // Without receivers this costs a lock; it comes once for each batch.
        if self.progress.receiver_count() > 0 {
            self.progress.send_replace(index.0);
        }
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Relaxed))
    }

    pub(crate) fn leader(&self) -> NodeId {
        NodeId(self.leader.load(Ordering::Relaxed))
    }

    pub(crate) fn commit(&self) -> LogIndex {
        LogIndex(self.commit.load(Ordering::Relaxed))
    }

    pub(crate) fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.role.load(Ordering::Relaxed) == Role::Leader as u8
    }

    pub(crate) fn reads_locally(&self) -> bool {
        self.reads_locally.load(Ordering::Acquire)
    }

    pub(crate) fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    /// Tells of changes of the leader.
    pub(crate) fn leadership(&self) -> watch::Receiver<u64> {
        self.leadership.subscribe()
    }

    /// Waits until the index is applied.
    pub(crate) async fn wait_applied(&self, index: LogIndex) {
        if self.applied() >= index {
            return;
        }
        let mut progress = self.progress.subscribe();
        // Between the first look and the subscription it may have been applied.
        if self.applied() >= index {
            return;
        }
        // Ends with an error only when the board is gone, and we hold it.
        let _ = progress.wait_for(|applied| *applied >= index.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_leaves_doubt_until_a_proof() {
        const LONG: Duration = Duration::from_secs(3600);
        let board = Board::new(0);
        board.ticked(false);
        assert_eq!(board.doubts_leadership(LONG), None);
        board.ticked(true);
        let pauses = board.doubts_leadership(LONG).unwrap();
        // A second one during the proof: the proof says nothing about it.
        board.ticked(true);
        board.leadership_proved(pauses);
        let pauses = board.doubts_leadership(LONG).unwrap();
        board.leadership_proved(pauses);
        assert_eq!(board.doubts_leadership(LONG), None);
    }
}
