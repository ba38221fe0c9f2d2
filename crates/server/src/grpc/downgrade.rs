//! Downgrading the cluster by one minor version: whether it can be, its beginning, and its end before it is complete.
//!
//! While it is enabled, the leader lowers the cluster's version, and then every member may be restarted as the older one; when all
//! are, the leader ends it ([`crate::cluster_version`]).
//!
//! Upstream: `server/etcdserver/v3_server.go`, `version/version.go` (3.5.30, 3.6.14).

use machine::Version;
use proto::etcdserverpb::DowngradeRequest;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::membershippb::DowngradeInfoSetRequest;
use rpc::errors::Error;
use tonic::Status;

use super::status;
use crate::request::Core;

/// Does what is asked for, and returns the cluster's version as the answer says it.
pub(crate) async fn carry_out(core: &Core, request: &DowngradeRequest) -> Result<String, Status> {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => {
            let (_, cluster) = validate(core, &request.version).await?;
            Ok(answer(core, cluster))
        }
        Ok(DowngradeAction::Enable) => {
            let (target, _) = validate(core, &request.version).await?;
            set(core, Some(target)).await?;
            // 3.5 forgets to answer here, and in the cancellation.
            Ok(answer(core, cluster_version(core)?))
        }
        Ok(DowngradeAction::Cancel) => {
            let cancelled = cancel(core).await;
            if core.version.minor < 6 {
                cancelled?;
            } else if let Err(error) = cancelled {
                tracing::warn!(error = error.message(), "failed to cancel downgrade");
            }
            Ok(answer(core, cluster_version(core)?))
        }
        Err(_) => Err(Error::UnknownMethod.into()),
    }
}

/// Ends a downgrade, complete or not.
pub(crate) async fn cancel(core: &Core) -> Result<(), Status> {
    core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
    if !core.facts.get().membership.downgrade().enabled {
        return Err(Error::NoInflightDowngrade.into());
    }
    set(core, None).await
}

/// Returns the target and the cluster's version, if a downgrade to it may begin.
async fn validate(core: &Core, target: &str) -> Result<(Version, Version), Status> {
    let target = parse_target(target).ok_or(Error::WrongDowngradeVersionFormat)?;
    if core.version.minor >= 6 {
        cluster_version(core)?;
    }
    core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
    let cluster = cluster_version(core)?;
    if target != cluster.one_below() {
        return Err(Error::InvalidDowngradeTargetVersion.into());
    }
    if core.facts.get().membership.downgrade().enabled {
        return Err(Error::DowngradeInProcess.into());
    }
    Ok((target, cluster))
}

async fn set(core: &Core, target: Option<Version>) -> Result<(), Status> {
    let request = DowngradeInfoSetRequest {
        enabled: target.is_some(),
        ver: target.map(|target| target.to_string()).unwrap_or_default(),
    };
    let set = core.propose(Op::DowngradeInfoSet(request)).await;
    set.map(drop).map_err(|refusal| status::of(&refusal))
}

fn cluster_version(core: &Core) -> Result<Version, Status> {
    let version = core.facts.get().membership.version();
    version.ok_or_else(|| Error::ClusterVersionUnavailable.status(core.version.minor))
}

/// The cluster's version as 3.5 answers it, and as later ones do.
fn answer(core: &Core, cluster: Version) -> String {
    if core.version.minor < 6 {
        cluster.to_string()
    } else {
        format!("{}.{}", cluster.major, cluster.minor)
    }
}

/// Reads `major.minor` or a semantic version, of which only these two count.
fn parse_target(text: &str) -> Option<Version> {
    // A suffix (`-rc.1`, `+build`) belongs to three numbers only.
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, suffix) = text.split_at(end);
    let parts: Vec<&str> = numbers.split('.').collect();
    if parts.len() != 3 && (parts.len() != 2 || !suffix.is_empty()) {
        return None;
    }
    let numbers: Vec<u32> = parts.iter().map(|part| parse_number(part)).collect::<Option<_>>()?;
    let (&major, &minor) = (numbers.first()?, numbers.get(1)?);
    Some(Version { major, minor, patch: 0 })
}

fn parse_number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_semantic_versions_with_or_without_a_patch() {
        for text in ["3.5", "3.5.0", "3.5.17", "3.5.0-rc.1", "3.5.0+build"] {
            assert_eq!(parse_target(text), Some(Version::v3(5, 0)), "{text}");
        }
        for text in ["", "3", "x", "v3.5", "3.5.", "3.5.x", "3.5.0.0", "3.-5", "+3.5", "3.5-rc.1"] {
            assert_eq!(parse_target(text), None, "{text}");
        }
    }
}
