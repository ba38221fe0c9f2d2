use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{storage::MemoryStorage, trace::Silent};

fn entry(term: u64, index: u64, len: usize) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        data: Bytes::from(vec![b'x'; len]),
        ..Entry::default()
    }
}

/// A log with the given terms from index 1 on, the first `stable` of them in storage.
fn log(terms: &[u64], stable: usize) -> RaftLog<MemoryStorage> {
    let mut entries: Vec<_> =
        terms.iter().zip(1..).map(|(&term, index)| entry(term, index, 3)).collect();
    let unstable = entries.split_off(stable);
    let mut storage = MemoryStorage::new();
    storage.append(entries);
    let mut log = RaftLog::new(storage, u64::MAX, Arc::new(Silent));
    log.append(unstable);
    log
}

fn terms<S: Storage>(log: &RaftLog<S>) -> Vec<u64> {
    (1..=log.last_index().0).map(|index| log.term(LogIndex(index)).unwrap().0).collect()
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: LogIndex(index) }
}

#[track_caller]
fn check_append(prev: EntryId, new: &[u64], commit: u64, expected: Option<(u64, &[u64], u64)>) {
    // Stable: 1 1 2, unstable: 2 2; committed: 2.
    let mut log = log(&[1, 1, 2, 2, 2], 3);
    log.commit_to(LogIndex(2));
    let entries =
        new.iter().zip(prev.index.0 + 1..).map(|(&term, index)| entry(term, index, 3)).collect();
    let appended = log.try_append(prev, entries, LogIndex(commit));
    match expected {
        None => {
            assert_eq!(appended, None);
            assert_eq!(terms(&log), [1, 1, 2, 2, 2]);
        }
        Some((last, expected_terms, committed)) => {
            assert_eq!(appended, Some(LogIndex(last)));
            assert_eq!(terms(&log), expected_terms);
            assert_eq!(log.committed, LogIndex(committed));
        }
    }
}

#[test]
fn entries_of_a_leader_replace_what_contradicts_them() {
    // Nothing new; the commit index moves as far as the entries vouch for.
    check_append(id(1, 2), &[], 4, Some((2, &[1, 1, 2, 2, 2], 2)));
    check_append(id(1, 2), &[2, 2], 9, Some((4, &[1, 1, 2, 2, 2], 4)));
    check_append(id(2, 5), &[], 5, Some((5, &[1, 1, 2, 2, 2], 5)));
    // Behind the end, over the unstable part, over the stable part.
    check_append(id(2, 5), &[3], 0, Some((6, &[1, 1, 2, 2, 2, 3], 2)));
    check_append(id(2, 4), &[3, 3], 5, Some((6, &[1, 1, 2, 2, 3, 3], 5)));
    check_append(id(1, 2), &[3], 3, Some((3, &[1, 1, 3], 3)));
    // What is equal in front is kept, and so is a longer tail that does not contradict.
    check_append(id(1, 2), &[2, 3], 0, Some((4, &[1, 1, 2, 3], 2)));
    check_append(id(1, 2), &[2], 0, Some((3, &[1, 1, 2, 2, 2], 2)));
    // A gap, and another history.
    check_append(id(2, 6), &[2], 0, None);
    check_append(id(3, 5), &[3], 0, None);
}

#[test]
fn a_hint_skips_terms_that_cannot_match() {
    let log = log(&[1, 1, 3, 3, 5], 2);
    let hint = |index, term| log.conflict_hint(LogIndex(index), Term(term));
    assert_eq!(hint(5, 5), id(5, 5));
    assert_eq!(hint(5, 4), id(3, 4));
    assert_eq!(hint(5, 2), id(1, 2));
    assert_eq!(hint(5, 0), id(0, 0));
    // Beyond the log it cannot tell.
    assert_eq!(hint(9, 5), id(0, 9));
}

#[test]
fn writes_are_confirmed_only_for_entries_that_are_still_there() {
    let mut log = log(&[1, 1], 0);
    log.unstable.accept_in_progress();
    // Replaced while it was written.
    assert_eq!(
        log.try_append(EntryId::ZERO, vec![entry(2, 1, 0)], LogIndex::ZERO),
        Some(LogIndex(1))
    );
    log.unstable.stable_to(id(1, 2));
    log.unstable.stable_to(id(1, 1));
    assert_eq!(log.unstable.offset(), LogIndex(1));
    assert_eq!(log.unstable.next_entries().len(), 1);
    log.unstable.accept_in_progress();
    log.unstable.stable_to(id(2, 1));
    assert_eq!(log.unstable.offset(), LogIndex(2));
    assert_eq!(log.unstable.len(), 0);
}

#[test]
#[should_panic(expected = "is out of range [lastIndex(2)]")]
fn committing_beyond_the_log_is_a_broken_promise() {
    log(&[1, 1], 2).commit_to(LogIndex(3));
}

proptest! {
    #[test]
    fn a_slice_is_the_longest_that_fits(
        sizes in proptest::collection::vec(0..40usize, 1..12),
        stable in 0..12usize,
        low in 0..12usize,
        high in 0..12usize,
        max_bytes in 0..300u64,
    ) {
        let count = sizes.len();
        let (stable, low) = (stable.min(count), low.min(count));
        let high = high.clamp(low, count);
        let entries: Vec<_> = sizes.iter().zip(1..).map(|(&len, index)| entry(1, index, len)).collect();
        let mut storage = MemoryStorage::new();
        storage.append(entries[..stable].iter().cloned());
        let mut log = RaftLog::new(storage, u64::MAX, Arc::new(Silent));
        log.append(entries[stable..].to_vec());

        let mut expected = Vec::new();
        let mut bytes = 0;
        for entry in &entries[low..high] {
            bytes += entry.encoded_len();
            if !expected.is_empty() && bytes > max_bytes {
                break;
            }
            expected.push(entry.clone());
        }
        let slice = log.slice(LogIndex(low as u64 + 1), LogIndex(high as u64 + 1), max_bytes);
        prop_assert_eq!(slice, Ok(expected));
    }
}
