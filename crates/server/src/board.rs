//! What every request may want to know at once: term, leader, commit and applied index.
//!
//! The node loop and the apply stage write it, everybody reads it, nobody waits for it. Numbers that belong together are not
//! read together; each is right at the moment of its reading, which is all that headers and health promise.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

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
    /// Counts changes of leadership, for those who wait for one.
    leadership: watch::Sender<u64>,
    /// The applied index, for those who wait for one.
    progress: watch::Sender<u64>,
}

/// Every access is of one number and orders nothing else, but for `applied` and `reads_locally`: whoever sees an index there
/// must also see what was applied, hence acquire and release.
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
