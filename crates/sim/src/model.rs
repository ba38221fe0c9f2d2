//! What a member must hold: a history for each key, in plain maps.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::internal_raft_request::Request;
use proto::etcdserverpb::request_op;
use proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use proto::mvccpb::KeyValue;

/// The state after some number of requests, with all of its past (a compaction forgets nothing here).
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Every row: key, value, or a deletion.
    rows: BTreeMap<(i64, i64), Row>,
    live: BTreeMap<Vec<u8>, KeyValue>,
    /// The rows of each key, oldest first.
    history: BTreeMap<Vec<u8>, Vec<(i64, i64)>>,
    /// Leases with the keys on them.
    leases: BTreeMap<i64, BTreeSet<Vec<u8>>>,
    revision: i64,
    compacted: i64,
}

#[derive(Debug, Clone)]
struct Row {
    pair: KeyValue,
    is_tombstone: bool,
}

/// What a request is answered with, as far as all members must agree on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The request was refused, and changed nothing.
    pub is_refused: bool,
    /// The revision of the header.
    pub revision: i64,
    /// Keys deleted, whether a transaction's comparisons held, or a granted time to live.
    pub number: i64,
    /// All pairs in the answer, in order: those before a change, and those read by a transaction.
    pub pairs: Vec<KeyValue>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEvent {
    /// The pair as of the revision; of a deleted one, its key and the revision.
    pub pair: KeyValue,
    /// Whether the key was deleted.
    pub is_delete: bool,
    /// The pair before, if there was one.
    pub previous: Option<KeyValue>,
}

/// A revision in the making.
struct Change<'a> {
    model: &'a mut Model,
    sub: i64,
    told: Told,
}

impl Model {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { revision: 1, compacted: -1, ..Self::default() }
    }

    /// The store's revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction; -1 before the first.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The pairs, by key.
    pub fn pairs(&self) -> impl Iterator<Item = &KeyValue> {
        self.live.values()
    }

    /// The leases, each with its keys.
    #[must_use]
    pub fn leases(&self) -> &BTreeMap<i64, BTreeSet<Vec<u8>>> {
        &self.leases
    }

    /// The pairs of a range as of a revision, in order. An empty end is one key, an end of one zero byte is everything
    /// from the key on.
    #[must_use]
    pub fn range(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let keys = self.history.range(key.to_vec()..).take_while(|(found, _)| match end {
            [] => found.as_slice() == key,
            [0] => true,
            end => found.as_slice() < end,
        });
        keys.filter_map(|(key, _)| self.pair(key, revision)).collect()
    }

    /// The pair of a key as of a revision.
    fn pair(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let rows = self.history.get(key)?;
        let place = rows.partition_point(|at| at.0 <= revision).checked_sub(1)?;
        let row = self.rows.get(rows.get(place)?)?;
        (!row.is_tombstone).then(|| row.pair.clone())
    }

    /// What happened in a revision, in order.
    #[must_use]
    pub fn events(&self, revision: i64) -> Vec<ModelEvent> {
        let rows = self.rows.range((revision, 0)..(revision + 1, 0));
        rows.map(|(at, row)| {
            let key = &row.pair.key;
            let rows = self.history.get(&key[..]).map_or(&[][..], Vec::as_slice);
            let before = rows.partition_point(|row| row < at).checked_sub(1);
            let before = before.and_then(|place| self.rows.get(rows.get(place)?));
            let previous = before.filter(|row| !row.is_tombstone).map(|row| row.pair.clone());
            let mut pair = row.pair.clone();
            if row.is_tombstone {
                pair.mod_revision = at.0;
            }
            ModelEvent { pair, is_delete: row.is_tombstone, previous }
        })
        .collect()
    }

    /// Applies a request of those that the workload makes; others change nothing here.
    pub fn apply(&mut self, request: &Request) -> Told {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the workload makes these only")]
        match request {
            Request::Put(request) => self.change(|change| change.put(request)),
            Request::DeleteRange(request) => self.change(|change| change.delete(request)),
            Request::Txn(request) => self.change(|change| change.txn(request)),
            Request::Compaction(request) => {
                let is_ahead = request.revision > self.revision;
                if is_ahead || request.revision <= self.compacted {
                    return self.refuse();
                }
                self.compacted = request.revision;
                self.answer(0)
            }
            Request::LeaseGrant(request) => {
                if self.leases.contains_key(&request.id) {
                    return self.refuse();
                }
                self.leases.insert(request.id, BTreeSet::new());
                self.answer(request.ttl)
            }
            Request::LeaseRevoke(request) => match self.leases.remove(&request.id) {
                None => self.refuse(),
                Some(keys) => self.change(|change| {
                    keys.iter().for_each(|key| change.delete_key(key));
                }),
            },
            _ => self.answer(0),
        }
    }

    fn refuse(&self) -> Told {
        Told { is_refused: true, ..Told::default() }
    }

    fn answer(&self, number: i64) -> Told {
        Told { revision: self.revision, number, ..Told::default() }
    }

    fn change(&mut self, make: impl FnOnce(&mut Change<'_>)) -> Told {
        let mut change = Change { model: self, sub: 0, told: Told::default() };
        make(&mut change);
        let Change { sub, told, .. } = change;
        if told.is_refused {
            return self.refuse();
        }
        if sub > 0 {
            self.revision += 1;
        }
        Told { revision: self.revision, ..told }
    }

    /// etcd's hash of the history up to a revision.
    #[must_use]
    pub fn hash(&self, revision: i64) -> u32 {
        self.hash_at(revision, self.compacted)
    }

    /// The same as of an older compaction; -1 is before the first.
    #[must_use]
    pub fn hash_at(&self, revision: i64, compacted: i64) -> u32 {
        let mut newest: BTreeMap<&[u8], (i64, i64)> = BTreeMap::new();
        for (at, row) in self.rows.range(..(revision + 1, 0)) {
            newest.insert(&row.pair.key, *at);
        }
        let is_kept = |at: &(i64, i64), row: &Row| {
            !row.is_tombstone && newest.get(&*row.pair.key) == Some(at)
        };
        let keeps_any = self.rows.range(..(revision + 1, 0)).any(|(at, row)| is_kept(at, row));
        let mut hash = crc32c::crc32c(b"key");
        for (at, row) in self.rows.range(..(revision + 1, 0)) {
            let is_old = at.0 <= compacted;
            if (is_old && keeps_any && compacted >= 0 && !is_kept(at, row))
                || (row.is_tombstone && at.0 == compacted)
            {
                continue;
            }
            let mut key = at.0.to_be_bytes().to_vec();
            key.push(b'_');
            key.extend(at.1.to_be_bytes());
            if row.is_tombstone {
                key.push(b't');
            }
            hash = crc32c::crc32c_append(hash, &key);
            hash = crc32c::crc32c_append(hash, &row.pair.encode_to_vec());
        }
        hash
    }
}

impl Change<'_> {
    fn add(&mut self, pair: KeyValue, is_tombstone: bool) {
        let at = (self.model.revision + 1, self.sub);
        self.model.history.entry(pair.key.to_vec()).or_default().push(at);
        self.model.rows.insert(at, Row { pair, is_tombstone });
        self.sub += 1;
    }

    fn put(&mut self, request: &PutRequest) {
        let model = &mut *self.model;
        let old = model.live.get(&*request.key);
        if request.lease != 0 && !model.leases.contains_key(&request.lease) {
            self.told.is_refused = true;
            return;
        }
        if request.prev_kv {
            self.told.pairs.extend(old.cloned());
        }
        let revision = model.revision + 1;
        let pair = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |old| old.version + 1),
            lease: request.lease,
        };
        for keys in model.leases.values_mut() {
            keys.remove(&*request.key);
        }
        if let Some(keys) = model.leases.get_mut(&request.lease) {
            keys.insert(request.key.to_vec());
        }
        model.live.insert(request.key.to_vec(), pair.clone());
        self.add(pair, false);
    }

    fn delete(&mut self, request: &DeleteRangeRequest) {
        let keys: Vec<Vec<u8>> = if request.range_end.is_empty() {
            vec![request.key.to_vec()]
        } else {
            let (start, end) = (request.key.to_vec(), request.range_end.to_vec());
            let behind = self.model.live.range(start..);
            behind.map(|(key, _)| key.clone()).take_while(|key| *key < end).collect()
        };
        for key in keys {
            let old = self.model.live.get(&key).cloned();
            self.told.number += i64::from(old.is_some());
            if request.prev_kv {
                self.told.pairs.extend(old);
            }
            self.delete_key(&key);
        }
    }

    fn delete_key(&mut self, key: &[u8]) {
        if self.model.live.remove(key).is_none() {
            return;
        }
        for keys in self.model.leases.values_mut() {
            keys.remove(key);
        }
        self.add(KeyValue { key: key.to_vec().into(), ..KeyValue::default() }, true);
    }

    /// A transaction of one kind: compare a version or a revision, then puts, deletes and reads.
    fn txn(&mut self, request: &TxnRequest) {
        let holds = request.compare.iter().all(|compare| self.holds(compare));
        let branch = if holds { &request.success } else { &request.failure };
        let lacks_lease = |op: &RequestOp| {
            matches!(&op.request, Some(request_op::Request::RequestPut(put))
                if put.lease != 0 && !self.model.leases.contains_key(&put.lease))
        };
        if branch.iter().any(lacks_lease) {
            self.told.is_refused = true;
            return;
        }
        for op in branch {
            match &op.request {
                Some(request_op::Request::RequestPut(put)) => self.put(put),
                Some(request_op::Request::RequestDeleteRange(delete)) => self.delete(delete),
                Some(request_op::Request::RequestRange(range)) => {
                    // What the transaction has done so far is part of what it reads.
                    let pairs = self.model.live.range(range.key.to_vec()..);
                    let end = &range.range_end;
                    let pairs = pairs.take_while(|(key, _)| {
                        if end.is_empty() { **key == range.key[..] } else { key[..] < end[..] }
                    });
                    self.told.pairs.extend(pairs.map(|(_, pair)| pair.clone()));
                }
                Some(request_op::Request::RequestTxn(_)) | None => {}
            }
        }
        self.told.number = i64::from(holds);
    }

    fn holds(&self, compare: &Compare) -> bool {
        let pair = self.model.live.get(&*compare.key);
        let version = pair.map_or(0, |pair| pair.version);
        let revision = pair.map_or(0, |pair| pair.mod_revision);
        match (compare.target(), compare.result(), &compare.target_union) {
            (CompareTarget::Version, CompareResult::Less, Some(TargetUnion::Version(than))) => {
                version < *than
            }
            (CompareTarget::Mod, CompareResult::Equal, Some(TargetUnion::ModRevision(with))) => {
                revision == *with
            }
            _ => false,
        }
    }
}
