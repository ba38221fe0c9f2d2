//! A workload's file operations are recorded, the power is cut behind every one of them, and whatever subset of the
//! unsynced sectors and names survives, the log opens, holds everything that was acknowledged, and goes on.
//!
//! `WAL_CRASH_REOPENINGS` sets how many crashes are looked at (default 12,000).
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use proto::{raftpb, walpb};
use support::{entry, snapshot, state};
use vfs::Dir;
use vfs::sim::{DirOrder, LoseAll, Model, Op, Replayer, Seeded, SimDisk};
use wal::{Batch, Options, Wal, snap};

const METADATA: &[u8] = b"\x08\x01\x10\x02";
const OPTIONS: Options = Options { segment_bytes: 6_000 };

/// What the log says, as far as this test looks.
#[derive(Debug, Clone, Default, PartialEq)]
struct LogModel {
    entries: Vec<(u64, u64, usize)>,
    hard_state: raftpb::HardState,
    snapshots: Vec<(u64, u64)>,
}

#[derive(Debug, Clone)]
enum Record {
    Entry(raftpb::Entry),
    State(raftpb::HardState),
    Snapshot(u64, u64),
}

impl LogModel {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.truncate(usize::try_from(entry.index - 1).unwrap());
                let len_bytes = entry.data.as_ref().map_or(0, Bytes::len);
                self.entries.push((entry.index, entry.term, len_bytes));
            }
            Record::State(state) => self.hard_state = *state,
            Record::Snapshot(term, index) => self.snapshots.push((*term, *index)),
        }
    }
}

/// Everything that was handed to the log, in order.
struct Workload {
    records: Vec<Record>,
    /// For each mark: how many records were durable then, and how many can have been on the way until the next mark.
    acknowledged: Vec<(usize, usize)>,
    journal: vfs::sim::Journal,
}

fn run_workload(seed: u64, model: Model) -> Workload {
    let mut seeded = Seeded::new(seed);
    let disk = SimDisk::with_model(model);
    disk.record();
    let member = disk.dir();
    let snaps = member.create_subdir("snap").unwrap();
    member.sync().unwrap();
    let mut log = Wal::create(&member, "wal", Bytes::from_static(METADATA), &OPTIONS).unwrap();
    let mut records: Vec<Record> = Vec::new();
    let mut acknowledged = vec![(0, 0)];
    let mark = |durable: usize, acknowledged: &mut Vec<(usize, usize)>| {
        disk.mark(acknowledged.len() as u64);
        acknowledged.push((durable, durable));
    };
    mark(0, &mut acknowledged);
    let (mut term, mut last, mut commit) = (1, 0, 0);
    for _ in 0..30 {
        let staged_to = |records: &[Record], acknowledged: &mut [(usize, usize)]| {
            acknowledged.last_mut().unwrap().1 = records.len();
        };
        match seeded.below(12) {
            0 => log.preallocator().run().unwrap(),
            1 => {
                // Only the commit moves: need not survive.
                commit += seeded.below(usize::try_from(last - commit + 1).unwrap()) as u64;
                let hard_state = state(term, 1, commit);
                records.push(Record::State(hard_state));
                staged_to(&records, &mut acknowledged);
                if log.append(&Batch { entries: &[], hard_state: Some(hard_state) }).unwrap().synced
                {
                    mark(records.len(), &mut acknowledged); // the first one sets the term
                }
            }
            2 if commit > 0 => {
                let snapshot_term = term_at(&records, commit);
                snap::save(&snaps, &raft_snapshot(snapshot_term, commit)).unwrap();
                // The record says up to where the log is no longer needed, so the commit goes with it.
                let hard_state = state(term, 1, commit);
                records
                    .extend([Record::State(hard_state), Record::Snapshot(snapshot_term, commit)]);
                staged_to(&records, &mut acknowledged);
                log.stage(&Batch { entries: &[], hard_state: Some(hard_state) });
                log.save_snapshot(&snapshot(snapshot_term, commit)).unwrap();
                mark(records.len(), &mut acknowledged);
                log.release_to(commit);
                snap::purge(&snaps, 2, commit).unwrap();
                wal::purge(&member, "wal", 3).unwrap();
            }
            3 => {
                // A kill in between: locks are gone, what was staged is lost, what was written is read again.
                drop(log);
                let start = newest(&member, &snaps);
                log = Wal::open(&member, "wal", &start, &OPTIONS).unwrap().0;
                // What was only staged is gone for good.
                let durable = acknowledged.last().unwrap().0;
                records.truncate(durable);
                commit = hard_state_of(&records).commit;
                acknowledged.last_mut().unwrap().1 = durable;
            }
            what => {
                // One or more batches under one sync.
                for _ in 0..=seeded.below(2) {
                    if what == 4 {
                        // Another leader replaces what is not committed.
                        term += 1;
                        last = commit
                            + seeded.below(usize::try_from(last - commit + 1).unwrap()) as u64;
                    }
                    let entries: Vec<raftpb::Entry> = (0..seeded.below(4))
                        .map(|_| {
                            last += 1;
                            entry(term, last, [0, 3, 40, 700, 1600][seeded.below(5)])
                        })
                        .collect();
                    let hard_state = state(term, 1, commit);
                    records.extend(entries.iter().cloned().map(Record::Entry));
                    records.push(Record::State(hard_state));
                    staged_to(&records, &mut acknowledged);
                    log.stage(&Batch { entries: &entries, hard_state: Some(hard_state) });
                }
                if log.commit().unwrap().synced {
                    mark(records.len(), &mut acknowledged);
                }
            }
        }
    }
    Workload { records, acknowledged, journal: disk.take_journal() }
}

fn hard_state_of(records: &[Record]) -> raftpb::HardState {
    let states = records.iter().rev().filter_map(|record| match record {
        Record::State(state) => Some(*state),
        Record::Entry(_) | Record::Snapshot(..) => None,
    });
    states.take(1).next().unwrap_or_default()
}

fn term_at(records: &[Record], index: u64) -> u64 {
    let mut model = LogModel::default();
    records.iter().for_each(|record| model.apply(record));
    model.entries[usize::try_from(index - 1).unwrap()].1
}

fn raft_snapshot(term: u64, index: u64) -> raftpb::Snapshot {
    let conf_state = raftpb::ConfState { voters: vec![1], ..Default::default() };
    raftpb::Snapshot {
        data: Some(Bytes::from_static(b"{}")),
        metadata: raftpb::SnapshotMetadata { conf_state, index, term },
    }
}

/// The snapshot that a start would choose.
fn newest(member: &Arc<dyn Dir>, snaps: &Arc<dyn Dir>) -> walpb::Snapshot {
    let valid = wal::valid_snapshots(member, "wal").unwrap();
    let newest = snap::load_newest(snaps, &valid).unwrap();
    assert!(
        newest.broken.is_empty(),
        "a crash leaves no broken snapshot file: {:?}",
        newest.broken
    );
    newest.loaded.map_or(walpb::Snapshot::default(), |loaded| {
        let metadata = loaded.snapshot.metadata;
        walpb::Snapshot {
            index: metadata.index,
            term: metadata.term,
            conf_state: Some(metadata.conf_state),
        }
    })
}

/// Opens the log after a crash and compares. `candidates` are the states that may be there.
fn check(image: &SimDisk, is_created: bool, candidates: &[LogModel], crash_seed: usize) {
    let member = image.dir();
    if !wal::exists(&member, "wal").unwrap() {
        assert!(!is_created, "the log is gone");
        Wal::create(&member, "wal", Bytes::from_static(METADATA), &OPTIONS).unwrap();
        return;
    }
    let snaps = member.subdir("snap").unwrap();
    let start = newest(&member, &snaps);
    image.record();
    let (mut log, recovered) = Wal::open(&member, "wal", &start, &OPTIONS).unwrap();
    let recovery = image.take_journal();
    assert_eq!(recovered.metadata, METADATA);
    assert!(recovered.snapshot_found);
    let found: Vec<(u64, u64, usize)> = recovered
        .entries
        .iter()
        .map(|e| (e.index, e.term, e.data.as_ref().map_or(0, Bytes::len)))
        .collect();
    let matches = |candidate: &&LogModel| {
        let behind =
            candidate.entries.get(usize::try_from(start.index).unwrap()..).unwrap_or_default();
        behind == found && candidate.hard_state == recovered.hard_state
    };
    let Some(matching) = candidates.iter().find(matches) else {
        panic!(
            "start {start:?}, found {found:?}, {:?}; expected one of {} from {:?} to {:?}",
            recovered.hard_state,
            candidates.len(),
            candidates.first(),
            candidates.last()
        );
    };
    let newest_known = matching.snapshots.last().map_or(0, |&(_, index)| index);
    assert!(
        start.index >= candidates[0].snapshots.last().map_or(0, |&(_, index)| index),
        "a snapshot is lost"
    );
    assert!(
        start.index
            <= newest_known.max(candidates.last().unwrap().snapshots.last().map_or(0, |s| s.1))
    );
    for (entry, raw) in found.iter().zip(&recovered.entries) {
        assert_eq!(
            raw.data,
            support::entry(entry.1, entry.0, entry.2).data,
            "bytes of entry {}",
            entry.0
        );
    }

    // A second crash, in the middle of that recovery, loses nothing more.
    let second = SimDisk::replay(
        &recovery,
        crash_seed % (recovery.ops().len() + 1),
        &mut Seeded::new(crash_seed as u64),
    );
    let (_, again) = Wal::open(&second.dir(), "wal", &start, &OPTIONS).unwrap();
    assert_eq!((&again.entries, again.hard_state), (&recovered.entries, recovered.hard_state));

    // It goes on, and what comes next is as durable as ever.
    let index = found.last().map_or(start.index, |entry| entry.0) + 1;
    let term = recovered.hard_state.term.max(found.last().map_or(1, |entry| entry.1));
    let hard_state = state(term, 1, recovered.hard_state.commit);
    log.append(&Batch { entries: &[entry(term, index, 900)], hard_state: Some(hard_state) })
        .unwrap();
    image.crash(&mut LoseAll);
    let (_, again) = Wal::open(&image.dir(), "wal", &start, &OPTIONS).unwrap();
    assert_eq!(again.entries.len(), recovered.entries.len() + 1);
    assert_eq!(again.repair, None);
}

#[test]
fn every_cut_of_a_workload_recovers() {
    let reopenings_max: usize =
        std::env::var("WAL_CRASH_REOPENINGS").ok().map_or(12_000, |text| text.parse().unwrap());
    let images_a_cut = 24;
    let mut reopenings: usize = 0;
    let mut cuts = 0;
    let mut seed = 0;
    while reopenings < reopenings_max {
        let model = Model {
            dir_order: if seed % 2 == 0 { DirOrder::Any } else { DirOrder::Journal },
            names_follow_file_sync: seed % 4 == 3,
        };
        let workload = run_workload(seed, model);
        let mut replayer = Replayer::new(&workload.journal);
        let mut mark = 0;
        let mut candidates = candidates_at(&workload, mark);
        while let Some(op) = replayer.advance() {
            if let Op::Mark(number) = op {
                mark = usize::try_from(*number).unwrap();
                candidates = candidates_at(&workload, mark);
            }
            cuts += 1;
            let plan = replayer.plan();
            for (number, picks) in plan.picks(images_a_cut, seed).enumerate() {
                let context = format!(
                    "seed {seed}, cut behind operation {}, image {number}",
                    replayer.done()
                );
                let image = plan.image(&picks);
                let outcome =
                    std::panic::catch_unwind(|| check(&image, mark > 0, &candidates, reopenings));
                assert!(outcome.is_ok(), "{context}: {op:?}");
                reopenings += 1;
            }
        }
        seed += 1;
    }
    println!("{reopenings} reopenings at {cuts} cuts of {seed} workloads");
}

/// The states that a crash after this mark, and before the next one, may leave.
fn candidates_at(workload: &Workload, mark: usize) -> Vec<LogModel> {
    let (durable, staged) = workload.acknowledged[mark];
    let mut model = LogModel::default();
    for record in &workload.records[..durable.min(workload.records.len())] {
        model.apply(record);
    }
    let mut candidates = vec![model.clone()];
    for record in workload.records.get(durable..staged).unwrap_or_default() {
        model.apply(record);
        candidates.push(model.clone());
    }
    candidates
}
