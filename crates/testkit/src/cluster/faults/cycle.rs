//! One cycle of load, fault and repair.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Fault;
use crate::cluster::members::HEALTHY_TIMEOUT;
use crate::cluster::proxy::Link;
use crate::cluster::trial::Trial;

/// How long a majority may take to accept writes without the leader: far beyond what is hoped for, to have a figure.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a member on a full disk is watched: within that time its database grows.
const FULL_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a member may go on after its next sync was told to fail. The load makes it sync all the time.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// What one cycle showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// How long the others accepted no write, where the fault took the leader from them.
    pub(super) failover: Option<Duration>,
    /// How the member ended that could not write.
    pub(super) ended: Option<ExitStatus>,
}

/// Runs one cycle.
pub(super) async fn run(trial: &mut Trial, fault: Fault) -> Result<Seen> {
    let health = trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.begin();
    trial.wait_operations(200).await?;
    let leader = trial.cluster.leader().await.unwrap_or(health.leader);
    let others: Vec<usize> =
        trial.cluster.serving().into_iter().filter(|index| *index != leader).collect();
    let follower = trial.random.pick(&others);
    let victim = if trial.random.one_in(2) { leader } else { follower };
    let hold = Duration::from_millis(300 + trial.random.below(2_500));
    let mut seen = Seen::default();
    match fault {
        Fault::KillLeader => {
            trial.cluster.kill_node(leader)?;
            seen.failover =
                Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            tokio::time::sleep(hold).await;
            trial.cluster.start_node(leader)?;
        }
        Fault::KillFollower => {
            trial.cluster.kill_node(follower)?;
            tokio::time::sleep(hold).await;
            trial.cluster.start_node(follower)?;
        }
        Fault::KillAll => {
            let all = trial.cluster.running();
            for index in &all {
                trial.cluster.kill_node(*index)?;
            }
            for index in all {
                trial.cluster.start_node(index)?;
            }
        }
        Fault::PauseLeader | Fault::PauseFollower => {
            let index = if fault == Fault::PauseLeader { leader } else { follower };
            trial.cluster.pause_node(index)?;
            tokio::time::sleep(hold).await;
            trial.cluster.resume_node(index)?;
        }
        Fault::ReplaceMember => {
            let kind = trial.cluster.nodes()[victim].kind.clone();
            trial.cluster.kill_node(victim)?;
            trial.cluster.remove_member(victim).await?;
            trial.cluster.discard(victim)?;
            trial.follow_members();
            trial.cluster.add_member(&kind, false).await?;
            trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
            trial.follow_members();
        }
        Fault::CutLeader => {
            part(trial, leader, &others, Link::Cut, Link::Cut)?;
            seen.failover =
                Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            tokio::time::sleep(hold).await;
        }
        Fault::CutFollower => {
            let rest: Vec<usize> =
                trial.cluster.serving().into_iter().filter(|index| *index != follower).collect();
            part(trial, follower, &rest, Link::Cut, Link::Cut)?;
            tokio::time::sleep(hold).await;
        }
        Fault::DropFromLeader => {
            part(trial, leader, &others, Link::Drop, Link::Pass)?;
            tokio::time::sleep(hold).await;
        }
        Fault::DropToLeader => {
            part(trial, leader, &others, Link::Pass, Link::Drop)?;
            tokio::time::sleep(hold).await;
        }
        Fault::StallLeader => {
            part(trial, leader, &others, Link::Stall, Link::Stall)?;
            seen.failover =
                Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            tokio::time::sleep(hold).await;
        }
        Fault::HangDisk => {
            trial.cluster.disk(victim, "freeze the disk of")?.freeze().await?;
            if victim == leader {
                seen.failover =
                    Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            }
            tokio::time::sleep(hold).await;
            trial.cluster.disk(victim, "thaw the disk of")?.thaw().await?;
        }
        Fault::FillDisk => seen.ended = fill_disk(trial, victim, &others).await?,
        Fault::FailSync => seen.ended = Some(fail_sync(trial, victim, &others).await?),
        Fault::Delay => {
            let serving = trial.cluster.serving();
            for from in &serving {
                for to in serving.iter().filter(|to| *to != from) {
                    let delay = Duration::from_millis(50 + trial.random.below(51));
                    trial.cluster.proxy().context("no proxy")?.set(*from, *to, Link::Delay(delay));
                }
            }
            tokio::time::sleep(hold).await;
        }
    }
    if let Some(proxy) = trial.cluster.proxy() {
        proxy.heal();
    }
    trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.wait_operations(200).await?;
    trial.finish().await?;
    Ok(seen)
}

/// Leaves a member without room until it ends, or for a while; returns how it ended.
async fn fill_disk(
    trial: &mut Trial,
    victim: usize,
    others: &[usize],
) -> Result<Option<ExitStatus>> {
    let cluster = &mut trial.cluster;
    cluster.disk(victim, "fill the disk of")?.fill().await?;
    let ended = cluster.wait_ended(victim, FULL_TIMEOUT).await?;
    cluster.wait_writes_accepted(others, FAILOVER_TIMEOUT).await?;
    cluster.disk(victim, "free the disk of")?.free().await?;
    if let Some(status) = ended {
        ensure!(!status.success(), "on a full disk a member says that all is well ({status})");
        cluster.start_node(victim)?;
    }
    Ok(ended)
}

/// Lets a sync of a member fail, which must be its end; returns how it ended.
async fn fail_sync(trial: &mut Trial, victim: usize, others: &[usize]) -> Result<ExitStatus> {
    let cluster = &mut trial.cluster;
    let tracer = cluster.fail_next_sync(victim)?;
    let ended = cluster.wait_ended(victim, FAILED_TIMEOUT).await?;
    drop(tracer);
    let status = ended.context("a member goes on after a failed sync")?;
    ensure!(!status.success(), "after a failed sync a member says that all is well ({status})");
    cluster.wait_writes_accepted(others, FAILOVER_TIMEOUT).await?;
    cluster.start_node(victim)?;
    Ok(status)
}

/// Sets the links between one member and others, outwards and inwards.
fn part(trial: &Trial, one: usize, others: &[usize], outwards: Link, inwards: Link) -> Result<()> {
    let proxy = trial.cluster.proxy().context("no proxy")?;
    for other in others {
        proxy.set(one, *other, outwards);
        proxy.set(*other, one, inwards);
    }
    Ok(())
}
