//! What was written since a commit began to gather: one buffer, filled by the writer, read by views.
//!
//! Rows of the `key` bucket go to the [`RowLog`], without a lock. Everything else, and deletions of rows (compaction),
//! is rare and goes to sorted maps behind a lock that is held for one operation.
//!
//! A view taken at some moment keeps its content: it remembers how many rows and how many other operations were
//! published then ([`Mark`]), and each entry of a map knows the number of the operation that made it. Overwritten entries
//! stay until the buffer goes, which is after its commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::row_log::RowLog;
use crate::schema::{Bucket, RowKey};

/// How much of a buffer somebody may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Rows of the `key` bucket, from the first on.
    pub(crate) rows: u32,
    /// Other operations, from the first on.
    pub(crate) ops: u32,
}

/// One buffer.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) rows: RowLog,
    /// Guards the maps for the time of one operation. Taken after [`crate::shared::Shared`]'s lock, never before it.
    maps: RwLock<Maps>,
    /// Number of entries of `row_deletes`, so that a reader need not take the lock when there are none.
    row_deletes: AtomicUsize,
    /// The published [`Mark`]: rows in the upper half, other operations in the lower.
    published: AtomicU64,
}

/// The sorted maps of a buffer.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    buckets: [BTreeMap<Bytes, Chain>; Bucket::COUNT],
    /// Deleted rows of the `key` bucket, with the number of the operation.
    pub(crate) row_deletes: BTreeMap<RowKey, u32>,
}

/// What happened to one key, oldest first but for the last, which is apart since it is mostly the only one.
#[derive(Debug)]
struct Chain {
    last: Version,
    older: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    op: u32,
    /// `None`: deleted.
    value: Option<Bytes>,
}

impl Chain {
    /// The newest version that is visible at `ops`.
    fn at(&self, ops: u32) -> Option<&Version> {
        if self.last.op <= ops {
            return Some(&self.last);
        }
        let visible = self.older.partition_point(|version| version.op <= ops);
        visible.checked_sub(1).and_then(|index| self.older.get(index))
    }
}

impl Maps {
    /// What this buffer says about a key: nothing, deleted (`Some(None)`), or a value.
    pub(crate) fn get(&self, bucket: Bucket, key: &[u8], ops: u32) -> Option<Option<&Bytes>> {
        Some(self.of(bucket).get(key)?.at(ops)?.value.as_ref())
    }

    /// The same for all keys of `[start, end)` in order.
    pub(crate) fn range<'m>(
        &'m self,
        bucket: Bucket,
        start: &'m [u8],
        end: Option<&'m [u8]>,
        ops: u32,
    ) -> impl Iterator<Item = (&'m Bytes, Option<&'m Bytes>)> {
        self.of(bucket)
            .range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded))
            .take_while(move |(key, _)| end.is_none_or(|end| key.as_ref() < end))
            .filter_map(move |(key, chain)| {
                chain.at(ops).map(|version| (key, version.value.as_ref()))
            })
    }

    fn of(&self, bucket: Bucket) -> &BTreeMap<Bytes, Chain> {
        self.buckets.get(bucket.index()).expect("there is a map for each bucket")
    }
}

impl Pending {
    /// Records that `key` now has `value`, as operation number `op` (from 1 on). Only the writer calls this.
    pub(crate) fn set(&self, bucket: Bucket, key: Bytes, value: Option<Bytes>, op: u32) {
        let mut maps = self.write();
        let map = maps.buckets.get_mut(bucket.index()).expect("there is a map for each bucket");
        let version = Version { op, value };
        match map.get_mut(&key) {
            Some(chain) => chain.older.push(std::mem::replace(&mut chain.last, version)),
            None => {
                map.insert(key, Chain { last: version, older: Vec::new() });
            }
        }
    }

    /// Records that a row is gone. Only the writer calls this.
    pub(crate) fn delete_row(&self, key: RowKey, op: u32) {
        let mut maps = self.write();
        // A second deletion changes nothing, and must not hide the row's absence from views between the two.
        maps.row_deletes.entry(key).or_insert(op);
        // Relaxed: whoever may see the deletion has loaded the mark that was published after it.
        self.row_deletes.store(maps.row_deletes.len(), Ordering::Relaxed);
    }

    /// Whether the row is deleted for somebody who sees `ops` operations.
    pub(crate) fn is_row_deleted(&self, key: RowKey, ops: u32) -> bool {
        self.has_row_deletes() && self.read().row_deletes.get(&key).is_some_and(|&op| op <= ops)
    }

    pub(crate) fn has_row_deletes(&self) -> bool {
        self.row_deletes.load(Ordering::Relaxed) > 0
    }

    /// Lets views see everything up to `mark`. Only the writer calls this.
    pub(crate) fn publish(&self, mark: Mark) {
        // Release: pairs with `published`, so that what the mark counts is there for whoever reads the mark.
        self.published.store(u64::from(mark.rows) << 32 | u64::from(mark.ops), Ordering::Release);
    }

    /// What views may see now.
    pub(crate) fn published(&self) -> Mark {
        let packed = self.published.load(Ordering::Acquire);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
        let mark = Mark { rows: (packed >> 32) as u32, ops: packed as u32 };
        mark
    }

    /// The maps, for reading. A panic elsewhere cannot leave them half changed, so poison is no reason to stop.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}
