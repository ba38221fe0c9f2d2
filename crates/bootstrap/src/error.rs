//! Why a member cannot be opened.

use std::path::PathBuf;

use machine::Version;

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
    /// The cluster is of a version whose rules are not known here.
    #[error(
        "the cluster has version {cluster}, which this program does not know: it knows 3.5, 3.6 and 3.7"
    )]
    UnknownVersion {
        /// The cluster's version.
        cluster: Version,
    },
    /// The member is to stand for an older version than its cluster has.
    #[error(
        "the cluster has version {cluster}, and this member is to be {asked}: enable a downgrade first (etcdctl downgrade \
         enable), or ask for no version"
    )]
    Lowered {
        /// The cluster's version.
        cluster: Version,
        /// What was asked for.
        asked: Version,
    },
    /// A change of the membership cannot be read.
    #[error("entry {index}: conf change: {why}")]
    ConfChange {
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// The member does not belong to the cluster that it is to found.
    #[error("--initial-cluster does not name {name}")]
    NotNamed {
        /// Its name.
        name: String,
    },
}
