//! What is refused and why, and what follows from an entry besides its rows.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it does not expect"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use backend::schema::{Bucket, auth as rows, cluster, meta};
use bytes::Bytes;
use common::{Fixture, MEMBER, VERSION, request, try_open};
use lease::LeaseId;
use machine::{
    Answer, Committed, ConfChangeContext, Effect, Fatal, Member, Options, Payload, PeerChange,
    Quota, RequestError, Response, Version,
};
use prost::Message;
use proto::authpb::Permission;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, AuthEnableRequest, AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseCheckpoint,
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    Request as V2Request, RequestHeader, RequestOp, TxnRequest, alarm_request::AlarmAction,
    request_op, response_op,
};
use proto::nested::TXN_LEVELS_MAX;
use proto::{membershippb, raftpb};

fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
}

fn put_with_lease(key: &'static str, lease: i64) -> Op {
    Op::Put(PutRequest { key: key.into(), value: "v".into(), lease, ..PutRequest::default() })
}

fn delete(key: &'static str) -> Op {
    Op::DeleteRange(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() })
}

fn txn(ops: Vec<request_op::Request>) -> Op {
    let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
    Op::Txn(TxnRequest { success, ..TxnRequest::default() })
}

fn grant(id: i64, ttl: i64) -> Op {
    Op::LeaseGrant(LeaseGrantRequest { id, ttl })
}

fn revoke(id: i64) -> Op {
    Op::LeaseRevoke(LeaseRevokeRequest { id })
}

fn compact(revision: i64) -> Op {
    Op::Compaction(CompactionRequest { revision, physical: false })
}

fn alarm(action: AlarmAction, member_id: u64, kind: AlarmType) -> Op {
    Op::Alarm(AlarmRequest { action: action.into(), member_id, alarm: kind.into() })
}

fn with_version(version: Version) -> Fixture {
    Fixture::with(Options::new(MEMBER, version))
}

#[test]
fn a_put_is_answered_and_seen_by_watchers() {
    let mut fixture = Fixture::new();
    let applied = fixture.request(put("a", "1"));
    assert_eq!(applied.request_id, 77);
    let answer = applied.outcome.unwrap().unwrap();
    assert_eq!(answer.revision, 2);
    assert!(matches!(answer.response, Response::Put(_)));
    let events = applied.events.unwrap();
    assert_eq!((events.revision, events.events.len()), (2, 1));
    // A delete of nothing is no revision and no event.
    let applied = fixture.request(delete("b"));
    assert_eq!(applied.outcome.unwrap().unwrap().revision, 2);
    assert!(applied.events.is_none());
}

#[test]
fn bytes_of_another_member_do_the_same() {
    let op = InternalRaftRequest {
        request: Some(put("a", "1")),
        id: 5,
        ..InternalRaftRequest::default()
    };
    let mut fixture = Fixture::new();
    let applied = fixture.apply(Payload::Raw(Bytes::from(op.encode_to_vec())));
    assert_eq!((applied.request_id, fixture.machine.revision()), (5, 2));
}

#[test]
fn compaction_is_refused_as_etcd_does() {
    let mut fixture = Fixture::new();
    fixture.ok(compact(0));
    let refused = |outcome| match outcome {
        RequestError::Store(error) => error,
        other => panic!("{other}"),
    };
    let compacted = mvcc::RequestError::Compacted { requested: 0, compacted: 0 };
    assert_eq!(refused(fixture.refused(compact(0))), compacted);
    let future = mvcc::RequestError::FutureRevision { requested: 9, current: 1 };
    assert_eq!(refused(fixture.refused(compact(9))), future);
}

#[test]
fn leases_hold_keys_and_take_them_along() {
    let mut fixture = Fixture::new();
    assert_eq!(
        fixture.refused(put_with_lease("k", 5)),
        mvcc::RequestError::LeaseNotFound { lease: 5 }.into()
    );
    let Response::LeaseGrant(granted) = fixture.ok(grant(5, 0)).response else { panic!() };
    assert_eq!((granted.id, granted.ttl), (5, 2));
    assert_eq!(fixture.refused(grant(5, 10)), RequestError::LeaseExists);
    // Too large wins over exists.
    assert_eq!(fixture.refused(grant(5, i64::MAX)), RequestError::LeaseTtlTooLarge);
    assert_eq!(fixture.refused(revoke(6)), RequestError::LeaseNotFound);
    fixture.ok(grant(-7, 100));

    for key in ["b", "a", "c", "d"] {
        fixture.ok(put_with_lease(key, 5));
    }
    // Moved to another lease, taken off by a put without one, and deleted.
    fixture.ok(put_with_lease("b", -7));
    fixture.ok(put("c", "x"));
    fixture.ok(delete("d"));
    fixture.ok(put_with_lease("z", 5));
    let keys = |fixture: &Fixture, id| -> Vec<String> {
        let lessor = fixture.machine.lessor();
        let lessor = lessor.lock().unwrap();
        lessor.keys(LeaseId(id)).map(|key| key.escape_ascii().to_string()).collect()
    };
    assert_eq!(keys(&fixture, 5), ["a", "z"]);

    // The same after a restart, from the rows.
    fixture.commit();
    let applied_before = fixture.index;
    let mut fixture = fixture.restart();
    assert_eq!(
        (keys(&fixture, 5), keys(&fixture, -7)),
        (vec!["a".into(), "z".into()], vec!["b".into()])
    );
    for _ in 0..applied_before {
        fixture.apply(Payload::Empty);
    }

    let applied = fixture.request(revoke(5));
    let events = applied.events.unwrap();
    let deleted: Vec<&[u8]> = events.events.iter().map(|event| &event.key[..]).collect();
    assert_eq!(deleted, [b"a", b"z"]);
    assert_eq!(applied.outcome.unwrap().unwrap().revision, events.revision);
    // Without keys: no revision.
    let before = fixture.machine.revision();
    fixture.ok(grant(9, 10));
    assert_eq!(fixture.ok(revoke(9)).revision, before);
    assert_eq!(fixture.rows(&[Bucket::Lease]).lines().count(), 1);
}

#[test]
fn checkpoints_are_kept_in_rows_when_all_members_are_new() {
    let checkpoint = || {
        Op::LeaseCheckpoint(LeaseCheckpointRequest {
            checkpoints: vec![LeaseCheckpoint { id: 5, remaining_ttl: 60 }],
        })
    };
    let remaining = |fixture: &mut Fixture| {
        let view = fixture.machine.writer().view();
        let lease = backend::schema::lease::all(&view).unwrap().next().unwrap().unwrap();
        lease.remaining_ttl
    };
    for (version, cluster, expected) in [
        (Version::v3(5, 30), "3.5.0", 0),
        (Version::v3(6, 14), "3.5.0", 0),
        (Version::v3(6, 14), "3.6.0", 60),
    ] {
        let mut fixture = with_version(version);
        fixture.ok(Op::ClusterVersionSet(membershippb::ClusterVersionSetRequest {
            ver: cluster.into(),
        }));
        fixture.ok(grant(5, 1000));
        fixture.ok(checkpoint());
        assert_eq!(remaining(&mut fixture), expected, "{version} in {cluster}");
        fixture.ok(revoke(5));
        assert_eq!(fixture.refused(checkpoint()), RequestError::LeaseNotFound);
    }
}

#[test]
fn nospace_forbids_what_takes_space() {
    let mut fixture = Fixture::new();
    fixture.ok(put("a", "1"));
    fixture.ok(grant(1, 60));
    fixture.ok(alarm(AlarmAction::Activate, MEMBER, AlarmType::Nospace));
    assert_eq!(fixture.refused(put("b", "1")), RequestError::NoSpace);
    assert_eq!(fixture.refused(grant(2, 60)), RequestError::NoSpace);
    let put_op =
        || request_op::Request::RequestPut(PutRequest { key: "b".into(), ..PutRequest::default() });
    assert_eq!(fixture.refused(txn(vec![put_op()])), RequestError::NoSpace);
    fixture.ok(delete("a"));
    fixture.ok(txn(vec![]));
    fixture.ok(revoke(1));
    fixture.ok(compact(2));
    // Of another member: it does not matter whose it is.
    fixture.ok(alarm(AlarmAction::Activate, 9, AlarmType::Nospace));
    fixture.ok(alarm(AlarmAction::Deactivate, MEMBER, AlarmType::Nospace));
    assert_eq!(fixture.refused(put("b", "1")), RequestError::NoSpace);
    fixture.ok(alarm(AlarmAction::Deactivate, 9, AlarmType::Nospace));
    fixture.ok(put("b", "1"));
}

#[test]
fn puts_in_nested_txns_pass_a_nospace_alarm_in_old_versions() {
    for (version, passes) in
        [(Version::v3(5, 30), true), (Version::v3(5, 33), false), (Version::v3(6, 14), false)]
    {
        let mut fixture = with_version(version);
        fixture.ok(alarm(AlarmAction::Activate, 1, AlarmType::Nospace));
        let put_op = request_op::Request::RequestPut(PutRequest {
            key: "b".into(),
            ..PutRequest::default()
        });
        let nested = TxnRequest {
            success: vec![RequestOp { request: Some(put_op) }],
            ..TxnRequest::default()
        };
        let outcome = fixture.outcome(txn(vec![request_op::Request::RequestTxn(nested)]));
        assert_eq!(outcome.is_ok(), passes, "{version}");
    }
}

#[test]
fn corrupt_forbids_everything_but_alarms() {
    let mut fixture = Fixture::new();
    fixture.ok(grant(1, 60));
    fixture.ok(alarm(AlarmAction::Activate, 0, AlarmType::Corrupt));
    for op in [put("a", "1"), delete("a"), txn(vec![]), compact(1), grant(2, 60), revoke(1)] {
        assert_eq!(fixture.refused(op), RequestError::Corrupt);
    }
    fixture.ok(alarm(AlarmAction::Deactivate, 0, AlarmType::Corrupt));
    fixture.ok(put("a", "1"));
}

/// By what is stored, in every version (see `machine::Alarms` on 3.5).
#[test]
fn corrupt_counts_while_both_kinds_stand() {
    let mut fixture = Fixture::new();
    fixture.ok(alarm(AlarmAction::Activate, 1, AlarmType::Corrupt));
    fixture.ok(alarm(AlarmAction::Activate, 1, AlarmType::Nospace));
    assert_eq!(fixture.refused(put("a", "1")), RequestError::Corrupt);
    fixture.commit();
    let replayed = fixture.index;
    let mut fixture = fixture.restart();
    for _ in 0..replayed {
        fixture.apply(Payload::Empty);
    }
    assert_eq!(fixture.refused(delete("a")), RequestError::Corrupt);
    fixture.ok(alarm(AlarmAction::Deactivate, 1, AlarmType::Corrupt));
    assert_eq!(fixture.refused(put("a", "1")), RequestError::NoSpace);
    fixture.ok(alarm(AlarmAction::Deactivate, 1, AlarmType::Nospace));
    fixture.ok(put("a", "1"));
}

#[test]
fn alarms_are_listed_raised_and_cleared() {
    let mut fixture = Fixture::new();
    let alarms = |fixture: &mut Fixture, op| match fixture.ok(op).response {
        Response::Alarms(alarms) => {
            alarms.into_iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Activate, 1, AlarmType::None)), []);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Activate, 1, AlarmType::Nospace)), [(1, 1)]);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Activate, 1, AlarmType::Nospace)), [(1, 1)]);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Activate, 2, AlarmType::Corrupt)), [(2, 2)]);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Get, 0, AlarmType::None)), [(1, 1), (2, 2)]);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Get, 9, AlarmType::Corrupt)), [(2, 2)]);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Deactivate, 1, AlarmType::None)), []);
    assert_eq!(alarms(&mut fixture, alarm(AlarmAction::Deactivate, 1, AlarmType::Corrupt)), []);
    assert_eq!(
        alarms(&mut fixture, alarm(AlarmAction::Deactivate, 2, AlarmType::Corrupt)),
        [(2, 2)]
    );
    // Known to no version: stored, without effect; and an action that no version knows.
    let unknown = AlarmRequest { action: AlarmAction::Activate.into(), member_id: 1, alarm: 7 };
    assert_eq!(alarms(&mut fixture, Op::Alarm(unknown)), [(1, 7)]);
    assert_eq!(
        alarms(&mut fixture, Op::Alarm(AlarmRequest { action: 9, member_id: 1, alarm: 1 })),
        []
    );
    let rows = fixture.rows(&[Bucket::Alarm]);
    assert_eq!(rows, "alarm\t\\x08\\x01\\x10\\x01\t\nalarm\t\\x08\\x01\\x10\\x07\t\n");
    assert_eq!(
        fixture.machine.alarms().list(0).first(),
        Some(&AlarmMember { member_id: 1, alarm: 1 })
    );
}

#[test]
fn over_quota_the_request_is_executed_and_an_alarm_proposed() {
    let options = Options { quota: Quota::from_flag(1), ..Options::new(MEMBER, VERSION) };
    let mut fixture = Fixture::with(options);
    let applied = fixture.request(put("a", "1"));
    assert_eq!(applied.outcome, Some(Err(RequestError::OverQuota)));
    assert_eq!((applied.events.unwrap().revision, fixture.machine.revision()), (2, 2));
    let [Effect::RaiseAlarm(request)] = &applied.effects[..] else {
        panic!("{:?}", applied.effects)
    };
    assert_eq!((request.member_id, request.alarm()), (MEMBER, AlarmType::Nospace));
    // A refused request costs nothing.
    let applied = fixture.request(put_with_lease("a", 99));
    assert!(matches!(applied.outcome, Some(Err(RequestError::Store(_)))));
    assert!(applied.effects.is_empty());
    fixture.ok(Op::Alarm(*request));
    assert_eq!(fixture.refused(put("a", "2")), RequestError::NoSpace);
    fixture.ok(delete("a"));
}

fn member(id: u64, url: &str) -> Member {
    Member { id, peer_urls: vec![url.to_owned()], ..Member::default() }
}

fn conf_change(
    kind: raftpb::ConfChangeType,
    member: Member,
    is_promote: bool,
) -> raftpb::ConfChange {
    raftpb::ConfChange {
        id: 99,
        r#type: kind.into(),
        node_id: member.id,
        context: Some(ConfChangeContext { member, is_promote }.encode().into()),
    }
}

#[test]
fn conf_changes_reach_raft_peers_and_rows() {
    use raftpb::ConfChangeType::{
        ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode,
    };
    let mut fixture = Fixture::new();
    let first = conf_change(ConfChangeAddNode, member(MEMBER, "http://a:1"), false);
    let applied = fixture.apply(Payload::ConfChange(first));
    assert!(
        matches!(&applied.effects[..], [Effect::ConfChange(_)]),
        "about this member: {:?}",
        applied.effects
    );

    let learner = Member { is_learner: true, ..member(5, "http://b:1") };
    let applied = fixture.apply(Payload::ConfChange(conf_change(
        ConfChangeAddLearnerNode,
        learner.clone(),
        false,
    )));
    assert_eq!(applied.request_id, 99);
    let expected = PeerChange::Add { id: 5, peer_urls: vec!["http://b:1".to_owned()] };
    assert!(matches!(&applied.effects[..], [Effect::ConfChange(change), Effect::Peer(peer)]
        if change.node_id == 5 && *peer == expected));
    let Ok(Answer { revision: 0, response: Response::Members(members) }) = applied.outcome.unwrap()
    else {
        panic!()
    };
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [5, MEMBER]);
    assert_eq!(fixture.machine.conf_state().learners, [5]);

    // A second one does not fit: raft hears of a change that changes nothing.
    let another = Member { is_learner: true, ..member(6, "http://c:1") };
    let applied =
        fixture.apply(Payload::ConfChange(conf_change(ConfChangeAddLearnerNode, another, false)));
    assert_eq!(applied.outcome, Some(Err(RequestError::TooManyLearners)));
    assert!(
        matches!(&applied.effects[..], [Effect::ConfChange(change)] if change.node_id == 0 && change.id == 99)
    );

    fixture.apply(Payload::ConfChange(conf_change(ConfChangeAddNode, learner, true)));
    assert_eq!(
        (fixture.machine.conf_state().voters.len(), fixture.machine.conf_state().learners.len()),
        (2, 0)
    );
    assert!(!fixture.machine.membership().member(5).unwrap().is_learner);
    let view = fixture.machine.writer().view();
    let stored: raftpb::ConfState = meta::conf_state(&view).unwrap().unwrap().into();
    assert_eq!(stored, *fixture.machine.conf_state());
    drop(view);

    let remove = |id| raftpb::ConfChange {
        r#type: ConfChangeRemoveNode.into(),
        node_id: id,
        ..Default::default()
    };
    let applied = fixture.apply(Payload::ConfChange(remove(5)));
    assert!(matches!(&applied.effects[..], [_, Effect::Peer(PeerChange::Remove { id: 5 })]));
    assert_eq!(fixture.rows(&[Bucket::MembersRemoved]), "members_removed\t5\tremoved\n");
    let applied = fixture.apply(Payload::ConfChange(remove(5)));
    assert_eq!(applied.outcome, Some(Err(RequestError::MemberRemoved)));
    let error = fixture.try_apply(Payload::ConfChange(remove(MEMBER))).unwrap_err();
    assert!(matches!(error, Fatal::NoVoters { .. }), "{error}");
}

#[test]
fn a_member_learns_of_its_own_removal() {
    use raftpb::ConfChangeType::{ConfChangeAddNode, ConfChangeRemoveNode};
    let mut fixture = Fixture::new();
    for member in [member(MEMBER, "http://a:1"), member(2, "http://b:1")] {
        fixture.apply(Payload::ConfChange(conf_change(ConfChangeAddNode, member, false)));
    }
    let remove = raftpb::ConfChange {
        r#type: ConfChangeRemoveNode.into(),
        node_id: MEMBER,
        ..Default::default()
    };
    let applied = fixture.apply(Payload::ConfChange(remove));
    assert!(matches!(&applied.effects[..], [Effect::ConfChange(_), Effect::SelfRemoved]));
}

/// etcd before 3.5.22 promoted a learner everywhere but in its row.
#[test]
fn rows_of_voters_that_say_learner_are_mended() {
    use raftpb::ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode};
    let learner = Member { is_learner: true, ..member(5, "http://b:1") };
    let promotion = || Payload::ConfChange(conf_change(ConfChangeAddNode, learner.clone(), true));
    let is_learner = |fixture: &mut Fixture| fixture.rows(&[Bucket::Members]).contains("isLearner");
    let begin = || {
        let mut fixture = Fixture::new();
        let first = conf_change(ConfChangeAddNode, member(MEMBER, "http://a:1"), false);
        fixture.apply(Payload::ConfChange(first));
        let added = conf_change(ConfChangeAddLearnerNode, learner.clone(), false);
        fixture.apply(Payload::ConfChange(added));
        let before = fixture.machine.snapshot();
        fixture.apply(promotion());
        (fixture, before)
    };
    // The promotion is in the log behind the snapshot.
    for is_wrong in [true, false] {
        let (mut fixture, before) = begin();
        if is_wrong {
            backend::schema::members::put(fixture.machine.writer(), &learner);
        }
        fixture.commit();
        fixture.snapshot = before;
        let mut fixture = fixture.restart();
        assert!(fixture.machine.mended_voters().is_empty());
        assert_eq!(is_learner(&mut fixture), is_wrong);
        let applied = fixture.apply(promotion());
        assert!(
            matches!(&applied.effects[..], [Effect::ConfChange(_), Effect::PromotedBefore { id: 5, is_mended }, ..]
                if *is_mended == is_wrong),
            "{:?}",
            applied.effects
        );
        assert!(!is_learner(&mut fixture));
        assert!(!fixture.machine.membership().member(5).unwrap().is_learner);
    }
    // It is in the snapshot's document.
    let (mut fixture, _) = begin();
    backend::schema::members::put(fixture.machine.writer(), &learner);
    fixture.commit();
    fixture.snapshot = fixture.machine.snapshot();
    let mut fixture = fixture.restart();
    assert_eq!(fixture.machine.mended_voters(), [5]);
    assert!(!is_learner(&mut fixture));
    assert!(!fixture.machine.membership().member(5).unwrap().is_learner);
}

#[test]
fn rows_that_the_document_does_not_know_are_dropped() {
    use raftpb::ConfChangeType::ConfChangeAddNode;
    let mut fixture = Fixture::new();
    backend::schema::members::put(fixture.machine.writer(), &member(0xbad, "http://z:1"));
    fixture.apply(Payload::ConfChange(conf_change(
        ConfChangeAddNode,
        member(MEMBER, "http://a:1"),
        false,
    )));
    let rows = fixture.rows(&[Bucket::Members]);
    assert!(rows.starts_with("members\t508ed5292be939a9\t") && rows.lines().count() == 1, "{rows}");
}

fn v2(method: &str, path: &str, val: &str) -> Payload {
    let request = V2Request {
        id: 3,
        method: method.into(),
        path: path.into(),
        val: val.into(),
        ..V2Request::default()
    };
    Payload::Raw(Bytes::from(request.encode_to_vec()))
}

/// What 3.5 writes as v2 requests and 3.6 as requests of their own is the same.
#[test]
fn publishing_and_cluster_version_in_both_forms() {
    let add = || {
        Payload::ConfChange(conf_change(
            raftpb::ConfChangeType::ConfChangeAddNode,
            member(MEMBER, "http://a:1"),
            false,
        ))
    };
    let mut old = Fixture::new();
    old.apply(add());
    let path = format!("/0/members/{MEMBER:x}/attributes");
    old.apply(v2("PUT", &path, r#"{"name":"m1","clientURLs":["http://a:2"]}"#));
    let applied = old.apply(v2("PUT", "/0/version", "3.5.0"));
    assert_eq!(applied.request_id, 3);

    let mut new = Fixture::new();
    new.apply(add());
    new.ok(Op::ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest {
        member_id: MEMBER,
        member_attributes: Some(membershippb::Attributes {
            name: "m1".into(),
            client_urls: vec!["http://a:2".into()],
        }),
    }));
    let applied = new.request(Op::ClusterVersionSet(membershippb::ClusterVersionSetRequest {
        ver: "3.5.0".into(),
    }));
    assert!(
        matches!(&applied.effects[..], [Effect::ClusterVersion { old: None, new }] if *new == Version::v3(5, 0))
    );

    assert_eq!(old.machine.membership(), new.machine.membership());
    assert_eq!(old.machine.snapshot().data, new.machine.snapshot().data);
    let buckets = [Bucket::Members, Bucket::Cluster];
    assert_eq!(old.rows(&buckets), new.rows(&buckets));
    assert!(new.rows(&buckets).contains(r#"\"name\":\"m1\",\"clientURLs\":[\"http://a:2\"]"#));

    // As a member writes it beside one that is older still: whoever proposed it is answered.
    let mut older = Fixture::new();
    older.apply(add());
    let urls = vec!["http://a:2".to_owned()];
    older.ok(machine::v2::publication(MEMBER, "m1".to_owned(), urls));
    // A follower reads it from the log.
    let version = request(machine::v2::cluster_version(Version::v3(5, 0)));
    let Payload::Request(asked) = version else { panic!("not a request") };
    let request_id = asked.header.as_ref().map_or(asked.id, |header| header.id);
    let applied = older.apply(Payload::Raw(Bytes::from(asked.encode_to_vec())));
    assert!(request_id != 0 && applied.request_id == request_id);
    assert!(matches!(applied.outcome, Some(Ok(_))));
    assert_eq!(older.machine.membership(), new.machine.membership());
    assert_eq!(older.rows(&buckets), new.rows(&buckets));

    // Of a member that is gone: nobody is told, nothing happens.
    let gone = v2("PUT", "/0/members/77/attributes", "{}");
    assert_eq!(new.apply(gone).outcome, Some(Err(RequestError::UnknownPublisher)));
}

#[test]
fn other_v2_requests_stop_the_member() {
    for (method, path) in [
        ("PUT", "/1/a"),
        ("SYNC", "/1"),
        ("POST", "/0/version"),
        ("PUT", "/0/members/q/attributes"),
    ] {
        let error = Fixture::new().try_apply(v2(method, path, "x")).unwrap_err().to_string();
        let expected = format!(
            "entry 1: v2 request {method} {path}: detected disallowed v2 WAL for stage --v2-deprecation=write-only: "
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    let error =
        Fixture::new().try_apply(Payload::Raw(Bytes::from_static(b"\xff\xff"))).unwrap_err();
    assert!(error.to_string().starts_with("entry 1: not a request: "), "{error}");
}

/// A put below so many transactions.
fn nested(levels: usize) -> Op {
    let mut op = put("deep", "v");
    for _ in 0..levels {
        let inner = match op {
            Op::Put(put) => request_op::Request::RequestPut(put),
            Op::Txn(txn) => request_op::Request::RequestTxn(txn),
            other => panic!("not in a transaction: {other:?}"),
        };
        op = txn(vec![inner]);
    }
    op
}

#[test]
fn transactions_as_deep_as_etcd_takes_them_are_applied_from_the_log() {
    let raw = |op| {
        let Payload::Request(request) = request(op) else { panic!("not a request") };
        Payload::Raw(Bytes::from(request.encode_to_vec()))
    };
    let mut fixture = Fixture::new();
    let applied = fixture.apply(raw(nested(TXN_LEVELS_MAX)));
    let Some(Ok(Answer { response: Response::Txn(mut answer), .. })) = applied.outcome else {
        panic!("{:?}", applied.outcome)
    };
    for _ in 1..TXN_LEVELS_MAX {
        assert!(answer.succeeded);
        let Some(response_op::Response::ResponseTxn(inner)) = answer.responses.remove(0).response
        else {
            panic!("not a transaction's answer")
        };
        answer = inner;
    }
    assert!(fixture.rows(&[Bucket::Key]).contains("deep"));
    // With rights to be checked on the way down.
    fixture.ok(Op::AuthRoleAdd(AuthRoleAddRequest { name: "root".into() }));
    fixture.ok(Op::AuthUserAdd(AuthUserAddRequest {
        name: "root".into(),
        ..AuthUserAddRequest::default()
    }));
    fixture.ok(Op::AuthUserGrantRole(AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    }));
    fixture.ok(Op::AuthEnable(AuthEnableRequest::default()));
    let applied = fixture.apply(raw(nested(TXN_LEVELS_MAX)));
    assert_eq!(applied.outcome, Some(Err(RequestError::Auth(auth::Error::UserEmpty))));

    let error = fixture.try_apply(raw(nested(TXN_LEVELS_MAX + 1))).unwrap_err().to_string();
    let expected = "not a request: more than 129 transactions are nested in one another";
    assert!(error.ends_with(expected), "{error}");
    // Deeper than any stack.
    let mut hostile = Vec::new();
    for _ in 0..100_000 {
        for field in [4_u8, 2] {
            let mut length = Vec::new();
            prost::encoding::encode_varint(hostile.len() as u64, &mut length);
            hostile.extend(length.into_iter().rev());
            hostile.push(field << 3 | 2);
        }
    }
    let mut length = Vec::new();
    prost::encoding::encode_varint(hostile.len() as u64, &mut length);
    hostile.extend(length.into_iter().rev());
    hostile.push(6 << 3 | 2);
    hostile.reverse();
    let error = Fixture::new().try_apply(Payload::Raw(hostile.into())).unwrap_err().to_string();
    assert_eq!(error, format!("entry 1: {expected}"));
}

/// An entry as etcd 3.5 and 3.6 write it, whose names are any bytes: the field of the request, and those of what is in it.
fn entry_with_names(number: u32, names: &[&[u8]]) -> Payload {
    use prost::encoding::{bytes, message};
    let mut op = Vec::new();
    for (number, name) in (1..).zip(names) {
        bytes::encode(number, &name.to_vec(), &mut op);
    }
    let mut entry = Vec::new();
    message::encode(100, &RequestHeader { id: 9, ..RequestHeader::default() }, &mut entry);
    bytes::encode(number, &op, &mut entry);
    Payload::Raw(entry.into())
}

#[test]
fn names_that_are_not_utf8_are_those_of_other_users_and_roles() {
    const USER_ADD: u32 = 1100;
    const USER_GRANT: u32 = 1104;
    const ROLE_ADD: u32 = 1200;
    const ROLE_DELETE: u32 = 1201;
    let revision =
        |fixture: &mut Fixture| rows::revision(&fixture.machine.writer().view()).unwrap();
    let mut fixture = with_version(Version::v3(6, 14));
    let before = revision(&mut fixture);
    // Two roles for etcd, and two for us.
    for (number, names) in [
        (ROLE_ADD, &[&b"\xff\xfe"[..]][..]),
        (ROLE_ADD, &[b"\xff\xfd"]),
        (USER_ADD, &[b"u\xff"]),
        (USER_GRANT, &[b"u\xff", b"\xff\xfe"]),
    ] {
        let applied = fixture.apply(entry_with_names(number, names));
        assert!(matches!(applied.outcome, Some(Ok(_))), "{number}: {:?}", applied.outcome);
        assert_eq!(applied.request_id, 9);
    }
    assert_eq!(revision(&mut fixture), before + 4);
    let applied = fixture.apply(entry_with_names(ROLE_ADD, &[b"\xff\xfe"]));
    assert_eq!(applied.outcome, Some(Err(RequestError::Auth(auth::Error::RoleAlreadyExist))));
    let shown = fixture.rows(&[Bucket::AuthRoles]);
    assert_eq!(shown.lines().count(), 2, "{shown}");

    // What etcd's own directory has: rows under the bytes.
    let writer = fixture.machine.writer();
    for name in [&b"\xff\xfe"[..], b"\xff\xfd"] {
        writer.delete(Bucket::AuthRoles, Bytes::from(proto::text::spelled(name).into_owned()));
        let role = proto::authpb::Role { name: Bytes::copy_from_slice(name), ..Default::default() };
        writer.put(Bucket::AuthRoles, role.name.clone(), role.encode_to_vec().into());
    }
    let mut user = vec![0x0a, 2];
    user.extend_from_slice(b"u\xff\x1a\x02\xff\xfe");
    writer.delete(Bucket::AuthUsers, Bytes::from(proto::text::spelled(b"u\xff").into_owned()));
    writer.put(Bucket::AuthUsers, Bytes::from_static(b"u\xff"), user.into());
    writer.publish();
    fixture.commit();
    let index = fixture.index;
    let mut fixture = fixture.restart();
    // Before the rows there is nothing to do for these.
    while fixture.index < index {
        fixture.apply(Payload::Empty);
    }
    let applied = fixture.apply(entry_with_names(ROLE_DELETE, &[b"\xff\xfe"]));
    assert!(matches!(applied.outcome, Some(Ok(_))), "{:?}", applied.outcome);
    assert_eq!(revision(&mut fixture), before + 5);
    let shown = fixture.rows(&[Bucket::AuthRoles, Bucket::AuthUsers]);
    assert_eq!(shown.lines().count(), 2, "the other role, and the user: {shown}");
    assert!(!shown.contains("fe"), "{shown}");
}

#[test]
fn what_is_no_request_is_not_called_one_of_v2() {
    // Decodes as a v2 request, without a method.
    let error =
        Fixture::new().try_apply(Payload::Raw(Bytes::from_static(b"\x1a\x01/"))).unwrap_err();
    assert!(error.to_string().starts_with("entry 1: not a request: "), "{error}");
}

#[test]
fn a_cluster_that_is_ahead_stops_the_member() {
    let set = |ver: &str| {
        request(Op::ClusterVersionSet(membershippb::ClusterVersionSetRequest { ver: ver.into() }))
    };
    let error = Fixture::new().try_apply(set("3.6.0")).unwrap_err();
    assert_eq!(error.to_string(), "entry 1: cluster version 3.6.0 is above this member's 3.5.30");
    let error = Fixture::new().try_apply(set("soon")).unwrap_err();
    assert_eq!(error.to_string(), "entry 1: cluster version \"soon\" is not of the form 3.x.y");
    // Down again: an older etcd must not find this log.
    let mut fixture = with_version(Version::v3(6, 14));
    fixture.apply(set("3.6.0"));
    let applied = fixture.apply(set("3.5.0"));
    assert!(matches!(&applied.effects[..], [Effect::ClusterVersion { .. }, Effect::Snapshot]));
}

#[test]
fn what_cannot_be_served_is_not_opened() {
    let open_after = |change: &dyn Fn(&mut backend::Writer), version| {
        let mut fixture = Fixture::new();
        change(fixture.machine.writer());
        fixture.commit();
        let Fixture { dir, snapshot, machine, .. } = fixture;
        drop(machine);
        try_open(&dir, &Options::new(MEMBER, version), &snapshot)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    open_after(&|writer| rows::put_enabled(writer, true), VERSION).unwrap();
    let downgrade =
        |target: &str| machine::Downgrade { enabled: true, target_version: target.to_owned() };
    let error = open_after(&|writer| cluster::put_downgrade(writer, &downgrade("3.4.0")), VERSION)
        .unwrap_err();
    assert_eq!(
        error,
        "a downgrade of the cluster to 3.4.0 is enabled: a member of version 3.5.30 must not join"
    );
    open_after(&|writer| cluster::put_downgrade(writer, &downgrade("3.5.0")), VERSION).unwrap();
    let storage = |writer: &mut backend::Writer| meta::put_storage_version(writer, Some("3.7.0"));
    // 3.5 does not look at it.
    open_after(&storage, VERSION).unwrap();
    let error = open_after(&storage, Version::v3(6, 14)).unwrap_err();
    assert_eq!(error, "storage version 3.7.0 is above this member's 3.6.14");
}

#[test]
fn auth_revision_starts_at_one() {
    let mut fixture = Fixture::new();
    let view = fixture.machine.writer().view();
    assert_eq!(rows::revision(&view).unwrap(), 1);
    let off = Response::Auth(auth::Answer::Status { is_enabled: false, revision: 1 });
    assert_eq!(fixture.ok(Op::AuthStatus(Default::default())).response, off);
    assert_eq!(
        fixture.refused(Op::Authenticate(Default::default())),
        RequestError::Auth(auth::Error::AuthNotEnabled)
    );
}

/// A request as a member proposed it for a user.
fn request_of(user: &str, auth_revision: u64, op: Op) -> Payload {
    let header = RequestHeader { id: 77, username: user.to_owned(), auth_revision };
    Payload::Request(Arc::new(InternalRaftRequest {
        header: Some(header),
        request: Some(op),
        ..InternalRaftRequest::default()
    }))
}

/// A machine with authentication on: root, and u1 who may do all with `[a, c)`.
fn guarded() -> Fixture {
    let mut fixture = Fixture::new();
    let user = |name: &str| AuthUserAddRequest { name: name.to_owned(), ..Default::default() };
    let grant = |user: &str, role: &str| AuthUserGrantRoleRequest {
        user: user.to_owned(),
        role: role.to_owned(),
    };
    let permission =
        Permission { perm_type: 2, key: Bytes::from("a"), range_end: Bytes::from("c") };
    for op in [
        Op::AuthUserAdd(user("root")),
        Op::AuthUserAdd(user("u1")),
        Op::AuthRoleAdd(AuthRoleAddRequest { name: "r1".to_owned() }),
        Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest {
            name: "r1".to_owned(),
            perm: Some(permission),
        }),
        Op::AuthUserGrantRole(grant("u1", "r1")),
        Op::AuthUserGrantRole(grant("root", "root")),
        Op::AuthEnable(Default::default()),
    ] {
        fixture.ok(op);
    }
    fixture
}

#[test]
fn rights_are_checked_when_an_entry_is_applied() {
    let mut fixture = guarded();
    let now = fixture.machine.auth().revision();
    let mut outcome = |user: &str, revision: u64, op: Op| {
        fixture.apply(request_of(user, revision, op)).outcome.unwrap().map(drop)
    };
    let refused = |error| Err(RequestError::Auth(error));
    assert_eq!(outcome("u1", now, put("b", "1")), Ok(()));
    assert_eq!(outcome("u1", now, put("c", "1")), refused(auth::Error::PermissionDenied));
    assert_eq!(outcome("", 0, put("b", "1")), refused(auth::Error::UserEmpty));
    assert_eq!(outcome("u1", now - 1, put("b", "1")), refused(auth::Error::AuthOldRevision));
    assert_eq!(outcome("root", now, put("z", "1")), Ok(()));
    let delete_to = |key: &str, range_end: &str| {
        Op::DeleteRange(DeleteRangeRequest {
            key: Bytes::from(key.to_owned()),
            range_end: Bytes::from(range_end.to_owned()),
            ..Default::default()
        })
    };
    assert_eq!(outcome("u1", now, delete_to("a", "c")), Ok(()));
    assert_eq!(outcome("u1", now, delete_to("a", "\0")), refused(auth::Error::PermissionDenied));
    assert_eq!(outcome("", 0, grant(9, 100)), Ok(()));
    assert_eq!(outcome("root", now, put_with_lease("z", 9)), Ok(()));
    assert_eq!(outcome("u1", now, revoke(9)), refused(auth::Error::PermissionDenied));
    // Attaching a key to a lease that the user could not revoke.
    assert_eq!(outcome("u1", now, put_with_lease("a", 9)), refused(auth::Error::PermissionDenied));
    assert_eq!(outcome("root", now, revoke(9)), Ok(()));
}

/// etcd's PR 22386: there an alarm takes the checks away. What an alarm itself refuses, it refuses whoever asks.
#[test]
fn etcd_22386_alarms_do_not_take_rights_checks_away() {
    let mut fixture = guarded();
    let now = fixture.machine.auth().revision();
    let denied = RequestError::Auth(auth::Error::PermissionDenied);
    for (kind, for_delete, for_put) in [
        (AlarmType::Nospace, denied, RequestError::NoSpace),
        (AlarmType::Corrupt, RequestError::Corrupt, RequestError::Corrupt),
    ] {
        fixture.ok(alarm(AlarmAction::Activate, MEMBER, kind));
        let outcome = fixture.apply(request_of("u1", now, delete("z"))).outcome.unwrap();
        assert_eq!(outcome, Err(for_delete));
        let outcome = fixture.apply(request_of("u1", now, put("z", "v"))).outcome.unwrap();
        assert_eq!(outcome, Err(for_put));
        let list = Op::AuthUserList(Default::default());
        let outcome = fixture.apply(request_of("u1", now, list)).outcome.unwrap();
        assert_eq!(outcome, Err(RequestError::Auth(auth::Error::PermissionDenied)));
    }
}

#[test]
fn entries_come_one_after_another() {
    let mut fixture = Fixture::new();
    let applied = fixture.apply(Payload::Empty);
    assert!(matches!(&applied.effects[..], [Effect::EmptyEntry]));
    assert!(applied.outcome.is_none());
    for index in [1, 3] {
        let entry = Committed { index, term: 1, payload: Payload::Empty };
        let error = fixture.machine.apply(&entry, Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), format!("entry {index} comes after entry 1"));
    }
}

#[test]
fn entries_of_unknown_types_are_named() {
    let of_type = |r#type: i32| {
        let entry =
            raftpb::Entry { r#type, index: 4, term: 1, data: Some(Bytes::from_static(b"\xff")) };
        Committed::from_entry(entry).unwrap_err().to_string()
    };
    assert_eq!(of_type(2), "entry 4: a conf change of version 2, which etcd does not apply either");
    assert_eq!(of_type(9), "entry 4: unknown type 9");
    assert!(of_type(1).starts_with("entry 4: conf change: "));
}

fn set_version(version: &str) -> Op {
    Op::ClusterVersionSet(membershippb::ClusterVersionSetRequest { ver: version.to_owned() })
}

fn storage_version(fixture: &mut Fixture) -> Option<String> {
    meta::storage_version(&fixture.machine.writer().view()).unwrap()
}

#[test]
fn rows_say_their_version_from_3_6_on() {
    use machine::StorageMigration::{Done, Settled, Waiting};

    let mut fixture = with_version(Version::v3(6, 14));
    assert_eq!(fixture.machine.migrate_storage(true).unwrap(), Settled, "no cluster version");
    fixture.ok(set_version("3.0.0"));
    assert_eq!(fixture.machine.migrate_storage(true).unwrap(), Settled, "not all members heard");
    fixture.ok(set_version("3.5.0"));
    assert_eq!(fixture.machine.migrate_storage(true).unwrap(), Settled, "3.5 has no row");
    fixture.ok(set_version("3.6.0"));
    let raised = fixture.machine.migrate_storage(false).unwrap();
    assert_eq!(raised, Done(Version::v3(6, 0)), "rising has not to wait");
    assert_eq!(storage_version(&mut fixture).as_deref(), Some("3.6.0"));
    assert_eq!(fixture.machine.migrate_storage(false).unwrap(), Settled);

    let applied = fixture.request(set_version("3.5.0"));
    assert!(applied.effects.iter().any(|effect| matches!(effect, Effect::Snapshot)));
    assert_eq!(fixture.machine.migrate_storage(false).unwrap(), Waiting);
    assert_eq!(storage_version(&mut fixture).as_deref(), Some("3.6.0"));
    assert_eq!(fixture.machine.migrate_storage(true).unwrap(), Done(Version::v3(5, 0)));
    assert_eq!(storage_version(&mut fixture), None);

    let mut old = with_version(VERSION);
    old.ok(set_version("3.5.0"));
    assert_eq!(old.machine.migrate_storage(true).unwrap(), Settled);
    assert_eq!(storage_version(&mut old), None);
}

#[test]
fn the_number_of_learners_is_chosen_from_3_6_on() {
    let second_learner = |version| {
        let options = Options { learners_max: 2, ..Options::new(MEMBER, version) };
        let mut fixture = Fixture::with(options);
        let add = |id: u64, kind: raftpb::ConfChangeType| {
            let peer_urls = vec![format!("http://m{id}:2380")];
            let is_learner = kind == raftpb::ConfChangeType::ConfChangeAddLearnerNode;
            let member = Member { id, peer_urls, is_learner, ..Member::default() };
            let context = ConfChangeContext { member, is_promote: false }.encode();
            Payload::ConfChange(raftpb::ConfChange {
                id: 1,
                r#type: kind.into(),
                node_id: id,
                context: Some(context.into()),
            })
        };
        fixture.apply(add(MEMBER, raftpb::ConfChangeType::ConfChangeAddNode));
        fixture.apply(add(2, raftpb::ConfChangeType::ConfChangeAddLearnerNode));
        let applied = fixture.apply(add(3, raftpb::ConfChangeType::ConfChangeAddLearnerNode));
        applied.outcome.unwrap().map(drop)
    };
    assert_eq!(second_learner(Version::v3(6, 14)), Ok(()));
    assert_eq!(second_learner(VERSION), Err(RequestError::TooManyLearners));
}

#[test]
fn the_target_of_a_downgrade_applies_what_the_newer_version_wrote() {
    let mut fixture = with_version(VERSION);
    let error = fixture.try_apply(request(set_version("3.6.0"))).unwrap_err();
    assert!(matches!(error, Fatal::ClusterVersion { .. }), "{error}");
    let mut fixture = with_version(VERSION);
    fixture.ok(Op::DowngradeInfoSet(membershippb::DowngradeInfoSetRequest {
        enabled: true,
        ver: "3.5.0".to_owned(),
    }));
    fixture.ok(set_version("3.6.0"));
    fixture.ok(set_version("3.5.0"));
}
