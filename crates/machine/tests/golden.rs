//! Logs that real etcd wrote, applied from the first entry on: every row must be the one that etcd made of them.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it does not expect"
)]

mod common;

use backend::schema::Bucket;
use bytes::Bytes;
use common::{Fixture, entries};
use machine::Committed;

/// Applies a log.
fn replay(fixture: &mut Fixture, log: &'static [u8], skip: u64) {
    for entry in entries(Bytes::from_static(log)) {
        if entry.index <= skip {
            continue;
        }
        let Committed { term, payload, .. } = Committed::from_entry(entry).unwrap();
        fixture.term = term;
        fixture.apply(payload);
    }
}

fn check_rows(fixture: &mut Fixture, expected: &str) {
    let expected: Vec<&str> = expected.lines().collect();
    let rows = fixture.rows(&Bucket::ALL);
    let rows: Vec<&str> = rows.lines().collect();
    let differences: Vec<&str> = rows
        .iter()
        .filter(|row| !expected.contains(row))
        .chain(expected.iter().filter(|row| !rows.contains(row)))
        .copied()
        .collect();
    assert!(
        differences.is_empty(),
        "rows that only one side has (ours first):\n{}",
        differences.join("\n")
    );
    assert_eq!(rows, expected);
}

const RICH: &[u8] = include_bytes!("fixtures/rich-3.5.30.entries");
const RICH_ROWS: &str = include_str!("fixtures/rich-3.5.30.rows");
const CLUSTER: &[u8] = include_bytes!("fixtures/cluster-3.5.30-c1.entries");
const CLUSTER_ROWS: &str = include_str!("fixtures/cluster-3.5.30-c1.rows");

#[test]
fn one_member() {
    let mut fixture = Fixture::new();
    replay(&mut fixture, RICH, 0);
    fixture.commit();
    check_rows(&mut fixture, RICH_ROWS);
}

#[test]
fn one_of_three_members() {
    let mut fixture = Fixture::new();
    replay(&mut fixture, CLUSTER, 0);
    fixture.commit();
    check_rows(&mut fixture, CLUSTER_ROWS);
}

/// A crash at any entry: what was committed stays, and the log is applied again from the beginning.
#[test]
fn replay_after_a_crash_writes_nothing_twice() {
    for crash_at in [1, 3, 40, 61, 80, 91, 127, 129, 180] {
        let mut fixture = Fixture::new();
        let log = entries(Bytes::from_static(RICH));
        for entry in log.into_iter().filter(|entry| entry.index <= crash_at) {
            let Committed { term, payload, .. } = Committed::from_entry(entry).unwrap();
            fixture.term = term;
            fixture.apply(payload);
        }
        fixture.commit();
        let mut fixture = fixture.restart();
        replay(&mut fixture, RICH, 0);
        fixture.commit();
        check_rows(&mut fixture, RICH_ROWS);
    }
}

/// The same from a raft snapshot on: members come from its document.
#[test]
fn start_from_a_snapshot() {
    for taken_at in [4_u64, 61, 128, 150] {
        let mut fixture = Fixture::new();
        for entry in
            entries(Bytes::from_static(RICH)).into_iter().filter(|entry| entry.index <= 170)
        {
            let Committed { index, term, payload } = Committed::from_entry(entry).unwrap();
            fixture.term = term;
            fixture.apply(payload);
            if index == taken_at {
                fixture.snapshot = fixture.machine.snapshot();
            }
        }
        let before = fixture.machine.membership().clone();
        let conf_state = fixture.machine.conf_state().clone();
        // Not committed: the backend is at index 0, behind the snapshot, unless this commits.
        fixture.commit();
        let mut fixture = fixture.restart();
        assert_eq!(fixture.machine.applied(), taken_at);
        for entry in entries(Bytes::from_static(RICH)) {
            if entry.index > taken_at && entry.index <= 170 {
                let Committed { term, payload, .. } = Committed::from_entry(entry).unwrap();
                fixture.term = term;
                fixture.apply(payload);
            }
        }
        assert_eq!(*fixture.machine.membership(), before, "snapshot at {taken_at}");
        assert_eq!(*fixture.machine.conf_state(), conf_state);
        replay(&mut fixture, RICH, 170);
        fixture.commit();
        check_rows(&mut fixture, RICH_ROWS);
    }
}

/// HashKV as a client of the member saw it while this log was written: revision, compact revision, hash.
const RICH_HASHES: &[(i64, i64, u32)] = &[
    (42, -1, 2_820_901_050),
    (60, -1, 739_491_139),
    (61, -1, 2_091_138_424),
    (62, -1, 440_661_964),
    (71, -1, 3_399_563_055),
    (73, -1, 356_414_818),
    (74, -1, 215_796_794),
    (74, 73, 150_304_805),
    (95, 73, 661_022_443),
    (97, 73, 2_619_612_753),
    (98, 73, 3_443_764_977),
    (99, 98, 1_171_192_496),
    (100, 98, 1_428_542_406),
    (101, 98, 3_445_110_020),
];

/// Asks after each entry for every hash in the table that can be had: also for the one that a compaction leaves,
/// which is of the compact revision before it.
#[test]
fn hashes_are_equal_at_every_moment() {
    let mut fixture = Fixture::new();
    let mut seen = std::collections::BTreeSet::new();
    for entry in entries(Bytes::from_static(RICH)) {
        let Committed { term, payload, .. } = Committed::from_entry(entry).unwrap();
        fixture.term = term;
        fixture.apply(payload);
        let reader = fixture.machine.reader();
        for &(revision, compact_revision, hash) in RICH_HASHES {
            if revision > reader.current_revision() || revision < reader.compact_revision() {
                continue;
            }
            let hashed = reader.hash_kv(revision).unwrap().hashed;
            if hashed.compact_revision == compact_revision {
                assert_eq!(
                    hashed.hash, hash,
                    "HashKV({revision}) at compact revision {compact_revision}"
                );
                seen.insert((revision, compact_revision));
            }
        }
    }
    assert_eq!(seen.len(), RICH_HASHES.len(), "{seen:?}");
}
