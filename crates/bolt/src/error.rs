//! What can go wrong, told apart by what the caller does next.
//!
//! [`Error::Locked`] is for trying again; `Io`, `Corrupt` and `Poisoned` mean that this file can no longer be trusted and
//! its member should stop; the rest are mistakes of the caller, and leave the transaction as it was.

use std::io;

/// A failed operation on a database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused. After a failed write or sync the database takes no more of them.
    #[error("{step} {file}: {source}")]
    Io {
        /// Path of the file.
        file: String,
        /// What was being done, in the present tense.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process (or another [`crate::Db`] in this one) holds the file lock.
    #[error("{file} is locked by another process")]
    Locked {
        /// Path of the file.
        file: String,
    },
    /// The file is not what a sound writer leaves behind.
    #[error("{file}: page {page} (offset {offset}): {what}")]
    Corrupt {
        /// Path of the file.
        file: String,
        /// Number of the page.
        page: u64,
        /// Where the page starts in the file.
        offset: u64,
        /// What was found, or expected.
        what: String,
    },
    /// A write on a database that was opened for reading.
    #[error("{file} is opened for reading only")]
    ReadOnly {
        /// Path of the file.
        file: String,
    },
    /// An earlier write or sync failed. What the disk holds is unknown, so only reopening helps.
    #[error("{file}: an earlier write failed, no more are taken")]
    Poisoned {
        /// Path of the file.
        file: String,
    },
    /// No bucket of this name.
    #[error("bucket not found")]
    BucketNotFound,
    /// A bucket of this name is there already.
    #[error("bucket already exists")]
    BucketExists,
    /// A plain value stands where a bucket is wanted, or the reverse.
    #[error("incompatible value")]
    IncompatibleValue,
    /// Keys, bucket names included, are never empty.
    #[error("key required")]
    KeyRequired,
    /// More than [`crate::KEY_BYTES_MAX`].
    #[error("key too large")]
    KeyTooLarge,
    /// More than [`crate::VALUE_BYTES_MAX`].
    #[error("value too large")]
    ValueTooLarge,
    /// `apply_sorted` was given keys that do not strictly ascend.
    #[error("keys do not strictly ascend")]
    KeysOutOfOrder,
}
