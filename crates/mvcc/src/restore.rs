//! Building the index from the key bucket at start.
//!
//! Rows come in the order of revisions, the index wants them in the order of keys: they are gathered in batches, sorted, and
//! handed over. One batch after the other keeps the order within a key.

use std::collections::BTreeMap;

use backend::{
    View,
    schema::{Revision, meta},
};
use bytes::Bytes;

use crate::{
    Compaction, FIRST_REVISION, StorageError, Store,
    index::{KeyIndex, RestoredRow},
    row::RowView,
    shared::NEVER_COMPACTED,
};

/// Rows gathered before they are sorted: about 26 MB with keys of 30 bytes.
const BATCH_ROWS: usize = 256 * 1024;

/// Newest revision that is accepted: a million writes a second for 100 000 years. Arithmetic on what is below is safe.
const REVISION_MAX: i64 = i64::MAX / 2;

/// What [`Store::open`] found.
#[derive(Debug)]
pub struct Restored {
    /// The store.
    pub store: Store,
    /// Lease and key of every live key that is attached to a lease, in the order of keys.
    pub attachments: Vec<(i64, Bytes)>,
    /// A compaction that was interrupted, and has to be run again.
    pub compaction: Option<Compaction>,
}

/// What [`Store::reload`] found.
#[derive(Debug)]
pub struct Reloaded {
    /// As [`Restored::attachments`].
    pub attachments: Vec<(i64, Bytes)>,
    /// As [`Restored::compaction`].
    pub compaction: Option<Compaction>,
}

/// The content of the key bucket, as far as it is kept in memory.
pub(crate) struct Content {
    pub(crate) index: KeyIndex,
    pub(crate) attachments: Vec<(i64, Bytes)>,
    pub(crate) current: i64,
    pub(crate) compacted: i64,
    /// Revision of a compaction that did not finish.
    pub(crate) resume: Option<i64>,
}

/// One row, waiting to be sorted.
struct Gathered {
    /// The first bytes of the key behind what all keys of the batch have in common: mostly enough to compare.
    head: u64,
    /// Where its key lies in the batch's buffer.
    start: usize,
    len: usize,
    revision: Revision,
    row: RestoredRow,
    lease: i64,
}

/// Reads everything.
pub(crate) fn restore(view: &View) -> Result<Content, StorageError> {
    let finished = meta::finished_compaction(view)?;
    let scheduled = meta::scheduled_compaction(view)?;
    let compacted = finished.unwrap_or(NEVER_COMPACTED);
    let mut restore = Restore::default();
    let mut current = FIRST_REVISION;
    for row in view.rows(..)? {
        let (key, value) = row?;
        let Revision { main, sub } = key.revision;
        let pair = RowView::parse(&value).map_err(|malformed| StorageError::Row {
            main,
            sub,
            what: malformed.0,
        })?;
        current = main.max(current);
        let row = if key.is_tombstone {
            RestoredRow::Tombstone
        } else {
            RestoredRow::Put { create_revision: pair.create_revision, version: pair.version }
        };
        restore.add(pair.key, key.revision, row, pair.lease);
    }
    restore.flush();
    // A restored backup may have been compacted beyond its last row (etcdutl's --bump-revision).
    current = current.max(compacted).max(scheduled.unwrap_or(NEVER_COMPACTED));
    if current > REVISION_MAX {
        let what = "the revision is beyond any that could have been reached";
        return Err(StorageError::Row { main: current, sub: 0, what });
    }
    let attachments = restore
        .leases
        .into_iter()
        .map(|(key, lease)| (lease, Bytes::from(key.into_vec())))
        .collect();
    let resume = scheduled.filter(|scheduled| *scheduled > compacted);
    Ok(Content { index: restore.index, attachments, current, compacted, resume })
}

#[derive(Default)]
struct Restore {
    index: KeyIndex,
    leases: BTreeMap<Box<[u8]>, i64>,
    keys: Vec<u8>,
    batch: Vec<Gathered>,
}

impl Restore {
    fn add(&mut self, key: &[u8], revision: Revision, row: RestoredRow, lease: i64) {
        let (start, len) = (self.keys.len(), key.len());
        self.keys.extend_from_slice(key);
        self.batch.push(Gathered { head: 0, start, len, revision, row, lease });
        if self.batch.len() == BATCH_ROWS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let keys = &self.keys;
        let span = |row: &Gathered| row.start..row.start + row.len;
        let first = self.batch.first().map_or(0..0, span);
        let mut common = first.len();
        for row in &self.batch {
            let pairs = keys[first.clone()].iter().zip(&keys[span(row)]);
            common = common.min(pairs.take_while(|(first, other)| first == other).count());
        }
        for row in &mut self.batch {
            let start = row.start + common;
            let bytes = &keys[start..(row.start + row.len).min(start + 8)];
            let mut head = [0; 8];
            head[..bytes.len()].copy_from_slice(bytes);
            row.head = u64::from_be_bytes(head);
        }
        let key = |row: &Gathered| &keys[span(row)];
        // Rows of one key stay in the order of their revisions. Keys written in order cost one pass.
        self.batch.sort_unstable_by(|a, b| {
            a.head
                .cmp(&b.head)
                .then_with(|| key(a).cmp(key(b)))
                .then_with(|| a.revision.cmp(&b.revision))
        });
        for row in &self.batch {
            // A tombstone of a key that does not exist is left by compactions of older versions; etcd logs it and goes on.
            let _ = self.index.restore(key(row), row.revision, row.row);
            let attached = if row.row == RestoredRow::Tombstone { 0 } else { row.lease };
            if attached != 0 {
                self.leases.insert(key(row).into(), attached);
            } else if !self.leases.is_empty() {
                self.leases.remove(key(row));
            }
        }
        self.batch.clear();
        self.keys.clear();
    }
}
