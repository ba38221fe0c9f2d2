//! Random transactions against a `BTreeMap`, with readers that stay, reopenings, and a check of the file after every commit.
//!
//! `BOLT_SEEDS` sets how many histories are run, `BOLT_SEED` runs one, `BOLT_KEEP` names a folder for the files that they end
//! with (to be looked at with other tools).
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::ops::Bound;
use std::sync::Arc;

use bolt::{Db, Options, ReadTx};
use common::{Model, Random, Row, hash_rows, open_path, read_model};
use vfs::Dir;

const KEYS_POOL: usize = 400;

fn key(random: &mut Random, next: &mut u64) -> Vec<u8> {
    match random.below(10) {
        0..=4 => format!("k{:04}", random.below(KEYS_POOL)).into_bytes(),
        5..=7 => {
            *next += 1;
            [&b"r"[..], &next.to_be_bytes()].concat()
        }
        8 => vec![b'b', u8::try_from(random.below(256)).unwrap()],
        _ => {
            let len = 1 + random.below(300);
            random.bytes(len)
        }
    }
}

fn value(random: &mut Random) -> Vec<u8> {
    let len = match random.below(40) {
        0 => 20_000 + random.below(60_000),
        1..=3 => 2_000 + random.below(6_000),
        4..=9 => 200 + random.below(900),
        10 => 0,
        _ => random.below(60),
    };
    random.bytes(len)
}

struct History {
    seed: u64,
    random: Random,
    dir: Arc<dyn Dir>,
    options: Options,
    db: Option<Db>,
    model: Model,
    readers: Vec<(ReadTx, Model)>,
    /// Counts up for keys that are appended.
    next: u64,
}

impl History {
    fn new(seed: u64, dir: Arc<dyn Dir>) -> Self {
        let mut random = Random(seed);
        let page_size = [512, 1024, 4096, 4096, 16384][random.below(5)];
        let options = Options {
            page_size,
            sync_freelist: random.one_in(3),
            grow_bytes: 1 << 16,
            initial_map_bytes: [0, 1 << 22][random.below(2)],
            // Nothing crashes here, and syncing would be most of the time.
            sync: random.one_in(8),
            ..Options::default()
        };
        let db = Db::open(&dir, "db", &options).unwrap();
        let model = Model::default();
        Self { seed, random, dir, options, db: Some(db), model, readers: Vec::new(), next: 0 }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("open between steps")
    }

    fn run(&mut self, transactions: usize) {
        for _ in 0..transactions {
            self.transaction();
            if self.random.one_in(4) && self.readers.len() < 5 {
                self.readers.push((self.db().read(), self.model.clone()));
            }
            if self.random.one_in(3) && !self.readers.is_empty() {
                let at = self.random.below(self.readers.len());
                let (tx, model) = self.readers.swap_remove(at);
                assert_eq!(
                    read_model(&tx).unwrap(),
                    model,
                    "reader of {} (seed {})",
                    tx.tx_id(),
                    self.seed
                );
            }
            if self.random.one_in(25) {
                self.reopen();
            }
        }
        for (tx, model) in self.readers.drain(..) {
            assert_eq!(read_model(&tx).unwrap(), model, "reader at the end (seed {})", self.seed);
        }
        self.reopen();
        assert_eq!(read_model(&self.db().read()).unwrap(), self.model, "seed {}", self.seed);
    }

    fn reopen(&mut self) {
        self.readers.clear();
        // A commit without readers about, so that nothing is pending but what it freed itself.
        let before = self.db().stats();
        self.db = None;
        if self.random.one_in(2) {
            self.options.sync_freelist = !self.options.sync_freelist;
        }
        let db = Db::open(&self.dir, "db", &self.options).unwrap();
        let after = db.stats();
        assert_eq!((after.tx_id, after.size_bytes), (before.tx_id, before.size_bytes));
        let accounted = before.free_pages + before.pending_pages;
        assert_eq!(after.free_pages, accounted, "pages lost or invented (seed {})", self.seed);
        self.db = Some(db);
    }

    fn transaction(&mut self) {
        let mut tx = self.db().write().unwrap();
        let mut model = self.model.clone();
        let random = &mut self.random;
        for _ in 0..=random.below(12) {
            let paths = model.paths();
            if paths.is_empty() || random.one_in(40) {
                let name = format!("bucket{}", random.below(8)).into_bytes();
                tx.create_bucket_if_missing(&name).unwrap();
                model.rows.entry(name).or_insert_with(|| Row::Bucket(Model::default()));
                continue;
            }
            let path = &paths[random.below(paths.len())];
            let rows = model.at(path);
            let mut bucket = open_path(&mut tx, path);
            match random.below(100) {
                0..=29 => {
                    let (key, value) = (key(random, &mut self.next), value(random));
                    if !matches!(rows.rows.get(&key), Some(Row::Bucket(_))) {
                        bucket.put(&key, &value).unwrap();
                        rows.rows.insert(key, Row::Value(value));
                    } else {
                        assert!(matches!(
                            bucket.put(&key, &value),
                            Err(bolt::Error::IncompatibleValue)
                        ));
                    }
                }
                30..=44 => {
                    let key = key(random, &mut self.next);
                    match rows.rows.get(&key) {
                        Some(Row::Bucket(_)) => {
                            assert!(matches!(
                                bucket.delete(&key),
                                Err(bolt::Error::IncompatibleValue)
                            ));
                        }
                        Some(Row::Value(_)) | None => {
                            bucket.delete(&key).unwrap();
                            rows.rows.remove(&key);
                        }
                    }
                }
                45..=64 => {
                    // A batch: puts of new and old keys, some deletes.
                    let mut batch = std::collections::BTreeMap::new();
                    for _ in 0..random.below(200) {
                        let key = key(random, &mut self.next);
                        let change = (!random.one_in(5)).then(|| value(random));
                        if !matches!(rows.rows.get(&key), Some(Row::Bucket(_))) {
                            batch.insert(key, change);
                        }
                    }
                    if random.one_in(2) {
                        bucket.set_fill_percent([0.1, 0.3, 0.9, 1.0][random.below(4)]);
                    }
                    bucket
                        .apply_sorted(batch.iter().map(|(key, value)| (key, value.as_ref())))
                        .unwrap();
                    for (key, change) in batch {
                        match change {
                            Some(value) => rows.rows.insert(key, Row::Value(value)),
                            None => rows.rows.remove(&key),
                        };
                    }
                }
                65..=74 => {
                    // A range of deletes.
                    let from = key(random, &mut self.next);
                    let count = random.below(300);
                    let range = (Bound::Included(from), Bound::Unbounded);
                    let plain = |(key, row): (&Vec<u8>, &Row)| {
                        matches!(row, Row::Value(_)).then(|| key.clone())
                    };
                    let keys: Vec<Vec<u8>> =
                        rows.rows.range(range).filter_map(plain).take(count).collect();
                    bucket.apply_sorted(keys.iter().map(|key| (key, None::<&[u8]>))).unwrap();
                    for key in keys {
                        rows.rows.remove(&key);
                    }
                }
                75..=79 if path.len() < 3 => {
                    let name = format!("k{:04}", random.below(KEYS_POOL)).into_bytes();
                    match rows.rows.get(&name) {
                        None => {
                            bucket.create_bucket(&name).unwrap();
                            rows.rows.insert(name, Row::Bucket(Model::default()));
                        }
                        Some(Row::Bucket(_)) => {
                            assert!(matches!(
                                bucket.create_bucket(&name),
                                Err(bolt::Error::BucketExists)
                            ));
                        }
                        Some(Row::Value(_)) => {
                            assert!(matches!(
                                bucket.create_bucket(&name),
                                Err(bolt::Error::IncompatibleValue)
                            ));
                        }
                    }
                }
                80..=81 => {
                    let nested: Vec<Vec<u8>> = rows
                        .rows
                        .iter()
                        .filter(|(_, row)| matches!(row, Row::Bucket(_)))
                        .map(|(name, _)| name.clone())
                        .collect();
                    if nested.is_empty() {
                        assert!(matches!(
                            bucket.delete_bucket(b"no such"),
                            Err(bolt::Error::BucketNotFound)
                        ));
                    } else {
                        let name = &nested[random.below(nested.len())];
                        bucket.delete_bucket(name).unwrap();
                        rows.rows.remove(name);
                    }
                }
                82 if paths.len() > 4 => {
                    tx.delete_bucket(&path[0]).unwrap();
                    model.rows.remove(&path[0]);
                }
                83 => {
                    let sequence = random.next();
                    bucket.set_sequence(sequence).unwrap();
                    rows.sequence = sequence;
                }
                _ => {
                    for _ in 0..5 {
                        let key = key(random, &mut self.next);
                        let expected = match rows.rows.get(&key) {
                            Some(Row::Value(value)) => Some(value.as_slice()),
                            Some(Row::Bucket(_)) | None => None,
                        };
                        assert_eq!(bucket.get(&key).unwrap(), expected, "seed {}", self.seed);
                    }
                }
            }
        }
        if random.one_in(8) {
            drop(tx);
        } else {
            tx.commit().unwrap();
            self.model = model;
        }
        let tx = self.db().read();
        let problems = tx.check();
        assert!(
            problems.is_empty(),
            "seed {}: {} problems, first: {}",
            self.seed,
            problems.len(),
            problems[0]
        );
        if self.random.one_in(5) {
            assert_eq!(read_model(&tx).unwrap(), self.model, "seed {}", self.seed);
        }
    }
}

fn count(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn run(seed: u64) {
    let real = tempfile::tempdir().unwrap();
    // The simulated disk's maps are copies, the real ones show later writes: both must do.
    let dir = if seed.is_multiple_of(2) {
        vfs::real::RealDir::open(real.path()).unwrap()
    } else {
        vfs::sim::SimDisk::new().dir()
    };
    let mut history = History::new(seed, Arc::clone(&dir));
    history.run(60);
    if let Ok(keep) = std::env::var("BOLT_KEEP") {
        let tx = history.db().read();
        let mut stream = tx.copy();
        let mut bytes = vec![0; usize::try_from(stream.len_bytes()).unwrap()];
        assert_eq!(stream.read(&mut bytes).unwrap(), bytes.len());
        std::fs::write(format!("{keep}/{seed}.copy"), bytes).unwrap();
        if seed.is_multiple_of(2) {
            std::fs::copy(real.path().join("db"), format!("{keep}/{seed}.db")).unwrap();
        }
        let (rows, hash) = hash_rows(&tx).unwrap();
        std::fs::write(format!("{keep}/{seed}.txt"), format!("rows {rows} hash {hash}\n")).unwrap();
    }
}

#[test]
fn random_histories() {
    if let Ok(seed) = std::env::var("BOLT_SEED") {
        return run(seed.parse().unwrap());
    }
    for seed in 0..count("BOLT_SEEDS", 24) {
        run(seed);
    }
}
