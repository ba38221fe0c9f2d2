//! The log: storage's part and the part that is not stored yet, read as one.
//!
//! ```text
//!   compacted │ applied │ handed to the state machine │ committed │ not committed
//!   ──────────┼─────────┼─────────────────────────────┼───────────┼──────────────
//!       first_index  applied                      applying    committed      last_index
//! ```
//!
//! Invariant: `applied <= applying <= committed <= last_index`. A violation that no peer can cause panics.
//!
//! Upstream: log.go (3.7).

use std::fmt;

use crate::{
    error::StorageError,
    storage::Storage,
    trace::{SharedTrace, trace},
    types::{Entry, EntryId, EntryKind, LogIndex, Snapshot, Term, encoded_size, fitting_prefix},
    unstable::Unstable,
};

pub(crate) struct RaftLog<S> {
    pub(crate) storage: S,
    pub(crate) unstable: Unstable,
    pub(crate) committed: LogIndex,
    applying: LogIndex,
    pub(crate) applied: LogIndex,
    /// Most encoded bytes that may be handed to the state machine and not yet be applied.
    applying_bytes_max: u64,
    applying_bytes: u64,
    /// Nothing more is handed out until the state machine confirms something.
    applying_paused: bool,
    trace: SharedTrace,
}

impl<S> fmt::Display for RaftLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed={}, applied={}, applying={}, unstable.offset={}, unstable.offsetInProgress={}, \
             len(unstable.Entries)={}",
            self.committed,
            self.applied,
            self.applying,
            self.unstable.offset(),
            self.unstable.in_progress(),
            self.unstable.len()
        )
    }
}

impl<S: Storage> RaftLog<S> {
    pub(crate) fn new(storage: S, applying_bytes_max: u64, trace: SharedTrace) -> Self {
        let compacted = storage.first_index().prev();
        Self {
            unstable: Unstable::new(storage.last_index().next(), SharedTrace::clone(&trace)),
            storage,
            committed: compacted,
            applying: compacted,
            applied: compacted,
            applying_bytes_max: applying_bytes_max.max(1),
            applying_bytes: 0,
            applying_paused: false,
            trace,
        }
    }

    pub(crate) fn first_index(&self) -> LogIndex {
        self.unstable.first_index().unwrap_or_else(|| self.storage.first_index())
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.unstable.last_index().unwrap_or_else(|| self.storage.last_index())
    }

    /// Returns the term at `index`, for the entries of the log and the place before the first.
    pub(crate) fn term(&self, index: LogIndex) -> Result<Term, StorageError> {
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index.next() < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index)
    }

    /// Returns the term at `index`, or zero if the log cannot tell.
    pub(crate) fn term_or_zero(&self, index: LogIndex) -> Term {
        self.term(index).unwrap_or_default()
    }

    pub(crate) fn last_id(&self) -> EntryId {
        let index = self.last_index();
        match self.term(index) {
            Ok(term) => EntryId { term, index },
            Err(error) => panic!("unexpected error when getting the last term at {index}: {error}"),
        }
    }

    pub(crate) fn matches(&self, id: EntryId) -> bool {
        self.term(id.index) == Ok(id.term)
    }

    /// Returns whether a log that ends in `theirs` holds everything that this one may have committed.
    pub(crate) fn is_up_to_date(&self, theirs: EntryId) -> bool {
        let ours = self.last_id();
        (theirs.term, theirs.index) >= (ours.term, ours.index)
    }

    /// Returns entries from `low` to the end, as many as fit into `max_bytes` and at least one.
    pub(crate) fn entries_from(
        &self,
        low: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let end = self.last_index().next();
        if low >= end { Ok(Vec::new()) } else { self.slice(low, end, max_bytes) }
    }

    fn slice(
        &self,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        assert!(low <= high, "invalid slice {low} > {high}");
        let (first, end) = (self.first_index(), self.last_index().next());
        if low < first {
            return Err(StorageError::Compacted);
        }
        assert!(high <= end, "slice[{low},{high}) out of bound [{first},{end})");

        let mut entries = Vec::new();
        let offset = self.unstable.offset();
        if low < offset {
            let cut = high.min(offset);
            match self.storage.entries(low, cut, max_bytes, &mut entries) {
                Ok(()) => {}
                Err(StorageError::Compacted) => return Err(StorageError::Compacted),
                Err(error) => panic!("entries[{low}:{cut}) not available from storage: {error}"),
            }
            if entries.len() < cut.since(low) || high <= offset {
                return Ok(entries);
            }
        }
        let unstable_from = low.max(offset);
        let used = encoded_size(&entries);
        let rest = self.unstable.range(unstable_from..high);
        let room = max_bytes.saturating_sub(used);
        let mut count = fitting_prefix(rest, room);
        if !entries.is_empty() && count == 1 {
            // The one entry that any batch may hold, however large, is there already.
            let size = self
                .unstable
                .range(unstable_from..high)
                .take(1)
                .map(Entry::encoded_len)
                .sum::<u64>();
            count = usize::from(size <= room);
        }
        entries.extend(self.unstable.range(unstable_from..high).take(count).cloned());
        Ok(entries)
    }

    /// Appends what a leader sent behind `prev`, which is not before the commit index, and moves that along. Returns up
    /// to where this log then equals the leader's, or `None` if it does not hold `prev`.
    pub(crate) fn try_append(
        &mut self,
        prev: EntryId,
        mut entries: Vec<Entry>,
        commit: LogIndex,
    ) -> Option<LogIndex> {
        if !self.matches(prev) {
            return None;
        }
        let last_new = prev.index.plus(entries.len());
        if let Some(place) = entries.iter().position(|entry| !self.matches(entry.id())) {
            let first = prev.index.plus(place + 1);
            if first <= self.last_index() {
                trace!(
                    self.trace,
                    Info,
                    "found conflict at index {first} [existing term: {}, conflicting term: {}]",
                    self.term_or_zero(first),
                    entries[place].term
                );
            }
            assert!(
                first > self.committed,
                "entry {first} conflict with committed entry [committed({})]",
                self.committed
            );
            self.unstable.truncate_and_append(first, entries.drain(place..));
        }
        self.commit_to(commit.min(last_new));
        Some(last_new)
    }

    /// Appends a leader's own entries, which carry the indexes behind the last one.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        assert!(
            first > self.committed,
            "after({}) is out of range [committed({})]",
            first.prev(),
            self.committed
        );
        self.unstable.truncate_and_append(first, entries.into_iter());
    }

    /// Searches from `index` backwards for the last entry whose term is at most `term`. The term found is zero if the
    /// log cannot tell, and then the index is where it could not.
    pub(crate) fn conflict_hint(&self, index: LogIndex, term: Term) -> EntryId {
        let mut index = index;
        while index > LogIndex::ZERO {
            match self.term(index) {
                Err(_) => return EntryId { term: Term::ZERO, index },
                Ok(ours) if ours <= term => return EntryId { term: ours, index },
                Ok(_) => index = index.prev(),
            }
        }
        EntryId::ZERO
    }

    /// Moves the commit index forward.
    ///
    /// # Panics
    /// Panics beyond the last entry. Callers check what a peer says.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        if self.committed < index {
            let last = self.last_index();
            assert!(
                index <= last,
                "tocommit({index}) is out of range [lastIndex({last})]. Was the raft log corrupted, truncated, or lost?"
            );
            self.committed = index;
        }
    }

    /// Commits up to `id` if that is news and the entry is this log's. A leader commits entries of its own term only
    /// (thesis section 3.6.2), and this check is what sees to it.
    pub(crate) fn maybe_commit(&mut self, id: EntryId) -> bool {
        if id.term == Term::ZERO || id.index <= self.committed || !self.matches(id) {
            return false;
        }
        self.commit_to(id.index);
        true
    }

    /// Replaces the log by a snapshot.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        trace!(
            self.trace,
            Info,
            "log [{self}] starts to restore snapshot [index: {}, term: {}]",
            snapshot.metadata.index,
            snapshot.metadata.term
        );
        self.committed = snapshot.metadata.index;
        self.unstable.restore(snapshot);
    }

    /// Returns the snapshot to send to a follower.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StorageError> {
        match self.unstable.snapshot() {
            Some(snapshot) => Ok(snapshot.clone()),
            None => self.storage.snapshot(),
        }
    }

    /// Returns the last entry that may be handed to the state machine now. Entries that are committed by others but
    /// still being written here wait, unless the driver writes before it applies anyway.
    fn appliable_index(&self, allow_unstable: bool) -> LogIndex {
        if allow_unstable {
            self.committed
        } else {
            self.committed.min(self.unstable.offset().prev())
        }
    }

    pub(crate) fn has_next_committed(&self, allow_unstable: bool) -> bool {
        // A snapshot that waits to be written comes before any entry behind it.
        !self.applying_paused
            && self.unstable.snapshot().is_none()
            && self.applying < self.appliable_index(allow_unstable)
    }

    /// Returns the committed entries to hand to the state machine next.
    pub(crate) fn next_committed(&self, allow_unstable: bool) -> Vec<Entry> {
        if !self.has_next_committed(allow_unstable) {
            return Vec::new();
        }
        let (low, high) = (self.applying.next(), self.appliable_index(allow_unstable).next());
        match self.slice(low, high, self.applying_bytes_max - self.applying_bytes) {
            Ok(entries) => entries,
            Err(error) => panic!("unexpected error when getting unapplied entries: {error}"),
        }
    }

    /// Notes that the state machine was given everything up to `index`.
    pub(crate) fn accept_applying(
        &mut self,
        index: LogIndex,
        encoded_bytes: u64,
        allow_unstable: bool,
    ) {
        assert!(
            index <= self.committed,
            "applying({index}) is out of range [prevApplying({}), committed({})]",
            self.applying,
            self.committed
        );
        self.applying = index;
        self.applying_bytes += encoded_bytes;
        // Less was handed out than there is: the next entry would have gone over the limit.
        self.applying_paused = self.applying_bytes >= self.applying_bytes_max
            || index < self.appliable_index(allow_unstable);
    }

    /// Notes that the state machine has applied everything up to `index`.
    pub(crate) fn applied_to(&mut self, index: LogIndex, encoded_bytes: u64) {
        assert!(
            self.applied <= index && index <= self.committed,
            "applied({index}) is out of range [prevApplied({}), committed({})]",
            self.applied,
            self.committed
        );
        self.applied = index;
        self.applying = self.applying.max(index);
        self.applying_bytes = self.applying_bytes.saturating_sub(encoded_bytes);
        self.applying_paused = self.applying_bytes >= self.applying_bytes_max;
    }

    /// Returns whether a configuration change is committed and not yet applied.
    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        let mut low = self.applied.next();
        let high = self.committed.next();
        while low < high {
            let entries = match self.slice(low, high, self.applying_bytes_max) {
                Ok(entries) => entries,
                Err(error) => panic!("error scanning unapplied entries [{low}, {high}): {error}"),
            };
            if entries.iter().any(|entry| entry.kind != EntryKind::Normal) {
                return true;
            }
            assert!(!entries.is_empty(), "got 0 entries in [{low}, {high})");
            low = low.plus(entries.len());
        }
        false
    }
}

#[cfg(test)]
mod tests;
