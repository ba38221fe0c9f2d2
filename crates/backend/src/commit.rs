//! Writing a buffer to the tree: one bolt transaction.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::pending::{Maps, Mark, Pending};
use crate::schema::{Bucket, RowKey, meta};
use crate::shared::Shared;
use crate::writer::Consistent;
use crate::{DB_FILE, Error};

/// Keys of the `key` bucket only grow, so a split leaves full pages behind: nothing is inserted there later. Upstream
/// fills them to 0.9, which costs a seventh more bytes for the same rows; a reader takes any fill.
const APPEND_FILL_PERCENT: f32 = 1.0;

/// What a commit wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitStats {
    /// Operations taken from the buffer.
    pub ops: u64,
    /// Pages written, overflow pages counted, metas not.
    pub pages_written: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// The consistent index that is durable now.
    pub consistent_index: u64,
    /// How long the steps took, of [`CommitJob::run_timed`].
    pub times: bolt::CommitTimes,
}

/// A buffer on its way to disk. To be run by whoever may wait for a disk; readers see its rows before, while, after.
#[derive(Debug)]
#[must_use = "rows are durable only after the job has run, and no other job is given before"]
pub struct CommitJob {
    shared: Arc<Shared>,
    pending: Arc<Pending>,
    mark: Mark,
    consistent: Consistent,
    has_ended: bool,
}

impl CommitJob {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pending: Arc<Pending>,
        mark: Mark,
        consistent: Consistent,
    ) -> Self {
        Self { shared, pending, mark, consistent, has_ended: false }
    }

    /// The consistent index that will be durable when the job has run.
    #[must_use]
    pub fn consistent(&self) -> Consistent {
        self.consistent
    }

    /// Writes everything as one transaction, syncs, and makes the new tree the one that views see.
    ///
    /// An error is fatal: the backend gives no more jobs ([`crate::Reader::check_health`]), and the member must stop.
    pub fn run(self) -> Result<CommitStats, Error> {
        self.run_timed(&|| Duration::ZERO)
    }

    /// Like [`CommitJob::run`], and tells how long its steps took by that clock, which may begin anywhere.
    pub fn run_timed(mut self, now: &dyn Fn() -> Duration) -> Result<CommitStats, Error> {
        let db = self.shared.lock().db.clone();
        let result = self.write(&db, now);
        self.has_ended = true;
        match result {
            Ok(stats) => {
                let tree = db.read();
                let mut state = self.shared.lock();
                let old = std::mem::replace(&mut state.tree, tree);
                let written = state.committing.take();
                state.is_busy = false;
                drop(state);
                // Freeing the buffer and the old tree's pages takes a while: not under the lock.
                drop((old, written));
                Ok(stats)
            }
            Err(error) => {
                self.shared.poison(&error);
                Err(error)
            }
        }
    }

    fn write(&self, db: &bolt::Db, now: &dyn Fn() -> Duration) -> Result<CommitStats, Error> {
        // Nobody writes to this buffer any more, so the lock keeps nobody waiting.
        let maps = self.pending.read();
        let mut tx = db.write()?;
        for bucket in Bucket::ALL {
            let meta_rows =
                if bucket == Bucket::Meta { self.meta_rows(&mut tx)? } else { Vec::new() };
            let ops = maps.range(bucket, &[], None, self.mark.ops);
            let missing = || Error::BucketMissing { file: DB_FILE.to_owned(), bucket };
            match bucket {
                Bucket::Key => {
                    if self.mark.rows > 0 || !maps.row_deletes.is_empty() {
                        let mut target =
                            tx.bucket(bucket.name().as_bytes())?.ok_or_else(missing)?;
                        target.set_fill_percent(APPEND_FILL_PERCENT);
                        target.apply_sorted(self.rows(&maps))?;
                    }
                }
                Bucket::Meta => {
                    let mut ops: Vec<(Bytes, Option<Bytes>)> =
                        ops.map(|(key, value)| (key.clone(), value.cloned())).collect();
                    ops.extend(meta_rows);
                    ops.sort_by(|(a, _), (b, _)| a.cmp(b));
                    if !ops.is_empty() {
                        tx.bucket(bucket.name().as_bytes())?
                            .ok_or_else(missing)?
                            .apply_sorted(ops)?;
                    }
                }
                Bucket::Alarm
                | Bucket::Auth
                | Bucket::AuthRoles
                | Bucket::AuthUsers
                | Bucket::Cluster
                | Bucket::Lease
                | Bucket::Members
                | Bucket::MembersRemoved => {
                    let mut ops = ops.peekable();
                    if ops.peek().is_some() {
                        tx.bucket(bucket.name().as_bytes())?
                            .ok_or_else(missing)?
                            .apply_sorted(ops)?;
                    }
                }
            }
        }
        drop(maps);
        let stats = tx.commit_timed(now)?;
        Ok(CommitStats {
            ops: u64::from(self.mark.rows) + u64::from(self.mark.ops),
            pages_written: stats.pages_written,
            bytes_written: stats.bytes_written,
            consistent_index: self.consistent.index,
            times: stats.times,
        })
    }

    /// Consistent index and term, as far as they change anything.
    fn meta_rows(&self, tx: &mut bolt::WriteTx) -> Result<Vec<(Bytes, Option<Bytes>)>, Error> {
        let missing = || Error::BucketMissing { file: DB_FILE.to_owned(), bucket: Bucket::Meta };
        let meta = tx.bucket(Bucket::Meta.name().as_bytes())?.ok_or_else(missing)?;
        let mut rows = Vec::new();
        for (key, number) in
            [(meta::CONSISTENT_INDEX, self.consistent.index), (meta::TERM, self.consistent.term)]
        {
            // Upstream never writes a zero; an unchanged row is no reason to write a page.
            let value = number.to_be_bytes();
            if number > 0 && meta.get(key)? != Some(value.as_slice()) {
                rows.push((Bytes::from_static(key), Some(Bytes::copy_from_slice(&value))));
            }
        }
        Ok(rows)
    }

    /// The `key` bucket's operations in order: deletions of older rows, then the new rows. A row that came and went
    /// within this buffer is in neither.
    fn rows<'a>(
        &'a self,
        maps: &'a Maps,
    ) -> impl Iterator<Item = (impl AsRef<[u8]>, Option<&'a Bytes>)> {
        let log = &self.pending.rows;
        let first = (self.mark.rows > 0).then(|| log.get(0).key);
        let is_older = move |key: &RowKey| first.is_none_or(|first| *key < first);
        let deletions = maps
            .row_deletes
            .keys()
            .copied()
            .take_while(move |key| is_older(key))
            .map(|key| (key, None));
        let has_deletes = !maps.row_deletes.is_empty();
        let puts = (0..self.mark.rows)
            .map(|index| log.get(index))
            .filter(move |row| !(has_deletes && maps.row_deletes.contains_key(&row.key)))
            .map(|row| (row.key, Some(&row.value)));
        deletions.chain(puts).map(|(key, value)| (key.encode(), value))
    }
}

impl Drop for CommitJob {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.poison(&"a commit was dropped without being run");
        }
    }
}
