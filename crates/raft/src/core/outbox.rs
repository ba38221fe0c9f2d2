//! Messages on their way out: what may leave at once, what waits for the disk, what waits for company.

use super::Core;
use crate::{
    config::CompatMode,
    message::{Body, Message, MessageKind},
    ready::SelfAck,
    storage::Storage,
    types::{NodeId, Term},
};

/// Broadcasts that wait for the next ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// Entries were proposed.
    pub(super) entries: bool,
    /// Reads wait for a round of heartbeats.
    pub(super) heartbeat: bool,
}

impl<S: Storage> Core<S> {
    /// Queues a message in the current term.
    pub(super) fn send(&mut self, to: NodeId, body: Body) {
        let term = match body.kind() {
            // Forwarded as if they had been made at the leader.
            MessageKind::Propose | MessageKind::ReadIndex => Term::ZERO,
            MessageKind::Append
            | MessageKind::AppendResponse
            | MessageKind::Vote
            | MessageKind::VoteResponse
            | MessageKind::Snapshot
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResponse
            | MessageKind::TransferLeader
            | MessageKind::TimeoutNow
            | MessageKind::ReadIndexResponse
            | MessageKind::PreVote
            | MessageKind::PreVoteResponse => self.term,
        };
        self.queue(Message { to, from: self.config.id, term, body });
    }

    /// Queues a message. Answers that vouch for this member's state wait until that state is durable (thesis section
    /// 3.8); rejections wait too, which is more than they need, but they are rare.
    ///
    /// A request for votes waits as well: it vouches for the candidate's own vote, and for the log that it shows. A
    /// candidate that the others elect before its own disk knows of the election, and that then crashes, may stand in the
    /// same term once more, with a shorter log, and be elected by those who voted for it already. (etcd-io/raft lets it go
    /// at once in asynchronous mode; etcd's driver holds it back.)
    pub(super) fn queue(&mut self, message: Message) {
        match message.body.kind() {
            MessageKind::Vote if self.config.compat == CompatMode::Hardened => {
                self.after_append.push(message);
            }
            MessageKind::AppendResponse
            | MessageKind::VoteResponse
            | MessageKind::PreVoteResponse => {
                let is_own = message.to == self.config.id;
                if self.config.compat == CompatMode::Hardened {
                    let previous = if is_own {
                        self.self_acks.last_mut().map(|ack| &mut ack.message)
                    } else {
                        self.after_append.last_mut()
                    };
                    if previous.is_some_and(|previous| absorb(previous, &message)) {
                        return;
                    }
                }
                if is_own {
                    self.self_acks.push(SelfAck { position: self.after_append.len(), message });
                } else {
                    self.after_append.push(message);
                }
            }
            MessageKind::Propose
            | MessageKind::Append
            | MessageKind::Vote
            | MessageKind::Snapshot
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResponse
            | MessageKind::TransferLeader
            | MessageKind::TimeoutNow
            | MessageKind::ReadIndex
            | MessageKind::ReadIndexResponse
            | MessageKind::PreVote => {
                assert!(message.to != self.config.id, "message to itself: {}", message.body.kind());
                self.messages.push(message);
            }
        }
    }
}

/// Makes the earlier of two acknowledgements stand for both, if they go to the same member in the same term: within a
/// term the leader never takes back what it sent.
fn absorb(earlier: &mut Message, later: &Message) -> bool {
    if earlier.to != later.to || earlier.term != later.term {
        return false;
    }
    let (
        Body::AppendResponse { index: earlier, rejection: None },
        Body::AppendResponse { index: later, rejection: None },
    ) = (&mut earlier.body, &later.body)
    else {
        return false;
    };
    *earlier = later.max(earlier).to_owned();
    true
}
