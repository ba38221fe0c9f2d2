//! Golden bytes: what etcd 3.5 writes, byte for byte.

use bytes::Bytes;
use prost::Message;

use crate::etcdserverpb::internal_raft_request::Request as Op;
use crate::etcdserverpb::{InternalRaftRequest, Metadata, PutRequest, Request, RequestHeader};
use crate::{membershippb, mvccpb, raftpb, snappb, walpb};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, expected: &str) {
    let encoded = message.encode_to_vec();
    assert_eq!(hex(&encoded), expected.replace(' ', ""));
    assert_eq!(&M::decode(encoded.as_slice()).unwrap(), message);
}

#[test]
fn raft_zeros_are_written() {
    check(&raftpb::Entry::default(), "0800 1000 1800");
    check(&raftpb::HardState::default(), "0800 1000 1800");
    check(&raftpb::HardState { term: 2, vote: 300, commit: 7 }, "0802 10ac02 1807");
    check(&raftpb::ConfChange::default(), "0800 1000 1800");
    check(&raftpb::Snapshot::default(), "1208 0a022800 1000 1800");
    check(&raftpb::ConfChangeV2::default(), "0800");
}

#[test]
fn conf_state_is_unpacked() {
    let state = raftpb::ConfState { voters: vec![1, 300], learners: vec![2], ..Default::default() };
    check(&state, "0801 08ac02 1002 2800");
    // Other writers pack; both forms are read.
    let packed = raftpb::ConfState::decode(&[0x0a, 0x03, 0x01, 0xac, 0x02][..]).unwrap();
    assert_eq!(packed.voters, [1, 300]);
}

#[test]
fn message_carries_an_empty_snapshot() {
    // As recorded between 3.5.30 members: a MsgPreVote (formats/peer.md), with small ids.
    let vote = raftpb::Message {
        r#type: raftpb::MessageType::MsgPreVote.into(),
        to: 1,
        from: 2,
        term: 2,
        log_term: 1,
        index: 3,
        ..Default::default()
    };
    check(&vote, "0811 1001 1802 2002 2801 3003 4000 4a0a12080a02280010001800 5000 5800");
    // 3.7 leaves zeros out.
    assert_eq!(raftpb::Message::decode(&[0x08, 0x11][..]).unwrap().r#type, 0x11);
}

#[test]
fn wal_zeros_are_written() {
    check(&walpb::Record::default(), "0800 1000");
    check(&walpb::Record { r#type: 4, crc: 0xffff_ffff, data: None }, "0804 10ffffffff0f");
    check(&walpb::Snapshot::default(), "0800 1000");
    let with_state = walpb::Snapshot {
        index: 9,
        term: 2,
        conf_state: Some(raftpb::ConfState { voters: vec![1], ..Default::default() }),
    };
    check(&with_state, "0809 1002 1a040801 2800");
    check(&snappb::Snapshot { crc: 0, data: Some(Bytes::from_static(b"x")) }, "0800 120178");
    check(&Metadata::default(), "0800 1000");
}

#[test]
fn key_value_leaves_zeros_out() {
    check(&mvccpb::KeyValue::default(), "");
    let tombstone = mvccpb::KeyValue { key: Bytes::from_static(b"a"), ..Default::default() };
    check(&tombstone, "0a0161");
}

fn request(op: Op) -> InternalRaftRequest {
    InternalRaftRequest {
        header: Some(RequestHeader { id: 5, ..Default::default() }),
        id: 0,
        request: Some(op),
    }
}

#[test]
fn internal_request_field_numbers() {
    let put = PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        ..Default::default()
    };
    check(&request(Op::Put(put)), "2206 0a016b 120176 a206020805");
    let version = membershippb::ClusterVersionSetRequest { ver: "3.5.0".into() };
    // Field 1300 = a251 as a key, after the header (field 100 = a206) or before it: order is free.
    let encoded = hex(&request(Op::ClusterVersionSet(version)).encode_to_vec());
    assert!(encoded.contains("a251070a05332e352e30"), "{encoded}");
    for (op, key) in [
        (Op::Range(Default::default()), "1a00"),
        (Op::DeleteRange(Default::default()), "2a00"),
        (Op::Txn(Default::default()), "3200"),
        (Op::Compaction(Default::default()), "3a00"),
        (Op::LeaseGrant(Default::default()), "4200"),
        (Op::LeaseRevoke(Default::default()), "4a00"),
        (Op::Alarm(Default::default()), "5200"),
        (Op::LeaseCheckpoint(Default::default()), "5a00"),
        (Op::AuthEnable(Default::default()), "c23e00"),
        (Op::AuthDisable(Default::default()), "9a3f00"),
        (Op::Authenticate(Default::default()), "a23f00"),
        (Op::AuthStatus(Default::default()), "aa3f00"),
        (Op::AuthUserAdd(Default::default()), "e24400"),
        (Op::AuthRoleAdd(Default::default()), "824b00"),
        (Op::ClusterMemberAttrSet(Default::default()), "aa5100"),
        (Op::DowngradeInfoSet(Default::default()), "b25100"),
        (Op::DowngradeVersionTest(Default::default()), "e2ea0400"),
    ] {
        check(&InternalRaftRequest { request: Some(op), ..Default::default() }, key);
    }
}

#[test]
fn decoding_shares_the_buffer() {
    let put = PutRequest {
        key: Bytes::from_static(b"key"),
        value: Bytes::from(vec![7_u8; 1000]),
        ..Default::default()
    };
    let buffer = Bytes::from(request(Op::Put(put)).encode_to_vec());
    let range = buffer.as_ptr_range();
    let decoded = InternalRaftRequest::decode(buffer.clone()).unwrap();
    let Some(Op::Put(put)) = decoded.request else { panic!("not a put: {decoded:?}") };
    assert!(range.contains(&put.value.as_ptr()), "the value was copied");
}

/// A bare v2 request in the log must not pass for an internal request (formats/entries.md): its field 2 (method, a
/// string) stands where field 2 of the internal request (v2, a message) is, and the letters of no method decode as one.
/// `P`, `O`, `S`, `D`, `Q` and the rest as keys have a wrong wire type for a known field, or one that does not exist;
/// prost checks both.
#[test]
fn v2_request_is_not_an_internal_request() {
    for method in ["PUT", "POST", "DELETE", "SYNC", "QGET"] {
        let v2 = Request {
            id: 0x39a9_0001,
            method: method.into(),
            path: "/0/version".into(),
            val: "3.5.0".into(),
            ..Default::default()
        };
        let bytes = v2.encode_to_vec();
        assert!(InternalRaftRequest::decode(bytes.as_slice()).is_err(), "{method} passed");
        assert_eq!(Request::decode(bytes.as_slice()).unwrap(), v2);
    }
}

#[test]
fn v2_zeros_are_written() {
    check(
        &Request::default(),
        "0800 1200 1a00 2200 2800 3200 3800 4800 5000 5800 6000 6800 7000 7800 800100",
    );
}
