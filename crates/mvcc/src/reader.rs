//! The reading side: any number of handles on any threads.

use std::sync::Arc;

use proto::etcdserverpb::{RangeRequest, TxnRequest, TxnResponse};

use crate::{
    EncodedRange, Error, HashKv, KeyRange, RequestError, StorageError, hash, range::Plan,
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

    /// Number of keys in the index, deleted ones included until a compaction forgets them.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.shared.content().index.len()
    }

    /// Executes a range request on the newest state.
    ///
    /// # Errors
    /// The revision asked for is compacted or in the future.
    pub fn range(&self, request: &RangeRequest) -> Result<EncodedRange, Error> {
        let plan = Plan::new(request).map_err(RequestError::Malformed)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        if let KeyRange::Single(key) = range {
            let single = self.shared.find_single(key, request.revision)?;
            return plan.answer_single(
                single.current,
                single.found.as_ref().map(|(found, view)| (*found, view)),
            );
        }
        until_whole(|| {
            let source = self.shared.source(request.revision)?;
            plan.answer(&source, range, source.at)
        })
    }

    /// Executes a txn that only reads, all of it on one state. The header has the revision alone.
    ///
    /// # Errors
    /// The revision that a range of the branches taken asks for is compacted or in the future; an operation that
    /// writes.
    pub fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        until_whole(|| txn::read(&self.shared.source_with_history(), request))
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
