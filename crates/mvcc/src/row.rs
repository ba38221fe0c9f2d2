//! Rows of the key bucket: encoded `mvccpb.KeyValue` messages, written and read without a message in between.
//!
//! A put needs the same bytes three times: as the row, as the `kv` of its event, and (its key) in the event's index.
//! They share one buffer:
//!
//! ```text
//!   put:     | 5a len | 12 len | 0a klen KEY | 10 create | 18 mod | 20 version | 2a vlen VALUE | 30 lease |
//!              └ events field of WatchResponse
//!                       └ kv field of Event
//!                                └ row: from here to the end
//!   delete:  | 5a len | 08 01 | 12 len | 0a klen KEY | 18 mod |
//!                                        └ row ──────┘
//! ```
//!
//! Zero and empty fields are left out, as proto3 (and etcd) do; fields stand in the order of their numbers.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

/// Tag bytes of the fields used here: number << 3 | wire type.
pub(crate) mod tag {
    /// `KeyValue.key`, `create_revision`, `mod_revision`, `version`, `value`, `lease`.
    pub(crate) const KEY: u8 = 0x0a;
    pub(crate) const CREATE_REVISION: u8 = 0x10;
    pub(crate) const MOD_REVISION: u8 = 0x18;
    pub(crate) const VERSION: u8 = 0x20;
    pub(crate) const VALUE: u8 = 0x2a;
    pub(crate) const LEASE: u8 = 0x30;
    /// `Event.type`, `kv`, `prev_kv`.
    pub(crate) const EVENT_TYPE: u8 = 0x08;
    pub(crate) const EVENT_KV: u8 = 0x12;
    pub(crate) const EVENT_PREV_KV: u8 = 0x1a;
    /// `WatchResponse.events`.
    pub(crate) const EVENTS: u8 = 0x5a;
}

/// Everything that a put writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRow<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

/// An encoded change: the event, and the parts of it that are used alone.
#[derive(Debug, Clone)]
pub(crate) struct EncodedChange {
    /// One `events` field of a `WatchResponse`, tag and length included.
    pub(crate) event: Bytes,
    /// The row of the key bucket.
    pub(crate) row: Bytes,
    /// The key alone.
    pub(crate) key: Bytes,
}

/// Encodes a put.
pub(crate) fn encode_put(row: &NewRow<'_>) -> EncodedChange {
    let kv_len = bytes_field_len(row.key)
        + int_field_len(row.create_revision)
        + int_field_len(row.mod_revision)
        + int_field_len(row.version)
        + bytes_field_len(row.value)
        + int_field_len(row.lease);
    let body_len = nested_len(kv_len);
    let mut buf = BytesMut::with_capacity(nested_len(body_len));
    put_length(&mut buf, tag::EVENTS, body_len);
    put_length(&mut buf, tag::EVENT_KV, kv_len);
    let row_start = buf.len();
    put_bytes_field(&mut buf, tag::KEY, row.key);
    let key_end = buf.len();
    put_int_field(&mut buf, tag::CREATE_REVISION, row.create_revision);
    put_int_field(&mut buf, tag::MOD_REVISION, row.mod_revision);
    put_int_field(&mut buf, tag::VERSION, row.version);
    put_bytes_field(&mut buf, tag::VALUE, row.value);
    put_int_field(&mut buf, tag::LEASE, row.lease);
    let event = buf.freeze();
    EncodedChange {
        row: event.slice(row_start..),
        key: event.slice(key_end - row.key.len()..key_end),
        event,
    }
}

/// Encodes a deletion.
pub(crate) fn encode_delete(key: &[u8], revision: i64) -> EncodedChange {
    let kv_len = bytes_field_len(key) + int_field_len(revision);
    let body_len = 2 + nested_len(kv_len);
    let mut buf = BytesMut::with_capacity(nested_len(body_len));
    put_length(&mut buf, tag::EVENTS, body_len);
    buf.put_slice(&[tag::EVENT_TYPE, 1]);
    put_length(&mut buf, tag::EVENT_KV, kv_len);
    let row_start = buf.len();
    put_bytes_field(&mut buf, tag::KEY, key);
    let key_end = buf.len();
    put_int_field(&mut buf, tag::MOD_REVISION, revision);
    let event = buf.freeze();
    EncodedChange {
        row: event.slice(row_start..key_end),
        key: event.slice(key_end - key.len()..key_end),
        event,
    }
}

/// Encodes an `events` field around a row that was read back, optionally with the pair before it.
pub(crate) fn encode_event(is_delete: bool, kv: &[u8], prev: Option<&[u8]>) -> Bytes {
    let type_len = if is_delete { 2 } else { 0 };
    let body_len = type_len + nested_len(kv.len()) + prev.map_or(0, |prev| nested_len(prev.len()));
    let mut buf = BytesMut::with_capacity(nested_len(body_len));
    put_length(&mut buf, tag::EVENTS, body_len);
    if is_delete {
        buf.put_slice(&[tag::EVENT_TYPE, 1]);
    }
    put_length(&mut buf, tag::EVENT_KV, kv.len());
    buf.put_slice(kv);
    if let Some(prev) = prev {
        put_length(&mut buf, tag::EVENT_PREV_KV, prev.len());
        buf.put_slice(prev);
    }
    buf.freeze()
}

/// A row taken apart, its bytes still where they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RowView<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
    pub(crate) value: &'a [u8],
    pub(crate) lease: i64,
}

/// Why a row could not be taken apart; the caller knows which row it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl<'a> RowView<'a> {
    /// Takes a row apart. Unknown fields are skipped; of a repeated field the last one counts.
    pub(crate) fn parse(mut rest: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = RowView::default();
        while !rest.is_empty() {
            let field = varint(&mut rest)?;
            match u8::try_from(field) {
                Ok(tag::KEY) => view.key = length_delimited(&mut rest)?,
                Ok(tag::CREATE_REVISION) => view.create_revision = varint(&mut rest)?.cast_signed(),
                Ok(tag::MOD_REVISION) => view.mod_revision = varint(&mut rest)?.cast_signed(),
                Ok(tag::VERSION) => view.version = varint(&mut rest)?.cast_signed(),
                Ok(tag::VALUE) => view.value = length_delimited(&mut rest)?,
                Ok(tag::LEASE) => view.lease = varint(&mut rest)?.cast_signed(),
                Ok(_) | Err(_) => skip(field, &mut rest)?,
            }
        }
        Ok(view)
    }

    /// Copies the row into a message.
    pub(crate) fn to_message(self) -> proto::mvccpb::KeyValue {
        proto::mvccpb::KeyValue {
            key: Bytes::copy_from_slice(self.key),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: Bytes::copy_from_slice(self.value),
            lease: self.lease,
        }
    }
}

/// Returns the key of a row without looking at the rest, when it is the first field (as every writer puts it).
pub(crate) fn key_of(row: &[u8]) -> Result<&[u8], Malformed> {
    match row {
        [tag::KEY, rest @ ..] => {
            let mut rest = rest;
            length_delimited(&mut rest)
        }
        _ => RowView::parse(row).map(|view| view.key),
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(rest).map_err(|_| Malformed("a number is cut off"))
}

fn length_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len =
        usize::try_from(varint(rest)?).map_err(|_| Malformed("a field is longer than memory"))?;
    let (field, after) =
        rest.split_at_checked(len).ok_or(Malformed("a field reaches beyond the row"))?;
    *rest = after;
    Ok(field)
}

fn skip(field: u64, rest: &mut &[u8]) -> Result<(), Malformed> {
    let mut advance = |len: usize| {
        *rest = rest.get(len..).ok_or(Malformed("a field reaches beyond the row"))?;
        Ok(())
    };
    match field & 7 {
        0 => varint(rest).map(drop),
        1 => advance(8),
        2 => length_delimited(rest).map(drop),
        5 => advance(4),
        _ => Err(Malformed("a field has an unknown wire type")),
    }
}

/// Length of a field that holds `len` bytes: tag, length, content. All tags used here take one byte.
pub(crate) fn nested_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

pub(crate) fn put_length(buf: &mut impl BufMut, tag: u8, len: usize) {
    buf.put_u8(tag);
    encode_varint(len as u64, buf);
}

pub(crate) fn bytes_field_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { nested_len(bytes.len()) }
}

pub(crate) fn int_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value.cast_unsigned()) }
}

pub(crate) fn put_bytes_field(buf: &mut impl BufMut, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_length(buf, tag, bytes.len());
        buf.put_slice(bytes);
    }
}

pub(crate) fn put_int_field(buf: &mut impl BufMut, tag: u8, value: i64) {
    if value != 0 {
        buf.put_u8(tag);
        encode_varint(value.cast_unsigned(), buf);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::{
        etcdserverpb::WatchResponse,
        mvccpb::{Event, KeyValue},
    };

    use super::*;

    fn sample() -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"/registry/pods/a"),
            create_revision: 300,
            mod_revision: 70_000,
            version: 3,
            value: Bytes::from(vec![7; 300]),
            lease: -5,
        }
    }

    fn encode(kv: &KeyValue) -> EncodedChange {
        encode_put(&NewRow {
            key: &kv.key,
            value: &kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        })
    }

    fn response(events: Vec<Event>) -> WatchResponse {
        WatchResponse { events, ..WatchResponse::default() }
    }

    #[test]
    fn put_encodes_as_prost_does() {
        for kv in [
            sample(),
            KeyValue { value: Bytes::new(), lease: 0, ..sample() },
            KeyValue { key: Bytes::from(vec![b'k'; 5000]), ..sample() },
        ] {
            let change = encode(&kv);
            assert_eq!(change.row, kv.encode_to_vec());
            assert_eq!(change.key, kv.key);
            let event = Event { r#type: 0, kv: Some(kv.clone()), prev_kv: None };
            assert_eq!(change.event, response(vec![event]).encode_to_vec());
        }
    }

    #[test]
    fn delete_encodes_as_prost_does() {
        let change = encode_delete(b"gone", 1 << 40);
        assert_eq!(
            change.row,
            KeyValue { key: "gone".into(), ..KeyValue::default() }.encode_to_vec()
        );
        let kv = KeyValue { key: "gone".into(), mod_revision: 1 << 40, ..KeyValue::default() };
        let event = Event { r#type: 1, kv: Some(kv), prev_kv: None };
        assert_eq!(change.event, response(vec![event]).encode_to_vec());
    }

    #[test]
    fn events_with_previous_pair_encode_as_prost_does() {
        let previous = KeyValue { mod_revision: 5, ..sample() };
        let event = Event { r#type: 0, kv: Some(sample()), prev_kv: Some(previous.clone()) };
        let row = sample().encode_to_vec();
        assert_eq!(
            encode_event(false, &row, Some(&previous.encode_to_vec())),
            response(vec![event]).encode_to_vec()
        );
        let kv = KeyValue { key: "gone".into(), mod_revision: 9, ..KeyValue::default() };
        let deleted = kv.encode_to_vec();
        let event = Event { r#type: 1, kv: Some(kv), prev_kv: Some(previous.clone()) };
        assert_eq!(
            encode_event(true, &deleted, Some(&previous.encode_to_vec())),
            response(vec![event]).encode_to_vec()
        );
    }

    #[test]
    fn parse_reads_what_prost_writes() {
        let kv = sample();
        let row = kv.encode_to_vec();
        assert_eq!(RowView::parse(&row).map(RowView::to_message), Ok(kv.clone()));
        assert_eq!(key_of(&row), Ok(kv.key.as_ref()));
        assert_eq!(RowView::parse(&[]), Ok(RowView::default()));
        assert_eq!(key_of(&[]), Ok([].as_slice()));
    }

    #[test]
    fn parse_refuses_cut_rows_and_never_panics() {
        let row = sample().encode_to_vec();
        for len in 0..row.len() {
            let _ = RowView::parse(&row[..len]);
            let _ = key_of(&row[..len]);
        }
        assert!(RowView::parse(&row[..row.len() - 1]).is_err());
        assert!(key_of(&[tag::KEY, 9, 1]).is_err());
        assert!(RowView::parse(&[0x0f]).is_err());
        // Unknown fields of every wire type are skipped.
        let unknown = [
            0x78,
            1,
            0x79,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0x7a,
            1,
            0,
            0x7d,
            0,
            0,
            0,
            0,
            0x98,
            0x06,
            7,
            tag::VERSION,
            4,
        ];
        assert_eq!(RowView::parse(&unknown).map(|view| view.version), Ok(4));
    }
}
