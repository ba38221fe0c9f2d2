//! Files that real etcd, real bbolt and an independent writer made: read, checked, written to, copied.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::sync::Arc;

use bolt::{Db, Options, ReadTx};
use common::{hash_rows, read_model};
use sha2::{Digest, Sha256};
use vfs::sim::SimDisk;
use vfs::{Dir, OpenMode};

/// One block of `expected.txt`.
struct Expected {
    name: String,
    facts: Vec<(String, String)>,
    /// Name, number of rows, start of the hash.
    buckets: Vec<(String, usize, String)>,
}

impl Expected {
    fn fact(&self, name: &str) -> u64 {
        self.facts.iter().find(|(fact, _)| fact == name).unwrap().1.parse().unwrap()
    }
}

fn expected() -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for line in include_str!("fixtures/expected.txt").lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let facts: Vec<(String, String)> = words
            .map(|word| word.split_once('=').unwrap())
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        if line.starts_with(' ') {
            let bucket = (name, facts[0].1.parse().unwrap(), facts[1].1.clone());
            all.last_mut().unwrap().buckets.push(bucket);
        } else {
            all.push(Expected { name, facts, buckets: Vec::new() });
        }
    }
    all
}

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}.db.rle", env!("CARGO_MANIFEST_DIR"));
    let packed = std::fs::read(path).unwrap();
    let number = |at: usize| u32::from_le_bytes(packed[at..at + 4].try_into().unwrap()) as usize;
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < packed.len() {
        let len = number(at);
        bytes.extend_from_slice(&packed[at + 4..at + 4 + len]);
        at += 4 + len;
        bytes.resize(bytes.len() + number(at), packed[at + 4]);
        at += 5;
    }
    bytes
}

fn disk_with(data: &[u8]) -> Arc<dyn Dir> {
    let dir = SimDisk::new().dir();
    dir.open("db", OpenMode::Create).unwrap().write_at(data, 0).unwrap();
    dir
}

fn open(dir: &Arc<dyn Dir>, read_only: bool) -> Db {
    Db::open(dir, "db", &Options { read_only, grow_bytes: 4096, ..Options::default() }).unwrap()
}

/// Rows of a bucket as `expected.txt` counts and hashes them.
fn rows(tx: &ReadTx, name: &str) -> (usize, String) {
    let (mut hash, mut count) = (Sha256::new(), 0);
    let mut cursor = tx.bucket(name.as_bytes()).unwrap().unwrap().cursor();
    while let Some((key, value)) = cursor.next().unwrap() {
        hash.update(u32::try_from(key.len()).unwrap().to_le_bytes());
        hash.update(u32::try_from(value.len()).unwrap().to_le_bytes());
        hash.update(key);
        hash.update(value);
        count += 1;
    }
    (count, hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

fn check_rows(tx: &ReadTx, expected: &Expected) {
    let names: Vec<&[u8]> = expected.buckets.iter().map(|(name, _, _)| name.as_bytes()).collect();
    assert_eq!(tx.buckets().unwrap(), names, "{}", expected.name);
    if expected.name == "bbolt-1.4.3-nested" {
        // Counted and hashed by a Go program over all levels.
        assert_eq!(hash_rows(tx).unwrap(), (2430, "193046536a1bef70".to_owned()));
        return;
    }
    for (name, count, hash) in &expected.buckets {
        assert_eq!(rows(tx, name), (*count, hash.clone()), "{} {name}", expected.name);
    }
}

#[test]
fn files_of_others_are_read() {
    let all = expected();
    assert!(all.len() >= 14);
    for expected in &all {
        let dir = disk_with(&fixture(&expected.name));
        let db = open(&dir, true);
        let tx = db.read();
        assert_eq!(u64::from(tx.page_size()), expected.fact("page_size"));
        assert_eq!(tx.tx_id(), expected.fact("txid"));
        assert_eq!(tx.size_bytes(), expected.fact("high_water") * expected.fact("page_size"));
        assert_eq!(tx.check(), [], "{}", expected.name);
        check_rows(&tx, expected);
        drop((tx, db));
        // The free pages found by walking are those that nothing reaches.
        let db = open(&dir, false);
        assert_eq!(db.stats().free_pages, expected.fact("unreached"), "{}", expected.name);
    }
}

#[test]
fn files_of_others_are_written_to() {
    for expected in &expected() {
        for sync_freelist in [false, true] {
            let dir = disk_with(&fixture(&expected.name));
            let options = Options { sync_freelist, grow_bytes: 4096, ..Options::default() };
            let db = Db::open(&dir, "db", &options).unwrap();
            let before = read_model(&db.read()).unwrap();
            for round in 0..3_u8 {
                let mut tx = db.write().unwrap();
                for (name, _, _) in &expected.buckets {
                    let mut bucket = tx.bucket(name.as_bytes()).unwrap().unwrap();
                    bucket.put(b"\xffadded", &[round; 700]).unwrap();
                }
                tx.commit().unwrap();
                assert_eq!(db.read().check(), [], "{}", expected.name);
            }
            let mut tx = db.write().unwrap();
            for (name, _, _) in &expected.buckets {
                tx.bucket(name.as_bytes()).unwrap().unwrap().delete(b"\xffadded").unwrap();
            }
            tx.commit().unwrap();
            drop(db);
            let db = open(&dir, false);
            assert_eq!(db.opened().stored_freelist, sync_freelist);
            assert_eq!(db.read().check(), [], "{}", expected.name);
            assert_eq!(read_model(&db.read()).unwrap(), before, "{}", expected.name);
        }
    }
}

#[test]
fn copies_hold_the_same() {
    for expected in &expected() {
        let source = open(&disk_with(&fixture(&expected.name)), true);
        let tx = source.read();
        let model = read_model(&tx).unwrap();

        // The stream, read in odd steps.
        let mut stream = tx.copy();
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 4099];
        loop {
            let before = stream.remaining_bytes();
            let read = stream.read(&mut chunk).unwrap();
            assert_eq!(stream.remaining_bytes() + read as u64, before);
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..read]);
        }
        assert_eq!(bytes.len() as u64, tx.size_bytes());
        let copy = open(&disk_with(&bytes), false);
        assert_eq!(copy.opened().valid_metas, 2);
        assert_eq!(copy.read().tx_id(), tx.tx_id());
        assert_eq!(copy.read().check(), [], "{}", expected.name);
        assert_eq!(read_model(&copy.read()).unwrap(), model, "{}", expected.name);

        // The compacting copy.
        let dir = SimDisk::new().dir();
        let options = Options {
            sync: false,
            grow_bytes: 4096,
            page_size: tx.page_size(),
            ..Options::default()
        };
        let target = Db::open(&dir, "db", &options).unwrap();
        tx.copy_compact(&target).unwrap();
        drop(target);
        let target = open(&dir, false);
        assert_eq!(target.read().check(), [], "{}", expected.name);
        assert_eq!(read_model(&target.read()).unwrap(), model, "{}", expected.name);
        let stats = target.stats();
        let used_before = tx.size_bytes() - expected.fact("unreached") * expected.fact("page_size");
        // Large values stand on pages of their own, which can cost a few more.
        let limit = used_before + 8 * expected.fact("page_size");
        assert!(stats.size_in_use_bytes() <= limit, "{}", expected.name);
    }
}

/// The saved snapshot's stream: our own stream of it is the same bytes.
#[test]
fn stream_is_what_etcd_streams() {
    for name in ["snapshot-3.5.30", "snapshot-3.5.16"] {
        let saved = fixture(name);
        let db = open(&disk_with(&saved), true);
        let mut stream = db.read().copy();
        let mut bytes = vec![0; usize::try_from(stream.len_bytes()).unwrap()];
        stream.read(&mut bytes).unwrap();
        assert_eq!(bytes.len() + 32, saved.len());
        assert!(bytes == saved[..bytes.len()], "{name}");
    }
}
