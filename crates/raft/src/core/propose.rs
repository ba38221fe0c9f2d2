//! Proposals: taken by the leader, forwarded by followers.

use bytes::Bytes;

use super::Core;
use crate::{
    codec,
    confchange::{ConfChange, ConfChangeV2},
    config::CompatMode,
    error::{CodecError, ProposalDropped, StepError},
    message::{Body, Message},
    storage::Storage,
    trace::trace,
    types::{Entry, EntryKind, NodeId, Role, Term, payload_size},
};

impl<S: Storage> Core<S> {
    /// Proposes one entry for the state machine.
    ///
    /// # Errors
    /// Drops the proposal when nobody can take it now. A proposal that was taken may still get lost with its leader.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposalDropped> {
        self.propose_entries(vec![Entry::normal(data)])
    }

    /// Proposes several entries at once: they are taken, or dropped, together, and replicated in one go. Terms and
    /// indexes are filled in by the leader.
    ///
    /// # Errors
    /// See [`Core::propose`].
    pub fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), ProposalDropped> {
        if entries.is_empty() {
            return Ok(());
        }
        self.handle_propose(NodeId::NONE, entries).map_err(|_| ProposalDropped)
    }

    /// Proposes a change of one member. It takes effect when its entry is applied, by [`Core::apply_conf_change_at`].
    ///
    /// While another change is not applied yet, the leader appends an empty entry in its place.
    ///
    /// # Errors
    /// See [`Core::propose`].
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(), ProposalDropped> {
        let data = codec::encode_conf_change(change);
        self.propose_entries(vec![Entry { kind: EntryKind::ConfChange, data, ..Entry::default() }])
    }

    /// Proposes a change of several members, or the end of a joint configuration.
    ///
    /// # Errors
    /// See [`Core::propose`].
    pub fn propose_conf_change_v2(&mut self, change: &ConfChangeV2) -> Result<(), ProposalDropped> {
        let data = codec::encode_conf_change_v2(change);
        self.propose_entries(vec![Entry {
            kind: EntryKind::ConfChangeV2,
            data,
            ..Entry::default()
        }])
    }

    pub(super) fn handle_propose(
        &mut self,
        from: NodeId,
        entries: Vec<Entry>,
    ) -> Result<(), StepError> {
        let id = self.config.id;
        if self.role == Role::Leader {
            return self.take_proposal(from, entries);
        }
        if self.leader == NodeId::NONE || self.role != Role::Follower {
            trace!(
                self.config.trace,
                Info, "{id} no leader at term {}; dropping proposal", self.term
            );
            return Err(ProposalDropped.into());
        }
        if self.config.disable_proposal_forwarding {
            trace!(
                self.config.trace,
                Info,
                "{id} not forwarding to leader {} at term {}; dropping proposal",
                self.leader,
                self.term
            );
            return Err(ProposalDropped.into());
        }
        let from = if from == NodeId::NONE { id } else { from };
        self.queue(Message {
            to: self.leader,
            from,
            term: Term::ZERO,
            body: Body::Propose { entries },
        });
        Ok(())
    }

    fn take_proposal(&mut self, from: NodeId, mut entries: Vec<Entry>) -> Result<(), StepError> {
        let id = self.config.id;
        if !self.tracker.progress.contains_key(&id) {
            // Removed while leading: what it would append now nobody might ever commit.
            return Err(ProposalDropped.into());
        }
        if self.transferee != NodeId::NONE {
            trace!(
                self.config.trace,
                Debug,
                "{id} [term {}] transfer leadership to {} is in progress; dropping proposal",
                self.term,
                self.transferee
            );
            return Err(ProposalDropped.into());
        }
        let pending_conf_index = self.pending_conf_index;
        for place in 0..entries.len() {
            if let Err(error) = self.review_conf_change(&mut entries, place) {
                trace!(self.config.trace, Warn, "{id} dropping proposal from {from}: {error}");
                self.pending_conf_index = pending_conf_index;
                return Err(StepError::Malformed {
                    from,
                    what: "proposed configuration change is not one",
                });
            }
        }
        if !self.append_own(entries) {
            return Err(ProposalDropped.into());
        }
        if self.config.compat == CompatMode::Upstream {
            self.broadcast_append();
        } else {
            self.unsent.entries = true;
        }
        Ok(())
    }

    /// Lets a configuration change pass if it can follow the present configuration and no other is under way; else an
    /// empty entry takes its place.
    fn review_conf_change(
        &mut self,
        entries: &mut [Entry],
        place: usize,
    ) -> Result<(), CodecError> {
        let entry = &entries[place];
        let Some(change) = codec::conf_change_of(entry)? else { return Ok(()) };
        let is_joint = self.tracker.config.voters.is_joint();
        let leaves_joint = change.changes.is_empty();
        let is_pending = self.pending_conf_index > self.log.applied;
        let problem = if is_pending {
            "possible unapplied conf change"
        } else if is_joint && !leaves_joint {
            "must transition out of joint config first"
        } else if !is_joint && leaves_joint {
            "not in joint state; refusing empty conf change"
        } else {
            ""
        };
        if problem.is_empty() || self.config.disable_conf_change_validation {
            self.pending_conf_index = self.log.last_index().plus(place + 1);
            return Ok(());
        }
        let (id, config) = (self.config.id, &self.tracker.config);
        if is_pending {
            trace!(
                self.config.trace,
                Info,
                "{id} ignoring conf change {change} at config {config}: {problem} at index {} (applied to {})",
                self.pending_conf_index,
                self.log.applied
            );
        } else {
            trace!(
                self.config.trace,
                Info, "{id} ignoring conf change {change} at config {config}: {problem}"
            );
        }
        entries[place] = Entry::default();
        Ok(())
    }

    /// Appends entries to the leader's own log. Returns false, and appends nothing, if too much is uncommitted already.
    pub(super) fn append_own(&mut self, mut entries: Vec<Entry>) -> bool {
        let bytes = payload_size(&entries);
        let total = self.uncommitted_bytes.saturating_add(bytes);
        // One proposal of any size is taken when nothing else is under way, and empty entries always: a new leader's
        // first one, and the one that leaves a joint configuration, must not be refused.
        if self.uncommitted_bytes > 0 && bytes > 0 && total > self.config.max_uncommitted_bytes {
            trace!(
                self.config.trace,
                Warn,
                "{} appending new entries to log would exceed uncommitted entry size limit; dropping proposal",
                self.config.id
            );
            return false;
        }
        self.uncommitted_bytes = total;
        let mut last = self.log.last_index();
        for entry in &mut entries {
            last = last.next();
            entry.term = self.term;
            entry.index = last;
        }
        self.log.append(entries);
        // The leader's own word counts when its log is durable, like anybody's.
        self.send(self.config.id, Body::AppendResponse { index: last, rejection: None });
        true
    }
}
