//! A cluster of server processes on loopback.
//!
//! A [`Node`] is a place in the cluster: a name, URLs and a data directory that stay, and a program and a process that
//! change. Nothing is retried behind the caller's back but the waiting for conditions, and that has a limit. A process that
//! ends without being asked to is an error of the next call that meets it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use rustix::process::Signal;
use tokio::task::JoinSet;

use super::address;
use super::kind::Kind;
use super::proxy::Proxy;
use crate::api::{Api, Refusal, Request};
use crate::process::{self, Process, bound_command};

/// How long one question to a member may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a write is tried on a cluster that has lost its leader.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// How long a cluster may take to be whole again after everything that was broken is mended.
pub(crate) const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// A key that is never written. Deleting it needs the consent of a quorum, and changes nothing.
const NO_KEY: &[u8] = b"\0no such key";

/// How a cluster is to be made.
#[derive(Clone, Debug)]
pub struct Config {
    /// The program of each member.
    pub kinds: Vec<Kind>,
    /// Flags for all of them.
    pub flags: Vec<String>,
    /// Where data directories and logs go.
    pub folder: PathBuf,
    /// Whether the members speak to each other through a [`Proxy`].
    pub is_proxied: bool,
}

/// A place in the cluster.
#[derive(Debug)]
pub struct Node {
    /// `--name`.
    pub name: String,
    /// The program.
    pub kind: Kind,
    /// `http://host:port` for clients.
    pub client_url: String,
    /// The member's id, when it is known.
    pub id: u64,
    /// Whether it was added as a learner and not promoted.
    pub is_learner: bool,
    /// Whether it was removed from the cluster.
    pub is_removed: bool,
    data_dir: PathBuf,
    listen_peer_url: String,
    peer_url: String,
    /// `--initial-cluster`, and whether that cluster is new.
    initial_cluster: String,
    is_initial: bool,
    process: Option<Process>,
    is_paused: bool,
    api: Api,
}

impl Node {
    /// Whether its process is there and not paused.
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.is_paused
    }

    /// Clients for this member.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map_or_else(|| "(not running)".to_owned(), Process::log_tail)
    }

    /// The file that holds its log.
    pub fn log_path(&self) -> PathBuf {
        process::log_path(&self.data_dir)
    }
}

/// What a healthy cluster says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The node that leads.
    pub leader: usize,
    /// Its term.
    pub term: u64,
}

/// A hash that all members agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashAt {
    /// The revision.
    pub revision: i64,
    /// HashKV.
    pub hash: u32,
}

/// The members, and what stands between them.
#[derive(Debug)]
pub struct Cluster {
    config: Config,
    address: Ipv4Addr,
    nodes: Vec<Node>,
    proxy: Option<Proxy>,
    /// When which node was started, since somebody asked.
    starts: Vec<(usize, Instant)>,
    /// What was done to whom, for reports.
    notes: Vec<(Instant, String)>,
}

impl Cluster {
    /// Makes a new cluster, and waits until it is healthy.
    pub async fn start(config: Config) -> Result<Self> {
        std::fs::create_dir_all(&config.folder).context("make the folder of the cluster")?;
        let address = address::own_address()?;
        let proxy = config.is_proxied.then(Proxy::default);
        let kinds = config.kinds.clone();
        let mut cluster = Self {
            config,
            address,
            nodes: Vec::new(),
            proxy,
            starts: Vec::new(),
            notes: Vec::new(),
        };
        for kind in kinds {
            let node = cluster.new_node(kind)?;
            cluster.nodes.push(node);
        }
        let initial: Vec<String> =
            cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.peer_url)).collect();
        for index in 0..cluster.nodes.len() {
            cluster.nodes[index].initial_cluster = initial.join(",");
            cluster.nodes[index].is_initial = true;
            cluster.start_node(index)?;
        }
        cluster.wait_healthy(HEALTHY_TIMEOUT).await.context("start the cluster")?;
        Ok(cluster)
    }

    /// All places, the removed ones too: an index is never given out again.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes that belong to the cluster.
    pub fn members(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| !self.nodes[*index].is_removed).collect()
    }

    /// The nodes whose processes run.
    pub fn running(&self) -> Vec<usize> {
        self.members().into_iter().filter(|index| self.nodes[*index].is_running()).collect()
    }

    /// The nodes that serve clients: running voters.
    pub fn serving(&self) -> Vec<usize> {
        self.running().into_iter().filter(|index| !self.nodes[*index].is_learner).collect()
    }

    /// What stands between the members, if the cluster was made with it.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    fn new_node(&mut self, kind: Kind) -> Result<Node> {
        let index = self.nodes.len();
        let ports = address::ports(self.address, 3)?;
        let url = |port: u16| format!("http://{}:{port}", self.address);
        let (client, peer, front) = (ports[0], ports[1], ports[2]);
        let peer_url = match &mut self.proxy {
            Some(proxy) => {
                proxy.listen(index, (self.address, front).into(), (self.address, peer).into())?;
                url(front)
            }
            None => url(peer),
        };
        let name = format!("m{index}");
        Ok(Node {
            data_dir: self.config.folder.join(&name),
            kind,
            client_url: url(client),
            id: 0,
            is_learner: false,
            is_removed: false,
            listen_peer_url: url(peer),
            peer_url,
            initial_cluster: String::new(),
            is_initial: false,
            process: None,
            is_paused: false,
            api: Api::connect_lazily(&url(client))?,
            name,
        })
    }

    /// Starts a node that does not run, without waiting for it.
    pub fn start_node(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        ensure!(node.process.is_none(), "{} runs already", node.name);
        let mut command = bound_command(&node.kind.etcd);
        command
            .arg(format!("--name={}", node.name))
            .arg(format!("--data-dir={}", node.data_dir.display()))
            .arg(format!("--listen-client-urls={}", node.client_url))
            .arg(format!("--advertise-client-urls={}", node.client_url))
            .arg(format!("--listen-peer-urls={}", node.listen_peer_url))
            .arg(format!("--initial-advertise-peer-urls={}", node.peer_url))
            .arg(format!("--initial-cluster={}", node.initial_cluster))
            .arg(format!(
                "--initial-cluster-state={}",
                if node.is_initial { "new" } else { "existing" }
            ))
            .args(&self.config.flags);
        let what = format!("{} ({})", node.name, node.kind.label);
        let process = Process::spawn(command, what, &process::log_path(&node.data_dir))?;
        if let Some(proxy) = &self.proxy {
            proxy.set_process(index, Some(process.pid()));
        }
        node.process = Some(process);
        node.is_paused = false;
        self.starts.push((index, Instant::now()));
        self.note("start", index);
        Ok(())
    }

    /// Returns when which node was started, since the last call.
    pub(crate) fn take_starts(&mut self) -> Vec<(usize, Instant)> {
        std::mem::take(&mut self.starts)
    }

    fn note(&mut self, what: &str, index: usize) {
        let node = &self.nodes[index];
        self.notes.push((Instant::now(), format!("{what} {} ({})", node.name, node.kind.label)));
    }

    /// Returns what was done to whom, since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<(Instant, String)> {
        std::mem::take(&mut self.notes)
    }

    fn take_process(&mut self, index: usize) -> Result<Process> {
        if let Some(proxy) = &self.proxy {
            proxy.set_process(index, None);
        }
        let node = &mut self.nodes[index];
        node.is_paused = false;
        node.process.take().with_context(|| format!("{} does not run", node.name))
    }

    /// Asks a node to stop and waits for a clean end.
    pub async fn stop_node(&mut self, index: usize) -> Result<()> {
        self.note("stop", index);
        let process = self.take_process(index)?;
        let status = process.stop_async().await?;
        // Go programs end by the signal itself, after an orderly shutdown.
        let is_clean =
            status.success() || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        ensure!(is_clean, "unclean end of {}: {status}", self.nodes[index].name);
        Ok(())
    }

    /// Kills a node (SIGKILL).
    pub fn kill_node(&mut self, index: usize) -> Result<()> {
        self.note("kill", index);
        self.take_process(index)?.kill()?;
        Ok(())
    }

    /// Stops the clock of a node (SIGSTOP).
    pub fn pause_node(&mut self, index: usize) -> Result<()> {
        self.note("pause", index);
        let node = &mut self.nodes[index];
        node.process.as_ref().context("nothing to pause")?.signal(Signal::STOP)?;
        node.is_paused = true;
        Ok(())
    }

    /// Lets a paused node go on (SIGCONT).
    pub fn resume_node(&mut self, index: usize) -> Result<()> {
        self.note("resume", index);
        let node = &mut self.nodes[index];
        node.process.as_ref().context("nothing to resume")?.signal(Signal::CONT)?;
        node.is_paused = false;
        Ok(())
    }

    /// Puts another program in place of a node's, on its data directory.
    pub async fn replace_program(&mut self, index: usize, kind: &Kind) -> Result<()> {
        if self.nodes[index].process.is_some() {
            self.stop_node(index).await?;
        }
        self.nodes[index].kind = kind.clone();
        self.start_node(index)
    }

    /// Adds a member and starts it, without waiting for it; returns its index.
    pub async fn add_member(&mut self, kind: &Kind, is_learner: bool) -> Result<usize> {
        let mut node = self.new_node(kind.clone())?;
        let peer_url = node.peer_url.clone();
        // Right after a change the leader refuses the next one ("unhealthy cluster") until the new peer was connected for
        // five seconds.
        node.id = self
            .ask_until("add a member", |api| {
                let peer_url = peer_url.clone();
                async move { api.member_add(&peer_url, is_learner).await }
            })
            .await?;
        node.is_learner = is_learner;
        let members = self.members();
        let mut initial: Vec<String> = members
            .iter()
            .map(|index| format!("{}={}", self.nodes[*index].name, self.nodes[*index].peer_url))
            .collect();
        initial.push(format!("{}={}", node.name, node.peer_url));
        node.initial_cluster = initial.join(",");
        let index = self.nodes.len();
        self.nodes.push(node);
        self.start_node(index)?;
        Ok(index)
    }

    /// Makes a learner a voter, as soon as the leader finds it ready.
    pub async fn promote(&mut self, index: usize) -> Result<()> {
        let id = self.nodes[index].id;
        self.ask_until("promote a learner", |api| async move { api.member_promote(id).await })
            .await?;
        self.nodes[index].is_learner = false;
        Ok(())
    }

    /// Removes a member. Its process, if it runs, is left to find out ([`Cluster::wait_gone`]).
    pub async fn remove_member(&mut self, index: usize) -> Result<()> {
        let id = self.nodes[index].id;
        self.nodes[index].is_removed = true;
        let removed =
            self.ask_until("remove a member", |api| async move { api.member_remove(id).await });
        match removed.await {
            // A request whose answer was lost, made again.
            Err(error) if format!("{error:#}").contains("member not found") => Ok(()),
            other => other,
        }
    }

    /// Waits until a removed member's process has ended by itself.
    pub async fn wait_gone(&mut self, index: usize, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let node = &mut self.nodes[index];
            let Some(process) = &mut node.process else { return Ok(()) };
            if process.try_wait()?.is_some() {
                self.take_process(index)?;
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} was removed and still runs after {timeout:?}:\n{}",
                node.name,
                node.log_tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills what is left of a removed member and deletes its directory.
    pub fn discard(&mut self, index: usize) -> Result<()> {
        if self.nodes[index].process.is_some() {
            self.kill_node(index)?;
        }
        let data_dir = &self.nodes[index].data_dir;
        if data_dir.exists() {
            std::fs::remove_dir_all(data_dir).context("delete a member's directory")?;
        }
        Ok(())
    }

    /// Asks one running member after the other until one agrees; what the cluster says for good is the error.
    async fn ask_until<T, F>(&self, what: &str, ask: impl Fn(Api) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        let mut last = String::new();
        while Instant::now() < deadline {
            for index in self.running() {
                let node = &self.nodes[index];
                if node.is_learner {
                    continue;
                }
                match tokio::time::timeout(QUESTION_TIMEOUT * 4, ask(node.api.clone())).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(refusal)) if refusal.message.contains("member not found") => {
                        bail!("{what}: {refusal:?}")
                    }
                    Ok(Err(refusal)) => last = format!("{}: {refusal:?}", node.name),
                    Err(_) => last = format!("{}: no answer", node.name),
                }
            }
            tokio::time::sleep(POLL * 4).await;
        }
        bail!("{what}: not done in {HEALTHY_TIMEOUT:?}, last: {last}")
    }

    /// Hands leadership to a node, and waits until all say so.
    pub async fn move_leader(&mut self, target: usize) -> Result<()> {
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        loop {
            let health = self.wait_healthy(HEALTHY_TIMEOUT).await?;
            if health.leader == target {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not become leader",
                self.nodes[target].name
            );
            let id = self.nodes[target].id;
            // Refused when the leader changes meanwhile; then the loop asks the next one.
            let _ = tokio::time::timeout(
                QUESTION_TIMEOUT * 4,
                self.nodes[health.leader].api.move_leader(id),
            )
            .await;
        }
    }

    /// Asks several nodes for their status at once; `None` for one that does not answer in time.
    async fn statuses(&self, nodes: &[usize]) -> Vec<(usize, Option<pb::StatusResponse>)> {
        let mut set = JoinSet::new();
        for &index in nodes {
            let api = self.nodes[index].api.clone();
            set.spawn(async move {
                let answer = tokio::time::timeout(QUESTION_TIMEOUT, api.status()).await;
                (index, answer.ok().and_then(Result::ok))
            });
        }
        let mut all = set.join_all().await;
        all.sort_by_key(|(index, _)| *index);
        all
    }

    /// The node that leads, as the running members say now: the one that says so of itself, in the highest term.
    pub async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses(&self.running()).await;
        statuses
            .into_iter()
            .filter_map(|(index, status)| {
                let status = status?;
                (status.leader != 0 && status.leader == self.nodes[index].id)
                    .then_some((status.raft_term, index))
            })
            .max()
            .map(|(_, index)| index)
    }

    /// Fails if a process has ended that nobody has ended.
    fn check_alive(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| !node.is_removed) {
            if let Some(process) = &mut node.process
                && let Some(status) = process.try_wait()?
            {
                bail!("{} ended by itself ({status}):\n{}", node.name, process.log_tail());
            }
        }
        Ok(())
    }

    /// Waits until all running members know one leader in one term, and each voter gets a write accepted.
    pub async fn wait_healthy(&mut self, timeout: Duration) -> Result<Health> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check_alive()?;
            let error = match self.health().await {
                Ok(health) => return Ok(health),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                let logs: Vec<String> = self
                    .nodes
                    .iter()
                    .map(|node| {
                        format!("{} ({}):\n{}", node.name, node.kind.label, node.log_tail())
                    })
                    .collect();
                bail!("not healthy after {timeout:?}: {error:#}\n{}", logs.join("\n"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn health(&mut self) -> Result<Health> {
        let running = self.running();
        let mut agreed = None;
        for (index, status) in self.statuses(&running).await {
            let status =
                status.with_context(|| format!("{} does not answer", self.nodes[index].name))?;
            self.nodes[index].id = status.header.map_or(0, |header| header.member_id);
            let view = (status.leader, status.raft_term);
            ensure!(view.0 != 0, "{} knows no leader", self.nodes[index].name);
            let other = *agreed.get_or_insert(view);
            ensure!(other == view, "views (leader, term) differ: {other:x?} and {view:x?}");
        }
        let (id, term) = agreed.context("nothing runs")?;
        let leader = running.iter().copied().find(|index| self.nodes[*index].id == id);
        let leader = leader.with_context(|| format!("the leader {id:x} does not run"))?;
        for index in running {
            if !self.nodes[index].is_learner {
                self.accept_write(index).await?;
            }
        }
        Ok(Health { leader, term })
    }

    async fn accept_write(&self, index: usize) -> Result<()> {
        let name = &self.nodes[index].name;
        tokio::time::timeout(QUESTION_TIMEOUT, self.nodes[index].api.call(nothing()))
            .await
            .map_err(|_| anyhow!("{name} accepts no write in {QUESTION_TIMEOUT:?}"))?
            .map_err(|refusal| anyhow!("{name} accepts no write: {refusal:?}"))?;
        Ok(())
    }

    /// Waits until one of the given nodes accepts a write; returns how long that took.
    ///
    /// A write that meets no leader can wait for its time-out after there is one, so new ones are sent all the time.
    pub async fn wait_writes_accepted(
        &self,
        nodes: &[usize],
        timeout: Duration,
    ) -> Result<Duration> {
        let started = Instant::now();
        let mut attempts = JoinSet::new();
        let mut every = tokio::time::interval(PROBE_EVERY);
        while started.elapsed() < timeout {
            tokio::select! {
                _ = every.tick() => for &index in nodes {
                    let api = self.nodes[index].api.clone();
                    attempts.spawn(async move {
                        let attempt = tokio::time::timeout(QUESTION_TIMEOUT, api.call(nothing())).await;
                        attempt.is_ok_and(|answer| answer.is_ok())
                    });
                },
                Some(accepted) = attempts.join_next() => {
                    if accepted.unwrap_or(false) {
                        return Ok(started.elapsed());
                    }
                }
            }
        }
        bail!("no write accepted in {timeout:?}")
    }

    /// The newest revision, by a linearizable read.
    pub async fn revision(&self) -> Result<i64> {
        let read = || pb::RangeRequest {
            key: Bytes::from_static(NO_KEY),
            count_only: true,
            ..Default::default()
        };
        let answer = self.ask_until("read", |api| async move { api.range(read()).await }).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Waits until every running voter has come to the newest revision, and compares their hashes at it (learners give none).
    pub async fn equal_hashes(&self) -> Result<HashAt> {
        let revision = self.revision().await?;
        let mut agreed: Option<(usize, u32, i64)> = None;
        for index in self.serving() {
            self.wait_revision(index, revision).await?;
            let node = &self.nodes[index];
            let answer = tokio::time::timeout(HEALTHY_TIMEOUT, node.api.hash_kv(revision))
                .await
                .with_context(|| format!("{} gives no hash", node.name))?
                .map_err(|refusal| anyhow!("{} gives no hash: {refusal:?}", node.name))?;
            let (first, hash, compacted) =
                *agreed.get_or_insert((index, answer.hash, answer.compact_revision));
            ensure!(
                (hash, compacted) == (answer.hash, answer.compact_revision),
                "HashKV at revision {revision}: {} ({}) has {hash} (compacted {compacted}), {} ({}) has {} (compacted {})",
                self.nodes[first].name,
                self.nodes[first].kind.label,
                node.name,
                node.kind.label,
                answer.hash,
                answer.compact_revision
            );
        }
        let (_, hash, _) = agreed.context("nothing runs")?;
        Ok(HashAt { revision, hash })
    }

    /// Waits until a node has applied a revision.
    pub async fn wait_revision(&self, index: usize, revision: i64) -> Result<()> {
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        let node = &self.nodes[index];
        loop {
            let status = tokio::time::timeout(QUESTION_TIMEOUT, node.api.status()).await;
            let at = status.ok().and_then(Result::ok).and_then(|status| status.header);
            let at = at.map_or(0, |header| header.revision);
            if at >= revision {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} is at revision {at} and does not come to {revision}:\n{}",
                node.name,
                node.log_tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// How often a node has logged a message, in all its runs.
    pub fn logged(&self, index: usize, message: &str) -> Result<usize> {
        let path = self.nodes[index].log_path();
        let log = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let line = format!("\"msg\":\"{message}\"");
        Ok(log.lines().filter(|found| found.contains(&line)).count())
    }

    /// The folder with the data directories and logs.
    pub fn folder(&self) -> &Path {
        &self.config.folder
    }

    /// Stops all that runs, and asks for a clean end.
    pub async fn stop(mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_paused {
                self.resume_node(index)?;
            }
            if self.nodes[index].process.is_some() {
                self.stop_node(index).await?;
            }
        }
        Ok(())
    }
}

/// A write that needs a quorum and changes nothing.
fn nothing() -> Request {
    Request::DeleteRange(pb::DeleteRangeRequest {
        key: Bytes::from_static(NO_KEY),
        ..Default::default()
    })
}
