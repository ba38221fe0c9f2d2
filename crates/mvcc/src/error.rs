//! What can go wrong, told apart by what happens next: answer the client, or stop the member.

use crate::check::CheckError;

/// Why an operation of the store did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is refused; every member refuses it alike and nothing was written.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// This member's data cannot be read; it must not go on.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a request is refused. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The revision lies below the compact revision (or, for a compaction, at it).
    #[error("revision {requested} has been compacted, history starts at {compacted}")]
    Compacted {
        /// What was asked for.
        requested: i64,
        /// The compact revision; -1 before the first compaction.
        compacted: i64,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} is a future revision, the store is at {current}")]
    FutureRevision {
        /// What was asked for.
        requested: i64,
        /// The revision of the store.
        current: i64,
    },
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// A put names a lease that does not exist.
    #[error("lease {lease:x} not found")]
    LeaseNotFound {
        /// The lease named.
        lease: i64,
    },
    /// The request should have been refused by [`crate::check`] before it was proposed.
    #[error(transparent)]
    Malformed(#[from] CheckError),
}

/// Why this member's data cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A row of the key bucket is not what its place says.
    #[error("key bucket, row {main}_{sub}: {what}")]
    Row {
        /// Main revision of the row.
        main: i64,
        /// Sub revision of the row.
        sub: i64,
        /// What was found.
        what: &'static str,
    },
    /// The whole content was replaced while a request was half answered. Readers start over by themselves.
    #[error("the store was replaced by a snapshot")]
    Replaced,
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        Error::Storage(StorageError::Backend(error))
    }
}
