use super::*;
use crate::member::unconnected;

fn hashed(hash: u32, revision: i64, compact_revision: i64) -> HashedAt {
    HashedAt { hash, revision, compact_revision }
}

fn peer(id: u64, hash: u32, compact_revision: i64) -> Peer {
    Peer { id, hash: Some(PeerHash { hash, compact_revision, current_revision: 10 }) }
}

const SILENT: Peer = Peer { id: 9, hash: None };

#[test]
fn a_member_starts_unless_another_one_has_another_hash_of_the_same() {
    let own = hashed(1, 10, 5);
    let peers = [peer(2, 1, 5), peer(3, 1, 4), SILENT];
    assert_eq!(differing(own, &peers), 0);
    assert_eq!(differing(own, &[peer(2, 7, 4)]), 0, "compacted differently");
    assert_eq!(differing(own, &[peer(2, 7, 5), peer(3, 8, 5)]), 2);
}

#[test]
fn the_leader_suspects_itself_and_those_that_differ() {
    let kv = |hash, revision, compact_revision| mvcc::HashKv {
        hashed: hashed(hash, revision, compact_revision),
        current_revision: 10,
    };
    let check = |before: mvcc::HashKv, after: mvcc::HashKv, peers: &[Peer], expected| {
        assert_eq!(suspect(1, &before, &after, peers), expected, "{before:?} {after:?} {peers:?}");
    };
    let same = kv(1, 10, 5);
    check(same, same, &[peer(2, 1, 5), SILENT], None);
    check(same, kv(2, 10, 5), &[], Some(1));
    check(same, kv(2, 11, 5), &[], None);
    check(same, same, &[peer(2, 1, 5), peer(3, 7, 5)], Some(3));
    check(same, same, &[peer(2, 7, 4)], None);
    check(same, same, &[peer(2, 7, 6)], Some(2));
    let ahead = PeerHash { hash: 1, compact_revision: 5, current_revision: 11 };
    check(same, same, &[Peer { id: 4, hash: Some(ahead) }], Some(4));
}

#[test]
fn a_majority_tells_who_is_wrong() {
    let own = hashed(1, 10, 5);
    for (peers, expected) in [
        (vec![peer(2, 1, 5), peer(3, 1, 5)], Verdict::Equal),
        (vec![peer(2, 1, 5), SILENT], Verdict::Incomplete),
        (vec![peer(2, 1, 5), peer(3, 7, 4)], Verdict::Incomplete),
        (vec![peer(2, 1, 5), peer(3, 7, 5)], Verdict::Corrupt(vec![3])),
        (vec![peer(2, 7, 5), peer(3, 7, 5)], Verdict::Corrupt(vec![1])),
        (vec![peer(2, 7, 5), peer(3, 8, 5)], Verdict::Corrupt(vec![0])),
        (vec![peer(2, 7, 5), SILENT], Verdict::Corrupt(vec![0])),
    ] {
        assert_eq!(verdict(1, own, &peers), expected, "{peers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_alone_finds_nothing_and_an_alarm_stops_writes() {
    use proto::etcdserverpb::PutRequest;

    let dir = tempfile::tempdir().unwrap();
    let (member, _) = unconnected::start(unconnected::config(dir.path())).await;
    let core = unconnected::core(&member);
    let put = || Op::Put(PutRequest { key: "k".into(), ..PutRequest::default() });
    core.propose(put()).await.unwrap();
    check(core).await.unwrap();
    check_compactions(core, &mut 0).await;
    core.propose(put()).await.unwrap();
    raise(core, 0).await;
    let refused = core.propose(put()).await.map(drop).unwrap_err();
    assert_eq!(refused.to_string(), "corrupt cluster");
    member.stop().await;
}
