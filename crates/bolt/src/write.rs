//! Write transactions.
//!
//! Changes gather in a [`Draft`]: the nodes that they touch, read once from the base state. Committing goes, in
//! bbolt's order, through four steps:
//!
//! ```text
//! prepare    the path to every changed bucket's header is read            may fail, nothing has happened
//! rebalance  nodes that deletes left small join a neighbour               may fail, nothing has happened
//! spill      nodes split, get pages (children first); old pages are freed   memory only; a failure from here on
//! write      file grows; pages in order; sync; meta; sync                   poisons the database
//! ```
//!
//! Pages of the base state are never written over. Nothing is allocated before the commit, so dropping a transaction
//! leaves no trace.

mod draft;
mod rebalance;
mod spill;

use draft::{BucketIndex, Draft, ROOT};

use crate::db::{NewState, Writer};
use crate::page::TxId;
use std::time::Duration;

use crate::{CommitStats, Db, Error, ReadTx};

/// The write transaction; there is one at a time. Dropping it rolls back.
#[derive(Debug)]
pub struct WriteTx {
    db: Db,
    /// Given back to the database when the transaction ends.
    writer: Option<Box<Writer>>,
    tx: TxId,
    draft: Draft,
}

impl WriteTx {
    pub(crate) fn new(db: Db, writer: Box<Writer>, tx: TxId) -> Self {
        let draft = Draft::new(db.read(), db.options().fill_percent);
        Self { db, writer: Some(writer), tx, draft }
    }

    /// Number that the commit will have.
    #[must_use]
    pub fn tx_id(&self) -> u64 {
        self.tx.0
    }

    /// The committed state that this transaction started from, for reading without its own changes.
    #[must_use]
    pub fn base(&self) -> &ReadTx {
        self.draft.base()
    }

    /// Makes a top-level bucket.
    pub fn create_bucket(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.root().into_new_bucket(name)
    }

    /// Opens a top-level bucket, making it when missing.
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        let bucket = self.draft.open_or_create_bucket(ROOT, name)?;
        Ok(BucketMut { draft: &mut self.draft, bucket })
    }

    /// Opens a top-level bucket; `None` when there is none of this name.
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        self.root().into_bucket(name)
    }

    /// Removes a top-level bucket and all in it.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.root().delete_bucket(name)
    }

    /// The bucket that holds the top-level buckets.
    pub(crate) fn root(&mut self) -> BucketMut<'_> {
        BucketMut { draft: &mut self.draft, bucket: ROOT }
    }

    /// Writes everything and makes it durable; readers that begin afterwards see it. Without any change nothing is
    /// written.
    ///
    /// [`Error::Corrupt`] leaves the database usable when it was found in a page that had to be read. An I/O failure poisons
    /// it: whether the commit took place is known only after reopening.
    pub fn commit(self) -> Result<CommitStats, Error> {
        self.commit_timed(&|| Duration::ZERO)
    }

    /// Like [`WriteTx::commit`], and tells how long its steps took by that clock, which may begin anywhere.
    pub fn commit_timed(mut self, now: &dyn Fn() -> Duration) -> Result<CommitStats, Error> {
        let begin = now();
        let mut stats = CommitStats { tx_id: self.base().tx_id(), ..CommitStats::default() };
        if !self.draft.prepare()? {
            return Ok(stats);
        }
        stats.nodes_merged = self.draft.rebalance()?;
        stats.times.rebalance = now().saturating_sub(begin);
        stats.tx_id = self.tx.0;
        let Some(writer) = self.writer.as_deref_mut() else { return Ok(stats) };
        // The account of pages changes from here on. It matches the file again only when the commit is complete.
        let result = Self::write(&self.db, writer, &mut self.draft, self.tx, &mut stats, now);
        if result.is_err() {
            self.db.poison();
        }
        result.map(|()| stats)
    }

    fn write(
        db: &Db,
        writer: &mut Writer,
        draft: &mut Draft,
        tx: TxId,
        stats: &mut CommitStats,
        now: &dyn Fn() -> Duration,
    ) -> Result<(), Error> {
        let begin = now();
        let sync_freelist = db.options().sync_freelist;
        let spilled = draft.spill(&mut writer.space, tx, sync_freelist)?;
        stats.nodes_split = spilled.nodes_split;
        let spilled_at = now();
        stats.times.spill = spilled_at.saturating_sub(begin);
        let view = db.grow(writer, spilled.meta.high_water)?;
        draft.write(&spilled, db, stats)?;
        let written = spilled.written();
        let state = NewState { meta: spilled.meta, written };
        let published = db.publish(writer, view, &state, stats);
        stats.times.write = now().saturating_sub(spilled_at);
        published
    }
}

impl Drop for WriteTx {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // The pin on the base state goes first: the next writer shall not take it for a reader.
            self.draft = Draft::new(self.db.read(), 0.0);
            self.db.give_back(writer);
        }
    }
}

/// One bucket in a write transaction.
#[derive(Debug)]
pub struct BucketMut<'tx> {
    draft: &'tx mut Draft,
    bucket: BucketIndex,
}

impl<'tx> BucketMut<'tx> {
    /// The value of `key` with this transaction's own changes; `None` also when the key names a nested bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        self.draft.get(self.bucket, key)
    }

    /// Sets one value. [`Error::IncompatibleValue`] when the key names a nested bucket.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.draft.put(self.bucket, key, value)
    }

    /// Deletes one value; no error when it is absent. [`Error::IncompatibleValue`] when the key names a nested bucket.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        self.draft.delete(self.bucket, key)
    }

    /// A batch in strictly ascending key order, where `None` deletes: each page is touched once.
    ///
    /// On an error the changes before it stay in the transaction; the caller drops it.
    pub fn apply_sorted<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        ops: impl IntoIterator<Item = (K, Option<V>)>,
    ) -> Result<(), Error> {
        self.draft.apply_sorted(self.bucket, ops.into_iter())
    }

    /// How full split nodes of this bucket get, in this transaction. etcd: 0.9 for buckets that are appended to.
    pub fn set_fill_percent(&mut self, fill_percent: f32) {
        self.draft.set_fill_percent(self.bucket, fill_percent);
    }

    /// The bucket's own number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.draft.sequence(self.bucket)
    }

    /// Sets the bucket's own number.
    pub fn set_sequence(&mut self, sequence: u64) -> Result<(), Error> {
        self.draft.set_sequence(self.bucket, sequence)
    }

    /// Makes a nested bucket.
    pub fn create_bucket(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.reborrow().into_new_bucket(name)
    }

    /// Opens a nested bucket, making it when missing.
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        let bucket = self.draft.open_or_create_bucket(self.bucket, name)?;
        Ok(BucketMut { draft: self.draft, bucket })
    }

    /// Opens a nested bucket; `None` when there is none of this name.
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<BucketMut<'_>>, Error> {
        self.reborrow().into_bucket(name)
    }

    /// Removes a nested bucket and all in it.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.draft.delete_bucket(self.bucket, name)
    }

    /// As [`Self::bucket`], for walking down a path.
    pub fn into_bucket(self, name: &[u8]) -> Result<Option<BucketMut<'tx>>, Error> {
        let bucket = self.draft.open_bucket(self.bucket, name)?;
        Ok(bucket.map(|bucket| BucketMut { draft: self.draft, bucket }))
    }

    fn into_new_bucket(self, name: &[u8]) -> Result<BucketMut<'tx>, Error> {
        let bucket = self.draft.create_bucket(self.bucket, name)?;
        Ok(BucketMut { draft: self.draft, bucket })
    }

    fn reborrow(&mut self) -> BucketMut<'_> {
        BucketMut { draft: self.draft, bucket: self.bucket }
    }
}
