//! Locks and elections against a member without sockets, as their clients see them.

use crate::entrance::Entrance;
use std::time::Duration;

use proto::authpb::permission::Type;
use proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use rpc::v3electionpb::election_client::ElectionClient;
use rpc::v3lockpb::lock_client::LockClient;
use tokio::task::JoinHandle;

use super::*;
use crate::Member;
use crate::member::unconnected::{self, by};

#[test]
fn keys_are_named_after_leases_in_hexadecimal() {
    let prefix = prefix_of(b"n");
    assert_eq!(key_of(&prefix, 0x1234), "n/1234");
    assert_eq!(key_of(&prefix, -255), "n/-ff");
    assert_eq!(key_of(&prefix_of(b""), 0x1234), "/1234");
    assert_eq!(end_of(&prefix), "n0");
}

struct Server {
    member: Member,
    services: Entrance,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (member, services) = unconnected::start(unconnected::config(dir.path())).await;
        let server = Self { member, services, _dir: dir };
        for id in [0x1234, 0xff, 3] {
            let mut leases = LeaseClient::new(server.services.clone());
            leases.lease_grant(LeaseGrantRequest { id, ttl: 500 }).await.unwrap();
        }
        server
    }

    async fn lock(&self, name: &'static str, lease: i64) -> Result<LockResponse, Status> {
        let request = LockRequest { name: name.into(), lease };
        let locked = LockClient::new(self.services.clone()).lock(request).await;
        locked.map(tonic::Response::into_inner)
    }

    fn lock_later(
        &self,
        name: &'static str,
        lease: i64,
    ) -> JoinHandle<Result<LockResponse, Status>> {
        let mut client = LockClient::new(self.services.clone());
        let request = LockRequest { name: name.into(), lease };
        tokio::spawn(async move { client.lock(request).await.map(tonic::Response::into_inner) })
    }

    async fn unlock(&self, key: &[u8]) -> Result<(), Status> {
        let request = UnlockRequest { key: Bytes::copy_from_slice(key) };
        LockClient::new(self.services.clone()).unlock(request).await.map(drop)
    }

    fn election(&self) -> ElectionClient<Entrance> {
        ElectionClient::new(self.services.clone())
    }

    async fn keys(&self, prefix: &[u8]) -> Vec<Bytes> {
        let request = RangeRequest {
            key: Bytes::copy_from_slice(prefix),
            range_end: end_of(prefix),
            ..RangeRequest::default()
        };
        let found = KvClient::new(self.services.clone()).range(request).await.unwrap();
        found.into_inner().kvs.into_iter().map(|kv| kv.key).collect()
    }

    /// Waits until these are the keys below the prefix.
    async fn until_keys(&self, prefix: &[u8], expected: &[&str]) {
        let looking = async {
            while self.keys(prefix).await != expected {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(30), looking).await.is_ok(),
            "{:?} instead of {expected:?}",
            self.keys(prefix).await
        );
    }
}

fn shown<T>(result: Result<T, Status>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    }
}

const NO_LEASE: &str = "Unknown etcdserver: requested lease not found";

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_from_holder_to_holder_in_their_order() {
    let server = Server::start().await;
    let first = server.lock("n", 0x1234).await.unwrap();
    assert_eq!(first.key, "n/1234");
    let again = server.lock("n", 0x1234).await.unwrap();
    assert_eq!((&again.key, revision_of(again.header.as_ref())), (&first.key, 2));

    let second = server.lock_later("n", 0xff);
    server.until_keys(b"n/", &["n/1234", "n/ff"]).await;
    let third = server.lock_later("n", 3);
    server.until_keys(b"n/", &["n/1234", "n/3", "n/ff"]).await;
    server.unlock(b"n/1234").await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().key, "n/ff");
    assert!(!third.is_finished());
    server.unlock(b"n/ff").await.unwrap();
    let third = third.await.unwrap().unwrap();
    assert_eq!((third.key.as_ref(), third.header.unwrap().revision), (&b"n/3"[..], 6));

    // Without a lease, one of a minute is made.
    let key = server.lock("", 0).await.unwrap().key;
    let id = i64::from_str_radix(std::str::from_utf8(&key[1..]).unwrap(), 16).unwrap();
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let lease = LeaseClient::new(server.services.clone()).lease_time_to_live(request).await;
    let lease = lease.unwrap().into_inner();
    assert_eq!((lease.granted_ttl, lease.keys), (60, vec![key]));
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_a_lock_leaves_no_key() {
    let server = Server::start().await;
    server.lock("n", 0x1234).await.unwrap();
    let waiting = server.lock_later("n", 0xff);
    server.until_keys(b"n/", &["n/1234", "n/ff"]).await;
    waiting.abort();
    server.until_keys(b"n/", &["n/1234"]).await;

    let expiring = server.lock_later("n", 0xff);
    server.until_keys(b"n/", &["n/1234", "n/ff"]).await;
    let revoke = LeaseRevokeRequest { id: 0xff };
    LeaseClient::new(server.services.clone()).lease_revoke(revoke).await.unwrap();
    server.unlock(b"n/1234").await.unwrap();
    assert_eq!(shown(expiring.await.unwrap()), "Unknown mutex: session is expired");

    assert_eq!(shown(server.lock("n", 99).await), NO_LEASE);
    assert_eq!(shown(server.unlock(b"").await), "Unknown etcdserver: key is not provided");
    assert_eq!(shown(server.unlock(b"nobody's").await), "ok");
    server.member.stop().await;
}

/// A lock was nobody's until its lease ended when the call did after the last wait: found by reading.
#[tokio::test(flavor = "multi_thread")]
async fn whose_turn_has_come_leaves_no_key_before_it_stays() {
    let server = Server::start().await;
    let revision = revision_of(server.lock("n", 0x1234).await.unwrap().header.as_ref());
    let (caller, ()) =
        Own::new(server.services.services().unwrap().clone()).caller(Request::new(()));
    let candidate = || Candidate {
        caller: caller.clone(),
        prefix: prefix_of(b"n"),
        key: "n/1234".into(),
        revision,
        is_withdrawn: false,
    };
    let (mut staying, mut leaving) = (candidate(), candidate());
    staying.wait().await.unwrap();
    leaving.wait().await.unwrap();
    staying.stay();
    assert_eq!(server.keys(b"n/").await, ["n/1234"]);
    drop(leaving);
    server.until_keys(b"n/", &[]).await;
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_is_won_proclaimed_and_resigned_from() {
    let server = Server::start().await;
    let mut election = server.election();
    let name = || LeaderRequest { name: "e".into() };
    let campaign = |lease, value: &'static str| CampaignRequest {
        name: "e".into(),
        lease,
        value: value.into(),
    };
    assert_eq!(shown(election.leader(name()).await), "Unknown election: no leader");
    let mut observed = election.observe(name()).await.unwrap().into_inner();

    let won = election.campaign(campaign(0x1234, "a")).await.unwrap().into_inner();
    let first = won.leader.unwrap();
    let expected = LeaderKey { name: "e".into(), key: "e/1234".into(), rev: 2, lease: 0x1234 };
    assert_eq!(first, expected);
    // Again with another value: a proclamation, with the header of the look that found it.
    let again = election.campaign(campaign(0x1234, "b")).await.unwrap().into_inner();
    assert_eq!((again.leader.as_ref(), again.header.unwrap().revision), (Some(&first), 2));
    let mut other = server.election();
    let waiting = tokio::spawn(async move { other.campaign(campaign(0xff, "z")).await });
    server.until_keys(b"e/", &["e/1234", "e/ff"]).await;

    let proclaim = |leader, value: &'static str| ProclaimRequest { leader, value: value.into() };
    let proclaimed = election.proclaim(proclaim(Some(first.clone()), "c")).await.unwrap();
    assert_eq!(proclaimed.into_inner().header.unwrap().revision, 5);
    let stranger = LeaderKey { rev: 3, ..first.clone() };
    for (leader, expected) in [
        (None, "Unknown \"leader\" field must be provided"),
        (Some(stranger.clone()), "Unknown election: not leader"),
        (Some(LeaderKey { lease: 99, ..first.clone() }), NO_LEASE),
    ] {
        assert_eq!(shown(election.proclaim(proclaim(leader, "d")).await), expected);
    }
    let led = election.leader(name()).await.unwrap().into_inner();
    assert_eq!(led.kv.unwrap().value, "c");

    election.resign(ResignRequest { leader: Some(stranger) }).await.unwrap();
    assert!(!waiting.is_finished());
    election.resign(ResignRequest { leader: Some(first) }).await.unwrap();
    let won = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!((won.header.unwrap().revision, won.leader.unwrap().rev), (4, 4));

    let mut values = Vec::new();
    while values.last().map(String::as_str) != Some("z") {
        let told = observed.message().await.unwrap().unwrap();
        values.push(String::from_utf8(told.kv.unwrap().value.to_vec()).unwrap());
    }
    assert_eq!(values, ["a", "b", "c", "z"]);
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_a_campaign_leaves_no_key() {
    let server = Server::start().await;
    let mut election = server.election();
    let campaign = |lease| CampaignRequest { name: "e".into(), lease, value: "v".into() };
    election.campaign(campaign(0x1234)).await.unwrap();
    let mut other = server.election();
    let waiting = tokio::spawn(async move { other.campaign(campaign(0xff)).await });
    server.until_keys(b"e/", &["e/1234", "e/ff"]).await;
    waiting.abort();
    server.until_keys(b"e/", &["e/1234"]).await;
    assert_eq!(shown(election.campaign(campaign(99)).await), NO_LEASE);
    let request = DeleteRangeRequest { key: "e/1234".into(), ..DeleteRangeRequest::default() };
    KvClient::new(server.services.clone()).delete_range(request).await.unwrap();
    let name = LeaderRequest { name: "e".into() };
    assert_eq!(shown(election.leader(name).await), "Unknown election: no leader");
    server.member.stop().await;
}

/// Whoever may not write below a name takes part in nothing there, and leaves nothing; who leads is for those to see who may read.
#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_ask_for_the_rights_to_their_keys() {
    let server = Server::start().await;
    let permissions =
        [(Type::Readwrite, "w/", "w0"), (Type::Read, "r/", "r0"), (Type::Write, "o/", "o0")];
    let [root, user] = unconnected::guard(&server.services, &permissions).await;
    let mut locks = LockClient::new(server.services.clone());
    let mut election = server.election();
    let named = |name: &'static str| LeaderRequest { name: name.into() };
    let campaign =
        |name: &'static str, lease| CampaignRequest { name: name.into(), lease, value: "v".into() };
    // Somebody leads in each.
    let mut leaders = Vec::new();
    for (name, lease) in [("w", 0xff), ("r", 0x1234), ("o", 0x1234), ("z", 0x1234)] {
        let won = election.campaign(by(&root, campaign(name, lease))).await.unwrap();
        leaders.push((name, won.into_inner().leader.unwrap()));
    }

    let denied = "Unknown etcdserver: permission denied";
    for name in ["r", "o", "z"] {
        let lock = LockRequest { name: name.into(), lease: 3 };
        assert_eq!(shown(locks.lock(by(&user, lock)).await), denied, "{name}");
        assert_eq!(shown(election.campaign(by(&user, campaign(name, 3))).await), denied, "{name}");
    }
    for (name, expected) in [("w", "ok"), ("r", "ok"), ("o", denied), ("z", denied)] {
        assert_eq!(shown(election.leader(by(&user, named(name))).await), expected, "{name}");
        let mut seen = election.observe(by(&user, named(name))).await.unwrap().into_inner();
        // As in etcd, a stream that is refused ends without a word.
        assert_eq!(seen.message().await.unwrap().is_some(), expected == "ok", "{name}");
    }
    for (name, leader) in leaders {
        let expected = if name == "w" { "ok" } else { denied };
        let key = leader.key.clone();
        let proclaim = ProclaimRequest { leader: Some(leader.clone()), value: "w".into() };
        assert_eq!(shown(election.proclaim(by(&user, proclaim)).await), expected, "{name}");
        let resign = ResignRequest { leader: Some(leader) };
        assert_eq!(shown(election.resign(by(&user, resign)).await), expected, "{name}");
        let allowed = if matches!(name, "w" | "o") { "ok" } else { denied };
        assert_eq!(shown(locks.unlock(by(&user, UnlockRequest { key })).await), allowed, "{name}");
    }
    // Of all of it the leaders are left whom nobody could turn out.
    let all = RangeRequest { key: "a".into(), range_end: "zz".into(), ..RangeRequest::default() };
    let found = KvClient::new(server.services.clone()).range(by(&root, all)).await.unwrap();
    let keys: Vec<_> = found.into_inner().kvs.into_iter().map(|pair| pair.key).collect();
    assert_eq!(keys, ["r/1234", "z/1234"]);
    server.member.stop().await;
}
