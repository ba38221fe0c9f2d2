//! Applying one entry: what it is, whether it is new here, and what follows.
//!
//! ```text
//!                      index <= consistent index            index > consistent index
//! keys, leases, alarms nothing: the rows have it            rows, answer, events
//! members, version     in memory only                       in memory and rows
//! conf change          raft is told                         raft is told
//! ```
//!
//! [`kv`] executes requests for keys and leases, [`cluster`] what changes the cluster.

mod cluster;
mod kv;

pub use cluster::StorageMigration;

use std::time::Duration;

use auth::Caller;
use lease::LeaseId;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest, alarm_request::AlarmAction,
};

use crate::committed::{Decoded, decode_request};
use crate::machine::lock;
use crate::op_name::op_name;
use crate::{
    Answer, Applied, Committed, Effect, Fatal, Machine, Outcome, Payload, RequestError, Response,
};

/// What is known of the entry that is being applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) index: u64,
    /// Its effects are not in the backend yet.
    pub(super) is_new: bool,
    /// The caller's clock, see [`Machine::apply`].
    pub(super) now: Duration,
}

impl Machine {
    /// Applies the next entry.
    ///
    /// `now` is the time since any fixed moment of a monotonic clock, the same one as for the lessor: from it a lessor
    /// that is primary counts the time of new leases. Nothing that members must agree on depends on it.
    ///
    /// Rows and events are visible to readers when this returns. Call [`backend::Writer::take_commit`] between
    /// entries only.
    ///
    /// # Errors
    /// [`Fatal`]: the member must stop. The entry may be half applied; it is not committed to the backend.
    pub fn apply(&mut self, committed: &Committed, now: Duration) -> Result<Applied, Fatal> {
        let &Committed { index, term, ref payload } = committed;
        if index != self.applied + 1 {
            return Err(Fatal::OutOfOrder { applied: self.applied, got: index });
        }
        let entry = Entry { index, is_new: index > self.writer.consistent().index, now };
        let mut applied = Applied::default();
        match payload {
            Payload::Empty => applied.effects.push(Effect::EmptyEntry),
            Payload::Request(request) => self.apply_request(entry, request, &mut applied)?,
            Payload::Raw(bytes) => match decode_request(index, bytes.clone())? {
                Decoded::Request(request) => self.apply_request(entry, &request, &mut applied)?,
                Decoded::V2(request) => self.apply_v2(entry, &request, &mut applied)?,
            },
            Payload::ConfChange(change) => self.apply_conf_change(entry, change, &mut applied)?,
        }
        if entry.is_new {
            // After the effects, before the next commit can be taken: rows and index reach the disk together.
            self.writer.set_consistent_index(index, term);
            self.writer.publish();
        }
        self.applied = index;
        self.applied_term = term;
        Ok(applied)
    }

    fn apply_request(
        &mut self,
        entry: Entry,
        request: &InternalRaftRequest,
        applied: &mut Applied,
    ) -> Result<(), Fatal> {
        applied.request_id = match (request.id, &request.header) {
            (0, Some(header)) => header.id,
            (id, _) => id,
        };
        let Some(op) = &request.request else {
            // etcd answers nothing to a request that it does not know.
            return Ok(());
        };
        applied.op = Some(op_name(op));
        if let Some(outcome) = self.apply_to_cluster(entry, op, applied)? {
            applied.outcome = entry.is_new.then_some(outcome);
        } else if entry.is_new {
            let caller = request.header.as_ref().map_or(Caller::NOBODY, |header| Caller {
                user: &header.username,
                revision: header.auth_revision,
            });
            let admitted = self.admit(op).and_then(|()| Ok(self.check_rights(caller, op)?));
            applied.outcome = Some(match admitted {
                Ok(()) => self.execute(entry, op, caller, applied)?,
                Err(refused) => Err(refused),
            });
        }
        Ok(())
    }

    /// Whether the caller may have this done. What changes users and roles is checked where it is done; the rest was
    /// checked by the member that was asked, as in etcd, or comes of a member itself.
    ///
    /// Differs from etcd 3.5, where an alarm that is raised takes these checks away until a restart (its PR 22386).
    fn check_rights(&self, caller: Caller<'_>, op: &Op) -> Result<(), auth::Error> {
        let rights = self.auth.snapshot();
        if !rights.is_enabled() {
            return Ok(());
        }
        let leased = |id: i64| lock(&self.lessor).keys(LeaseId(id)).cloned().collect();
        match op {
            Op::Put(request) => rights.check_put(caller, request, &leased),
            Op::DeleteRange(request) => rights.check_delete_range(caller, request),
            Op::Txn(request) => rights.check_txn(caller, request, &leased),
            Op::Range(request) => rights.check_read(caller, &request.key, &request.range_end),
            Op::LeaseRevoke(request) => rights.check_lease_writes(caller, request.id, &leased),
            Op::V2(_)
            | Op::Compaction(_)
            | Op::LeaseGrant(_)
            | Op::LeaseCheckpoint(_)
            | Op::Alarm(_)
            | Op::AuthEnable(_)
            | Op::AuthDisable(_)
            | Op::AuthStatus(_)
            | Op::Authenticate(_)
            | Op::AuthUserAdd(_)
            | Op::AuthUserDelete(_)
            | Op::AuthUserGet(_)
            | Op::AuthUserChangePassword(_)
            | Op::AuthUserGrantRole(_)
            | Op::AuthUserRevokeRole(_)
            | Op::AuthUserList(_)
            | Op::AuthRoleList(_)
            | Op::AuthRoleAdd(_)
            | Op::AuthRoleDelete(_)
            | Op::AuthRoleGet(_)
            | Op::AuthRoleGrantPermission(_)
            | Op::AuthRoleRevokePermission(_)
            | Op::ClusterVersionSet(_)
            | Op::ClusterMemberAttrSet(_)
            | Op::DowngradeInfoSet(_)
            | Op::DowngradeVersionTest(_) => Ok(()),
        }
    }

    /// Executes what goes to the backend alone.
    fn execute(
        &mut self,
        entry: Entry,
        op: &Op,
        caller: Caller<'_>,
        applied: &mut Applied,
    ) -> Result<Outcome, Fatal> {
        let rules = self.options.version.auth_rules();
        if let Some(done) = self.auth.apply(entry.index, op, caller, rules, &mut self.writer) {
            applied.effects.extend(done.effect.map(Effect::Auth));
            let answered = done.outcome.map(|answer| self.answer(Response::Auth(answer)));
            return Ok(answered.map_err(RequestError::from));
        }
        let outcome = match op {
            Op::Put(request) => self.put(request, applied)?,
            Op::DeleteRange(request) => self.delete_range(request, applied)?,
            Op::Txn(request) => self.txn(request, applied)?,
            Op::Compaction(request) => self.compact(request, applied)?,
            Op::LeaseGrant(request) => self.lease_grant(entry, request, applied),
            Op::LeaseRevoke(request) => self.lease_revoke(request, applied),
            Op::LeaseCheckpoint(request) => self.lease_checkpoint(entry, request),
            Op::Alarm(request) => Ok(self.alarm(request)),
            // Reads that went through the log: nobody's state changes. 3.6 has the version test for its own tests. The rest
            // was taken care of before this: what changes the cluster, and what is about authentication.
            Op::Range(_)
            | Op::DowngradeVersionTest(_)
            | Op::V2(_)
            | Op::ClusterVersionSet(_)
            | Op::ClusterMemberAttrSet(_)
            | Op::DowngradeInfoSet(_)
            | Op::Authenticate(_)
            | Op::AuthStatus(_)
            | Op::AuthUserGet(_)
            | Op::AuthUserList(_)
            | Op::AuthRoleGet(_)
            | Op::AuthRoleList(_)
            | Op::AuthEnable(_)
            | Op::AuthDisable(_)
            | Op::AuthUserAdd(_)
            | Op::AuthUserDelete(_)
            | Op::AuthUserChangePassword(_)
            | Op::AuthUserGrantRole(_)
            | Op::AuthUserRevokeRole(_)
            | Op::AuthRoleAdd(_)
            | Op::AuthRoleDelete(_)
            | Op::AuthRoleGrantPermission(_)
            | Op::AuthRoleRevokePermission(_) => Err(RequestError::Unsupported),
        };
        Ok(outcome)
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Answer {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let is_none = request.alarm == i32::from(AlarmType::None);
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms.list(request.alarm),
            Ok(AlarmAction::Activate) if is_none => Vec::new(),
            Ok(AlarmAction::Activate) => {
                vec![self.alarms.activate(&mut self.writer, alarm)]
            }
            Ok(AlarmAction::Deactivate) => {
                self.alarms.deactivate(&mut self.writer, alarm).into_iter().collect()
            }
            // etcd crashes the answering member; services refuse it before it gets here.
            Err(_) => Vec::new(),
        };
        self.answer(Response::Alarms(alarms))
    }

    /// An answer with the present revision.
    pub(super) fn answer(&self, response: Response) -> Answer {
        Answer { revision: self.store.current_revision(), response }
    }
}
