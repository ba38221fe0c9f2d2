//! Why a member cannot go on, or cannot start.

use crate::Version;

/// This member can no longer be trusted, and must stop.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The log holds what this member cannot apply.
    #[error("entry {index}: {what}")]
    Entry {
        /// Index of the entry.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Entries do not come one after another.
    #[error("entry {got} comes after entry {applied}")]
    OutOfOrder {
        /// The last entry applied.
        applied: u64,
        /// The entry that came.
        got: u64,
    },
    /// The cluster moved on to a version that this member does not speak.
    #[error("entry {index}: cluster version {cluster} is above this member's {own}")]
    ClusterVersion {
        /// Index of the entry.
        index: u64,
        /// The cluster's version.
        cluster: Version,
        /// This member's.
        own: Version,
    },
    /// Nobody could vote any more.
    #[error("entry {index}: the conf change leaves the cluster without a voter")]
    NoVoters {
        /// Index of the entry.
        index: u64,
    },
    /// The store's data cannot be read.
    #[error(transparent)]
    Storage(#[from] mvcc::StorageError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The content that came with a snapshot cannot be taken over.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What was found cannot be started from.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The document of the raft snapshot (v2 store) is not what etcd writes.
    #[error("document of the raft snapshot: {0}")]
    Document(String),
    /// A stored cluster version is not one.
    #[error("cluster version {0:?} is not of the form 3.x.y")]
    MalformedVersion(String),
    /// The cluster is newer than this member.
    #[error("cluster version {cluster} is above this member's {own}")]
    ClusterVersion {
        /// The cluster's version.
        cluster: Version,
        /// This member's.
        own: Version,
    },
    /// A downgrade is under way, and not to this member's version.
    #[error(
        "a downgrade of the cluster to {target} is enabled: a member of version {own} must not join"
    )]
    Downgrade {
        /// The downgrade's target.
        target: String,
        /// This member's version.
        own: Version,
    },
    /// Rows that a newer etcd wrote.
    #[error("storage version {found} is above this member's {own}")]
    StorageVersion {
        /// The version in the rows.
        found: String,
        /// This member's.
        own: Version,
    },
    /// The store's data cannot be read.
    #[error(transparent)]
    Storage(#[from] mvcc::StorageError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
}
