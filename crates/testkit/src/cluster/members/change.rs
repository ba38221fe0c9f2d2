//! Who belongs to the cluster: members added, promoted, removed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, HEALTHY_TIMEOUT, POLL, QUESTION_TIMEOUT};
use crate::api::{Api, Refusal};
use crate::cluster::kind::Kind;

impl Cluster {
    /// Adds a member and starts it, without waiting for it; returns its index.
    pub async fn add_member(&mut self, kind: &Kind, is_learner: bool) -> Result<usize> {
        let mut node = self.new_node(kind.clone()).await?;
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
        if self.nodes[index].process.is_none() {
            return Ok(());
        }
        let ended = self.wait_ended(index, timeout).await?;
        let node = &self.nodes[index];
        ensure!(
            ended.is_some(),
            "{} was removed and still runs after {timeout:?}:\n{}",
            node.name,
            node.log_tail()
        );
        Ok(())
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
    pub(super) async fn ask_until<T, F>(&self, what: &str, ask: impl Fn(Api) -> F) -> Result<T>
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
}
