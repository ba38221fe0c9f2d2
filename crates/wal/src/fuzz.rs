//! Bodies of the fuzz targets in `fuzz/`, as plain functions: the corpus is replayed by ordinary tests too.
//!
//! Each takes any bytes, and panics when a promise is broken.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::{raftpb, walpb};
use vfs::sim::SimDisk;
use vfs::{Dir, OpenMode};

use crate::frame::{Encoder, kind};
use crate::{Batch, Error, Options, Recovered, Wal, snap};

/// Small, so that a run does not spend its time on reserved zeros.
const OPTIONS: Options = Options { segment_bytes: 16 << 10 };

/// The bytes are the only segment of a log.
pub fn wal_segment(bytes: &[u8]) {
    let disk = SimDisk::new();
    put_segment(&disk, 0, 0, bytes);
    check_log(&disk);
}

/// Two intact segments, in which bytes are changed: triples of offset (two bytes) and what is added to the byte there.
pub fn wal_damage(bytes: &[u8]) {
    let disk = SimDisk::new();
    let mut encoder = Encoder::new(0);
    let mut segments = Vec::new();
    for (seq, first) in [(0, 1), (1, 7)] {
        encoder.crc();
        encoder.metadata(b"\x08\x01\x10\x02");
        for index in first..first + 6 {
            let data = Bytes::from(vec![7; usize::try_from(index * 97).unwrap_or(0)]);
            encoder.entry(&raftpb::Entry {
                term: 1,
                index,
                data: Some(data),
                ..Default::default()
            });
            encoder.hard_state(&raftpb::HardState { term: 1, vote: 1, commit: index - 1 });
        }
        segments.push((seq, first - 1, std::mem::take(&mut encoder.buffer)));
    }
    for change in bytes.chunks_exact(3) {
        if let [low, high, delta] = *change {
            let mut at = usize::from(u16::from_le_bytes([low, high]));
            for (_, _, segment) in &mut segments {
                match segment.get_mut(at) {
                    Some(byte) => {
                        *byte = byte.wrapping_add(delta);
                        break;
                    }
                    None => at -= segment.len(),
                }
            }
        }
    }
    for (seq, index, segment) in segments {
        put_segment(&disk, seq, index, &segment);
    }
    check_log(&disk);
}

/// Well-framed records with any content: pieces of a kind byte, a length byte and that many bytes.
pub fn wal_records(bytes: &[u8]) {
    let mut encoder = Encoder::new(0);
    let mut rest = bytes;
    while let [kind, length, tail @ ..] = rest {
        let (data, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        match i64::from(*kind % 8) {
            kind::CRC => encoder.crc(),
            kind => encoder.raw(kind, data),
        }
        rest = tail;
    }
    wal_segment(&encoder.buffer);
}

/// The bytes are a snapshot file.
pub fn snap_file(bytes: &[u8]) {
    let disk = SimDisk::new();
    let dir = disk.dir();
    let name = snap::file_name(1, 1);
    write(&dir, &name, bytes);
    match snap::load(&dir, &name) {
        Ok(snapshot) => {
            let again = snap::decode(Bytes::from(snap::encode(&snapshot)));
            assert_eq!(again.as_ref(), Ok(&snapshot), "what was read is written back");
            let metadata = &snapshot.metadata;
            let record =
                walpb::Snapshot { index: metadata.index, term: metadata.term, conf_state: None };
            let newest = snap::load_newest(&dir, &[record]).map(|newest| newest.loaded.is_some());
            assert!(matches!(newest, Ok(true)), "a readable file is loaded");
        }
        Err(error) => {
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            let newest = snap::load_newest(&dir, &[]).map(|newest| newest.broken.len());
            assert!(matches!(newest, Ok(1)), "a damaged file is set aside");
        }
    }
}

fn put_segment(disk: &SimDisk, seq: u64, index: u64, bytes: &[u8]) {
    let dir = disk.dir().create_subdir("wal").expect("a simulated disk without faults");
    write(&dir, &crate::segment::SegmentName { seq, index }.to_string(), bytes);
}

fn write(dir: &Arc<dyn Dir>, name: &str, bytes: &[u8]) {
    let file = dir.open(name, OpenMode::Create).expect("a simulated disk without faults");
    file.write_at(bytes, 0).expect("a simulated disk without faults");
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovered), Error> {
    Wal::open(&disk.dir(), "wal", &walpb::Snapshot::default(), &OPTIONS)
}

/// Whatever stands there, it is refused by name, or it is a log that works.
fn check_log(disk: &SimDisk) {
    let snapshots = crate::valid_snapshots(&disk.dir(), "wal");
    let read = crate::read_only(&disk.dir(), "wal", &walpb::Snapshot::default());
    let (mut log, recovered) = match open(disk) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(
                !matches!(error, Error::Io { .. }),
                "damage is not a failure of the system: {error}"
            );
            return;
        }
    };
    assert!(snapshots.is_ok(), "a log that opens says which snapshots it knows: {snapshots:?}");
    let read = read.expect("a log that opens can be read");
    assert_eq!((&read.entries, read.hard_state), (&recovered.entries, recovered.hard_state));

    let last = recovered.entries.last().map_or(0, |entry| entry.index);
    let term =
        recovered.entries.last().map_or(1, |entry| entry.term).max(recovered.hard_state.term);
    // Numbers at their very end leave no room to go on.
    if last == u64::MAX || log.last_index() == u64::MAX || last < recovered.hard_state.commit {
        return;
    }
    let entry = raftpb::Entry {
        term,
        index: last + 1,
        data: Some(Bytes::from_static(b"next")),
        ..Default::default()
    };
    log.append(&Batch { entries: std::slice::from_ref(&entry), hard_state: None })
        .expect("a log that opens goes on");
    drop(log);
    let (_, again) = open(disk).expect("a log that went on opens");
    assert_eq!(again.repair, None, "one repair is enough");
    assert_eq!(again.hard_state, recovered.hard_state);
    assert_eq!(again.entries.last(), Some(&entry));
    assert_eq!(again.entries.len(), recovered.entries.len() + 1);
}

/// Seeds for `wal_records`: one of each kind.
#[must_use]
pub fn wal_records_seed() -> Vec<u8> {
    let mut seed = Vec::new();
    let mut put = |kind: i64, data: Vec<u8>| {
        seed.extend([u8::try_from(kind).unwrap_or(0), u8::try_from(data.len()).unwrap_or(0)]);
        seed.extend(data);
    };
    put(kind::CRC, Vec::new());
    put(kind::METADATA, b"\x08\x01\x10\x02".to_vec());
    put(kind::SNAPSHOT, walpb::Snapshot::default().encode_to_vec());
    for index in 1..4 {
        put(kind::ENTRY, raftpb::Entry { term: 1, index, ..Default::default() }.encode_to_vec());
        put(kind::STATE, raftpb::HardState { term: 1, vote: 1, commit: index }.encode_to_vec());
    }
    let conf_state =
        Some(raftpb::ConfState { voters: vec![1, 2], learners: vec![3], ..Default::default() });
    put(kind::SNAPSHOT, walpb::Snapshot { index: 2, term: 1, conf_state }.encode_to_vec());
    seed
}
