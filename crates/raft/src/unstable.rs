//! The end of the log that storage does not hold yet.
//!
//! ```text
//!      storage          being written        not handed out yet
//!   ──────────────┬────────────────────────┬────────────────────
//!                 offset                   in_progress
//! ```
//!
//! Writes are pipelined: entries that are being written may be replaced before the write is confirmed. A confirmation
//! therefore names term and index of its last entry, and counts only if that entry is still here.
//!
//! Invariants: `offset <= in_progress <= offset + entries.len()`; `entries[i].index == offset + i`.
//!
//! Upstream: log_unstable.go (3.7).

use std::{collections::VecDeque, ops::Range};

use crate::{
    trace::{SharedTrace, trace},
    types::{Entry, EntryId, LogIndex, Snapshot, Term},
};

pub(crate) struct Unstable {
    /// Takes the place of everything before `offset`, if there is one.
    snapshot: Option<Snapshot>,
    snapshot_in_progress: bool,
    entries: VecDeque<Entry>,
    offset: LogIndex,
    in_progress: LogIndex,
    trace: SharedTrace,
}

impl Unstable {
    /// Starts empty, behind what storage holds.
    pub(crate) fn new(offset: LogIndex, trace: SharedTrace) -> Self {
        Self {
            snapshot: None,
            snapshot_in_progress: false,
            entries: VecDeque::new(),
            offset,
            in_progress: offset,
            trace,
        }
    }

    pub(crate) fn offset(&self) -> LogIndex {
        self.offset
    }

    pub(crate) fn in_progress(&self) -> LogIndex {
        self.in_progress
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Returns the first index of the log, if a snapshot determines it.
    pub(crate) fn first_index(&self) -> Option<LogIndex> {
        self.snapshot.as_ref().map(|snapshot| snapshot.metadata.index.next())
    }

    /// Returns the last index of the log, unless that is up to storage.
    pub(crate) fn last_index(&self) -> Option<LogIndex> {
        match self.entries.back() {
            Some(entry) => Some(entry.index),
            None => self.snapshot.as_ref().map(|snapshot| snapshot.metadata.index),
        }
    }

    /// Returns the term at `index`, unless that is up to storage or beyond the log.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index >= self.offset {
            return self.entries.get(index.since(self.offset)).map(|entry| entry.term);
        }
        let metadata = &self.snapshot.as_ref()?.metadata;
        (metadata.index == index).then_some(metadata.term)
    }

    /// Returns the entries that were not handed out for writing yet.
    pub(crate) fn next_entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.range(self.in_progress.since(self.offset)..)
    }

    /// Returns the snapshot, if it was not handed out for writing yet.
    pub(crate) fn next_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().filter(|_| !self.snapshot_in_progress)
    }

    /// Returns entries by index.
    ///
    /// # Panics
    /// Panics if the range is not all here.
    pub(crate) fn range(&self, range: Range<LogIndex>) -> impl Iterator<Item = &Entry> {
        let end = self.offset.plus(self.entries.len());
        assert!(
            self.offset <= range.start && range.end <= end,
            "unstable.slice[{},{}) out of bound [{},{end}]",
            range.start,
            range.end,
            self.offset
        );
        self.entries.range(range.start.since(self.offset)..range.end.since(self.offset))
    }

    /// Notes that everything was handed out for writing.
    pub(crate) fn accept_in_progress(&mut self) {
        self.in_progress = self.offset.plus(self.entries.len());
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Notes that storage holds the log up to `id`, if that entry is still the one in this log.
    pub(crate) fn stable_to(&mut self, id: EntryId) {
        let EntryId { term, index } = id;
        let Some(our_term) = self.term(index) else {
            trace!(self.trace, Info, "entry at index {index} missing from unstable log; ignoring");
            return;
        };
        if index < self.offset {
            trace!(self.trace, Info, "entry at index {index} matched unstable snapshot; ignoring");
            return;
        }
        if our_term != term {
            trace!(
                self.trace,
                Info,
                "entry at (index,term)=({index},{term}) mismatched with entry at ({index},{our_term}) in unstable log; \
                 ignoring"
            );
            return;
        }
        self.entries.drain(..=index.since(self.offset));
        self.offset = index.next();
        self.in_progress = self.in_progress.max(self.offset);
        if self.entries.is_empty() && self.entries.capacity() > RETAINED_ENTRIES {
            self.entries = VecDeque::new();
        }
    }

    /// Notes that storage holds the snapshot at `index`.
    pub(crate) fn stable_snapshot_to(&mut self, index: LogIndex) {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.metadata.index == index) {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// Replaces the whole log by a snapshot.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        self.offset = snapshot.metadata.index.next();
        self.in_progress = self.offset;
        self.entries.clear();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Appends entries in place of everything from `first`, the index of the first of them, on.
    pub(crate) fn truncate_and_append(
        &mut self,
        first: LogIndex,
        entries: impl Iterator<Item = Entry>,
    ) {
        let end = self.offset.plus(self.entries.len());
        if first == end {
            // The usual case.
        } else if first <= self.offset {
            trace!(self.trace, Info, "replace the unstable entries from index {first}");
            self.entries.clear();
            self.offset = first;
            self.in_progress = first;
        } else {
            trace!(self.trace, Info, "truncate the unstable entries before index {first}");
            self.entries.truncate(first.since(self.offset));
            self.in_progress = self.in_progress.min(first);
        }
        self.entries.extend(entries);
    }
}

/// Room for entries that is kept when all are stable: 48 KiB, what a busy member refills within a millisecond. More than
/// that is left over from a burst.
const RETAINED_ENTRIES: usize = 1024;
