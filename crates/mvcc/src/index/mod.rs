//! Key index: which revisions wrote each key.
//!
//! Answers "what was key k at revision r" without touching disk. Rebuilt from the `key` bucket at start.
//!
//! The keys stand in a [`PackedMap`]; a key costs its bytes and about 25 more, until it is changed again. Keys are copied
//! there; nothing keeps a network buffer alive.
//!
//! One thread writes; readers share the lock that the caller holds around the index. Entries newer than what the reader
//! asks for do no harm, so a transaction may be in the making while others read. What does harm is
//! [`KeyIndex::compact_leaves`], which forgets: [`KeyIndex::forgotten`] says below which revision answers are incomplete, and
//! a reader checks it while it holds the lock.

mod history;

use std::ops::ControlFlow;

use backend::schema::Revision;

use self::history::Entry;
use crate::{KeyRange, packed::PackedMap};

pub(crate) use self::history::{Found, Kept};

/// A row of the key bucket, as far as the index cares; see [`KeyIndex::restore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoredRow {
    Put { create_revision: i64, version: i64 },
    Tombstone,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    keys: PackedMap<Entry>,
    /// Keys that exist now: their last change is no tombstone.
    live: usize,
    /// Compaction has begun to forget history below this revision.
    forgotten: i64,
}

impl KeyIndex {
    /// The number of keys that exist.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// The number of keys, deleted ones included until compaction forgets them.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.keys.len()
    }

    /// Below this revision, answers may be incomplete.
    pub(crate) fn forgotten(&self) -> i64 {
        self.forgotten
    }

    /// Finds a key at main revision `at`.
    pub(crate) fn find(&self, key: &[u8], at: i64) -> Option<Found> {
        self.keys.get(key)?.find(at)
    }

    /// Visits the keys of `range` that exist at main revision `at`, in order, until `visit` breaks.
    pub(crate) fn visit(
        &self,
        range: KeyRange<'_>,
        at: i64,
        visit: &mut dyn FnMut(&[u8], Found) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let KeyRange::Single(key) = range {
            return match self.find(key, at) {
                Some(found) => visit(key, found),
                None => ControlFlow::Continue(()),
            };
        }
        self.visit_entries(range, &mut |key, entry| match entry.find(at) {
            Some(found) => visit(key, found),
            None => ControlFlow::Continue(()),
        })
    }

    /// Says whether any key has a row that a compaction at `at` would keep.
    ///
    /// `with_tombstones` tells the two cases of etcd apart: a compaction keeps the tombstone at its own revision, HashKV
    /// leaves it out. Stops at the first row found, which is nearly always the first key.
    pub(crate) fn keeps_any(&self, at: i64, with_tombstones: bool) -> bool {
        self.visit_entries(KeyRange::From(&[]), &mut |_, entry| match entry.kept_at(at) {
            Some(kept) if with_tombstones || !kept.is_tombstone => ControlFlow::Break(()),
            Some(_) | None => ControlFlow::Continue(()),
        })
        .is_break()
    }

    /// The row of `key` that a compaction at `at` keeps, tombstones at `at` included.
    pub(crate) fn kept_at(&self, key: &[u8], at: i64) -> Option<Kept> {
        self.keys.get(key)?.kept_at(at)
    }

    /// Says whether a compaction at `at` keeps the row `revision` of `key`.
    pub(crate) fn keeps(&self, key: &[u8], revision: Revision, at: i64) -> bool {
        self.keys.get(key).is_some_and(|entry| entry.keeps(revision, at))
    }

    /// Records a put and returns what it made: when the key was created, and its version.
    pub(crate) fn put(&mut self, key: &[u8], revision: Revision) -> Found {
        let made = self.keys.update_or_insert(
            key,
            |entry| entry.put(revision),
            || {
                (
                    Entry::created(revision),
                    Found { modified: revision, created: revision.main, version: 1 },
                )
            },
        );
        self.live += usize::from(made.version == 1);
        made
    }

    /// Records a deletion; says whether the key existed.
    pub(crate) fn tombstone(&mut self, key: &[u8], revision: Revision) -> bool {
        let existed = self.keys.get_mut(key).is_some_and(|entry| entry.tombstone(revision));
        self.live -= usize::from(existed);
        existed
    }

    /// Records a row found on disk. Rows of one key must come in the order of their revisions; keys may come in any order,
    /// fastest (and packed tightest) ascending.
    ///
    /// Returns whether the row makes sense: a tombstone right after a tombstone, or a row that is not newer than the one
    /// before, does not.
    pub(crate) fn restore(&mut self, key: &[u8], revision: Revision, row: RestoredRow) -> bool {
        let is_newer = |entry: &Entry| entry.last().is_none_or(|last| last < revision);
        match row {
            RestoredRow::Put { create_revision, version } => {
                let made = self.keys.update_or_insert(
                    key,
                    |entry| is_newer(entry).then(|| entry.put(revision).version == 1),
                    || (Entry::restored(revision, create_revision, version), Some(true)),
                );
                self.live += usize::from(made == Some(true));
                made.is_some()
            }
            RestoredRow::Tombstone => {
                let ended = self.keys.update_or_insert(
                    key,
                    |entry| (is_newer(entry) && entry.tombstone(revision)).then_some(true),
                    || (Entry::restored_tombstone(revision), Some(false)),
                );
                self.live -= usize::from(ended == Some(true));
                ended.is_some()
            }
        }
    }

    /// Announces a compaction at `at`: from now on answers below it are incomplete.
    pub(crate) fn begin_compaction(&mut self, at: i64) {
        self.forgotten = self.forgotten.max(at);
    }

    /// Forgets what a compaction at `at` removes, in `leaves` leaves from `cursor` on. Returns whether there is more.
    pub(crate) fn compact_leaves(
        &mut self,
        cursor: &mut Box<[u8]>,
        leaves: usize,
        at: i64,
    ) -> bool {
        for _ in 0..leaves {
            match self.keys.retain_in_leaf(cursor, |entry| entry.compact(at)) {
                Some(next) => *cursor = next,
                None => return false,
            }
        }
        true
    }

    /// Visits all keys of a range, with their whole history.
    fn visit_entries(
        &self,
        range: KeyRange<'_>,
        visit: &mut dyn FnMut(&[u8], &Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if range.is_empty() {
            return ControlFlow::Continue(());
        }
        match range {
            KeyRange::From(start) => self.keys.visit_from(start, visit),
            KeyRange::Single(_) | KeyRange::Until(..) => {
                // Breaking at the end is not the caller's breaking.
                let mut is_over = false;
                let flow = self.keys.visit_from(range.start(), &mut |key, entry| {
                    if range.contains(key) {
                        return visit(key, entry);
                    }
                    is_over = true;
                    ControlFlow::Break(())
                });
                if is_over { ControlFlow::Continue(()) } else { flow }
            }
        }
    }
}

#[cfg(test)]
mod tests;
