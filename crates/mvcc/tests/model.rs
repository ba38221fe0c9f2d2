//! Random requests against the store and a naive history: equal answers, errors, rows and hashes, across compactions in
//! any state of completion, restarts and crashes.

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::{Fixture, Model, Refused, cases, refused};
use mvcc::{HashedAt, LeaseChange, Rules, check};
use proptest::prelude::*;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::TargetUnion, request_op::Request,
};
use vfs::sim::SimDisk;

#[derive(Debug, Clone)]
enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    ReadTxn(TxnRequest),
    /// Distance below the current revision; negative is in the future.
    Compact(i64),
    CompactFurther(usize),
    Commit,
    Restart,
    /// Distance below the current revision.
    Hash(i64),
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => "[a-e]", 1 => "[a-e]{2}", 1 => Just("\u{0}".to_owned())].prop_map(Bytes::from)
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(Bytes::new()), 2 => Just(Bytes::from_static(b"\0")), 3 => key()]
}

/// A revision relative to what the run has by then: drawn small, since runs are short.
fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0), 6 => 1i64..40, 1 => -6i64..0]
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![6 => Just(0i64), 2 => 1i64..20, 1 => Just(-1i64)];
    let shape = (
        key(),
        range_end(),
        prop_oneof![2 => Just(0i64), 2 => 1i64..5, 1 => Just(-1i64), 1 => Just(i64::MAX)],
    );
    let sort =
        (prop_oneof![3 => Just(0), 4 => 1..3, 1 => Just(7)], prop_oneof![2 => Just(0), 3 => 1..5]);
    (
        shape,
        revision(),
        sort,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        [bound(), bound(), bound(), bound()],
    )
        .prop_map(
            |(
                (key, range_end, limit),
                revision,
                (sort_order, sort_target),
                keys_only,
                count_only,
                bounds,
            )| {
                let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] =
                    bounds;
                RangeRequest {
                    key,
                    range_end,
                    limit,
                    revision,
                    sort_order,
                    sort_target,
                    serializable: false,
                    keys_only,
                    count_only,
                    min_mod_revision,
                    max_mod_revision,
                    min_create_revision,
                    max_create_revision,
                }
            },
        )
}

fn put() -> impl Strategy<Value = PutRequest> {
    let lease = prop_oneof![5 => Just(0i64), 2 => 1i64..3, 1 => Just(9i64)];
    (
        key(),
        "[x-z]{0,3}",
        lease,
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { Bytes::from(value) },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        (0i64..4).prop_map(|operand| Some(TargetUnion::Version(operand))),
        (0i64..20).prop_map(|operand| Some(TargetUnion::CreateRevision(operand))),
        (0i64..20).prop_map(|operand| Some(TargetUnion::ModRevision(operand))),
        "[x-z]{0,2}".prop_map(|operand| Some(TargetUnion::Value(operand.into()))),
        (0i64..3).prop_map(|operand| Some(TargetUnion::Lease(operand))),
        Just(None),
    ];
    (0..5i32, 0..6i32, key(), prop_oneof![3 => Just(Bytes::new()), 1 => range_end()], operand)
        .prop_map(|(result, target, key, range_end, target_union)| {
            // Mostly an operand that fits; the others have their own rules.
            let target = match (&target_union, target) {
                (Some(TargetUnion::Version(_)), 1..) => 0,
                (Some(TargetUnion::CreateRevision(_)), 1..) => 1,
                (Some(TargetUnion::ModRevision(_)), 1..) => 2,
                (Some(TargetUnion::Value(_)), 1..) => 3,
                (Some(TargetUnion::Lease(_)), 1..) => 4,
                (_, target) => target,
            };
            Compare { result, target, key, range_end, target_union }
        })
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => range().prop_map(|request| op(Request::RequestRange(request))),
        3 => put().prop_map(|request| op(Request::RequestPut(request))),
        2 => delete().prop_map(|request| op(Request::RequestDeleteRange(request))),
    ];
    let ops = leaf.prop_recursive(2, 8, 3, |inner| {
        let list = || prop::collection::vec(inner.clone(), 0..3);
        (prop::collection::vec(compare(), 0..2), list(), list()).prop_map(
            |(compare, success, failure)| {
                op(Request::RequestTxn(TxnRequest { compare, success, failure }))
            },
        )
    });
    let list = || prop::collection::vec(ops.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), list(), list())
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn read_txn() -> impl Strategy<Value = TxnRequest> {
    let list = || {
        prop::collection::vec(range().prop_map(|request| op(Request::RequestRange(request))), 0..3)
    };
    (prop::collection::vec(compare(), 0..3), list(), list())
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => range().prop_map(Step::Range),
        12 => put().prop_map(Step::Put),
        4 => delete().prop_map(Step::Delete),
        6 => txn().prop_map(Step::Txn),
        3 => read_txn().prop_map(Step::ReadTxn),
        2 => (-2i64..12).prop_map(Step::Compact),
        4 => (1usize..6).prop_map(Step::CompactFurther),
        2 => Just(Step::Commit),
        1 => Just(Step::Restart),
        3 => (-1i64..15).prop_map(Step::Hash),
    ]
}

/// The hole in the duplicate check; it has its own test (`a_key_deleted_and_put_in_one_txn`).
fn uses_the_hole(request: &TxnRequest) -> bool {
    fn ops<'r>(request: &'r TxnRequest, all: &mut Vec<&'r Request>) {
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Request::RequestTxn(nested)) => ops(nested, all),
                Some(request) => all.push(request),
                None => {}
            }
        }
    }
    let mut all = Vec::new();
    ops(request, &mut all);
    let puts = all.iter().any(|op| matches!(op, Request::RequestPut(_)));
    let deletes = all
        .iter()
        .any(|op| matches!(op, Request::RequestDeleteRange(delete) if *delete.range_end == *b"\0"));
    puts && deletes
}

/// Compares what a write left: revision, events and leases.
fn check_changes(model: &Model, before: i64, changes: &mvcc::Changes) -> Result<(), TestCaseError> {
    prop_assert_eq!(changes.revision, model.current);
    let made: Vec<_> =
        model.changes.iter().filter(|change| change.revision.main > before).collect();
    prop_assert_eq!(changes.batch.is_some(), !made.is_empty());
    let expected: Vec<LeaseChange> = made
        .iter()
        .map(|change| LeaseChange {
            key: change.key.clone(),
            lease: change.pair.as_ref().map_or(0, |pair| pair.lease),
        })
        .collect();
    prop_assert_eq!(changes.lease_changes().collect::<Vec<_>>(), expected);
    if let Some(batch) = &changes.batch {
        prop_assert_eq!(batch.revision, model.current);
    }
    Ok(())
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut fixture = Fixture::new();
    let mut model = Model::default();
    // What the cache of compaction hashes should hold, and the last compaction that has finished.
    let mut cached: Vec<HashedAt> = Vec::new();
    let mut scheduled: Vec<(i64, Option<HashedAt>)> = Vec::new();
    for step in steps {
        let before = model.current;
        match step {
            Step::Range(request) => {
                let got = fixture.reader.range(&request).map_err(|error| refused(&error));
                let got = got.map(|range| range.into_response().expect("rows are sound"));
                prop_assert_eq!(got, model.range(&request, model.current), "{:?}", request);
            }
            Step::Put(request) => {
                let got = fixture.put(&request, &model.leases);
                let expected = model.put(&request);
                match got {
                    Ok((response, changes)) => {
                        prop_assert_eq!(Ok(response), expected, "{:?}", request);
                        check_changes(&model, before, &changes)?;
                    }
                    Err(error) => prop_assert_eq!(Err(refused(&error)), expected, "{:?}", request),
                }
            }
            Step::Delete(request) => {
                let (response, changes) = fixture
                    .store
                    .delete_range(&mut fixture.writer, &request)
                    .expect("rows are sound");
                prop_assert_eq!(response, model.delete_range(&request), "{:?}", request);
                check_changes(&model, before, &changes)?;
            }
            Step::Txn(request) => {
                if check::txn(&request, 128, Rules::default()).is_err() || uses_the_hole(&request) {
                    continue;
                }
                let leases = model.leases.clone();
                let got = fixture
                    .store
                    .txn(&mut fixture.writer, &request, &|lease| leases.contains(&lease));
                let expected = model.txn(&request);
                match got {
                    Ok((response, changes)) => {
                        prop_assert_eq!(Ok(response), expected, "{:?}", request);
                        check_changes(&model, before, &changes)?;
                    }
                    Err(error) => prop_assert_eq!(Err(refused(&error)), expected, "{:?}", request),
                }
            }
            Step::ReadTxn(request) => {
                let got = fixture.reader.txn(&request).map_err(|error| refused(&error));
                prop_assert_eq!(got, model.txn(&request), "{:?}", request);
            }
            Step::Compact(distance) => {
                let revision = model.current - distance;
                let previous = model.compacted;
                let rows = model.rows();
                let got = fixture.store.compact(&mut fixture.writer, revision);
                let expected = model.compact(revision);
                match got {
                    Ok(compaction) => {
                        prop_assert_eq!(Ok(()), expected);
                        let hashed = scheduled.is_empty().then(|| HashedAt {
                            hash: model.hash(&rows, revision, previous, true),
                            revision,
                            compact_revision: previous,
                        });
                        scheduled.push((revision, hashed));
                        fixture.compactions.push(compaction);
                    }
                    Err(error) => prop_assert_eq!(Err(refused(&error)), expected),
                }
            }
            Step::CompactFurther(limit) => fixture.step_compaction(limit),
            Step::Commit => fixture.commit(),
            Step::Restart => {
                fixture = fixture.restart();
                cached.clear();
                // Only the last one is known to the database, and what is left of it is not hashed.
                scheduled =
                    scheduled.pop().map(|(revision, _)| (revision, None)).into_iter().collect();
                let live = model.state(model.current);
                let attached: Vec<_> = live
                    .values()
                    .filter(|pair| pair.lease != 0)
                    .map(|pair| (pair.lease, pair.key.clone()))
                    .collect();
                prop_assert_eq!(&fixture.attachments, &attached);
            }
            Step::Hash(distance) => {
                let revision = model.current - distance;
                let got = fixture.reader.hash_kv(revision);
                if let Some(hashed) = cached.iter().find(|hashed| hashed.revision == revision) {
                    prop_assert_eq!(got.expect("cached").hashed, *hashed);
                } else if revision > model.current {
                    prop_assert_eq!(refused(&got.expect_err("future")), Refused::Future);
                } else if revision > 0 && revision < model.compacted {
                    prop_assert_eq!(refused(&got.expect_err("compacted")), Refused::Compacted);
                } else {
                    let at = if revision == 0 { model.current } else { revision };
                    // Over the rows that are there: when no row would be kept none is skipped, so that the answer shows (in
                    // etcd too) how far the compaction has come.
                    let expected = HashedAt {
                        hash: model.hash(&fixture.rows(), at, model.compacted, false),
                        revision: at,
                        compact_revision: model.compacted,
                    };
                    let got = got.expect("rows are sound");
                    prop_assert_eq!(got.hashed, expected);
                    prop_assert_eq!(got.current_revision, model.current);
                }
            }
        }
        while scheduled.len() > fixture.compactions.len() {
            if let (_, Some(hashed)) = scheduled.remove(0) {
                cached.push(hashed);
                cached.sort_by_key(|hashed| hashed.revision);
                cached.drain(..cached.len().saturating_sub(10));
            }
        }
        prop_assert_eq!(fixture.reader.current_revision(), model.current);
        prop_assert_eq!(fixture.reader.compact_revision(), model.compacted);
    }
    fixture.finish_compactions();
    prop_assert_eq!(fixture.rows(), model.rows());
    let state = model.state(model.current);
    let fixture = fixture.restart();
    prop_assert_eq!(fixture.rows(), model.rows());
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let range = fixture
        .reader
        .range(&all)
        .expect("rows are sound")
        .into_response()
        .expect("rows are sound");
    prop_assert_eq!(range.kvs, state.into_values().collect::<Vec<_>>());
    prop_assert!(fixture.compactions.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_as_the_naive_history_does(steps in prop::collection::vec(step(), 1..90)) {
        run(steps)?;
    }
}

fn put_request(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn get(fixture: &Fixture, key: &'static str) -> Option<proto::mvccpb::KeyValue> {
    let request = RangeRequest { key: key.into(), ..Default::default() };
    fixture.reader.range(&request).expect("readable").into_response().expect("sound").kvs.pop()
}

#[test]
fn a_key_deleted_and_put_in_one_txn() {
    let mut fixture = Fixture::new();
    fixture.put(&put_request("b", "old"), &BTreeSet::new()).unwrap();
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
    let success = vec![
        op(Request::RequestDeleteRange(delete)),
        op(Request::RequestPut(put_request("b", "new"))),
    ];
    let request = TxnRequest { success, ..Default::default() };
    check::txn(&request, 128, Rules::default()).unwrap();
    let (_, changes) = fixture.store.txn(&mut fixture.writer, &request, &|_| false).unwrap();
    assert_eq!(changes.batch.unwrap().events.len(), 2);
    let check = |fixture: &Fixture| {
        let pair = get(fixture, "b").unwrap();
        assert_eq!(
            (&*pair.value, pair.version, pair.create_revision, pair.mod_revision),
            (&b"new"[..], 1, 3, 3)
        );
    };
    check(&fixture);
    // A compaction exactly there keeps the pair, and so does the one after.
    for revision in [3, 4] {
        fixture.put(&put_request("c", "more"), &BTreeSet::new()).unwrap();
        let compaction = fixture.store.compact(&mut fixture.writer, revision).unwrap();
        fixture.compactions.push(compaction);
        fixture.finish_compactions();
        check(&fixture);
        fixture = fixture.restart();
        check(&fixture);
    }
}

#[test]
fn a_put_that_keeps_what_the_same_txn_deleted_is_refused() {
    // The reverse of the hole: etcd ends the process here.
    let mut fixture = Fixture::new();
    fixture.put(&put_request("b", "old"), &BTreeSet::new()).unwrap();
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
    let put = PutRequest { ignore_value: true, ..put_request("b", "") };
    let success = vec![op(Request::RequestDeleteRange(delete)), op(Request::RequestPut(put))];
    let request = TxnRequest { success, ..Default::default() };
    check::txn(&request, 128, Rules::default()).unwrap();
    let error = fixture.store.txn(&mut fixture.writer, &request, &|_| false).unwrap_err();
    assert_eq!(refused(&error), Refused::KeyNotFound);
    assert_eq!(fixture.reader.current_revision(), 2);
    assert_eq!(get(&fixture, "b").unwrap().value, "old");
}

#[test]
fn which_error_wins_differs_between_a_put_and_a_txn() {
    // A put looks up its lease first, the checks of a txn look for the key first, before 3.7.
    let mut fixture = Fixture::new();
    let put = PutRequest { ignore_value: true, lease: 77, ..put_request("k", "") };
    let error = fixture.put(&put, &BTreeSet::new()).unwrap_err();
    assert_eq!(refused(&error), Refused::LeaseNotFound);
    let success = vec![op(Request::RequestPut(put.clone()))];
    let request = TxnRequest { success, ..Default::default() };
    for (minor, expected) in [(6, Refused::KeyNotFound), (7, Refused::LeaseNotFound)] {
        let mut fixture = Fixture::open_as(SimDisk::new(), Rules::of_minor(minor));
        let error = fixture.store.txn(&mut fixture.writer, &request, &|_| false).unwrap_err();
        assert_eq!(refused(&error), expected, "3.{minor}");
    }
    // In 3.5, all puts are checked before all ranges.
    let future = RangeRequest { key: "k".into(), revision: 9, ..Default::default() };
    let success = vec![op(Request::RequestRange(future)), op(Request::RequestPut(put))];
    let request = TxnRequest { success, ..Default::default() };
    let error = fixture.store.txn(&mut fixture.writer, &request, &|_| false).unwrap_err();
    assert_eq!(refused(&error), Refused::KeyNotFound);
}

#[test]
fn from_3_6_on_the_first_faulty_operation_wins() {
    let future = RangeRequest { key: "k".into(), revision: 9, ..Default::default() };
    let put = PutRequest { lease: 77, ..put_request("k", "") };
    let success = vec![op(Request::RequestRange(future)), op(Request::RequestPut(put))];
    let request = TxnRequest { success, ..Default::default() };
    for (minor, expected) in [(5, Refused::LeaseNotFound), (6, Refused::Future)] {
        let mut fixture = Fixture::open_as(SimDisk::new(), Rules::of_minor(minor));
        let error = fixture.store.txn(&mut fixture.writer, &request, &|_| false).unwrap_err();
        assert_eq!(refused(&error), expected, "3.{minor}");
    }
}

#[test]
fn keys_alone_come_without_leases_from_3_7_on() {
    use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
    for (minor, by, lease) in
        [(6, SortTarget::Mod, 7), (7, SortTarget::Mod, 0), (7, SortTarget::Value, 7)]
    {
        let mut fixture = Fixture::open_as(SimDisk::new(), Rules::of_minor(minor));
        for key in ["a", "b", "c"] {
            let put = PutRequest { lease: 7, ..put_request(key, "v") };
            fixture.put(&put, &BTreeSet::from([7])).unwrap();
        }
        let request = RangeRequest {
            key: "a".into(),
            range_end: "z".into(),
            limit: 2,
            sort_order: SortOrder::Descend.into(),
            sort_target: by.into(),
            keys_only: true,
            ..RangeRequest::default()
        };
        let found = fixture.reader.range(&request).unwrap().into_response().unwrap();
        assert_eq!((found.count, found.more), (3, true));
        assert!(found.kvs.iter().all(|kv| kv.lease == lease && kv.value.is_empty()));
        assert!(found.kvs.iter().all(|kv| kv.version == 1 && kv.create_revision > 1));
        if by == SortTarget::Mod {
            assert_eq!(found.kvs.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [4, 3]);
        }
        let single = RangeRequest { range_end: Bytes::new(), ..request };
        let found = fixture.reader.range(&single).unwrap().into_response().unwrap();
        assert_eq!((found.kvs[0].key.as_ref(), found.kvs[0].lease), (&b"a"[..], lease));
    }
}

#[test]
fn what_takes_more_than_a_moment_is_given_up() {
    let mut fixture = Fixture::open_as(SimDisk::new(), Rules::of_minor(7));
    let all = |keys_only, limit| RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        keys_only,
        limit,
        ..RangeRequest::default()
    };
    let put = |number: u32, bytes: usize| PutRequest {
        key: format!("k{number:04}").into(),
        value: vec![b'v'; bytes].into(),
        ..PutRequest::default()
    };
    for number in 0..2000 {
        fixture.put(&put(number, 1), &BTreeSet::new()).unwrap();
    }
    for request in [all(false, 0), all(true, 3)] {
        let little = fixture.reader.range_if_little(&request).unwrap();
        assert_eq!(little, Some(fixture.reader.range(&request).unwrap()));
    }
    fixture.put(&put(1, 300_000), &BTreeSet::new()).unwrap();
    assert_eq!(fixture.reader.range_if_little(&all(false, 0)).unwrap(), None);
    assert!(fixture.reader.range_if_little(&all(true, 0)).unwrap().is_some());
    for number in 2000..2100 {
        fixture.put(&put(number, 1), &BTreeSet::new()).unwrap();
    }
    assert_eq!(fixture.reader.range_if_little(&all(true, 1)).unwrap(), None, "it counts them all");
    let page = fixture.reader.range_page(&all(true, 1)).unwrap();
    assert_eq!((page.kvs.len(), page.more), (1, true));
    let ops = vec![op(Request::RequestRange(all(false, 1)))];
    let txn = TxnRequest { success: ops, ..TxnRequest::default() };
    assert_eq!(fixture.reader.txn_if_little(&txn).unwrap(), None);
}

#[test]
fn compaction_at_zero_works_once() {
    let mut fixture = Fixture::new();
    assert_eq!(
        refused(&fixture.store.compact(&mut fixture.writer, -1).unwrap_err()),
        Refused::Compacted
    );
    assert_eq!(
        refused(&fixture.store.compact(&mut fixture.writer, 2).unwrap_err()),
        Refused::Future
    );
    let compaction = fixture.store.compact(&mut fixture.writer, 0).unwrap();
    compaction.run(&mut fixture.writer, 1).unwrap();
    assert_eq!(
        refused(&fixture.store.compact(&mut fixture.writer, 0).unwrap_err()),
        Refused::Compacted
    );
    fixture.store.compact(&mut fixture.writer, 1).unwrap().run(&mut fixture.writer, 1).unwrap();
}

#[test]
fn a_large_range_is_whole_while_others_write_and_compact() {
    let mut fixture = Fixture::new();
    let keys = 6000;
    for number in 0..keys {
        let request = PutRequest {
            key: format!("k{number:05}").into(),
            value: "1".into(),
            ..Default::default()
        };
        fixture.put(&request, &BTreeSet::new()).unwrap();
    }
    let reader = fixture.reader.clone();
    let first = fixture.reader.current_revision();
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let all =
                RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let range = reader.range(&all).unwrap();
                let revision = range.revision;
                let response = range.into_response().unwrap();
                assert_eq!(response.count, keys);
                // One state: as many pairs are overwritten as there were writes by then.
                let newer = response.kvs.iter().filter(|pair| pair.mod_revision > first).count();
                let written = usize::try_from((revision - first).min(keys)).unwrap();
                assert_eq!(newer, written);
                assert!(response.kvs.iter().all(|pair| pair.mod_revision <= revision));
            }
        });
        for number in 0..keys {
            let request = PutRequest {
                key: format!("k{number:05}").into(),
                value: "2".into(),
                ..Default::default()
            };
            fixture.put(&request, &BTreeSet::new()).unwrap();
            if number % 500 == 0 {
                let at = fixture.store.current_revision() - 1;
                let compaction = fixture.store.compact(&mut fixture.writer, at).unwrap();
                fixture.compactions.push(compaction);
            }
            if number % 10 == 0 {
                fixture.step_compaction(200);
            }
            if number % 1000 == 0 {
                fixture.commit();
            }
        }
        fixture.finish_compactions();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn rows_that_cannot_be_are_named() {
    use backend::schema::{Revision, RowKey};
    for (main, value, expected) in [
        (3, &b"\x0a\x7f"[..], "row 3_1: a field reaches beyond the row"),
        (i64::MAX, &b""[..], "beyond any that could have been reached"),
    ] {
        let mut fixture = Fixture::new();
        fixture.writer.put_row(RowKey::put(Revision::new(main, 1)), Bytes::from_static(value));
        fixture.writer.publish();
        let error =
            mvcc::Store::open(fixture.writer.reader(), Rules::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_row_with_an_empty_value_is_borne() {
    // `etcdutl snapshot restore --bump-revision --mark-compacted` leaves one, and a compaction that is scheduled there.
    use backend::schema::{Revision, RowKey, meta};
    let mut fixture = Fixture::new();
    fixture.put(&put_request("k", "v"), &BTreeSet::new()).unwrap();
    fixture.writer.put_row(RowKey::put(Revision::first_of(1_000_002)), Bytes::new());
    meta::put_scheduled_compaction(&mut fixture.writer, 1_000_002);
    let mut fixture = fixture.restart();
    assert_eq!(fixture.reader.current_revision(), 1_000_002);
    assert_eq!(fixture.reader.compact_revision(), 1_000_002);
    fixture.finish_compactions();
    assert_eq!(get(&fixture, "k").unwrap().value, "v");
    assert_eq!(fixture.rows().len(), 2);
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    assert_eq!(fixture.reader.range(&all).unwrap().count, 1);
    let (response, _) = fixture.put(&put_request("k", "w"), &BTreeSet::new()).unwrap();
    assert_eq!(response.header.unwrap().revision, 1_000_003);
    assert_eq!(get(&fixture, "k").unwrap().version, 2);
    fixture.reader.hash_kv(0).unwrap();
}
