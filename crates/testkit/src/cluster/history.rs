//! What the clients of a checked workload did and saw, with times of one clock.
//!
//! All clients live in one process, so their times can be compared: an operation that returned before another was
//! invoked happened before it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::mvccpb::{Event, KeyValue};

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The time of an instant since the start.
    pub fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.0)
    }
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes one key.
    Put {
        /// The key.
        key: Bytes,
        /// A value that occurs once in the whole run.
        value: Bytes,
        /// The lease, or 0.
        lease: i64,
    },
    /// Writes two keys in one transaction.
    PutPair([(Bytes, Bytes); 2]),
    /// Writes a key if it was last written at this revision (0: if it is absent), else reads it.
    CompareAndPut {
        /// The key.
        key: Bytes,
        /// The revision to find.
        expected: i64,
        /// A value that occurs once in the whole run.
        value: Bytes,
    },
    /// Deletes one key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads a key (empty `range_end`) or a range.
    Read {
        /// The first key.
        key: Bytes,
        /// The end of the range, exclusive.
        range_end: Bytes,
        /// Whether the member may answer from what it has.
        is_serializable: bool,
    },
}

impl Action {
    /// Whether the action may change the store.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Read { .. })
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer, or one that leaves open whether it happened: it may have, once, then or later.
    Unknown,
    /// Refused for good: it did not happen.
    Refused(String),
    /// Answered.
    Done {
        /// The revision in the header.
        revision: i64,
        /// The raft term in the header: the one that the answering member was in.
        term: u64,
        /// Whether something was written (or deleted).
        is_written: bool,
        /// What the answer showed: the keys before the write, or the keys read.
        found: Vec<KeyValue>,
    },
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client.
    pub client: usize,
    /// The member asked.
    pub member: usize,
    /// When it was sent.
    pub invoked: Duration,
    /// When the answer came, or waiting ended.
    pub returned: Duration,
    /// What was asked for.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// When it came.
    pub received: Duration,
    /// The revision in its header.
    pub revision: i64,
    /// The raft term in its header.
    pub term: u64,
    /// The events; none: the message only says how far the watch has come.
    pub events: Vec<Event>,
}

/// One watch on one member, from its opening to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// The member asked.
    pub member: usize,
    /// The first key.
    pub key: Bytes,
    /// The end of the range, exclusive; empty for one key.
    pub range_end: Bytes,
    /// The first revision wanted.
    pub start: i64,
    /// The messages, in order.
    pub batches: Vec<Batch>,
}

/// A grant or keep-alive that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// When the request was sent.
    pub invoked: Duration,
    /// When the answer came.
    pub returned: Duration,
    /// The raft term in the answer's header.
    pub term: u64,
}

/// What is known of one lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The time to live that the server granted.
    pub ttl: Duration,
    /// The grant and every keep-alive that was acknowledged with a time to live: each starts the time anew.
    pub renewals: Vec<Renewal>,
    /// When the first revocation was sent, whatever came of it.
    pub revoked: Option<Duration>,
    /// When a keep-alive was first answered with "no such lease".
    pub reported_gone: Option<Duration>,
}

/// Everything that the clients of a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Operations, in the order of their ends.
    pub operations: Vec<Operation>,
    /// Watches.
    pub watches: Vec<Watch>,
    /// Leases by id.
    pub leases: BTreeMap<i64, Lease>,
    /// When a member's process was started: what it serves without consensus may be older afterwards.
    pub starts: Vec<(usize, Duration)>,
}
