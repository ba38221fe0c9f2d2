//! From the parts that a member's files gave to the threads and tasks that run them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Member;
use crate::access::{Access, Passwords, Tokens};
use crate::board::Board;
use crate::bootstrap::StartError;
use crate::config::{ClusterState, Config};
use crate::driver::apply::{ApplyStage, Policy, State};
use crate::driver::committer::Committer;
use crate::driver::heart::{Heart, INBOX_CAPACITY, Seat, Work};
use crate::driver::log_writer::LogWriter;
use crate::driver::mailbox::{Receiver, Wait, mailbox};
use crate::driver::{Failure, Failures};
use crate::facts::Facts;
use crate::joining::Joining;
use crate::metrics::Metrics;
use crate::peer::{Dialler, Identity, Options, Transport};
use crate::peers::Peers;
use crate::proposals::{RequestIds, Waiters};
use crate::reads::Reads;
use crate::request::{ApplyRequests, Core};
use crate::signal::Stops;
use crate::traces::Traces;
use crate::watching::{Outlet, Watching};
use crate::{cluster_version, compactor, corruption, descriptors, first_election, grpc};

/// Most memory that waits for a commit of the database: some hundred of the largest requests.
const COMMIT_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Member {
    /// Starts the threads and tasks of a member on the parts that its files gave; it serves nobody yet.
    ///
    /// # Errors
    /// Its tokens are not those of its version, the collector's address is none, or a thread cannot be started.
    pub(super) fn start_stages(
        config: Config,
        (dialler, tokens): (&Dialler, Tokens),
        parts: ::bootstrap::Member,
        joining: Option<Joining>,
        unix_ms: u64,
        signals: Stops,
    ) -> Result<(Self, Arc<Watching>), StartError> {
        let ::bootstrap::Member {
            cluster_id,
            member_id,
            replica,
            machine,
            compaction,
            wal,
            dirs,
            snapshot_index,
            backend,
            origin: _,
        } = parts;
        let (heart_sender, heart_inbox) = mailbox(INBOX_CAPACITY);
        // The capacities of these are of no effect: what they hold is bounded by those who fill them.
        let (commit_sender, commit_inbox) = mailbox(usize::MAX);
        let (watch_sender, watch_inbox) = mailbox(usize::MAX);
        let (preallocate_sender, preallocate_inbox) = mailbox(1);

        // One that a crash interrupted says itself when it has finished.
        let finished_compaction =
            if compaction.is_some() { -1 } else { machine.reader().compact_revision() };
        let epoch = Instant::now();
        let board = Arc::new(Board::new(machine.applied()));
        let facts = Arc::new(Facts::of(&machine));
        let waiters = Arc::new(Waiters::default());
        let ids = RequestIds::new(member_id, unix_ms);
        let reads = Arc::new(Reads::new(heart_sender.clone(), ids.next()));
        let peers = Arc::new(Peers::new(member_id, heart_sender.clone(), dialler.clone()));
        let version = machine.version();
        tokens.check_version(version)?;
        let access = Arc::new(Access::new(
            tokens,
            Passwords::new(config.bcrypt_cost),
            config.client_tls.client_cert_auth,
            version,
            machine.auth(),
        ));
        let metrics = Arc::new(Metrics::new(version, config.metrics_extensive));
        let tracing = config.tracing.as_ref();
        let (traces, exporter) =
            tracing.map(|tracing| Traces::start(tracing, version)).transpose()?.unzip();
        let core = Arc::new(Core {
            cluster_id,
            member_id,
            version,
            quota: machine::Quota::from_flag(config.quota_backend_bytes),
            board: Arc::clone(&board),
            facts: Arc::clone(&facts),
            access: Arc::clone(&access),
            reads: Arc::clone(&reads),
            waiters: Arc::clone(&waiters),
            ids,
            peers: Arc::clone(&peers),
            heart: heart_sender.clone(),
            store: machine.reader(),
            backend,
            lessor: machine.lessor(),
            epoch,
            metrics: Arc::clone(&metrics),
            traces,
            compacted: watch::channel(finished_compaction).0,
            defragmentations: watch::channel(0).0,
            conversations: Arc::default(),
            config,
        });
        let config = &core.config;
        let outlet = Outlet::new(watch_sender);
        let watching = Arc::new(Watching::new(&core, &outlet));

        let (failures, failed) = Failures::channel();
        let preallocator = wal.preallocator();
        preallocate_sender.send_all([()]);
        let log_writer = LogWriter {
            wal,
            parent: dirs.wal_parent,
            name: dirs.wal_name,
            segments_max: config.max_wals,
            snap_dir: Arc::clone(&dirs.snap),
            snapshots_max: config.max_snapshots,
            purged: Instant::now(),
            purge_to: None,
            preallocate: preallocate_sender,
            records: Vec::new(),
            metrics: Arc::clone(&metrics),
        };
        let streams = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("resolve")
            .build()
            .map_err(|source| StartError::System { what: "make an executor", source })?;
        let transport = Transport::new(
            Identity {
                cluster_id,
                member_id,
                server_version: version.to_string(),
                peer_urls: core
                    .config
                    .initial_advertise_peer_urls
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
            Options {
                dialler: dialler.clone(),
                snap_dir: Arc::clone(&dirs.snap),
                metrics: Arc::clone(&metrics),
                streams: streams.handle().clone(),
            },
            peers.front(Arc::clone(&facts)),
            tokio::runtime::Handle::current(),
        );
        for member in joining.iter().flat_map(|joining| &joining.members) {
            if member.id != member_id {
                transport.add_remote(member.id, &member.peer_urls);
            }
        }
        peers.connect(transport, machine.membership());
        let is_alone = is_alone(config, machine.membership());
        let committer = Committer {
            inbox: commit_inbox,
            heart: heart_sender.clone(),
            snap_dir: dirs.snap,
            backend: core.backend.clone(),
            peers: Arc::clone(&peers),
            metrics: Arc::clone(&metrics),
            catchup_entries: config.snapshot_catchup_entries,
            db_path: config.db_path(),
            version,
        };
        let apply = ApplyStage {
            machine,
            committer: commit_sender,
            watch: outlet,
            waiters: Arc::clone(&waiters),
            board: Arc::clone(&board),
            facts,
            access,
            peers: Arc::clone(&peers),
            metrics: Arc::clone(&metrics),
            requests: ApplyRequests {
                core: Arc::clone(&core),
                runtime: tokio::runtime::Handle::current(),
            },
            policy: Policy {
                commit_interval: config.backend_batch_interval,
                commit_ops: config.backend_batch_limit as u64,
                commit_bytes: COMMIT_BYTES_MAX,
                snapshot_count: config.snapshot_count(version),
                compaction_batch: config.compaction_batch_limit,
                compaction_pause: config.compaction_sleep,
                lease_extension: config.election,
                slow_after: config.warning_apply_duration,
            },
            epoch,
            state: State::new(snapshot_index, compaction),
        };
        let mut heart = Heart {
            replica,
            member_id,
            log: Seat::Here(log_writer),
            apply: Seat::Here(apply),
            inbox: heart_inbox,
            sender: heart_sender,
            peers,
            failures: failures.clone(),
            board,
            reads,
            waiters,
            metrics,
            heartbeat: config.heartbeat,
            election: config.election,
            unpersisted: VecDeque::new(),
        };
        let stage_error = |source| StartError::System { what: "start a thread", source };
        if !is_alone {
            heart.split().map_err(stage_error)?;
        }
        let hub = Arc::clone(&watching);
        let stages = vec![
            failures.spawn("heart", move || heart.run(streams)).map_err(stage_error)?,
            failures
                .spawn("preallocate", move || -> Result<(), Failure> {
                    preallocate(&preallocator, &preallocate_inbox);
                    Ok(())
                })
                .map_err(stage_error)?,
            failures.spawn("commit", move || committer.run()).map_err(stage_error)?,
            failures.spawn("watch", move || hub.run(&watch_inbox)).map_err(stage_error)?,
        ];
        let mut tasks = JoinSet::new();
        tasks.spawn(grpc::expire_leases(Arc::clone(&core)));
        tasks.spawn(compactor::run(Arc::clone(&core)));
        tasks.spawn(corruption::watch(Arc::clone(&core)));
        tasks.spawn(corruption::watch_compactions(Arc::clone(&core)));
        tasks.spawn(cluster_version::watch(Arc::clone(&core)));
        tasks.spawn(cluster_version::watch_downgrade(Arc::clone(&core)));
        tasks.spawn(descriptors::watch());
        if !is_alone {
            tasks.spawn(first_election::hurry(Arc::clone(&core)));
        }
        let member = Self {
            core,
            stages,
            failures: failed,
            tasks,
            stopping: watch::channel(false).0,
            listeners: JoinSet::new(),
            signals,
            exporter,
            pending: None,
        };
        if is_alone {
            // There is nobody to wait for.
            member.core.heart.send_all([Work::Replica(replica::Input::Campaign)]);
        }
        Ok((member, watching))
    }
}

/// Whether this member founded its cluster alone, and knows of no other member yet. What the log still holds may say
/// otherwise; consensus sees to that.
fn is_alone(config: &Config, membership: &machine::Membership) -> bool {
    config.initial_cluster_state == ClusterState::New
        && config.initial_cluster.len() == 1
        && !config.force_new_cluster
        && membership.members().len() <= 1
}

/// Makes each next segment of the log ready while the one before fills up.
fn preallocate(preallocator: &wal::Preallocator, inbox: &Receiver<()>) {
    let mut batch = VecDeque::new();
    while inbox.take(&mut batch, None) != Wait::Closed {
        batch.clear();
        if let Err(error) = preallocator.run() {
            // The log goes on without: it makes the segment itself when it needs it.
            tracing::warn!(error = %error, "failed to make the next segment of the WAL ready");
        }
    }
}
