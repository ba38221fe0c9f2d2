//! Owned keys, without a cluster: what is answered when, and what is given up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{Compare, RangeRequest, RequestOp, ResponseHeader, TxnRequest};
use proto::mvccpb::KeyValue;

use super::calls::bounded;
use super::keys::{Acquisition, Effect, Keys, Owned, Read};
use crate::cache::Interval;

const LEASE: i64 = 7;
const TTL: Duration = Duration::from_secs(60);

/// Keys of a session, and its clock.
struct Test {
    keys: Keys,
    now: Instant,
}

impl Test {
    fn new() -> Self {
        let now = Instant::now();
        let mut keys = Keys::new("lp/".into());
        keys.start(LEASE, now + TTL);
        Self { keys, now }
    }

    fn read(&mut self, key: &'static str) -> Read {
        self.keys.read(&range(key), self.now)
    }

    fn acquisition(&mut self, key: &'static str) -> Acquisition {
        match self.read(key) {
            Read::Acquire { lease: LEASE, ticket } => ticket,
            other @ (Read::Answer(_) | Read::Acquire { .. } | Read::Pass) => {
                panic!("{key}: {other:?}")
            }
        }
    }

    fn acquired(&mut self, ticket: Acquisition, revision: i64, value: Option<&'static str>) {
        let content = value.map(|value| pair("k", value, revision - 1));
        self.keys.acquired(ticket, Some(Owned { revision, content }), self.now);
    }

    /// Owns `k` by a lease key of this revision.
    fn own(&mut self, revision: i64, value: Option<&'static str>) {
        let ticket = self.acquisition("k");
        self.acquired(ticket, revision, value);
    }

    /// What is answered from memory; `None` where the cluster is asked.
    fn value(&mut self, key: &'static str) -> Option<Option<Bytes>> {
        match self.read(key) {
            Read::Answer(answer) => Some(answer.kvs.first().map(|pair| pair.value.clone())),
            Read::Acquire { ticket, .. } => {
                self.keys.perhaps_acquired(&ticket);
                None
            }
            Read::Pass => None,
        }
    }

    fn has(&mut self, value: &'static str) -> bool {
        self.value("k") == Some(Some(value.into()))
    }
}

fn range(key: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

fn pair(key: &'static str, value: &'static str, revision: i64) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    }
}

fn interval(key: &'static str, end: &'static str) -> Interval {
    Interval { key: key.into(), end: end.into() }
}

fn put(value: Option<&'static str>, lease: Option<i64>) -> Effect {
    Effect::Put { key: "k".into(), value: value.map(Into::into), lease }
}

#[test]
fn what_is_owned_is_answered_until_the_lease_ends() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    assert!(test.has("1"));
    test.now += TTL;
    assert!(!test.has("1"), "past the end");
    assert!(test.keys.renewed(test.now + TTL));
    assert!(test.has("1"), "renewed, so it never ended");
    assert!(test.keys.end());
    assert!(matches!(test.read("k"), Read::Pass), "nothing is acquired without a session");
    test.keys.start(LEASE, test.now + TTL);
    assert_eq!(test.value("k"), None, "another session owns nothing");
}

#[test]
fn a_session_whose_watch_is_silent_ends_although_its_lease_lives() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    test.keys.see(Some(&ResponseHeader { revision: 9, ..ResponseHeader::default() }));
    assert!(test.keys.renewed(test.now + TTL));
    // Older than what was known when it was asked.
    test.keys.heard(8);
    assert!(!test.keys.renewed(test.now + 2 * TTL));
    test.now += TTL;
    assert!(!test.has("1"), "the last renewal does not count");
    test.keys.heard(9);
    assert!(test.keys.renewed(test.now + TTL));
    assert!(test.has("1"));
    assert!(!test.keys.renewed(test.now + 2 * TTL), "each renewal needs a sign of its own");
    test.keys.start(LEASE, test.now + TTL);
    assert!(test.keys.renewed(test.now + 2 * TTL), "another session's watch owes nothing yet");
}

#[test]
fn that_there_is_nothing_is_known_too() {
    let mut test = Test::new();
    test.own(5, None);
    assert_eq!(test.value("k"), Some(None));
}

#[test]
fn answers_are_a_members() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    test.keys.see(Some(&ResponseHeader { revision: 9, ..ResponseHeader::default() }));
    test.keys.see(Some(&ResponseHeader { revision: 8, ..ResponseHeader::default() }));
    for (request, values) in [
        (range("k"), Some("1")),
        (RangeRequest { keys_only: true, ..range("k") }, Some("")),
        (RangeRequest { count_only: true, ..range("k") }, None),
        (RangeRequest { min_mod_revision: 4, ..range("k") }, Some("1")),
        (RangeRequest { min_mod_revision: 5, ..range("k") }, None),
        (RangeRequest { max_create_revision: 3, ..range("k") }, None),
        (RangeRequest { serializable: true, limit: 1, ..range("k") }, Some("1")),
    ] {
        let Read::Answer(answer) = test.keys.read(&request, test.now) else {
            panic!("{request:?}")
        };
        let found = answer.kvs.first().map(|pair| pair.value.clone());
        assert_eq!(found, values.map(Into::into), "{request:?}");
        assert_eq!((answer.count, answer.header.unwrap().revision), (1, 9), "{request:?}");
    }
    for request in [
        RangeRequest { range_end: "l".into(), ..range("k") },
        RangeRequest { revision: 3, ..range("k") },
        RangeRequest { sort_target: 77, ..range("k") },
        range("lp/k"),
    ] {
        assert!(matches!(test.keys.read(&request, test.now), Read::Pass), "{request:?}");
    }
}

#[test]
fn writes_of_our_own_change_what_is_held() {
    for (effects, value) in [
        (vec![put(Some("2"), None)], Some(Some("2"))),
        (vec![put(Some("2"), Some(0))], Some(Some("2"))),
        (vec![put(None, None)], Some(Some("1"))),
        (vec![Effect::Delete(interval("a", "l"))], Some(None)),
        (vec![Effect::Delete(interval("m", "\0"))], Some(Some("1"))),
        (Vec::new(), Some(Some("1"))),
        // It would end by itself.
        (vec![put(Some("2"), Some(3))], None),
    ] {
        let mut test = Test::new();
        test.own(5, Some("1"));
        let writing = test.keys.write(vec![interval("k", ""), interval("a", "l")]);
        assert_eq!(test.keys.guard(&"k".into()), 5);
        assert_eq!(test.value("k"), None, "while it is written");
        test.keys.written(writing, 8, &effects);
        assert_eq!(test.value("k"), value.map(|v| v.map(Bytes::from)), "{effects:?}");
    }
    let mut test = Test::new();
    test.own(5, Some("1"));
    let writing = test.keys.write(vec![interval("k", "")]);
    test.keys.written(writing, 8, &[put(Some("2"), None)]);
    let Read::Answer(answer) = test.read("k") else { panic!() };
    let expected =
        KeyValue { version: 2, create_revision: 4, mod_revision: 8, ..pair("k", "2", 0) };
    assert_eq!(answer.kvs, [expected]);
}

#[test]
fn writes_that_overlap_leave_nothing_that_is_known() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    let (one, two) =
        (test.keys.write(vec![interval("k", "")]), test.keys.write(vec![interval("k", "")]));
    test.keys.written(one, 9, &[put(Some("2"), None)]);
    assert!(matches!(test.read("k"), Read::Pass), "the other is under way");
    test.keys.written(two, 8, &[put(Some("3"), None)]);
    // It is still owned, and asked for by one at a time.
    let ticket = test.acquisition("k");
    assert!(matches!(test.read("k"), Read::Pass));
    test.acquired(ticket, 5, Some("2"));
    assert!(test.has("2"));
}

#[test]
fn a_read_that_a_write_overtook_is_not_held() {
    let mut test = Test::new();
    let ticket = test.acquisition("k");
    let writing = test.keys.write(vec![interval("k", "")]);
    test.acquired(ticket, 5, Some("1"));
    test.keys.written(writing, 8, &[put(Some("2"), None)]);
    assert_eq!(test.value("k"), None);
    assert_eq!(test.keys.guard(&"k".into()), 5, "but it is owned");
}

#[test]
fn a_write_of_unknown_outcome_costs_the_ownership() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    let writing = test.keys.write(vec![interval("a", "\0")]);
    test.keys.perhaps_written(writing);
    assert_eq!(test.keys.guard(&"k".into()), 0);
    assert!(matches!(test.read("k"), Read::Pass), "not before the lease key is gone");
    assert_eq!(test.keys.next_release(), Some(("k".into(), 5)));
    test.keys.released(&"k".into(), 5);
    test.own(9, Some("2"));
    assert!(test.has("2"));
    // One that was never sent costs nothing.
    let writing = test.keys.write(vec![interval("k", "")]);
    test.keys.not_written(writing);
    assert!(test.has("2"));
}

#[test]
fn what_another_wants_is_given_up_and_left_alone_for_a_while() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    test.keys.revoked("k".into(), 5, 8, test.now);
    assert!(matches!(test.read("k"), Read::Pass));
    assert_eq!(test.keys.next_release(), Some(("k".into(), 5)));
    assert!(!test.keys.has_releases());
    test.keys.deleted(&"k".into(), 9);
    assert!(matches!(test.read("k"), Read::Pass), "cooling");
    test.now += Duration::from_secs(2);
    test.own(12, Some("2"));
    // News of the old lease key, late.
    test.keys.deleted(&"k".into(), 9);
    test.keys.revoked("k".into(), 5, 8, test.now);
    assert!(test.has("2"));
    assert!(!test.keys.has_releases());
    // Somebody deletes the lease key past the protocol.
    test.keys.deleted(&"k".into(), 13);
    assert_eq!(test.value("k"), None);
}

#[test]
fn late_news_of_an_earlier_lease_key_leave_a_pending_release_alone() {
    let mut test = Test::new();
    test.own(12, Some("1"));
    test.keys.revoked("k".into(), 12, 14, test.now);
    test.keys.revoked("k".into(), 5, 8, test.now);
    assert_eq!(test.keys.next_release(), Some(("k".into(), 12)));
    test.keys.revoked("k".into(), 5, 8, test.now);
    assert!(!test.keys.has_releases());
}

#[test]
fn an_answer_that_is_late_is_not_that_of_a_later_question() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    let (one, two) =
        (test.keys.write(vec![interval("k", "")]), test.keys.write(vec![interval("k", "")]));
    test.keys.not_written(one);
    test.keys.not_written(two);
    let late = test.acquisition("k");
    let left = test.acquisition("other");
    for key in ["k", "other"] {
        test.keys.revoked(key.into(), 5, 8, test.now);
        test.keys.deleted(&key.into(), 9);
    }
    test.keys.perhaps_acquired(&left);
    test.now += Duration::from_secs(2);

    let current = test.acquisition("k");
    for _ in 0..2 {
        let writing = test.keys.write(vec![interval("k", "")]);
        test.keys.not_written(writing);
    }
    test.acquired(late, 5, Some("1"));
    assert_eq!(test.keys.guard(&"k".into()), 0);
    assert!(matches!(test.read("k"), Read::Pass), "it is still being asked for");
    test.acquired(current, 12, Some("2"));
    assert_eq!((test.value("k"), test.keys.guard(&"k".into())), (None, 12));

    let _current = test.acquisition("other");
    test.keys.perhaps_acquired(&left);
    assert!(matches!(test.read("other"), Read::Pass), "asked for by another");
}

#[test]
fn whoever_deletes_his_own_lease_keys_owns_nothing() {
    for (deleted, is_owned) in [
        (interval("lp/k", ""), false),
        (interval("lp/", "lp0"), false),
        (interval("lp/a", "lp/k\0"), false),
        (interval("l", "lp/l"), false),
        (interval("l", "z"), false),
        (interval("lp/j", "\0"), false),
        (interval("lp/j", ""), true),
        (interval("lp/a", "lp/k"), true),
        (interval("lp/", "lp/\0"), true),
        (interval("lp/l", "\0"), true),
        (interval("l", "lp/"), true),
        (interval("lp0", "\0"), true),
    ] {
        let mut test = Test::new();
        test.own(5, Some("1"));
        let writing = test.keys.write(vec![deleted.clone()]);
        assert_eq!(writing.intervals(), std::slice::from_ref(&deleted));
        if !is_owned {
            assert_eq!(test.value("k"), None, "{deleted:?} is under way");
        }
        test.keys.written(writing, 8, &[Effect::Delete(deleted.clone())]);
        assert_eq!(test.keys.guard(&"k".into()) == 5, is_owned, "{deleted:?}");
        assert_eq!(test.has("1"), is_owned, "{deleted:?}");

        // Where nobody knows whether it has happened.
        test.keys.end();
        test.keys.start(LEASE, test.now + TTL);
        test.own(9, Some("1"));
        let writing = test.keys.write(vec![deleted.clone()]);
        test.keys.perhaps_written(writing);
        if !is_owned {
            assert_eq!(test.keys.guard(&"k".into()), 0, "{deleted:?}");
        }
    }
}

#[test]
fn what_is_revoked_before_it_is_known_to_be_owned_is_not_held() {
    let mut test = Test::new();
    let ticket = test.acquisition("k");
    test.keys.revoked("k".into(), 5, 6, test.now);
    test.acquired(ticket, 5, Some("1"));
    assert_eq!(test.value("k"), None);
    assert_eq!(test.keys.next_release(), Some(("k".into(), 5)));
    // Of a reader who is gone there is a lease key and nothing else.
    test.keys.revoked("other".into(), 7, 8, test.now);
    assert_eq!(test.keys.next_release(), Some(("other".into(), 7)));
}

#[test]
fn what_others_own_is_not_asked_for_again_at_once() {
    let mut test = Test::new();
    let ticket = test.acquisition("k");
    assert!(matches!(test.read("k"), Read::Pass), "one asks at a time");
    test.keys.acquired(ticket, None, test.now);
    assert!(matches!(test.read("k"), Read::Pass));
    test.now += Duration::from_secs(2);
    test.acquisition("k");
}

#[test]
fn what_an_earlier_session_asked_for_is_not_of_this_one() {
    let mut test = Test::new();
    let ticket = test.acquisition("k");
    let writing = test.keys.write(vec![interval("k", "")]);
    test.keys.end();
    test.keys.start(LEASE, test.now + TTL);
    test.keys.not_written(writing);
    let current = test.acquisition("k");
    test.acquired(ticket, 5, Some("1"));
    assert!(matches!(test.read("k"), Read::Pass));
    test.acquired(current, 6, Some("2"));
    assert!(test.has("2"));
}

#[test]
fn the_least_recently_used_is_given_up_for_room() {
    let mut test = Test::new();
    // 65 of these are more than there is room for.
    let value = Bytes::from(vec![0; 1 << 20]);
    for n in 0..65_u8 {
        let key = Bytes::from(vec![b'a', n]);
        let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let Read::Acquire { ticket, .. } = test.keys.read(&request, test.now) else { panic!() };
        let content = Some(KeyValue { key, value: value.clone(), ..KeyValue::default() });
        test.keys.acquired(ticket, Some(Owned { revision: 5, content }), test.now);
        // The first stays in use.
        let first = RangeRequest { key: vec![b'a', 0].into(), ..RangeRequest::default() };
        assert!(matches!(test.keys.read(&first, test.now), Read::Answer(_)));
    }
    let mut given_up = Vec::new();
    while let Some((key, _)) = test.keys.next_release() {
        given_up.push(key);
    }
    assert_eq!(given_up, [vec![b'a', 1], vec![b'a', 2]]);
}

#[test]
fn keys_are_counted() {
    let mut test = Test::new();
    let request = |n: u32| {
        let key = Bytes::from(n.to_be_bytes().to_vec());
        RangeRequest { key, ..RangeRequest::default() }
    };
    for n in 0..8192 {
        let Read::Acquire { ticket, .. } = test.keys.read(&request(n), test.now) else { panic!() };
        let owned = Owned { revision: 5, content: None };
        test.keys.acquired(ticket, Some(owned), test.now);
    }
    assert!(matches!(test.keys.read(&request(9000), test.now), Read::Pass));
    let (key, revision) = test.keys.next_release().unwrap();
    assert_eq!(key, request(0).key);
    test.keys.released(&key, revision);
    assert!(matches!(test.keys.read(&request(9000), test.now), Read::Acquire { .. }));
}

#[test]
fn too_many_intervals_are_guarded_as_one() {
    let keys =
        |names: &[&'static str]| names.iter().map(|name| interval(name, "")).collect::<Vec<_>>();
    assert_eq!(bounded(keys(&["b", "a", "b"]), 2), [interval("a", ""), interval("b", "")]);
    assert_eq!(bounded(keys(&["b", "a", "b"]), 1), [interval("a", "b\0")]);
    assert_eq!(bounded(vec![interval("c", "e"), interval("b", "\0")], 1), [interval("b", "\0")]);
    assert_eq!(bounded(vec![interval("a", "e"), interval("b", "c")], 1), [interval("a", "e")]);
}

#[test]
fn transactions_that_need_no_more_are_answered() {
    let mut test = Test::new();
    test.own(5, Some("1"));
    let ticket = test.acquisition("absent");
    test.keys.acquired(ticket, Some(Owned { revision: 6, content: None }), test.now);
    let get = |key| RequestOp { request: Some(Op::RequestRange(range(key))) };
    let compare =
        |key: &'static str, target: CompareTarget, result: CompareResult, union| Compare {
            key: key.into(),
            target: target.into(),
            result: result.into(),
            target_union: Some(union),
            ..Compare::default()
        };
    let value = |value: &'static str| TargetUnion::Value(value.into());
    use {CompareResult as R, CompareTarget as T};
    for (compare, succeeds) in [
        (compare("k", T::Value, R::Equal, value("1")), Some(true)),
        (compare("k", T::Value, R::Greater, value("1")), Some(false)),
        (compare("k", T::Version, R::Less, TargetUnion::Version(2)), Some(true)),
        (compare("k", T::Mod, R::NotEqual, TargetUnion::ModRevision(4)), Some(false)),
        (compare("k", T::Lease, R::Equal, TargetUnion::Lease(0)), Some(true)),
        (compare("absent", T::Create, R::Equal, TargetUnion::CreateRevision(0)), Some(true)),
        (compare("absent", T::Value, R::NotEqual, value("1")), Some(false)),
        (compare("k", T::Value, R::Equal, TargetUnion::Version(1)), Some(false)),
        (compare("unknown", T::Value, R::Equal, value("1")), None),
    ] {
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![get("k"), get("absent")],
            failure: vec![get("k")],
        };
        let response = test.keys.evaluate(&txn, test.now);
        let seen = response.as_ref().map(|txn| (txn.succeeded, txn.responses.len()));
        let expected = succeeds.map(|succeeds| (succeeds, if succeeds { 2 } else { 1 }));
        assert_eq!(seen, expected, "{:?}", txn.compare);
    }
    let txn = |success| TxnRequest { success, ..TxnRequest::default() };
    for ops in [vec![], vec![get("unknown")], vec![RequestOp::default()]] {
        assert_eq!(test.keys.evaluate(&txn(ops), test.now), None);
    }
    test.now += TTL;
    assert_eq!(test.keys.evaluate(&txn(vec![get("k")]), test.now), None);
}
