//! A cluster of server processes on loopback.
//!
//! A [`Node`] is a place in the cluster: a name, URLs and a data directory that stay, and a program and a process that
//! change. Nothing is retried behind the caller's back but the waiting for conditions, and that has a limit. A process that
//! ends without being asked to is an error of the next call that meets it.
//!
//! Here: processes and disks. [`change`]: who belongs to the cluster. [`look`]: what the members say, and waiting for it.

mod change;
mod look;
mod node;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

pub use self::look::{HashAt, Health};
pub use self::node::Node;
use super::address::Address;
use super::disk::Disk;
use super::kind::Kind;
use super::proxy::Proxy;
use super::trace::{self, Tracer};
use crate::api::Api;
use crate::process::{self, Process, bound_command};

/// How long one question to a member may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// How long a cluster may take to be whole again after everything that was broken is mended.
pub(crate) const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// Whether each member has a file system of its own, to be frozen and filled (needs root).
    pub has_disks: bool,
}

/// The members, and what stands between them.
#[derive(Debug)]
pub struct Cluster {
    config: Config,
    address: Address,
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
        let address = Address::new()?;
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
            let node = cluster.new_node(kind).await?;
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

    async fn new_node(&mut self, kind: Kind) -> Result<Node> {
        let index = self.nodes.len();
        let (client, peer, front) =
            (self.address.port()?, self.address.port()?, self.address.port()?);
        let ip = self.address.ip();
        let url = |port: u16| format!("http://{ip}:{port}");
        let peer_url = match &mut self.proxy {
            Some(proxy) => {
                proxy.listen(index, (ip, front).into(), (ip, peer).into())?;
                url(front)
            }
            None => url(peer),
        };
        let name = format!("m{index}");
        let place = self.config.folder.join(&name);
        let disk = match self.config.has_disks {
            true => Some(Disk::new(&place).await?),
            false => None,
        };
        Ok(Node {
            // A fresh file system is not empty.
            data_dir: if disk.is_some() { place.join("data") } else { place.clone() },
            log_path: process::log_path(&place),
            disk,
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
            .args(node.kind.emulation_flag())
            .args(self.config.flags.iter().map(|flag| node.kind.flag(flag)));
        let what = format!("{} ({})", node.name, node.kind.label);
        let process = Process::spawn(command, what, &node.log_path)?;
        if let Some(proxy) = &self.proxy {
            proxy.set_process(index, Some(process.pid()));
        }
        node.process = Some(process);
        node.is_paused = false;
        self.starts.push((index, Instant::now()));
        self.note("start", index);
        Ok(())
    }

    /// Other flags for all that are started from now on; those that run keep theirs.
    pub fn set_flags(&mut self, flags: Vec<String>) {
        self.config.flags = flags;
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

    /// The disk of a node.
    pub(crate) fn disk(&mut self, index: usize, what: &str) -> Result<&mut Disk> {
        self.note(what, index);
        self.nodes[index].disk.as_mut().context("the cluster was made without disks")
    }

    /// Lets the next sync of each thread of a node fail, while the tracer is held.
    pub(crate) fn fail_next_sync(&mut self, index: usize) -> Result<Tracer> {
        self.note("fail the next sync of", index);
        let node = &self.nodes[index];
        let pid = node.process.as_ref().context("nothing to trace")?.pid();
        trace::fail_next_sync(pid, &node.log_path.with_extension("strace"))
    }

    /// Waits for a node to end by itself; `None` when it still runs after that time.
    pub async fn wait_ended(
        &mut self,
        index: usize,
        timeout: Duration,
    ) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            let process = self.nodes[index].process.as_mut().context("nothing to wait for")?;
            if let Some(status) = process.try_wait()? {
                self.take_process(index)?;
                self.note("ended by itself:", index);
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Puts another program in place of a node's, on its data directory.
    pub async fn replace_program(&mut self, index: usize, kind: &Kind) -> Result<()> {
        if self.nodes[index].process.is_some() {
            self.stop_node(index).await?;
        }
        self.nodes[index].kind = kind.clone();
        self.start_node(index)
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
