use proptest::{collection::vec, prelude::*};

use super::*;
use crate::message::MessageKind;

/// Lines of kind and hexadecimal bytes, recorded between members of etcd 3.5.30.
const RECORDED: &str = include_str!("../../tests/fixtures/messages-3.5.30.txt");

fn recorded() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    RECORDED.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (kind, digits) = line.split_once(' ').unwrap();
        (kind, unhex(digits))
    })
}

fn unhex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    let byte = |place| u8::from_str_radix(&digits[place..place + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn message(body: Body) -> Message {
    Message { to: NodeId(1), from: NodeId(2), term: Term(3), body }
}

#[track_caller]
fn check_bytes(message: &Message, expected: &str) {
    let encoded = encode_message(message);
    assert_eq!(encoded, unhex(expected), "encoded");
    assert_eq!(decode_message(encoded.into()).as_ref(), Ok(message), "decoded");
}

#[test]
fn recorded_messages_are_read_and_written_alike() {
    let mut kinds = std::collections::BTreeSet::new();
    for (kind, bytes) in recorded() {
        let message = decode_message(bytes.clone().into()).unwrap();
        assert_eq!(message.body.kind().to_string(), kind);
        assert_eq!(encode_message(&message), bytes, "{kind}");
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), 11, "{kinds:?}");
}

#[test]
fn every_scalar_is_written_and_so_is_an_empty_snapshot() {
    let empty_snapshot = "4a0a 1208 0a02 2800 1000 1800";
    check_bytes(
        &message(Body::TimeoutNow),
        &format!("080e 1001 1802 2003 2800 3000 4000 {empty_snapshot} 5000 5800"),
    );
    check_bytes(
        &message(Body::AppendResponse {
            index: LogIndex(9),
            rejection: Some(Rejection { hint: LogIndex(4), hint_term: Term(2) }),
        }),
        &format!("0804 1001 1802 2003 2802 3009 4000 {empty_snapshot} 5001 5804"),
    );
    let entry = Entry {
        kind: EntryKind::Normal,
        term: Term(3),
        index: LogIndex(8),
        data: Bytes::from_static(b"x"),
    };
    let last = Entry {
        kind: EntryKind::ConfChange,
        term: Term(3),
        index: LogIndex(9),
        data: Bytes::new(),
    };
    check_bytes(
        &message(Body::Append {
            prev: EntryId { term: Term(2), index: LogIndex(7) },
            entries: vec![entry, last],
            commit: LogIndex(6),
        }),
        &format!(
            "0803 1001 1802 2003 2802 3007 3a09 0800 1003 1808 220178 3a06 0801 1003 1809 4006 {empty_snapshot} 5000 5800"
        ),
    );
    let request =
        VoteRequest { last: EntryId { term: Term(2), index: LogIndex(7) }, transfer: true };
    check_bytes(
        &message(Body::Vote(request)),
        &format!(
            "0805 1001 1802 2003 2802 3007 4000 {empty_snapshot} 5000 5800 6210 43616d706169676e5472616e73666572"
        ),
    );
    let snapshot = Snapshot {
        data: Bytes::from_static(b"d"),
        metadata: SnapshotMetadata {
            conf_state: ConfState { voters: vec![NodeId(1), NodeId(300)], ..ConfState::default() },
            index: LogIndex(7),
            term: Term(2),
        },
    };
    check_bytes(
        &message(Body::Snapshot(Box::new(snapshot))),
        "0807 1001 1802 2003 2800 3000 4000 4a12 0a0164 120d 0a07 0801 08ac02 2800 1007 1802 5000 5800",
    );
}

#[test]
fn absent_fields_are_zero() {
    // What etcd 3.7's library writes for the message of `check_bytes` above.
    let decoded = decode_message(unhex("080e 1001 1802 2003").into());
    assert_eq!(decoded, Ok(message(Body::TimeoutNow)));
}

#[test]
fn local_messages_are_not_taken_from_the_network() {
    for kind in [0, 1, 10, 11, 12, 19, 20, 21, 22, 23] {
        let decoded = decode_message(vec![0x08, kind, 0x10, 1, 0x18, 2].into());
        assert_eq!(decoded, Err(CodecError::LocalKind { kind: kind.into() }));
    }
    assert_eq!(decode_message(Bytes::new()), Err(CodecError::LocalKind { kind: 0 }));
    assert_eq!(
        decode_message(vec![0x08, 24].into()),
        Err(CodecError::UnknownEnum { what: "message type", value: 24 })
    );
    // Fields that only storage threads use: a vote, and a response.
    for fields in ["080e 6801", "080e 7200"] {
        assert!(
            matches!(decode_message(unhex(fields).into()), Err(CodecError::Malformed { .. })),
            "{fields}"
        );
    }
}

#[test]
fn nested_messages_do_not_exhaust_the_stack() {
    let mut nested: Vec<u8> = Vec::new();
    for _ in 0..200_000 {
        let mut outer = vec![0x72];
        prost::encode_length_delimiter(nested.len(), &mut outer).unwrap();
        // Building it is quadratic; a few hundred kilobytes are deep enough.
        if nested.len() > 2_000 {
            break;
        }
        outer.extend(nested);
        nested = outer;
    }
    assert!(matches!(decode_message(nested.into()), Err(CodecError::Protobuf(_))));
}

#[test]
fn read_requests_carry_exactly_one_context() {
    for fields in ["080f 1001 1802", "080f 1001 1802 3a00 3a00"] {
        assert!(
            matches!(decode_message(unhex(fields).into()), Err(CodecError::Malformed { .. })),
            "{fields}"
        );
    }
    let decoded = decode_message(unhex("080f 1001 1802 3a03 2201 61").into()).unwrap();
    assert_eq!(decoded.body, Body::ReadIndex { context: Bytes::from_static(b"a") });
}

#[test]
fn a_snapshot_message_has_a_snapshot() {
    let decoded = decode_message(unhex("0807 1001 1802 2003 4a0a 1208 0a02 2800 1000 1800").into());
    assert!(matches!(decoded, Err(CodecError::Malformed { .. })));
}

#[test]
fn conf_changes_have_the_bytes_of_etcd() {
    // id, type and node_id are always there (etcd 3.5, 3.6).
    let change = ConfChange {
        id: 0,
        kind: ConfChangeKind::AddNode,
        node_id: NodeId(300),
        context: Bytes::new(),
    };
    assert_eq!(encode_conf_change(&change), unhex("0800 1000 18ac02"));
    let change = ConfChange {
        id: 5,
        kind: ConfChangeKind::AddLearnerNode,
        node_id: NodeId(2),
        context: Bytes::from_static(b"{}"),
    };
    assert_eq!(encode_conf_change(&change), unhex("0805 1003 1802 22027b7d"));
    assert_eq!(decode_conf_change(unhex("0805 1003 1802 22027b7d").into()), Ok(change));
    assert!(decode_conf_change(unhex("1004").into()).is_err(), "unknown kind");

    assert!(encode_conf_change_v2(&ConfChangeV2::default()).is_empty());
    assert_eq!(decode_conf_change_v2(Bytes::new()), Ok(ConfChangeV2::default()));
    let change = ConfChangeV2 {
        transition: Transition::JointExplicit,
        changes: vec![
            ConfChangeSingle { kind: ConfChangeKind::RemoveNode, node_id: NodeId(1) },
            ConfChangeSingle { kind: ConfChangeKind::AddNode, node_id: NodeId(4) },
        ],
        context: Bytes::new(),
    };
    let bytes = unhex("0802 1204 0801 1001 1204 0800 1004");
    assert_eq!(encode_conf_change_v2(&change), bytes);
    assert_eq!(decode_conf_change_v2(bytes.into()), Ok(change));
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![Just(EntryKind::Normal), Just(EntryKind::ConfChange), Just(EntryKind::ConfChangeV2)]
}

prop_compose! {
    fn any_entry()(kind in any_kind(), term: u64, index: u64, data in any_bytes()) -> Entry {
        Entry { kind, term: Term(term), index: LogIndex(index), data }
    }
}

prop_compose! {
    fn any_request()(term: u64, index: u64, transfer: bool) -> VoteRequest {
        VoteRequest { last: EntryId { term: Term(term), index: LogIndex(index) }, transfer }
    }
}

fn any_ids() -> impl Strategy<Value = Vec<NodeId>> {
    vec(any::<u64>().prop_map(NodeId), 0..4)
}

prop_compose! {
    fn any_snapshot()(
        data in any_bytes(),
        index in 1..=u64::MAX,
        term: u64,
        voters in any_ids(),
        learners in any_ids(),
        voters_outgoing in any_ids(),
        learners_next in any_ids(),
        auto_leave: bool,
    ) -> Snapshot {
        let conf_state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        Snapshot { data, metadata: SnapshotMetadata { conf_state, index: LogIndex(index), term: Term(term) } }
    }
}

fn any_body() -> impl Strategy<Value = Body> {
    let entries = || vec(any_entry(), 0..4);
    prop_oneof![
        entries().prop_map(|entries| Body::Propose { entries }),
        (any::<u64>(), any::<u64>(), entries(), any::<u64>()).prop_map(
            |(term, index, entries, commit)| {
                let prev = EntryId { term: Term(term), index: LogIndex(index) };
                Body::Append { prev, entries, commit: LogIndex(commit) }
            }
        ),
        (any::<u64>(), proptest::option::of((any::<u64>(), any::<u64>()))).prop_map(
            |(index, rejection)| {
                let rejection = rejection
                    .map(|(hint, term)| Rejection { hint: LogIndex(hint), hint_term: Term(term) });
                Body::AppendResponse { index: LogIndex(index), rejection }
            }
        ),
        any_request().prop_map(Body::Vote),
        any_request().prop_map(Body::PreVote),
        any::<bool>().prop_map(|reject| Body::VoteResponse { reject }),
        any::<bool>().prop_map(|reject| Body::PreVoteResponse { reject }),
        any_snapshot().prop_map(|snapshot| Body::Snapshot(Box::new(snapshot))),
        (any::<u64>(), any_bytes())
            .prop_map(|(commit, context)| Body::Heartbeat { commit: LogIndex(commit), context }),
        any_bytes().prop_map(|context| Body::HeartbeatResponse { context }),
        Just(Body::TransferLeader),
        Just(Body::TimeoutNow),
        any_bytes().prop_map(|context| Body::ReadIndex { context }),
        (any::<u64>(), any_bytes()).prop_map(|(index, context)| Body::ReadIndexResponse {
            index: LogIndex(index),
            context
        }),
    ]
}

proptest! {
    #[test]
    fn messages_survive_the_wire(to: u64, from: u64, term: u64, body in any_body()) {
        let message = Message { to: NodeId(to), from: NodeId(from), term: Term(term), body };
        prop_assert_eq!(decode_message(encode_message(&message).into()), Ok(message));
    }

    #[test]
    fn hostile_bytes_are_refused_or_mean_something(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = decode_message(bytes.clone().into()) {
            prop_assert_eq!(decode_message(encode_message(&message).into()), Ok(message));
        }
        let _ = decode_conf_change(bytes.clone().into());
        let _ = decode_conf_change_v2(bytes.into());
    }

    #[test]
    fn damaged_messages_are_refused_or_mean_something(which in 0..15usize, place: prop::sample::Index, byte: u8) {
        let (_, mut bytes) = recorded().nth(which).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(message) = decode_message(bytes.clone().into()) {
            prop_assert_eq!(decode_message(encode_message(&message).into()), Ok(message));
        }
        bytes.truncate(place);
        let _ = decode_message(bytes.into());
    }

    #[test]
    fn entry_sizes_are_those_of_the_wire(entry in any_entry()) {
        prop_assert_eq!(entry.encoded_len(), entry_to_proto(&entry).encoded_len() as u64);
    }
}

#[test]
fn payloads_share_the_buffer_that_was_read() {
    let entry = Entry::normal(Bytes::from_static(b"payload of some length"));
    let bytes = Bytes::from(encode_message(&message(Body::Propose { entries: vec![entry] })));
    let range = bytes.as_ptr_range();
    let decoded = decode_message(bytes).unwrap();
    assert_eq!(decoded.body.kind(), MessageKind::Propose);
    let Body::Propose { entries } = decoded.body else { panic!("another kind") };
    assert!(range.contains(&entries[0].data.as_ptr()));
}
