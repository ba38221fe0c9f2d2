//! What can go wrong with the backend. All of it stops the member, except a defragmentation that failed early.

use std::io;

use crate::schema::Bucket;

/// An error of the backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database file: input or output, or damage found in its pages.
    #[error(transparent)]
    Bolt(#[from] bolt::Error),
    /// A file operation in the snapshot directory.
    #[error("{step} {path}: {source}")]
    Io {
        /// What was being done, in the present tense.
        step: &'static str,
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A row that cannot be what etcd writes. `key` is shown escaped.
    #[error("{file}: bucket {bucket}, key {key}: {what}")]
    CorruptRow {
        /// The database file.
        file: String,
        /// The bucket of the row.
        bucket: Bucket,
        /// The row's key, escaped.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A bucket that every etcd database has is not there.
    #[error("{file}: bucket {bucket} is missing")]
    BucketMissing {
        /// The database file.
        file: String,
        /// The bucket.
        bucket: Bucket,
    },
    /// The database is behind the raft snapshot, and the database that belongs to the snapshot is not there.
    #[error(
        "failed to find database snapshot file (snap: snapshot file doesn't exist): {file} is at index {consistent_index}, behind the raft snapshot at {snapshot_index}, and {wanted} is missing"
    )]
    SnapshotDbMissing {
        /// The database file.
        file: String,
        /// The index that its rows stand for.
        consistent_index: u64,
        /// The index of the raft snapshot.
        snapshot_index: u64,
        /// The name that was looked for.
        wanted: String,
    },
    /// Even the database that came with the raft snapshot is behind it.
    #[error(
        "{file} is at index {consistent_index}, which does not match the raft snapshot at {snapshot_index}"
    )]
    SnapshotMismatch {
        /// The database file.
        file: String,
        /// The index that its rows stand for.
        consistent_index: u64,
        /// The index of the raft snapshot.
        snapshot_index: u64,
    },
    /// The database cannot be replaced while a commit or a defragmentation runs.
    #[error("a commit or a defragmentation is running")]
    Busy,
    /// An earlier commit failed; what is on disk is not what was applied.
    #[error("the backend failed before: {cause}")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
}

/// Wraps an error of the operating system with the step and the file.
pub(crate) fn io_error(
    step: &'static str,
    dir: &std::path::Path,
    name: &str,
) -> impl FnOnce(io::Error) -> Error {
    let path = dir.join(name).display().to_string();
    move |source| Error::Io { step, path, source }
}
