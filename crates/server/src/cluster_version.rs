//! The leader's watch over the cluster's version: it is the lowest version of all members, and rises when the last of them
//! has risen. It goes down by one when a downgrade was enabled, and before any member does: then what the newer version alone
//! knows is out of use and out of the log, and members may be restarted as the older one. When all are, the downgrade is over.
//!
//! Upstream: `server/etcdserver/cluster_util.go`, `server.go` (`monitorVersions`, 3.5.30), `version/monitor.go`
//! (3.6.14).

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use machine::{Downgrade, Member, Version};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::membershippb::ClusterVersionSetRequest;

use crate::grpc;
use crate::older;
use crate::peer::{Question, answers};
use crate::request::Core;

/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(4);
/// How long it waits for one member.
const LIMIT: Duration = Duration::from_secs(2);
/// What a cluster has whose members cannot all be asked at its beginning.
pub(crate) const UNDECIDED: Version = Version::v3(0, 0);

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
    let (mut changes, mut leadership) = (core.facts.changes(), core.board.leadership());
    while core.board.is_leader() && core.facts.get().membership.version().is_none() {
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            changed = leadership.changed() => changed,
        };
        if changed.is_err() {
            // The member stops.
            return;
        }
    }
}

/// Looks once, and decides.
pub(crate) async fn look(core: &Core) {
    let known = core.facts.get();
    if known.membership.members().len() == 0 {
        // The founding entries are still to be applied.
        return;
    }
    let current = known.membership.version();
    // Of a new cluster this waits until its members can be asked.
    let has_older = older::are_there(core).await;
    let lowest = versions(core).await.and_then(|versions| versions.into_iter().min());
    let Some(next) = decide(core.version, current, lowest, known.membership.downgrade()) else {
        return;
    };
    let (op, api) = if has_older {
        (machine::v2::cluster_version(next), "v2")
    } else {
        let request = ClusterVersionSetRequest { ver: next.to_string() };
        (Op::ClusterVersionSet(request), "v3")
    };
    match current {
        None => {
            tracing::info!(cluster_version = %next, "setting up initial cluster version using {api} API");
        }
        Some(from) => tracing::info!(%from, to = %next, "updating cluster version using {api} API"),
    }
    if let Err(error) = core.propose(op).await {
        // The next look tries again.
        tracing::warn!(error = %error, "failed to update cluster version");
    }
}

/// The cluster's next version, if it is to change: what all members are, or what a downgrade leads to. `lowest` is the lowest
/// version of the members, if all of them say theirs.
fn decide(
    own: Version,
    current: Option<Version>,
    lowest: Option<Version>,
    downgrade: &Downgrade,
) -> Option<Version> {
    let lowest = lowest.map(Version::of_cluster);
    let Some(current) = current else { return Some(lowest.unwrap_or(UNDECIDED)) };
    let lowest = lowest?;
    if own.minor >= 6 && downgrade.enabled {
        let target = Version::parse(&downgrade.target_version)?;
        // A member that is restarted as the older one already is no obstacle.
        let may_follow = lowest == target || lowest.one_below() == target;
        return (target == current.one_below() && may_follow).then_some(target);
    }
    // 3.5 goes down when a member has, whatever was said; a leader of 3.6 does it before.
    let is_lowered = own.minor < 6 && lowest == current.one_below();
    (lowest.major == current.major && lowest > current || is_lowered).then_some(lowest)
}

/// Ends a downgrade when all members are what it leads to, as long as the member runs and whenever it leads.
pub(crate) async fn watch_downgrade(core: Arc<Core>) {
    let every = core.config.downgrade_check_interval;
    if every.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(every).await;
        if core.board.is_leader() {
            end_downgrade(&core).await;
        }
    }
}

/// Ends the downgrade that is enabled, if it is complete.
pub(crate) async fn end_downgrade(core: &Core) {
    let known = core.facts.get();
    let downgrade = known.membership.downgrade();
    let Some(target) = Version::parse(&downgrade.target_version).filter(|_| downgrade.enabled)
    else {
        return;
    };
    let versions = versions(core).await.unwrap_or_default();
    if versions.is_empty() || versions.iter().any(|version| version.of_cluster() != target) {
        return;
    }
    tracing::info!(cluster_version = %target, "the cluster has been downgraded");
    if let Err(error) = grpc::cancel_downgrade(core).await {
        tracing::warn!(error = error.message(), "failed to cancel downgrade");
    }
}

/// The versions of all members; `None` unless all of them say theirs.
async fn versions(core: &Core) -> Option<Vec<Version>> {
    let mut versions = vec![core.version];
    for (id, version) in told(core).await {
        if version.is_none() {
            tracing::warn!(remote_member_id = format!("{id:x}"), "failed to get version");
        }
        versions.push(version?);
    }
    Some(versions)
}

/// What the other members say that they are; `None` for one that says nothing.
pub(crate) async fn told(core: &Core) -> Vec<(u64, Option<Version>)> {
    let members: Vec<Member> = core.facts.get().membership.members().cloned().collect();
    let mut told = Vec::with_capacity(members.len());
    for member in members.iter().filter(|member| member.id != core.member_id) {
        told.push((member.id, version_of(core, member).await));
    }
    told
}

async fn version_of(core: &Core, member: &Member) -> Option<Version> {
    for url in &member.peer_urls {
        let answer = core.peers.client().call(url, Question::get("/version"), LIMIT).await;
        let Ok(answer) = answer.inspect_err(|error| {
            tracing::debug!(url, error = %error, "a member does not tell its version");
        }) else {
            continue;
        };
        if answer.status != StatusCode::OK {
            continue;
        }
        return answers::server_version(&answer.body);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3_5: Version = Version::EMULATED[0];
    const V3_6: Version = Version::EMULATED[1];
    const V3_7: Version = Version::EMULATED[2];

    #[track_caller]
    fn check(own: Version, current: &str, lowest: Option<Version>, target: &str, next: &str) {
        let downgrade =
            Downgrade { enabled: !target.is_empty(), target_version: target.to_owned() };
        let decided = decide(own, Version::parse(current), lowest, &downgrade);
        let decided = decided.map(|version| version.to_string()).unwrap_or_default();
        assert_eq!(decided, next);
    }

    #[test]
    fn the_cluster_rises_with_its_last_member() {
        check(V3_6, "", Some(V3_6), "", "3.6.0");
        check(V3_6, "", None, "", "3.0.0");
        check(V3_6, "3.0.0", Some(V3_6), "", "3.6.0");
        check(V3_6, "3.5.0", Some(V3_5), "", "");
        check(V3_7, "3.5.0", Some(V3_7), "", "3.7.0");
        check(V3_7, "3.6.0", None, "", "");
        check(V3_6, "3.6.0", Some(V3_5), "", "");
    }

    #[test]
    fn the_cluster_goes_down_before_its_members() {
        check(V3_6, "3.6.0", Some(V3_6), "3.5.0", "3.5.0");
        check(V3_6, "3.6.0", Some(V3_5), "3.5.0", "3.5.0");
        check(V3_6, "3.5.0", Some(V3_6), "3.5.0", "");
        check(V3_7, "3.7.0", Some(V3_7), "3.5.0", "");
        check(V3_6, "3.6.0", None, "3.5.0", "");
        check(V3_5, "3.6.0", Some(V3_5), "3.5.0", "3.5.0");
    }
}
