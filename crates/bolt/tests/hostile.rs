//! Files that nobody should have written: bit flips, truncations, loops, lies. No panic, no hang, damage is named.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use bolt::{Db, Error, Options, fuzz};
use common::Random;
use vfs::OpenMode;
use vfs::sim::SimDisk;

fn rounds(default: usize) -> usize {
    std::env::var("BOLT_HOSTILE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn damaged_files_never_panic() {
    for (page_size, sync_freelist) in [(512, true), (1024, false), (4096, true)] {
        let base = fuzz::sound_file(page_size, sync_freelist);
        let size = usize::try_from(page_size).unwrap();
        let mut random = Random(u64::from(page_size));
        for _ in 0..rounds(700) {
            let mut script = Vec::new();
            for _ in 0..=random.below(5) {
                let page = random.below(base.len() / size);
                // Headers and element tables matter most.
                let within = if random.one_in(4) { random.below(size) } else { random.below(100) };
                let value = match random.below(4) {
                    0 => u8::try_from(random.below(256)).unwrap(),
                    1 => u8::try_from(random.below(base.len() / size).min(255)).unwrap(),
                    2 => 0xff,
                    _ => u8::try_from(random.below(5)).unwrap(),
                };
                script
                    .extend_from_slice(&u32::try_from(page * size + within).unwrap().to_le_bytes());
                script.push(value);
            }
            fuzz::damage(&base, size, &script);
        }
    }
}

#[test]
fn corpus_is_replayed() {
    let corpus = format!("{}/../../fuzz/corpus", env!("CARGO_MANIFEST_DIR"));
    for (name, body) in
        [("bolt_open", fuzz::bolt_open as fn(&[u8])), ("bolt_damage", fuzz::bolt_damage)]
    {
        let mut count = 0;
        for entry in std::fs::read_dir(format!("{corpus}/{name}")).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has seeds");
    }
}

#[test]
fn cut_off_files_never_panic() {
    let base = fuzz::sound_file(512, true);
    let mut random = Random(4);
    for _ in 0..rounds(200) {
        fuzz::bolt_open(&base[..random.below(base.len())]);
    }
    fuzz::bolt_open(&[]);
    fuzz::bolt_open(&[0xff; 9000]);
}

fn open(data: &[u8], read_only: bool) -> Result<Db, Error> {
    let dir = SimDisk::new().dir();
    dir.open("db", OpenMode::Create).unwrap().write_at(data, 0).unwrap();
    Db::open(&dir, "db", &Options { read_only, ..Options::default() })
}

fn corrupt(result: Result<Db, Error>) -> (u64, u64, String) {
    match result {
        Err(Error::Corrupt { file, page, offset, what }) => {
            assert!(file.ends_with("db"), "{file}");
            (page, offset, what)
        }
        other => panic!("{other:?}"),
    }
}

/// A tree with a loop in it: a branch whose child is itself. etcd issue 20271 is of this kind.
#[test]
fn loop_in_a_tree_is_named() {
    let mut base = fuzz::sound_file(1024, false);
    // The last one: earlier ones may be of states that are gone.
    let branch = (2..base.len() / 1024)
        .rev()
        .find(|page| {
            let at = page * 1024;
            base[at..at + 8] == (*page as u64).to_le_bytes() && base[at + 8..at + 10] == [1, 0]
        })
        .expect("the base has a branch page");
    let child = branch * 1024 + 16 + 8;
    base[child..child + 8].copy_from_slice(&(branch as u64).to_le_bytes());
    let (page, offset, what) = corrupt(open(&base, false));
    assert_eq!((page, offset), (branch as u64, branch as u64 * 1024));
    assert_eq!(what, "page has two references");
    // For reading only, nothing is walked at open; the walk itself finds it.
    let db = open(&base, true).unwrap();
    assert!(!db.read().check().is_empty());
    let tx = db.read();
    let mut found = None;
    for name in tx.buckets().unwrap() {
        let mut cursor = tx.bucket(name).unwrap().unwrap().cursor();
        loop {
            match cursor.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    found = Some(error);
                    break;
                }
            }
        }
    }
    let Some(Error::Corrupt { what, .. }) = found else { panic!("{found:?}") };
    assert!(what.contains("cycle"), "{what}");
}

#[test]
fn messages_name_the_damage() {
    let base = fuzz::sound_file(1024, false);
    // Both metas gone.
    let mut data = base.clone();
    data[20] ^= 1;
    data[1024 + 20] ^= 1;
    assert_eq!(corrupt(open(&data, false)), (0, 0, "neither meta page is valid".to_owned()));
    // One meta gone: the other counts.
    let mut data = base.clone();
    data[20] ^= 1;
    let db = open(&data, false).unwrap();
    assert_eq!(db.opened().valid_metas, 1);
    // The file is shorter than promised.
    let (page, _, what) = corrupt(open(&base[..base.len() - 1], false));
    assert_eq!(page, 0);
    assert!(what.contains("are promised"), "{what}");
    // An element that points outside its page.
    let mut data = base.clone();
    let leaf = (2..base.len() / 1024)
        .rev()
        .find(|page| {
            let at = page * 1024;
            base[at..at + 8] == (*page as u64).to_le_bytes()
                && base[at + 8] == 2
                && base[at + 10] > 4
        })
        .expect("the base has full leaves");
    let count = base[leaf * 1024 + 10];
    data[leaf * 1024 + 16 + 12 + 3] = 0x7f;
    let problems = open(&data, true).unwrap().read().check();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(
        problems[0].to_string(),
        format!("page {leaf}: element 0 of {count} reaches outside the page")
    );
}

#[test]
fn a_file_that_a_crash_left_half_made_is_made_again() {
    let dir = SimDisk::new().dir();
    let file = dir.open("db", OpenMode::Create).unwrap();
    file.set_len(4 * 4096).unwrap();
    drop(file);
    let db = Db::open(&dir, "db", &Options::default()).unwrap();
    assert!(db.opened().created);
    drop(db);
    // But not one with anything else in it, and not for reading only.
    let (_, _, what) = corrupt(open(&[&[0; 4096][..], b"something"].concat(), false));
    assert_eq!(what, "neither meta page is valid");
    corrupt(open(&[0; 4096], true));
}
