//! Whether the members still hold the same: hashes of their histories, compared, and the CORRUPT alarm if they differ.
//!
//! Three checks, none of which is on by default:
//! - at the start (`initial_corrupt_check`): a member that differs from another one does not start;
//! - from time to time (`corrupt_check_time`): the leader hashes itself twice, and asks the others for the same revision;
//! - of compactions (`compact_hash_check_enabled`): the leader compares the hashes that compactions leave behind, newest first, which
//!   costs nobody a new hash. A majority tells who is wrong; without one, and as 3.5, the alarm names member 0.
//!
//! Hashes can be compared only if they are of one revision and one compact revision. What cannot be compared is said in the log and
//! proves nothing.
//!
//! Who is asked, and what the answers mean, are apart: the latter are the plain functions `differing`, `suspect` and `verdict`.
//!
//! Upstream: `server/etcdserver/corrupt.go` (3.5.30).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use mvcc::HashedAt;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use serde_json::json;

use crate::bootstrap::StartError;
use crate::config::Config;
use crate::peer::{Dialler, PeerClient, Question, answers};
use crate::request::Core;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// Another member, and what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    id: u64,
    /// Nothing if it did not answer, or has no such revision.
    hash: Option<PeerHash>,
}

/// A member's answer to a question for the hash at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerHash {
    pub(crate) hash: u32,
    /// -1 if it never compacted.
    pub(crate) compact_revision: i64,
    /// The newest revision of that member.
    pub(crate) current_revision: i64,
}

/// Compares this member, as its database has it, with the others; before it takes part in anything.
pub(crate) async fn check_at_start(
    config: &Config,
    parts: &::bootstrap::Member,
    dialler: &Dialler,
) -> Result<(), StartError> {
    let id = parts.member_id;
    let local_member_id = format!("{id:x}");
    tracing::info!(local_member_id, "starting initial corruption check");
    let store = parts.machine.reader();
    let hashed = tokio::task::spawn_blocking(move || store.hash_kv(0)).await;
    let own = match hashed {
        Ok(Ok(hash)) => hash.hashed,
        Ok(Err(error)) => {
            return Err(StartError::Hash { member_id: id, reason: error.to_string() });
        }
        Err(error) => return Err(StartError::Hash { member_id: id, reason: error.to_string() }),
    };
    let known: Vec<(u64, Vec<String>)> =
        parts.machine.membership().members().map(|m| (m.id, m.peer_urls.clone())).collect();
    let members = if known.is_empty() {
        // They are in the log, which is applied later.
        let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
        others.map(|(_, urls)| (0, urls.iter().map(ToString::to_string).collect())).collect()
    } else {
        known
    };
    let asked = Asked {
        client: &PeerClient::new(dialler.clone()),
        cluster_id: parts.cluster_id,
        member_id: id,
        limit: config.request_timeout(),
    };
    let peers = asked.peers(&members, own.revision).await;
    if differing(own, &peers) > 0 {
        return Err(StartError::Inconsistent { member_id: id });
    }
    tracing::info!(local_member_id, "initial corruption checking passed; no corruption");
    Ok(())
}

/// Counts the members whose hash differs although it should not.
fn differing(own: HashedAt, peers: &[Peer]) -> usize {
    let mut differing = 0;
    for peer in peers {
        let Some(hash) = peer.hash.filter(|hash| hash.hash != own.hash) else { continue };
        let (remote_peer_id, local, remote) =
            (format!("{:x}", peer.id), own.compact_revision, hash.compact_revision);
        if local == remote {
            tracing::warn!(
                remote_peer_id,
                local_member_revision = own.revision,
                local_member_hash = own.hash,
                remote_peer_hash = hash.hash,
                "found different hash values from remote peer"
            );
            differing += 1;
        } else {
            tracing::warn!(
                remote_peer_id,
                local_member_compact_revision = local,
                remote_peer_compact_revision = remote,
                "found different compact revision values from remote peer"
            );
        }
    }
    differing
}

/// Compares from time to time, as long as the member runs and whenever it leads.
pub(crate) async fn watch(core: Arc<Core>) {
    let every = core.config.corrupt_check_time;
    if every.is_zero() {
        return;
    }
    tracing::info!(interval = ?every, "enabled corruption checking");
    loop {
        tokio::time::sleep(every).await;
        if core.board.is_leader()
            && let Err(reason) = check(&core).await
        {
            tracing::warn!(reason, "failed to check hash KV");
        }
    }
}

/// Compares once.
pub(crate) async fn check(core: &Core) -> Result<(), String> {
    let before = hash_here(core).await?;
    let peers = ask(core, before.hashed.revision).await;
    core.linearizable().await.map_err(|refusal| refusal.to_string())?;
    let after = hash_here(core).await?;
    if let Some(id) = suspect(core.member_id, &before, &after, &peers) {
        raise(core, id).await;
    }
    let checked = peers.iter().filter(|peer| peer.hash.is_some()).count();
    tracing::info!(number_of_peers_checked = checked, "finished peer corruption check");
    Ok(())
}

/// The first member that differs from the leader as it must not, if there is one. `before` and `after` are the leader's own hashes
/// around the others' answers, which are for the revision of `before`.
fn suspect(
    own_id: u64,
    before: &mvcc::HashKv,
    after: &mvcc::HashKv,
    peers: &[Peer],
) -> Option<u64> {
    let (first, second) = (before.hashed, after.hashed);
    let is_same_question =
        first.revision == second.revision && first.compact_revision == second.compact_revision;
    if is_same_question && first.hash != second.hash {
        tracing::warn!(
            revision = first.revision,
            hash_1 = first.hash,
            hash_2 = second.hash,
            "found hash mismatch"
        );
        return Some(own_id);
    }
    for Peer { id, hash } in peers {
        let Some(hash) = hash else { continue };
        let remote_peer_id = format!("{id:x}");
        if hash.current_revision > after.current_revision {
            tracing::warn!(
                leader_revision = after.current_revision,
                follower_revision = hash.current_revision,
                remote_peer_id,
                "revision from follower must be less than or equal to leader's"
            );
        } else if hash.compact_revision > second.compact_revision {
            tracing::warn!(
                leader_compact_revision = second.compact_revision,
                follower_compact_revision = hash.compact_revision,
                remote_peer_id,
                "compact revision from follower must be less than or equal to leader's"
            );
        } else if hash.compact_revision == first.compact_revision && hash.hash != first.hash {
            tracing::warn!(
                compact_revision = first.compact_revision,
                leader_hash = first.hash,
                follower_hash = hash.hash,
                remote_peer_id,
                "same compact revision then hashes must match"
            );
        } else {
            continue;
        }
        return Some(*id);
    }
    None
}

/// Compares the hashes of compactions, as long as the member runs and whenever it leads.
pub(crate) async fn watch_compactions(core: Arc<Core>) {
    let every = core.config.compact_hash_check_time;
    if !core.config.compact_hash_check_enabled || every.is_zero() {
        return;
    }
    tracing::info!(interval = ?every, "enabled compact hash checking");
    let mut checked = 0;
    loop {
        tokio::time::sleep(every).await;
        if core.board.is_leader() {
            check_compactions(&core, &mut checked).await;
        }
    }
}

/// Compares the hashes of the compactions after revision `checked`, and raises that to the newest one that all members agree on.
pub(crate) async fn check_compactions(core: &Core, checked: &mut i64) {
    let mut count = 0_usize;
    for own in core.store.compaction_hashes() {
        if own.revision <= *checked {
            continue;
        }
        let peers = ask(core, own.revision).await;
        if peers.is_empty() {
            continue;
        }
        count += 1;
        match verdict(core.member_id, own, &peers) {
            Verdict::Equal => *checked = own.revision,
            Verdict::Incomplete => {
                tracing::info!(
                    revision = own.revision,
                    "skipped revision in compaction hash check; was not able to check all peers"
                );
                continue;
            }
            Verdict::Corrupt(members) => {
                for id in members {
                    raise(core, id).await;
                }
            }
        }
        break;
    }
    tracing::info!(number_of_hashes_checked = count, "finished compaction hash check");
}

/// What the hashes of one compaction say.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All members have the same.
    Equal,
    /// Those that could be compared have the same.
    Incomplete,
    /// These differ from the majority; 0 if there is none.
    Corrupt(Vec<u64>),
}

fn verdict(own_id: u64, own: HashedAt, peers: &[Peer]) -> Verdict {
    let mut members_by_hash = BTreeMap::from([(own.hash, vec![own_id])]);
    let mut compared = 0;
    for Peer { id, hash } in peers {
        let comparable = hash.filter(|hash| hash.compact_revision == own.compact_revision);
        let Some(hash) = comparable else {
            let reason = match hash {
                None => "no response",
                Some(_) => "the peer's CompactRevision doesn't match leader's",
            };
            tracing::warn!(remote_peer_id = format!("{id:x}"), reason, "Skipped peer's hash");
            continue;
        };
        compared += 1;
        members_by_hash.entry(hash.hash).or_default().push(*id);
    }
    if members_by_hash.len() == 1 {
        return if compared == peers.len() { Verdict::Equal } else { Verdict::Incomplete };
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let is_known = members_by_hash.values().any(|members| members.len() >= quorum);
    if !is_known {
        tracing::error!(
            revision = own.revision,
            compact_revision = own.compact_revision,
            "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally set the memberID as 0"
        );
        return Verdict::Corrupt(vec![0]);
    }
    members_by_hash.retain(|_, members| members.len() < quorum);
    tracing::error!(
        revision = own.revision,
        compact_revision = own.compact_revision,
        members = ?members_by_hash,
        "Detected compaction hash mismatch"
    );
    Verdict::Corrupt(members_by_hash.into_values().flatten().collect())
}

async fn hash_here(core: &Core) -> Result<mvcc::HashKv, String> {
    let store = core.store.clone();
    let hashed = tokio::task::spawn_blocking(move || store.hash_kv(0)).await;
    hashed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Raises the alarm against a member. That of 3.5 names none: the log has to tell.
async fn raise(core: &Core, member_id: u64) {
    let suspect = format!("{member_id:x}");
    tracing::error!(suspect, "raising the alarm CORRUPT");
    let member_id = if core.version.minor >= 6 { member_id } else { 0 };
    let alarm = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id,
        alarm: AlarmType::Corrupt.into(),
    };
    if let Err(error) = core.propose(Op::Alarm(alarm)).await {
        // The next check finds it again.
        tracing::warn!(error = %error, "failed to raise an alarm");
    }
}

/// Asks all other members for their hashes at a revision.
async fn ask(core: &Core, revision: i64) -> Vec<Peer> {
    let known = core.facts.get();
    let members: Vec<(u64, Vec<String>)> =
        known.membership.members().map(|member| (member.id, member.peer_urls.clone())).collect();
    let asked = Asked {
        client: core.peers.client(),
        cluster_id: core.cluster_id,
        member_id: core.member_id,
        limit: core.config.request_timeout(),
    };
    asked.peers(&members, revision).await
}

/// How the other members are asked.
struct Asked<'a> {
    client: &'a PeerClient,
    cluster_id: u64,
    /// This member, which is not asked.
    member_id: u64,
    /// Longest wait for one answer.
    limit: Duration,
}

impl Asked<'_> {
    async fn peers(&self, members: &[(u64, Vec<String>)], revision: i64) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (id, urls) in members.iter().filter(|(id, _)| *id != self.member_id) {
            let mut hash = None;
            for url in urls {
                hash = self.hash_of(url, revision).await;
                if hash.is_some() {
                    break;
                }
            }
            peers.push(Peer { id: *id, hash });
        }
        peers
    }

    async fn hash_of(&self, url: &str, revision: i64) -> Option<PeerHash> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CLUSTER_ID, HeaderValue::try_from(format!("{:x}", self.cluster_id)).ok()?);
        let body = json!({ "revision": revision }).to_string();
        let question = Question::get("/members/hashkv").with_headers(headers).with_body(body);
        match self.client.call(url, question, self.limit).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let hash = answers::hash(&answer.body);
                if hash.is_none() {
                    tracing::warn!(url, "failed to unmarshal HashKV response");
                }
                hash
            }
            // Behind, ahead, or of another cluster; its text says which.
            Ok(answer) => {
                tracing::warn!(url, revision, answer = %answer, "cannot fetch hash from remote peer");
                None
            }
            Err(error) => {
                tracing::warn!(url, revision, error = %error, "failed hash kv request");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
