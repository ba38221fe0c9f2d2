//! The nouns of consensus: terms, indexes, entries, snapshots, and the states a member persists or reports.
//!
//! Numbers that could be swapped are newtypes. An [`Entry`] holds its payload as [`Bytes`], so handing it to the disk,
//! to each peer and to the state machine costs a reference count, never a copy of the payload.

use std::fmt;

use bytes::Bytes;

/// A leader's period of office. Terms only grow; at most one leader is elected in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The term before any election. On a message it means "no term": proposals and read requests travel so.
    pub const ZERO: Self = Self(0);

    /// Returns the term that follows this one.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 elections do not happen"))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the log. The first entry stands at 1; 0 is the place before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The place before the first entry.
    pub const ZERO: Self = Self(0);

    /// Returns the position after this one. Saturates: positions named by a peer may be anything.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the position before this one, or zero at the very beginning.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the position `count` places further. Saturates.
    pub fn plus(self, count: usize) -> Self {
        Self(self.0.saturating_add(count as u64))
    }

    /// Returns how many places lie between `earlier` and this position, zero if it is not earlier.
    pub fn since(self, earlier: Self) -> usize {
        usize::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a member. Printed in hexadecimal, as etcd prints it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Nobody: no leader, no vote.
    pub const NONE: Self = Self(0);

    /// Returns whether this names a member at all. Zero is nobody; the two largest values are reserved by etcd-io/raft
    /// for its local storage threads and never name a member.
    pub fn is_member(self) -> bool {
        self != Self::NONE && self.0 < u64::MAX - 1
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// Term and index together: two logs that hold an entry with the same id are equal up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryId {
    /// Term in which a leader created the entry.
    pub term: Term,
    /// Place of the entry.
    pub index: LogIndex,
}

impl EntryId {
    /// The place before the first entry of every log.
    pub const ZERO: Self = Self { term: Term::ZERO, index: LogIndex::ZERO };
}

/// What the payload of an [`Entry`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A request for the state machine, or nothing: each new leader appends one empty entry.
    #[default]
    Normal,
    /// A raftpb `ConfChange`.
    ConfChange,
    /// A raftpb `ConfChangeV2`; empty data means "leave the joint configuration".
    ConfChangeV2,
}

/// One entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// How to read `data`.
    pub kind: EntryKind,
    /// Term of the leader that appended it; zero while it is only proposed.
    pub term: Term,
    /// Place in the log; zero while it is only proposed.
    pub index: LogIndex,
    /// The payload. Cloning shares it.
    pub data: Bytes,
}

impl Entry {
    /// Returns a proposal of the given payload; the leader fills in term and index.
    pub fn normal(data: Bytes) -> Self {
        Self { data, ..Self::default() }
    }

    /// Returns the entry's term and index.
    pub fn id(&self) -> EntryId {
        EntryId { term: self.term, index: self.index }
    }

    /// Returns the size of the entry as a raftpb message, in bytes. The limits on message and batch sizes count this.
    pub fn encoded_len(&self) -> u64 {
        let data = self.data.len() as u64;
        let data_field = if data == 0 { 0 } else { 1 + varint_len(data) + data };
        2 + 1 + varint_len(self.term.0) + 1 + varint_len(self.index.0) + data_field
    }
}

/// Bytes that a protobuf varint takes.
fn varint_len(value: u64) -> u64 {
    u64::from((63 - (value | 1).leading_zeros()) / 7 + 1)
}

/// Returns the encoded size of all entries together.
pub(crate) fn encoded_size(entries: &[Entry]) -> u64 {
    entries.iter().map(Entry::encoded_len).sum()
}

/// Returns the payload bytes of all entries together. Empty entries weigh nothing, so they are never refused.
pub(crate) fn payload_size(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.data.len() as u64).sum()
}

/// Returns how many leading entries fit into `max_bytes`: always at least one, if there is any.
pub(crate) fn fitting_prefix<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    max_bytes: u64,
) -> usize {
    let mut total = 0u64;
    let mut count = 0;
    for entry in entries {
        total = total.saturating_add(entry.encoded_len());
        if count > 0 && total > max_bytes {
            break;
        }
        count += 1;
    }
    count
}

/// What must survive a restart besides the log itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term this member has seen.
    pub term: Term,
    /// Whom it voted for in that term, or [`NodeId::NONE`].
    pub vote: NodeId,
    /// How far it knows the log to be committed. Only a hint: it may lag, and need not be synced by itself.
    pub commit: LogIndex,
}

impl HardState {
    /// Returns whether nothing was ever persisted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a member is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks for votes in its own new term.
    Candidate,
    /// Leads its term.
    Leader,
    /// Asks whether it would win, before it raises its term.
    PreCandidate,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "StateFollower",
            Self::Candidate => "StateCandidate",
            Self::Leader => "StateLeader",
            Self::PreCandidate => "StatePreCandidate",
        })
    }
}

/// What a member knows but need not persist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader of the current term, or [`NodeId::NONE`] while it is not known.
    pub leader: NodeId,
    /// This member's own role.
    pub role: Role,
}

/// A configuration of the group as it is stored in snapshots. All lists are sorted when this crate made them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voters of the incoming configuration, the only one unless the configuration is joint.
    pub voters: Vec<NodeId>,
    /// Members that receive the log and do not vote.
    pub learners: Vec<NodeId>,
    /// Voters of the outgoing configuration; empty unless the configuration is joint.
    pub voters_outgoing: Vec<NodeId>,
    /// Voters of the outgoing configuration that become learners when the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// Whether the leader proposes to leave the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Returns whether both describe the same configuration, whatever the order of their lists.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        fn sorted(ids: &[NodeId]) -> Vec<NodeId> {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        }
        sorted(&self.voters) == sorted(&other.voters)
            && sorted(&self.learners) == sorted(&other.learners)
            && sorted(&self.voters_outgoing) == sorted(&other.voters_outgoing)
            && sorted(&self.learners_next) == sorted(&other.learners_next)
            && self.auto_leave == other.auto_leave
    }
}

/// Where in the log a snapshot was taken, and the configuration in force there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMetadata {
    /// The configuration after the entry at `index`.
    pub conf_state: ConfState,
    /// The last entry that the snapshot covers.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
}

impl SnapshotMetadata {
    /// Returns the id of the last entry that the snapshot covers.
    pub fn id(&self) -> EntryId {
        EntryId { term: self.term, index: self.index }
    }
}

/// A state of the state machine that replaces the log up to its index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Opaque to this crate.
    pub data: Bytes,
    /// What the snapshot stands for.
    pub metadata: SnapshotMetadata,
}

impl Snapshot {
    /// Returns whether this is the absent snapshot that etcd 3.5 and 3.6 put into every message.
    pub fn is_empty(&self) -> bool {
        self.metadata.index == LogIndex::ZERO
    }
}

/// The answer to a read request: once the state machine has applied `index`, reads that were asked for before the
/// request was made are linearizable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// The index to wait for.
    pub index: LogIndex,
    /// The context given to the request.
    pub context: Bytes,
}

/// The parts of a member's state that change rarely and are read often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BasicStatus {
    /// The member itself.
    pub id: NodeId,
    /// Term, vote and commit index as of now (not as last persisted).
    pub hard_state: HardState,
    /// Leader and role.
    pub soft_state: SoftState,
    /// How far the state machine has confirmed to have applied.
    pub applied: LogIndex,
    /// To whom leadership is being handed, if it is.
    pub transferee: NodeId,
}
