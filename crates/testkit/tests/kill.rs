//! Kill -9 under load on real files. `RETCD_ROUNDS` and `RETCD_SEED` change the run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use proto::nested::TXN_LEVELS_MAX;
use testkit::api::{Api, Request};
use testkit::crash::{Config, run};
use testkit::member::{self, Member};
use testkit::programs;

#[test]
fn nothing_acknowledged_is_lost_to_kill_9() {
    let rounds = common::number("RETCD_ROUNDS", 4);
    let config = Config {
        seed: common::seed(),
        rounds,
        writers: 16,
        program: programs::ours().unwrap(),
        other: programs::real(),
        load_max: Duration::from_millis(500),
        flags: vec!["--snapshot-count=500".to_owned()],
        folder: None,
    };
    let report =
        common::runtime().block_on(run(&config)).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(report.kills, rounds);
    assert!(report.acknowledged > rounds, "{report:?}");
}

/// The deepest transaction that etcd takes is applied, and again from the log.
#[test]
fn deep_transactions_survive_kill_9() {
    common::runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let program = programs::ours().unwrap();
        let options = member::Options::new(&program.etcd, &folder.path().join("data"));
        let member = Member::start(&options).unwrap();
        let api = Api::connect(&member.url()).await.unwrap();
        let refused = api.call(deep("b", TXN_LEVELS_MAX)).await.unwrap_err();
        assert_eq!(refused.message, "etcdserver: too many operations in txn request");
        api.call(deep("a", TXN_LEVELS_MAX - 1)).await.unwrap();
        member.kill().unwrap();

        let member = Member::start(&options).unwrap();
        let api = Api::connect(&member.url()).await.unwrap();
        let all = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..RangeRequest::default()
        };
        let found = api.range(all).await.unwrap();
        assert_eq!(found.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"a"]);
        member.stop().unwrap();
    });
}

/// A put of the key below so many transactions.
fn deep(key: &'static str, levels: usize) -> Request {
    let put = PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() };
    let mut op = request_op::Request::RequestPut(put);
    let mut txn = TxnRequest::default();
    for _ in 0..levels {
        txn = TxnRequest { success: vec![RequestOp { request: Some(op) }], ..Default::default() };
        op = request_op::Request::RequestTxn(txn.clone());
    }
    Request::Txn(txn)
}
