//! Power cuts at every operation on the disk: what is reopened is whole, and is exactly what its index vouches for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use backend::Writer;
use backend::schema::{Bucket, Revision, RowKey, meta};
use bytes::Bytes;
use common::{Content, content, options, put_file, without_index};
use vfs::sim::{Fault, FaultKind, Op, Replayer, Seeded, SimDisk};

/// Applies entry `index`: a few rows, now and then a deletion, now and then another bucket.
fn apply(writer: &mut Writer, model: &mut Content, index: u64, seed: &mut Seeded) {
    let main = i64::try_from(index).unwrap() + 1;
    for sub in 0..i64::try_from(1 + seed.below(3)).unwrap() {
        let key = RowKey::put(Revision::new(main, sub));
        let value = vec![u8::try_from(index % 251).unwrap(); seed.below(600)];
        writer.put_row(key, Bytes::from(value.clone()));
        model.insert((Bucket::Key, key.encode().as_ref().to_vec()), value);
    }
    for _ in 0..seed.below(4) {
        let rows: Vec<Vec<u8>> = model
            .keys()
            .filter(|(bucket, _)| *bucket == Bucket::Key)
            .map(|(_, key)| key.clone())
            .collect();
        let Some(key) = rows.get(seed.below(rows.len())) else { break };
        writer.delete_row(RowKey::decode(key).unwrap());
        model.remove(&(Bucket::Key, key.clone()));
    }
    let lease = Bytes::copy_from_slice(&u64::try_from(seed.below(20)).unwrap().to_be_bytes());
    if seed.below(3) == 0 {
        writer.delete(Bucket::Lease, lease.clone());
        model.remove(&(Bucket::Lease, lease.to_vec()));
    } else {
        let value = vec![1; seed.below(100)];
        writer.put(Bucket::Lease, lease.clone(), Bytes::from(value.clone()));
        model.insert((Bucket::Lease, lease.to_vec()), value);
    }
    writer.set_consistent_index(index, 1 + index / 10);
    writer.publish();
}

fn check_image(image: &SimDisk, models: &BTreeMap<u64, Content>, acknowledged: u64, what: &str) {
    let (writer, reader) =
        backend::open(&image.dir(), &options()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let index = writer.consistent().index;
    assert!(index >= acknowledged, "{what}: index {index}, {acknowledged} was durable");
    let view = reader.view();
    assert_eq!(meta::term(&view).unwrap(), if index == 0 { 0 } else { 1 + index / 10 }, "{what}");
    assert!(
        without_index(content(&view)) == models[&index],
        "{what}: rows are not those of index {index}"
    );
    assert_eq!(view.check(), [], "{what}");
    let left: Vec<String> =
        image.dir().list().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, ["db"], "{what}");
}

/// A figure from the environment: more images for each cut, more seeds.
fn scale(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|figure| figure.parse().ok()).unwrap_or(default)
}

#[test]
fn index_always_matches_rows() {
    let images_for_each_cut = scale("BACKEND_CRASH_IMAGES", 24);
    let mut images = 0;
    for number in 0..scale("BACKEND_CRASH_SEEDS", 12) {
        let mut seed = Seeded::new(number);
        let disk = SimDisk::new();
        let mut models = BTreeMap::from([(0, Content::new())]);
        disk.record();
        let (mut writer, _reader) = backend::open(&disk.dir(), &options()).unwrap();
        let mut model = Content::new();
        let mut index = 0;
        for round in 0..12 {
            for _ in 0..1 + seed.below(6) {
                index += 1;
                apply(&mut writer, &mut model, index, &mut seed);
                models.insert(index, model.clone());
            }
            if round % 5 == 4 {
                writer.take_defrag().unwrap().run().unwrap();
            } else {
                let job = writer.take_commit().unwrap();
                // What is applied while the commit is on its way is not in it.
                index += 1;
                apply(&mut writer, &mut model, index, &mut seed);
                models.insert(index, model.clone());
                let durable = job.run().unwrap().consistent_index;
                disk.mark(durable);
            }
        }
        let journal = disk.take_journal();
        let mut replayer = Replayer::new(&journal);
        let mut acknowledged = 0;
        while let Some(op) = replayer.advance() {
            if let Op::Mark(index) = op {
                acknowledged = *index;
                continue;
            }
            let plan = replayer.plan();
            for (image, picks) in plan.picks(images_for_each_cut, number).enumerate() {
                let what = format!(
                    "seed {number}, cut behind operation {}, image {image}",
                    replayer.done()
                );
                check_image(&plan.image(&picks), &models, acknowledged, &what);
                images += 1;
            }
        }
    }
    assert!(images > 5000, "{images} images");
}

#[test]
fn a_failed_commit_ends_the_backend() {
    for kind in [FaultKind::Write, FaultKind::Sync] {
        let disk = SimDisk::new();
        let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
        let mut model = Content::new();
        let mut seed = Seeded::new(1);
        apply(&mut writer, &mut model, 1, &mut seed);
        writer.take_commit().unwrap().run().unwrap();
        let durable = model.clone();
        apply(&mut writer, &mut model, 2, &mut seed);
        disk.inject(Fault::once(kind, 0));
        reader.check_health().unwrap();
        writer.take_commit().unwrap().run().unwrap_err();
        assert!(matches!(reader.check_health(), Err(backend::Error::Poisoned { .. })));
        assert!(writer.take_commit().is_none());
        assert!(writer.take_defrag().is_none());
        // Reads go on until the member stops.
        assert_eq!(without_index(content(&reader.view())), model);
        drop((writer, reader));
        disk.crash(&mut vfs::sim::LoseAll);
        check_image(&disk, &BTreeMap::from([(1, durable)]), 1, "after the failure");
    }
}

#[test]
fn a_dropped_commit_ends_the_backend() {
    let disk = SimDisk::new();
    let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    drop(writer.take_commit());
    assert!(reader.check_health().is_err());
    assert!(writer.take_commit().is_none());
}

#[test]
fn a_full_disk_fails_a_defragmentation_and_nothing_else() {
    let disk = SimDisk::new();
    let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    let mut model = Content::new();
    let mut seed = Seeded::new(2);
    for index in 1..50 {
        apply(&mut writer, &mut model, index, &mut seed);
    }
    writer.take_commit().unwrap().run().unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 8192));
    writer.take_defrag().unwrap().run().unwrap_err();
    disk.set_capacity(None);
    reader.check_health().unwrap();
    apply(&mut writer, &mut model, 50, &mut seed);
    writer.take_commit().unwrap().run().unwrap();
    let stats = writer.take_defrag().unwrap().run().unwrap();
    assert!(stats.after.total_bytes <= stats.before.total_bytes);
    assert_eq!(reader.size(), stats.after);
    assert_eq!(without_index(content(&reader.view())), model);
    drop((writer, reader));
    check_image(&disk, &BTreeMap::from([(50, model)]), 50, "at the end");
}

/// A database as another member would send it, at `index`.
fn sent_database(index: u64) -> (Vec<u8>, Content) {
    let disk = SimDisk::new();
    let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    let mut model = Content::new();
    apply(&mut writer, &mut model, index, &mut Seeded::new(7));
    writer.take_commit().unwrap().run().unwrap();
    let mut snapshot = reader.view().snapshot();
    let mut bytes = vec![0; usize::try_from(snapshot.len_bytes()).unwrap()];
    assert_eq!(snapshot.read(&mut bytes).unwrap(), bytes.len());
    (bytes, model)
}

#[test]
fn a_received_snapshot_replaces_everything() {
    let (bytes, sent) = sent_database(90);
    let disk = SimDisk::new();
    let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    let mut model = Content::new();
    let mut seed = Seeded::new(3);
    apply(&mut writer, &mut model, 1, &mut seed);
    writer.take_commit().unwrap().run().unwrap();
    apply(&mut writer, &mut model, 2, &mut seed);
    let before = reader.view();

    let job = writer.take_commit().unwrap();
    assert!(matches!(writer.install_snapshot(80), Err(backend::Error::Busy)));
    job.run().unwrap();

    put_file(&disk.dir(), &backend::snapshot_db_name(80), &bytes);
    writer.install_snapshot(80).unwrap();
    assert_eq!(writer.consistent().index, 90);
    assert_eq!(writer.pending_ops(), 0);
    assert_eq!(without_index(content(&reader.view())), sent);
    assert_eq!(without_index(content(&before)), model, "an old view stays");

    let mut model = sent;
    apply(&mut writer, &mut model, 91, &mut seed);
    writer.take_commit().unwrap().run().unwrap();
    drop((writer, reader, before));
    check_image(&disk, &BTreeMap::from([(91, model)]), 91, "reopened");
}

#[test]
fn start_swaps_in_the_snapshot_that_was_received_before_the_crash() {
    let (bytes, sent) = sent_database(90);
    let disk = SimDisk::new();
    let dir = disk.dir();
    let (mut writer, reader) = backend::open(&dir, &options()).unwrap();
    apply(&mut writer, &mut Content::new(), 1, &mut Seeded::new(3));
    writer.take_commit().unwrap().run().unwrap();
    drop((writer, reader));

    let missing = backend::open_at_snapshot(&dir, &options(), 80).unwrap_err().to_string();
    assert_eq!(
        missing,
        "failed to find database snapshot file (snap: snapshot file doesn't exist): /sim/db is at index 1, behind the raft snapshot at 80, and 0000000000000050.snap.db is missing"
    );
    assert_eq!(backend::open_at_snapshot(&dir, &options(), 1).unwrap().0.consistent().index, 1);

    put_file(&dir, "db.tmp.123", b"left over");
    put_file(&dir, "0000000000000050.snap.db", &bytes);
    disk.record();
    let (_, reader) = backend::open_at_snapshot(&dir, &options(), 80).unwrap();
    assert_eq!(without_index(content(&reader.view())), sent);
    // A cut at any point of the swap leaves one or the other.
    let journal = disk.take_journal();
    let mut replayer = Replayer::new(&journal);
    while replayer.advance().is_some() {
        let plan = replayer.plan();
        for picks in plan.picks(16, 0) {
            let image = plan.image(&picks);
            let (writer, reader) = backend::open_at_snapshot(&image.dir(), &options(), 80).unwrap();
            assert_eq!(writer.consistent().index, 90);
            assert_eq!(without_index(content(&reader.view())), sent);
        }
    }
    drop(reader);

    put_file(&dir, "0000000000000100.snap.db", &bytes);
    let behind = backend::open_at_snapshot(&dir, &options(), 0x100).unwrap_err();
    assert!(matches!(
        behind,
        backend::Error::SnapshotMismatch { consistent_index: 90, snapshot_index: 256, .. }
    ));
}
