//! The two stream formats, between messages and bytes. No sockets here: bytes go in as they arrive, messages come out.
//!
//! ```text
//! message stream   u64 length, raftpb.Message, and so on for ever
//!
//! msgapp stream    00                                                            link heartbeat
//!                  01  u64 n, n × { u64 length, raftpb.Entry }, u64 commit       entries that continue what was sent last
//!                  02  u64 length, raftpb.Message                                everything else
//! ```
//!
//! Integers are big-endian. On the msgapp stream both sides remember the id of the last entry, starting at (0, 0) for each
//! connection, so that in the common case an append is its entries and little more. A link heartbeat of the message
//! stream is a `MsgHeartbeat` from nobody to nobody.
//!
//! What arrives is hostile until checked: lengths are limited, and memory is taken as bytes arrive, never as a length
//! promises. A stream that breaks a rule cannot be understood any further: the caller drops the connection.
//!
//! Upstream: server/etcdserver/api/rafthttp/{message_codec,msgappv2_codec}.go (3.5.30).

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use raft::codec::{
    decode_message, entry_from_proto, entry_to_proto, message_from_proto, message_to_proto,
};
use raft::{Body, CodecError, Entry, EntryId, LogIndex, Message, MessageKind, NodeId, Term};

/// Largest message that is read, as in etcd. Raft sends entries of 1 MiB at a time, unless a single one is larger.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Space made at once for something that arrives in pieces; more is made when so much has arrived.
pub(crate) const GATHER_BYTES: usize = 1024 * 1024;

/// Most entries in one message. Each takes some 60 bytes of memory beside its own, however short it is; without this, a message of
/// the largest size could take gigabytes. etcd sends 1 MiB at a time, of entries of 6 bytes at least.
const ENTRIES_MAX: usize = 1024 * 1024;
/// Messages below this size are not worth counting.
const COUNTED_FROM_BYTES: usize = 64 * 1024;
/// In raftpb: messages within a message, which are for storage threads and none of a peer's.
const RESPONSES_TAG: u32 = 14;

const LINK_HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const WHOLE_MESSAGE: u8 = 2;

/// The two streams between a pair of members, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StreamKind {
    /// All kinds of messages.
    Message,
    /// Appends only.
    Append,
}

impl StreamKind {
    /// Both of them.
    pub(crate) const ALL: [Self; 2] = [Self::Append, Self::Message];

    /// The name in the path of a request.
    pub(crate) fn segment(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Append => "msgapp",
        }
    }

    /// The kind of that name.
    pub(crate) fn from_segment(segment: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.segment() == segment)
    }
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "stream Message",
            Self::Append => "stream MsgApp v2",
        })
    }
}

/// Why a stream is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// A length beyond the limit.
    #[error("a message of {length} bytes exceeds the limit of {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// What the peer announced, at least.
        length: u64,
    },
    /// A type byte that is none.
    #[error("unsupported type {kind} in the stream of appends")]
    UnknownType {
        /// The byte.
        kind: u8,
    },
    /// Only appends travel on the msgapp stream.
    #[error("{kind} in the stream of appends")]
    NotAnAppend {
        /// What was there.
        kind: MessageKind,
    },
    /// Not a message.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Writes one connection's stream.
#[derive(Debug)]
pub(crate) struct Encoder {
    kind: StreamKind,
    /// Where the last append ended. Zero on the message stream.
    last: EntryId,
}

impl Encoder {
    /// For a new connection.
    pub(crate) fn new(kind: StreamKind) -> Self {
        Self { kind, last: EntryId::ZERO }
    }

    /// Appends one message to what is to be written. A msgapp stream is given [`Body::Append`] only.
    pub(crate) fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        if self.kind == StreamKind::Message {
            return encode_sized(message, out);
        }
        let Body::Append { prev, entries, commit } = &message.body else {
            debug_assert!(false, "{} in the stream of appends", message.body.kind());
            return;
        };
        if *prev == self.last && message.term == prev.term {
            out.put_u8(ENTRIES);
            out.put_u64(entries.len() as u64);
            for entry in entries {
                let proto = entry_to_proto(entry);
                put_sized(&proto, out);
            }
            out.put_u64(commit.0);
            self.last.index = prev.index.plus(entries.len());
        } else {
            out.put_u8(WHOLE_MESSAGE);
            encode_sized(message, out);
            self.last = end_of_append(message.term, *prev, entries);
        }
    }

    /// Appends what tells the reader that this side is alive.
    pub(crate) fn encode_link_heartbeat(&self, out: &mut BytesMut) {
        match self.kind {
            StreamKind::Append => out.put_u8(LINK_HEARTBEAT),
            StreamKind::Message => encode_sized(&link_heartbeat(), out),
        }
    }
}

/// Appends a length of eight bytes and the message.
pub(crate) fn encode_sized(message: &Message, out: &mut BytesMut) {
    put_sized(&message_to_proto(message), out);
}

fn put_sized(proto: &impl prost::Message, out: &mut BytesMut) {
    let start = out.len();
    // Filled in when it is known: measuring first would go through the message twice.
    out.put_u64(0);
    let encoded = proto.encode(out);
    debug_assert!(encoded.is_ok(), "a buffer that grows has room for everything");
    let length = (out.len() - start).saturating_sub(8) as u64;
    if let Some(place) = out.get_mut(start..start + 8) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn link_heartbeat() -> Message {
    let body = Body::Heartbeat { commit: LogIndex::ZERO, context: Bytes::new() };
    Message { to: NodeId::NONE, from: NodeId::NONE, term: Term::ZERO, body }
}

fn is_link_heartbeat(message: &Message) -> bool {
    message.to == NodeId::NONE
        && message.from == NodeId::NONE
        && message.body.kind() == MessageKind::Heartbeat
}

fn end_of_append(term: Term, prev: EntryId, entries: &[Entry]) -> EntryId {
    EntryId { term, index: entries.last().map_or(prev.index, |entry| entry.index) }
}

/// Roughly what a message takes when encoded, without encoding it.
pub(crate) fn estimated_bytes(message: &Message) -> usize {
    /// Of an entry without its payload, lengths included.
    const ENTRY: usize = 32;
    /// Of a message without entries.
    const MESSAGE: usize = 96;
    let entries = match &message.body {
        Body::Append { entries, .. } | Body::Propose { entries } => entries.as_slice(),
        Body::Snapshot(snapshot) => return MESSAGE + snapshot.data.len(),
        Body::AppendResponse { .. }
        | Body::Vote(_)
        | Body::VoteResponse { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatResponse { .. }
        | Body::TransferLeader
        | Body::TimeoutNow
        | Body::ReadIndex { .. }
        | Body::ReadIndexResponse { .. }
        | Body::PreVote(_)
        | Body::PreVoteResponse { .. } => &[],
    };
    MESSAGE + entries.iter().map(|entry| ENTRY + entry.data.len()).sum::<usize>()
}

/// Reads one connection's stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    kind: StreamKind,
    /// This member.
    local: NodeId,
    /// The member that writes.
    remote: NodeId,
    /// Where the last append ended.
    last: EntryId,
    step: Step,
    /// The entries of an append that is not complete, and their bytes.
    entries: Vec<Entry>,
    entries_bytes: u64,
    input: Input,
}

/// What comes next in the stream.
#[derive(Debug, Clone, Copy)]
enum Step {
    Type,
    MessageLength,
    Message { length: usize },
    EntryCount,
    EntryLength { left: u64 },
    Entry { left: u64, length: usize },
    Commit,
}

impl Decoder {
    /// For a new connection.
    pub(crate) fn new(kind: StreamKind, local: NodeId, remote: NodeId) -> Self {
        Self {
            kind,
            local,
            remote,
            last: EntryId::ZERO,
            step: first_step(kind),
            entries: Vec::new(),
            entries_bytes: 0,
            input: Input::default(),
        }
    }

    /// Takes all of what arrived and appends the messages that it completes. Their payloads share it where they lie in
    /// it as a whole.
    ///
    /// # Errors
    /// The stream breaks a rule. What was appended before counts; the decoder must not be used again.
    pub(crate) fn decode(
        &mut self,
        arrived: Bytes,
        messages: &mut Vec<Message>,
    ) -> Result<(), StreamError> {
        self.input.arrive(arrived);
        while let Some(message) = self.next_message()? {
            if !is_link_heartbeat(&message) {
                messages.push(message);
            }
        }
        Ok(())
    }

    /// The memory that what is incomplete takes.
    pub(crate) fn gathered_bytes(&self) -> usize {
        self.input.gathered.capacity()
    }

    /// `None` when all input is used up.
    fn next_message(&mut self) -> Result<Option<Message>, StreamError> {
        loop {
            match self.step {
                Step::Type => {
                    let Some(byte) = self.input.take(1) else { return Ok(None) };
                    self.step = match byte.first() {
                        Some(&LINK_HEARTBEAT) => Step::Type,
                        Some(&ENTRIES) => Step::EntryCount,
                        Some(&WHOLE_MESSAGE) => Step::MessageLength,
                        other => {
                            let kind = other.copied().unwrap_or_default();
                            return Err(StreamError::UnknownType { kind });
                        }
                    };
                }
                Step::MessageLength => {
                    let Some(length) = self.input.take_u64() else { return Ok(None) };
                    self.step = Step::Message { length: checked(length)? };
                }
                Step::Message { length } => {
                    let Some(bytes) = self.input.take(length) else { return Ok(None) };
                    self.step = first_step(self.kind);
                    return self.whole_message(bytes).map(Some);
                }
                Step::EntryCount => {
                    let Some(left) = self.input.take_u64() else { return Ok(None) };
                    self.step = if left == 0 { Step::Commit } else { Step::EntryLength { left } };
                }
                Step::EntryLength { left } => {
                    let Some(length) = self.input.take_u64() else { return Ok(None) };
                    // The length itself counts, so that entries without bytes cannot be sent without end.
                    let so_far = self.entries_bytes.saturating_add(length).saturating_add(8);
                    checked(so_far)?;
                    self.entries_bytes = so_far;
                    self.step = Step::Entry { left, length: checked(length)? };
                }
                Step::Entry { left, length } => {
                    let Some(bytes) = self.input.take(length) else { return Ok(None) };
                    if self.entries.len() >= ENTRIES_MAX {
                        return Err(too_many().into());
                    }
                    self.entries.push(decode_entry(bytes)?);
                    self.step = match left - 1 {
                        0 => Step::Commit,
                        left => Step::EntryLength { left },
                    };
                }
                Step::Commit => {
                    let Some(commit) = self.input.take_u64() else { return Ok(None) };
                    self.step = Step::Type;
                    return Ok(Some(self.continued_append(LogIndex(commit))));
                }
            }
        }
    }

    fn whole_message(&mut self, bytes: Bytes) -> Result<Message, StreamError> {
        let message = decode_posted(bytes)?;
        if self.kind == StreamKind::Append {
            if let Body::Append { prev, entries, .. } = &message.body {
                self.last = end_of_append(message.term, *prev, entries);
            } else if !is_link_heartbeat(&message) {
                return Err(StreamError::NotAnAppend { kind: message.body.kind() });
            }
        }
        Ok(message)
    }

    fn continued_append(&mut self, commit: LogIndex) -> Message {
        let entries = std::mem::take(&mut self.entries);
        self.entries_bytes = 0;
        let prev = self.last;
        self.last.index = prev.index.plus(entries.len());
        let body = Body::Append { prev, entries, commit };
        Message { to: self.local, from: self.remote, term: prev.term, body }
    }
}

fn first_step(kind: StreamKind) -> Step {
    match kind {
        StreamKind::Append => Step::Type,
        StreamKind::Message => Step::MessageLength,
    }
}

fn checked(length: u64) -> Result<usize, StreamError> {
    match usize::try_from(length) {
        Ok(count) if length <= MESSAGE_BYTES_MAX => Ok(count),
        Ok(_) | Err(_) => Err(StreamError::TooLarge { length }),
    }
}

fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    let proto = proto::raftpb::Entry::decode(bytes)
        .map_err(|error| CodecError::Protobuf(error.to_string()))?;
    entry_from_proto(proto)
}

/// Arrived bytes that are not used yet: what arrived last, and in front of it what was too little before.
#[derive(Debug, Default)]
struct Input {
    /// The beginning of what is being waited for; empty when nothing of it has arrived before `latest`.
    gathered: BytesMut,
    latest: Bytes,
}

impl Input {
    fn arrive(&mut self, bytes: Bytes) {
        debug_assert!(self.latest.is_empty(), "the caller takes until there is nothing");
        self.latest = bytes;
    }

    /// The next `count` bytes, or `None` and all that there is put aside. Until they are complete, the caller asks for
    /// the same count again.
    fn take(&mut self, count: usize) -> Option<Bytes> {
        if self.gathered.is_empty() && self.latest.len() >= count {
            return Some(self.latest.split_to(count));
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(count.min(GATHER_BYTES));
        }
        let missing = count.saturating_sub(self.gathered.len());
        let next = self.latest.split_to(missing.min(self.latest.len()));
        self.gathered.extend_from_slice(&next);
        (self.gathered.len() >= count).then(|| self.gathered.split().freeze())
    }

    fn take_u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))
    }
}

/// The message that a POST carries: nothing but itself.
pub(crate) fn decode_posted(body: Bytes) -> Result<Message, CodecError> {
    check_count(&body)?;
    decode_message(body)
}

/// Refuses what would take far more memory as a message than it does as bytes.
fn check_count(bytes: &[u8]) -> Result<(), CodecError> {
    let not_protobuf = |error: prost::DecodeError| CodecError::Protobuf(error.to_string());
    let mut rest = bytes;
    let mut count = 0;
    while bytes.len() >= COUNTED_FROM_BYTES && !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(not_protobuf)?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default()).map_err(not_protobuf)?;
        count += 1;
        if tag == RESPONSES_TAG || count > ENTRIES_MAX {
            return Err(too_many());
        }
    }
    Ok(())
}

fn too_many() -> CodecError {
    CodecError::Malformed { what: "message with more entries than a member sends" }
}

/// What stands at the head of a posted snapshot.
#[derive(Debug)]
pub(crate) enum SnapshotHead {
    /// A snapshot.
    Snapshot(Message),
    /// A message, but another one.
    OtherKind,
}

/// Reads the message in front of a posted database.
pub(crate) fn decode_snapshot_head(bytes: Bytes) -> Result<SnapshotHead, CodecError> {
    check_count(&bytes)?;
    let proto = proto::raftpb::Message::decode(bytes)
        .map_err(|error| CodecError::Protobuf(error.to_string()))?;
    if proto.r#type != i32::from(proto::raftpb::MessageType::MsgSnap) {
        return Ok(SnapshotHead::OtherKind);
    }
    message_from_proto(proto).map(SnapshotHead::Snapshot)
}

#[cfg(test)]
mod tests;
