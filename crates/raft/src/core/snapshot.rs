//! Followers that need entries which the leader no longer has.

use super::Core;
use crate::{
    confchange,
    error::{StepError, StorageError},
    message::Body,
    progress::ProgressState,
    storage::Storage,
    trace::trace,
    tracker::Tracker,
    types::{LogIndex, NodeId, Role, Snapshot},
};

impl<S: Storage> Core<S> {
    /// Tells the leader how sending a snapshot to a member ended. Until then, or until the member acknowledges, nothing
    /// else is sent to it; so a driver that took a [`Body::Snapshot`] must report, whatever happens.
    pub fn report_snapshot(&mut self, id: NodeId, is_sent: bool) {
        if self.role != Role::Leader {
            return;
        }
        let Some(progress) = self.tracker.progress.get_mut(&id) else { return };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        if !is_sent {
            progress.pending_snapshot = LogIndex::ZERO;
        }
        progress.become_probe();
        trace!(
            self.config.trace,
            Debug,
            "{} snapshot {}, resumed sending replication messages to {id} [{progress}]",
            self.config.id,
            if is_sent { "succeeded" } else { "failed" }
        );
        // Sent: its acknowledgement comes before anything else is of use. Failed: not again before the next heartbeat.
        progress.append_paused = true;
    }

    /// Sends the newest snapshot. Returns whether there was one to send.
    pub(super) fn send_snapshot(&mut self, to: NodeId) -> bool {
        let id = self.config.id;
        let Some(progress) = self.tracker.progress.get_mut(&to) else { return false };
        if !progress.recent_active {
            trace!(
                self.config.trace,
                Debug, "ignore sending snapshot to {to} since it is not recently active"
            );
            return false;
        }
        let snapshot = match self.log.snapshot() {
            Ok(snapshot) => snapshot,
            Err(StorageError::SnapshotTemporarilyUnavailable) => {
                trace!(
                    self.config.trace,
                    Debug,
                    "{id} failed to send snapshot to {to} because snapshot is temporarily unavailable"
                );
                return false;
            }
            Err(error) => {
                panic!("storage has compacted its log and cannot give a snapshot: {error}")
            }
        };
        assert!(!snapshot.is_empty(), "storage has compacted its log and gives an empty snapshot");
        let (index, term) = (snapshot.metadata.index, snapshot.metadata.term);
        trace!(
            self.config.trace,
            Debug,
            "{id} [firstindex: {}, commit: {}] sent snapshot[index: {index}, term: {term}] to {to} [{progress}]",
            self.log.first_index(),
            self.log.committed
        );
        progress.become_snapshot(index);
        trace!(
            self.config.trace,
            Debug, "{id} paused sending replication messages to {to} [{progress}]"
        );
        self.send(to, Body::Snapshot(Box::new(snapshot)));
        true
    }

    pub(super) fn handle_snapshot(
        &mut self,
        from: NodeId,
        snapshot: Snapshot,
    ) -> Result<(), StepError> {
        let (index, term) = (snapshot.metadata.index, snapshot.metadata.term);
        let is_restored = self.restore(from, snapshot)?;
        trace!(
            self.config.trace,
            Info,
            "{} [commit: {}] {} snapshot [index: {index}, term: {term}]",
            self.config.id,
            self.log.committed,
            if is_restored { "restored" } else { "ignored" }
        );
        let index = if is_restored { self.log.last_index() } else { self.log.committed };
        self.send(from, Body::AppendResponse { index, rejection: None });
        Ok(())
    }

    /// Replaces log and configuration by the snapshot. Returns false if there is no need to.
    fn restore(&mut self, from: NodeId, snapshot: Snapshot) -> Result<bool, StepError> {
        let id = self.config.id;
        let metadata = &snapshot.metadata;
        if metadata.index <= self.log.committed {
            return Ok(false);
        }
        // Those who are to become learners are outgoing voters still, so this is everybody.
        let conf_state = &metadata.conf_state;
        let mut members =
            conf_state.voters.iter().chain(&conf_state.learners).chain(&conf_state.voters_outgoing);
        if !members.any(|&member| member == id) {
            trace!(
                self.config.trace,
                Warn,
                "{id} attempted to restore snapshot but it is not in its ConfState; should never happen"
            );
            return Ok(false);
        }
        if self.log.matches(metadata.id()) {
            let last = self.log.last_id();
            trace!(
                self.config.trace,
                Info,
                "{id} [commit: {}, lastindex: {}, lastterm: {}] fast-forwarded commit to snapshot [index: {}, term: {}]",
                self.log.committed,
                last.index,
                last.term,
                metadata.index,
                metadata.term
            );
            self.log.commit_to(metadata.index);
            return Ok(false);
        }
        let tracker =
            Tracker::new(self.config.max_inflight_messages, self.config.max_inflight_bytes);
        let Ok(restored) = confchange::restore(&tracker, metadata.index, conf_state) else {
            return Err(StepError::Malformed {
                from,
                what: "configuration in the snapshot contradicts itself",
            });
        };
        let restored_id = metadata.id();
        self.log.restore(snapshot);
        self.restored_index = restored_id.index;
        self.tracker = tracker;
        self.switch_to(restored);
        let last = self.log.last_id();
        trace!(
            self.config.trace,
            Info,
            "{id} [commit: {}, lastindex: {}, lastterm: {}] restored snapshot [index: {}, term: {}]",
            self.log.committed,
            last.index,
            last.term,
            restored_id.index,
            restored_id.term
        );
        Ok(true)
    }
}
