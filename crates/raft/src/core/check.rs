//! What no correct peer sends, checked before a message changes anything.
//!
//! etcd-io/raft trusts its peers: several of these end a Go member. Here they cost the sender an error. What depends on
//! the state at the time of handling (an acknowledgement beyond the log, say) is checked where it is handled.

use super::Core;
use crate::{
    error::StepError,
    message::{Body, Message},
    storage::Storage,
    types::{Entry, EntryId, LogIndex, Term},
};

/// Terms and indexes beyond this are not believed: nobody gets there by counting, and from near the end of all numbers a
/// member could not count on.
const NUMBER_MAX: u64 = 1 << 62;

impl<S: Storage> Core<S> {
    pub(super) fn check(&self, message: &Message) -> Result<(), StepError> {
        let Message { to, from, term, ref body } = *message;
        if let Some(error) = &self.lost_log {
            return Err(error.clone());
        }
        if to != self.config.id {
            return Err(StepError::NotAddressee { to });
        }
        let malformed = |what| Err(StepError::Malformed { from, what });
        // Forwarded wishes keep the name of whoever has them, and may come back to where they were made.
        let is_forwarded =
            matches!(body, Body::Propose { .. } | Body::ReadIndex { .. } | Body::TransferLeader);
        if !from.is_member() || (from == self.config.id && !is_forwarded) {
            return Err(StepError::LocalSender);
        }
        if body.kind().is_response() && !self.tracker.progress.contains_key(&from) {
            return Err(StepError::PeerNotFound);
        }
        let is_without_term = matches!(body, Body::Propose { .. } | Body::ReadIndex { .. });
        if is_without_term != (term == Term::ZERO) {
            return malformed("term does not go with the kind of message");
        }
        if term.0 > NUMBER_MAX {
            return malformed("term is out of reach");
        }
        match body {
            Body::Propose { entries } if entries.is_empty() => {
                malformed("proposal without entries")
            }
            Body::Append { prev, entries, .. } if !are_consecutive(*prev, entries, term) => {
                malformed("entries do not follow each other")
            }
            Body::Snapshot(snapshot) if snapshot.is_empty() => malformed("empty snapshot"),
            Body::Snapshot(snapshot)
                if snapshot.metadata.index.0 > NUMBER_MAX || snapshot.metadata.term > term =>
            {
                malformed("snapshot is out of reach")
            }
            Body::Propose { .. }
            | Body::Append { .. }
            | Body::AppendResponse { .. }
            | Body::Vote(_)
            | Body::VoteResponse { .. }
            | Body::Snapshot(_)
            | Body::Heartbeat { .. }
            | Body::HeartbeatResponse { .. }
            | Body::TransferLeader
            | Body::TimeoutNow
            | Body::ReadIndex { .. }
            | Body::ReadIndexResponse { .. }
            | Body::PreVote(_)
            | Body::PreVoteResponse { .. } => Ok(()),
        }
    }
}

/// Returns whether the entries form a piece of a log behind `prev` that a leader of `term` can have: indexes without a
/// gap, terms that never fall and are not from the future.
fn are_consecutive(prev: EntryId, entries: &[Entry], term: Term) -> bool {
    let mut before = prev;
    for entry in entries {
        let Some(index) = before.index.0.checked_add(1) else { return false };
        if entry.index != LogIndex(index) || entry.term < before.term {
            return false;
        }
        before = entry.id();
    }
    before.term <= term && before.index.0 <= NUMBER_MAX
}
