//! Replication: the leader sends its log and counts acknowledgements, followers append and answer.

use bytes::Bytes;

use super::Core;
use crate::{
    error::{StepError, StorageError},
    message::{Body, Rejection},
    progress::ProgressState,
    storage::Storage,
    trace::trace,
    types::{Entry, EntryId, LogIndex, NodeId, Role, Term, payload_size},
};

/// Whether an append goes out even when it has no entries, to probe or to tell the commit index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfEmpty {
    Send,
    Skip,
}

// On the leader.
impl<S: Storage> Core<S> {
    /// Tells the leader that messages to a member may have been lost. It goes back to probing.
    pub fn report_unreachable(&mut self, id: NodeId) {
        if self.role != Role::Leader {
            return;
        }
        let Some(progress) = self.tracker.progress.get_mut(&id) else { return };
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        trace!(
            self.config.trace,
            Debug,
            "{} failed to send message to {id} because it is unreachable [{progress}]",
            self.config.id
        );
    }

    /// Sends to everybody what they lack.
    pub(super) fn broadcast_append(&mut self) {
        self.for_each_follower(|core, id| {
            core.send_append(id, IfEmpty::Send);
        });
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let context = self.reads.heartbeat_context();
        self.for_each_follower(|core, id| core.send_heartbeat(id, context.clone()));
    }

    /// Sends what was put off until now, so that a batch of proposals is one append and a batch of reads one heartbeat.
    pub(super) fn broadcast_unsent(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        if self.role != Role::Leader {
            return;
        }
        if unsent.heartbeat {
            self.broadcast_heartbeat();
        }
        if unsent.entries {
            self.for_each_follower(|core, id| while core.send_append(id, IfEmpty::Skip) {});
        }
    }

    pub(super) fn for_each_follower(&mut self, mut visit: impl FnMut(&mut Self, NodeId)) {
        let mut id = NodeId::NONE;
        while let Some(next) = self.tracker.member_after(id) {
            id = next;
            if id != self.config.id {
                visit(self, id);
            }
        }
    }

    fn send_heartbeat(&mut self, to: NodeId, context: Bytes) {
        let Some(progress) = self.tracker.progress.get_mut(&to) else { return };
        // The follower may not hold, or hold something else than, what is committed: never beyond what matches.
        let commit = progress.match_index.min(self.log.committed);
        progress.sent_commit(commit);
        self.send(to, Body::Heartbeat { commit, context });
    }

    /// Sends one append, or a snapshot in its place, unless the follower is paused. Returns whether anything was sent.
    pub(super) fn send_append(&mut self, to: NodeId, if_empty: IfEmpty) -> bool {
        let Some(progress) = self.tracker.progress.get_mut(&to) else { return false };
        if progress.is_paused() {
            return false;
        }
        let index = progress.next.prev();
        let Ok(term) = self.log.term(index) else {
            return self.send_snapshot(to);
        };
        // Over a full window only an empty append may go, as a probe: if all that fills the window was lost, its answer
        // is what empties it.
        let may_carry = progress.state != ProgressState::Replicate || !progress.inflights.is_full();
        let entries = if may_carry {
            match self.log.entries_from(progress.next, self.config.max_message_bytes) {
                Ok(entries) => entries,
                Err(_) => return if_empty == IfEmpty::Send && self.send_snapshot(to),
            }
        } else {
            Vec::new()
        };
        if entries.is_empty() && if_empty == IfEmpty::Skip {
            return false;
        }
        let commit = self.log.committed;
        progress.sent_entries(entries.len(), payload_size(&entries));
        progress.sent_commit(commit);
        self.send(to, Body::Append { prev: EntryId { term, index }, entries, commit });
        true
    }

    pub(super) fn handle_accepted(
        &mut self,
        from: NodeId,
        index: LogIndex,
    ) -> Result<(), StepError> {
        if self.role != Role::Leader {
            return Ok(());
        }
        let last = self.log.last_index();
        if index > last {
            return Err(StepError::Malformed {
                from,
                what: "acknowledges entries that were never sent",
            });
        }
        let is_own = from == self.config.id;
        let Some(progress) = self.tracker.progress.get_mut(&from) else {
            self.trace_unknown(from);
            return Ok(());
        };
        progress.recent_active = true;
        let is_probed = progress.state == ProgressState::Probe && progress.match_index == index;
        if !progress.maybe_update(index) && !is_probed {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // Whatever snapshot it was, and wherever it came from: what counts is that the log continues it.
            ProgressState::Snapshot if progress.match_index.next() >= self.log.first_index() => {
                trace!(
                    self.config.trace,
                    Debug,
                    "{} recovered from needing snapshot, resumed sending replication messages to {from} [{progress}]",
                    self.config.id
                );
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_up_to(index),
        }
        let can_bump_commit = !is_own && progress.can_bump_commit(self.log.committed);
        let is_caught_up = progress.match_index == last;

        if self.maybe_commit() {
            self.release_early_reads();
            self.broadcast_append();
        } else if can_bump_commit {
            // The next heartbeat would tell it too, but later.
            self.send_append(from, IfEmpty::Send);
        }
        if !is_own {
            // The acknowledgement may have made room for several messages.
            while self.send_append(from, IfEmpty::Skip) {}
        }
        if from == self.transferee && is_caught_up {
            trace!(
                self.config.trace,
                Info, "{} sent MsgTimeoutNow to {from} after received MsgAppResp", self.config.id
            );
            self.send(from, Body::TimeoutNow);
        }
        Ok(())
    }

    pub(super) fn handle_rejected(
        &mut self,
        from: NodeId,
        rejected: LogIndex,
        rejection: Rejection,
    ) {
        if self.role != Role::Leader {
            return;
        }
        let Some(progress) = self.tracker.progress.get_mut(&from) else {
            self.trace_unknown(from);
            return;
        };
        progress.recent_active = true;
        let Rejection { hint, hint_term } = rejection;
        trace!(
            self.config.trace,
            Debug,
            "{} received MsgAppResp(rejected, hint: (index {hint}, term {hint_term})) from {from} for index {rejected}",
            self.config.id
        );
        // The follower is at `hint_term` where it ends or parts from us. Wherever our own term is higher, the logs cannot
        // agree: terms only grow along a log. So one probe per term of ours suffices, not one per entry. The follower
        // skips by the same reasoning when it makes the hint.
        //
        //   index      1 2 3 4 5 6 7 8 9
        //   leader     1 3 3 3 5 5 5 5 5       probe at 9 rejected, hint (6, term 2)
        //   follower   1 1 1 1 2 2             => next probe at 1, where our term is at most 2
        let next_probe = if hint_term > Term::ZERO {
            self.log.conflict_hint(hint, hint_term).index
        } else {
            hint
        };
        if progress.maybe_decrease(rejected, next_probe) {
            trace!(
                self.config.trace,
                Debug, "{} decreased progress of {from} to [{progress}]", self.config.id
            );
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.send_append(from, IfEmpty::Send);
        }
    }

    pub(super) fn handle_heartbeat_response(
        &mut self,
        from: NodeId,
        context: &[u8],
    ) -> Result<(), StepError> {
        if self.role != Role::Leader {
            return Ok(());
        }
        let count = self.read_count(from, context)?;
        let Some(progress) = self.tracker.progress.get_mut(&from) else {
            self.trace_unknown(from);
            return Ok(());
        };
        progress.recent_active = true;
        progress.append_paused = false;
        // A full window gets an empty append, in case all of it was lost. A follower that is probed gets one too, even if
        // it lacks nothing, so that its answer ends the probing.
        if progress.match_index < self.log.last_index() || progress.state == ProgressState::Probe {
            self.send_append(from, IfEmpty::Send);
        }
        if let Some(count) = count {
            self.confirm_reads(from, count);
        }
        Ok(())
    }

    /// Commits what a quorum holds. Returns whether that is news, which everybody should then hear.
    pub(super) fn maybe_commit(&mut self) -> bool {
        self.log.maybe_commit(EntryId { term: self.term, index: self.tracker.quorum_index() })
    }

    pub(super) fn trace_unknown(&self, from: NodeId) {
        trace!(self.config.trace, Debug, "{} no progress available for {from}", self.config.id);
    }
}

// On followers.
impl<S: Storage> Core<S> {
    pub(super) fn handle_append(
        &mut self,
        from: NodeId,
        prev: EntryId,
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        let committed = self.log.committed;
        if prev.index < committed {
            // Overtaken by a later one, or by a snapshot.
            self.send(from, Body::AppendResponse { index: committed, rejection: None });
            return;
        }
        match self.log.try_append(prev, entries, commit) {
            Some(index) => self.send(from, Body::AppendResponse { index, rejection: None }),
            None => self.reject_append(from, prev),
        }
    }

    fn reject_append(&mut self, from: NodeId, prev: EntryId) {
        let EntryId { term, index } = prev;
        trace!(
            self.config.trace,
            Debug,
            "{} [logterm: {}, index: {index}] rejected MsgApp [logterm: {term}, index: {index}] from {from}",
            self.config.id,
            self.log.term_or_zero(index)
        );
        // The last place where the logs may agree: where our term is not above the leader's term at `prev`.
        let hint = self.log.conflict_hint(index.min(self.log.last_index()), term);
        let rejection = Some(Rejection { hint: hint.index, hint_term: hint.term });
        self.send(from, Body::AppendResponse { index, rejection });
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        from: NodeId,
        commit: LogIndex,
        context: Bytes,
    ) -> Result<(), StepError> {
        let last = self.log.last_index();
        if commit > last {
            // The leader only names what this member acknowledged.
            return Err(self.stop_taking_part(StepError::CommitOutOfRange { commit, last }));
        }
        self.log.commit_to(commit);
        self.send(from, Body::HeartbeatResponse { context });
        Ok(())
    }

    /// Returns the term of the entry at `index`.
    ///
    /// # Errors
    /// Fails outside the log.
    pub fn log_term(&self, index: LogIndex) -> Result<Term, StorageError> {
        self.log.term(index)
    }
}
