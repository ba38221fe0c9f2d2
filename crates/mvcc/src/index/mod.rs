//! Key index: which revisions wrote each key.
//!
//! Answers "what was key k at revision r" without touching disk. Rebuilt from the `key` bucket at start.
//!
//! ```text
//!   leaves:  ""  ─► | a aa ab b |      a map from the lowest key that belongs to a leaf, to the leaf;
//!            "c" ─► | c ca d |         at most 64 keys a leaf, their bytes packed in one buffer
//!            "m" ─► | ma n q |
//! ```
//!
//! One key costs its bytes, 4 for where they end, 16 for its entry, and about 3 for its share of the leaf: no allocation of
//! its own, until it is changed again. Keys are copied here; nothing keeps a network buffer alive.
//!
//! One thread writes; readers share the lock that the caller holds around the index. Entries newer than what the reader
//! asks for do no harm, so a transaction may be in the making while others read. What does harm is
//! [`KeyIndex::compact_leaves`], which forgets: [`KeyIndex::forgotten`] says below which revision answers are incomplete, and
//! a reader checks it while it holds the lock.

mod history;
mod leaf;

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use backend::schema::Revision;

use self::{
    history::Entry,
    leaf::{Leaf, MAX_KEYS},
};
use crate::KeyRange;

pub(crate) use self::history::{Found, Kept};

/// A row of the key bucket, as far as the index cares; see [`KeyIndex::restore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoredRow {
    Put { create_revision: i64, version: i64 },
    Tombstone,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct KeyIndex {
    /// By the lowest key that belongs to the leaf. The first leaf has the empty key and always exists.
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    /// Number of keys, deleted ones included until compaction forgets them.
    len: usize,
    /// Compaction has begun to forget history below this revision.
    forgotten: i64,
}

impl Default for KeyIndex {
    fn default() -> Self {
        KeyIndex {
            leaves: BTreeMap::from([(Box::default(), Leaf::default())]),
            len: 0,
            forgotten: 0,
        }
    }
}

impl KeyIndex {
    /// The number of keys, deleted ones included until compaction forgets them.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Below this revision, answers may be incomplete.
    pub(crate) fn forgotten(&self) -> i64 {
        self.forgotten
    }

    /// Finds a key at main revision `at`.
    pub(crate) fn find(&self, key: &[u8], at: i64) -> Option<Found> {
        self.entry(key)?.find(at)
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
        self.entry(key)?.kept_at(at)
    }

    /// Says whether a compaction at `at` keeps the row `revision` of `key`.
    pub(crate) fn keeps(&self, key: &[u8], revision: Revision, at: i64) -> bool {
        self.entry(key).is_some_and(|entry| entry.keeps(revision, at))
    }

    /// Records a put and returns what it made: when the key was created, and its version.
    pub(crate) fn put(&mut self, key: &[u8], revision: Revision) -> Found {
        match self.locate_mut(key) {
            (leaf, Ok(place)) => leaf.entry_mut(place).put(revision),
            (_, Err(_)) => {
                self.insert(key, Entry::created(revision));
                Found { modified: revision, created: revision.main, version: 1 }
            }
        }
    }

    /// Records a deletion; says whether the key existed.
    pub(crate) fn tombstone(&mut self, key: &[u8], revision: Revision) -> bool {
        match self.locate_mut(key) {
            (leaf, Ok(place)) => leaf.entry_mut(place).tombstone(revision),
            (_, Err(_)) => false,
        }
    }

    /// Records a row found on disk. Rows of one key must come in the order of their revisions; keys may come in any order,
    /// fastest (and packed tightest) ascending.
    ///
    /// Returns whether the row makes sense: a tombstone right after a tombstone, or a row that is not newer than the one
    /// before, does not.
    pub(crate) fn restore(&mut self, key: &[u8], revision: Revision, row: RestoredRow) -> bool {
        let (leaf, Ok(place)) = self.locate_mut(key) else {
            let entry = match row {
                RestoredRow::Put { create_revision, version } => {
                    Entry::restored(revision, create_revision, version)
                }
                RestoredRow::Tombstone => Entry::restored_tombstone(revision),
            };
            self.insert(key, entry);
            return true;
        };
        let entry = leaf.entry_mut(place);
        if entry.last().is_some_and(|last| last >= revision) {
            return false;
        }
        match row {
            RestoredRow::Put { .. } => {
                entry.put(revision);
                true
            }
            RestoredRow::Tombstone => entry.tombstone(revision),
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
            let mut from_cursor =
                self.leaves.range_mut::<[u8], _>((Bound::Included(&**cursor), Bound::Unbounded));
            let Some((lowest, leaf)) = from_cursor.next() else { return false };
            let removed = leaf.retain(|entry| entry.compact(at));
            let lowest = lowest.clone();
            let next = from_cursor.next().map(|(next, _)| next.clone());
            if removed > 0 {
                self.len -= removed;
                self.merge_back(&lowest);
            }
            let Some(next) = next else { return false };
            *cursor = next;
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
        let start = range.start();
        let end = match range {
            KeyRange::Until(_, end) => Some(end),
            KeyRange::Single(_) | KeyRange::From(_) => None,
        };
        let first_leaf = self.leaf_bound(start);
        let mut place = self
            .leaves
            .get(first_leaf)
            .map_or(0, |leaf| leaf.search(start).unwrap_or_else(|place| place));
        for (_, leaf) in
            self.leaves.range::<[u8], _>((Bound::Included(first_leaf), Bound::Unbounded))
        {
            // Compare with the end once a leaf where the whole leaf lies inside.
            let check = end.filter(|end| leaf.last_key().is_some_and(|last| last >= *end));
            while place < leaf.len() {
                let key = leaf.key(place);
                if check.is_some_and(|end| key >= end) {
                    return ControlFlow::Continue(());
                }
                visit(key, leaf.entry(place))?;
                place += 1;
            }
            if check.is_some() {
                return ControlFlow::Continue(());
            }
            place = 0;
        }
        ControlFlow::Continue(())
    }

    /// The lowest key of the leaf that `key` belongs to.
    fn leaf_bound(&self, key: &[u8]) -> &[u8] {
        match self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back() {
            Some((lowest, _)) => lowest,
            None => unreachable!("the first leaf has the empty key"),
        }
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let (_, leaf) =
            self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        leaf.search(key).ok().map(|place| leaf.entry(place))
    }

    fn locate_mut(&mut self, key: &[u8]) -> (&mut Leaf, Result<usize, usize>) {
        match self.leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
        {
            Some((_, leaf)) => {
                let place = leaf.search(key);
                (leaf, place)
            }
            None => unreachable!("the first leaf has the empty key"),
        }
    }

    /// Adds a key that is not there.
    fn insert(&mut self, key: &[u8], entry: Entry) {
        self.len += 1;
        let (leaf, place) = self.locate_mut(key);
        let place = match place {
            Ok(place) | Err(place) => place,
        };
        if !leaf.is_full() {
            leaf.insert(place, key, entry);
            return;
        }
        if place == leaf.len() {
            // Ascending keys: leave the full leaf as it is and begin another.
            leaf.shrink();
            let mut next = Leaf::default();
            next.insert(0, key, entry);
            self.leaves.insert(key.into(), next);
            return;
        }
        let middle = (leaf.len() / 2).max(1);
        let mut tail = leaf.split_off(middle);
        let lowest: Box<[u8]> = tail.key(0).into();
        if place <= middle {
            leaf.insert(place, key, entry);
        } else {
            tail.insert(place - middle, key, entry);
        }
        self.leaves.insert(lowest, tail);
    }

    /// After a leaf has lost keys: appends it to the one before if both are small, or removes it if it is empty.
    fn merge_back(&mut self, lowest: &[u8]) {
        if lowest.is_empty() {
            return;
        }
        let Some(leaf) = self.leaves.remove(lowest) else { return };
        if leaf.len() == 0 {
            return;
        }
        match self
            .leaves
            .range_mut::<[u8], _>((Bound::Unbounded, Bound::Excluded(lowest)))
            .next_back()
        {
            Some((_, before)) if before.has_room_for(&leaf) => before.append(leaf),
            _ => {
                self.leaves.insert(lowest.into(), leaf);
            }
        }
    }
}

/// How many keys a leaf holds at most; what one step of [`KeyIndex::compact_leaves`] costs is a multiple of it.
pub(crate) const LEAF_KEYS: usize = MAX_KEYS;

#[cfg(test)]
mod tests;
