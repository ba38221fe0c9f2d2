//! What goes to one stream: responses, their events shared and already encoded.

use std::{borrow::Cow, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use proto::etcdserverpb::ResponseHeader;

use crate::row::{int_field_len, nested_len, put_int_field, put_length};

/// Tag bytes of `WatchResponse`.
const HEADER: u8 = 0x0a;
const WATCH_ID: u8 = 0x10;
const CREATED: u8 = 0x18;
const CANCELED: u8 = 0x20;
const COMPACT_REVISION: u8 = 0x28;
const CANCEL_REASON: u8 = 0x32;
const FRAGMENT: u8 = 0x38;

/// Watch id of responses that are about no watcher: refusals, and progress of the whole stream.
pub const NO_WATCH_ID: i64 = -1;

/// Events of one response, in order; shared by all watchers that get the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// Each an `events` field of a `WatchResponse`, tag and length included.
    pub(super) parts: Vec<Bytes>,
    pub(super) len_bytes: usize,
}

impl Events {
    pub(super) fn push(&mut self, part: Bytes) {
        self.len_bytes += part.len();
        self.parts.push(part);
    }

    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Encoded size of all of them.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

/// What a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The watcher exists.
    Created,
    /// The watcher was refused; there is none.
    Refused {
        /// Why, in etcd's words.
        reason: Cow<'static, str>,
    },
    /// The watcher ended because the client asked for it.
    Canceled,
    /// The watcher ended because what it needs next is compacted.
    Compacted {
        /// The compact revision.
        compact_revision: i64,
    },
    /// Everything up to the revision in the header was sent.
    Progress,
    /// Events.
    Events(Arc<Events>),
}

/// One response, or several if it is to be split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which watcher it is about.
    pub watch_id: i64,
    /// Revision in the header; 0 in [`Body::Compacted`].
    pub revision: i64,
    /// Whether the client wants large responses split.
    pub may_fragment: bool,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// Whether both have the same events in memory.
    pub(super) fn shares_events_with(&self, other: &Message) -> bool {
        match (&self.body, &other.body) {
            (Body::Events(mine), Body::Events(other)) => Arc::ptr_eq(mine, other),
            _ => false,
        }
    }

    /// Memory that the queue counts for it.
    pub(super) fn cost_bytes(&self, is_shared: bool) -> usize {
        /// What a message without events takes in a queue.
        const OVERHEAD_BYTES: usize = 64;
        match &self.body {
            Body::Events(_) if is_shared => OVERHEAD_BYTES,
            Body::Events(events) => OVERHEAD_BYTES + events.len_bytes,
            Body::Refused { reason } => OVERHEAD_BYTES + reason.len(),
            Body::Created | Body::Canceled | Body::Compacted { .. } | Body::Progress => {
                OVERHEAD_BYTES
            }
        }
    }

    /// Encodes the message as one or several `WatchResponse`s.
    ///
    /// `header` gives cluster, member and term. A response of `fragment_bytes` or more, with at least two events, of a
    /// watcher that allows it, is split: each part is below that size or has one event.
    #[must_use]
    pub fn encode(&self, header: &ResponseHeader, fragment_bytes: usize) -> Vec<Response<'_>> {
        let header = ResponseHeader { revision: self.revision, ..*header };
        let Body::Events(events) = &self.body else {
            return vec![Response { head: self.head(&header, false), events: &[] }];
        };
        let head = self.head(&header, false);
        if !self.may_fragment || events.len() < 2 || head.len() + events.len_bytes < fragment_bytes
        {
            return vec![Response { head, events: &events.parts }];
        }
        // The flag of a fragment that is not the last one counts towards its size.
        let fragment_head = self.head(&header, true);
        let mut responses = Vec::new();
        let mut rest: &[Bytes] = &events.parts;
        loop {
            let mut size = fragment_head.len();
            let fitting = rest.iter().take_while(|part| {
                size += part.len();
                size < fragment_bytes
            });
            let count = fitting.count().clamp(1, rest.len());
            let (now, later) = rest.split_at(count);
            rest = later;
            let is_last = rest.is_empty();
            let head = if is_last { head.clone() } else { fragment_head.clone() };
            responses.push(Response { head, events: now });
            if is_last {
                return responses;
            }
        }
    }

    /// Encodes everything before the events.
    fn head(&self, header: &ResponseHeader, is_fragment: bool) -> Bytes {
        let (mut is_created, mut is_canceled, mut compact_revision, mut reason) =
            (false, false, 0, "");
        match &self.body {
            Body::Created => is_created = true,
            Body::Refused { reason: why } => {
                (is_created, is_canceled) = (true, true);
                reason = why;
            }
            Body::Canceled => is_canceled = true,
            Body::Compacted { compact_revision: revision } => {
                is_canceled = true;
                compact_revision = *revision;
            }
            Body::Progress | Body::Events(_) => {}
        }
        let header_len = header.encoded_len();
        let flags_len =
            2 * (usize::from(is_created) + usize::from(is_canceled) + usize::from(is_fragment));
        let numbers_len = int_field_len(self.watch_id) + int_field_len(compact_revision);
        let mut buf = BytesMut::with_capacity(
            nested_len(header_len) + flags_len + numbers_len + nested_len(reason.len()),
        );
        put_length(&mut buf, HEADER, header_len);
        header.encode(&mut buf).expect("a buffer grows");
        put_int_field(&mut buf, WATCH_ID, self.watch_id);
        put_int_field(&mut buf, CREATED, i64::from(is_created));
        put_int_field(&mut buf, CANCELED, i64::from(is_canceled));
        put_int_field(&mut buf, COMPACT_REVISION, compact_revision);
        if !reason.is_empty() {
            put_length(&mut buf, CANCEL_REASON, reason.len());
            buf.put_slice(reason.as_bytes());
        }
        put_int_field(&mut buf, FRAGMENT, i64::from(is_fragment));
        buf.freeze()
    }
}

/// One encoded `WatchResponse`: a few bytes of its own, then events that others may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'m> {
    /// Everything before the events.
    pub head: Bytes,
    /// The encoded events, in order.
    pub events: &'m [Bytes],
}

impl Response<'_> {
    /// Encoded size.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.head.len() + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    /// Writes the response to a buffer.
    pub fn write_to(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.head);
        for event in self.events {
            buf.put_slice(event);
        }
    }

    /// The parts of the response, to be sent one after the other; nothing is copied.
    #[must_use]
    pub fn into_segments(self) -> Vec<Bytes> {
        let mut segments = Vec::with_capacity(1 + self.events.len());
        segments.push(self.head);
        segments.extend_from_slice(self.events);
        segments
    }
}

#[cfg(test)]
mod tests {
    use proto::{etcdserverpb::WatchResponse, mvccpb};

    use super::*;
    use crate::row::{NewRow, encode_put};

    const HEAD: ResponseHeader =
        ResponseHeader { cluster_id: 9, member_id: 8, revision: 0, raft_term: 7 };

    fn decode(response: &Response<'_>) -> WatchResponse {
        let mut buf = Vec::new();
        response.write_to(&mut buf);
        assert_eq!(buf.len(), response.len_bytes());
        assert_eq!(response.clone().into_segments().concat(), buf);
        let decoded = WatchResponse::decode(&*buf).unwrap();
        assert_eq!(decoded.encode_to_vec(), buf, "fields stand in order, zeros are left out");
        decoded
    }

    fn event(value_len: usize) -> Bytes {
        let value = vec![b'v'; value_len];
        let row = NewRow {
            key: b"k",
            value: &value,
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        encode_put(&row).event
    }

    fn message(body: Body) -> Message {
        Message { watch_id: 5, revision: 6, may_fragment: true, body }
    }

    #[test]
    fn control_messages_encode_as_etcd_sends_them() {
        let header = Some(ResponseHeader { revision: 6, ..HEAD });
        let base = WatchResponse { header, watch_id: 5, ..Default::default() };
        let check = |body, expected| {
            let message = message(body);
            let responses = message.encode(&HEAD, 100);
            assert_eq!(responses.iter().map(decode).collect::<Vec<_>>(), [expected]);
        };
        check(Body::Created, WatchResponse { created: true, ..base.clone() });
        check(Body::Canceled, WatchResponse { canceled: true, ..base.clone() });
        check(Body::Progress, base.clone());
        check(
            Body::Compacted { compact_revision: 4 },
            WatchResponse { canceled: true, compact_revision: 4, ..base.clone() },
        );
        let reason = "mvcc: watcher range is empty";
        check(
            Body::Refused { reason: reason.into() },
            WatchResponse { created: true, canceled: true, cancel_reason: reason.into(), ..base },
        );
    }

    #[test]
    fn events_encode_as_prost_does() {
        let mut events = Events::default();
        events.push(event(3));
        events.push(event(4));
        let message = message(Body::Events(Arc::new(events)));
        let [response] = &message.encode(&HEAD, 10_000)[..] else { panic!("one response") };
        let decoded = decode(response);
        assert_eq!(decoded.events.len(), 2);
        let kv = mvccpb::KeyValue {
            key: "k".into(),
            value: "vvv".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        assert_eq!(decoded.events[0], mvccpb::Event { r#type: 0, kv: Some(kv), prev_kv: None });
    }

    #[test]
    fn fragments_stay_below_the_limit_and_lose_nothing() {
        for sizes in
            [vec![400; 10], vec![5000, 10, 10, 5000, 5000], vec![10; 100], vec![2000, 2000]]
        {
            let mut events = Events::default();
            for size in &sizes {
                events.push(event(*size));
            }
            let all = events.parts.clone();
            let message = message(Body::Events(Arc::new(events)));
            let limit = 1500;
            let responses = message.encode(&HEAD, limit);
            assert_eq!(
                responses.iter().flat_map(|response| response.events.to_vec()).collect::<Vec<_>>(),
                all
            );
            for (place, response) in responses.iter().enumerate() {
                let decoded = decode(response);
                assert_eq!(decoded.fragment, place + 1 < responses.len());
                assert_eq!((decoded.watch_id, decoded.header.unwrap().revision), (5, 6));
                assert!(response.events.len() == 1 || response.len_bytes() < limit);
            }
            let whole = Message { may_fragment: false, ..message.clone() };
            assert_eq!(whole.encode(&HEAD, limit).len(), 1);
        }
    }
}
