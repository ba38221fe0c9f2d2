//! What can be refused, and why. Nothing here is fatal for the process: a broken promise of this member's own storage or
//! driver panics instead, since a member that guesses is worse than one that is down.

use thiserror::Error;

use crate::types::{LogIndex, NodeId};

/// The proposal was not taken: there is no leader to take it, leadership is being handed over, this member is no longer
/// part of the group, or too much is uncommitted already. Retry later, perhaps elsewhere.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("raft proposal dropped")]
pub struct ProposalDropped;

/// Why a message was not processed. The member's state is unchanged unless the variant says otherwise.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StepError {
    /// A forwarded proposal was not taken.
    #[error(transparent)]
    Dropped(#[from] ProposalDropped),
    /// A response came from a member that is not in this member's configuration.
    #[error("raft: cannot step as peer not found")]
    PeerNotFound,
    /// A peer claims to be this member, nobody, or a local storage thread.
    #[error("raft: cannot step raft local message")]
    LocalSender,
    /// The message is addressed to another member.
    #[error("raft message is addressed to {to}")]
    NotAddressee {
        /// The addressee.
        to: NodeId,
    },
    /// No correct peer sends this. Count it and drop the connection.
    #[error("malformed raft message from {from}: {what}")]
    Malformed {
        /// The sender.
        from: NodeId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The leader knows this member to hold entries that it does not have: its log lost data. From here on the member
    /// refuses every message and does not campaign, until the operator replaces or restarts it.
    #[error(
        "commit {commit} is out of range [lastIndex({last})]. Was the raft log corrupted, truncated, or lost?"
    )]
    CommitOutOfRange {
        /// What the leader says is committed and held here.
        commit: LogIndex,
        /// The last entry of this member's log.
        last: LogIndex,
    },
}

/// Why the stable log could not answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StorageError {
    /// The index lies before the first entry that is kept.
    #[error("requested index is unavailable due to compaction")]
    Compacted,
    /// The index lies beyond the last entry.
    #[error("requested entry at index is unavailable")]
    Unavailable,
    /// The snapshot to store is not newer than the one that is there.
    #[error("requested index is older than the existing snapshot")]
    SnapshotOutOfDate,
    /// A snapshot is being made; ask again later.
    #[error("snapshot is temporarily unavailable")]
    SnapshotTemporarilyUnavailable,
}

/// Why a core cannot be started.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(&'static str),
    /// The stored configuration contradicts itself.
    #[error("cannot restore the stored configuration: {0}")]
    ConfState(#[from] ConfChangeError),
    /// The persisted commit index lies outside the stored log.
    #[error("{id} state.commit {commit} is out of range [{first}, {last}]")]
    CommitOutOfRange {
        /// The member.
        id: NodeId,
        /// The persisted commit index.
        commit: LogIndex,
        /// The lowest index it could be.
        first: LogIndex,
        /// The last index of the log.
        last: LogIndex,
    },
    /// The applied index given lies outside the stored log.
    #[error("applied({applied}) is out of range [{first}, {last}]")]
    AppliedOutOfRange {
        /// The applied index given.
        applied: LogIndex,
        /// The lowest index it could be.
        first: LogIndex,
        /// The last index of the log.
        last: LogIndex,
    },
    /// A group can only be bootstrapped on an empty log, and with at least one member.
    #[error("{0}")]
    Bootstrap(&'static str),
}

/// Why a configuration change cannot be carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfChangeError {
    /// A joint configuration was to be entered from a joint one.
    #[error("config is already joint")]
    AlreadyJoint,
    /// A joint configuration was to be entered from an empty one.
    #[error("can't make a zero-voter config joint")]
    NoVotersToJoin,
    /// A joint configuration was to be left, but there is none.
    #[error("can't leave a non-joint config")]
    NotJoint,
    /// A simple change was asked for within a joint configuration.
    #[error("can't apply simple config change in joint config")]
    SimpleInJoint,
    /// A simple change may add or remove one voter at most.
    #[error("more than one voter changed without entering joint config")]
    MoreThanOneVoter,
    /// Nobody would be left to vote.
    #[error("removed all voters")]
    RemovedAllVoters,
    /// The configuration breaks a rule that every change keeps; it was made or damaged elsewhere.
    #[error("{id} {problem}")]
    Invalid {
        /// The member at fault.
        id: NodeId,
        /// Which rule.
        problem: &'static str,
    },
    /// A configuration from elsewhere does not describe itself, for example because it names a member twice.
    #[error("configuration is not equivalent to what it restores")]
    NotEquivalent,
}

/// Why bytes are not a message or entry of raftpb.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// Not protobuf.
    #[error("not a protobuf message: {0}")]
    Protobuf(String),
    /// The kind is one that never crosses the network.
    #[error("local message kind {kind} from the network")]
    LocalKind {
        /// `raftpb.MessageType`.
        kind: i32,
    },
    /// A number that is not a value of the enumeration.
    #[error("unknown {what} {value}")]
    UnknownEnum {
        /// Which enumeration.
        what: &'static str,
        /// The number.
        value: i32,
    },
    /// A field is missing, or has a value that the kind of message rules out.
    #[error("{what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}
