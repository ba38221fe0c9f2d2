//! What is sent: a small key space and few leases, so that operations meet.
//!
//! Mistakes are made on purpose and often: empty keys, revisions that are compacted or not yet there, unknown leases,
//! duplicate keys and too many operations in a transaction. Inputs that are documented to crash etcd 3.5
//! (an unknown sort target) or that this test found to (see `has_open_delete`) are not sent; neither is an unknown sort order, which 3.5 ignores and 3.6 refuses.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_create_request::FilterType;

use crate::api::Request;
use crate::random::Random;

/// Keys, chosen for their order: prefixes of each other, the smallest byte, the largest.
const KEYS: &[&[u8]] = &[
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"b",
    b"b/1",
    b"b/2",
    b"b/3",
    b"c",
    b"cc",
    b"d",
    b"e",
    b"f",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xff\xff",
];

/// Ends of ranges that are no keys.
const ENDS: &[&[u8]] = &[b"\0", b"b0", b"b/", b"z", b"a"];

/// Values that compares can hit.
const VALUES: &[&[u8]] = &[b"", b"1", b"2", b"10", b"a value of a middle size"];

/// Lease ids. Zero is "no lease"; the last two are never granted.
const LEASES: &[i64] = &[1, 2, 3, 4, -7, i64::MAX, 1_000, 2_000];

/// Time to live of granted leases: long enough that none expires during a run.
const TTL_SECONDS: i64 = 1_000_000;

/// Reads that are sent together at most.
const BURST: u64 = 8;

/// Operations in a transaction that etcd accepts (`--max-txn-ops`).
const MAX_TXN_OPS: usize = 128;

/// Hashes of compactions that etcd keeps in memory.
const HASHES_CACHED: usize = 10;

/// What the generator knows of the server: taken from its answers, so the same for two equal servers.
#[derive(Clone, Debug)]
pub struct Known {
    /// The current revision.
    pub revision: i64,
    /// The revision of the last compaction, 0 before the first.
    pub compacted: i64,
    /// Compactions since the start of the process, by revision; true where the hash is surely in the cache.
    compactions: Vec<(i64, bool)>,
    /// Whether the last compaction may still be at work.
    is_compacting: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self { revision: 1, compacted: 0, compactions: Vec::new(), is_compacting: false }
    }
}

impl Known {
    /// Takes note of a compaction that succeeded.
    pub fn compact(&mut self, request: &pb::CompactionRequest) {
        self.compacted = self.compacted.max(request.revision);
        // The hash is kept when the work is done, unless the compaction before was still at work when this one came. How
        // long the work takes is nobody's business: only who waited for both of them (`physical`) knows.
        self.compactions.push((request.revision, request.physical && !self.is_compacting));
        self.is_compacting = !request.physical;
    }

    /// Takes note of a restart: the cache of hashes is gone, and a compaction that was at work goes on.
    pub fn restart(&mut self) {
        self.compactions.clear();
        if self.is_compacting {
            self.compactions.push((self.compacted, false));
        }
    }

    /// Whether everybody gives the same answer to HashKV at a revision. At a compaction's revision the cache answers,
    /// if it has that hash.
    fn is_hash_certain(&self, revision: i64) -> bool {
        let newest = self.compactions.iter().rev();
        let place = newest.clone().position(|(at, _)| *at == revision);
        place.is_none_or(|place| {
            place < HASHES_CACHED
                && newest.clone().nth(place).is_some_and(|(_, is_certain)| *is_certain)
        })
    }
}

/// Makes requests from a seed.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    value_bytes_max: usize,
    txn_ranges: TxnRanges,
    /// Among how many draws one is of watches; 0 for none.
    watches_one_in: u64,
    has_range_streams: bool,
}

/// Which revisions ranges inside transactions ask for.
///
/// Real etcd before 3.7 drops the ranges of a transaction when it applies it without anybody waiting for the answer, and
/// so does not see that one of them asks for a compacted or future revision: a transaction that was refused is
/// executed when the log is replayed after a crash (etcd issue 18667; found by this test on 3.5.16 after SIGKILL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnRanges {
    /// Any, the mistakes included.
    Any,
    /// Readable ones, for runs in which entries are replayed.
    Readable,
}

impl Generator {
    /// Starts the sequence of a seed; values have up to so many bytes.
    pub fn new(seed: u64, value_bytes_max: usize, txn_ranges: TxnRanges) -> Self {
        Self {
            random: Random::new(seed),
            value_bytes_max,
            txn_ranges,
            watches_one_in: 0,
            has_range_streams: false,
        }
    }

    /// Draws watches too, one time in so many, or not at all with 0.
    #[must_use]
    pub fn with_watches(mut self, one_in: u64) -> Self {
        self.watches_one_in = one_in;
        self
    }

    /// Reads some ranges by RangeStream, which etcd has since 3.7.
    #[must_use]
    pub fn with_range_streams(mut self, has_range_streams: bool) -> Self {
        self.has_range_streams = has_range_streams;
        self
    }

    /// Returns the next requests: one write, or several reads that may be sent at once.
    pub fn next(&mut self, known: &Known) -> Vec<Request> {
        if self.watches_one_in > 0 && self.random.one_in(self.watches_one_in) {
            return vec![Request::Watches(self.watches(known))];
        }
        if self.random.one_in(4) {
            let count = 1 + self.random.below(BURST);
            return (0..count).map(|_| self.read(known)).collect();
        }
        vec![self.write(known)]
    }

    fn read(&mut self, known: &Known) -> Request {
        match self.random.below(40) {
            0..=12 if self.has_range_streams => Request::RangeStream(self.streamed_range(known)),
            0..=32 => Request::Range(self.range(known)),
            33 | 34 => {
                let (id, keys) = (self.lease(), self.random.one_in(2));
                Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys })
            }
            35 => Request::LeaseLeases(pb::LeaseLeasesRequest {}),
            36 => Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: self.lease() }),
            _ => Request::HashKv(pb::HashKvRequest { revision: self.hash_revision(known) }),
        }
    }

    fn write(&mut self, known: &Known) -> Request {
        match self.random.below(100) {
            0..=44 => Request::Put(self.put(true)),
            45..=57 => Request::DeleteRange(self.delete()),
            58..=88 => Request::Txn(self.whole_txn(known)),
            89 | 90 => Request::Txn(self.oversized_txn()),
            91 | 92 => Request::Compact(self.compact(known)),
            93..=96 => Request::LeaseGrant(self.grant()),
            _ => Request::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease() }),
        }
    }

    fn key(&mut self) -> Bytes {
        // One in 60: enough to see the error everywhere, rare enough to leave transactions whole.
        if self.random.one_in(60) {
            Bytes::new()
        } else {
            Bytes::from_static(self.random.pick(KEYS))
        }
    }

    fn range_end(&mut self) -> Bytes {
        match self.random.below(10) {
            0..=3 => Bytes::new(),
            4..=6 => Bytes::from_static(self.random.pick(KEYS)),
            _ => Bytes::from_static(self.random.pick(ENDS)),
        }
    }

    fn value(&mut self) -> Bytes {
        // Compares need values to hit; a run with large values is there to fill files.
        let pool_share = if self.value_bytes_max < 1_000 { 2 } else { 8 };
        if self.random.one_in(pool_share) {
            return Bytes::from_static(self.random.pick(VALUES));
        }
        let len = match self.random.below(400) {
            // Above the limit of a request (1.5 MiB): refused by etcd.
            0 if self.random.one_in(3) => 1_600_000,
            // Above the limit of a gRPC message (2 MiB): refused before etcd sees it.
            1 if self.random.one_in(3) => 2_200_000,
            // Overflow pages in the backend.
            2..=9 => self.random.index(20_000),
            10..=60 => 0,
            _ => self.random.index(self.value_bytes_max.saturating_add(1)),
        };
        let byte = u8::try_from(self.random.below(256)).unwrap_or(0);
        Bytes::from(vec![byte; len])
    }

    fn lease(&mut self) -> i64 {
        if self.random.one_in(20) { 0 } else { self.random.pick(LEASES) }
    }

    fn revision(&mut self, known: &Known) -> i64 {
        match self.random.below(20) {
            0..=8 => 0,
            9..=13 => known.revision - self.random.between(0, 12),
            14 => self.random.between(known.compacted.min(known.revision), known.revision),
            15 => known.compacted,
            16 => known.compacted - 1,
            17 => known.revision + self.random.between(1, 3),
            18 => self.random.between(-3, 3),
            _ => known.revision,
        }
    }

    fn hash_revision(&mut self, known: &Known) -> i64 {
        let revision = self.revision(known);
        if self.random.one_in(4) && !known.compactions.is_empty() {
            let (at, _) = self.random.pick(&known.compactions);
            if known.is_hash_certain(at) {
                return at;
            }
        }
        // Right after a compaction at the present revision only one that is not there yet is left to ask for.
        let others = [revision, known.revision, known.revision + 1];
        others.into_iter().find(|revision| known.is_hash_certain(*revision)).unwrap_or(0)
    }

    fn range(&mut self, known: &Known) -> pb::RangeRequest {
        let mut request = pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            revision: self.revision(known),
            serializable: self.random.one_in(2),
            ..Default::default()
        };
        if self.random.one_in(3) {
            request.limit = self.random.pick(&[1, 1, 2, 3, 5, 100, -1]);
        }
        if self.random.one_in(2) {
            request.sort_order = i32::try_from(self.random.below(3)).unwrap_or(0);
            request.sort_target = i32::try_from(self.random.below(5)).unwrap_or(0);
        }
        request.keys_only = self.random.one_in(6);
        request.count_only = self.random.one_in(10);
        if self.random.one_in(5) {
            let mut bound = || match self.random.below(6) {
                0..=2 => 0,
                3 | 4 => known.revision - self.random.between(0, 20),
                _ => self.random.between(-2, 4),
            };
            request.min_mod_revision = bound();
            request.max_mod_revision = bound();
            request.min_create_revision = bound();
            request.max_create_revision = bound();
        }
        request
    }

    /// Mostly one that RangeStream serves. Pages sorted by something else than the key overlap or leave keys out in real etcd.
    fn streamed_range(&mut self, known: &Known) -> pb::RangeRequest {
        let mut request = self.range(known);
        if !self.random.one_in(8) {
            (request.min_mod_revision, request.max_mod_revision) = (0, 0);
            (request.min_create_revision, request.max_create_revision) = (0, 0);
            request.sort_order = 0;
        }
        if request.sort_order == 0 {
            request.sort_target = 0;
        }
        request
    }

    /// Watches that are created on one stream.
    fn watches(&mut self, known: &Known) -> Vec<pb::WatchCreateRequest> {
        let mut watches: Vec<_> =
            (0..self.random.between(1, 5)).map(|_| self.watch(known)).collect();
        if self.random.one_in(3) {
            watches.iter_mut().for_each(|watch| watch.start_revision = 0);
        }
        watches
    }

    fn watch(&mut self, known: &Known) -> pb::WatchCreateRequest {
        let start_revision = match self.random.below(8) {
            0 | 1 => 0,
            2..=4 => self.random.between((known.compacted + 1).min(known.revision), known.revision),
            5 => self.random.between(1, known.compacted.max(1)),
            6 => known.compacted + 1,
            _ => known.revision + self.random.between(1, 3),
        };
        let mut filters = Vec::new();
        for filter in [FilterType::Noput, FilterType::Nodelete] {
            if self.random.one_in(4) {
                filters.push(filter.into());
            }
        }
        // What happened at the last compaction's revision itself is there or not, while that is at work. And a watch that is told no
        // events may be cancelled before or after real etcd has found that it begins too early.
        let is_uncertain =
            start_revision == known.compacted && known.is_compacting || filters.len() > 1;
        pb::WatchCreateRequest {
            key: self.key(),
            range_end: self.range_end(),
            start_revision: if is_uncertain { 0 } else { start_revision },
            filters,
            prev_kv: self.random.one_in(2),
            // The same one twice is a mistake.
            watch_id: self.random.pick(&[0, 0, 0, 3]),
            ..Default::default()
        }
    }

    fn put(&mut self, is_large_allowed: bool) -> pb::PutRequest {
        let mut request = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            prev_kv: self.random.one_in(3),
            ignore_value: self.random.one_in(12),
            ignore_lease: self.random.one_in(12),
            ..Default::default()
        };
        if !is_large_allowed {
            request.value.truncate(64);
        }
        if self.random.one_in(4) {
            request.lease = self.lease();
        }
        // Most of the time the flags are used as they are meant; else the request is refused for its shape.
        if request.ignore_value && !self.random.one_in(4) {
            request.value = Bytes::new();
        }
        if request.ignore_lease && !self.random.one_in(4) {
            request.lease = 0;
        }
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let mut request = pb::DeleteRangeRequest {
            key: self.key(),
            prev_kv: self.random.one_in(3),
            ..Default::default()
        };
        if self.random.one_in(4) {
            request.range_end = self.range_end();
        }
        request
    }

    fn compact(&mut self, known: &Known) -> pb::CompactionRequest {
        let revision = match self.random.below(10) {
            0..=5 => known.revision - self.random.between(0, 60),
            6 => known.revision,
            7 => known.compacted,
            8 => known.revision + 1,
            _ => self.random.between(-1, 2),
        };
        pb::CompactionRequest { revision, physical: self.random.one_in(2) }
    }

    fn grant(&mut self) -> pb::LeaseGrantRequest {
        let ttl = match self.random.below(20) {
            0 => 9_000_000_001,
            1 => i64::MAX,
            _ => TTL_SECONDS * self.random.between(1, 9),
        };
        // The last two ids stay unknown, and 0 would let the server choose, differently on each.
        pb::LeaseGrantRequest { id: self.random.pick(&LEASES[..LEASES.len() - 2]), ttl }
    }

    fn whole_txn(&mut self, known: &Known) -> pb::TxnRequest {
        let mut txn = self.txn(known, 0);
        if has_open_delete(&txn) {
            clear_ignore_flags(&mut txn);
        }
        if self.txn_ranges == TxnRanges::Readable {
            correct_revisions(&mut txn, known);
        }
        txn
    }

    fn txn(&mut self, known: &Known, depth: u32) -> pb::TxnRequest {
        let compares = self.random.pick(&[0, 0, 1, 1, 2, 3]);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare(known)).collect(),
            success: self.ops(known, depth),
            failure: self.ops(known, depth),
        }
    }

    fn ops(&mut self, known: &Known, depth: u32) -> Vec<pb::RequestOp> {
        let count = self.random.pick(&[0, 1, 1, 2, 2, 3, 4]);
        let is_read_only = self.random.one_in(5);
        // Keys of a transaction must differ: drawn without looking, most transactions would be refused.
        let mut keys: Vec<&[u8]> = KEYS.to_vec();
        let mut ops = Vec::new();
        for _ in 0..count {
            let op = match self.random.below(if is_read_only { 30 } else { 100 }) {
                0..=29 => Op::RequestRange(self.range(known)),
                30..=64 => {
                    let mut put = self.put(false);
                    if !put.key.is_empty() && !self.random.one_in(12) {
                        let index = self.random.index(keys.len());
                        put.key = Bytes::from_static(keys.swap_remove(index));
                    }
                    Op::RequestPut(put)
                }
                65..=79 => {
                    let mut delete = self.delete();
                    if !delete.key.is_empty() && !self.random.one_in(6) {
                        let index = self.random.index(keys.len());
                        delete.key = Bytes::from_static(keys.swap_remove(index));
                        delete.range_end = Bytes::new();
                    }
                    Op::RequestDeleteRange(delete)
                }
                80..=97 if depth < 3 => Op::RequestTxn(self.txn(known, depth + 1)),
                98 => {
                    ops.push(pb::RequestOp { request: None });
                    continue;
                }
                _ => Op::RequestRange(self.range(known)),
            };
            ops.push(pb::RequestOp { request: Some(op) });
        }
        ops
    }

    fn compare(&mut self, known: &Known) -> pb::Compare {
        // Results and targets that no etcd knows have defined outcomes too.
        let result = if self.random.one_in(40) {
            9
        } else {
            i32::try_from(self.random.below(4)).unwrap_or(0)
        };
        let target = if self.random.one_in(40) {
            9
        } else {
            i32::try_from(self.random.below(5)).unwrap_or(0)
        };
        let union = if self.random.one_in(15) {
            i32::try_from(self.random.below(5)).unwrap_or(0)
        } else {
            target
        };
        let target_union = match union {
            0 => Some(TargetUnion::Version(self.random.between(0, 4))),
            1 => Some(TargetUnion::CreateRevision(self.near(known))),
            2 => Some(TargetUnion::ModRevision(self.near(known))),
            3 => Some(TargetUnion::Value(Bytes::from_static(self.random.pick(VALUES)))),
            4 => Some(TargetUnion::Lease(self.lease())),
            _ => None,
        };
        let mut compare =
            pb::Compare { result, target, key: self.key(), target_union, ..Default::default() };
        if self.random.one_in(4) {
            compare.range_end = self.range_end();
        }
        compare
    }

    fn near(&mut self, known: &Known) -> i64 {
        if self.random.one_in(3) { 0 } else { known.revision - self.random.between(-1, 15) }
    }

    /// At the limit of operations, and one above; flat and nested.
    fn oversized_txn(&mut self) -> pb::TxnRequest {
        let count = MAX_TXN_OPS + self.random.index(2);
        let get = |key: &'static [u8]| {
            let range = pb::RangeRequest {
                key: Bytes::from_static(key),
                count_only: true,
                ..Default::default()
            };
            pb::RequestOp { request: Some(Op::RequestRange(range)) }
        };
        let mut txn = pb::TxnRequest { success: vec![get(b"a"); count], ..Default::default() };
        if self.random.one_in(2) {
            // The outer level takes one of the budget.
            txn.success.pop();
            let nested = pb::RequestOp { request: Some(Op::RequestTxn(txn)) };
            txn = pb::TxnRequest { success: vec![nested], ..Default::default() };
        }
        txn
    }
}

/// The branches' operations.
fn ops_of(txn: &pb::TxnRequest) -> impl Iterator<Item = &Op> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref())
}

/// Whether some delete has no upper end.
///
/// etcd does not expand such a range when it looks for duplicate keys, so that a put of a key which the same transaction
/// has deleted gets through; with `ignore_value` or `ignore_lease` it then fails in the middle of the
/// writes, and every member of a real cluster panics (found by this test, 3.5.16).
fn has_open_delete(txn: &pb::TxnRequest) -> bool {
    ops_of(txn).any(|op| match op {
        Op::RequestDeleteRange(delete) => delete.range_end.as_ref() == b"\0",
        Op::RequestTxn(nested) => has_open_delete(nested),
        Op::RequestRange(_) | Op::RequestPut(_) => false,
    })
}

fn clear_ignore_flags(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure).filter_map(|op| op.request.as_mut()) {
        match op {
            Op::RequestPut(put) => (put.ignore_value, put.ignore_lease) = (false, false),
            Op::RequestTxn(nested) => clear_ignore_flags(nested),
            Op::RequestRange(_) | Op::RequestDeleteRange(_) => {}
        }
    }
}

fn correct_revisions(txn: &mut pb::TxnRequest, known: &Known) {
    for op in txn.success.iter_mut().chain(&mut txn.failure).filter_map(|op| op.request.as_mut()) {
        match op {
            Op::RequestRange(range)
                if !(known.compacted.max(1)..=known.revision).contains(&range.revision) =>
            {
                range.revision = 0;
            }
            Op::RequestTxn(nested) => correct_revisions(nested, known),
            Op::RequestRange(_) | Op::RequestPut(_) | Op::RequestDeleteRange(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_one_sequence() {
        let known = Known { revision: 100, compacted: 40, ..Known::default() };
        let requests = |seed| {
            let mut generator = Generator::new(seed, 64, TxnRanges::Any);
            (0..500).map(|_| generator.next(&known)).collect::<Vec<_>>()
        };
        assert_eq!(requests(7), requests(7));
        assert_ne!(requests(7), requests(8));
    }

    #[test]
    fn only_reads_are_sent_together() {
        let known = Known { revision: 100, compacted: 40, ..Known::default() };
        let mut generator = Generator::new(1, 64, TxnRanges::Any);
        for _ in 0..1_000 {
            let burst = generator.next(&known);
            assert!(burst.len() == 1 || burst.iter().all(Request::is_read), "{burst:?}");
        }
    }
}
