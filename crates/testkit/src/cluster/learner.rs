//! A member of one program joins a cluster of another as a learner, is promoted, and takes the place of one that is removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::etcdserverpb::RangeRequest;

use super::check::Summary;
use super::kind::Kind;
use super::members::HEALTHY_TIMEOUT;
use super::setup::Setup;
use super::trial::Trial;

/// How long a removed member may go on before it has learned of it.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Members that were replaced.
    pub replaced: usize,
    /// What was checked.
    pub checked: Summary,
}

/// In a cluster of three `members`, replaces a follower, then the leader, each by a `learner`.
pub async fn run(setup: &Setup, members: &Kind, learner: &Kind) -> Result<Report> {
    let mut trial = setup.trial(vec![members.clone(); 3]).await?;
    let mut replaced = 0;
    for is_leader_removed in [false, true] {
        let step =
            if is_leader_removed { "in place of the leader" } else { "in place of a follower" };
        replace(&mut trial, learner, is_leader_removed).await.context(step)?;
        replaced += 1;
    }
    let checked = trial.summary();
    trial.cluster.stop().await?;
    Ok(Report { replaced, checked })
}

async fn replace(trial: &mut Trial, kind: &Kind, is_leader_removed: bool) -> Result<()> {
    trial.begin();
    trial.wait_operations(300).await?;
    let learner = trial.cluster.add_member(kind, true).await?;
    let revision = trial.cluster.revision().await?;
    trial.cluster.wait_revision(learner, revision).await.context("the learner catches up")?;
    check_list(trial, learner, true).await?;
    check_reads(trial, learner).await?;
    trial.cluster.promote(learner).await?;
    let health = trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    check_list(trial, learner, false).await?;
    trial.cluster.equal_hashes().await.context("with the new voter")?;
    trial.follow_members();
    trial.wait_operations(200).await?;
    let removed = if is_leader_removed {
        health.leader
    } else {
        let mut others = trial.cluster.serving().into_iter();
        others.find(|index| *index != health.leader && *index != learner).context("no follower")?
    };
    trial.cluster.remove_member(removed).await?;
    trial.follow_members();
    trial.cluster.wait_gone(removed, GONE_TIMEOUT).await?;
    trial.cluster.discard(removed)?;
    trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.wait_operations(200).await?;
    trial.finish().await?;
    Ok(())
}

/// A learner gives what it has, and nothing that it would have to ask the others for.
async fn check_reads(trial: &Trial, learner: usize) -> Result<()> {
    let node = &trial.cluster.nodes()[learner];
    for serializable in [true, false] {
        let range =
            RangeRequest { key: Bytes::from_static(b"k"), serializable, ..RangeRequest::default() };
        let answer = node.api().range(range).await;
        ensure!(
            answer.is_ok() == serializable,
            "{} answers a range with serializable={serializable}: {answer:?}",
            node.name
        );
    }
    Ok(())
}

/// Every serving member's own list says of the new member what it is.
async fn check_list(trial: &Trial, new: usize, is_learner: bool) -> Result<()> {
    let id = trial.cluster.nodes()[new].id;
    for index in trial.cluster.serving() {
        let node = &trial.cluster.nodes()[index];
        let list = node.api().member_list(true).await;
        let list = list.map_err(|refusal| anyhow::anyhow!("member list: {refusal:?}"))?;
        let found = list.iter().find(|member| member.id == id);
        ensure!(
            found.is_some_and(|member| member.is_learner == is_learner),
            "{} lists the new member as {found:?}",
            node.name
        );
    }
    Ok(())
}
