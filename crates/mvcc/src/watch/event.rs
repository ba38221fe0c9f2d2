//! Events as they leave the store: one batch for each revision, encoded once.

use bytes::Bytes;

use crate::row::{self, EncodedChange, NewRow};

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written; the flag says whether that created it.
    Put {
        /// The key did not exist before.
        is_create: bool,
    },
    /// It was deleted, by a request or because its lease ended.
    Delete,
}

impl EventKind {
    /// Whether the key had a value before.
    #[must_use]
    pub fn has_previous(self) -> bool {
        match self {
            EventKind::Put { is_create } => !is_create,
            EventKind::Delete => true,
        }
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key.
    pub key: Bytes,
    /// The lease that the key is attached to from now on; 0 is none. Always 0 for a deletion.
    pub lease: i64,
    /// One `events` field of a `WatchResponse`, tag and length included; without the pair before.
    encoded: Bytes,
    /// The `kv` of the event.
    kv: Bytes,
}

impl Event {
    /// Makes the event of a put, and its row.
    pub(crate) fn put(row: &NewRow<'_>) -> (Self, Bytes) {
        let EncodedChange { event, row: encoded_row, key } = row::encode_put(row);
        let kind = EventKind::Put { is_create: row.create_revision == row.mod_revision };
        (
            Event { kind, key, lease: row.lease, encoded: event, kv: encoded_row.clone() },
            encoded_row,
        )
    }

    /// Makes the event of a deletion, and its row.
    pub(crate) fn delete(key: &[u8], revision: i64) -> (Self, Bytes) {
        let EncodedChange { event, row, key } = row::encode_delete(key, revision);
        // The kv is the end of the event: the row, and the revision.
        let kv_start = event.len() - row.len() - row::int_field_len(revision);
        let kv = event.slice(kv_start..);
        (Event { kind: EventKind::Delete, key, lease: 0, encoded: event, kv }, row)
    }

    /// One `events` field of a `WatchResponse`, without the pair before.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The same with the pair before; `previous` is the encoded `KeyValue`.
    #[must_use]
    pub fn encode_with_previous(&self, previous: &[u8]) -> Bytes {
        row::encode_event(self.kind == EventKind::Delete, &self.kv, Some(previous))
    }
}

/// All changes of one revision, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The revision.
    pub revision: i64,
    /// The changes; never empty.
    pub events: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::{etcdserverpb::WatchResponse, mvccpb};

    use super::*;

    #[test]
    fn a_deletion_carries_key_and_revision_alone() {
        let (event, row) = Event::delete(b"gone", 77);
        let kv = mvccpb::KeyValue { key: "gone".into(), mod_revision: 77, ..Default::default() };
        assert_eq!(event.kv, kv.encode_to_vec());
        assert_eq!(
            row,
            mvccpb::KeyValue { key: "gone".into(), ..Default::default() }.encode_to_vec()
        );
        let previous =
            mvccpb::KeyValue { key: "gone".into(), value: "v".into(), ..Default::default() };
        let expected = mvccpb::Event { r#type: 1, kv: Some(kv), prev_kv: Some(previous.clone()) };
        assert_eq!(
            event.encode_with_previous(&previous.encode_to_vec()),
            WatchResponse { events: vec![expected], ..Default::default() }.encode_to_vec()
        );
    }
}
