//! Bodies of the fuzz targets in `fuzz/`, as plain functions: files that nobody should have written.
//!
//! Each takes any bytes, and panics when a promise is broken. Nothing may hang or grow without a bound; errors are fine.
//! `tests/hostile.rs` replays the corpus.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "for tests only; what fails here is a finding"
)]

use std::sync::{Arc, OnceLock};

use vfs::sim::SimDisk;
use vfs::{Dir, OpenMode};

use crate::{Bucket, Db, Error, Options, ReadTx};

const NESTING_MAX: usize = 8;

/// Any bytes as a database file.
pub fn bolt_open(data: &[u8]) {
    if data.len() > 1 << 20 {
        return;
    }
    read_side(data);
    write_side(data, data.iter().fold(1, |sum, &byte| sum * 31 % 65_521 + u64::from(byte)));
}

/// A sound file with some of its bytes replaced. The first byte picks the file, then each 5 bytes are a place and a value.
pub fn bolt_damage(script: &[u8]) {
    static BASES: OnceLock<[(usize, Vec<u8>); 3]> = OnceLock::new();
    let bases = BASES.get_or_init(|| {
        [(512, true), (1024, false), (4096, true)].map(|(page_size, sync_freelist)| {
            (page_size as usize, sound_file(page_size, sync_freelist))
        })
    });
    let Some((pick, script)) = script.split_first() else { return };
    let (page_size, base) = &bases[usize::from(*pick) % bases.len()];
    damage(base, *page_size, script);
}

/// Replaces bytes as `script` says. The metas get their checksums again, so that the damage is reached.
pub fn damage(base: &[u8], page_size: usize, script: &[u8]) {
    let mut data = base.to_vec();
    for step in script.chunks_exact(5) {
        let place = u32::from_le_bytes([step[0], step[1], step[2], step[3]]) as usize % data.len();
        data[place] = step[4];
    }
    for page in 0..2 {
        seal_meta(&mut data[page * page_size..]);
    }
    bolt_open(&data);
}

fn seal_meta(page: &mut [u8]) {
    let hash = page[16..72].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    page[72..80].copy_from_slice(&hash.to_le_bytes());
}

fn disk(data: &[u8]) -> Arc<dyn Dir> {
    let dir = SimDisk::new().dir();
    dir.open("db", OpenMode::Create).unwrap().write_at(data, 0).unwrap();
    dir
}

fn read_side(data: &[u8]) {
    let options = Options { read_only: true, ..Options::default() };
    let Ok(db) = Db::open(&disk(data), "db", &options) else { return };
    let tx = db.read();
    let problems = tx.check();
    let walked = walk(&tx);
    if problems.is_empty() {
        // What the check passes can be read. Nesting alone may be deeper than the walk goes.
        walked.unwrap();
    }
    let mut stream = tx.copy();
    let mut chunk = vec![0; 5000];
    while stream.read(&mut chunk).unwrap() > 0 {}
    let compact = SimDisk::new().dir();
    let target = Db::open(&compact, "db", &Options { sync: false, ..Options::default() }).unwrap();
    if tx.copy_compact(&target).is_ok() && problems.is_empty() {
        assert!(target.read().check().is_empty());
    }
}

fn walk(tx: &ReadTx) -> Result<(), Error> {
    for name in tx.buckets()? {
        let Some(bucket) = tx.bucket(name)? else { continue };
        walk_bucket(&bucket, 0)?;
    }
    Ok(())
}

fn walk_bucket(bucket: &Bucket<'_>, depth: usize) -> Result<(), Error> {
    let mut cursor = bucket.cursor();
    let mut last = None;
    while let Some((key, _)) = cursor.next()? {
        assert!(last.is_none_or(|last| last < key), "a walk goes up");
        last = Some(key);
        let nested = bucket.bucket(key)?;
        if let Some(nested) = nested
            && depth < NESTING_MAX
        {
            walk_bucket(&nested, depth + 1)?;
        }
    }
    if let Some(last) = last {
        bucket.get(last)?;
        cursor.seek(last)?;
        cursor.prev()?;
        cursor.seek(&last[..last.len() / 2])?;
    }
    let mut back = bucket.cursor();
    let mut last = None;
    let mut next = back.last()?;
    while let Some((key, _)) = next {
        assert!(last.is_none_or(|last| last > key), "a walk back goes down");
        last = Some(key);
        next = back.prev()?;
    }
    Ok(())
}

fn write_side(data: &[u8], seed: u64) {
    let options =
        Options { grow_bytes: 4096, sync_freelist: seed.is_multiple_of(2), ..Options::default() };
    let Ok(db) = Db::open(&disk(data), "db", &options) else { return };
    let was_sound = db.read().check().is_empty();
    let mut committed = true;
    for round in 0..4 {
        committed &= change(&db, seed.wrapping_add(round)).is_ok();
    }
    if was_sound && committed {
        let problems = db.read().check();
        assert!(problems.is_empty(), "a sound file stays sound: {}", problems[0]);
    }
}

/// Touches what is there in every way that a transaction has.
fn change(db: &Db, seed: u64) -> Result<(), Error> {
    let mut tx = db.write()?;
    let base = tx.base().clone();
    for (at, name) in base.buckets()?.into_iter().enumerate().take(20) {
        let pick = (seed >> (at % 48)) % 7;
        if pick == 0 {
            tx.delete_bucket(name)?;
            continue;
        }
        let keys: Vec<Vec<u8>> = {
            let Some(bucket) = base.bucket(name)? else { continue };
            let mut cursor = bucket.cursor();
            let mut keys = Vec::new();
            while let Some((key, _)) = cursor.next()? {
                if !cursor.is_bucket() {
                    keys.push(key.to_vec());
                }
            }
            keys
        };
        let Some(mut bucket) = tx.bucket(name)? else { continue };
        match pick {
            1 => bucket.apply_sorted(keys.iter().map(|key| (key, None::<&[u8]>)))?,
            2 => bucket.apply_sorted(keys.iter().step_by(3).map(|key| (key, Some([7_u8; 90]))))?,
            3 => {
                for key in keys.iter().step_by(5) {
                    bucket.delete(key)?;
                }
            }
            4 => bucket.put(&seed.to_le_bytes(), &[1; 3000])?,
            _ => {
                if let Some(mut nested) = bucket.bucket(b"nested")? {
                    nested.put(b"x", b"y")?;
                }
                bucket.create_bucket_if_missing(b"new")?.put(b"a", b"b")?;
            }
        }
    }
    tx.create_bucket_if_missing(b"fuzz")?.put(&seed.to_be_bytes(), b"value")?;
    tx.commit().map(|_| ())
}

/// The sound file that damage is done to: every kind of page, small.
pub fn sound_file(page_size: u32, sync_freelist: bool) -> Vec<u8> {
    let disk = SimDisk::new();
    let dir = disk.dir();
    let options = Options { page_size, sync_freelist, grow_bytes: 1, ..Options::default() };
    let db = Db::open(&dir, "db", &options).unwrap();
    for round in 0_u8..3 {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
        let rows: Vec<_> = (0_u16..120)
            .map(|at| ((at * 7 + u16::from(round)).to_be_bytes(), Some([round; 60])))
            .collect();
        bucket.apply_sorted(rows).unwrap();
        bucket.put(b"large", &vec![round; 4000]).unwrap();
        let mut nested = bucket.create_bucket_if_missing(b"nested").unwrap();
        nested.put(b"k", &[9; 20]).unwrap();
        nested.create_bucket_if_missing(b"deeper").unwrap().put(b"inline", b"value").unwrap();
        tx.create_bucket_if_missing(b"meta").unwrap().put(b"index", &[round; 8]).unwrap();
        tx.create_bucket_if_missing(b"empty").unwrap();
        tx.commit().unwrap();
    }
    let mut stream = db.read().copy();
    let mut bytes = vec![0; usize::try_from(stream.len_bytes()).unwrap()];
    stream.read(&mut bytes).unwrap();
    bytes
}
