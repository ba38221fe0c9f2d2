//! What members say to each other.
//!
//! Each kind carries its own fields and no others. The work that etcd-io/raft hands to its local storage threads as
//! messages is not here: it is in [`Append`](crate::Append) and [`Apply`](crate::Apply), which no peer can send.

use std::fmt;

use bytes::Bytes;

use crate::types::{Entry, EntryId, LogIndex, NodeId, Snapshot, Term};

/// A message to or from another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The member that shall step it.
    pub to: NodeId,
    /// The member that speaks. For a forwarded [`Body::TransferLeader`] it is the member that shall lead.
    pub from: NodeId,
    /// The speaker's term; zero on [`Body::Propose`] and [`Body::ReadIndex`], which belong to no term.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// The kinds of messages with their fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A follower forwards proposals to the leader. Terms and indexes of the entries are zero.
    Propose {
        /// What to append; never empty.
        entries: Vec<Entry>,
    },
    /// The leader sends entries, or none to probe or to move the commit index.
    Append {
        /// The entry right before `entries`, which the follower must hold.
        prev: EntryId,
        /// Consecutive entries after `prev`.
        entries: Vec<Entry>,
        /// The leader's commit index; may lie beyond the last of `entries`.
        commit: LogIndex,
    },
    /// The answer to [`Body::Append`] and [`Body::Snapshot`]. Sent only when what it vouches for is durable.
    AppendResponse {
        /// Accepted: the follower's log equals the leader's up to here. Rejected: the `prev` index that did not fit.
        index: LogIndex,
        /// Set if the append did not fit.
        rejection: Option<Rejection>,
    },
    /// A candidate asks for a vote in its term.
    Vote(VoteRequest),
    /// The answer to [`Body::Vote`].
    VoteResponse {
        /// Whether the vote was refused.
        reject: bool,
    },
    /// The leader sends its state in place of entries it no longer has.
    Snapshot(Box<Snapshot>),
    /// The leader is alive.
    Heartbeat {
        /// Never beyond what the follower is known to hold.
        commit: LogIndex,
        /// Echoed by the follower; the leader counts reads with it. Members before 3.7 put anything here.
        context: Bytes,
    },
    /// The answer to [`Body::Heartbeat`].
    HeartbeatResponse {
        /// The heartbeat's context.
        context: Bytes,
    },
    /// A follower forwards the wish that [`Message::from`] shall lead.
    TransferLeader,
    /// The leader tells the transferee to campaign at once.
    TimeoutNow,
    /// A follower asks the leader for an index that makes a read linearizable.
    ReadIndex {
        /// Names the request; comes back in the answer.
        context: Bytes,
    },
    /// The answer to [`Body::ReadIndex`].
    ReadIndexResponse {
        /// The index to wait for.
        index: LogIndex,
        /// The request's context.
        context: Bytes,
    },
    /// Would you vote for me in the message's term? The term is one above the speaker's own.
    PreVote(VoteRequest),
    /// The answer to [`Body::PreVote`].
    PreVoteResponse {
        /// Whether the vote would be refused.
        reject: bool,
    },
}

/// Where a follower's log may fit the leader's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejection {
    /// The follower's guess of the last index at which the logs agree.
    pub hint: LogIndex,
    /// The follower's term there; zero if it does not know.
    pub hint_term: Term,
}

/// What a candidate shows for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VoteRequest {
    /// The last entry of the candidate's log.
    pub last: EntryId,
    /// The leader itself asked for this election, so a voter need not protect the leader's lease.
    pub transfer: bool,
}

/// The kinds of [`Body`] without their fields, and those that never leave a member. Prints etcd-io/raft's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// [`Body::Propose`].
    Propose,
    /// [`Body::Append`].
    Append,
    /// [`Body::AppendResponse`].
    AppendResponse,
    /// [`Body::Vote`].
    Vote,
    /// [`Body::VoteResponse`].
    VoteResponse,
    /// [`Body::Snapshot`].
    Snapshot,
    /// [`Body::Heartbeat`].
    Heartbeat,
    /// [`Body::HeartbeatResponse`].
    HeartbeatResponse,
    /// [`Body::TransferLeader`].
    TransferLeader,
    /// [`Body::TimeoutNow`].
    TimeoutNow,
    /// [`Body::ReadIndex`].
    ReadIndex,
    /// [`Body::ReadIndexResponse`].
    ReadIndexResponse,
    /// [`Body::PreVote`].
    PreVote,
    /// [`Body::PreVoteResponse`].
    PreVoteResponse,
}

impl MessageKind {
    /// Returns whether the kind answers something this member asked, so that it is only taken from known peers.
    pub fn is_response(self) -> bool {
        match self {
            Self::AppendResponse
            | Self::VoteResponse
            | Self::HeartbeatResponse
            | Self::ReadIndexResponse
            | Self::PreVoteResponse => true,
            Self::Propose
            | Self::Append
            | Self::Vote
            | Self::Snapshot
            | Self::Heartbeat
            | Self::TransferLeader
            | Self::TimeoutNow
            | Self::ReadIndex
            | Self::PreVote => false,
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Propose => "MsgProp",
            Self::Append => "MsgApp",
            Self::AppendResponse => "MsgAppResp",
            Self::Vote => "MsgVote",
            Self::VoteResponse => "MsgVoteResp",
            Self::Snapshot => "MsgSnap",
            Self::Heartbeat => "MsgHeartbeat",
            Self::HeartbeatResponse => "MsgHeartbeatResp",
            Self::TransferLeader => "MsgTransferLeader",
            Self::TimeoutNow => "MsgTimeoutNow",
            Self::ReadIndex => "MsgReadIndex",
            Self::ReadIndexResponse => "MsgReadIndexResp",
            Self::PreVote => "MsgPreVote",
            Self::PreVoteResponse => "MsgPreVoteResp",
        })
    }
}

impl Body {
    /// Returns the kind alone.
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Propose { .. } => MessageKind::Propose,
            Self::Append { .. } => MessageKind::Append,
            Self::AppendResponse { .. } => MessageKind::AppendResponse,
            Self::Vote(_) => MessageKind::Vote,
            Self::VoteResponse { .. } => MessageKind::VoteResponse,
            Self::Snapshot(_) => MessageKind::Snapshot,
            Self::Heartbeat { .. } => MessageKind::Heartbeat,
            Self::HeartbeatResponse { .. } => MessageKind::HeartbeatResponse,
            Self::TransferLeader => MessageKind::TransferLeader,
            Self::TimeoutNow => MessageKind::TimeoutNow,
            Self::ReadIndex { .. } => MessageKind::ReadIndex,
            Self::ReadIndexResponse { .. } => MessageKind::ReadIndexResponse,
            Self::PreVote(_) => MessageKind::PreVote,
            Self::PreVoteResponse { .. } => MessageKind::PreVoteResponse,
        }
    }
}
