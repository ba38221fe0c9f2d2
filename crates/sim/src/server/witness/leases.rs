//! Leases: which there are after each entry, and the earliest moment at which each may run out.
//!
//! A lease lasts its time to live from its grant and from every renewal by a leader that nobody had followed by then; the
//! fastest clock there is decides how long that is in true time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::etcdserverpb::internal_raft_request::Request;

use crate::violation::{Violation, broken};

/// A beat of a member's clock.
pub(in crate::server) const HEARTBEAT: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Lease {
    ttl_us: u64,
    counted_from_us: u64,
}

#[derive(Debug)]
pub(super) struct Leases {
    drift_ppm: u64,
    least_ttl: i64,
    live: BTreeMap<i64, Lease>,
    /// Grants and revocations, by index.
    changes: Vec<(u64, i64, bool)>,
    /// Revocations that members proposed because a lease had run out, by the names of the requests.
    expiries: BTreeSet<u64>,
}

impl Leases {
    pub(super) fn new(drift_ppm: u64, election_ticks: i64) -> Self {
        let ticks = u32::try_from(election_ticks).unwrap_or(10);
        Self {
            drift_ppm,
            least_ttl: lease::min_ttl(ticks, HEARTBEAT),
            live: BTreeMap::new(),
            changes: Vec::new(),
            expiries: BTreeSet::new(),
        }
    }

    /// The request with the time to live that it gets.
    pub(super) fn with_least_ttl(&self, request: Request) -> Request {
        match request {
            Request::LeaseGrant(mut grant) => {
                grant.ttl = grant.ttl.max(self.least_ttl);
                Request::LeaseGrant(grant)
            }
            other => other,
        }
    }

    pub(super) fn granted(&mut self, index: u64, id: i64, ttl: i64, now_us: u64) {
        let ttl_us = u64::try_from(ttl).unwrap_or(0) * 1_000_000;
        self.live.insert(id, Lease { ttl_us, counted_from_us: now_us });
        self.changes.push((index, id, true));
    }

    pub(super) fn renewed(&mut self, id: i64, now_us: u64) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.counted_from_us = lease.counted_from_us.max(now_us);
        }
    }

    pub(super) fn expires(&mut self, name: u64, _lease: i64) {
        self.expiries.insert(name);
    }

    /// Returns whether it had run out.
    pub(super) fn revoked(
        &mut self,
        index: u64,
        id: i64,
        name: u64,
        now_us: u64,
    ) -> Result<bool, Violation> {
        self.changes.push((index, id, false));
        let Some(lease) = self.live.remove(&id) else { return Ok(false) };
        if !self.expiries.contains(&name) {
            return Ok(false);
        }
        let lasts_us = lease.ttl_us * 1_000_000 / (1_000_000 + self.drift_ppm);
        if now_us + 1 < lease.counted_from_us + lasts_us {
            let detail = format!(
                "lease {id} of {} s is revoked by entry {index} at {now_us} us, counted from {} us",
                lease.ttl_us / 1_000_000,
                lease.counted_from_us
            );
            return broken("leases last their time", detail);
        }
        Ok(true)
    }

    /// The leases after an entry.
    pub(super) fn at(&self, index: u64) -> BTreeSet<i64> {
        let mut live = BTreeSet::new();
        for &(_, id, is_granted) in self.changes.iter().take_while(|change| change.0 <= index) {
            if is_granted {
                live.insert(id);
            } else {
                live.remove(&id);
            }
        }
        live
    }
}
