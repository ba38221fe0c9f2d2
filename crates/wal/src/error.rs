//! What can go wrong with the log and the snapshot files.

use std::io;

/// Every error stops the member, but for [`Error::Locked`], where another process already serves this directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("{file}: {action}: {source}")]
    Io {
        /// The file or directory.
        file: String,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that no crash can explain. `what` begins with etcd's own text where etcd has one.
    #[error("{file}: at offset {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Offset of the record in the file.
        offset: u64,
        /// What was expected, and what is there.
        what: String,
    },
    /// Another process holds the segment.
    #[error("{file}: wal: file already locked")]
    Locked {
        /// The segment.
        file: String,
    },
    /// There is no segment that can hold the index, or their sequence has a gap.
    #[error("{dir}: wal: file not found: {what}")]
    NotFound {
        /// The log's directory.
        dir: String,
        /// What is missing.
        what: String,
    },
    /// The log has the snapshot's index under another term.
    #[error(
        "{file}: at offset {offset}: wal: snapshot mismatch: index {index} has term {found}, not {wanted}"
    )]
    SnapshotMismatch {
        /// The file.
        file: String,
        /// Offset of the record in the file.
        offset: u64,
        /// Index of the snapshot.
        index: u64,
        /// Term in the log.
        found: u64,
        /// Term that was asked for.
        wanted: u64,
    },
    /// A directory is there already.
    #[error("{dir}: already exists")]
    Exists {
        /// The directory.
        dir: String,
    },
    /// A write or sync failed before, so nothing more is accepted.
    #[error("{file}: an earlier write or sync failed; what is on disk is unknown")]
    Failed {
        /// The segment.
        file: String,
    },
}

impl Error {
    /// Attaches the file and the step to an error of the operating system.
    pub(crate) fn io(file: impl ToString, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        let file = file.to_string();
        move |source| Error::Io { file, action, source }
    }
}
