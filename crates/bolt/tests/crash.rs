//! Power cuts and failing disks: at every file operation of a workload, with subsets of the unsynced sectors kept.
//!
//! After reopening, the content is exactly that of the last acknowledged commit or of the one in flight, and the check is
//! clean. `BOLT_CRASH_IMAGES` sets how many images are tried at each cut.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::sync::Arc;

use bolt::{Db, Error, Options};
use common::{Model, Random, Row, open_path, read_model};
use vfs::sim::{Fault, FaultKind, Op, Replayer, Seeded, SimDisk};

fn images_max(default: u64) -> u64 {
    std::env::var("BOLT_CRASH_IMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn options(sync_freelist: bool) -> Options {
    // Small pages make deep trees of few bytes; small steps make the file grow often.
    Options { page_size: 1024, grow_bytes: 4096, sync_freelist, ..Options::default() }
}

/// One commit with a bit of everything; returns the state after it.
fn commit(db: &Db, random: &mut Random, model: &Model) -> Result<Model, Error> {
    let mut model = model.clone();
    let mut tx = db.write()?;
    for name in [&b"key"[..], b"meta", b"lease"] {
        tx.create_bucket_if_missing(name)?;
        model.rows.entry(name.to_vec()).or_insert_with(|| Row::Bucket(Model::default()));
    }
    let mut change =
        |tx: &mut bolt::WriteTx, path: &[Vec<u8>], key: Vec<u8>, value: Option<Vec<u8>>| {
            let rows = &mut model.at(path).rows;
            let mut bucket = open_path(tx, path);
            match value {
                Some(value) => {
                    bucket.put(&key, &value).unwrap();
                    rows.insert(key, Row::Value(value));
                }
                None => {
                    bucket.delete(&key).unwrap();
                    rows.remove(&key);
                }
            }
        };
    let count = random.below(12);
    for _ in 0..count {
        let key = (random.below(60) as u64).to_be_bytes().to_vec();
        let len = if random.one_in(10) { 3000 } else { random.below(150) };
        let value = (!random.one_in(3)).then(|| random.bytes(len));
        change(&mut tx, &[b"key".to_vec()], key, value);
    }
    let index = random.next().to_be_bytes().to_vec();
    change(&mut tx, &[b"meta".to_vec()], b"consistent_index".to_vec(), Some(index));
    if random.one_in(3) {
        let value = random.bytes(40);
        let key = vec![b'l', u8::try_from(random.below(20)).unwrap()];
        change(&mut tx, &[b"lease".to_vec()], key, Some(value));
    }
    tx.commit()?;
    Ok(model)
}

fn state_of(disk: &SimDisk, options: &Options) -> (Db, Model) {
    let db = Db::open(&disk.dir(), "db", options).unwrap();
    let tx = db.read();
    let problems = tx.check();
    assert!(problems.is_empty(), "{problems:?}");
    let model = read_model(&tx).unwrap();
    (db, model)
}

/// Runs a workload from before the file is made; returns the disk's journal and all states in order.
fn record(seed: u64, options: &Options, commits: usize) -> (vfs::sim::Journal, Vec<Model>) {
    let disk = SimDisk::new();
    disk.record();
    let db = Db::open(&disk.dir(), "db", options).unwrap();
    disk.mark(0);
    let mut random = Random(seed);
    let mut states = vec![Model::default()];
    let mut reader = None;
    for at in 0..commits {
        let next = commit(&db, &mut random, &states[at]).unwrap();
        states.push(next);
        disk.mark(at as u64 + 1);
        if random.one_in(5) {
            reader = Some(db.read());
        }
    }
    drop(reader);
    (disk.take_journal(), states)
}

#[test]
fn power_cut_at_every_operation_leaves_the_last_or_the_current_commit() {
    let images_max = images_max(12);
    let mut reopened = 0;
    for seed in 0..4 {
        let options = options(seed % 2 == 1);
        let (journal, states) = record(seed, &options, 25);
        let mut replayer = Replayer::new(&journal);
        let mut acknowledged = None;
        while let Some(op) = replayer.advance() {
            if let Op::Mark(mark) = op {
                acknowledged = Some(usize::try_from(*mark).unwrap());
                continue;
            }
            let plan = replayer.plan();
            for picks in plan.picks(images_max, seed) {
                let image = plan.image(&picks);
                reopened += 1;
                let context =
                    format!("seed {seed}, operation {}, picks {picks:?}", replayer.done());
                let (db, found) = state_of(&image, &options);
                let last = acknowledged.unwrap_or(0);
                let allowed = &states[last..states.len().min(last + 2)];
                assert!(allowed.contains(&found), "{context}: neither state {last} nor the next");
                // And it goes on from there.
                if reopened % 16 == 0 {
                    let next = commit(&db, &mut Random(seed), &found).unwrap();
                    drop(db);
                    assert_eq!(state_of(&image, &options).1, next, "{context}");
                }
            }
        }
    }
    println!("{reopened} images reopened");
}

/// Found by thinking: a killed process leaves a meta in the page cache only. The next one sees that state, and would write over
/// pages of the state before it, which is the newest on the disk, unless it syncs first.
#[test]
fn kill_then_power_cut_keeps_what_the_second_process_saw() {
    let options = options(false);
    let (journal, _) = record(7, &options, 12);
    let mut replayer = Replayer::new(&journal);
    while replayer.advance().is_some() {
        let disk = replayer.disk();
        disk.kill();
        let (db, seen) = state_of(&disk, &options);
        disk.record();
        let mut random = Random(99);
        let first = commit(&db, &mut random, &seen).unwrap();
        drop(db);
        let second_journal = disk.take_journal();
        let mut second = Replayer::new(&second_journal);
        loop {
            let plan = second.plan();
            for picks in plan.picks(images_max(12) / 4, 1) {
                let (_, found) = state_of(&plan.image(&picks), &options);
                assert!(
                    found == seen || found == first,
                    "operation {} then {}",
                    replayer.done(),
                    second.done()
                );
            }
            if second.advance().is_none() {
                break;
            }
        }
    }
}

#[test]
fn failed_write_or_sync_poisons_and_loses_nothing() {
    let options = options(false);
    for kind in [FaultKind::Write, FaultKind::Sync] {
        for skip in 0..60 {
            let disk = SimDisk::new();
            let db = Db::open(&disk.dir(), "db", &options).unwrap();
            let mut random = Random(skip);
            let mut model = commit(&db, &mut random, &Model::default()).unwrap();
            disk.inject(Fault::once(kind, skip));
            let mut failed = false;
            for _ in 0..15 {
                match commit(&db, &mut random, &model) {
                    Ok(next) => model = next,
                    Err(error) => {
                        assert!(matches!(error, Error::Io { .. }), "{error}");
                        failed = true;
                        break;
                    }
                }
            }
            if !failed {
                continue;
            }
            let refused = db.write().map(|tx| tx.tx_id());
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{kind:?} after {skip}");
            // What was published is still read.
            assert_eq!(read_model(&db.read()).unwrap(), model);
            drop(db);
            // The acknowledged state survives a power cut, or the one that was in flight does.
            for seed in 0..4 {
                let image = disk.crash_image(&mut Seeded::new(seed));
                let (_, found) = state_of(&image, &options);
                let next = commit_on_copy(&model, skip, &options);
                assert!(
                    found == model || next.as_ref() == Some(&found),
                    "{kind:?} after {skip}, crash {seed}"
                );
            }
        }
    }
}

/// The state that the failing commit would have made: the workload once more, without faults.
fn commit_on_copy(until: &Model, seed: u64, options: &Options) -> Option<Model> {
    let disk = SimDisk::new();
    let db = Db::open(&disk.dir(), "db", options).unwrap();
    let mut random = Random(seed);
    let mut model = Model::default();
    for _ in 0..17 {
        let next = commit(&db, &mut random, &model).unwrap();
        if model == *until {
            return Some(next);
        }
        model = next;
    }
    None
}

#[test]
fn full_disk_fails_a_commit_and_keeps_the_state() {
    let options = options(false);
    let disk = SimDisk::new();
    let db = Db::open(&disk.dir(), "db", &options).unwrap();
    let mut random = Random(3);
    let mut model = commit(&db, &mut random, &Model::default()).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 30_000));
    let error = loop {
        match commit(&db, &mut random, &model) {
            Ok(next) => model = next,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error}"
    );
    drop(db);
    disk.set_capacity(None);
    disk.kill();
    let (db, found) = state_of(&disk, &options);
    assert_eq!(found, model);
    commit(&db, &mut random, &model).unwrap();
}

#[test]
fn the_same_work_writes_the_same_bytes() {
    let journals = [0, 1].map(|_| record(11, &options(true), 20).0);
    assert_eq!(format!("{:?}", journals[0].ops()), format!("{:?}", journals[1].ops()));
}

#[test]
fn a_second_opening_is_refused_while_the_first_lives() {
    let disk = SimDisk::new();
    let db = Db::open(&disk.dir(), "db", &Options::default()).unwrap();
    let again =
        |read_only| Db::open(&disk.dir(), "db", &Options { read_only, ..Options::default() });
    assert!(matches!(again(false), Err(Error::Locked { .. })));
    assert!(matches!(again(true), Err(Error::Locked { .. })));
    let reader = db.read();
    drop(db);
    assert!(matches!(again(false), Err(Error::Locked { .. })), "a reader keeps the file");
    drop(reader);
    let first = again(true).unwrap();
    let second = again(true).unwrap();
    assert!(matches!(first.write().map(|tx| tx.tx_id()), Err(Error::ReadOnly { .. })));
    drop((first, second));
    again(false).unwrap();
}

#[test]
fn pages_wait_for_the_readers_that_reach_them() {
    // A reader of an old state keeps its pages through many commits.
    let disk = SimDisk::new();
    let db = Arc::new(Db::open(&disk.dir(), "db", &options(false)).unwrap());
    let mut random = Random(5);
    let mut model = Model::default();
    let mut held = Vec::new();
    for _ in 0..60 {
        model = commit(&db, &mut random, &model).unwrap();
        if random.one_in(6) {
            held.push((db.read(), model.clone()));
        }
        if random.one_in(12) && !held.is_empty() {
            held.remove(random.below(held.len()));
        }
        for (tx, model) in &held {
            assert_eq!(read_model(tx).unwrap(), *model);
        }
    }
    let pinned = db.stats().pending_pages;
    held.clear();
    drop(db.write().unwrap());
    commit(&db, &mut random, &model).unwrap();
    assert!(db.stats().pending_pages < pinned, "pages come free when their readers have gone");
}
