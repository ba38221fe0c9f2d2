//! Mistakes that the simulator must find. All are made by the simulated driver: production code has no switch for them.

/// A mistake to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// None.
    None,
    /// Consensus is told that a write is durable when it is handed over.
    AckBeforeFsync,
    /// A commit of the database says that it holds an entry more than it does.
    IndexAheadOfData,
    /// A client's stream stays open over an installed snapshot, and goes on with what comes after it.
    WatchOverInstall,
    /// A stream that a client resumes elsewhere begins one revision late.
    WatchResumesLate,
    /// A member goes on counting leases, and proposes revocations, when it leads no more.
    DeposedLeaderRevokes,
    /// A new leader counts leases from when it heard of them.
    ExpiryKeptAtPromotion,
    /// A restart forgets how far the database is, and applies entries again.
    AppliedTwice,
    /// A compaction also removes the revision that it was asked to keep.
    CompactionTakesLive,
    /// A linearizable read is answered from what the member happens to have applied.
    ReadWithoutRound,
    /// A member that is too far behind is sent an older database than the message says.
    SnapshotDataStale,
    /// A member keeps its leases when it installs a snapshot.
    LeasesKeptAtInstall,
    /// One member applies some puts differently.
    DivergentApply,
    /// A raft snapshot is vouched for before the database holds what the log then forgets.
    SnapshotBeforeCommit,
    /// Databases that were received go when the log is at a later one, installed or not.
    ReceivedGoesEarly,
    /// A client is answered when the leader has its write in its log, with the revision that it will probably get.
    AckOnPropose,
}

impl Plant {
    /// Every mistake.
    pub const ALL: &[Self] = &[
        Self::AckBeforeFsync,
        Self::IndexAheadOfData,
        Self::WatchOverInstall,
        Self::WatchResumesLate,
        Self::DeposedLeaderRevokes,
        Self::ExpiryKeptAtPromotion,
        Self::AppliedTwice,
        Self::CompactionTakesLive,
        Self::ReadWithoutRound,
        Self::SnapshotDataStale,
        Self::LeasesKeptAtInstall,
        Self::DivergentApply,
        Self::SnapshotBeforeCommit,
        Self::ReceivedGoesEarly,
        Self::AckOnPropose,
    ];
}
