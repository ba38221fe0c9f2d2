use std::collections::BTreeMap;

use proptest::prelude::*;
use raft::{Rejection, VoteRequest};

use super::*;

const APPENDS: &[u8] = include_bytes!("../../../tests/fixtures/peer/msgapp.bin");
const OF_LEADER: &[u8] = include_bytes!("../../../tests/fixtures/peer/message-leader.bin");
const OF_FOLLOWER: &[u8] = include_bytes!("../../../tests/fixtures/peer/message-follower.bin");
const PROPOSAL: &[u8] = include_bytes!("../../../tests/fixtures/peer/post-proposal.bin");
const SNAPSHOT: &[u8] = include_bytes!("../../../tests/fixtures/peer/snapshot-head.bin");

const LEADER: NodeId = NodeId(0x33e_b27a_47e8_498d);
const FOLLOWER: NodeId = NodeId(0x2242_c520_eba1_e5c2);

/// The messages of a stream that arrives in pieces of that size, each with the bytes that it came in.
fn decode_in_pieces(kind: StreamKind, stream: &[u8], piece: usize) -> Vec<Message> {
    let mut decoder = Decoder::new(kind, FOLLOWER, LEADER);
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.decode(Bytes::copy_from_slice(piece), &mut messages).unwrap();
    }
    messages
}

fn kinds(messages: &[Message]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for message in messages {
        *kinds.entry(message.body.kind().to_string()).or_default() += 1;
    }
    kinds
}

/// Decodes a recorded stream and encodes what was in it: the same bytes, but for link heartbeats.
fn check_round_trip(kind: StreamKind, stream: &[u8], link_heartbeats: usize) -> Vec<Message> {
    let mut encoder = Encoder::new(kind);
    let mut decoder = Decoder::new(kind, FOLLOWER, LEADER);
    let mut heartbeat = BytesMut::new();
    encoder.encode_link_heartbeat(&mut heartbeat);
    let (mut all, mut start, mut heartbeats) = (Vec::new(), 0, 0);
    for end in 1..=stream.len() {
        let mut messages = Vec::new();
        decoder.decode(Bytes::copy_from_slice(&stream[end - 1..end]), &mut messages).unwrap();
        let Some(message) = messages.pop() else { continue };
        let mut recorded = &stream[start..end];
        while let Some(rest) = recorded.strip_prefix(heartbeat.as_ref()) {
            (recorded, heartbeats) = (rest, heartbeats + 1);
        }
        let mut encoded = BytesMut::new();
        encoder.encode(&message, &mut encoded);
        assert_eq!(encoded, recorded, "{message:?}");
        all.push(message);
        start = end;
    }
    heartbeats += stream[start..].len() / heartbeat.len();
    assert_eq!(stream[start..].len() % heartbeat.len(), 0, "the stream ends with a whole message");
    assert_eq!(heartbeats, link_heartbeats);
    all
}

#[test]
fn a_recorded_stream_of_appends_is_read_and_written_alike() {
    let messages = check_round_trip(StreamKind::Append, APPENDS, 10);
    assert_eq!(kinds(&messages), BTreeMap::from([("MsgApp".to_owned(), 160)]));
    let mut last = LogIndex(3);
    for message in &messages {
        let Body::Append { prev, entries, .. } = &message.body else { panic!("{message:?}") };
        assert_eq!((message.from, message.to, message.term), (LEADER, FOLLOWER, Term(2)));
        assert_eq!(prev.index, last);
        for entry in entries {
            last = last.next();
            assert_eq!((entry.index, entry.term), (last, Term(2)));
        }
    }
    assert!(last > LogIndex(80), "{last}");
}

#[test]
fn recorded_streams_of_messages_are_read_and_written_alike() {
    let owned = |kinds: &[(&str, usize)]| -> BTreeMap<String, usize> {
        kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
    };
    assert_eq!(
        kinds(&check_round_trip(StreamKind::Message, OF_FOLLOWER, 8)),
        owned(&[
            ("MsgPreVoteResp", 1),
            ("MsgVoteResp", 1),
            ("MsgAppResp", 159),
            ("MsgProp", 73),
            ("MsgReadIndex", 3),
            ("MsgHeartbeatResp", 156),
        ])
    );
    let of_leader = check_round_trip(StreamKind::Message, OF_LEADER, 9);
    assert_eq!(
        kinds(&of_leader),
        owned(&[("MsgPreVote", 1), ("MsgVote", 1), ("MsgHeartbeat", 158), ("MsgReadIndexResp", 3)])
    );
}

#[test]
fn pieces_of_any_size_give_the_same_messages() {
    for (kind, stream) in [
        (StreamKind::Append, APPENDS),
        (StreamKind::Message, OF_LEADER),
        (StreamKind::Message, OF_FOLLOWER),
    ] {
        let whole = decode_in_pieces(kind, stream, stream.len());
        for piece in [1, 2, 7, 8, 9, 100, 4096] {
            assert_eq!(decode_in_pieces(kind, stream, piece), whole, "{kind}, {piece}");
        }
    }
}

#[test]
fn posted_messages_are_read() {
    let message = decode_posted(Bytes::from_static(PROPOSAL)).unwrap();
    assert_eq!((message.to, message.body.kind()), (LEADER, MessageKind::Propose));
    let head = decode_snapshot_head(Bytes::from_static(&SNAPSHOT[8..])).unwrap();
    let SnapshotHead::Snapshot(message) = head else { panic!("{head:?}") };
    let Body::Snapshot(snapshot) = &message.body else { panic!("{message:?}") };
    assert_eq!((snapshot.metadata.index, snapshot.data.len()), (LogIndex(79), 8928));
    let mut encoded = BytesMut::new();
    encode_sized(&message, &mut encoded);
    assert_eq!(encoded, SNAPSHOT);
}

#[test]
fn payloads_that_lie_in_a_piece_as_a_whole_are_not_copied() {
    let arrived = Bytes::copy_from_slice(APPENDS);
    let range = arrived.as_ptr_range();
    let mut messages = Vec::new();
    Decoder::new(StreamKind::Append, FOLLOWER, LEADER).decode(arrived, &mut messages).unwrap();
    let payloads = messages.iter().flat_map(|message| {
        let Body::Append { entries, .. } = &message.body else { panic!("{message:?}") };
        entries.as_slice()
    });
    let payloads: Vec<&Bytes> =
        payloads.map(|entry| &entry.data).filter(|data| !data.is_empty()).collect();
    assert!(payloads.len() > 70);
    assert!(payloads.iter().all(|data| range.contains(&data.as_ptr())));
}

fn append(term: u64, prev: (u64, u64), entries: &[(u64, u64)]) -> Message {
    let entry = |&(term, index): &(u64, u64)| Entry {
        term: Term(term),
        index: LogIndex(index),
        data: Bytes::from(vec![7; 5]),
        ..Entry::default()
    };
    let body = Body::Append {
        prev: EntryId { term: Term(prev.0), index: LogIndex(prev.1) },
        entries: entries.iter().map(entry).collect(),
        commit: LogIndex(1),
    };
    Message { to: FOLLOWER, from: LEADER, term: Term(term), body }
}

#[test]
fn appends_that_do_not_continue_the_last_one_are_sent_whole() {
    let sent = [
        (2, append(2, (1, 3), &[(2, 4)])),
        (1, append(2, (2, 4), &[(2, 5), (2, 6)])),
        (1, append(2, (2, 6), &[])),
        // A resend, and on from there.
        (2, append(2, (2, 5), &[(2, 6)])),
        (1, append(2, (2, 6), &[(2, 7)])),
        // A gap.
        (2, append(2, (2, 9), &[])),
        (1, append(2, (2, 9), &[(2, 10)])),
        // A new term on the same connection: the first append follows an entry of the old one.
        (2, append(3, (2, 10), &[(3, 11)])),
        (1, append(3, (3, 11), &[(3, 12)])),
        // Probing in a new term where the log is of the old one.
        (2, append(4, (3, 12), &[])),
        (2, append(4, (3, 12), &[(4, 13)])),
    ];
    let mut encoder = Encoder::new(StreamKind::Append);
    let mut stream = BytesMut::new();
    for (kind, message) in &sent {
        let start = stream.len();
        encoder.encode(message, &mut stream);
        assert_eq!(stream[start], *kind, "{message:?}");
    }
    let messages: Vec<Message> = sent.into_iter().map(|(_, message)| message).collect();
    assert_eq!(decode_in_pieces(StreamKind::Append, &stream, stream.len()), messages);
}

fn error_of(kind: StreamKind, stream: &[u8]) -> StreamError {
    let mut decoder = Decoder::new(kind, FOLLOWER, LEADER);
    decoder.decode(Bytes::copy_from_slice(stream), &mut Vec::new()).unwrap_err()
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let mut vote = BytesMut::new();
    vote.put_u8(WHOLE_MESSAGE);
    let body = Body::Vote(VoteRequest::default());
    encode_sized(&Message { to: FOLLOWER, from: LEADER, term: Term(1), body }, &mut vote);
    assert_eq!(
        error_of(StreamKind::Append, &vote),
        StreamError::NotAnAppend { kind: MessageKind::Vote }
    );
    assert_eq!(error_of(StreamKind::Append, &[3]), StreamError::UnknownType { kind: 3 });
    let too_large = (MESSAGE_BYTES_MAX + 1).to_be_bytes();
    assert_eq!(
        error_of(StreamKind::Message, &too_large),
        StreamError::TooLarge { length: MESSAGE_BYTES_MAX + 1 }
    );
    let endless = [&[ENTRIES][..], &[0xff; 8], &[0xff; 8]].concat();
    assert_eq!(error_of(StreamKind::Append, &endless), StreamError::TooLarge { length: u64::MAX });
    assert!(matches!(error_of(StreamKind::Message, &[0; 8]), StreamError::Codec(_)));
}

#[test]
fn memory_is_taken_as_bytes_arrive_and_not_as_they_are_announced() {
    for kind in StreamKind::ALL {
        let mut stream = match kind {
            StreamKind::Append => vec![WHOLE_MESSAGE],
            StreamKind::Message => Vec::new(),
        };
        stream.extend(MESSAGE_BYTES_MAX.to_be_bytes());
        stream.extend([1; 100]);
        let mut decoder = Decoder::new(kind, FOLLOWER, LEADER);
        decoder.decode(Bytes::from(stream), &mut Vec::new()).unwrap();
        assert!(decoder.input.gathered.capacity() <= 2 * GATHER_BYTES);
    }
    // An append that announces as many entries as there are numbers.
    let mut decoder = Decoder::new(StreamKind::Append, FOLLOWER, LEADER);
    let endless = [&[ENTRIES][..], &[0xff; 8]].concat();
    decoder.decode(Bytes::from(endless), &mut Vec::new()).unwrap();
    assert_eq!(decoder.entries.capacity(), 0);
}

#[test]
fn entries_without_bytes_count_towards_the_limit() {
    let mut decoder = Decoder::new(StreamKind::Append, FOLLOWER, LEADER);
    decoder.entries_bytes = MESSAGE_BYTES_MAX - 8;
    let stream = [&[ENTRIES][..], &[0xff; 8], &[0; 16]].concat();
    let refused = decoder.decode(Bytes::from(stream), &mut Vec::new()).unwrap_err();
    assert_eq!(refused, StreamError::TooLarge { length: MESSAGE_BYTES_MAX + 8 });
}

fn any_append() -> impl Strategy<Value = Message> {
    let entries = prop::collection::vec((1..4_u64, 0..200_usize), 0..5);
    (1..4_u64, (0..4_u64, 0..8_u64), entries, any::<u64>()).prop_map(
        |(term, prev, entries, commit)| {
            let entries =
                entries.into_iter().zip(prev.1 + 1..).map(|((term, length), index)| Entry {
                    term: Term(term),
                    index: LogIndex(index),
                    data: Bytes::from(vec![1; length]),
                    ..Entry::default()
                });
            let body = Body::Append {
                prev: EntryId { term: Term(prev.0), index: LogIndex(prev.1) },
                entries: entries.collect(),
                commit: LogIndex(commit),
            };
            Message { to: FOLLOWER, from: LEADER, term: Term(term), body }
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let response = any::<(u64, u64)>().prop_map(|(index, hint)| {
        let rejection =
            (hint % 2 == 0).then_some(Rejection { hint: LogIndex(hint), hint_term: Term(1) });
        let body = Body::AppendResponse { index: LogIndex(index), rejection };
        Message { to: LEADER, from: FOLLOWER, term: Term(hint), body }
    });
    prop_oneof![any_append(), response]
}

proptest! {
    #[test]
    fn any_sequence_of_appends_arrives(
        messages in prop::collection::vec(any_append(), 0..20),
        piece in 1..300_usize,
    ) {
        let mut encoder = Encoder::new(StreamKind::Append);
        let mut stream = BytesMut::new();
        for message in &messages {
            encoder.encode(message, &mut stream);
            encoder.encode_link_heartbeat(&mut stream);
        }
        prop_assert_eq!(decode_in_pieces(StreamKind::Append, &stream, piece), messages);
    }

    #[test]
    fn any_sequence_of_messages_arrives(
        messages in prop::collection::vec(any_message(), 0..20),
        piece in 1..300_usize,
    ) {
        let mut encoder = Encoder::new(StreamKind::Message);
        let mut stream = BytesMut::new();
        for message in &messages {
            encoder.encode(message, &mut stream);
            encoder.encode_link_heartbeat(&mut stream);
        }
        prop_assert_eq!(decode_in_pieces(StreamKind::Message, &stream, piece), messages);
    }

    #[test]
    fn damage_never_panics(
        which in 0..3_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        piece in 1..5000_usize,
    ) {
        let (kind, stream) = [
            (StreamKind::Append, APPENDS),
            (StreamKind::Message, OF_LEADER),
            (StreamKind::Message, OF_FOLLOWER),
        ][which];
        let mut stream = stream[..cut.index(stream.len()) + 1].to_vec();
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        decode_hostile(kind, &stream, piece);
    }

    #[test]
    fn noise_never_panics(stream in prop::collection::vec(any::<u8>(), 0..400), piece in 1..50_usize) {
        for kind in StreamKind::ALL {
            decode_hostile(kind, &stream, piece);
        }
        let _ = decode_posted(Bytes::from(stream.clone()));
        let _ = decode_snapshot_head(Bytes::from(stream));
    }
}

/// Whatever it is, memory stays in proportion to what arrived.
fn decode_hostile(kind: StreamKind, stream: &[u8], piece: usize) {
    let mut decoder = Decoder::new(kind, FOLLOWER, LEADER);
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        if decoder.decode(Bytes::copy_from_slice(piece), &mut messages).is_err() {
            return;
        }
        assert!(decoder.input.gathered.capacity() <= 2 * (stream.len() + GATHER_BYTES));
        assert!(decoder.entries.capacity() <= stream.len());
    }
}

#[test]
fn entries_are_counted_before_they_take_memory() {
    // An entry of nothing is two bytes, a response of nothing too.
    let head = [8, 3, 16, 1, 24, 2];
    let of = |field: [u8; 2], count| [&head[..], &field.repeat(count)].concat();
    let entries = [0x3a, 0];
    assert!(decode_posted(of(entries, 100_000).into()).is_ok());
    for refused in [of(entries, ENTRIES_MAX), of([0x72, 0], 40_000), of([0x72, 0], 1)] {
        assert!(decode_posted(Bytes::from(refused.clone())).is_err());
        let mut stream = Bytes::from((refused.len() as u64).to_be_bytes().to_vec());
        let mut decoder = Decoder::new(StreamKind::Message, FOLLOWER, LEADER);
        decoder.decode(std::mem::take(&mut stream), &mut Vec::new()).unwrap();
        assert!(decoder.decode(refused.into(), &mut Vec::new()).is_err());
    }
    let mut decoder = Decoder::new(StreamKind::Append, FOLLOWER, LEADER);
    let mut stream = BytesMut::new();
    stream.put_u8(ENTRIES);
    stream.put_u64(u64::MAX);
    stream.put_bytes(0, 8 * (ENTRIES_MAX + 1));
    let error = decoder.decode(stream.freeze(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("more entries"), "{error}");
}
