//! A store on a simulated disk, and the history it should have, told as simply as possible.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use backend::schema::{Revision, RowKey};
use bytes::Bytes;
use mvcc::{Changes, Compaction, KeyRange, Reader, Restored, Rules, Store};
use prost::Message;
use proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
        RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::TargetUnion, request_op::Request, response_op::Response,
    },
    mvccpb::KeyValue,
};
use vfs::{Dir, sim::SimDisk};

/// How many cases a property test runs.
pub(crate) fn cases(default: u32) -> u32 {
    std::env::var("RETCD_PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}

/// A store with what belongs to it.
pub(crate) struct Fixture {
    pub(crate) disk: SimDisk,
    pub(crate) writer: backend::Writer,
    pub(crate) store: Store,
    pub(crate) reader: Reader,
    pub(crate) attachments: Vec<(i64, Bytes)>,
    /// Compactions to be run, oldest first.
    pub(crate) compactions: Vec<Compaction>,
    index: u64,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::open(SimDisk::new())
    }

    pub(crate) fn open(disk: SimDisk) -> Self {
        Self::open_as(disk, Rules::default())
    }

    pub(crate) fn open_as(disk: SimDisk, rules: Rules) -> Self {
        let dir: Arc<dyn Dir> = disk.dir();
        let (writer, reader) =
            backend::open(&dir, &backend::Options::default()).expect("the backend opens");
        let Restored { store, attachments, compaction } =
            Store::open(reader, rules).expect("the store opens");
        let index = writer.consistent().index;
        let compactions = compaction.into_iter().collect();
        Fixture { reader: store.reader(), disk, writer, store, attachments, compactions, index }
    }

    /// Commits what is pending.
    pub(crate) fn commit(&mut self) {
        self.index += 1;
        self.writer.set_consistent_index(self.index, 1);
        self.writer.take_commit().expect("no commit runs").run().expect("the commit succeeds");
    }

    /// Stops after a commit, and starts again.
    pub(crate) fn restart(mut self) -> Self {
        self.commit();
        let disk = self.disk.clone();
        drop(self);
        disk.kill();
        Self::open(disk)
    }

    pub(crate) fn put(
        &mut self,
        request: &PutRequest,
        leases: &BTreeSet<i64>,
    ) -> Result<(PutResponse, Changes), mvcc::Error> {
        self.store.put(&mut self.writer, request, &|lease| leases.contains(&lease))
    }

    /// Runs one step of the oldest compaction.
    pub(crate) fn step_compaction(&mut self, limit: usize) {
        if let Some(compaction) = self.compactions.first_mut() {
            let step = compaction.step(limit).expect("rows can be read");
            if step.apply(&mut self.writer).is_break() {
                self.compactions.remove(0);
            }
        }
    }

    pub(crate) fn finish_compactions(&mut self) {
        while !self.compactions.is_empty() {
            self.step_compaction(1000);
        }
    }

    /// The committed state and what is pending.
    pub(crate) fn reader_view(&self) -> backend::View {
        self.writer.reader().view()
    }

    /// All rows of the key bucket.
    pub(crate) fn rows(&self) -> Vec<(RowKey, Bytes)> {
        let view = self.writer.view();
        let rows = view.rows(..).expect("rows can be read");
        rows.map(|row| row.map(|(key, value)| (key, value.to_bytes())).expect("rows can be read"))
            .collect()
    }
}

/// Why the model refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Compacted,
    Future,
    KeyNotFound,
    LeaseNotFound,
}

/// The kind of an error of the store, to compare with the model's.
pub(crate) fn refused(error: &mvcc::Error) -> Refused {
    match error {
        mvcc::Error::Request(mvcc::RequestError::Compacted { .. }) => Refused::Compacted,
        mvcc::Error::Request(mvcc::RequestError::FutureRevision { .. }) => Refused::Future,
        mvcc::Error::Request(mvcc::RequestError::KeyNotFound) => Refused::KeyNotFound,
        mvcc::Error::Request(mvcc::RequestError::LeaseNotFound { .. }) => Refused::LeaseNotFound,
        mvcc::Error::Request(mvcc::RequestError::Malformed(_)) | mvcc::Error::Storage(_) => {
            panic!("{error}")
        }
    }
}

/// One change: when, and the pair it made; `None` for a deletion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) key: Bytes,
    pub(crate) pair: Option<KeyValue>,
}

/// Everything that ever happened.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) changes: Vec<Change>,
    pub(crate) current: i64,
    pub(crate) compacted: i64,
    /// Rows that compactions have removed or will have, once they have run.
    pub(crate) removed: BTreeSet<Revision>,
    pub(crate) leases: BTreeSet<i64>,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            changes: Vec::new(),
            current: 1,
            compacted: -1,
            removed: BTreeSet::new(),
            leases: BTreeSet::from([1, 2]),
        }
    }
}

impl Model {
    /// The pairs at a revision, by key.
    pub(crate) fn state(&self, at: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.revision.main <= at) {
            match &change.pair {
                Some(pair) => drop(state.insert(change.key.clone(), pair.clone())),
                None => drop(state.remove(&change.key)),
            }
        }
        state
    }

    pub(crate) fn range(
        &self,
        request: &RangeRequest,
        current: i64,
    ) -> Result<RangeResponse, Refused> {
        let at = match request.revision {
            revision if revision > current => return Err(Refused::Future),
            revision if revision <= 0 => current,
            revision if revision < self.compacted => return Err(Refused::Compacted),
            revision => revision,
        };
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut kvs: Vec<KeyValue> =
            self.state(at).into_values().filter(|pair| range.contains(&pair.key)).collect();
        let header = Some(ResponseHeader { revision: current, ..Default::default() });
        let count = i64::try_from(kvs.len()).expect("few pairs");
        if request.count_only {
            return Ok(RangeResponse { header, count, ..Default::default() });
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let has_filter = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ]
        .iter()
        .any(|bound| *bound != 0);
        if request.sort_order == 0 && !has_filter {
            kvs.truncate(limit.map_or(usize::MAX, |limit| limit.saturating_add(1)));
        }
        kvs.retain(|pair| {
            (request.max_mod_revision == 0 || pair.mod_revision <= request.max_mod_revision)
                && (request.min_mod_revision == 0 || pair.mod_revision >= request.min_mod_revision)
                && (request.max_create_revision == 0
                    || pair.create_revision <= request.max_create_revision)
                && (request.min_create_revision == 0
                    || pair.create_revision >= request.min_create_revision)
        });
        let order = if request.sort_order == 0 && request.sort_target != 0 {
            1
        } else {
            request.sort_order
        };
        let by = |a: &KeyValue, b: &KeyValue| match request.sort_target {
            0 => a.key.cmp(&b.key),
            1 => a.version.cmp(&b.version),
            2 => a.create_revision.cmp(&b.create_revision),
            3 => a.mod_revision.cmp(&b.mod_revision),
            _ => a.value.cmp(&b.value),
        };
        match order {
            1 => kvs.sort_by(by),
            2 => kvs.sort_by(|a, b| by(b, a)),
            _ => {}
        }
        let more = limit.is_some_and(|limit| kvs.len() > limit);
        kvs.truncate(limit.unwrap_or(usize::MAX));
        if request.keys_only {
            kvs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        Ok(RangeResponse { header, kvs, more, count })
    }

    fn write(&mut self, key: &Bytes, pair: Option<(Bytes, i64)>, sub: &mut i64) {
        let main = self.current + 1;
        let before = self.state(main).remove(key);
        let pair = pair.map(|(value, lease)| KeyValue {
            key: key.clone(),
            create_revision: before.as_ref().map_or(main, |before| before.create_revision),
            mod_revision: main,
            version: before.map_or(0, |before| before.version) + 1,
            value,
            lease,
        });
        self.changes.push(Change { revision: Revision::new(main, *sub), key: key.clone(), pair });
        *sub += 1;
    }

    fn do_put(&mut self, request: &PutRequest, sub: &mut i64) -> PutResponse {
        let before = self.state(self.current + 1).remove(&request.key);
        let (mut value, mut lease) = (request.value.clone(), request.lease);
        if let Some(before) = &before {
            if request.ignore_value {
                value = before.value.clone();
            }
            if request.ignore_lease {
                lease = before.lease;
            }
        }
        self.write(&request.key, Some((value, lease)), sub);
        let header = Some(ResponseHeader { revision: self.current + 1, ..Default::default() });
        PutResponse { header, prev_kv: before.filter(|_| request.prev_kv) }
    }

    fn do_delete(&mut self, request: &DeleteRangeRequest, sub: &mut i64) -> DeleteRangeResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let doomed: Vec<KeyValue> = self
            .state(self.current + 1)
            .into_values()
            .filter(|pair| range.contains(&pair.key))
            .collect();
        for pair in &doomed {
            self.write(&pair.key, None, sub);
        }
        let revision = self.current + i64::from(*sub > 0);
        DeleteRangeResponse {
            header: Some(ResponseHeader { revision, ..Default::default() }),
            deleted: i64::try_from(doomed.len()).expect("few pairs"),
            prev_kvs: if request.prev_kv { doomed } else { vec![] },
        }
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Refused> {
        if (request.ignore_value || request.ignore_lease)
            && !self.state(self.current).contains_key(&request.key)
        {
            return Err(Refused::KeyNotFound);
        }
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(Refused::LeaseNotFound);
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refused> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(Refused::LeaseNotFound);
        }
        self.check_put(request)?;
        let response = self.do_put(request, &mut 0);
        self.current += 1;
        Ok(response)
    }

    pub(crate) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut sub = 0;
        let response = self.do_delete(request, &mut sub);
        self.current += i64::from(sub > 0);
        response
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let mut pairs: Vec<KeyValue> = self
            .state(self.current)
            .into_values()
            .filter(|pair| range.contains(&pair.key))
            .collect();
        if pairs.is_empty() {
            if compare.target == 3 {
                return false;
            }
            pairs.push(KeyValue::default());
        }
        let operand = compare.target_union.clone();
        pairs.iter().all(|pair| {
            let order = match (compare.target, &operand) {
                (0, Some(TargetUnion::Version(operand))) => pair.version.cmp(operand),
                (0, _) => pair.version.cmp(&0),
                (1, Some(TargetUnion::CreateRevision(operand))) => {
                    pair.create_revision.cmp(operand)
                }
                (1, _) => pair.create_revision.cmp(&0),
                (2, Some(TargetUnion::ModRevision(operand))) => pair.mod_revision.cmp(operand),
                (2, _) => pair.mod_revision.cmp(&0),
                (3, Some(TargetUnion::Value(operand))) => pair.value.cmp(operand),
                (3, _) => pair.value.cmp(&Bytes::new()),
                (4, Some(TargetUnion::Lease(operand))) => pair.lease.cmp(operand),
                (4, _) => pair.lease.cmp(&0),
                _ => std::cmp::Ordering::Equal,
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                3 => order.is_ne(),
                _ => true,
            }
        })
    }

    /// The branch that each txn of the tree takes, in the order of a walk.
    fn path(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(request)) = &op.request {
                self.path(request, path);
            }
        }
    }

    fn check_ops(
        request: &TxnRequest,
        path: &mut std::slice::Iter<'_, bool>,
        check: &dyn Fn(&RequestOp) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let succeeded = *path.next().expect("the same walk");
        for op in if succeeded { &request.success } else { &request.failure } {
            match &op.request {
                Some(Request::RequestTxn(request)) => Self::check_ops(request, path, check)?,
                _ => check(op)?,
            }
        }
        Ok(())
    }

    fn run_ops(
        &mut self,
        request: &TxnRequest,
        path: &mut std::slice::Iter<'_, bool>,
        sub: &mut i64,
    ) -> TxnResponse {
        let succeeded = *path.next().expect("the same walk");
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().expect("checked") {
                Request::RequestRange(request) => {
                    let current = self.current + i64::from(*sub > 0);
                    Response::ResponseRange(self.range(request, current).expect("checked"))
                }
                Request::RequestPut(request) => Response::ResponsePut(self.do_put(request, sub)),
                Request::RequestDeleteRange(request) => {
                    Response::ResponseDeleteRange(self.do_delete(request, sub))
                }
                Request::RequestTxn(request) => {
                    Response::ResponseTxn(self.run_ops(request, path, sub))
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses }
    }

    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refused> {
        let mut path = Vec::new();
        self.path(request, &mut path);
        Self::check_ops(request, &mut path.iter(), &|op| match &op.request {
            Some(Request::RequestPut(request)) => self.check_put(request),
            _ => Ok(()),
        })?;
        Self::check_ops(request, &mut path.iter(), &|op| match &op.request {
            Some(Request::RequestRange(request)) if request.revision > self.current => {
                Err(Refused::Future)
            }
            Some(Request::RequestRange(request))
                if request.revision != 0 && request.revision < self.compacted =>
            {
                Err(Refused::Compacted)
            }
            _ => Ok(()),
        })?;
        let mut sub = 0;
        let mut response = self.run_ops(request, &mut path.iter(), &mut sub);
        self.current += i64::from(sub > 0);
        response.header = Some(ResponseHeader { revision: self.current, ..Default::default() });
        Ok(response)
    }

    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Refused> {
        if revision <= self.compacted {
            return Err(Refused::Compacted);
        }
        if revision > self.current {
            return Err(Refused::Future);
        }
        let mut newest = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.revision.main <= revision) {
            newest.insert(change.key.clone(), change);
        }
        let kept: BTreeSet<Revision> = newest
            .values()
            .filter(|change| change.pair.is_some() || change.revision.main == revision)
            .map(|change| change.revision)
            .collect();
        let old =
            self.changes.iter().map(|change| change.revision).filter(|old| old.main <= revision);
        self.removed.extend(old.filter(|old| !kept.contains(old)));
        self.compacted = revision;
        Ok(())
    }

    /// The rows that should be there once all compactions have run.
    pub(crate) fn rows(&self) -> Vec<(RowKey, Bytes)> {
        let left = self.changes.iter().filter(|change| !self.removed.contains(&change.revision));
        left.map(|change| match &change.pair {
            Some(pair) => (RowKey::put(change.revision), Bytes::from(pair.encode_to_vec())),
            None => {
                let pair = KeyValue { key: change.key.clone(), ..Default::default() };
                (RowKey::tombstone(change.revision), Bytes::from(pair.encode_to_vec()))
            }
        })
        .collect()
    }

    /// `HashKV` at `revision` over `rows`, as formats/backend.md tells it.
    pub(crate) fn hash(
        &self,
        rows: &[(RowKey, Bytes)],
        revision: i64,
        compacted: i64,
        compaction: bool,
    ) -> u32 {
        let mut newest = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.revision.main <= revision) {
            newest.insert(change.key.clone(), change);
        }
        let keep: BTreeSet<Revision> = newest
            .values()
            .filter(|change| {
                change.pair.is_some() || (compaction && change.revision.main == revision)
            })
            .map(|change| change.revision)
            .collect();
        let mut hash = crc32c::crc32c(b"key");
        for (key, value) in rows {
            let main = key.revision.main;
            let is_superseded =
                main <= compacted && !keep.is_empty() && !keep.contains(&key.revision);
            if main > revision || is_superseded || (key.is_tombstone && main == compacted) {
                continue;
            }
            hash = crc32c::crc32c_append(hash, key.encode().as_ref());
            hash = crc32c::crc32c_append(hash, value);
        }
        hash
    }
}
