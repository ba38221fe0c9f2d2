//! Random use of a log, with cuts, releases, purges, kills and reopenings, against a plain list of what it was told.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proto::{raftpb, walpb};
use support::{entry, names, snapshot, state};
use vfs::sim::{LoseAll, SimDisk};
use wal::{Batch, Options, Wal};

#[derive(Debug, Clone)]
enum Step {
    /// Entries of these sizes; before them a new leader may drop some of the uncommitted tail.
    Append {
        sizes: Vec<usize>,
        drop: u64,
        is_staged: bool,
    },
    /// The commit moves on by at most that many entries.
    Commit(u64),
    /// A snapshot at the commit, and the segments before it are released and purged down to that many.
    Snapshot {
        keep: usize,
    },
    Preallocate,
    /// The process ends, and another one opens the log.
    Stop(Stop),
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Close,
    Kill,
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop::collection::vec(prop_oneof![0usize..20, 0usize..600, Just(3000)], 0..5);
    prop_oneof![
        8 => (sizes, prop_oneof![3 => Just(0u64), 1 => 0u64..6], any::<bool>())
            .prop_map(|(sizes, drop, is_staged)| Step::Append { sizes, drop, is_staged }),
        3 => (0u64..8).prop_map(Step::Commit),
        2 => (1usize..4).prop_map(|keep| Step::Snapshot { keep }),
        1 => Just(Step::Preallocate),
        1 => Just(Step::Stop(Stop::Close)),
        1 => Just(Step::Stop(Stop::Kill)),
        1 => Just(Step::Stop(Stop::PowerCut)),
    ]
}

/// What the log should hold.
#[derive(Debug, Clone, Default)]
struct Told {
    entries: BTreeMap<u64, raftpb::Entry>,
    hard_state: raftpb::HardState,
    snapshot: walpb::Snapshot,
}

fn run(steps: &[Step], options: &Options) {
    let disk = SimDisk::new();
    let metadata = Bytes::from_static(b"\x08\x07\x10\x09");
    let mut log = Wal::create(&disk.dir(), "wal", metadata.clone(), options).unwrap();
    let mut told = Told { hard_state: state(1, 1, 0), ..Told::default() };
    log.append(&Batch { entries: &[], hard_state: Some(told.hard_state) }).unwrap();
    // What a stop may lose: everything behind the last sync.
    let mut durable = told.clone();
    for step in steps {
        let last = told.entries.last_key_value().map_or(0, |(&index, _)| index);
        match step {
            Step::Append { sizes, drop, is_staged } => {
                let kept = last - (*drop).min(last - told.hard_state.commit);
                if kept < last {
                    told.hard_state.term += 1;
                    told.entries.split_off(&(kept + 1));
                }
                let term = told.hard_state.term;
                let entries: Vec<raftpb::Entry> = (kept + 1..)
                    .zip(sizes)
                    .map(|(index, &len_bytes)| entry(term, index, len_bytes))
                    .collect();
                if kept < last && entries.is_empty() {
                    // A log is only shortened by what comes instead.
                    let entries = [entry(term, kept + 1, 0)];
                    log.stage(&Batch { entries: &entries, hard_state: Some(told.hard_state) });
                    told.entries.extend(entries.map(|entry| (entry.index, entry)));
                } else {
                    log.stage(&Batch { entries: &entries, hard_state: Some(told.hard_state) });
                    told.entries.extend(entries.into_iter().map(|entry| (entry.index, entry)));
                }
                if !is_staged && log.commit().unwrap().synced {
                    durable = told.clone();
                }
            }
            Step::Commit(count) => {
                told.hard_state.commit += (*count).min(last - told.hard_state.commit);
                if log
                    .append(&Batch { entries: &[], hard_state: Some(told.hard_state) })
                    .unwrap()
                    .synced
                {
                    durable = told.clone();
                }
            }
            Step::Snapshot { keep } => {
                let index = told.hard_state.commit;
                if index > told.snapshot.index {
                    told.snapshot = snapshot(told.entries[&index].term, index);
                    log.save_snapshot(&told.snapshot).unwrap();
                    durable = told.clone();
                    log.release_to(index);
                }
                let before = names(&disk.dir().subdir("wal").unwrap());
                let removed = wal::purge(&disk.dir(), "wal", *keep).unwrap();
                assert!(
                    before.starts_with(&removed)
                        || removed.is_empty()
                        || before[0].ends_with(".tmp")
                );
            }
            Step::Preallocate => log.preallocator().run().unwrap(),
            Step::Stop(stop) => {
                match stop {
                    Stop::Close => {
                        log.close().unwrap();
                        durable = told.clone();
                        let left = names(&disk.dir().subdir("wal").unwrap());
                        assert!(left.iter().all(|name| name.ends_with(".wal")), "{left:?}");
                    }
                    Stop::Kill => disk.kill(),
                    Stop::PowerCut => disk.crash(&mut LoseAll),
                }
                told = durable.clone();
                let member = disk.dir();
                let valid = wal::valid_snapshots(&member, "wal").unwrap();
                assert_eq!(valid.last(), Some(&told.snapshot));
                let (reopened, recovered) =
                    Wal::open(&member, "wal", &told.snapshot, options).unwrap();
                log = reopened;
                assert_eq!(recovered.metadata, metadata);
                assert_eq!(recovered.hard_state, told.hard_state);
                assert_eq!(recovered.repair, None);
                assert!(recovered.snapshot_found);
                let behind = told.entries.range(told.snapshot.index + 1..).map(|(_, entry)| entry);
                assert!(recovered.entries.iter().eq(behind), "{:?} {told:?}", recovered.entries);
                let last = told.entries.last_key_value().map_or(0, |(&index, _)| index);
                assert_eq!(log.last_index(), last.max(told.snapshot.index));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_holds_what_it_was_told(
        steps in prop::collection::vec(step(), 1..60),
        segment_bytes in prop_oneof![Just(200u64), 500u64..5_000, Just(1 << 20)],
    ) {
        let mut steps = steps;
        steps.extend([Step::Stop(Stop::Close), Step::Stop(Stop::PowerCut)]);
        run(&steps, &Options { segment_bytes });
    }
}

/// `WAL_MODEL_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("WAL_MODEL_CASES").ok().map_or(300, |text| text.parse().unwrap())
}
