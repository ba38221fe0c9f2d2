//! Fills a database the way etcd's `key` bucket is filled, and says what it cost.
//!
//! `cargo run --release -p bolt --example fill -- DIR [KEYS] [BATCH] [VALUE_BYTES] [FILL_PERCENT]`: sequential 17-byte
//! keys, one commit a batch, then a reopening and a full ordered walk.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for people, which measures time"
)]

use std::time::Instant;

use bolt::{Db, Error, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: fill DIR [KEYS] [BATCH] [VALUE_BYTES] [FILL_PERCENT]")?;
    let mut number = |default: usize| args.next().map_or(Ok(default), |arg| arg.parse());
    let (keys, batch) = (number(1_000_000)?, number(10_000)?);
    let (value_bytes, fill_percent) = (number(256)?, number(90)?);

    let dir = vfs::real::RealDir::create(&dir)?;
    if dir.list()?.iter().any(|entry| entry.name == "db") {
        dir.remove("db")?;
    }
    let options = Options { initial_map_bytes: 10 << 30, ..Options::default() };
    let db = Db::open(&dir, "db", &options)?;
    let started = Instant::now();
    let (mut bytes_written, mut writes, mut slowest) = (0, 0, 0.0_f64);
    let mut first = 0;
    while first < keys {
        let until = keys.min(first + batch);
        let begun = Instant::now();
        let stats = commit_batch(&db, first..until, value_bytes, fill_percent)?;
        slowest = slowest.max(begun.elapsed().as_secs_f64());
        bytes_written += stats.bytes_written;
        writes += stats.writes;
        first = until;
    }
    let seconds = started.elapsed().as_secs_f64();
    let stats = db.stats();
    println!(
        "{keys} keys of {value_bytes} bytes, {batch} a commit: {seconds:.3} s, slowest commit {slowest:.4} s"
    );
    println!(
        "size {} in use {} file {}",
        stats.size_bytes,
        stats.size_in_use_bytes(),
        stats.file_bytes
    );
    println!(
        "written {bytes_written} bytes in {writes} calls, {:.1} a key",
        bytes_written as f64 / keys as f64
    );

    drop(db);
    let begun = Instant::now();
    let db = Db::open(&dir, "db", &options)?;
    println!("reopen {:.4} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let rows = count_rows(&db)?;
    println!("walk over {rows} rows {:.4} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let tx = db.read();
    let bucket = tx.bucket(b"key")?.ok_or("bucket is missing")?;
    for at in 0..keys {
        // A step that shares no factor with the count visits every key, far from the one before.
        let key = key(at.wrapping_mul(7_368_787) % keys);
        bucket.get(&key)?.ok_or("key is missing")?;
    }
    println!("{keys} scattered gets {:.4} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let problems = tx.check();
    println!("check {:.4} s, {} problems", begun.elapsed().as_secs_f64(), problems.len());
    Ok(())
}

fn key(at: usize) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&(at as u64 + 1).to_be_bytes());
    key[8] = b'_';
    key
}

fn commit_batch(
    db: &Db,
    range: std::ops::Range<usize>,
    value_bytes: usize,
    fill_percent: usize,
) -> Result<bolt::CommitStats, Error> {
    let mut tx = db.write()?;
    let mut bucket = tx.create_bucket_if_missing(b"key")?;
    bucket.set_fill_percent(fill_percent as f32 / 100.0);
    let mut value = vec![0_u8; value_bytes];
    bucket.apply_sorted(range.map(|at| {
        value[..8.min(value_bytes)].copy_from_slice(&at.to_le_bytes()[..8.min(value_bytes)]);
        (key(at), Some(value.clone()))
    }))?;
    tx.commit()
}

fn count_rows(db: &Db) -> Result<u64, Error> {
    let tx = db.read();
    let mut rows = 0;
    if let Some(bucket) = tx.bucket(b"key")? {
        let mut cursor = bucket.cursor();
        while cursor.next()?.is_some() {
            rows += 1;
        }
    }
    Ok(rows)
}
