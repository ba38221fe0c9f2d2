//! Leases: which exist, which keys hang on them, and, on the leader, when they run out.
//!
//! Grant, revoke, attach, detach and checkpoint are effects of committed entries and happen on every member alike. Time
//! is counted by the *primary* alone (the lessor of a leader): elsewhere a lease lasts for ever, and a lease that ran out
//! on the primary's clock is removed by an entry like any other.
//!
//! ```text
//!            promote(extend)                    expired(now)            propose revoke
//! follower -----------------> primary: expiry -------------> shell ----------------------> entry -> revoke
//!          <----------------- now + rest        (again after retry_after, until it is gone)
//!             demote          + extend
//! ```
//!
//! Pure: `now` is a parameter, time since any fixed moment of a monotonic clock (the same one for all calls). Rows go to
//! the backend's writer in the same transaction as the entry's other effects; attachments are not stored, they are the
//! `lease` field of each key's newest row and are attached again at start.
//!
//! Invariants
//! - a key hangs on at most one lease, and only on one that exists;
//! - a lease is never reported as expired before its time to live has passed since its grant, its last renewal, or the
//!   promotion (there: the rest as of the last checkpoint, and `extend` on top);
//! - cost of every operation but [`Lessor::leases`] and promotion does not grow with the number of leases beyond a
//!   logarithm.
//!
//! Upstream: `server/lease/lessor.go` (3.5, 3.6). Differs: renewing touches no queue; negative ids survive a restart
//! (upstream loads only ids from 0 on); a renewal always gives the full time to live, also with checkpoints turned off
//! again; after a promotion at most 750 leases expire in any second, where upstream's spreading is a little looser.

mod attachments;
mod checkpoints;
mod expiry;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backend::schema::lease as rows;
use backend::{View, Writer};
use proto::leasepb;

use crate::attachments::Attachments;
use crate::checkpoints::Checkpoints;
use crate::expiry::ExpiryQueue;

/// Longest time to live that may be asked for, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

/// Most leases that are reported by one call of [`Lessor::expired`] upstream: half of 1000 a second, asked every 500 ms.
pub const EXPIRED_PER_ROUND: usize = 500;

/// From this number of leases on, promotion spreads the expiries.
const SPREAD_FROM: usize = 1000;

/// Most leases that expire in one second after a promotion: three quarters of what is revoked in one.
const SPREAD_PER_SECOND: usize = 750;

/// Id of a lease. 0 is no lease; negative ids are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A key that hangs on a lease.
pub type Key = Arc<[u8]>;

/// Settings of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Least time to live in seconds; what asks for less gets this. See [`min_ttl`].
    pub min_ttl: i64,
    /// An expired lease that is still there after this is reported again.
    pub retry_after: Duration,
    /// How often the rest of a long lease is proposed; `None` turns checkpoints off.
    pub checkpoint_interval: Option<Duration>,
}

impl Default for Config {
    /// With etcd's default timings, and no checkpoints.
    fn default() -> Self {
        Self { min_ttl: 2, retry_after: Duration::from_secs(7), checkpoint_interval: None }
    }
}

/// The least time to live for a member's timings: one and a half election timeouts, rounded up to seconds.
#[must_use]
pub fn min_ttl(election_ticks: u32, heartbeat: Duration) -> i64 {
    // Upstream halves as integers: 3 ticks give 4 heartbeats.
    let ticks = u32::try_from(u64::from(election_ticks) * 3 / 2).unwrap_or(u32::MAX);
    let timeout = heartbeat.saturating_mul(ticks);
    let seconds = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(MAX_TTL)
}

/// Why a lease is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Id 0. The service replaces it before it proposes; upstream answers "lease not found" to an entry with it.
    #[error("0 is not an id of a lease")]
    NoId,
    /// More than [`MAX_TTL`]. Told before [`GrantError::Exists`].
    #[error("time to live of {ttl} s is too large")]
    TtlTooLarge {
        /// What was asked for.
        ttl: i64,
    },
    /// The id is taken.
    #[error("lease {id} exists")]
    Exists {
        /// The id.
        id: LeaseId,
    },
}

/// There is no such lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lease {id} not found")]
pub struct NotFound {
    /// The id.
    pub id: LeaseId,
}

/// Why a lease is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// This member does not count time: forward to the leader.
    #[error("not a primary lessor")]
    NotPrimary,
    /// No such lease: the answer to the client is a time to live of 0.
    #[error("lease {id} not found")]
    NotFound {
        /// The id.
        id: LeaseId,
    },
    /// It ran out and its revocation is on the way: wait for that (then: not found), or for the loss of leadership.
    #[error("lease {id} has expired")]
    Expired {
        /// The id.
        id: LeaseId,
    },
}

/// What a renewal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lasts `ttl` seconds from now on.
    Renewed {
        /// The granted time to live.
        ttl: i64,
    },
    /// Nothing yet: the rest that was replicated must be taken back first, or the next leader would count from it.
    /// Propose a checkpoint of 0 for this lease, and renew again when it is applied.
    ClearCheckpoint,
}

/// Times of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeToLive {
    /// Seconds granted.
    pub granted: i64,
    /// Whole seconds left, towards zero: negative from one second after the end on. `None` where time is not counted.
    pub remaining: Option<i64>,
}

/// One lease. Kept small: a member may hold a million.
#[derive(Debug, Clone)]
struct Lease {
    ttl: i64,
    /// Seconds left as of the last checkpoint; 0 when there is none.
    remaining_ttl: i64,
    /// `None`: for ever (not primary).
    expiry: Option<Duration>,
    /// When the expiry queue looks at it next; the queue's other entries of this lease are void.
    queued_at: Option<Duration>,
}

impl Lease {
    fn new(ttl: i64, remaining_ttl: i64) -> Self {
        Self { ttl, remaining_ttl, expiry: None, queued_at: None }
    }

    /// What a new primary counts from.
    fn rest(&self) -> i64 {
        if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl }
    }

    fn is_expired(&self, now: Duration) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }

    fn row(&self, id: LeaseId) -> leasepb::Lease {
        leasepb::Lease { id: id.0, ttl: self.ttl, remaining_ttl: self.remaining_ttl }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

/// All leases of a member.
#[derive(Debug)]
pub struct Lessor {
    config: Config,
    leases: BTreeMap<LeaseId, Lease>,
    attachments: Attachments,
    is_primary: bool,
    /// Empty unless primary.
    expiry: ExpiryQueue,
    /// Empty unless primary and turned on.
    checkpoints: Checkpoints,
}

impl Lessor {
    /// A lessor without leases, not primary.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            leases: BTreeMap::new(),
            attachments: Attachments::default(),
            is_primary: false,
            expiry: ExpiryQueue::default(),
            checkpoints: Checkpoints::default(),
        }
    }

    /// The leases that stand in the backend, not primary. Attach their keys next ([`Lessor::attach`]), from the newest
    /// row of each live key.
    pub fn open(config: Config, view: &View) -> Result<Self, backend::Error> {
        let mut lessor = Self::new(config);
        for row in rows::all(view)? {
            let row = row?;
            // The least time to live may have been lower where the row was written.
            let ttl = row.ttl.max(lessor.config.min_ttl);
            lessor.leases.insert(LeaseId(row.id), Lease::new(ttl, row.remaining_ttl));
        }
        Ok(lessor)
    }

    /// Whether the lease exists.
    #[must_use]
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether this member counts time.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// All ids, the one that runs out first at the front (in order of ids where time is not counted). Sorts them all.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        let mut order: Vec<_> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.expiry.unwrap_or(Duration::MAX), *id))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Times of a lease.
    pub fn time_to_live(&self, id: LeaseId, now: Duration) -> Result<TimeToLive, NotFound> {
        let lease = self.leases.get(&id).ok_or(NotFound { id })?;
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let remaining = lease.expiry.map(|expiry| match expiry.checked_sub(now) {
            Some(left) => whole(left),
            None => -whole(now.saturating_sub(expiry)),
        });
        Ok(TimeToLive { granted: lease.ttl, remaining })
    }

    /// Keys that hang on a lease, sorted; none when it does not exist.
    pub fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Key> {
        self.attachments.keys(id)
    }

    /// The lease that a key hangs on.
    #[must_use]
    pub fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.attachments.lease_of(key)
    }

    /// Adds a lease, stores it, and returns the time to live that it got, in seconds.
    pub fn grant(
        &mut self,
        id: LeaseId,
        ttl: i64,
        now: Duration,
        writer: &mut Writer,
    ) -> Result<i64, GrantError> {
        if id.0 == 0 {
            return Err(GrantError::NoId);
        }
        if ttl > MAX_TTL {
            return Err(GrantError::TtlTooLarge { ttl });
        }
        if self.contains(id) {
            return Err(GrantError::Exists { id });
        }
        let ttl = ttl.max(self.config.min_ttl);
        let mut lease = Lease::new(ttl, 0);
        rows::put(writer, &lease.row(id));
        if self.is_primary {
            self.expiry.set(id, &mut lease, now.saturating_add(seconds(ttl)));
            self.checkpoints.schedule(self.config.checkpoint_interval, id, ttl, now);
        }
        self.leases.insert(id, lease);
        Ok(ttl)
    }

    /// Removes a lease and its row, and returns the keys that hung on it, sorted. The caller deletes them in this order,
    /// in one revision, within the same entry.
    pub fn revoke(&mut self, id: LeaseId, writer: &mut Writer) -> Result<Vec<Key>, NotFound> {
        self.leases.remove(&id).ok_or(NotFound { id })?;
        rows::delete(writer, id.0);
        self.checkpoints.remove(id);
        self.expiry.forget_some(&self.leases);
        Ok(self.attachments.take(id))
    }

    /// Hangs a key on a lease, and takes it off another one.
    pub fn attach(&mut self, id: LeaseId, key: &[u8]) -> Result<(), NotFound> {
        if !self.contains(id) {
            return Err(NotFound { id });
        }
        self.attachments.attach(id, key);
        Ok(())
    }

    /// Takes a key off its lease, which is returned.
    pub fn detach(&mut self, key: &[u8]) -> Option<LeaseId> {
        self.attachments.detach(key)
    }

    /// Gives a lease its full time to live again. Constant time, but for the look-up.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Result<Renewal, RenewError> {
        if !self.is_primary {
            return Err(RenewError::NotPrimary);
        }
        let lease = self.leases.get_mut(&id).ok_or(RenewError::NotFound { id })?;
        if lease.is_expired(now) {
            return Err(RenewError::Expired { id });
        }
        if self.config.checkpoint_interval.is_some() && lease.remaining_ttl > 0 {
            return Ok(Renewal::ClearCheckpoint);
        }
        let ttl = lease.ttl;
        self.expiry.set(id, lease, now.saturating_add(seconds(ttl)));
        Ok(Renewal::Renewed { ttl })
    }

    /// Up to `limit` leases that have run out, in order of expiry, to be revoked through the log. Each is reported again
    /// after [`Config::retry_after`] as long as it exists. None unless primary.
    pub fn expired(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        self.expiry.due(&mut self.leases, now, self.config.retry_after, limit)
    }

    /// The earliest moment at which [`Lessor::expired`] may have something to report: no need to ask before.
    #[must_use]
    pub fn next_look(&self) -> Option<Duration> {
        self.expiry.next_look()
    }

    /// Starts counting time: every lease lasts its rest (the full time to live, or what the last checkpoint said) and
    /// `extend` (the election timeout) from now on. When there are many, expiries are spread.
    pub fn promote(&mut self, extend: Duration, now: Duration) {
        self.is_primary = true;
        self.expiry.clear();
        self.checkpoints.clear();
        let mut order: Vec<(Duration, LeaseId)> = self
            .leases
            .iter()
            .map(|(id, lease)| {
                (now.saturating_add(extend).saturating_add(seconds(lease.rest())), *id)
            })
            .collect();
        if order.len() >= SPREAD_FROM {
            order.sort_unstable();
            expiry::spread(&mut order, SPREAD_PER_SECOND);
        }
        for (expiry, id) in order {
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.queued_at = None;
                self.expiry.set(id, lease, expiry);
                self.checkpoints.schedule(self.config.checkpoint_interval, id, lease.rest(), now);
            }
        }
    }

    /// Stops counting time: leases last for ever here.
    pub fn demote(&mut self) {
        self.is_primary = false;
        self.expiry.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            lease.expiry = None;
            lease.queued_at = None;
        }
    }

    /// Leases whose rest is to be proposed now, with the rest in seconds; at most `limit` (upstream: 1000 for one entry).
    /// The next one of a lease is due an interval after its checkpoint was applied.
    pub fn due_checkpoints(&mut self, now: Duration, limit: usize) -> Vec<(LeaseId, i64)> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some(id) = self.checkpoints.pop_due(now) else { break };
            let Some(lease) = self.leases.get(&id) else { continue };
            let Some(left) = lease.expiry.and_then(|expiry| expiry.checked_sub(now)) else {
                continue;
            };
            let rest = left.as_secs().saturating_add(u64::from(left.subsec_nanos() > 0));
            let rest = i64::try_from(rest).unwrap_or(i64::MAX);
            // Renewed just now (or extended by a promotion): there is nothing to say yet.
            if left.is_zero() || rest >= lease.ttl {
                continue;
            }
            due.push((id, rest));
        }
        due
    }

    /// Notes what is left of a lease, as an entry said; 0 takes an earlier note back. The expiry here does not change:
    /// the next primary counts from it.
    ///
    /// `persist`: whether the row says so too (3.6 on, or the experimental flag of 3.5): the same on all members.
    pub fn checkpoint(
        &mut self,
        id: LeaseId,
        remaining_ttl: i64,
        persist: bool,
        now: Duration,
        writer: &mut Writer,
    ) -> Result<(), NotFound> {
        let lease = self.leases.get_mut(&id).ok_or(NotFound { id })?;
        lease.remaining_ttl = remaining_ttl;
        if persist {
            rows::put(writer, &lease.row(id));
        }
        if self.is_primary {
            self.checkpoints.schedule(self.config.checkpoint_interval, id, lease.rest(), now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
