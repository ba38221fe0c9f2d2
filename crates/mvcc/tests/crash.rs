//! The power fails at any file operation, also in the middle of a compaction: what is found afterwards is the state at the
//! consistent index, and running the interrupted compaction again leaves exactly the rows that belong.

mod common;

use std::collections::BTreeSet;

use common::{Fixture, Model};
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use vfs::sim::{Replayer, Seeded, SimDisk};

/// The model after each entry; the place is the consistent index.
struct History {
    states: Vec<Model>,
}

/// Writes, deletes and compacts, with commits in between, and keeps what should be there after each entry.
fn run(seed: u64, fixture: &mut Fixture) -> History {
    let mut random = Seeded::new(seed);
    let mut model = Model::default();
    let mut states = vec![model.clone()];
    for _ in 0..120 {
        let key = format!("k{}", random.below(6));
        match random.below(12) {
            0..7 => {
                let value = "v".repeat(random.below(300));
                let request =
                    PutRequest { key: key.into(), value: value.into(), ..Default::default() };
                let (_, _changes) =
                    fixture.put(&request, &BTreeSet::new()).expect("nothing to refuse");
                model.put(&request).expect("nothing to refuse");
            }
            7..9 => {
                let range_end = if random.below(3) == 0 { "\0" } else { "" };
                let request = DeleteRangeRequest {
                    key: key.into(),
                    range_end: range_end.into(),
                    ..Default::default()
                };
                let Fixture { store, writer, .. } = &mut *fixture;
                let (_, _changes) = store.delete_range(writer, &request).expect("rows are sound");
                model.delete_range(&request);
            }
            9 => {
                let back = i64::try_from(random.below(5)).expect("small");
                let revision = model.current - back;
                if let Ok(compaction) = fixture.store.compact(&mut fixture.writer, revision) {
                    model.compact(revision).expect("as the store");
                    fixture.compactions.push(compaction);
                }
            }
            _ => {}
        }
        states.push(model.clone());
        let index = u64::try_from(states.len() - 1).expect("small");
        fixture.writer.set_consistent_index(index, 1);
        fixture.writer.publish();
        for _ in 0..random.below(3) {
            fixture.step_compaction(1 + random.below(4));
        }
        if random.below(6) == 0 {
            let job = fixture.writer.take_commit().expect("no commit runs");
            job.run().expect("the disk is sound");
        }
    }
    History { states }
}

/// Opens what a crash left, and compares.
fn check(disk: SimDisk, history: &History) {
    let mut fixture = Fixture::open(disk);
    let index = usize::try_from(fixture.writer.consistent().index).expect("small");
    let model = &history.states[index];
    let check_reads = |fixture: &Fixture| {
        assert_eq!(fixture.reader.current_revision(), model.current);
        assert_eq!(fixture.reader.compact_revision(), model.compacted);
        for at in model.compacted.max(1)..=model.current {
            let request = RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                revision: at,
                ..Default::default()
            };
            let response =
                fixture.reader.range(&request).expect("readable").into_response().expect("sound");
            assert_eq!(response.kvs, model.state(at).into_values().collect::<Vec<_>>(), "at {at}");
        }
    };
    check_reads(&fixture);
    fixture.finish_compactions();
    check_reads(&fixture);
    assert_eq!(fixture.rows(), model.rows());
    let hashed = fixture.reader.hash_kv(model.current).expect("readable").hashed;
    assert_eq!(hashed.hash, model.hash(&model.rows(), model.current, model.compacted, false));
}

#[test]
fn a_crash_at_any_operation_loses_no_row_and_brings_none_back() {
    let images = u64::from(common::cases(2));
    for seed in 0..3 {
        let disk = SimDisk::new();
        // The database exists before the story begins.
        drop(Fixture::open(disk.clone()));
        disk.kill();
        let mut fixture = Fixture::open(disk.clone());
        disk.record();
        let history = run(seed, &mut fixture);
        let journal = disk.take_journal();
        let mut replayer = Replayer::new(&journal);
        let mut cuts = 0;
        loop {
            let plan = replayer.plan();
            for picks in plan.picks(images, seed) {
                check(plan.image(&picks), &history);
                cuts += 1;
            }
            if replayer.advance().is_none() {
                break;
            }
        }
        assert!(cuts > 100, "{cuts}");
    }
}
