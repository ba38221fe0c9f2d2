//! Shared by the tests of this crate: disks with a fixture on them, and the whole content as plain maps.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use backend::schema::Bucket;
use backend::{Options, View};
use vfs::sim::SimDisk;
use vfs::{Dir, OpenMode};

/// Rows of all buckets.
pub(crate) type Content = BTreeMap<(Bucket, Vec<u8>), Vec<u8>>;

pub(crate) fn options() -> Options {
    Options { page_size: 4096, initial_map_bytes: 0, sync: true }
}

pub(crate) fn read_fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// A disk whose root holds the bytes under `name`.
pub(crate) fn disk_with(name: &str, bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    put_file(&disk.dir(), name, bytes);
    disk
}

pub(crate) fn put_file(dir: &Arc<dyn Dir>, name: &str, bytes: &[u8]) {
    let file = dir.open(name, OpenMode::Create).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    dir.sync().unwrap();
}

/// Everything that a view sees.
pub(crate) fn content(view: &View) -> Content {
    let mut content = Content::new();
    for bucket in Bucket::ALL {
        let mut last: Option<Vec<u8>> = None;
        for row in view.scan(bucket, &[], None).unwrap() {
            let (key, value) = row.unwrap();
            assert!(last.as_deref() < Some(&*key), "{bucket}: keys ascend");
            last = Some(key.to_vec());
            content.insert((bucket, key.to_vec()), value.to_vec());
        }
    }
    content
}

/// Without the two rows that a commit adds by itself.
pub(crate) fn without_index(mut content: Content) -> Content {
    content.remove(&(Bucket::Meta, b"consistent_index".to_vec()));
    content.remove(&(Bucket::Meta, b"term".to_vec()));
    content
}
