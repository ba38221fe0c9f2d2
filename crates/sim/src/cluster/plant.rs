//! Mistakes that the simulator must find. All are made by the simulated driver, disk or state machine: what is around the
//! consensus is as easy to get wrong as consensus itself, and needs no switch in production code.

/// A mistake to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// None.
    None,
    /// A write is confirmed to raft, and its responses leave, before it is durable.
    AckBeforeFsync,
    /// Responses leave at once; raft is told when the write is durable.
    ResponsesBeforeDurable,
    /// A candidate asks for votes before its own vote is durable, as etcd-io/raft's asynchronous mode allows.
    VoteAskedEarly,
    /// The vote is not written.
    VoteNotPersisted,
    /// A new term is not written (nor the vote in it).
    TermNotPersisted,
    /// A restart forgets the last entries of the log.
    TruncatedOnRestart,
    /// A node comes back without its disk under its old name.
    Amnesia,
    /// Entries that overwrite others leave those behind them on disk.
    OverwriteKeepsTail,
    /// A received snapshot is written without dropping the log that it replaces.
    SnapshotKeepsLog,
    /// A snapshot carries the state of the one before it.
    SnapshotDataStale,
    /// The state machine applies what is written, committed or not.
    ApplyBeforeCommit,
    /// After a restart the state machine applies again what it has already.
    AppliedTwice,
    /// After a restart, changes of the configuration that the state machine has already are not given to raft again.
    ConfChangeNotReplayed,
    /// A change of the configuration is put in force twice.
    ConfChangeTwice,
    /// One node takes a new learner for a voter.
    LearnerCounted,
    /// A client is answered when its proposal is written by the leader.
    AckOnAppend,
    /// Whoever believes to lead answers reads by itself.
    ReadWithoutRound,
    /// Names of reads are used again.
    ReadContextReused,
    /// A read does not wait until its index is applied.
    ReadBeforeApply,
}

impl Plant {
    /// Every mistake.
    pub const ALL: &[Self] = &[
        Self::AckBeforeFsync,
        Self::ResponsesBeforeDurable,
        Self::VoteAskedEarly,
        Self::VoteNotPersisted,
        Self::TermNotPersisted,
        Self::TruncatedOnRestart,
        Self::Amnesia,
        Self::OverwriteKeepsTail,
        Self::SnapshotKeepsLog,
        Self::SnapshotDataStale,
        Self::ApplyBeforeCommit,
        Self::AppliedTwice,
        Self::ConfChangeNotReplayed,
        Self::ConfChangeTwice,
        Self::LearnerCounted,
        Self::AckOnAppend,
        Self::ReadWithoutRound,
        Self::ReadContextReused,
        Self::ReadBeforeApply,
    ];
}
