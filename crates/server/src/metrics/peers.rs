//! What goes to and comes from other members, by member.
//!
//! Whoever serves a member's channels holds its [`PeerFigures`]; they stay when the member goes, as counters in Go do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kinds::{Buckets, Counter, Histogram, Level, MILLISECOND, SECOND};

/// Snapshots in one direction.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(crate) succeeded: Counter,
    pub(crate) failed: Counter,
    pub(crate) under_way: Level,
    pub(crate) took: Histogram,
}

impl Default for Snapshots {
    fn default() -> Self {
        let took = Buckets::Doubling { first: 100 * MILLISECOND, count: 10 };
        Self {
            succeeded: Counter::default(),
            failed: Counter::default(),
            under_way: Level::default(),
            took: Histogram::new(took, SECOND),
        }
    }
}

/// Figures of one member.
#[derive(Debug)]
pub(crate) struct PeerFigures {
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
    /// Messages that found no room, posts and streams that failed.
    pub(crate) send_failures: Counter,
    /// Messages that were refused or could not be read.
    pub(crate) receive_failures: Counter,
    /// The smoothed time of an answer, as the prober sees it.
    pub(crate) round_trip: Histogram,
    /// How often the member was lost.
    pub(crate) lost: Counter,
    pub(crate) snapshots_sent: Snapshots,
    pub(crate) snapshots_received: Snapshots,
    /// It has been reached at least once.
    was_active: AtomicBool,
    is_active: AtomicBool,
}

impl Default for PeerFigures {
    fn default() -> Self {
        let round_trip = Buckets::Doubling { first: MILLISECOND / 10, count: 16 };
        Self {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            send_failures: Counter::default(),
            receive_failures: Counter::default(),
            round_trip: Histogram::of_seconds(round_trip),
            lost: Counter::default(),
            snapshots_sent: Snapshots::default(),
            snapshots_received: Snapshots::default(),
            was_active: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
        }
    }
}

impl PeerFigures {
    /// The member is reached from now on, or is not.
    pub(crate) fn set_active(&self, is_active: bool) {
        self.is_active.store(is_active, Ordering::Relaxed);
        if is_active {
            self.was_active.store(true, Ordering::Relaxed);
        } else {
            self.lost.count();
        }
    }

    /// Whether it is reached; `None` if it never was.
    pub(crate) fn is_active(&self) -> Option<bool> {
        self.was_active.load(Ordering::Relaxed).then(|| self.is_active.load(Ordering::Relaxed))
    }
}

/// Figures of all members that this one has had to do with.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    /// Held to find or add one.
    peers: Mutex<BTreeMap<u64, Arc<PeerFigures>>>,
}

impl PeerTable {
    /// Figures of a member; made at the first call.
    pub(crate) fn of(&self, id: u64) -> Arc<PeerFigures> {
        Arc::clone(self.lock().entry(id).or_default())
    }

    /// All of them, in order of their ids.
    pub(crate) fn all(&self) -> Vec<(u64, Arc<PeerFigures>)> {
        self.lock().iter().map(|(id, figures)| (*id, Arc::clone(figures))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<PeerFigures>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
