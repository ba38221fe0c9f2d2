//! Requests for keys and leases.

use lease::{GrantError, LeaseId, Lessor};
use mvcc::Changes;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, PutRequest, TxnRequest,
    alarm_request::AlarmAction,
};

use super::Entry;
use crate::machine::lock;
use crate::quota::{LEASE_COST_BYTES, put_cost, txn_cost};
use crate::{
    Answer, Applied, Effect, Fatal, Machine, Outcome, RequestError, Response, Restriction,
};

impl Machine {
    pub(super) fn put(
        &mut self,
        request: &PutRequest,
        applied: &mut Applied,
    ) -> Result<Outcome, Fatal> {
        let cost = put_cost(request);
        let has_room = self.has_room(cost);
        let mut lessor = lock(&self.lessor);
        let result = self.store.put(&mut self.writer, request, &|id| lessor.contains(LeaseId(id)));
        let (response, changes) = match reply_or_stop(result)? {
            Ok(done) => done,
            Err(refused) => return Ok(Err(refused)),
        };
        let revision = note(&mut lessor, changes, applied);
        drop(lessor);
        let answer = Answer { revision, response: Response::Put(response) };
        Ok(self.unless_over_quota(has_room, answer, applied))
    }

    pub(super) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        applied: &mut Applied,
    ) -> Result<Outcome, Fatal> {
        let (response, changes) =
            match reply_or_stop(self.store.delete_range(&mut self.writer, request))? {
                Ok(done) => done,
                Err(refused) => return Ok(Err(refused)),
            };
        let revision = note(&mut lock(&self.lessor), changes, applied);
        Ok(Ok(Answer { revision, response: Response::DeleteRange(response) }))
    }

    pub(super) fn txn(
        &mut self,
        request: &TxnRequest,
        applied: &mut Applied,
    ) -> Result<Outcome, Fatal> {
        let cost = txn_cost(request, self.options.version);
        let has_room = self.has_room(cost);
        let mut lessor = lock(&self.lessor);
        let result = self.store.txn(&mut self.writer, request, &|id| lessor.contains(LeaseId(id)));
        let (response, changes) = match reply_or_stop(result)? {
            Ok(done) => done,
            Err(refused) => return Ok(Err(refused)),
        };
        let revision = note(&mut lessor, changes, applied);
        drop(lessor);
        let answer = Answer { revision, response: Response::Txn(response) };
        Ok(self.unless_over_quota(has_room, answer, applied))
    }

    pub(super) fn compact(
        &mut self,
        request: &CompactionRequest,
        applied: &mut Applied,
    ) -> Result<Outcome, Fatal> {
        match reply_or_stop(self.store.compact(&mut self.writer, request.revision))? {
            Ok(compaction) => {
                applied.effects.push(Effect::Compact(compaction));
                Ok(Ok(self.answer(Response::Done)))
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    pub(super) fn lease_grant(
        &mut self,
        entry: Entry,
        request: &LeaseGrantRequest,
        applied: &mut Applied,
    ) -> Outcome {
        let has_room = self.has_room(LEASE_COST_BYTES);
        let granted =
            lock(&self.lessor).grant(LeaseId(request.id), request.ttl, entry.now, &mut self.writer);
        let ttl = granted.map_err(|error| match error {
            GrantError::NoId => RequestError::LeaseNotFound,
            GrantError::TtlTooLarge { .. } => RequestError::LeaseTtlTooLarge,
            GrantError::Exists { .. } => RequestError::LeaseExists,
        })?;
        let response = LeaseGrantResponse { id: request.id, ttl, ..LeaseGrantResponse::default() };
        let answer = self.answer(Response::LeaseGrant(response));
        self.unless_over_quota(has_room, answer, applied)
    }

    /// The lease's keys go in the order of their bytes, in one revision, with the lease itself.
    pub(super) fn lease_revoke(
        &mut self,
        request: &LeaseRevokeRequest,
        applied: &mut Applied,
    ) -> Outcome {
        let mut lessor = lock(&self.lessor);
        let keys = lessor
            .revoke(LeaseId(request.id), &mut self.writer)
            .map_err(|lease::NotFound { .. }| RequestError::LeaseNotFound)?;
        let mut txn = self.store.begin(&mut self.writer);
        for key in &keys {
            txn.delete_range(mvcc::KeyRange::Single(key));
        }
        let revision = note(&mut lessor, txn.finish(), applied);
        Ok(Answer { revision, response: Response::Done })
    }

    pub(super) fn lease_checkpoint(
        &mut self,
        entry: Entry,
        request: &LeaseCheckpointRequest,
    ) -> Outcome {
        let version = self.options.version;
        let persist = self.options.persists_checkpoints
            || version.persists_checkpoints(self.membership.version());
        let mut lessor = lock(&self.lessor);
        for checkpoint in &request.checkpoints {
            let id = LeaseId(checkpoint.id);
            // Upstream gives up at the first unknown lease, and leaves the rest of the list as it was.
            lessor
                .checkpoint(id, checkpoint.remaining_ttl, persist, entry.now, &mut self.writer)
                .map_err(|lease::NotFound { .. }| RequestError::LeaseNotFound)?;
        }
        drop(lessor);
        Ok(self.answer(Response::Done))
    }

    /// Refuses what an alarm forbids, whoever asks: CORRUPT everything that works on keys and leases, NOSPACE what costs space.
    pub(super) fn admit(&self, op: &Op) -> Result<(), RequestError> {
        let restriction = self.alarms.restriction();
        if restriction == Restriction::None {
            return Ok(());
        }
        let cost_bytes = if let Op::Put(request) = op {
            put_cost(request)
        } else if let Op::Txn(request) = op {
            txn_cost(request, self.options.version)
        } else if matches!(op, Op::LeaseGrant(_)) {
            LEASE_COST_BYTES
        } else if matches!(op, Op::DeleteRange(_) | Op::Compaction(_) | Op::LeaseRevoke(_)) {
            0
        } else {
            return Ok(());
        };
        match restriction {
            Restriction::Corrupt => Err(RequestError::Corrupt),
            Restriction::NoSpace if cost_bytes > 0 => Err(RequestError::NoSpace),
            Restriction::NoSpace | Restriction::None => Ok(()),
        }
    }

    /// Whether this member has room, before the request is executed.
    fn has_room(&self, cost_bytes: u64) -> bool {
        self.options.quota.has_room(self.backend.size().total_bytes, cost_bytes)
    }

    /// Turns the answer to an executed request into the error that its client has to see, and asks for the alarm that
    /// will stop the next one on every member.
    fn unless_over_quota(&self, has_room: bool, answer: Answer, applied: &mut Applied) -> Outcome {
        if has_room {
            return Ok(answer);
        }
        if !self.alarms.stands(AlarmType::Nospace) {
            applied.effects.push(Effect::RaiseAlarm(AlarmRequest {
                action: AlarmAction::Activate.into(),
                member_id: self.options.member_id,
                alarm: AlarmType::Nospace.into(),
            }));
        }
        Err(RequestError::OverQuota)
    }
}

/// Tells a refusal, which all members share, from damage here.
fn reply_or_stop<T>(result: Result<T, mvcc::Error>) -> Result<Result<T, RequestError>, Fatal> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(mvcc::Error::Request(refused)) => Ok(Err(refused.into())),
        Err(mvcc::Error::Storage(damage)) => Err(damage.into()),
    }
}

/// Hands the events on, hangs the changed keys on their leases, and returns the revision.
fn note(lessor: &mut Lessor, changes: Changes, applied: &mut Applied) -> i64 {
    // Without leases nothing can hang on one.
    if !lessor.is_empty() {
        for change in changes.lease_changes() {
            if change.lease == 0 {
                lessor.detach(&change.key);
            } else {
                // A lease that is not there was refused before, unless `ignore_lease` kept a key on one that is gone.
                let _ = lessor.attach(LeaseId(change.lease), &change.key);
            }
        }
    }
    let Changes { revision, batch } = changes;
    applied.events = batch;
    revision
}
