//! Readers beside the writer, on real files and threads: every state that is seen is whole, however long it is held.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use bolt::{Db, Error, Options, ReadTx};
use common::{Random, hash_rows};

/// The hash of bucket "key" as the writer left it in "meta", and as it is.
fn hashes(tx: &ReadTx) -> (u64, u64) {
    let stored = tx.bucket(b"meta").unwrap().unwrap().get(b"hash").unwrap().unwrap();
    let mut hash = 0_u64;
    let mut cursor = tx.bucket(b"key").unwrap().unwrap().cursor();
    while let Some((key, value)) = cursor.next().unwrap() {
        hash = hash.wrapping_add(row_hash(key, value));
    }
    (u64::from_le_bytes(stored.try_into().unwrap()), hash)
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    key.iter().chain(value).fold(7, |hash: u64, &byte| {
        hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte))
    })
}

#[test]
fn every_state_seen_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = vfs::real::RealDir::open(dir.path()).unwrap();
    // The map starts small, so that it is replaced while readers hold the old ones. Nothing crashes: no syncs.
    let options =
        Options { sync: false, grow_bytes: 64 << 10, page_size: 1024, ..Options::default() };
    let db = Db::open(&dir, "db", &options).unwrap();
    let mut rows = std::collections::BTreeMap::new();
    let mut commit = |db: &Db, random: &mut Random| {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
        for _ in 0..random.below(40) {
            let key = random.below(3000).to_be_bytes();
            if random.one_in(3) {
                bucket.delete(&key).unwrap();
                rows.remove(&key);
            } else {
                let len = random.below(400);
                let value = random.bytes(len);
                bucket.put(&key, &value).unwrap();
                rows.insert(key, value);
            }
        }
        let hash =
            rows.iter().fold(0_u64, |hash, (key, value)| hash.wrapping_add(row_hash(key, value)));
        tx.create_bucket_if_missing(b"meta").unwrap().put(b"hash", &hash.to_le_bytes()).unwrap();
        tx.commit().unwrap();
    };
    commit(&db, &mut Random(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (db, done) = (db.clone(), &done);
            scope.spawn(move || {
                let mut random = Random(seed + 100);
                let mut held: Vec<ReadTx> = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    held.push(db.read());
                    if held.len() > 3 {
                        held.swap_remove(random.below(3));
                    }
                    let tx = &held[random.below(held.len())];
                    let (stored, found) = hashes(tx);
                    assert_eq!(stored, found, "state {}", tx.tx_id());
                }
            });
        }
        let mut random = Random(1);
        for _ in 0..400 {
            commit(&db, &mut random);
        }
        done.store(true, Ordering::Relaxed);
    });
    let tx = db.read();
    assert_eq!(tx.check(), []);
    let (stored, found) = hashes(&tx);
    assert_eq!(stored, found);
}

#[test]
fn writers_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = vfs::real::RealDir::open(dir.path()).unwrap();
    let db = Db::open(&dir, "db", &Options { sync: false, ..Options::default() }).unwrap();
    let count = |tx: &mut bolt::WriteTx| -> u64 {
        let bucket = tx.create_bucket_if_missing(b"b").unwrap();
        bucket.get(b"n").unwrap().map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut tx = db.write().unwrap();
                    let n = count(&mut tx);
                    tx.bucket(b"b").unwrap().unwrap().put(b"n", &(n + 1).to_le_bytes()).unwrap();
                    tx.commit().unwrap();
                }
            });
        }
    });
    assert_eq!(count(&mut db.write().unwrap()), 200);
}

/// A long reader (a snapshot being sent, say) holds back the pages of its own state, not those that come and go after it.
#[test]
fn a_long_reader_costs_its_own_pages_only() {
    let dir = vfs::sim::SimDisk::new().dir();
    let db = Db::open(&dir, "db", &Options::default()).unwrap();
    let write = |round: u64| {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
        bucket.put(&(round % 40).to_be_bytes(), &[1; 500]).unwrap();
        tx.commit().unwrap();
    };
    (0..40).for_each(write);
    let held = db.read();
    let hash = hash_rows(&held).unwrap();
    (0..20).for_each(write);
    let before = db.stats().size_bytes;
    (0..400).for_each(write);
    assert!(
        db.stats().size_bytes <= before + 10 * 4096,
        "{before} grew to {}",
        db.stats().size_bytes
    );
    assert_eq!(hash_rows(&held).unwrap(), hash);
}

#[test]
fn appending_writes_a_full_page_once() {
    let dir = vfs::sim::SimDisk::new().dir();
    let db = Db::open(&dir, "db", &Options::default()).unwrap();
    let append = |keys: std::ops::Range<u64>| {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
        bucket.set_fill_percent(0.9);
        bucket.apply_sorted(keys.map(|key| (key.to_be_bytes(), Some([0; 256])))).unwrap();
        tx.commit().unwrap()
    };
    append(0..10_000);
    // The last leaf, its branches, the bucket's header in the root leaf, the meta.
    assert!(append(10_000..10_001).pages_written <= 4);
    // 1000 rows of 280 bytes fill 77 pages at 0.9.
    let stats = append(10_001..11_001);
    assert!(stats.pages_written <= 77 + 6, "{stats:?}");
    assert!(stats.writes <= 12, "{stats:?}");
    assert_eq!(db.read().check(), []);
}

#[test]
fn nothing_changed_means_nothing_written() {
    let dir = vfs::sim::SimDisk::new().dir();
    let db = Db::open(&dir, "db", &Options::default()).unwrap();
    let mut tx = db.write().unwrap();
    tx.create_bucket(b"b").unwrap().put(b"k", b"v").unwrap();
    let first = tx.commit().unwrap();
    let mut tx = db.write().unwrap();
    let mut bucket = tx.bucket(b"b").unwrap().unwrap();
    bucket.put(b"k", b"v").unwrap();
    bucket.delete(b"absent").unwrap();
    bucket.apply_sorted([(b"absent", None), (b"b_sent", None::<&[u8]>)]).unwrap();
    bucket.apply_sorted([(b"k", Some(b"v"))]).unwrap();
    assert_eq!(
        tx.commit().unwrap(),
        bolt::CommitStats { tx_id: first.tx_id, ..Default::default() }
    );
}

#[test]
fn mistakes_are_told_apart() {
    let dir = vfs::sim::SimDisk::new().dir();
    let db = Db::open(&dir, "db", &Options::default()).unwrap();
    let mut tx = db.write().unwrap();
    assert!(matches!(tx.create_bucket(b"").map(|_| ()), Err(Error::KeyRequired)));
    assert!(matches!(tx.delete_bucket(b"none"), Err(Error::BucketNotFound)));
    let mut bucket = tx.create_bucket(b"b").unwrap();
    assert!(matches!(bucket.put(b"", b"v"), Err(Error::KeyRequired)));
    assert!(matches!(bucket.put(&[1; bolt::KEY_BYTES_MAX + 1], b"v"), Err(Error::KeyTooLarge)));
    bucket.put(&[1; bolt::KEY_BYTES_MAX], b"v").unwrap();
    let unsorted = [(b"b", Some(b"1")), (b"a", Some(b"2"))];
    assert!(matches!(bucket.apply_sorted(unsorted), Err(Error::KeysOutOfOrder)));
    assert!(matches!(
        bucket.apply_sorted([(b"c", Some(b"1")), (b"c", None)]),
        Err(Error::KeysOutOfOrder)
    ));
    bucket.create_bucket(b"nested").unwrap();
    assert!(matches!(bucket.put(b"nested", b"v"), Err(Error::IncompatibleValue)));
    assert!(matches!(
        bucket.apply_sorted([(b"nested", Some(b"v"))]),
        Err(Error::IncompatibleValue)
    ));
    assert!(matches!(bucket.delete_bucket(b"b"), Err(Error::IncompatibleValue)));
    assert_eq!(bucket.get(b"nested").unwrap(), None);
    assert!(matches!(tx.create_bucket(b"b").map(|_| ()), Err(Error::BucketExists)));
    tx.commit().unwrap();
    assert_eq!(db.read().check(), []);
}
