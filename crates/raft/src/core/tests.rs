//! Start, bootstrap, and the seams to the driver. Behaviour in groups is in `tests/`.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::*;
use crate::{
    confchange::{ConfChangeKind, ConfChangeSingle, ConfChangeV2, Transition},
    error::ConfChangeError,
    rng::SplitMix64,
    storage::MemoryStorage,
    trace::{Level, Trace},
    types::{ConfState, Entry, Snapshot, SnapshotMetadata},
};

fn config(id: u64) -> Config {
    Config::new(NodeId(id), Box::new(SplitMix64::new(id)))
}

fn peers(count: u64) -> Vec<Peer> {
    (1..=count)
        .map(|id| Peer { id: NodeId(id), context: Bytes::from(format!("{{{id}}}")) })
        .collect()
}

fn snapshot(index: u64, voters: &[u64]) -> Snapshot {
    let conf_state =
        ConfState { voters: voters.iter().copied().map(NodeId).collect(), ..ConfState::default() };
    let metadata = SnapshotMetadata { conf_state, index: LogIndex(index), term: Term(1) };
    Snapshot { metadata, ..Snapshot::default() }
}

/// Voters 1, 2, 3; a snapshot at 5, entries 6 to 8, committed up to 6.
fn storage() -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot(5, &[1, 2, 3])).unwrap();
    let entry = |index| Entry { term: Term(1), index: LogIndex(index), ..Entry::default() };
    storage.append((6..=8).map(entry));
    storage.set_hard_state(HardState { term: Term(1), vote: NodeId(2), commit: LogIndex(6) });
    storage
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Config), expected: &str) {
    let mut config = config(1);
    change(&mut config);
    let error = Core::new(config, storage()).map(drop).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    check_refused(|config| config.id = NodeId::NONE, "cannot use none or a local target as id");
    check_refused(|config| config.id = NodeId(u64::MAX), "cannot use none or a local target as id");
    check_refused(|config| config.heartbeat_ticks = 0, "heartbeat tick must be greater than 0");
    check_refused(
        |config| config.election_ticks = 1,
        "election tick must be greater than heartbeat tick",
    );
    check_refused(
        |config| config.max_inflight_messages = 0,
        "max inflight messages must be greater than 0",
    );
    check_refused(
        |config| config.max_inflight_bytes = 9,
        "max inflight bytes must be >= max message size",
    );
    check_refused(
        |config| {
            config.read_mode = crate::ReadMode::LeaseBased;
            config.check_quorum = false;
        },
        "check_quorum must be enabled when reads are lease based",
    );
    check_refused(|config| config.applied = LogIndex(4), "applied(4) is out of range [5, 8]");
    check_refused(|config| config.applied = LogIndex(9), "applied(9) is out of range [5, 8]");
}

#[test]
fn storage_that_contradicts_itself_is_refused() {
    let mut damaged = storage();
    damaged.set_hard_state(HardState { term: Term(1), vote: NodeId::NONE, commit: LogIndex(9) });
    let error = Core::new(config(1), damaged).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "1 state.commit 9 is out of range [5, 8]");

    let mut damaged = MemoryStorage::new();
    damaged.apply_snapshot(snapshot(5, &[1, 2, 2])).unwrap();
    let error = Core::new(config(1), damaged).map(drop).unwrap_err();
    assert_eq!(error, ConfigError::ConfState(ConfChangeError::NotEquivalent));
}

#[test]
fn what_was_applied_counts_as_committed() {
    let mut config = config(1);
    config.applied = LogIndex(8);
    let core = Core::new(config, storage()).unwrap();
    assert_eq!((core.commit(), core.applied_index()), (LogIndex(8), LogIndex(8)));
    assert_eq!(core.hard_state().vote, NodeId(2));
    assert!(!core.has_ready());
}

#[test]
fn a_group_begins_with_the_addition_of_each_founder() {
    let entries = bootstrap_entries(&peers(2));
    // id 0, AddNode, node 2, context {2}: what every founder of an etcd 3.5 cluster writes.
    assert_eq!(entries[1].data, b"\x08\x00\x10\x00\x18\x02\x22\x03{2}"[..]);
    assert_eq!((entries[1].term, entries[1].index), (Term(1), LogIndex(2)));

    let mut core = Core::new(config(1), MemoryStorage::new()).unwrap();
    assert!(core.bootstrap(&[]).is_err());
    assert!(core.bootstrap(&[Peer::default()]).is_err());
    core.bootstrap(&peers(2)).unwrap();
    assert!(core.bootstrap(&peers(2)).is_err(), "begun already");
    let append = core.ready().append.unwrap();
    assert_eq!(append.entries, entries);
    assert_eq!(
        append.hard_state.unwrap(),
        HardState { term: Term(1), vote: NodeId::NONE, commit: LogIndex(2) }
    );
    assert!(append.must_sync);
    assert!(
        Core::new(config(1), storage()).unwrap().bootstrap(&peers(1)).is_err(),
        "storage is not empty"
    );
}

#[test]
fn a_change_that_a_snapshot_covers_is_not_applied_again() {
    let mut core = Core::new(config(1), storage()).unwrap();
    let mut restored = snapshot(20, &[1, 2, 3, 4]);
    restored.metadata.term = Term(2);
    let body = Body::Snapshot(Box::new(restored));
    core.step(Message { to: NodeId(1), from: NodeId(2), term: Term(2), body }).unwrap();
    let remove = ConfChangeV2 {
        transition: Transition::Auto,
        changes: vec![ConfChangeSingle { kind: ConfChangeKind::RemoveNode, node_id: NodeId(4) }],
        context: Bytes::new(),
    };
    let conf_state = core.apply_conf_change_at(LogIndex(7), &remove).unwrap();
    assert_eq!(conf_state.voters.len(), 4);
    let conf_state = core.apply_conf_change_at(LogIndex(21), &remove).unwrap();
    assert_eq!(conf_state.voters.len(), 3);
}

#[test]
fn nothing_to_do_is_an_empty_ready() {
    let mut core = Core::new(config(1), storage()).unwrap();
    // Entry 6 is committed and was not applied.
    assert!(core.has_ready());
    assert_eq!(core.ready().apply.unwrap().done.index, LogIndex(6));
    assert!(!core.has_ready());
    assert!(core.ready().is_empty());
}

#[test]
#[should_panic(expected = "advance must not be called with asynchronous storage writes")]
fn advance_is_for_synchronous_storage() {
    Core::new(config(1), storage()).unwrap().advance();
}

#[test]
#[should_panic(expected = "two accepted Ready structs without call to Advance")]
fn synchronous_work_is_confirmed_before_more_is_taken() {
    let mut config = config(1);
    config.async_storage_writes = false;
    let mut core = Core::new(config, storage()).unwrap();
    core.campaign();
    let _ = core.ready();
    core.campaign();
    let _ = core.ready();
}

#[test]
fn the_tracer_gets_the_levels_that_it_wants() {
    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);
    impl Trace for Lines {
        fn enabled(&self, level: Level) -> bool {
            level >= Level::Warn
        }
        fn line(&self, level: Level, text: fmt::Arguments<'_>) {
            self.0.lock().unwrap().push(format!("{level:?} {text}"));
        }
    }
    let lines = Arc::new(Lines::default());
    let mut config = config(9);
    config.trace = lines.clone();
    let mut core = Core::new(config, storage()).unwrap();
    core.campaign();
    assert_eq!(*lines.0.lock().unwrap(), ["Warn 9 is unpromotable and can not campaign"]);
}

#[test]
fn leaders_are_elected_by_time_alone() {
    let mut core = Core::new(config(1), storage()).unwrap();
    let _ = core.ready();
    for _ in 0..9 {
        core.tick();
    }
    assert_eq!(core.role(), Role::Follower);
    for _ in 9..20 {
        core.tick();
    }
    assert_eq!(core.role(), Role::PreCandidate);
    assert_eq!(core.term(), Term(1), "a pre-candidate keeps its term");
}
