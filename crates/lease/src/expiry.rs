//! When to look at which lease.
//!
//! A heap of moments. Renewing a lease moves its expiry and leaves the heap alone: when the old moment comes, the queue
//! sees that the lease lasts longer, and puts it back at the new one. So a keep-alive costs no heap operation, and each
//! lease is looked at once in a time to live.
//!
//! Each lease says which of its entries counts (`queued_at`); entries of revoked leases, and of ids granted anew, are
//! void, and are dropped when their moment comes or when they outnumber the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::{Lease, LeaseId};

/// Void entries that are no reason yet to build the heap anew.
const VOID_ENTRIES_TOLERATED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct ExpiryQueue {
    heap: BinaryHeap<Reverse<(Duration, LeaseId)>>,
}

impl ExpiryQueue {
    /// Sets the expiry of a lease.
    pub(crate) fn set(&mut self, id: LeaseId, lease: &mut Lease, expiry: Duration) {
        lease.expiry = Some(expiry);
        // An entry that comes too early corrects itself; one that came too late would not.
        if lease.queued_at.is_none_or(|queued_at| expiry < queued_at) {
            self.queue(id, lease, expiry);
        }
    }

    fn queue(&mut self, id: LeaseId, lease: &mut Lease, at: Duration) {
        lease.queued_at = Some(at);
        self.heap.push(Reverse((at, id)));
    }

    /// Up to `limit` leases that have run out at `now`, in order of expiry. They are looked at again after `retry_after`.
    pub(crate) fn due(
        &mut self,
        leases: &mut BTreeMap<LeaseId, Lease>,
        now: Duration,
        retry_after: Duration,
        limit: usize,
    ) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some(&Reverse((at, id))) = self.heap.peek() else { break };
            if at > now {
                break;
            }
            self.heap.pop();
            let Some(lease) = leases.get_mut(&id) else { continue };
            if lease.queued_at != Some(at) {
                continue;
            }
            match lease.expiry {
                Some(expiry) if at < expiry => self.queue(id, lease, expiry),
                Some(_) => {
                    // A retry of zero would find the same lease for ever.
                    let again = now.saturating_add(retry_after.max(Duration::from_millis(1)));
                    self.queue(id, lease, again);
                    due.push(id);
                }
                None => lease.queued_at = None,
            }
        }
        due
    }

    pub(crate) fn next_look(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }

    /// Drops void entries if there are too many: short-lived leases with long times to live would pile up otherwise.
    pub(crate) fn forget_some(&mut self, leases: &BTreeMap<LeaseId, Lease>) {
        if self.heap.len() > 2 * leases.len() + VOID_ENTRIES_TOLERATED {
            self.heap.retain(|Reverse((at, id))| {
                leases.get(id).is_some_and(|lease| lease.queued_at == Some(*at))
            });
        }
    }
}

/// Delays sorted moments so that no more than `per_second` fall into any second.
pub(crate) fn spread(order: &mut [(Duration, LeaseId)], per_second: usize) {
    for index in per_second..order.len() {
        let earliest =
            order.get(index - per_second).map(|(at, _)| at.saturating_add(Duration::from_secs(1)));
        if let (Some(earliest), Some((at, _))) = (earliest, order.get_mut(index)) {
            *at = earliest.max(*at);
        }
    }
}
