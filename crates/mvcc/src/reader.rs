//! The reading side: any number of handles on any threads.

use std::sync::Arc;

use proto::etcdserverpb::{RangeRequest, TxnRequest, TxnResponse};

use crate::{
    EncodedRange, Error, HashKv, HashedAt, KeyRange, RequestError, StorageError, hash, range::Plan,
    shared::Shared, txn,
};

/// Handle for reading. Cheap to clone; never waits for a commit, a compaction or another reader, and for the writer only
/// while that changes one entry of the index.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Reader { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The newest revision; 1 for an empty store. Stale as soon as the writer goes on.
    #[must_use]
    pub fn current_revision(&self) -> i64 {
        self.shared.current()
    }

    /// The revision of the last compaction; -1 before the first.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.shared.compacted()
    }

    /// Number of keys that exist.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.shared.content().index.live()
    }

    /// Executes a range request on the newest state.
    ///
    /// # Errors
    /// The revision asked for is compacted or in the future.
    pub fn range(&self, request: &RangeRequest) -> Result<EncodedRange, Error> {
        let plan = self.plan(request)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        if let KeyRange::Single(key) = range {
            return self.single(plan, key, request.revision);
        }
        until_whole(|| {
            let source = self.shared.source(request.revision)?;
            plan.answer(&source, range, source.at)
        })
    }

    /// As [`Reader::range`] where that takes only a moment; `None` where it would take longer, and is to be asked for on a
    /// thread that may be kept busy.
    ///
    /// # Errors
    /// As [`Reader::range`].
    pub fn range_if_little(&self, request: &RangeRequest) -> Result<Option<EncodedRange>, Error> {
        let plan = self.plan(request)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        if let KeyRange::Single(key) = range {
            return self.single(plan, key, request.revision).map(Some);
        }
        until_whole(|| {
            let source = self.shared.source(request.revision)?.a_little();
            let answer = plan.answer(&source, range, source.at)?;
            Ok((!source.has_given_up()).then_some(answer))
        })
    }

    /// As [`Reader::range`], without looking at what lies behind the limit: `count` is of no use, except that it is the
    /// number of pairs where there are no `more`. For answers in pages.
    ///
    /// # Errors
    /// As [`Reader::range`].
    pub fn range_page(&self, request: &RangeRequest) -> Result<EncodedRange, Error> {
        let plan = self.plan(request)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        until_whole(|| {
            let source = self.shared.source(request.revision)?.without_count();
            plan.answer(&source, range, source.at)
        })
    }

    fn plan(&self, request: &RangeRequest) -> Result<Plan, Error> {
        Ok(Plan::new(request, self.shared.rules).map_err(RequestError::Malformed)?)
    }

    fn single(&self, plan: Plan, key: &[u8], revision: i64) -> Result<EncodedRange, Error> {
        let single = self.shared.find_single(key, revision)?;
        let found = single.found.as_ref().map(|(found, view)| (*found, view));
        plan.answer_single(single.current, key, found)
    }

    /// Executes a txn that only reads, all of it on one state. The header has the revision alone.
    ///
    /// # Errors
    /// The revision that a range of the branches taken asks for is compacted or in the future; an operation that
    /// writes.
    pub fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        until_whole(|| txn::read(&self.shared.source_with_history(), request))
    }

    /// As [`Reader::txn`] where that takes only a moment, else `None`; see [`Reader::range_if_little`].
    ///
    /// # Errors
    /// As [`Reader::txn`].
    pub fn txn_if_little(&self, request: &TxnRequest) -> Result<Option<TxnResponse>, Error> {
        until_whole(|| {
            let source = self.shared.source_with_history().a_little();
            let response = txn::read(&source, request);
            // An error may come of what was given up, too.
            if source.has_given_up() { Ok(None) } else { response.map(Some) }
        })
    }

    /// The hashes that the last compactions left behind, the newest first.
    #[must_use]
    pub fn compaction_hashes(&self) -> Vec<HashedAt> {
        self.shared.hashes().newest_first()
    }

    /// Hash over the history up to `revision` (0: the newest), by etcd's rule. Reads every row up to there, and blocks
    /// nobody meanwhile.
    ///
    /// # Errors
    /// The revision is compacted or in the future.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        until_whole(|| hash::hash_kv(&self.shared, revision))
    }
}

/// Starts over when the content was replaced in the middle.
fn until_whole<T>(mut read: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match read() {
            // Replacing takes a snapshot from the leader each time, so this ends.
            Err(Error::Storage(StorageError::Replaced)) => {}
            result => return result,
        }
    }
}
