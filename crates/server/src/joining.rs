//! Before a member begins: what the other members say about the cluster.
//!
//! A member that founds a cluster makes sure that it has not done so before and lost its data: coming back empty it could vote
//! a second time. A member that joins one learns the cluster's id and its own from the members that are there.
//!
//! Upstream: `server/etcdserver/cluster_util.go`, `bootstrap.go` (3.5.30).

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use machine::Version;
use machine::bootstrap::Founding;

use tokio::task::JoinSet;

use crate::config::{ClusterState, Config, Url};
use crate::peer::{Answer, Dialler, PeerClient, Question, answers};
use crate::peer_port::MemberRow;

/// How long a joining member waits for one answer.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// What a joining member has learnt.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// The cluster's members, this one among them.
    pub(crate) members: Vec<MemberRow>,
    /// The etcd version to stand for.
    pub(crate) version: Version,
}

/// Why a member must not begin.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has begun before, elsewhere, and what it wrote is not here.
    #[error("member {id:x} has already been bootstrapped")]
    AlreadyBootstrapped {
        /// The member.
        id: u64,
    },
    /// Nobody answers.
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
    )]
    NoAnswer,
    /// The members that are there are not those of `--initial-cluster`.
    #[error("error validating peerURLs {known:?}: {why}")]
    Unmatched {
        /// The peer URLs of the members that are there.
        known: Vec<String>,
        /// What does not match.
        why: &'static str,
    },
    /// The cluster is of a version that this member, as it is asked to be, does not speak.
    #[error(
        "incompatible with current running cluster: cluster version {cluster}, this member {own}"
    )]
    Version {
        /// The cluster's version.
        cluster: Version,
        /// This member's.
        own: Version,
    },
    /// The cluster is of a version whose rules are not known here.
    #[error(
        "incompatible with current running cluster: cluster version {cluster}, and this program knows 3.5, 3.6 and 3.7"
    )]
    UnknownVersion {
        /// The cluster's version.
        cluster: Version,
    },
    /// No member says what version the cluster has.
    #[error("incompatible with current running cluster: no member says the cluster's version")]
    NoVersion,
    /// The cluster is on its way to an older version, and nobody said which of the two to stand for.
    #[error(
        "incompatible with current running cluster: a downgrade is enabled; wait until it is complete, or say \
         --emulated-version"
    )]
    Downgrading,
}

/// Asks the other members, if there is a reason to. `None` when this member founds its cluster.
pub(crate) async fn survey(
    config: &Config,
    dialler: &Dialler,
) -> Result<Option<Joining>, JoinError> {
    let client = PeerClient::new(dialler.clone());
    match config.initial_cluster_state {
        ClusterState::New if config.initial_cluster.len() > 1 => {
            refuse_second_beginning(config, dialler).await?;
            Ok(None)
        }
        ClusterState::New => Ok(None),
        ClusterState::Existing => {
            let (cluster_id, member_id, members) = join(config, &client).await?;
            let version = join_as(config, &client).await?;
            Ok(Some(Joining { cluster_id, member_id, members, version }))
        }
    }
}

fn other_urls(config: &Config) -> impl Iterator<Item = &Url> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    others.flat_map(|(_, urls)| urls)
}

async fn members_of(
    client: &PeerClient,
    url: &Url,
    limit: Duration,
) -> Option<(u64, Vec<MemberRow>)> {
    let answer = match client.call(&url.to_string(), Question::get("/members"), limit).await {
        Ok(answer) if answer.status == StatusCode::OK => answer,
        Ok(Answer { status, .. }) => {
            tracing::warn!(address = %url, status = status.as_u16(), "failed to get cluster response");
            return None;
        }
        Err(error) => {
            tracing::warn!(address = %url, error = %error, "failed to get cluster response");
            return None;
        }
    };
    let id = answer.headers.get("x-etcd-cluster-id").and_then(|id| id.to_str().ok());
    let cluster_id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
    let rows = answers::members(&answer.body);
    match (cluster_id, rows) {
        (Some(cluster_id), Ok(rows)) => Some((cluster_id, rows)),
        (None, _) => {
            tracing::warn!(address = %url, "failed to parse the cluster id of a cluster response");
            None
        }
        (_, Err(error)) => {
            tracing::warn!(address = %url, error = %error, "failed to read a cluster response");
            None
        }
    }
}

async fn refuse_second_beginning(config: &Config, dialler: &Dialler) -> Result<(), JoinError> {
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        (name.clone(), urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let founding = Founding::new(members, &config.initial_cluster_token);
    let Some(own) = founding.member(&config.name).map(|member| member.id) else { return Ok(()) };
    // All at once: those that are being started at the same time listen, and do not answer yet.
    let mut asked = JoinSet::new();
    for url in other_urls(config) {
        let (client, limit) = (PeerClient::new(dialler.clone()), config.peer_dial_limit());
        let url = url.clone();
        asked.spawn(async move { members_of(&client, &url, limit).await });
    }
    while let Some(answered) = asked.join_next().await {
        let Ok(Some((_, rows))) = answered else { continue };
        if rows.iter().any(|row| row.id == own && !row.client_urls.is_empty()) {
            return Err(JoinError::AlreadyBootstrapped { id: own });
        }
        // One that answers knows.
        return Ok(());
    }
    Ok(())
}

/// The cluster's id, this member's, and the members.
async fn join(
    config: &Config,
    client: &PeerClient,
) -> Result<(u64, u64, Vec<MemberRow>), JoinError> {
    for url in other_urls(config) {
        if let Some((cluster_id, members)) = members_of(client, url, JOIN_LIMIT).await {
            let member_id = match_members(config, &members)?;
            return Ok((cluster_id, member_id, members));
        }
    }
    Err(JoinError::NoAnswer)
}

/// Holds `--initial-cluster` against the members that are there; returns this member's id.
fn match_members(config: &Config, rows: &[MemberRow]) -> Result<u64, JoinError> {
    let known = || rows.iter().flat_map(|row| row.peer_urls.clone()).collect();
    let unmatched = |why| Err(JoinError::Unmatched { known: known(), why });
    if rows.len() != config.initial_cluster.len() {
        return unmatched("member count is unequal");
    }
    let mut own = None;
    for (name, urls) in &config.initial_cluster {
        let urls: BTreeSet<String> = urls.iter().map(ToString::to_string).collect();
        let found =
            rows.iter().find(|row| row.peer_urls.iter().cloned().collect::<BTreeSet<_>>() == urls);
        match found {
            Some(row) if *name == config.name => own = Some(row.id),
            Some(_) => {}
            None => return unmatched("unmatched member while checking PeerURLs"),
        }
    }
    match own {
        Some(id) => Ok(id),
        None => unmatched("this member is not among them"),
    }
}

/// The etcd version to stand for among the members that are there.
async fn join_as(config: &Config, client: &PeerClient) -> Result<Version, JoinError> {
    let mut clusters = Vec::new();
    let mut is_downgrading = None;
    for url in other_urls(config) {
        let url = url.to_string();
        if let Ok(answer) = client.call(&url, Question::get("/version"), JOIN_LIMIT).await {
            clusters.extend(answers::cluster_version(&answer.body));
        }
        // The answer is linearizable: one is enough.
        if is_downgrading.is_none()
            && let Ok(answer) =
                client.call(&url, Question::get("/downgrade/enabled"), JOIN_LIMIT).await
            && answer.status == StatusCode::OK
        {
            is_downgrading = Some(answer.body.trim_ascii() == b"true");
        }
    }
    choose(&clusters, is_downgrading.unwrap_or(false), config.emulated_version)
}

/// Chooses the version by what the members say that the cluster's is, and by what the operator asks for.
///
/// Upstream: `isCompatibleWithVers`, `allowedVersionRange` in `cluster_util.go`.
fn choose(
    clusters: &[Version],
    is_downgrading: bool,
    asked: Option<Version>,
) -> Result<Version, JoinError> {
    let Some(&cluster) = clusters.iter().max() else { return Err(JoinError::NoVersion) };
    let Some(own) = asked else {
        if is_downgrading {
            return Err(JoinError::Downgrading);
        }
        return Version::emulated_for(cluster).ok_or(JoinError::UnknownVersion { cluster });
    };
    let is_compatible = |cluster: &Version| {
        if is_downgrading {
            // etcd takes members of the version to come only.
            cluster.one_below() == own.of_cluster()
        } else {
            *cluster <= own.of_cluster()
        }
    };
    match clusters.iter().find(|cluster| !is_compatible(cluster)) {
        Some(&cluster) => Err(JoinError::Version { cluster, own }),
        None => Ok(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3_5: Version = Version::EMULATED[0];
    const V3_6: Version = Version::EMULATED[1];

    #[track_caller]
    fn check(
        clusters: &[Version],
        is_downgrading: bool,
        asked: Option<Version>,
        expected: Result<Version, &str>,
    ) {
        let chosen = choose(clusters, is_downgrading, asked).map_err(|error| error.to_string());
        match expected {
            Ok(version) => assert_eq!(chosen, Ok(version)),
            Err(text) => assert!(chosen.as_ref().is_err_and(|e| e.contains(text)), "{chosen:?}"),
        }
    }

    #[test]
    fn a_member_joins_as_what_the_cluster_is() {
        let (v5, v6) = (V3_5.of_cluster(), V3_6.of_cluster());
        check(&[v5, v5], false, None, Ok(V3_5));
        check(&[v6, v6], false, None, Ok(V3_6));
        check(&[v5], false, Some(V3_6), Ok(V3_6));
        check(&[v5, v6], false, Some(V3_5), Err("cluster version 3.6.0, this member 3.5.30"));
        check(&[Version::v3(8, 0)], false, None, Err("cluster version 3.8.0, and this program"));
        check(&[], false, None, Err("no member says"));
    }

    #[test]
    fn during_a_downgrade_only_the_version_to_come_joins() {
        let v6 = V3_6.of_cluster();
        check(&[v6], true, None, Err("a downgrade is enabled"));
        check(&[v6], true, Some(V3_6), Err("cluster version 3.6.0, this member 3.6.14"));
        check(&[v6], true, Some(V3_5), Ok(V3_5));
    }
}
