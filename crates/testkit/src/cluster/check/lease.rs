//! What a lease promises: its keys stay for the whole time to live after each acknowledged renewal, and then go together,
//! in one revision.
//!
//! The time of an expiry is not observable; the first time that anybody was shown its revision is, and lies after it. A
//! renewal took effect after it was sent. So an expiry that was known sooner than the time to live after the sending of
//! a renewal acknowledged by then was too early, whatever the clocks of the members said.
//!
//! One thing etcd does not promise: a leader that was deposed and does not know it yet (it was paused, say) still
//! acknowledges keep-alives. A new leader starts the time of all leases anew when it is elected; so a renewal counts from its
//! sending, or from the last moment at which its leader surely had no successor, whichever is earlier. Surely: a
//! write sent then was acknowledged in that term.
//!
//! Another it does promise and does not quite keep: a leader that is paused long enough to be deposed may, in the moment of
//! waking up, take itself for the leader by an old confirmation, and have a lease revoked that its successor has renewed
//! (found by this test on 3.5.16; its log lacks the line "Ignore the lease revoking request" then). With such members in
//! the cluster a lease that has seen two terms may end early; these are counted. See [`Checker::tolerate_deposed_leaders`].

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;

use super::{Checker, Observed};
use crate::cluster::history::Lease;

impl Checker {
    pub(super) fn learn_leases(&mut self, leases: std::collections::BTreeMap<i64, Lease>) {
        for (id, lease) in leases {
            let known = self.leases.entry(id).or_default();
            known.ttl = known.ttl.max(lease.ttl);
            known.renewals.extend(lease.renewals);
            known.revoked = known.revoked.or(lease.revoked);
            known.reported_gone = known.reported_gone.or(lease.reported_gone);
        }
    }

    /// Explains events that nobody wrote as the end of a lease.
    pub(super) fn end_lease(
        &mut self,
        events: &[Event],
        known: Option<Duration>,
        observed: &Observed,
    ) -> Result<()> {
        let deleted: Option<Vec<_>> = events
            .iter()
            .map(|event| event.kv.as_ref().filter(|_| event.r#type() == EventType::Delete))
            .collect();
        let nobody = || format!("nobody wrote {events:?}");
        let deleted = deleted.with_context(nobody)?;
        let first = deleted.first().with_context(nobody)?;
        let id = self.store.get(&first.key, self.revision()).map_or(0, |kv| kv.lease);
        ensure!(id != 0, nobody());
        let keys = deleted.iter().map(|kv| kv.key.clone()).collect();
        let attached = self.store.attached(id);
        ensure!(attached == keys, "lease {id:x} ended with {keys:?}, but held {attached:?}");
        let lease = self.leases.get(&id).with_context(|| format!("lease {id:x} is nobody's"))?;
        if lease.revoked.is_some_and(|sent| known.is_none_or(|known| sent <= known)) {
            self.summary.leases_revoked += 1;
            return Ok(());
        }
        if let Some(known) = known {
            for renewal in lease.renewals.iter().filter(|renewal| renewal.returned <= known) {
                let from = if observed.term_at(known) > renewal.term {
                    renewal.invoked.min(observed.reign_of(renewal.term))
                } else {
                    renewal.invoked
                };
                if from + lease.ttl > known && self.is_tolerant {
                    let first = lease.renewals.iter().map(|renewal| renewal.term).min();
                    if first.is_some_and(|term| term < observed.term_at(known)) {
                        self.summary.leases_cut_short += 1;
                        return Ok(());
                    }
                }
                ensure!(
                    from + lease.ttl <= known,
                    "lease {id:x} expired too early: renewed by {renewal:?} (surely in force at {from:?}) for {:?}, gone at {known:?}",
                    lease.ttl
                );
            }
        }
        self.summary.leases_expired += 1;
        Ok(())
    }

    /// Keys that still hang on a lease.
    pub fn leased_keys(&self) -> usize {
        self.leases.keys().map(|id| self.store.attached(*id).len()).sum()
    }
}
