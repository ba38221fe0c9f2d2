use bytes::Bytes;

use super::*;
use crate::types::{NodeId, SnapshotMetadata};

fn entry(term: u64, index: u64) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), ..Entry::default() }
}

/// Entries 4, 5, 6 with terms 4, 5, 6 behind a snapshot at 3.
fn storage() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    let conf_state = ConfState { voters: vec![NodeId(1)], ..ConfState::default() };
    let metadata = SnapshotMetadata { conf_state, index: LogIndex(3), term: Term(3) };
    storage.apply_snapshot(Snapshot { metadata, ..Snapshot::default() }).unwrap();
    storage.append((4..=6).map(|number| entry(number, number)));
    storage
}

fn terms(storage: &MemoryStorage) -> Vec<u64> {
    storage.entries.iter().map(|entry| entry.term.0).collect()
}

#[test]
fn terms_are_known_from_the_place_before_the_first_entry_on() {
    let storage = storage();
    assert_eq!(storage.term(LogIndex(2)), Err(StorageError::Compacted));
    assert_eq!(storage.term(LogIndex(3)), Ok(Term(3)));
    assert_eq!(storage.term(LogIndex(6)), Ok(Term(6)));
    assert_eq!(storage.term(LogIndex(7)), Err(StorageError::Unavailable));
    assert_eq!((storage.first_index(), storage.last_index()), (LogIndex(4), LogIndex(6)));
}

#[test]
fn entries_are_limited_by_size_but_never_to_none() {
    let storage = storage();
    let get = |low, high, max_bytes| {
        let mut entries = vec![entry(0, 0)];
        storage
            .entries(LogIndex(low), LogIndex(high), max_bytes, &mut entries)
            .map(|()| entries.len() - 1)
    };
    assert_eq!(get(3, 5, 99), Err(StorageError::Compacted));
    assert_eq!(get(4, 8, 99), Err(StorageError::Unavailable));
    assert_eq!(get(4, 7, u64::MAX), Ok(3));
    assert_eq!(get(4, 7, 0), Ok(1));
    assert_eq!(get(4, 7, 2 * entry(4, 4).encoded_len()), Ok(2));
    assert_eq!(get(5, 5, 99), Ok(0));
}

#[track_caller]
fn check_append(new: &[(u64, u64)], expected: &[u64]) {
    let mut storage = storage();
    storage.append(new.iter().map(|&(term, index)| entry(term, index)));
    assert_eq!(terms(&storage), expected);
}

#[test]
fn appending_replaces_what_it_overlaps() {
    check_append(&[], &[4, 5, 6]);
    check_append(&[(7, 7)], &[4, 5, 6, 7]);
    check_append(&[(8, 5)], &[4, 8]);
    check_append(&[(8, 4), (8, 5), (8, 6), (8, 7)], &[8, 8, 8, 8]);
    check_append(&[(2, 2), (3, 3), (8, 4)], &[8]);
    check_append(&[(2, 2), (3, 3)], &[4, 5, 6]);
}

#[test]
#[should_panic(expected = "missing log entry [last: 6, append at: 8]")]
fn appending_behind_a_gap_is_a_broken_promise() {
    storage().append([entry(8, 8)]);
}

#[test]
fn compaction_keeps_the_term_of_the_last_entry_that_goes() {
    let mut storage = storage();
    assert_eq!(storage.compact(LogIndex(3)), Err(StorageError::Compacted));
    assert_eq!(storage.compact(LogIndex(7)), Err(StorageError::Unavailable));
    assert_eq!(storage.compact(LogIndex(5)), Ok(()));
    assert_eq!(storage.term(LogIndex(5)), Ok(Term(5)));
    assert_eq!(terms(&storage), [6]);
}

#[test]
fn snapshots_only_get_newer() {
    let mut storage = storage();
    let data = || Bytes::from_static(b"state");
    assert!(storage.create_snapshot(LogIndex(3), None, data()).is_err());
    assert!(storage.create_snapshot(LogIndex(7), None, data()).is_err());
    let snapshot = storage.create_snapshot(LogIndex(5), None, data()).unwrap().clone();
    assert_eq!((snapshot.metadata.term, snapshot.metadata.conf_state.voters.len()), (Term(5), 1));
    assert_eq!(storage.apply_snapshot(snapshot.clone()), Err(StorageError::SnapshotOutOfDate));
    let mut newer = snapshot;
    newer.metadata.index = LogIndex(9);
    assert_eq!(storage.apply_snapshot(newer), Ok(()));
    assert_eq!((storage.first_index(), storage.last_index()), (LogIndex(10), LogIndex(9)));
}

#[test]
fn what_entries_hold_is_counted() {
    let with = |index, bytes: usize| Entry { data: vec![0; bytes].into(), ..entry(8, index) };
    let mut storage = MemoryStorage::new();
    storage.append([with(1, 10), with(2, 20), with(3, 30)]);
    assert_eq!(storage.payload_bytes(), 60);
    storage.append([with(2, 5)]);
    assert_eq!(storage.payload_bytes(), 15);
    storage.append([with(3, 40)]);
    assert_eq!(storage.excess(55, LogIndex(3)), LogIndex(0));
    assert_eq!(storage.excess(54, LogIndex(3)), LogIndex(1));
    assert_eq!(storage.excess(0, LogIndex(3)), LogIndex(3));
    assert_eq!(storage.excess(0, LogIndex(2)), LogIndex(2));
    storage.compact(LogIndex(1)).unwrap();
    assert_eq!((storage.payload_bytes(), storage.excess(0, LogIndex(3))), (45, LogIndex(3)));
}
