//! A running member: started in the order in which its parts need each other, stopped the other way round.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::access::Tokens;
use crate::bootstrap::{self, StartError};
use crate::config::Config;
use crate::driver::Failure;
use crate::driver::heart::Work;
use crate::entrance::Entrance;
use crate::listen::{Listener, Traffic};
use crate::request::Core;
use crate::secure::Secured;
use crate::signal::{Stop, Stops};
use crate::{
    cluster_version, corruption, grpc, http, joining, listen, peer, peer_port, publish, systemd,
    told, traces,
};

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
        config.tracing.as_ref().map_or(Ok(()), traces::check)?;
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
            let checked = corruption::check_at_start(&config, &parts, &secured.dialler).await;
            checked.inspect_err(|error| tracing::error!(%error, "checkInitialHashKV failed"))?;
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
            let address = listener.address();
            tracing::info!(address, "serving peer traffic");
            let (listener, tls) = listener.into_parts(secured.peers.as_ref());
            let (routes, mut stopping) = (peer_routes.clone(), member.stopping.subscribe());
            member.listeners.spawn(async move {
                let serving = peer::serve(listener, tls, routes, stopping.clone());
                let stopped = async {
                    // A member that is gone has stopped too.
                    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
                    tracing::info!(address, "stopping serving peer traffic");
                };
                tokio::join!(serving, stopped);
                tracing::info!(address, "stopped serving peer traffic");
            });
        }
        // Before there is a leader: whoever waits for one wants to know.
        let metrics = http::metrics_entrance(&member.core, &watching);
        member.listen(metrics_listeners, Traffic::Metrics, &secured, &metrics);
        let published = async {
            publish::publish(&member.core).await;
            cluster_version::settled(&member.core).await;
        };
        // Without a quorum this takes as long as it takes, and whatever ends a running member ends this too.
        let mut removal = member.core.peers.removal();
        tokio::select! {
            () = published => {
                tracing::info!("ready to serve client requests");
                grpc::tell_serving(true);
            }
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
        let routes = http::ClientRoutes::new(&member.core, &watching);
        if http_listeners.is_empty() {
            member.listen(client_listeners, Traffic::All, &secured, &routes.all());
        } else {
            member.listen(http_listeners, Traffic::Http, &secured, &routes.without_grpc());
            member.listen(client_listeners, Traffic::Grpc, &secured, &routes.without_http());
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
        entrance: &Entrance,
    ) {
        for listener in listeners {
            let options = listen::GrpcOptions::of(&self.core.config);
            let (entrance, stopping) = (entrance.clone(), self.stopping.subscribe());
            let tls = secured.clients.clone();
            self.listeners.spawn(async move {
                listen::serve(listener, traffic, tls.as_ref(), entrance, options, stopping).await;
            });
        }
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
                    current_leader_member_id = format!("{:x}", self.core.board.leader().0),
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
        let advertise_peer_urls = told::urls(&self.core.config.initial_advertise_peer_urls);
        let advertise_client_urls = told::urls(&self.core.config.advertise_client_urls);
        tracing::info!(
            name,
            data_dir = %data_dir.display(),
            ?advertise_peer_urls,
            ?advertise_client_urls,
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
        tracing::info!(
            name,
            data_dir = %data_dir.display(),
            ?advertise_peer_urls,
            ?advertise_client_urls,
            "closed etcd server"
        );
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

mod stages;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod unconnected;
#[cfg(test)]
mod versions;
