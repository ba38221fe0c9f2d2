//! Whether a peer is reached, as the log and the leader's choice of a transferee want to know it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::PeerFigures;

/// Since when a peer is reached. Any channel that works makes it active, any that breaks makes it inactive until the next
/// one works.
#[derive(Debug)]
pub(crate) struct Status {
    /// The peer's id, in hexadecimal.
    peer: String,
    /// Guards nothing else; held to read or set it.
    active_since: Mutex<Option<Instant>>,
    figures: Arc<PeerFigures>,
}

impl Status {
    pub(crate) fn new(peer: u64, figures: Arc<PeerFigures>) -> Self {
        Self { peer: format!("{peer:x}"), active_since: Mutex::new(None), figures }
    }

    /// What is counted of the peer.
    pub(crate) fn figures(&self) -> &PeerFigures {
        &self.figures
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        *self.lock()
    }

    pub(crate) fn activate(&self) {
        let mut since = self.lock();
        let was_active = since.is_some();
        since.get_or_insert_with(Instant::now);
        drop(since);
        if !was_active {
            self.figures.set_active(true);
            tracing::info!(peer_id = self.peer, "peer became active");
        }
    }

    /// A channel broke: `what` was tried.
    pub(crate) fn deactivate(&self, channel: &str, what: &str, error: &dyn std::fmt::Display) {
        let was_active = self.lock().take().is_some();
        if was_active {
            self.figures.set_active(false);
            tracing::warn!(
                peer_id = self.peer,
                error = %error,
                "peer became inactive (message send to peer failed): failed to {what} {} on {channel}",
                self.peer,
            );
        } else {
            tracing::debug!(
                peer_id = self.peer,
                error = %error,
                "failed to {what} {} on {channel}; peer is already inactive",
                self.peer,
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.active_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets one of many equal log lines through.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// When the last line was written, and how many were not since. Held to read and set them.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// Between two lines.
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Returns how often it was asked since it last said yes, if it says yes now.
    pub(crate) fn is_due(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.1 += 1;
        if last.0.is_some_and(|at| at.elapsed() < Self::INTERVAL) {
            return None;
        }
        let count = last.1;
        *last = (Some(Instant::now()), 0);
        Some(count)
    }
}
