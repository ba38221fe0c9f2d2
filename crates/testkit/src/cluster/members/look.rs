//! What the members say, and waiting until they say what they should.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::{Cluster, HEALTHY_TIMEOUT, POLL, QUESTION_TIMEOUT};
use crate::api::Request;

/// How often a write is tried on a cluster that has lost its leader.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// A key that is never written. Deleting it needs the consent of a quorum, and changes nothing.
const NO_KEY: &[u8] = b"\0no such key";

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

impl Cluster {
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
        let log = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let line = format!("\"msg\":\"{message}\"");
        Ok(log.lines().filter(|found| found.contains(&line)).count())
    }
}

/// A write that needs a quorum and changes nothing.
fn nothing() -> Request {
    Request::DeleteRange(pb::DeleteRangeRequest {
        key: Bytes::from_static(NO_KEY),
        ..Default::default()
    })
}
