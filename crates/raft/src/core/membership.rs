//! The group's configuration: it changes when a change is applied, and begins with bootstrap.

use bytes::Bytes;

use super::{Core, append::IfEmpty};
use crate::{
    codec,
    confchange::{Changed, Changer, ConfChange, ConfChangeKind, ConfChangeV2},
    config::CompatMode,
    error::{ConfChangeError, ConfigError},
    storage::Storage,
    trace::trace,
    types::{ConfState, Entry, EntryKind, LogIndex, NodeId, Role, Term},
};

/// A member of a group that is about to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The member.
    pub id: NodeId,
    /// Becomes the context of its `ConfChange`. etcd puts the member there, as JSON.
    pub context: Bytes,
}

/// Returns the log with which a new group begins: one AddNode entry for each member, in the order given, at term 1 and
/// from index 1 on. Every member writes the same by itself; they count as committed.
pub fn bootstrap_entries(peers: &[Peer]) -> Vec<Entry> {
    let mut index = LogIndex::ZERO;
    let entry = |peer: &Peer| {
        index = index.next();
        let change = ConfChange {
            id: 0,
            kind: ConfChangeKind::AddNode,
            node_id: peer.id,
            context: peer.context.clone(),
        };
        let data = codec::encode_conf_change(&change);
        Entry { kind: EntryKind::ConfChange, term: Term(1), index, data }
    };
    peers.iter().map(entry).collect()
}

impl<S: Storage> Core<S> {
    /// Begins a new group on empty storage with [`bootstrap_entries`]. They come out with the first
    /// [`Ready`](crate::Ready), to be written and applied like any others; applying them once more is harmless.
    ///
    /// # Errors
    /// Fails if storage is not empty, if there are no members, or if one of them is nobody.
    pub fn bootstrap(&mut self, peers: &[Peer]) -> Result<(), ConfigError> {
        if peers.is_empty() {
            return Err(ConfigError::Bootstrap("must provide at least one peer to Bootstrap"));
        }
        if self.log.last_index() != LogIndex::ZERO {
            return Err(ConfigError::Bootstrap("can't bootstrap a nonempty Storage"));
        }
        if peers.iter().any(|peer| !peer.id.is_member()) {
            return Err(ConfigError::Bootstrap("can't bootstrap with a peer without id"));
        }
        self.become_follower(Term(1), NodeId::NONE);
        self.log.append(bootstrap_entries(peers));
        self.log.committed = LogIndex(peers.len() as u64);
        // In force at once, so that the member may campaign before it has applied its first entries.
        for peer in peers {
            let change = ConfChange { node_id: peer.id, ..ConfChange::default() };
            self.apply_conf_change(&change.into())?;
        }
        self.ready.forget_hard_state();
        Ok(())
    }

    /// Puts the configuration change of the entry at `index` in force. The driver calls this when it applies that entry,
    /// in order, and before it applies anything behind it. To refuse a change at that point, it leaves the call out or
    /// blanks the ids, on every member alike.
    ///
    /// Does nothing if the entry lies within a snapshot that was restored while it was on its way through the state
    /// machine: the snapshot's configuration has the change in it, and may have later ones.
    ///
    /// # Errors
    /// Fails if the change cannot follow the present configuration. Then it cannot on any member.
    pub fn apply_conf_change_at(
        &mut self,
        index: LogIndex,
        change: &ConfChangeV2,
    ) -> Result<ConfState, ConfChangeError> {
        if index <= self.restored_index {
            return Ok(self.tracker.conf_state());
        }
        self.apply_conf_change(change)
    }

    /// [`Core::apply_conf_change_at`] for a change that is newer than any snapshot, as in a group of one.
    ///
    /// # Errors
    /// Fails if the change cannot follow the present configuration. Then it cannot on any member.
    pub fn apply_conf_change(
        &mut self,
        change: &ConfChangeV2,
    ) -> Result<ConfState, ConfChangeError> {
        let changer = Changer { tracker: &self.tracker, last_index: self.log.last_index() };
        let changed = changer.change(change)?;
        self.switch_to(changed);
        Ok(self.tracker.conf_state())
    }

    /// Takes over a configuration and does what follows from it.
    pub(super) fn switch_to(&mut self, changed: Changed) {
        (self.tracker.config, self.tracker.progress) = changed;
        let id = self.config.id;
        trace!(self.config.trace, Info, "{id} switched to configuration {}", self.tracker.config);

        let own = self.tracker.progress.get(&id);
        let is_member = own.is_some();
        self.is_learner = own.is_some_and(|progress| progress.is_learner);
        if self.role != Role::Leader {
            return;
        }
        if !is_member || self.is_learner {
            // Without the option the leader goes on without counting itself, until somebody else campaigns.
            if self.config.step_down_on_removal {
                self.become_follower(self.term, NodeId::NONE);
            }
            return;
        }
        if self.tracker.config.voters.incoming.0.is_empty() {
            return;
        }
        if self.maybe_commit() {
            // The new quorum needs fewer members than the old one.
            if self.config.compat == CompatMode::Hardened {
                self.release_early_reads();
            }
            self.broadcast_append();
        } else {
            // New members need not wait for the next heartbeat.
            self.for_each_follower(|core, id| {
                core.send_append(id, IfEmpty::Skip);
            });
        }
        if self.config.compat == CompatMode::Hardened {
            self.answer_confirmed_reads();
        }
        if !self.tracker.config.voters.contains(self.transferee) {
            self.transferee = NodeId::NONE;
        }
    }

    /// Notes that the state machine has applied everything up to `index`, and leaves a joint configuration if that is
    /// the leader's to do.
    pub(super) fn applied_to(&mut self, index: LogIndex, encoded_bytes: u64) {
        let applied = index.max(self.log.applied);
        self.log.applied_to(applied, encoded_bytes);

        let may_leave = self.tracker.config.auto_leave && applied >= self.pending_conf_index;
        if !may_leave || self.role != Role::Leader {
            return;
        }
        // An empty entry weighs nothing, so it is not refused for its size. It may be refused while leadership is being
        // handed over; then either the next leader or the next entry applied here tries again.
        let leave = Entry { kind: EntryKind::ConfChangeV2, ..Entry::default() };
        match self.handle_propose(NodeId::NONE, vec![leave]) {
            Ok(()) => trace!(
                self.config.trace,
                Info,
                "initiating automatic transition out of joint configuration {}",
                self.tracker.config
            ),
            Err(error) => trace!(
                self.config.trace,
                Debug,
                "not initiating automatic transition out of joint configuration {}: {error}",
                self.tracker.config
            ),
        }
    }
}
