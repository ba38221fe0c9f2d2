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

use crate::config::{ClusterState, Config, Url};
use crate::peer::{Answer, Dialler, PeerClient};
use crate::peer_port::MemberRow;
use crate::version;

/// How long a joining member waits for one answer.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// What a joining member has learnt.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// The cluster's members, this one among them.
    pub(crate) members: Vec<MemberRow>,
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
    /// The cluster is of a version that this member does not speak.
    #[error(
        "incompatible with current running cluster: cluster version {cluster}, this member {own}"
    )]
    Version {
        /// The cluster's version.
        cluster: Version,
        /// This member's.
        own: Version,
    },
}

/// Asks the other members, if there is a reason to. `None` when this member founds its cluster.
pub(crate) async fn survey(
    config: &Config,
    dialler: &Dialler,
) -> Result<Option<Joining>, JoinError> {
    let client = PeerClient::new(dialler.clone());
    match config.initial_cluster_state {
        ClusterState::New if config.initial_cluster.len() > 1 => {
            refuse_second_beginning(config, &client).await?;
            Ok(None)
        }
        ClusterState::New => Ok(None),
        ClusterState::Existing => {
            let joining = join(config, &client).await?;
            check_versions(config, &client).await?;
            Ok(Some(joining))
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
    let answer = match client.get(&url.to_string(), "/members", limit).await {
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
    let rows = serde_json::from_slice(&answer.body);
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

async fn refuse_second_beginning(config: &Config, client: &PeerClient) -> Result<(), JoinError> {
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        (name.clone(), urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let founding = Founding::new(members, &config.initial_cluster_token);
    let Some(own) = founding.member(&config.name).map(|member| member.id) else { return Ok(()) };
    for url in other_urls(config) {
        let Some((_, rows)) = members_of(client, url, config.peer_dial_limit()).await else {
            continue;
        };
        if rows.iter().any(|row| row.id == own && !row.client_urls.is_empty()) {
            return Err(JoinError::AlreadyBootstrapped { id: own });
        }
        // One that answers knows.
        return Ok(());
    }
    Ok(())
}

async fn join(config: &Config, client: &PeerClient) -> Result<Joining, JoinError> {
    for url in other_urls(config) {
        if let Some((cluster_id, members)) = members_of(client, url, JOIN_LIMIT).await {
            let member_id = match_members(config, &members)?;
            return Ok(Joining { cluster_id, member_id, members });
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

async fn check_versions(config: &Config, client: &PeerClient) -> Result<(), JoinError> {
    let own = version::EMULATED;
    for url in other_urls(config) {
        let Ok(answer) = client.get(&url.to_string(), "/version", JOIN_LIMIT).await else {
            continue;
        };
        let Some(cluster) = cluster_version(&answer.body) else { continue };
        if cluster > own.of_cluster() {
            return Err(JoinError::Version { cluster, own });
        }
    }
    Ok(())
}

/// The cluster version in an answer to `/version`, once it is decided.
fn cluster_version(body: &[u8]) -> Option<Version> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    Version::parse(answer.get("etcdcluster")?.as_str()?)
}
