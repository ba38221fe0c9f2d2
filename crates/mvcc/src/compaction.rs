//! Removal of what a compaction made invisible, in steps.
//!
//! ```text
//!   Store::compact(R)       scheduledCompactRev = R; readers and watchers see R at once
//!   step ... step           1. wait until nobody reads below R     (readers take milliseconds)
//!                           2. the index forgets, some leaves at a time, under short locks
//!                           3. rows up to R: those that the index does not keep are to be deleted
//!   last step               finishedCompactRev = R; the hash over what was seen is cached
//! ```
//!
//! [`Compaction::step`] only reads (and changes the index), on any thread; the deletions that it finds are applied by the
//! owner of the backend's writer, which costs little. Steps of different sizes are independent of each other: whoever runs
//! them decides about pauses. A crash in between repeats work: which rows stay is a function of the rows that are there.
//!
//! Upstream: server/mvcc/kvstore_compaction.go (3.5.30), with its batches of 1000 rows and pauses of 10 ms.

use std::{
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use backend::schema::{Revision, RowKey, meta};

use crate::{StorageError, hash::KvHasher, packed::LEAF_KEYS, row::key_of, shared::Shared};

/// Keys of the index that cost as much as one row, which has to be looked up.
const KEYS_FOR_A_ROW: usize = 16;

/// Leaves of the index gone through while it is locked once: about 20 microseconds, unless much is to be forgotten.
const LEAVES_PER_LOCK: usize = 8;

/// A compaction under way.
#[derive(Debug)]
pub struct Compaction {
    shared: Arc<Shared>,
    revision: i64,
    /// The compact revision before, if the hash over this one will be whole: the one before it had finished.
    previous: Option<i64>,
    incarnation: u64,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing removed yet; somebody may still read below the revision.
    Waiting,
    /// The index forgets from this key on.
    Index {
        cursor: Box<[u8]>,
    },
    /// Rows after this one are still to be looked at.
    Rows {
        after: Bound<Revision>,
        hasher: Option<KvHasher>,
    },
    Done,
}

/// What a step asks for.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum CompactionStep {
    /// Nothing to apply; call again. The flag says that a reader has to finish first, so not at once.
    Again {
        /// Somebody still reads below the revision.
        is_waiting: bool,
    },
    /// Rows to be deleted, perhaps none; call again.
    Delete {
        /// The rows.
        rows: Vec<RowKey>,
        /// The step looked at as many rows as it was allowed to: pause before the next one, as etcd does.
        is_full: bool,
    },
    /// The last rows are behind: the compaction at this revision has finished. Drop it once this is applied.
    Finished {
        /// The compact revision.
        revision: i64,
    },
    /// The store's content was replaced; nothing to apply, drop it.
    Abandoned,
}

impl CompactionStep {
    /// Whether the caller is to pause before the next step: a reader has to finish first, or much was done at once.
    #[must_use]
    pub fn wants_pause(&self) -> bool {
        match self {
            CompactionStep::Again { is_waiting } => *is_waiting,
            CompactionStep::Delete { is_full, .. } => *is_full,
            CompactionStep::Finished { .. } | CompactionStep::Abandoned => false,
        }
    }

    /// Applies the step to the backend; for the owner of the writer. Says whether there is more to come.
    pub fn apply(self, writer: &mut backend::Writer) -> ControlFlow<()> {
        match self {
            CompactionStep::Again { .. } => ControlFlow::Continue(()),
            CompactionStep::Delete { rows, is_full: _ } => {
                for row in rows {
                    writer.delete_row(row);
                }
                writer.publish();
                ControlFlow::Continue(())
            }
            CompactionStep::Finished { revision } => {
                meta::put_finished_compaction(writer, revision);
                writer.publish();
                ControlFlow::Break(())
            }
            CompactionStep::Abandoned => ControlFlow::Break(()),
        }
    }
}

impl Compaction {
    pub(crate) fn new(shared: Arc<Shared>, revision: i64, previous: Option<i64>) -> Self {
        let incarnation = shared.content().incarnation;
        Compaction { shared, revision, previous, incarnation, phase: Phase::Waiting }
    }

    /// The compact revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Does the next part of the work, which costs about as much as looking up `limit` rows.
    ///
    /// # Errors
    /// A row that cannot be read. Fatal.
    pub fn step(&mut self, limit: usize) -> Result<CompactionStep, StorageError> {
        if self.shared.content().incarnation != self.incarnation {
            self.phase = Phase::Done;
            return Ok(CompactionStep::Abandoned);
        }
        match &mut self.phase {
            Phase::Waiting => {
                let mut content = self.shared.content_mut();
                // Under the write lock nobody registers; who comes later finds that the index forgets.
                let is_waiting = self.shared.lowest_pin().is_some_and(|pin| pin < self.revision);
                if !is_waiting {
                    content.index.begin_compaction(self.revision);
                    self.phase = Phase::Index { cursor: Box::default() };
                }
                Ok(CompactionStep::Again { is_waiting })
            }
            Phase::Index { cursor } => {
                let mut leaves = limit.div_ceil(LEAF_KEYS).saturating_mul(KEYS_FOR_A_ROW).max(1);
                let mut has_more = true;
                while has_more && leaves > 0 {
                    // A lock for each few: a put may have to wait for one.
                    let now = leaves.min(LEAVES_PER_LOCK);
                    leaves -= now;
                    let index = &mut self.shared.content_mut().index;
                    has_more = index.compact_leaves(cursor, now, self.revision);
                }
                if !has_more {
                    let hasher = self.previous.map(|previous| {
                        // Unlike HashKV, a compaction counts tombstones at its revision as rows that it keeps.
                        let keeps_any = self.shared.content().index.keeps_any(self.revision, true);
                        KvHasher::new(self.revision, previous, keeps_any)
                    });
                    self.phase = Phase::Rows { after: Bound::Unbounded, hasher };
                }
                Ok(CompactionStep::Again { is_waiting: false })
            }
            Phase::Rows { .. } => self.step_rows(limit.max(1)),
            Phase::Done => Ok(CompactionStep::Abandoned),
        }
    }

    fn step_rows(&mut self, limit: usize) -> Result<CompactionStep, StorageError> {
        let Phase::Rows { after, hasher } = &mut self.phase else {
            return Ok(CompactionStep::Abandoned);
        };
        let view = self.shared.backend.view();
        let end = Bound::Excluded(Revision::first_of(self.revision.saturating_add(1)));
        let mut delete = Vec::new();
        let mut seen = 0;
        for row in view.rows((*after, end))? {
            let (key, value) = row?;
            seen += 1;
            let content = self.shared.content();
            if let Some(hasher) = hasher {
                hasher
                    .add(key, &value, |user_key| content.index.kept_at(user_key, self.revision))?;
            }
            let Revision { main, sub } = key.revision;
            let user_key = key_of(&value).map_err(|malformed| StorageError::Row {
                main,
                sub,
                what: malformed.0,
            })?;
            if !content.index.keeps(user_key, key.revision, self.revision) {
                delete.push(key);
            }
            *after = Bound::Excluded(key.revision);
            if seen == limit {
                break;
            }
        }
        let is_full = seen == limit;
        if is_full || !delete.is_empty() {
            // After one that is not full, the next step finds no row behind it, and finishes.
            return Ok(CompactionStep::Delete { rows: delete, is_full });
        }
        if let Some(hasher) = hasher {
            self.shared.hashes().store(hasher.finish());
        }
        self.phase = Phase::Done;
        Ok(CompactionStep::Finished { revision: self.revision })
    }

    /// Runs all steps at once; for tests and for tools that are alone with the backend.
    ///
    /// # Errors
    /// As [`Compaction::step`]; also when a reader in the same thread keeps the compaction from going on.
    pub fn run(mut self, writer: &mut backend::Writer, limit: usize) -> Result<(), StorageError> {
        while self.step(limit)?.apply(writer).is_continue() {}
        Ok(())
    }
}
