//! A cluster under a checked workload.
//!
//! ```text
//! begin ── load, faults ── finish: heal what is broken, quiet, healthy, leases gone, watches caught up, history read, checked, hashes equal
//! ```

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::Event;

use super::check::{Checker, Summary};
use super::history::{Clock, History, Watch};
use super::members::{Cluster, HEALTHY_TIMEOUT, HashAt};
use super::workload::{self, Workload};
use crate::api::{Api, Request};
use crate::random::Random;

/// How long leases may outlive the last sign of life, once the cluster is healthy: the time to live, two election timeouts
/// (a new leader starts all leases anew, one election timeout later), and room for a busy machine.
const LEASES_GONE_TIMEOUT: Duration = Duration::from_secs(12);

/// A cluster, its clients, and what is known of its history.
#[derive(Debug)]
pub struct Trial {
    /// The members.
    pub cluster: Cluster,
    /// Chooses what the run chooses.
    pub random: Random,
    config: workload::Config,
    checker: Checker,
    clock: Clock,
    round: u64,
    load: Option<Workload>,
}

impl Trial {
    /// Takes a fresh cluster.
    pub fn new(cluster: Cluster, config: workload::Config) -> Self {
        let random = Random::new(config.seed);
        Self {
            cluster,
            random,
            config,
            checker: Checker::new(),
            clock: Clock::start(),
            round: 0,
            load: None,
        }
    }

    /// What was checked so far.
    pub fn summary(&self) -> Summary {
        self.checker.summary()
    }

    /// Starts the clients.
    pub fn begin(&mut self) {
        self.round += 1;
        self.look_at_kinds();
        self.cluster.take_starts();
        self.cluster.take_notes();
        let endpoints = self.endpoints();
        let revision = self.checker.revision();
        self.load =
            Some(Workload::start(self.config.clone(), self.round, self.clock, revision, endpoints));
    }

    fn look_at_kinds(&mut self) {
        let nodes = self.cluster.nodes();
        if nodes.iter().any(|node| node.kind.is_careless_with_leases()) {
            self.checker.tolerate_deposed_leaders();
        }
    }

    /// Tells the clients which members there are.
    pub fn follow_members(&self) {
        if let Some(load) = &self.load {
            load.set_endpoints(self.endpoints());
        }
    }

    fn endpoints(&self) -> Vec<Option<Api>> {
        let is_served = |index: usize| {
            let node = &self.cluster.nodes()[index];
            !node.is_removed && !node.is_learner
        };
        (0..self.cluster.nodes().len())
            .map(|index| is_served(index).then(|| self.cluster.nodes()[index].api().clone()))
            .collect()
    }

    /// Waits until the clients have ended so many more operations.
    pub async fn wait_operations(&self, count: usize) -> Result<()> {
        let load = self.load.as_ref().context("no clients")?;
        let target = load.operations() + count;
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        while load.operations() < target {
            ensure!(Instant::now() < deadline, "the clients do not get on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Mends links and pauses, ends the load, checks everything, and returns the hash that all members agree on.
    pub async fn finish(&mut self) -> Result<HashAt> {
        let mut load = self.load.take().context("no clients")?;
        // Programs may have been replaced since the beginning.
        self.look_at_kinds();
        if let Some(proxy) = self.cluster.proxy() {
            proxy.heal();
        }
        load.quiet().await?;
        self.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
        self.wait_leases_gone().await?;
        let drained = self.cluster.revision().await?;
        let mut history = load.finish(drained, HEALTHY_TIMEOUT).await?;
        history.starts = self
            .cluster
            .take_starts()
            .into_iter()
            .map(|(node, at)| (node, self.clock.at(at)))
            .collect();
        // Read last: everything that anybody was shown is in it.
        let revision = self.cluster.revision().await?;
        let serving = self.cluster.serving();
        let witness = self.random.pick(&serving);
        self.cluster.wait_revision(witness, revision).await?;
        let node = &self.cluster.nodes()[witness];
        let events = read_events(node.api(), self.checker.revision() + 1, revision)
            .await
            .with_context(|| format!("read the history from {}", node.name))?;
        let recorded = history.clone();
        let checked = self.checker.check(history, &events);
        if checked.is_err() {
            self.write_history(&recorded).context("write the history")?;
        }
        let (name, label) = {
            let node = &self.cluster.nodes()[witness];
            (node.name.clone(), node.kind.label.clone())
        };
        checked.with_context(|| format!("history (history.txt), as read from {name} ({label})"))?;
        ensure!(self.checker.leased_keys() == 0, "keys are left on leases that are gone");
        self.cluster.equal_hashes().await
    }

    /// Writes all that happened into `history.txt`, beside the logs, a line each, in the order of time.
    fn write_history(&mut self, history: &History) -> Result<()> {
        let mut lines: Vec<(Duration, String)> = Vec::new();
        for (at, note) in self.cluster.take_notes() {
            lines.push((self.clock.at(at), note));
        }
        for operation in &history.operations {
            lines.push((operation.invoked, format!("{operation:?}")));
        }
        for watch in &history.watches {
            let Watch { member, start, .. } = watch;
            for batch in &watch.batches {
                let what = format!("watch on {member} from revision {start}: {batch:?}");
                lines.push((batch.received, what));
            }
        }
        for (id, lease) in &history.leases {
            for renewal in &lease.renewals {
                lines.push((renewal.invoked, format!("lease {id:x}: {renewal:?}")));
            }
            if let Some(at) = lease.revoked {
                lines.push((at, format!("lease {id:x}: revoked by its client")));
            }
        }
        lines.sort();
        // Logs have the time of day.
        let mut text = format!("written at {:?} = {:?}\n", self.clock.now(), SystemTime::now());
        for (at, line) in lines {
            let _ = writeln!(text, "{:>12.6} {line}", at.as_secs_f64());
        }
        std::fs::write(self.cluster.folder().join("history.txt"), text)?;
        Ok(())
    }

    /// Compacts all but the newest `keep` revisions of what was checked.
    pub async fn compact(&mut self, keep: i64) -> Result<()> {
        let revision = self.checker.revision() - keep;
        let node = self.cluster.serving().first().copied().context("nothing runs")?;
        let request = pb::CompactionRequest { revision, physical: true };
        let api = self.cluster.nodes()[node].api();
        api.call(Request::Compact(request))
            .await
            .map_err(|refusal| anyhow!("compact: {refusal:?}"))?;
        self.checker.compact(revision);
        Ok(())
    }

    /// Waits until every key on a lease has gone: all leases are left alone by now.
    async fn wait_leases_gone(&self) -> Result<()> {
        let started = Instant::now();
        let leased = pb::RangeRequest {
            key: Bytes::from_static(b"l/"),
            range_end: Bytes::from_static(b"l0"),
            ..Default::default()
        };
        loop {
            let node = self.cluster.serving().first().copied().context("nothing runs")?;
            let api = self.cluster.nodes()[node].api();
            let answer = tokio::time::timeout(HEALTHY_TIMEOUT, api.range(leased.clone())).await;
            if let Ok(Ok(answer)) = &answer
                && answer.kvs.is_empty()
            {
                return Ok(());
            }
            ensure!(
                started.elapsed() < LEASES_GONE_TIMEOUT,
                "leases that nobody keeps alive still hold keys after {LEASES_GONE_TIMEOUT:?}: {answer:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Reads all events from one revision to another, by a watch.
async fn read_events(api: &Api, first: i64, last: i64) -> Result<Vec<(i64, Vec<Event>)>> {
    let mut revisions: Vec<(i64, Vec<Event>)> = Vec::new();
    if first > last {
        return Ok(revisions);
    }
    let refused = |refusal| anyhow!("watch from revision {first}: {refusal:?}");
    let mut stream = api.watch_all(first).await.map_err(refused)?;
    while revisions.last().is_none_or(|(revision, _)| *revision < last) {
        let message = tokio::time::timeout(HEALTHY_TIMEOUT, stream.next())
            .await
            .with_context(|| format!("the watch stops before revision {last}"))?
            .map_err(refused)?
            .context("the watch ends")?;
        ensure!(!message.canceled, "the watch is canceled: {}", message.cancel_reason);
        for event in message.events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            match revisions.last_mut() {
                Some((newest, events)) if *newest == revision => events.push(event),
                Some(_) | None => revisions.push((revision, vec![event])),
            }
        }
    }
    // What was written meanwhile is for the next time.
    revisions.retain(|(revision, _)| *revision <= last);
    Ok(revisions)
}
