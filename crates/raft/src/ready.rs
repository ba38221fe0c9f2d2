//! What the core asks its driver to do.

use crate::message::Message;
use crate::types::{Entry, EntryId, HardState, LogIndex, ReadState, Snapshot, SoftState, Term};

/// Work for the driver, taken with [`Core::ready`](crate::Core::ready).
///
/// The parts are independent of each other except where the order is named:
///
/// - `messages` may be sent at once. In synchronous mode they must wait until `append` is durable.
/// - `append` goes to whoever writes the log. Appends are written in the order in which they were handed out.
/// - `apply` goes to the state machine, in order too. It need not wait for `append`.
#[derive(Debug, Default)]
#[must_use = "a Ready that is dropped loses messages and writes"]
pub struct Ready {
    /// Leader and role, if either changed.
    pub soft_state: Option<SoftState>,
    /// Answers to read requests of this member.
    pub read_states: Vec<ReadState>,
    /// For other members.
    pub messages: Vec<Message>,
    /// For the log's writer.
    pub append: Option<Append>,
    /// For the state machine.
    pub apply: Option<Apply>,
}

impl Ready {
    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.soft_state.is_none()
            && self.read_states.is_empty()
            && self.messages.is_empty()
            && self.append.is_none()
            && self.apply.is_none()
    }
}

/// One write to the log.
///
/// When it is done, send `responses` and return `done` with
/// [`Core::persisted`](crate::Core::persisted); in synchronous mode call [`Core::advance`](crate::Core::advance) instead.
///
/// One that has nothing but a commit index in it (`must_sync` not set, no responses, an empty token) need not be written
/// by itself: the hard state may wait for the next append, and be replaced by that one's.
#[derive(Debug, Default)]
pub struct Append {
    /// Term, vote and commit, if any changed.
    pub hard_state: Option<HardState>,
    /// Replaces the whole log. Never together with entries that precede it.
    pub snapshot: Option<Snapshot>,
    /// Consecutive entries. They replace what the log holds from the first one's index on.
    pub entries: Vec<Entry>,
    /// Whether the write must be durable before `responses` and `done` are delivered. A commit index alone need not be.
    /// Without sync, delivery must still wait for the appends handed out before this one.
    pub must_sync: bool,
    /// Votes and acknowledgements for other members, which must not leave before the write is durable.
    pub responses: Vec<Message>,
    /// To be given back when the write is durable.
    pub done: Appended,
}

/// Proof that an [`Append`], and every one before it, is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// What this member answers to itself: its own vote, its own acknowledgement of what it proposed as leader.
    pub acks: Vec<SelfAck>,
    /// How far the log is stable, if the core has to be told.
    pub stable: Option<Stable>,
}

impl Appended {
    /// Returns whether the core need not be told.
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.stable.is_none()
    }
}

/// A message from this member to itself, which counts only once the write before it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfAck {
    /// How many of [`Append::responses`] were queued before it. Only traces need this.
    pub position: usize,
    /// The message.
    pub message: Message,
}

/// Which part of the log a completed write covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stable {
    /// The term in which the write was handed out. In a later term the entries may have been replaced already by others
    /// that still wait to be written, so the core then ignores `last`.
    pub term: Term,
    /// The last entry of the log when the write was handed out.
    pub last: Option<EntryId>,
    /// The snapshot that was written.
    pub snapshot: Option<LogIndex>,
}

/// Committed entries for the state machine. Never empty.
#[derive(Debug)]
pub struct Apply {
    /// Consecutive committed entries.
    pub entries: Vec<Entry>,
    /// To be given back, with [`Core::applied`](crate::Core::applied), when they are applied.
    pub done: Applied,
}

/// Proof that the entries of an [`Apply`] are applied. Applying need not be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The last entry that was applied.
    pub index: LogIndex,
    /// Encoded size of the entries, which frees that much of `max_applying_bytes`.
    pub encoded_bytes: u64,
    /// Payload size of the entries, which frees that much of `max_uncommitted_bytes`.
    pub payload_bytes: u64,
}
