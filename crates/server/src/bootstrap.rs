//! From a data directory, or from none, to the parts of a member: log, database, state machine, consensus.
//!
//! ```text
//! new:      found the cluster ─► create the log ─► open the database ─► bootstrap entries
//! restart:  valid snapshots ─► newest .snap ─► database (at least as new) ─► state machine ─► log behind the snapshot
//! ```
//!
//! Nothing is guessed: what does not fit together stops the start with the file that does not fit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use machine::bootstrap::Founding;
use machine::{Machine, Quota};
use prost::Message as _;
use proto::etcdserverpb::Metadata;
use proto::{raftpb, walpb};
use raft::{LogIndex, NodeId, Peer};
use replica::{Replica, Setup};
use vfs::Dir;
use vfs::real::RealDir;
use wal::Wal;

use crate::config::{ClusterState, Config};
use crate::{raft_log, version};

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be opened or made.
    #[error("open {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
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
    /// Asked for something that is not there yet.
    #[error("{0}")]
    NotServed(String),
    /// A listener cannot be opened.
    #[error("listen on {url}: {source}")]
    Listen {
        /// The URL.
        url: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread cannot be started, or signals cannot be listened to.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The parts of a member.
pub(crate) struct Parts {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) replica: Replica,
    pub(crate) machine: Machine,
    pub(crate) compaction: Option<mvcc::Compaction>,
    pub(crate) wal: Wal,
    pub(crate) wal_parent: Arc<dyn Dir>,
    pub(crate) wal_name: String,
    pub(crate) snap_dir: Arc<dyn Dir>,
    /// Index of the raft snapshot that the log starts from.
    pub(crate) snapshot_index: u64,
    pub(crate) backend: backend::Reader,
}

/// The directories of a member.
struct Dirs {
    snap: Arc<dyn Dir>,
    wal_parent: Arc<dyn Dir>,
    wal_name: String,
    wal_path: PathBuf,
}

impl Dirs {
    fn open(config: &Config) -> Result<Self, StartError> {
        let make = |path: &Path| {
            RealDir::create(path)
                .map_err(|source| StartError::Directory { path: path.to_owned(), source })
        };
        make(&config.data_dir)?;
        make(&config.member_dir())?;
        let snap = make(&config.member_dir().join("snap"))?;
        let wal_path = config.wal_path();
        let parent =
            wal_path.parent().filter(|path| *path != Path::new("")).unwrap_or(Path::new("."));
        let wal_name =
            wal_path.file_name().and_then(|name| name.to_str()).unwrap_or("wal").to_owned();
        Ok(Self { snap, wal_parent: make(parent)?, wal_name, wal_path })
    }
}

/// Opens or makes everything. Reads whole files: not for an executor's thread.
pub(crate) fn open(config: &Config, seed: u64) -> Result<Parts, StartError> {
    let dirs = Dirs::open(config)?;
    if wal::exists(&dirs.wal_parent, &dirs.wal_name)? {
        restart(config, dirs, seed)
    } else {
        found(config, dirs, seed)
    }
}

/// A new member of a new cluster.
fn found(config: &Config, dirs: Dirs, seed: u64) -> Result<Parts, StartError> {
    if config.initial_cluster_state == ClusterState::Existing {
        return Err(StartError::NotServed(
            "--initial-cluster-state=existing: retcd cannot join a cluster yet, only found one of a single member".into(),
        ));
    }
    if config.initial_cluster.len() > 1 {
        return Err(StartError::NotServed(format!(
            "--initial-cluster names {} members: retcd cannot run clusters of several members yet",
            config.initial_cluster.len()
        )));
    }
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        (name.clone(), urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let founding = Founding::new(members, &config.initial_cluster_token);
    let cluster_id = founding.cluster_id;
    let Some(member_id) = founding.member(&config.name).map(|member| member.id) else {
        return Err(StartError::NotServed(format!(
            "--initial-cluster does not name {}",
            config.name
        )));
    };
    let metadata = Metadata { node_id: member_id, cluster_id };
    let (writer, backend) = backend::open(&dirs.snap, &backend_options(config))?;
    let wal = Wal::create(
        &dirs.wal_parent,
        &dirs.wal_name,
        Bytes::from(metadata.encode_to_vec()),
        &wal::Options::default(),
    )?;
    let (machine, compaction) =
        Machine::open(machine_options(config, member_id), writer, &raftpb::Snapshot::default())?;
    let bootstrap = founding
        .contexts()
        .map(|(id, context)| Peer { id: NodeId(id), context: Bytes::from(context) })
        .collect();
    let replica = Replica::new(Setup { bootstrap, ..setup(config, member_id, seed) })?;
    tracing::info!(
        cluster_id = format!("{cluster_id:x}"),
        local_member_id = format!("{member_id:x}"),
        "starting local member"
    );
    Ok(Parts {
        cluster_id,
        member_id,
        replica,
        machine,
        compaction,
        wal,
        wal_parent: dirs.wal_parent,
        wal_name: dirs.wal_name,
        snap_dir: dirs.snap,
        snapshot_index: 0,
        backend,
    })
}

/// A member that has run before, here or as etcd.
fn restart(config: &Config, dirs: Dirs, seed: u64) -> Result<Parts, StartError> {
    wal::snap::remove_leftovers(&dirs.snap)?;
    let valid = wal::valid_snapshots(&dirs.wal_parent, &dirs.wal_name)?;
    let newest = wal::snap::load_newest(&dirs.snap, &valid)?;
    for (name, why) in &newest.broken {
        tracing::warn!(path = name, error = why, "renamed a snapshot file that cannot be read");
    }
    let snapshot = newest.loaded.map(|loaded| loaded.snapshot).unwrap_or_default();
    let snapshot_index = snapshot.metadata.index;
    match snapshot_index {
        0 => tracing::info!("No snapshot found. Recovering WAL from scratch!"),
        index => tracing::info!(snapshot_index = index, "recovered from snapshot"),
    }
    if snapshot_index > 0 && !backend::exists(&dirs.snap)? {
        return Err(StartError::DatabaseMissing { path: dirs.snap.path().to_owned() });
    }
    let (writer, backend) =
        backend::open_at_snapshot(&dirs.snap, &backend_options(config), snapshot_index)?;

    let start = walpb::Snapshot {
        index: snapshot_index,
        term: snapshot.metadata.term,
        conf_state: (snapshot_index > 0).then(|| snapshot.metadata.conf_state.clone()),
    };
    let (wal, recovered) =
        Wal::open(&dirs.wal_parent, &dirs.wal_name, &start, &wal::Options::default())?;
    if let Some(repair) = &recovered.repair {
        tracing::warn!(
            path = repair.file,
            offset = repair.offset,
            reason = repair.what,
            copy = repair.copy,
            "repaired a torn record at the end of the WAL"
        );
    }
    let metadata = Metadata::decode(recovered.metadata.clone()).map_err(|error| {
        StartError::Metadata { path: dirs.wal_path.clone(), why: error.to_string() }
    })?;
    let entries = recovered
        .entries
        .into_iter()
        .map(raft::codec::entry_from_proto)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| StartError::Entry {
            path: dirs.wal_path.clone(),
            why: error.to_string(),
        })?;
    let hard_state = raft::codec::hard_state_from_proto(&recovered.hard_state);
    let (machine, compaction) =
        Machine::open(machine_options(config, metadata.node_id), writer, &snapshot)?;
    tracing::info!(
        cluster_id = format!("{:x}", metadata.cluster_id),
        local_member_id = format!("{:x}", metadata.node_id),
        commit_index = hard_state.commit.0,
        "restarting local member"
    );
    let replica = Replica::new(Setup {
        snapshot: raft::codec::snapshot_from_proto(snapshot),
        hard_state,
        entries,
        applied: LogIndex(snapshot_index),
        ..setup(config, metadata.node_id, seed)
    })?;
    Ok(Parts {
        cluster_id: metadata.cluster_id,
        member_id: metadata.node_id,
        replica,
        machine,
        compaction,
        wal,
        wal_parent: dirs.wal_parent,
        wal_name: dirs.wal_name,
        snap_dir: dirs.snap,
        snapshot_index,
        backend,
    })
}

fn setup(config: &Config, member_id: u64, seed: u64) -> Setup {
    Setup {
        id: NodeId(member_id),
        snapshot: raft::Snapshot::default(),
        hard_state: raft::HardState::default(),
        entries: Vec::new(),
        applied: LogIndex::ZERO,
        bootstrap: Vec::new(),
        election_ticks: config.election_ticks(),
        pre_vote: config.pre_vote,
        seed: seed ^ member_id,
        trace: raft_log::trace(),
    }
}

fn backend_options(config: &Config) -> backend::Options {
    backend::Options::with_quota(config.quota_backend_bytes)
}

fn machine_options(config: &Config, member_id: u64) -> machine::Options {
    let mut options = machine::Options::new(member_id, version::EMULATED);
    options.quota = Quota::from_flag(config.quota_backend_bytes);
    options.lease = lease::Config {
        min_ttl: lease::min_ttl(config.election_ticks(), config.heartbeat),
        retry_after: config.request_timeout(),
        checkpoint_interval: None,
    };
    options
}
