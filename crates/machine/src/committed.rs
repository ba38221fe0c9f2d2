//! A committed entry on its way in, and what is in it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, Request as V2Request};
use proto::nested::Nested as _;
use proto::{raftpb, text};

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

/// The request in a normal entry: one of today's, or one of the v2 API with nothing around it, which 3.5 writes for two purposes.
#[derive(Debug)]
pub(crate) enum Decoded {
    Request(Box<InternalRaftRequest>),
    V2(Box<V2Request>),
}

/// Decodes a normal entry.
///
/// A bare v2 request is told apart by failing as an [`InternalRaftRequest`], whose field for a message stands where that has its
/// method, and by the method being one. Text that is not UTF-8, which etcd 3.5 and 3.6 admit, is read as [`text`] has it.
pub(crate) fn decode_request(index: u64, bytes: Bytes) -> Result<Decoded, Fatal> {
    let error = match InternalRaftRequest::decode_nested(bytes.clone()) {
        Ok(request) => return Ok(Decoded::Request(Box::new(request))),
        Err(error) => error,
    };
    if let Some(v2) = v2_request(&bytes) {
        return Ok(Decoded::V2(Box::new(v2)));
    }
    let mended = text::mend_request(&bytes).map(InternalRaftRequest::decode_nested);
    let Some(Ok(request)) = mended else {
        return Err(Fatal::Entry { index, what: format!("not a request: {error}") });
    };
    tracing::warn!(index, error = %error, "an entry has text that is not UTF-8, which is spelled out");
    Ok(Decoded::Request(Box::new(request)))
}

/// A request of the v2 API; nearly any bytes decode as one, so it must have a method.
fn v2_request(bytes: &Bytes) -> Option<V2Request> {
    let mended = || V2Request::decode(text::mend_v2_request(bytes)?).ok();
    let request = V2Request::decode(bytes.clone()).ok().or_else(mended)?;
    let is_method = matches!(&*request.method, "PUT" | "POST" | "DELETE" | "GET" | "QGET" | "SYNC");
    is_method.then_some(request)
}
