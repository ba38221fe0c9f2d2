//! Looking at a member from outside.

use std::fmt;

use super::Core;
use crate::{
    progress::Progress,
    storage::Storage,
    tracker::Configuration,
    types::{BasicStatus, ConfState, HardState, LogIndex, NodeId, Role, SoftState, Term},
};

impl<S: Storage> Core<S> {
    /// Returns this member.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Returns the current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns the current role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Returns the leader, or [`NodeId::NONE`] while it is not known.
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// Returns whether this member receives the log without voting.
    pub fn is_learner(&self) -> bool {
        self.is_learner
    }

    /// Returns the commit index.
    pub fn commit(&self) -> LogIndex {
        self.log.committed
    }

    /// Returns how far the state machine is confirmed to have applied.
    pub fn applied_index(&self) -> LogIndex {
        self.log.applied
    }

    /// Returns the last index of the log, stable or not.
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// Returns the first index of the log that is not compacted.
    pub fn first_index(&self) -> LogIndex {
        self.log.first_index()
    }

    /// Returns term, vote and commit index as of now.
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed }
    }

    /// Returns leader and role as of now.
    pub fn soft_state(&self) -> SoftState {
        SoftState { leader: self.leader, role: self.role }
    }

    /// Returns the active configuration in the form that snapshots hold.
    pub fn conf_state(&self) -> ConfState {
        self.tracker.conf_state()
    }

    /// Returns the active configuration.
    pub fn configuration(&self) -> &Configuration {
        &self.tracker.config
    }

    /// Returns whether this member decides alone. A group with one voter is not enough for that: it may be another one,
    /// and this member a leader that was removed and does not know yet that the other has elected itself.
    pub fn is_sole_voter(&self) -> bool {
        self.tracker.config.voters.is_singleton()
            && self.tracker.config.voters.contains(self.config.id)
    }

    /// Returns whether the leader has committed an entry of its own term, so that it knows everything that earlier
    /// leaders committed.
    pub fn has_committed_in_term(&self) -> bool {
        self.log.term_or_zero(self.log.committed) == self.term
    }

    /// Returns whether the leader found out that this member's log lost entries. The member takes no part any more.
    pub fn has_lost_log(&self) -> bool {
        self.lost_log.is_some()
    }

    /// Returns a summary.
    pub fn status(&self) -> BasicStatus {
        BasicStatus {
            id: self.config.id,
            hard_state: self.hard_state(),
            soft_state: self.soft_state(),
            applied: self.log.applied,
            transferee: self.transferee,
        }
    }

    /// Returns what the leader knows about each member, in id order, itself included. Empty unless this member leads.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let leads = self.is_leader();
        self.tracker.progress.iter().filter(move |_| leads).map(|(&id, progress)| (id, progress))
    }
}

/// Shows what decides the behaviour from here on, storage and settings apart.
impl<S> fmt::Debug for Core<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.config.id)
            .field("term", &self.term)
            .field("vote", &self.vote)
            .field("role", &self.role)
            .field("leader", &self.leader)
            .field("log", &format_args!("{}", self.log))
            .field("tracker", &self.tracker)
            .field("restored_index", &self.restored_index)
            .field("messages", &self.messages)
            .field("unsent", &self.unsent)
            .field("after_append", &self.after_append)
            .field("self_acks", &self.self_acks)
            .field("election_elapsed", &self.election_elapsed)
            .field("heartbeat_elapsed", &self.heartbeat_elapsed)
            .field("election_timeout", &self.election_timeout)
            .field("transferee", &self.transferee)
            .field("pending_conf_index", &self.pending_conf_index)
            .field("uncommitted_bytes", &self.uncommitted_bytes)
            .field("reads", &self.reads)
            .field("early_reads", &self.early_reads)
            .field("read_states", &self.read_states)
            .field("lost_log", &self.lost_log)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}
