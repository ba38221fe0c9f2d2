//! Logs and snapshots that real etcd wrote, with its own verdicts on damaged ones.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

mod support;

use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb, raftpb, walpb};
use support::{fixture, fixtures, names, read_file};
use vfs::OpenMode;
use vfs::sim::SimDisk;
use wal::{Batch, Error, Options, Recovered, Wal, snap};

const FIRST: &str = "0000000000000000-0000000000000000.wal";

struct Expected {
    fixture: &'static str,
    node_id: u64,
    hard_state: (u64, u64, u64),
    last: (u64, u64),
    snapshots: &'static [(u64, u64)],
    /// Where the last good record ends in the last segment.
    end: u64,
    is_torn: bool,
}

/// As `waldump.py` computes it, which shares no code with this crate.
const EXPECTED: &[Expected] = &[
    Expected {
        fixture: "rich-3.5.30",
        node_id: 0x508e_d529_2be9_39a9,
        hard_state: (3, 5804811342534228393, 195),
        last: (195, 3),
        snapshots: &[(0, 0), (61, 2), (122, 3), (183, 3)],
        end: 39912,
        is_torn: false,
    },
    Expected {
        fixture: "rich-3.5.16",
        node_id: 0x94d8_8059_d35f_2149,
        hard_state: (3, 10725463635869507913, 195),
        last: (195, 3),
        snapshots: &[(0, 0), (61, 2), (122, 3), (183, 3)],
        end: 40896,
        is_torn: false,
    },
    Expected {
        fixture: "killed-3.5.30",
        node_id: KILLED_NODE,
        hard_state: (2, KILLED_NODE, 39),
        last: (39, 2),
        snapshots: &[(0, 0)],
        end: 27712,
        is_torn: false,
    },
    Expected { fixture: "torn-garbage-after-end-3.5.30", end: 27712, is_torn: false, ..TORN },
    Expected { fixture: "torn-zerosector-3.5.30", ..TORN_LOST },
    Expected { fixture: "torn-zerorest-3.5.30", ..TORN_LOST },
    Expected { fixture: "torn-truncated-3.5.30", ..TORN_LOST },
    Expected {
        fixture: "multiseg-3.5.30",
        node_id: 0xc278_b848_c789_ccf5,
        hard_state: (2, 14013152863288151285, 170),
        last: (170, 2),
        snapshots: &[(0, 0), (71, 2), (142, 2)],
        end: 32_004_000,
        is_torn: false,
    },
];

const KILLED_NODE: u64 = 0x33fd_f9f7_d59c_1eea;

const TORN: Expected = Expected {
    fixture: "",
    node_id: KILLED_NODE,
    hard_state: (2, KILLED_NODE, 39),
    last: (39, 2),
    snapshots: &[(0, 0)],
    end: 0,
    is_torn: true,
};

/// The last put (revision 32) is gone.
const TORN_LOST: Expected =
    Expected { hard_state: (2, KILLED_NODE, 38), last: (38, 2), end: 24624, ..TORN };

fn open(disk: &SimDisk) -> Result<(Wal, Recovered), Error> {
    Wal::open(&disk.dir(), "wal", &walpb::Snapshot::default(), &Options::default())
}

fn check(expected: &Expected, recovered: &Recovered) {
    let name = expected.fixture;
    let metadata = etcdserverpb::Metadata::decode(recovered.metadata.clone()).unwrap();
    assert_eq!(metadata.node_id, expected.node_id, "{name}");
    let (term, vote, commit) = expected.hard_state;
    assert_eq!(recovered.hard_state, raftpb::HardState { term, vote, commit }, "{name}");
    let last = recovered.entries.last().unwrap();
    assert_eq!((last.index, last.term), expected.last, "{name}");
    let indexes = recovered.entries.iter().map(|entry| entry.index);
    assert!(indexes.eq(1..=expected.last.0), "{name}");
    assert_eq!(
        recovered.repair.as_ref().map(|repair| repair.offset),
        expected.is_torn.then_some(expected.end),
        "{name}"
    );
    assert!(recovered.snapshot_found, "{name}");
}

#[test]
fn real_logs_are_read_and_real_verdicts_agreed_with() {
    for expected in EXPECTED {
        let name = expected.fixture;
        let disk = fixture(name);
        let before = names(&disk.dir().subdir("wal").unwrap());

        let snapshots = wal::valid_snapshots(&disk.dir(), "wal").unwrap();
        let snapshots: Vec<(u64, u64)> =
            snapshots.iter().map(|snapshot| (snapshot.index, snapshot.term)).collect();
        assert_eq!(snapshots, expected.snapshots, "{name}");
        check(expected, &wal::read_only(&disk.dir(), "wal", &walpb::Snapshot::default()).unwrap());
        assert_eq!(
            names(&disk.dir().subdir("wal").unwrap()),
            before,
            "{name}: reading changes nothing"
        );

        let (wal, recovered) = open(&disk).unwrap();
        check(expected, &recovered);
        drop(wal);
        let dir = disk.dir().subdir("wal").unwrap();
        let last_segment = before.last().unwrap();
        let copy = format!("{last_segment}.broken");
        assert_eq!(
            names(&dir).contains(&copy),
            expected.is_torn,
            "{name}: torn logs are copied before the repair"
        );
        if expected.is_torn {
            let original = fixture(name);
            let original = read_file(&original.dir().subdir("wal").unwrap(), last_segment);
            assert!(read_file(&dir, &copy) == original, "{name}");
        }
        let tail = dir.open(last_segment, OpenMode::Read).unwrap();
        assert_eq!(tail.len_bytes().unwrap(), 64_000_000, "{name}");
        let mut behind = vec![1; 1 << 20];
        tail.read_at(&mut behind, expected.end).unwrap();
        assert!(behind.iter().all(|&byte| byte == 0), "{name}: only zeros behind the end");

        let (_wal, recovered) = open(&disk).unwrap();
        check(&Expected { is_torn: false, ..*expected }, &recovered);
    }
}

#[test]
fn a_flipped_bit_is_refused_with_file_and_offset() {
    let disk = fixture("corrupt-bitflip-3.5.30");
    let attempts = [
        open(&disk).map(|_| ()),
        wal::valid_snapshots(&disk.dir(), "wal").map(|_| ()),
        wal::read_only(&disk.dir(), "wal", &walpb::Snapshot::default()).map(|_| ()),
    ];
    for attempt in attempts {
        let error = attempt.unwrap_err();
        let Error::Corrupt { file, offset, what } = &error else { panic!("{error}") };
        assert!(file.ends_with(FIRST), "{file}");
        assert_eq!(*offset, 24624);
        assert!(what.starts_with("walpb: crc mismatch"), "{what}");
    }
    assert_eq!(
        names(&disk.dir().subdir("wal").unwrap()),
        [FIRST],
        "nothing is repaired, nothing copied"
    );
}

/// Found by writing garbage over the head of a log: etcd's rule takes the word for a torn tail, and everything behind it,
/// acknowledged or not, for lost.
#[test]
fn cve_2022_34038_a_length_that_no_writer_makes_is_refused_and_nothing_is_cut_off() {
    let disk = fixture("killed-3.5.30");
    let wal_dir = disk.dir().subdir("wal").unwrap();
    wal_dir.open(FIRST, OpenMode::ReadWrite).unwrap().write_at(b"XXXXXXXX", 16).unwrap();
    let before = read_file(&wal_dir, FIRST);
    let error = open(&disk).unwrap_err();
    let Error::Corrupt { file, offset: 16, what } = &error else { panic!("{error}") };
    assert!(file.ends_with(FIRST) && what.contains("no length"), "{error}");
    assert_eq!(names(&wal_dir), [FIRST], "nothing is repaired, nothing copied");
    assert!(read_file(&wal_dir, FIRST) == before, "the log is as it was");
}

#[test]
fn a_start_in_a_later_segment_reads_only_what_is_behind_it() {
    let disk = fixture("multiseg-3.5.30");
    for index in [71, 142] {
        let start = walpb::Snapshot { index, term: 2, conf_state: None };
        let (wal, recovered) = Wal::open(&disk.dir(), "wal", &start, &Options::default()).unwrap();
        assert!(recovered.snapshot_found);
        assert!(recovered.entries.iter().map(|entry| entry.index).eq(index + 1..=170));
        assert_eq!(recovered.hard_state.commit, 170);
        drop(wal);
        // Older segments are not even opened.
        let dir = disk.dir().subdir("wal").unwrap();
        let oldest = names(&dir).remove(0);
        dir.remove(&oldest).unwrap();
        Wal::open(&disk.dir(), "wal", &start, &Options::default()).unwrap();
    }
    let wrong_term = walpb::Snapshot { index: 142, term: 3, conf_state: None };
    let error = Wal::open(&disk.dir(), "wal", &wrong_term, &Options::default()).unwrap_err();
    assert!(
        matches!(error, Error::SnapshotMismatch { index: 142, found: 2, wanted: 3, .. }),
        "{error}"
    );
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// Frames of a segment, by a reader of the test's own.
fn records(bytes: &[u8]) -> Vec<walpb::Record> {
    let mut records = Vec::new();
    let mut at = 0;
    loop {
        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        if word == 0 {
            return records;
        }
        let length = usize::try_from(word & ((1 << 56) - 1)).unwrap();
        records.push(walpb::Record::decode(&bytes[at + 8..at + 8 + length]).unwrap());
        at += (8 + length).next_multiple_of(8);
    }
}

/// The same records in the same order give etcd's bytes, so what it reads of its own it reads of ours.
#[test]
fn our_bytes_are_etcds_bytes() {
    for name in ["rich-3.5.30", "rich-3.5.16", "killed-3.5.30"] {
        let source = fixture(name);
        let theirs = read_file(&source.dir().subdir("wal").unwrap(), FIRST);
        let disk = SimDisk::new();
        let mut log = None;
        for record in records(&theirs) {
            let data = record.data.unwrap_or_default();
            match record.r#type {
                1 => {
                    log = Some(Wal::create(&disk.dir(), "wal", data, &Options::default()).unwrap())
                }
                2 => {
                    let entry = raftpb::Entry::decode(data).unwrap();
                    log.as_mut()
                        .unwrap()
                        .append(&Batch { entries: &[entry], hard_state: None })
                        .unwrap();
                }
                3 => {
                    let hard_state = Some(raftpb::HardState::decode(data).unwrap());
                    log.as_mut().unwrap().append(&Batch { entries: &[], hard_state }).unwrap();
                }
                4 => {}
                5 => {
                    let snapshot = walpb::Snapshot::decode(data).unwrap();
                    // The first one is part of a new log.
                    if snapshot.index > 0 {
                        log.as_mut().unwrap().save_snapshot(&snapshot).unwrap();
                    }
                }
                other => panic!("{other}"),
            }
        }
        log.unwrap().close().unwrap();
        let ours = read_file(&disk.dir().subdir("wal").unwrap(), FIRST);
        assert_eq!(ours.len(), theirs.len(), "{name}");
        assert!(ours == theirs, "{name}");
    }
}

#[test]
fn real_snapshot_files_are_read_and_written_alike() {
    let disk = SimDisk::new();
    let dir = disk.dir();
    let mut files = Vec::new();
    for (term, index) in [(2, 0x3d), (3, 0x7a), (3, 0xb7)] {
        let name = snap::file_name(term, index);
        let bytes = std::fs::read(fixtures().join("rich-3.5.30").join(&name)).unwrap();
        let snapshot = snap::decode(Bytes::from(bytes.clone())).unwrap();
        assert_eq!((snapshot.metadata.term, snapshot.metadata.index), (term, index));
        assert!(snapshot.data.as_ref().unwrap().starts_with(b"{\"Root\":"));
        assert_eq!(snap::encode(&snapshot), bytes);
        assert_eq!(snap::save(&dir, &snapshot).unwrap().as_ref(), Some(&name));
        assert_eq!(read_file(&dir, &name), bytes);
        files.push(name);
    }
    let log = fixture("rich-3.5.30");
    let valid = wal::valid_snapshots(&log.dir(), "wal").unwrap();
    assert_eq!(snap::load_newest(&dir, &valid).unwrap().loaded.unwrap().name, files[2]);
    let newest = valid.last().unwrap();
    let snapshot = snap::load(&dir, &files[2]).unwrap();
    assert_eq!(
        newest.conf_state.as_ref(),
        Some(&snapshot.metadata.conf_state),
        "the pair agrees on the members"
    );
}

/// Every single bit of a real log: flipped, it is refused, or changes nothing that is checked, or ends the log as a torn
/// write would. It never gives other entries.
#[test]
fn no_flipped_bit_gives_other_entries() {
    let source = fixture("killed-3.5.30");
    let (_, truth) = open(&source.fork()).unwrap();
    let end: usize = 27712;
    let dir = source.dir().subdir("wal").unwrap();
    let mut bytes = read_file(&dir, FIRST);
    bytes.truncate(end + 512);
    let (mut refused, mut shorter, mut same) = (0, 0, 0);
    // Every byte of the first records, where all kinds are, and a sample of the rest.
    for bit in (0..end * 8).filter(|bit| *bit < 2000 * 8 || bit % 61 == 0) {
        let disk = SimDisk::new();
        let wal = disk.dir().create_subdir("wal").unwrap();
        wal.open(FIRST, OpenMode::Create).unwrap().write_at(&bytes, 0).unwrap();
        disk.flip_bit(&format!("wal/{FIRST}"), bit as u64).unwrap();
        match Wal::open(
            &disk.dir(),
            "wal",
            &walpb::Snapshot::default(),
            &Options { segment_bytes: 64 << 10 },
        ) {
            Err(Error::Corrupt { file, .. }) => {
                assert!(file.ends_with(FIRST));
                refused += 1;
            }
            Err(error) => panic!("bit {bit}: {error}"),
            Ok((_, recovered)) => {
                assert!(truth.entries.starts_with(&recovered.entries), "bit {bit}");
                assert_eq!(recovered.metadata, truth.metadata, "bit {bit}");
                if recovered.entries.len() == truth.entries.len() {
                    same += 1;
                } else {
                    shorter += 1;
                }
            }
        }
    }
    // Length words and padding have no checksum: what etcd makes of them, we make of them.
    assert!(
        refused > 10 * (shorter + same),
        "{refused} refused, {shorter} shorter, {same} the same"
    );
}
