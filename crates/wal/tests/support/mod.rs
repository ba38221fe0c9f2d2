//! Shared by the tests: fixtures, and logs on simulated disks.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proto::{raftpb, walpb};
use vfs::sim::SimDisk;
use vfs::{Dir, OpenMode};

pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A disk with the fixture's segments in `wal`.
pub(crate) fn fixture(name: &str) -> SimDisk {
    let disk = SimDisk::new();
    let wal = disk.dir().create_subdir("wal").unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let path = entry.unwrap().path();
        let file_name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(segment) = file_name.strip_suffix(".packed") {
            unpack(&wal, segment, &std::fs::read(&path).unwrap());
        }
    }
    wal.sync().unwrap();
    disk.dir().sync().unwrap();
    disk
}

fn unpack(dir: &Arc<dyn Dir>, name: &str, mut packed: &[u8]) {
    fn take<'a>(packed: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = packed.split_at(count);
        *packed = rest;
        taken
    }
    let len_bytes = u64::from_le_bytes(take(&mut packed, 8).try_into().unwrap());
    let file = dir.open(name, OpenMode::Create).unwrap();
    let mut offset = 0;
    while !packed.is_empty() {
        let count = u32::from_le_bytes(take(&mut packed, 4).try_into().unwrap());
        file.write_at(take(&mut packed, count as usize), offset).unwrap();
        offset += u64::from(count);
        let count = u32::from_le_bytes(take(&mut packed, 4).try_into().unwrap());
        let byte = take(&mut packed, 1)[0];
        if byte != 0 {
            file.write_at(&vec![byte; count as usize], offset).unwrap();
        }
        offset += u64::from(count);
    }
    assert_eq!(offset, len_bytes);
    file.set_len(len_bytes).unwrap();
    file.sync_all().unwrap();
}

pub(crate) fn read_file(dir: &Arc<dyn Dir>, name: &str) -> Vec<u8> {
    let file = dir.open(name, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

pub(crate) fn names(dir: &Arc<dyn Dir>) -> Vec<String> {
    dir.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

pub(crate) fn entry(term: u64, index: u64, len_bytes: usize) -> raftpb::Entry {
    // No zero bytes: a value of zeros would be hard to tell from a sector that was never written.
    let byte = u8::try_from(1 + (term % 99 * 31 + index % 99 * 7) % 255).unwrap();
    raftpb::Entry {
        term,
        index,
        data: Some(Bytes::from(vec![byte; len_bytes])),
        ..Default::default()
    }
}

pub(crate) fn state(term: u64, vote: u64, commit: u64) -> raftpb::HardState {
    raftpb::HardState { term, vote, commit }
}

pub(crate) fn snapshot(term: u64, index: u64) -> walpb::Snapshot {
    let conf_state = raftpb::ConfState { voters: vec![1], ..Default::default() };
    walpb::Snapshot { index, term, conf_state: (index > 0).then_some(conf_state) }
}
