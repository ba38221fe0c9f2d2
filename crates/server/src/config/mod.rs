//! What a member is told at start, checked: names, URLs, directories, intervals and limits.
//!
//! The flags of the `etcd` program become a [`Config`]; nothing below looks at a flag or the environment. Units are in the
//! types: intervals are [`Duration`]s, sizes are bytes.

mod initial_cluster;
mod url;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::Version;

pub use initial_cluster::parse_initial_cluster;
pub use otlp::PER_MILLION_MAX as TRACES_PER_MILLION_MAX;
pub use url::{Url, UrlError};

/// How often etcd's leader notes how much is left of a long lease.
pub const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// etcd's quota where none is asked for: 2 GiB.
pub const QUOTA_DEFAULT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// What gRPC framing and metadata may add to a request of the largest size.
pub const GRPC_OVERHEAD_BYTES: u64 = 512 * 1024;

/// Whether the member founds a cluster or joins one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// It founds one.
    New,
    /// It joins one.
    Existing,
}

/// Where spans of calls are sent, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// `host:port` of a collector that takes OTLP over gRPC.
    pub address: String,
    /// What the spans say they are from; the same for all members.
    pub service_name: String,
    /// Which member they are from; empty to leave it out.
    pub instance_id: String,
    /// Of a million traces that begin at this member, so many are taken down; those that callers take down are, in any case.
    pub rate_per_million: u32,
}

/// When history is compacted without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// Keeps what is younger than this.
    Periodic(Duration),
    /// Keeps this many revisions.
    Revision(i64),
}

/// A feature that can be switched on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// etcd's name of it.
    pub name: &'static str,
    /// How settled etcd considers it: `ALPHA` or `BETA`.
    pub stage: &'static str,
    /// Whether it is on.
    pub is_on: bool,
}

/// Everything a member is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The member's name.
    pub name: String,
    /// Where `member/` lies.
    pub data_dir: PathBuf,
    /// Where the write-ahead log lies, when not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Where to listen for members.
    pub listen_peer_urls: Vec<Url>,
    /// Where to listen for clients.
    pub listen_client_urls: Vec<Url>,
    /// Where to listen for clients that speak HTTP; if there are any, the others speak gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Where to serve health and metrics beside the clients' port.
    pub listen_metrics_urls: Vec<Url>,
    /// Origins whose pages may ask, or `*`.
    pub cors: Vec<String>,
    /// Host names that requests without TLS may name, or `*`.
    pub host_whitelist: Vec<String>,
    /// Where members find this one.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Where clients find this member.
    pub advertise_client_urls: Vec<Url>,
    /// The members that found the cluster, by name.
    pub initial_cluster: Vec<(String, Vec<Url>)>,
    /// Whether the cluster is new.
    pub initial_cluster_state: ClusterState,
    /// Part of the cluster's id.
    pub initial_cluster_token: String,
    /// The etcd version to stand for; without one, that of the cluster.
    pub emulated_version: Option<Version>,
    /// Whether to go on as a cluster of one, forgetting the other members.
    pub force_new_cluster: bool,
    /// Most learners at a time, from 3.6 on.
    pub max_learners: usize,
    /// Applied entries between two raft snapshots; without a number, etcd's for the version.
    pub snapshot_count: Option<u64>,
    /// Entries kept in memory behind a snapshot.
    pub snapshot_catchup_entries: u64,
    /// Snapshot files kept; 0 keeps all.
    pub max_snapshots: usize,
    /// Log segments kept; 0 keeps all.
    pub max_wals: usize,
    /// Interval of the leader's heartbeats; one tick of the raft core.
    pub heartbeat: Duration,
    /// Time without a leader after which a member campaigns.
    pub election: Duration,
    /// Whether the first election may come early.
    pub initial_election_tick_advance: bool,
    /// Whether a member asks for votes before it raises the term.
    pub pre_vote: bool,
    /// Whether changes of the membership that could lose the quorum are refused.
    pub strict_reconfig_check: bool,
    /// How often a leader notes how much is left of a long lease; `None` is never.
    pub lease_checkpoint_interval: Option<Duration>,
    /// Whether such a note is kept across restarts also before 3.6.
    pub lease_checkpoint_persist: bool,
    /// How often a leader looks whether a downgrade is complete; zero is never.
    pub downgrade_check_interval: Duration,
    /// Whether a member compares its data with that of the others before it starts.
    pub initial_corrupt_check: bool,
    /// How often a leader compares the members' data; zero is never.
    pub corrupt_check_time: Duration,
    /// Whether a leader compares the hashes that compactions leave behind.
    pub compact_hash_check_enabled: bool,
    /// How often it does so.
    pub compact_hash_check_time: Duration,
    /// When history is compacted without being asked.
    pub auto_compaction: AutoCompaction,
    /// Largest request, as encoded for the log.
    pub max_request_bytes: u64,
    /// Most operations in a transaction.
    pub max_txn_ops: u32,
    /// Most streams on one client connection.
    pub max_concurrent_streams: u32,
    /// Size of the database at which writes stop: 0 is the default, negative is none.
    pub quota_backend_bytes: i64,
    /// Longest time that a change waits for a commit of the database.
    pub backend_batch_interval: Duration,
    /// Most operations that wait for a commit of the database.
    pub backend_batch_limit: usize,
    /// Revisions that one step of a compaction removes.
    pub compaction_batch_limit: usize,
    /// Pause between two steps of a compaction.
    pub compaction_sleep: Duration,
    /// Interval of progress messages to idle watchers.
    pub watch_progress_interval: Duration,
    /// Idle time after which a client connection is pinged; zero is never.
    pub keepalive_interval: Duration,
    /// Time that a client has to answer a ping.
    pub keepalive_timeout: Duration,
    /// How clients' connections are secured.
    pub client_tls: tls::Settings,
    /// How connections between members are secured.
    pub peer_tls: tls::Settings,
    /// Whether a certificate for clients is generated where none is given.
    pub client_auto_tls: bool,
    /// Whether a certificate for members is generated where none is given.
    pub peer_auto_tls: bool,
    /// Years that a generated certificate is valid.
    pub self_signed_years: u32,
    /// Kind of auth tokens with its options, as `--auth-token` has it.
    pub auth_token: String,
    /// How long a simple token lasts without being used; zero is etcd's 5 minutes.
    pub auth_token_ttl: Duration,
    /// Cost of hashing a password: 2 to the power of this.
    pub bcrypt_cost: u32,
    /// Whether clients may speak JSON over HTTP.
    pub enable_grpc_gateway: bool,
    /// Whether metrics come with the times of calls.
    pub metrics_extensive: bool,
    /// Where spans of calls are sent, if anywhere.
    pub tracing: Option<Tracing>,
    /// Whether profiles are served, where clients' HTTP is.
    pub enable_pprof: bool,
    /// Shortest interval at which a client may ping.
    pub keepalive_min_time: Duration,
    /// Time to apply an entry from which on it is told.
    pub warning_apply_duration: Duration,
    /// Time to answer a call from which on it is told.
    pub warning_unary_request_duration: Duration,
    /// The database is defragmented at start if that gives back at least this many MiB; zero is never.
    pub bootstrap_defrag_threshold_mib: u64,
    /// Whether what is written is never made durable.
    pub unsafe_no_fsync: bool,
    /// Whether other processes may listen on the same ports.
    pub socket_reuse_port: bool,
    /// Whether the health service says that nothing is served while the database is defragmented.
    pub stops_grpc_on_defrag: bool,
    /// Whether leases are revoked when the state machine is so far behind its log that nothing else is proposed (3.7).
    pub prioritizes_revocations: bool,
    /// Whether connections to members come from the address that this member advertises to them.
    pub binds_advertised_address: bool,
    /// The features that can be switched, by name, for the log and the metrics.
    pub features: Vec<Feature>,
    /// The command line as it may be shown to whoever asks: without passwords.
    pub command_line: Vec<String>,
}

impl Config {
    /// The directory that holds everything of the member.
    #[must_use]
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The database's file.
    #[must_use]
    pub fn db_path(&self) -> PathBuf {
        self.member_dir().join("snap").join("db")
    }

    /// The directory of the write-ahead log.
    #[must_use]
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// The size of the database at which writes stop, if any.
    #[must_use]
    pub fn quota_bytes(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(QUOTA_DEFAULT_BYTES),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// Applied entries between two raft snapshots, for a member of this version.
    #[must_use]
    pub fn snapshot_count(&self, version: Version) -> u64 {
        self.snapshot_count.unwrap_or(if version < Version::v3(6, 0) { 100_000 } else { 10_000 })
    }

    /// Ticks of the raft core in an election timeout.
    #[must_use]
    pub fn election_ticks(&self) -> u32 {
        let ticks = self.election.as_millis() / self.heartbeat.as_millis().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX).max(2)
    }

    /// Where connections to members come from, if that is to be the address that they know: the first one of the advertised URLs
    /// that is an address, and not of this machine alone.
    #[must_use]
    pub fn local_address(&self) -> Option<IpAddr> {
        if !self.binds_advertised_address {
            return None;
        }
        self.initial_advertise_peer_urls
            .iter()
            .filter_map(|url| url.host().parse::<IpAddr>().ok())
            .find(|address| !address.is_loopback() && !address.is_unspecified())
    }

    /// How long a request may wait for its answer: etcd's 5 s and two election timeouts.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election
    }

    /// How long a connection to another member may take to come about: etcd's 1 s and an election timeout.
    #[must_use]
    pub fn peer_dial_limit(&self) -> Duration {
        Duration::from_secs(1) + self.election
    }

    /// Whether the member has a log, hence has begun. Looks at the directory, and makes nothing.
    #[must_use]
    pub fn has_log(&self) -> bool {
        std::fs::read_dir(self.wal_path()).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "wal"))
            })
        })
    }

    /// The id that this member has if it founds a cluster.
    #[must_use]
    pub fn founder_id(&self) -> u64 {
        let urls: Vec<String> =
            self.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
        machine::ids::founder_id(&urls, &self.initial_cluster_token)
    }

    /// Whether the path lies in the data directory, for messages.
    #[must_use]
    pub fn has_own_wal_dir(&self) -> bool {
        self.wal_dir.as_deref().is_some_and(|path| path != Path::new(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_address_is_the_first_that_others_can_use() {
        let dir = Path::new("unused");
        let of = |is_on, urls: &[&str]| {
            let config = Config {
                binds_advertised_address: is_on,
                initial_advertise_peer_urls: urls.iter().map(|u| Url::parse(u).unwrap()).collect(),
                ..crate::member::unconnected::config(dir)
            };
            config.local_address().map(|address| address.to_string())
        };
        let urls =
            ["http://localhost:1", "http://127.0.0.1:2", "http://0.0.0.0:3", "http://[::1]:4"];
        assert_eq!(of(true, &urls), None);
        let urls = [&urls[..], &["https://10.0.0.7:5", "http://[fd00::1]:6"]].concat();
        assert_eq!(of(true, &urls).as_deref(), Some("10.0.0.7"));
        assert_eq!(of(true, &["http://[fd00::1]:6"]).as_deref(), Some("fd00::1"));
        assert_eq!(of(false, &urls), None);
    }
}
