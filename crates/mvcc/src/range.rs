//! Range requests: which rows, in which order, and the encoded answer.
//!
//! Filters and limits are decided on the index alone, and so is every order but that by value: only rows that are
//! part of the answer are read, and their bytes go into the answer as they are. Keys alone (3.7) need no row at all.
//!
//! Quirks of etcd that show, all in [`Plan`]:
//! - without an order but with a target other than the key, the limit cuts the *key-ordered* scan, and the sort follows;
//! - `count` ignores filters and limit, `more` does not;
//! - an unknown order fetches everything and sorts nothing (3.5);
//! - equal sort keys stay in key order (etcd does not promise it, and keeps it for up to 12 keys).

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader,
    range_request::{SortOrder, SortTarget},
};

use crate::{
    Error, KeyRange, Rules, StorageError,
    check::CheckError,
    index::Found,
    row::{
        RowView, bytes_field_len, int_field_len, put_bytes_field, put_int_field, put_length, tag,
    },
    shared::{Source, Wanted},
};

/// Room before the pairs for a header: a tag, a length, and four numbers of up to 11 bytes each.
const HEADROOM: usize = 2 + 4 * 11;

/// Tag bytes of `RangeResponse`: `header`, `kvs`, `more`, `count`.
const HEADER: u8 = 0x0a;
const KVS: u8 = 0x12;
const MORE: u8 = 0x18;
const COUNT: u8 = 0x20;

/// Answer to a range request; the pairs are already encoded as they go to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRange {
    /// The store's revision when it was read.
    pub revision: i64,
    /// Keys in the range, whatever the limit and the filters.
    pub count: i64,
    /// The limit cut the answer.
    pub more: bool,
    /// The pairs.
    pub kvs: KeyValues,
}

impl EncodedRange {
    /// Encodes the whole `RangeResponse` with this header, without copying the pairs.
    #[must_use]
    pub fn encode(mut self, header: &ResponseHeader) -> Bytes {
        let buf = &mut self.kvs.buf;
        if self.more {
            buf.extend_from_slice(&[MORE, 1]);
        }
        put_int_field(buf, COUNT, self.count);
        let mut head = Vec::with_capacity(HEADROOM);
        put_length(&mut head, HEADER, header.encoded_len());
        header.encode(&mut head).expect("a vector grows");
        let start = HEADROOM - head.len();
        buf[start..HEADROOM].copy_from_slice(&head);
        buf.advance(start);
        self.kvs.buf.freeze()
    }

    /// Turns the answer into a message. Its header has the revision alone, as in the responses of a txn.
    ///
    /// # Errors
    /// A row is not a `KeyValue` message: the file is damaged.
    pub fn into_response(self) -> Result<RangeResponse, StorageError> {
        let revision = self.revision;
        let header = ResponseHeader { revision, ..ResponseHeader::default() };
        RangeResponse::decode(self.encode(&header)).map_err(|_| StorageError::Row {
            main: revision,
            sub: 0,
            what: "a row of a range read at this revision is not a KeyValue message",
        })
    }
}

/// Pairs encoded as the repeated field `kvs` of a `RangeResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValues {
    /// [`HEADROOM`] bytes, then the field.
    buf: BytesMut,
    len: usize,
    /// Where the last pair's message begins.
    last: usize,
}

impl KeyValues {
    fn with_capacity(bytes: usize) -> Self {
        let mut buf = BytesMut::with_capacity(HEADROOM + bytes);
        buf.resize(HEADROOM, 0);
        KeyValues { buf, len: 0, last: 0 }
    }

    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The encoded field, tags and lengths included.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.buf[HEADROOM..]
    }

    /// The encoded field, on its own.
    #[must_use]
    pub fn into_encoded(mut self) -> Bytes {
        self.buf.advance(HEADROOM);
        self.buf.freeze()
    }

    /// The key of the last pair.
    #[must_use]
    pub fn last_key(&self) -> Option<&[u8]> {
        let row = self.buf.get(self.last..).filter(|_| self.len > 0)?;
        RowView::parse(row).ok().map(|pair| pair.key)
    }

    /// Begins a pair of this many bytes.
    fn begin_pair(&mut self, len_bytes: usize) {
        self.len += 1;
        put_length(&mut self.buf, KVS, len_bytes);
        self.last = self.buf.len();
    }

    fn push_row(&mut self, row: &[u8]) {
        self.begin_pair(row.len());
        self.buf.extend_from_slice(row);
    }

    /// Adds a pair of which no more is to be told than the index knows.
    fn push_key(&mut self, key: &[u8], found: &Found) {
        let numbers = [
            (tag::CREATE_REVISION, found.created),
            (tag::MOD_REVISION, found.modified.main),
            (tag::VERSION, found.version),
        ];
        let len = numbers.iter().map(|&(_, number)| int_field_len(number)).sum::<usize>();
        self.begin_pair(bytes_field_len(key) + len);
        put_bytes_field(&mut self.buf, tag::KEY, key);
        for (tag, number) in numbers {
            put_int_field(&mut self.buf, tag, number);
        }
    }

    fn push_without_value(&mut self, row: RowView<'_>) {
        let kv = proto::mvccpb::KeyValue {
            value: Bytes::new(),
            ..RowView { value: &[], ..row }.to_message()
        };
        self.begin_pair(kv.encoded_len());
        kv.encode(&mut self.buf).expect("a buffer grows");
    }
}

/// How an answer is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As the index gives it.
    Key,
    KeyDescending,
    Number(Number, Direction),
    Value(Direction),
}

/// A number that the index knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Version,
    Create,
    Mod,
}

impl Number {
    fn of(self, found: &Found) -> i64 {
        match self {
            Number::Version => found.version,
            Number::Create => found.created,
            Number::Mod => found.modified.main,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

/// A range request, understood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    order: Order,
    /// Pairs to take from the key-ordered scan, filters applied.
    fetch: usize,
    /// Pairs to answer with.
    limit: usize,
    keys_only: bool,
    /// The answer is what the index knows.
    from_index: bool,
    count_only: bool,
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Plan {
    /// Understands a request whose shape was checked.
    pub(crate) fn new(request: &RangeRequest, rules: Rules) -> Result<Self, CheckError> {
        let target =
            SortTarget::try_from(request.sort_target).map_err(|_| CheckError::InvalidSortOption)?;
        let order = SortOrder::try_from(request.sort_order).ok();
        let has_filter = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let limit = match usize::try_from(request.limit) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(limit) => limit,
        };
        let direction = match order {
            None => None,
            Some(SortOrder::Descend) => Some(Direction::Descending),
            Some(SortOrder::None | SortOrder::Ascend) => Some(Direction::Ascending),
        };
        let is_unordered = order == Some(SortOrder::None);
        let order = match (target, direction) {
            (_, None) | (SortTarget::Key, Some(Direction::Ascending)) => Order::Key,
            (SortTarget::Key, Some(Direction::Descending)) => Order::KeyDescending,
            (SortTarget::Version, Some(direction)) => Order::Number(Number::Version, direction),
            (SortTarget::Create, Some(direction)) => Order::Number(Number::Create, direction),
            (SortTarget::Mod, Some(direction)) => Order::Number(Number::Mod, direction),
            (SortTarget::Value, Some(direction)) => Order::Value(direction),
        };
        // One more than asked for tells whether there are more.
        let cut_first = order == Order::Key || (is_unordered && !has_filter);
        let fetch = if cut_first { limit.saturating_add(1) } else { usize::MAX };
        Ok(Plan {
            order,
            fetch,
            limit,
            keys_only: request.keys_only,
            from_index: request.keys_only
                && rules.answers_keys_from_index()
                && target != SortTarget::Value,
            count_only: request.count_only,
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        })
    }

    /// Says whether a pair passes the filters; 0 is no filter, bounds are inclusive.
    fn passes(&self, found: &Found) -> bool {
        (self.max_mod == 0 || found.modified.main <= self.max_mod)
            && (self.min_mod == 0 || found.modified.main >= self.min_mod)
            && (self.max_create == 0 || found.created <= self.max_create)
            && (self.min_create == 0 || found.created >= self.min_create)
    }

    /// Answers for one key that was looked up already.
    pub(crate) fn answer_single(
        &self,
        current: i64,
        key: &[u8],
        found: Option<(Found, &backend::View)>,
    ) -> Result<EncodedRange, Error> {
        let count = i64::from(found.is_some());
        let mut kvs = KeyValues::with_capacity(0);
        if let Some((found, view)) = found
            && !self.count_only
            && self.passes(&found)
        {
            if self.from_index {
                kvs.push_key(key, &found);
                return Ok(EncodedRange { revision: current, count, more: false, kvs });
            }
            let row = crate::shared::row(view, found.modified)?;
            kvs.buf.reserve(row.len() + 16);
            self.push(&mut kvs, found, &row)?;
        }
        Ok(EncodedRange { revision: current, count, more: false, kvs })
    }

    /// Answers for a range at revision `at`.
    pub(crate) fn answer(
        &self,
        source: &Source<'_>,
        range: KeyRange<'_>,
        at: i64,
    ) -> Result<EncodedRange, Error> {
        if self.from_index && !self.count_only {
            return self.answer_from_index(source, range, at);
        }
        let mut kvs = KeyValues::with_capacity(0);
        let mut taken = 0;
        let mut want = |_: &[u8], found: Found| {
            if self.count_only || taken == self.fetch {
                Wanted::NoMore
            } else if self.passes(&found) {
                taken += 1;
                Wanted::Yes
            } else {
                Wanted::No
            }
        };
        if self.order == Order::Key {
            let mut more = false;
            let count = source.scan(range, at, &mut want, &mut |run| {
                let room = self.limit - kvs.len.min(self.limit);
                more |= run.len() > room;
                self.push_all(&mut kvs, source, &run[..run.len().min(room)])
            })?;
            return Ok(EncodedRange { revision: source.current, count, more, kvs });
        }
        let mut all = Vec::new();
        let count = source.scan(range, at, &mut want, &mut |run| {
            all.extend_from_slice(run);
            Ok(())
        })?;
        self.sort(&mut all, |found| *found);
        self.sort_by_value(&mut all, source)?;
        let more = all.len() > self.limit;
        all.truncate(self.limit);
        self.push_all(&mut kvs, source, &all)?;
        Ok(EncodedRange { revision: source.current, count, more, kvs })
    }

    /// Answers without reading a row.
    fn answer_from_index(
        &self,
        source: &Source<'_>,
        range: KeyRange<'_>,
        at: i64,
    ) -> Result<EncodedRange, Error> {
        // The keys one after the other, and where each is: the index is locked while they are gathered.
        let mut keys = Vec::new();
        let mut all = Vec::new();
        let mut want = |key: &[u8], found: Found| {
            if all.len() == self.fetch || source.is_too_much(keys.len()) {
                return Wanted::NoMore;
            }
            if self.passes(&found) {
                all.push((found, keys.len(), key.len()));
                keys.extend_from_slice(key);
            }
            Wanted::No
        };
        let count = source.scan(range, at, &mut want, &mut |_| Ok(()))?;
        self.sort(&mut all, |(found, ..)| *found);
        let more = all.len() > self.limit;
        all.truncate(self.limit);
        let mut kvs = KeyValues::with_capacity(keys.len() + all.len() * 16);
        for (found, start, len) in all {
            kvs.push_key(&keys[start..start + len], &found);
        }
        Ok(EncodedRange { revision: source.current, count, more, kvs })
    }

    /// Sorts by what the index knows, if that is the order.
    fn sort<T>(&self, all: &mut [T], found: impl Fn(&T) -> Found) {
        match self.order {
            Order::Key | Order::Value(_) => {}
            Order::KeyDescending => all.reverse(),
            Order::Number(number, Direction::Ascending) => {
                all.sort_by_key(|item| number.of(&found(item)))
            }
            Order::Number(number, Direction::Descending) => {
                all.sort_by_key(|item| std::cmp::Reverse(number.of(&found(item))))
            }
        }
    }

    /// Sorts by the values of the rows, if that is the order.
    fn sort_by_value(&self, all: &mut Vec<Found>, source: &Source<'_>) -> Result<(), Error> {
        let Order::Value(direction) = self.order else { return Ok(()) };
        let mut rows = Vec::with_capacity(all.len());
        for found in &*all {
            rows.push((source.row(found.modified)?, *found));
        }
        let mut keyed = Vec::with_capacity(all.len());
        for (row, found) in &rows {
            keyed.push((parse(row, *found)?.value, *found));
        }
        match direction {
            Direction::Ascending => keyed.sort_by_key(|(value, _)| *value),
            Direction::Descending => keyed.sort_by_key(|(value, _)| std::cmp::Reverse(*value)),
        }
        *all = keyed.into_iter().map(|(_, found)| found).collect();
        Ok(())
    }

    fn push_all(
        &self,
        kvs: &mut KeyValues,
        source: &Source<'_>,
        run: &[Found],
    ) -> Result<(), Error> {
        for (done, found) in run.iter().enumerate() {
            if source.is_too_much(kvs.buf.len()) {
                break;
            }
            let row = source.row(found.modified)?;
            if kvs.buf.capacity() - kvs.buf.len() < row.len() + 16 {
                // As many bytes for the rest as the rows so far took; rows of one range are mostly alike.
                let so_far = kvs.buf.len() / (kvs.len + 1);
                kvs.buf
                    .reserve(row.len() + 16 + (run.len() - done) * so_far.max(row.len().min(4096)));
            }
            self.push(kvs, *found, &row)?;
        }
        Ok(())
    }

    fn push(&self, kvs: &mut KeyValues, found: Found, row: &[u8]) -> Result<(), Error> {
        if self.keys_only {
            kvs.push_without_value(parse(row, found)?);
        } else {
            kvs.push_row(row);
        }
        Ok(())
    }
}

/// Takes a row apart, naming it if that fails.
pub(crate) fn parse(row: &[u8], found: Found) -> Result<RowView<'_>, StorageError> {
    RowView::parse(row).map_err(|malformed| StorageError::Row {
        main: found.modified.main,
        sub: found.modified.sub,
        what: malformed.0,
    })
}

/// Makes a message of a row.
pub(crate) fn message(
    row: &backend::Value<'_>,
    found: Found,
) -> Result<proto::mvccpb::KeyValue, StorageError> {
    proto::mvccpb::KeyValue::decode(row.to_bytes()).map_err(|_| StorageError::Row {
        main: found.modified.main,
        sub: found.modified.sub,
        what: "not a KeyValue message",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headroom_fits_the_largest_header() {
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: u64::MAX,
            revision: -1,
            raft_term: u64::MAX,
        };
        let mut head = Vec::new();
        put_length(&mut head, HEADER, header.encoded_len());
        header.encode(&mut head).unwrap();
        assert_eq!(head.len(), HEADROOM);
    }

    #[test]
    fn encodes_as_prost_does() {
        let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 300, raft_term: 4 };
        for (count, more, pairs) in [(0, false, 0), (7, true, 2), (2, false, 2)] {
            let kv = proto::mvccpb::KeyValue {
                key: "k".into(),
                value: "v".into(),
                ..Default::default()
            };
            let mut kvs = KeyValues::with_capacity(0);
            for _ in 0..pairs {
                kvs.push_row(&kv.encode_to_vec());
            }
            let range = EncodedRange { revision: 300, count, more, kvs };
            let response =
                RangeResponse { header: Some(header), kvs: vec![kv; pairs], more, count };
            assert_eq!(range.clone().encode(&header), response.encode_to_vec());
            let alone = ResponseHeader { revision: 300, ..ResponseHeader::default() };
            assert_eq!(
                range.into_response().unwrap(),
                RangeResponse { header: Some(alone), ..response }
            );
        }
        // A header of nothing is still there, as a message of length zero.
        let empty =
            EncodedRange { revision: 0, count: 0, more: false, kvs: KeyValues::with_capacity(0) };
        assert_eq!(empty.encode(&ResponseHeader::default()), [HEADER, 0].as_slice());
    }
}
