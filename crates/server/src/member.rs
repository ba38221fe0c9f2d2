//! A running member: started in the order in which its parts need each other, stopped the other way round.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::access::{Access, Passwords, Tokens};
use crate::board::Board;
use crate::bootstrap::{self, StartError};
use crate::config::{ClusterState, Config};
use crate::driver::apply::{ApplyStage, Policy, State};
use crate::driver::committer::Committer;
use crate::driver::heart::{Heart, INBOX_CAPACITY, Seat, Work};
use crate::driver::log_writer::LogWriter;
use crate::driver::mailbox::{Receiver, Wait, mailbox};
use crate::driver::{Failure, Failures};
use crate::facts::Facts;
use crate::joining::{self, Joining};
use crate::listen::{Listener, Traffic};
use crate::metrics::Metrics;
use crate::peer::{self, Dialler, Identity, Options, Transport};
use crate::peers::Peers;
use crate::proposals::{RequestIds, Waiters};
use crate::reads::Reads;
use crate::request::{ApplyRequests, Core};
use crate::secure::Secured;
use crate::signal::{Stop, Stops};
use crate::traces::{self, Traces};
use crate::watching::{Outlet, Watching};
use crate::{
    cluster_version, compactor, corruption, first_election, grpc, http, listen, peer_port, publish,
    systemd, told,
};

/// Most memory that waits for a commit of the database: some hundred of the largest requests.
const COMMIT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a member that was removed goes on: etcd's second, in which the entry that removes it reaches the others.
const REMOVAL_GRACE: Duration = Duration::from_secs(1);

/// A running member.
#[derive(Debug)]
pub struct Member {
    core: Arc<Core>,
    /// The stages in the order in which they end.
    stages: Vec<JoinHandle<()>>,
    failures: mpsc::UnboundedReceiver<Failure>,
    tasks: JoinSet<()>,
    /// Set to stop the listeners.
    stopping: watch::Sender<bool>,
    listeners: JoinSet<()>,
    signals: Stops,
    /// What sends the spans of calls.
    exporter: Option<otlp::Exporter>,
    /// What came up while the member started.
    pending: Option<End>,
}

/// What ends a member.
#[derive(Debug)]
enum End {
    Signal(Stop),
    Failure(Failure),
    /// It was removed from its cluster.
    Removal,
}

impl std::fmt::Debug for Stops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stops")
    }
}

/// Why a member that ran has stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A stage failed.
    #[error(transparent)]
    Stage(#[from] Failure),
}

impl Member {
    /// Starts a member and returns when it serves clients, or when it is to stop already.
    ///
    /// # Errors
    /// What it starts from does not fit together, is not served yet, or a listener cannot be opened.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let signals = Stops::listen()
            .map_err(|source| StartError::System { what: "listen to signals", source })?;
        // Before anything is written: a port that is taken must not leave a half-made directory.
        config.tracing.as_ref().map_or(Ok(()), |tracing| otlp::check_address(&tracing.address))?;
        let own_config = config.clone();
        let (secured, tokens) = off_executor(move || {
            let tokens = Tokens::of(&own_config.auth_token, own_config.auth_token_ttl)?;
            Ok((Secured::of(&own_config)?, tokens))
        })
        .await?;
        tracing::info!(
            listen_peer_urls = ?told::urls(&config.listen_peer_urls),
            "configuring peer listeners"
        );
        let reuse_port = config.socket_reuse_port;
        let peer_listeners = listen::bind(&config.listen_peer_urls, reuse_port).await?;
        tracing::info!(
            listen_client_urls = ?told::urls(&config.listen_client_urls),
            "configuring client listeners"
        );
        let client_listeners = listen::bind(&config.listen_client_urls, reuse_port).await?;
        let http_listeners = listen::bind(&config.listen_client_http_urls, reuse_port).await?;
        let metrics_listeners = listen::bind(&config.listen_metrics_urls, reuse_port).await?;

        let unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(0));
        let own_config = config.clone();
        let has_begun = off_executor(move || bootstrap::has_begun(&own_config)).await?;
        let joining =
            if has_begun { None } else { joining::survey(&config, &secured.dialler).await? };
        let own_config = config.clone();
        let opened = off_executor(move || {
            Ok((bootstrap::open(&own_config, joining.as_ref(), unix_ms, has_begun)?, joining))
        })
        .await;
        let (parts, joining) = opened?;
        if has_begun && config.initial_corrupt_check {
            corruption::check_at_start(&config, &parts, &secured.dialler).await?;
        }
        let (mut member, watching) = Self::start_stages(
            config,
            (&secured.dialler, tokens),
            parts,
            joining,
            unix_ms,
            signals,
        )?;

        let mut peer_routes = peer_port::routes(&member.core);
        if let Some(transport) = member.core.peers.transport() {
            peer_routes = peer_routes.merge(transport.routes());
        }
        tracing::info!(
            local_member_id = format!("{:x}", member.core.member_id),
            initial_advertise_peer_urls = ?told::urls(&member.core.config.initial_advertise_peer_urls),
            listen_peer_urls = ?told::urls(&member.core.config.listen_peer_urls),
            advertise_client_urls = ?told::urls(&member.core.config.advertise_client_urls),
            listen_client_urls = ?told::urls(&member.core.config.listen_client_urls),
            listen_metrics_urls = ?told::urls(&member.core.config.listen_metrics_urls),
            "now serving peer/client/metrics"
        );
        for listener in peer_listeners {
            tracing::info!(address = listener.address(), "serving peer traffic");
            let (listener, tls) = listener.into_parts(secured.peers.as_ref());
            member.listeners.spawn(peer::serve(
                listener,
                tls,
                peer_routes.clone(),
                member.stopping.subscribe(),
            ));
        }
        // Before there is a leader: whoever waits for one wants to know.
        let metrics_routes = http::metrics_routes(&member.core, &watching);
        member.listen(metrics_listeners, Traffic::Metrics, &secured, &metrics_routes);
        let published = async {
            publish::publish(&member.core).await;
            cluster_version::settled(&member.core).await;
        };
        // Without a quorum this takes as long as it takes, and whatever ends a running member ends this too.
        let mut removal = member.core.peers.removal();
        tokio::select! {
            () = published => tracing::info!("ready to serve client requests"),
            signal = member.signals.next() => {
                member.pending = Some(End::Signal(signal));
                return Ok(member);
            }
            Some(failure) = member.failures.recv() => {
                member.pending = Some(End::Failure(failure));
                return Ok(member);
            }
            _ = removal.wait_for(|removed| *removed) => return Ok(member),
        }
        let routes = http::client_routes(
            &member.core,
            &watching,
            grpc::watched(&member.core, grpc::routes(&member.core, &watching)),
        );
        if http_listeners.is_empty() {
            member.listen(client_listeners, Traffic::All, &secured, &routes);
        } else {
            member.listen(http_listeners, Traffic::Http, &secured, &http::without_grpc(&routes));
            member.listen(client_listeners, Traffic::Grpc, &secured, &http::without_http(&routes));
        }
        systemd::ready();
        if let Some(interval) = systemd::watchdog_interval() {
            member.tasks.spawn(systemd::watch(Arc::clone(&member.core), interval));
        }
        Ok(member)
    }

    /// Serves these routes on these listeners until the member stops.
    fn listen(
        &mut self,
        listeners: Vec<Listener>,
        traffic: Traffic,
        secured: &Secured,
        routes: &Routes,
    ) {
        for listener in listeners {
            let options = listen::GrpcOptions::of(&self.core.config);
            let (routes, stopping) = (routes.clone(), self.stopping.subscribe());
            let tls = secured.clients.clone();
            self.listeners.spawn(async move {
                listen::serve(listener, traffic, tls.as_ref(), routes, options, stopping).await;
            });
        }
    }

    fn start_stages(
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
            failures.spawn("heart", move || heart.run()).map_err(stage_error)?,
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

    /// Runs until a signal asks for a stop, and stops cleanly; `None` when it stopped for another reason.
    ///
    /// # Errors
    /// A stage failed: the member can no longer be trusted, and nothing more is written.
    pub async fn run_until_stopped(mut self) -> Result<Option<Stop>, RunError> {
        match self.end().await {
            End::Signal(signal) => {
                tracing::info!(signal = signal.name(), "received signal; shutting down");
                self.stop().await;
                Ok(Some(signal))
            }
            End::Failure(failure) => Err(failure.into()),
            End::Removal => {
                // The others are to hear of it from this member too, if it leads.
                tokio::time::sleep(REMOVAL_GRACE).await;
                tracing::error!(
                    local_member_id = format!("{:x}", self.core.member_id),
                    "this member was removed from the cluster: it stops, and its data directory is of no more use"
                );
                self.stop().await;
                Ok(None)
            }
        }
    }

    /// Waits for whatever ends this member.
    async fn end(&mut self) -> End {
        if let Some(end) = self.pending.take() {
            return end;
        }
        let mut removal = self.core.peers.removal();
        tokio::select! {
            signal = self.signals.next() => End::Signal(signal),
            Some(failure) = self.failures.recv() => End::Failure(failure),
            _ = removal.wait_for(|removed| *removed) => End::Removal,
        }
    }

    /// Hands leadership over, so that the others need not wait until they miss this member.
    async fn yield_leadership(&self) {
        let known = self.core.facts.get();
        let voters = known.membership.members().filter(|member| !member.is_learner).count();
        if !self.core.board.is_leader() || voters < 2 {
            if voters == 1 {
                tracing::info!(
                    local_member_id = format!("{:x}", self.core.member_id),
                    "skipped leadership transfer for single voting member cluster"
                );
            }
            return;
        }
        let mut leadership = self.core.board.leadership();
        self.core.heart.send_all([Work::Replica(replica::Input::YieldLeadership)]);
        let handed_over =
            async { while self.core.board.is_leader() && leadership.changed().await.is_ok() {} };
        match tokio::time::timeout(self.core.config.election, handed_over).await {
            Ok(()) => tracing::info!("leadership transfer finished"),
            Err(_) => tracing::warn!("failed to transfer leadership in an election timeout"),
        }
    }

    /// Turns clients away, then lets the stages end in the order of the data.
    pub(crate) async fn stop(mut self) {
        let (name, data_dir) = (self.core.config.name.clone(), self.core.config.data_dir.clone());
        tracing::info!(
            name,
            data_dir = %data_dir.display(),
            advertise_peer_urls = ?told::urls(&self.core.config.initial_advertise_peer_urls),
            advertise_client_urls = ?told::urls(&self.core.config.advertise_client_urls),
            "closing etcd server"
        );
        self.yield_leadership().await;
        self.stopping.send_replace(true);
        self.tasks.abort_all();
        if let Some(transport) = self.core.peers.transport() {
            transport.stop().await;
        }
        self.core.heart.send_all([Work::Stop]);
        let stages = std::mem::take(&mut self.stages);
        // A stage that panicked has ended the process, or (in tests) has nothing left to join.
        let joined = tokio::task::spawn_blocking(move || {
            stages.into_iter().for_each(|stage| drop(stage.join()))
        });
        let _ = joined.await;
        self.core.waiters.clear();
        self.listeners.shutdown().await;
        if let Some(exporter) = self.exporter.take() {
            exporter.shutdown(traces::SHUTDOWN_LIMIT).await;
        }
        // They hold the database open.
        self.core.conversations.shutdown().await;
        self.tasks.shutdown().await;
        tracing::info!(name, data_dir = %data_dir.display(), "closed etcd server");
    }
}

/// Runs what reads and writes files off the executor's threads.
async fn off_executor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StartError::System {
        what: "open the data directory",
        source: error.into(),
    })?
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

#[cfg(test)]
pub(crate) mod unconnected;
#[cfg(test)]
mod versions;
