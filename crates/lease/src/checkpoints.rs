//! Which leases are due for a checkpoint of their rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::LeaseId;

/// At most one moment for each lease.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    at: BTreeMap<LeaseId, Duration>,
    order: BTreeSet<(Duration, LeaseId)>,
}

impl Checkpoints {
    /// Schedules the next checkpoint, an interval from now; not when so little is left that it would come too late.
    pub(crate) fn schedule(
        &mut self,
        interval: Option<Duration>,
        id: LeaseId,
        rest: i64,
        now: Duration,
    ) {
        self.remove(id);
        let Some(interval) = interval else { return };
        if crate::seconds(rest).as_secs() > interval.as_secs() {
            let at = now.saturating_add(interval);
            self.at.insert(id, at);
            self.order.insert((at, id));
        }
    }

    /// Takes the first one that is due.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<LeaseId> {
        let &(at, id) = self.order.first()?;
        if at > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(at) = self.at.remove(&id) {
            self.order.remove(&(at, id));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.at.clear();
        self.order.clear();
    }
}
