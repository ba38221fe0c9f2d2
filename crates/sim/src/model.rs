//! What a member must hold: a history for each key, in plain maps.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::internal_raft_request::Request;
use proto::etcdserverpb::request_op;
use proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, TxnRequest};
use proto::mvccpb::KeyValue;

/// The state after some number of requests, with all of its past (a compaction forgets nothing here).
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Every row: key, value, or a deletion.
    rows: BTreeMap<(i64, i64), Row>,
    live: BTreeMap<Vec<u8>, KeyValue>,
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

/// A revision in the making.
struct Change<'a> {
    model: &'a mut Model,
    sub: i64,
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

    /// Applies a request of those that the workload makes; others change nothing here.
    pub fn apply(&mut self, request: &Request) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the workload makes these only")]
        match request {
            Request::Put(request) => self.change(|change| change.put(request)),
            Request::DeleteRange(request) => self.change(|change| change.delete(request)),
            Request::Txn(request) => self.change(|change| change.txn(request)),
            Request::Compaction(request)
                if request.revision > self.compacted && request.revision <= self.revision =>
            {
                self.compacted = request.revision;
            }
            Request::LeaseGrant(request) => {
                self.leases.entry(request.id).or_default();
            }
            Request::LeaseRevoke(request) => {
                let keys = self.leases.remove(&request.id).unwrap_or_default();
                self.change(|change| keys.iter().for_each(|key| change.delete_key(key)));
            }
            _ => {}
        }
    }

    fn change(&mut self, make: impl FnOnce(&mut Change<'_>)) {
        let mut change = Change { model: self, sub: 0 };
        make(&mut change);
        if change.sub > 0 {
            self.revision += 1;
        }
    }

    /// etcd's hash of the history up to a revision.
    #[must_use]
    pub fn hash(&self, revision: i64) -> u32 {
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
            let is_old = at.0 <= self.compacted;
            if (is_old && keeps_any && self.compacted >= 0 && !is_kept(at, row))
                || (row.is_tombstone && at.0 == self.compacted)
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
        self.model.rows.insert((self.model.revision + 1, self.sub), Row { pair, is_tombstone });
        self.sub += 1;
    }

    fn put(&mut self, request: &PutRequest) {
        let model = &mut *self.model;
        let old = model.live.get(&*request.key);
        if request.lease != 0 && !model.leases.contains_key(&request.lease) {
            return;
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
        keys.iter().for_each(|key| self.delete_key(key));
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

    /// A transaction of one kind: compare a version, then puts and deletes.
    fn txn(&mut self, request: &TxnRequest) {
        let holds = request.compare.iter().all(|compare| self.holds(compare));
        let branch = if holds { &request.success } else { &request.failure };
        for op in branch {
            match &op.request {
                Some(request_op::Request::RequestPut(put)) => self.put(put),
                Some(request_op::Request::RequestDeleteRange(delete)) => self.delete(delete),
                Some(request_op::Request::RequestRange(_) | request_op::Request::RequestTxn(_))
                | None => {}
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.model.live.get(&*compare.key).map_or(0, |pair| pair.version);
        match compare.target_union {
            Some(TargetUnion::Version(version)) => {
                compare.target() == CompareTarget::Version
                    && compare.result() == CompareResult::Less
                    && found < version
            }
            _ => false,
        }
    }
}
