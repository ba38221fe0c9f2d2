//! The edge of `::bootstrap`: real directories, the configuration as its options, and what it found as log lines.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ::bootstrap::{Beginning, Dirs, FoundingOptions, Member, Options, Origin};
use machine::Quota;
use vfs::Dir;
use vfs::real::{RealDir, Syncs};

use crate::config::Config;
use crate::joining::{JoinError, Joining};
use crate::{raft_log, told, version};

/// The largest quota that etcd recommends.
const QUOTA_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be opened or made.
    #[error("open {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is in the directories, or what is to be put there.
    #[error(transparent)]
    Open(#[from] ::bootstrap::Error),
    /// The cluster that exists, or should not, stands in the way.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A listener cannot be opened.
    #[error("listen on {url}")]
    Listen {
        /// The URL.
        url: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// This member's data differs from that of the others, which was to be checked.
    #[error("{member_id:x} found data inconsistency with peers")]
    Inconsistent {
        /// This member.
        member_id: u64,
    },
    /// This member's data was to be compared, and cannot be read.
    #[error("{member_id:x} failed to fetch hash ({reason})")]
    Hash {
        /// This member.
        member_id: u64,
        /// What went wrong.
        reason: String,
    },
    /// A secured listener without anything to show.
    #[error("{0}")]
    NoCertificate(String),
    /// Certificates, keys or authorities that cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// `--auth-token` cannot be served.
    #[error(transparent)]
    Tokens(#[from] crate::access::TokenOptionsError),
    /// `--distributed-tracing-address` cannot be served.
    #[error(transparent)]
    Tracing(#[from] otlp::AddressError),
    /// Spans were to be sent over an encrypted connection.
    #[error(transparent)]
    TracingEncryption(#[from] otlp::EncryptionError),
    /// A thread cannot be started, or signals cannot be listened to.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Opens or makes everything. Reads whole files: not for an executor's thread.
pub(crate) fn open(
    config: &Config,
    joining: Option<&Joining>,
    seed: u64,
    has_begun: bool,
) -> Result<Member, StartError> {
    let options = options(config, joining, seed);
    let begun = Instant::now();
    let opened = open_dirs(config).and_then(|dirs| Ok(::bootstrap::open(dirs, &options)?));
    let asked = options.asked_version.unwrap_or(options.machine.version);
    // A directory's own version is known when it is open.
    let version = opened.as_ref().map_or(asked, |member| member.machine.version());
    told::start(config, version, has_begun);
    let mut member = opened?;
    if config.unsafe_no_fsync {
        tracing::warn!(
            "--unsafe-no-fsync: nothing waits for the disk; acknowledged writes are lost if the machine stops"
        );
    }
    tracing::info!(
        path = %config.db_path().display(),
        took = told::go_duration(begun.elapsed()),
        "opened backend db"
    );
    tell(config, &member);
    defragment(config, &mut member)?;
    Ok(member)
}

/// For tests: a new member whose database lies in another kind of directory.
#[cfg(test)]
pub(crate) fn open_on(
    config: &Config,
    snap_dir: impl FnOnce(Arc<dyn Dir>) -> Arc<dyn Dir>,
) -> Member {
    let dirs = open_dirs(config).unwrap();
    let dirs = Dirs { snap: snap_dir(dirs.snap), ..dirs };
    ::bootstrap::open(dirs, &options(config, None, 1)).unwrap()
}

/// Defragments the database if that gives back as much as was asked for.
fn defragment(config: &Config, member: &mut Member) -> Result<(), StartError> {
    if config.bootstrap_defrag_threshold_mib == 0 {
        return Ok(());
    }
    let threshold = config.bootstrap_defrag_threshold_mib.saturating_mul(1024 * 1024);
    let size = member.machine.writer().view().size();
    if size.total_bytes.saturating_sub(size.in_use_bytes) < threshold {
        tracing::info!(
            current_db_size_bytes = size.total_bytes,
            current_db_size = told::human_bytes(size.total_bytes),
            current_db_size_in_use_bytes = size.in_use_bytes,
            current_db_size_in_use = told::human_bytes(size.in_use_bytes),
            bootstrap_defrag_threshold_bytes = threshold,
            bootstrap_defrag_threshold = told::human_bytes(threshold),
            "Skipping defragmentation"
        );
        return Ok(());
    }
    let failed = |error: String| StartError::System {
        what: "defragment the database",
        source: std::io::Error::other(error),
    };
    if let Some(job) = member.machine.writer().take_commit() {
        job.run().map_err(|error| failed(error.to_string()))?;
    }
    if let Some(job) = member.machine.writer().take_defrag() {
        let begun = Instant::now();
        told::defragmenting(&config.db_path(), size);
        let stats = job.run().map_err(|error| failed(error.to_string()))?;
        told::defragmented(&config.db_path(), &stats, begun.elapsed());
    }
    Ok(())
}

/// Whether what the member writes waits for the disk.
fn syncs(config: &Config) -> Syncs {
    if config.unsafe_no_fsync { Syncs::LeftOut } else { Syncs::Done }
}

/// Whether the member has a log, hence has begun.
pub(crate) fn has_begun(config: &Config) -> Result<bool, StartError> {
    let dirs = open_dirs(config)?;
    wal::exists(&dirs.wal_parent, &dirs.wal_name)
        .map_err(|error| StartError::Open(::bootstrap::Error::Log(error)))
}

fn open_dirs(config: &Config) -> Result<Dirs, StartError> {
    let syncs = syncs(config);
    let make = |path: &Path| -> Result<Arc<dyn Dir>, StartError> {
        RealDir::create(path)
            .and_then(|_| RealDir::open_with(path, syncs))
            .map_err(|source| StartError::Directory { path: path.to_owned(), source })
    };
    make(&config.data_dir)?;
    make(&config.member_dir())?;
    let snap = make(&config.member_dir().join("snap"))?;
    let wal_path = config.wal_path();
    let parent = wal_path.parent().filter(|path| *path != Path::new("")).unwrap_or(Path::new("."));
    let wal_name = wal_path.file_name().and_then(|name| name.to_str()).unwrap_or("wal").to_owned();
    Ok(Dirs { snap, wal_parent: make(parent)?, wal_name })
}

fn options(config: &Config, joining: Option<&Joining>, seed: u64) -> Options {
    let version = match joining {
        Some(joining) => joining.version,
        None => config.emulated_version.unwrap_or(version::NEW_CLUSTER),
    };
    let mut machine = machine::Options::new(0, version);
    machine.learners_max = config.max_learners;
    machine.persists_checkpoints = config.lease_checkpoint_persist;
    machine.quota = Quota::from_flag(config.quota_backend_bytes);
    machine.lease = lease::Config {
        min_ttl: lease::min_ttl(config.election_ticks(), config.heartbeat),
        retry_after: config.request_timeout(),
        checkpoint_interval: config.lease_checkpoint_interval,
    };
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        (name.clone(), urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    Options {
        beginning: match joining {
            Some(&Joining { cluster_id, member_id, .. }) => {
                Beginning::Join { cluster_id, member_id }
            }
            // With a log this is of no effect.
            None => Beginning::Found(FoundingOptions {
                name: config.name.clone(),
                members: members.collect(),
                cluster_token: config.initial_cluster_token.clone(),
            }),
        },
        wal: wal::Options::default(),
        backend: backend::Options::with_quota(config.quota_backend_bytes),
        machine,
        asked_version: config.emulated_version,
        force_new_cluster: config.force_new_cluster,
        election_ticks: config.election_ticks(),
        pre_vote: config.pre_vote,
        seed,
        trace: raft_log::trace(),
    }
}

fn tell(config: &Config, member: &Member) {
    let version = member.machine.version();
    let cluster_version = member.machine.membership().version();
    if config.auth_token.split(',').next() == Some("simple") {
        tracing::warn!("simple token is not cryptographically signed");
    }
    tracing::info!(
        local_member_id = format!("{:x}", member.member_id),
        local_server_version = %version,
        cluster_version = cluster_version.map_or_else(|| "to_be_decided".to_owned(), |v| v.to_string()),
        "starting etcd server"
    );
    tracing::info!(current_rev = member.machine.revision(), "kvstore restored");
    for id in member.machine.mended_voters() {
        tracing::warn!(member_id = format!("{id:x}"), "Syncing member in v3store");
    }
    if let Some(bytes) = config.quota_bytes().filter(|bytes| *bytes > QUOTA_BYTES_MAX) {
        tracing::warn!(
            quota_name = "v3-applier",
            quota_size_bytes = bytes,
            quota_size = told::human_bytes(bytes),
            quota_maximum_size_bytes = QUOTA_BYTES_MAX,
            quota_maximum_size = told::human_bytes(QUOTA_BYTES_MAX),
            "quota exceeds the maximum value"
        );
    }
    match config.quota_bytes() {
        Some(bytes) => tracing::info!(
            quota_name = "v3-applier",
            quota_size_bytes = bytes,
            quota_size = told::human_bytes(bytes),
            "enabled backend quota{}",
            if config.quota_backend_bytes == 0 { " with default value" } else { "" }
        ),
        None => tracing::info!(
            quota_name = "v3-applier",
            quota_size_bytes = config.quota_backend_bytes,
            "disabled backend quota"
        ),
    }
    if !version.has_learners_max() && config.max_learners != 1 {
        tracing::warn!("--max-learners is of no effect before 3.6: there is one learner at a time");
    }
    let cluster_id = format!("{:x}", member.cluster_id);
    let local_member_id = format!("{:x}", member.member_id);
    let restart = match &member.origin {
        Origin::New => {
            tracing::info!(local_member_id, cluster_id, "starting local member");
            return;
        }
        Origin::Restart(restart) => restart,
    };
    for (name, why) in &restart.broken_snapshots {
        tracing::warn!(path = name, error = why, "renamed a snapshot file that cannot be read");
    }
    match member.snapshot_index {
        0 => tracing::info!("No snapshot found. Recovering WAL from scratch!"),
        index => tracing::info!(snapshot_index = index, "recovered from snapshot"),
    }
    if let Some(repair) = &restart.repair {
        tracing::warn!(
            path = repair.file,
            offset = repair.offset,
            reason = repair.what,
            copy = repair.copy,
            "repaired a torn record at the end of the WAL"
        );
    }
    if let Some(forced) = &restart.forced {
        if forced.discarded > 0 {
            tracing::info!(
                commit_index_from_wal = forced.commit_before,
                number_of_discarded_entries = forced.discarded,
                "discarding uncommitted WAL entries"
            );
        }
        tracing::info!(
            cluster_id,
            local_member_id,
            wal_commit_index = forced.commit_before,
            commit_index = forced.commit_index,
            "forcing restart member"
        );
        return;
    }
    tracing::info!(
        cluster_id,
        local_member_id,
        commit_index = restart.commit_index,
        "restarting local member"
    );
}
