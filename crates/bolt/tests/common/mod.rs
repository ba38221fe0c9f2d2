//! What the tests of this crate share: a model of nested buckets, random numbers, whole-state comparison and hash.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use bolt::{Bucket, BucketMut, Cursor, Error, ReadTx, WriteTx};
use sha2::{Digest, Sha256};

/// SplitMix64: the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.next().to_le_bytes();
        (0..len).map(|at| seed[at % 8] ^ u8::try_from(at / 8 % 251).unwrap()).collect()
    }
}

/// A bucket as a plain map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub sequence: u64,
    pub rows: BTreeMap<Vec<u8>, Row>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    Value(Vec<u8>),
    Bucket(Model),
}

impl Model {
    pub fn at(&mut self, path: &[Vec<u8>]) -> &mut Model {
        let mut model = self;
        for name in path {
            model = match model.rows.get_mut(name) {
                Some(Row::Bucket(nested)) => nested,
                Some(Row::Value(_)) | None => panic!("no bucket {name:?}"),
            };
        }
        model
    }

    /// Paths of all buckets in it.
    pub fn paths(&self) -> Vec<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        for (name, row) in &self.rows {
            if let Row::Bucket(nested) = row {
                paths.push(vec![name.clone()]);
                for mut path in nested.paths() {
                    path.insert(0, name.clone());
                    paths.push(path);
                }
            }
        }
        paths
    }
}

/// Reads a whole state into a model.
pub fn read_model(tx: &ReadTx) -> Result<Model, Error> {
    let mut model = Model::default();
    for name in tx.buckets()? {
        let bucket = tx.bucket(name)?.expect("a listed bucket is there");
        model.rows.insert(name.to_vec(), Row::Bucket(read_bucket(&bucket)?));
    }
    Ok(model)
}

fn read_bucket(bucket: &Bucket<'_>) -> Result<Model, Error> {
    let mut model = Model { sequence: bucket.sequence(), ..Model::default() };
    let mut cursor: Cursor<'_> = bucket.cursor();
    while let Some((key, value)) = cursor.next()? {
        let row = if cursor.is_bucket() {
            Row::Bucket(read_bucket(&bucket.bucket(key)?.expect("a listed bucket is there"))?)
        } else {
            Row::Value(value.to_vec())
        };
        model.rows.insert(key.to_vec(), row);
    }
    Ok(model)
}

/// Hash over depth, kind, lengths, keys and values of all rows in order: what `tools` in other languages can compute too.
pub fn hash_rows(tx: &ReadTx) -> Result<(usize, String), Error> {
    fn add(hash: &mut Sha256, model: &Model, depth: u8) -> usize {
        let mut rows = 0;
        for (key, row) in &model.rows {
            rows += 1;
            let (kind, value): (u8, &[u8]) = match row {
                Row::Value(value) => (0, value),
                Row::Bucket(_) => (0x80, &[]),
            };
            hash.update([depth | kind]);
            hash.update((key.len() as u64).to_le_bytes());
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(key);
            hash.update(value);
            if let Row::Bucket(nested) = row {
                rows += add(hash, nested, depth + 1);
            }
        }
        rows
    }
    let mut hash = Sha256::new();
    let rows = add(&mut hash, &read_model(tx)?, 0);
    let hex: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok((rows, hex))
}

/// Opens a bucket by its path.
pub fn open_path<'tx>(tx: &'tx mut WriteTx, path: &[Vec<u8>]) -> BucketMut<'tx> {
    let mut bucket = tx.bucket(&path[0]).unwrap().expect("the model says it is there");
    for name in &path[1..] {
        bucket = bucket.into_bucket(name).unwrap().expect("the model says it is there");
    }
    bucket
}
