//! The leader's watch over the cluster's version: it is the lowest version of all members, and rises when the last of them
//! has risen.
//!
//! Upstream: `server/etcdserver/cluster_util.go`, `server.go` (`monitorVersions`, 3.5.30).

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use machine::{Member, Version};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::membershippb::ClusterVersionSetRequest;

use crate::request::Core;
use crate::version;

/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(4);
/// How long it waits for one member.
const LIMIT: Duration = Duration::from_secs(2);
/// What a cluster has whose members cannot all be asked at its beginning.
const LOWEST: Version = Version::v3(0, 0);

/// Watches, as long as the member runs; acts while it leads.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut leadership = core.board.leadership();
    loop {
        if core.board.is_leader() {
            look(&core).await;
        }
        // At once when the leader has changed: a new cluster has no version until its first leader looks.
        let _ = tokio::time::timeout(EVERY, leadership.changed()).await;
    }
}

/// Waits until the cluster has a version, if it is this member that decides on it: clients find a cluster that is complete.
pub(crate) async fn settled(core: &Core) {
    const LOOK_AGAIN: Duration = Duration::from_millis(5);
    while core.board.is_leader() && core.facts.get().membership.version().is_none() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn look(core: &Core) {
    let known = core.facts.get();
    let members: Vec<Member> = known.membership.members().cloned().collect();
    if members.is_empty() {
        // The founding entries are still to be applied.
        return;
    }
    let current = known.membership.version();
    let lowest = lowest_of(core, &members).await.map(Version::of_cluster);
    let next = match (current, lowest) {
        (None, lowest) => lowest.unwrap_or(LOWEST),
        (Some(current), Some(lowest))
            if lowest > current && !known.membership.downgrade().enabled =>
        {
            lowest
        }
        (Some(_), _) => return,
    };
    let ver = next.to_string();
    match current {
        None => {
            tracing::info!(cluster_version = ver, "setting up initial cluster version using v3 API")
        }
        Some(from) => tracing::info!(%from, to = ver, "updating cluster version using v3 API"),
    }
    if let Err(error) = core.propose(Op::ClusterVersionSet(ClusterVersionSetRequest { ver })).await
    {
        // The next look tries again.
        tracing::warn!(error = %error, "failed to update cluster version");
    }
}

/// The lowest version of the members; `None` unless all of them say theirs.
async fn lowest_of(core: &Core, members: &[Member]) -> Option<Version> {
    let mut lowest = version::EMULATED;
    for member in members.iter().filter(|member| member.id != core.member_id) {
        let version = version_of(core, member).await;
        if version.is_none() {
            tracing::warn!(remote_member_id = format!("{:x}", member.id), "failed to get version");
        }
        lowest = lowest.min(version?);
    }
    Some(lowest)
}

async fn version_of(core: &Core, member: &Member) -> Option<Version> {
    for url in &member.peer_urls {
        let answer = core.peers.client().get(url, "/version", LIMIT).await;
        let Ok(answer) = answer.inspect_err(|error| {
            tracing::debug!(url, error = %error, "a member does not tell its version");
        }) else {
            continue;
        };
        if answer.status != StatusCode::OK {
            continue;
        }
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        return Version::parse(answer.get("etcdserver")?.as_str()?);
    }
    None
}
