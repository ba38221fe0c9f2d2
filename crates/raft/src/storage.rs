//! The stable log as the core sees it.
//!
//! The core only reads. Its driver writes, after the disk did, and before it confirms the write to the core. Like etcd,
//! production keeps the recent log in memory ([`MemoryStorage`]) and reads the disk only at start.

use std::collections::VecDeque;

use crate::{
    error::StorageError,
    types::{
        ConfState, Entry, EntryId, HardState, LogIndex, Snapshot, Term, fitting_prefix,
        payload_size,
    },
};

/// Read access to what is stored.
///
/// Positions form one run: the entries `first_index()..=last_index()`, and before them the place `first_index() - 1`,
/// of which only the term is known. An empty log has `last_index() == first_index() - 1`.
pub trait Storage {
    /// Returns what was stored when this member stopped. Read once, at start.
    fn initial_state(&self) -> (HardState, ConfState);

    /// Appends the entries from `low` up to but not including `high` to `into`: at least the first, and more while they
    /// stay within `max_bytes`.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if `low` is gone, [`StorageError::Unavailable`] if the range is not there.
    fn entries(
        &self,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
        into: &mut Vec<Entry>,
    ) -> Result<(), StorageError>;

    /// Returns the term of an entry, or of the place before the first.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] before that place, [`StorageError::Unavailable`] beyond the last entry.
    fn term(&self, index: LogIndex) -> Result<Term, StorageError>;

    /// Returns the first index that [`Storage::entries`] can give.
    fn first_index(&self) -> LogIndex;

    /// Returns the index of the last entry.
    fn last_index(&self) -> LogIndex;

    /// Returns a snapshot for a follower that is too far behind. Its data may be a placeholder that the driver replaces
    /// when it sends, as etcd does.
    ///
    /// # Errors
    /// [`StorageError::SnapshotTemporarilyUnavailable`] if it has to be made first; the core asks again.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}

/// A log in memory, fed by the driver with what it made durable elsewhere.
#[derive(Debug)]
pub struct MemoryStorage {
    hard_state: HardState,
    snapshot: Snapshot,
    /// The place before the first of `entries`.
    before: EntryId,
    /// Consecutive entries after `before`.
    entries: VecDeque<Entry>,
    /// What the entries hold, in bytes: their data alone.
    payload_bytes: u64,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// Returns an empty log that starts at index 1.
    pub fn new() -> Self {
        Self {
            hard_state: HardState::default(),
            snapshot: Snapshot::default(),
            before: EntryId::ZERO,
            entries: VecDeque::new(),
            payload_bytes: 0,
        }
    }

    /// Returns how many bytes the entries hold.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Returns the last entry to forget so that those behind it hold at most `bytes`, or `up_to` if that is not enough. Looks
    /// at no more entries than it names.
    pub fn excess(&self, bytes: u64, up_to: LogIndex) -> LogIndex {
        let mut kept = self.payload_bytes;
        let too_many = self.entries.iter().take_while(|entry| {
            let is_excess = kept > bytes && entry.index <= up_to;
            kept -= bytes_of(entry).min(kept);
            is_excess
        });
        self.before.index.plus(too_many.count())
    }

    /// Replaces the hard state that [`Storage::initial_state`] reports.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Returns the hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Replaces everything by a snapshot that came from the leader or from disk.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if the snapshot that is there is as new.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        // A group may be started from a bare configuration: a snapshot at index 0 over none.
        let index = self.snapshot.metadata.index;
        if index != LogIndex::ZERO && index >= snapshot.metadata.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.before = snapshot.metadata.id();
        self.entries.clear();
        self.payload_bytes = 0;
        self.snapshot = snapshot;
        Ok(())
    }

    /// Records that the state machine can be had as of `index`: what [`Storage::snapshot`] hands out from now on.
    /// Entries stay until [`MemoryStorage::compact`]. Without `conf_state` the previous snapshot's is kept.
    ///
    /// # Errors
    /// [`StorageError::SnapshotOutOfDate`] if it is not newer, [`StorageError::Unavailable`] beyond the log.
    pub fn create_snapshot(
        &mut self,
        index: LogIndex,
        conf_state: Option<ConfState>,
        data: bytes::Bytes,
    ) -> Result<&Snapshot, StorageError> {
        if index <= self.snapshot.metadata.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        let term = self.term(index)?;
        self.snapshot.metadata.index = index;
        self.snapshot.metadata.term = term;
        if let Some(conf_state) = conf_state {
            self.snapshot.metadata.conf_state = conf_state;
        }
        self.snapshot.data = data;
        Ok(&self.snapshot)
    }

    /// Forgets all entries up to and including `index`.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if they are gone already, [`StorageError::Unavailable`] beyond the log.
    pub fn compact(&mut self, index: LogIndex) -> Result<(), StorageError> {
        if index <= self.before.index {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        let forgotten = self.entries.drain(..index.since(self.before.index));
        self.payload_bytes -= forgotten.map(|entry| bytes_of(&entry)).sum::<u64>();
        // The log shrinks rarely and by much; give the memory of a burst back.
        if self.entries.capacity() > 4 * self.entries.len().max(1024) {
            self.entries.shrink_to(2 * self.entries.len());
        }
        self.before = EntryId { term, index };
        Ok(())
    }

    /// Appends entries, replacing those that they overlap. Entries that are compacted already are skipped.
    ///
    /// # Panics
    /// Panics on a gap between the log and the entries: the driver lost a write.
    pub fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            if entry.index <= self.before.index {
                continue;
            }
            let place = entry.index.since(self.before.index) - 1;
            assert!(
                place <= self.entries.len(),
                "missing log entry [last: {}, append at: {}]",
                self.last_index(),
                entry.index
            );
            self.payload_bytes -= self.entries.range(place..).map(bytes_of).sum::<u64>();
            self.entries.truncate(place);
            self.payload_bytes += bytes_of(&entry);
            self.entries.push_back(entry);
        }
    }
}

/// What an entry holds.
fn bytes_of(entry: &Entry) -> u64 {
    payload_size(std::slice::from_ref(entry))
}

impl Storage for MemoryStorage {
    fn initial_state(&self) -> (HardState, ConfState) {
        (self.hard_state, self.snapshot.metadata.conf_state.clone())
    }

    fn entries(
        &self,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
        into: &mut Vec<Entry>,
    ) -> Result<(), StorageError> {
        if low <= self.before.index {
            return Err(StorageError::Compacted);
        }
        if high > self.last_index().next() {
            return Err(StorageError::Unavailable);
        }
        let from = low.since(self.before.index) - 1;
        let range = from..from + high.since(low);
        let count = fitting_prefix(self.entries.range(range.clone()), max_bytes);
        into.extend(self.entries.range(from..from + count).cloned());
        Ok(())
    }

    fn term(&self, index: LogIndex) -> Result<Term, StorageError> {
        if index < self.before.index {
            return Err(StorageError::Compacted);
        }
        if index == self.before.index {
            return Ok(self.before.term);
        }
        let place = index.since(self.before.index) - 1;
        self.entries.get(place).map(|entry| entry.term).ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> LogIndex {
        self.before.index.next()
    }

    fn last_index(&self) -> LogIndex {
        self.before.index.plus(self.entries.len())
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests;
