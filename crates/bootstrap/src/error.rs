//! Why a member cannot be opened.

use std::path::PathBuf;

/// Why a member cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log or a snapshot file.
    #[error(transparent)]
    Log(#[from] wal::Error),
    /// The database.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The state machine.
    #[error(transparent)]
    Machine(#[from] machine::OpenError),
    /// Consensus.
    #[error("raft: {0}")]
    Raft(#[from] raft::ConfigError),
    /// The log does not say whose it is.
    #[error("{path}: the log's metadata cannot be read: {why}")]
    Metadata {
        /// The log's directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The log has entries that the raft core does not take.
    #[error("{path}: entry of the log: {why}")]
    Entry {
        /// The log's directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The log is there and the database is not.
    #[error("{path}: database file of the backend is missing, although the log has been applied")]
    DatabaseMissing {
        /// The directory that lacks it.
        path: PathBuf,
    },
    /// The database has applied entries that the log does not hold, although it is written first.
    #[error(
        "{path}: the log ends at entry {last}, and the database has applied entry {applied}: the log has lost what was \
         acknowledged (a copy of a log that was cut off ends in .broken); restore from a backup"
    )]
    LogBehindDatabase {
        /// The log's directory.
        path: PathBuf,
        /// The log's last entry.
        last: u64,
        /// The last entry whose effect is in the database.
        applied: u64,
    },
    /// The member does not belong to the cluster that it is to found.
    #[error("--initial-cluster does not name {name}")]
    NotNamed {
        /// Its name.
        name: String,
    },
}
