//! A committed entry on its way in, and what is in it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{InternalRaftRequest, Request as V2Request};
use proto::nested::Nested as _;
use proto::raftpb;

use crate::Fatal;

/// A committed entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Index in the log.
    pub index: u64,
    /// Term of the leader that appended it.
    pub term: u64,
    /// What is in it.
    pub payload: Payload,
}

/// What a committed entry holds.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: the first entry of a leader's term, or a conf change that raft dropped since another was pending.
    Empty,
    /// A request that this member proposed: it is not decoded again, and somebody here waits for its outcome.
    Request(Arc<InternalRaftRequest>),
    /// The bytes of a normal entry.
    Raw(Bytes),
    /// A change of the membership.
    ConfChange(raftpb::ConfChange),
}

impl Committed {
    /// Reads an entry as it stands in the log.
    ///
    /// # Errors
    /// [`Fatal::Entry`] when it is of a type that etcd never writes, or a conf change that cannot be decoded.
    pub fn from_entry(entry: raftpb::Entry) -> Result<Self, Fatal> {
        let raftpb::Entry { r#type, term, index, data } = entry;
        let data = data.unwrap_or_default();
        let wrong = |what: String| Fatal::Entry { index, what };
        let payload = match raftpb::EntryType::try_from(r#type) {
            Ok(raftpb::EntryType::EntryNormal) if data.is_empty() => Payload::Empty,
            Ok(raftpb::EntryType::EntryNormal) => Payload::Raw(data),
            Ok(raftpb::EntryType::EntryConfChange) => Payload::ConfChange(
                raftpb::ConfChange::decode(data)
                    .map_err(|error| wrong(format!("conf change: {error}")))?,
            ),
            Ok(raftpb::EntryType::EntryConfChangeV2) => {
                return Err(wrong(
                    "a conf change of version 2, which etcd does not apply either".to_owned(),
                ));
            }
            Err(_) => return Err(wrong(format!("unknown type {type}", type = r#type))),
        };
        Ok(Self { index, term, payload })
    }
}

/// The request in a normal entry: one of today's, or one of the v2 API, which 3.5 writes for two purposes.
#[derive(Debug)]
pub(crate) enum Decoded {
    Request(Box<InternalRaftRequest>),
    V2(Box<V2Request>),
}

/// Decodes a normal entry.
///
/// A bare v2 request is told apart by failing as an [`InternalRaftRequest`]: its method stands where that has a
/// message.
pub(crate) fn decode_request(index: u64, bytes: Bytes) -> Result<Decoded, Fatal> {
    let error = match InternalRaftRequest::decode_nested(bytes.clone()) {
        Ok(InternalRaftRequest { request: Some(Op::V2(v2)), .. }) => return Ok(Decoded::V2(v2)),
        Ok(request) => return Ok(Decoded::Request(Box::new(request))),
        Err(error) => error,
    };
    match V2Request::decode(bytes) {
        Ok(request) => Ok(Decoded::V2(Box::new(request))),
        Err(_) => Err(Fatal::Entry { index, what: format!("not a request: {error}") }),
    }
}
