//! One behaviour a test: locks, cuts, purging, failures, and logs made by hand.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::{raftpb, walpb};
use support::{entry, names, read_file, snapshot, state};
use vfs::real::RealDir;
use vfs::sim::{Fault, FaultKind, LoseAll, SimDisk};
use vfs::{Dir, OpenMode};
use wal::{Appended, Batch, Error, Options, Wal};

const METADATA: Bytes = Bytes::from_static(b"\x08\x01\x10\x02");
const SMALL: Options = Options { segment_bytes: 2_000 };

fn create(disk: &SimDisk) -> Wal {
    Wal::create(&disk.dir(), "wal", METADATA, &SMALL).unwrap()
}

fn open(disk: &SimDisk) -> Result<(Wal, wal::Recovered), Error> {
    Wal::open(&disk.dir(), "wal", &walpb::Snapshot::default(), &SMALL)
}

fn segments(dir: &Arc<dyn Dir>) -> Vec<String> {
    names(&dir.subdir("wal").unwrap()).into_iter().filter(|name| name.ends_with(".wal")).collect()
}

/// Appends entries of 300 bytes, one batch each.
fn append(log: &mut Wal, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        let hard_state = Some(state(1, 1, index - 1));
        log.append(&Batch { entries: &[entry(1, index, 300)], hard_state }).unwrap();
    }
}

#[test]
fn a_new_log_is_durable_and_private_until_it_is_complete() {
    let disk = SimDisk::new();
    assert!(!wal::exists(&disk.dir(), "wal").unwrap());
    // What a crash in the middle of an earlier attempt left.
    disk.dir().create_subdir("wal.tmp").unwrap().open("junk", OpenMode::Create).unwrap();
    disk.dir().create_subdir("wal").unwrap();
    drop(create(&disk));
    disk.crash(&mut LoseAll);
    assert_eq!(names(&disk.dir()), ["wal"]);
    assert!(wal::exists(&disk.dir(), "wal").unwrap());
    let (_log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.metadata, METADATA);
    assert_eq!(recovered.hard_state, raftpb::HardState::default());
    assert!(recovered.entries.is_empty() && recovered.snapshot_found);
    let error = Wal::create(&disk.dir(), "wal", METADATA, &SMALL).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
}

/// TOB-013: etcd stopped when a log was read that had just been made. Here a log is written or recovered, never both, by type.
#[test]
fn tob_013_a_log_that_was_just_made_is_read() {
    let disk = SimDisk::new();
    let log = create(&disk);
    let found = wal::read_only(&disk.dir(), "wal", &walpb::Snapshot::default()).unwrap();
    assert_eq!((found.metadata, found.entries.len()), (METADATA, 0));
    drop(log);
    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.metadata, recovered.entries.len()), (METADATA, 0));
    append(&mut log, 1..=1);
    drop(log);
    assert_eq!(open(&disk).unwrap().1.entries.len(), 1);
}

#[test]
fn a_second_process_is_kept_out() {
    let disk = SimDisk::new();
    let log = create(&disk);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    wal::read_only(&disk.dir(), "wal", &walpb::Snapshot::default()).unwrap();
    drop(log);
    open(&disk).unwrap();
}

#[test]
fn segments_are_named_after_what_comes_next_and_end_where_they_end() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    let mut cuts = 0;
    for index in 1..=20 {
        let appended =
            log.append(&Batch { entries: &[entry(1, index, 300)], hard_state: None }).unwrap();
        assert!(appended.synced);
        cuts += usize::from(appended.cut);
    }
    let segments = segments(&disk.dir());
    assert_eq!(segments.len(), cuts + 1);
    assert_eq!(segments[1], "0000000000000001-0000000000000007.wal");
    let dir = disk.dir().subdir("wal").unwrap();
    for (place, name) in segments.iter().enumerate() {
        let len_bytes = dir.open(name, OpenMode::Read).unwrap().len_bytes().unwrap();
        assert_eq!(len_bytes == SMALL.segment_bytes, place == cuts, "{name} has {len_bytes} bytes");
    }
    drop(log);
    let (_, recovered) = open(&disk).unwrap();
    assert!(recovered.entries.iter().map(|entry| entry.index).eq(1..=20));
}

#[test]
fn a_commit_alone_waits_for_the_next_sync() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    append(&mut log, 1..=2);
    let commit = |log: &mut Wal, commit| {
        log.append(&Batch { entries: &[], hard_state: Some(state(1, 1, commit)) }).unwrap()
    };
    assert_eq!(commit(&mut log, 2), Appended { synced: false, cut: false });
    assert!(log.staged_bytes() > 0);
    let left = |disk: &SimDisk| {
        let image = disk.crash_image(&mut LoseAll);
        open(&image).unwrap().1.hard_state
    };
    assert_eq!(left(&disk), state(1, 1, 1));
    log.sync().unwrap();
    assert_eq!(left(&disk), state(1, 1, 2));
    // A vote, though, is a promise.
    let vote = Batch { entries: &[], hard_state: Some(state(1, 3, 2)) };
    assert_eq!(log.append(&vote).unwrap(), Appended { synced: true, cut: false });
    assert_eq!(left(&disk), state(1, 3, 2));
    // An empty hard state says that nothing changed.
    log.append(&Batch { entries: &[], hard_state: Some(raftpb::HardState::default()) }).unwrap();
    assert_eq!(log.staged_bytes(), 0);
}

#[test]
fn staged_batches_share_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    disk.record();
    for index in 1..=5 {
        log.stage(&Batch {
            entries: &[entry(1, index, 100)],
            hard_state: Some(state(1, 1, index - 1)),
        });
    }
    log.commit().unwrap();
    assert_eq!(disk.take_journal().ops().len(), 2);
}

#[test]
fn released_segments_are_purged_and_held_ones_are_not() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    append(&mut log, 1..=30);
    // Names: 1, then every sixth entry or so.
    let firsts: Vec<u64> = segments(&disk.dir())
        .iter()
        .map(|name| u64::from_str_radix(&name[17..33], 16).unwrap())
        .collect();
    assert!(firsts.len() > 4, "{firsts:?}");
    assert_eq!(wal::purge(&disk.dir(), "wal", 1).unwrap(), [""; 0], "all are held");
    log.save_snapshot(&snapshot(1, firsts[3])).unwrap();
    log.release_to(firsts[3]);
    assert_eq!(wal::purge(&disk.dir(), "wal", 0).unwrap(), [""; 0], "0 keeps all");
    assert_eq!(
        wal::purge(&disk.dir(), "wal", firsts.len() - 1).unwrap().len(),
        1,
        "only what is above the limit"
    );
    // The segment that begins at the snapshot's index may be preceded by one whose last entry it is.
    assert_eq!(wal::purge(&disk.dir(), "wal", 1).unwrap().len(), 1);
    drop(log);
    let (_, recovered) = Wal::open(&disk.dir(), "wal", &snapshot(1, firsts[3]), &SMALL).unwrap();
    assert!(recovered.entries.iter().map(|entry| entry.index).eq(firsts[3] + 1..=30));
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("wal: file not found"), "{error}");
}

#[test]
fn nothing_follows_a_failed_write_or_sync() {
    for kind in [FaultKind::Write, FaultKind::Sync] {
        let disk = SimDisk::new();
        let mut log = create(&disk);
        append(&mut log, 1..=1);
        disk.inject(Fault::once(kind, 0));
        let batch = [entry(1, 2, 300)];
        let batch = Batch { entries: &batch, hard_state: None };
        let error = log.append(&batch).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(matches!(log.append(&batch).unwrap_err(), Error::Failed { .. }));
        assert!(matches!(log.sync().unwrap_err(), Error::Failed { .. }));
        assert!(matches!(log.save_snapshot(&snapshot(1, 1)).unwrap_err(), Error::Failed { .. }));
        drop(log);
        disk.crash(&mut LoseAll);
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.entries.len(), 1);
    }
}

#[test]
fn a_failed_cut_stops_the_log_and_loses_nothing() {
    for (kind, skip) in
        [(FaultKind::Sync, 1), (FaultKind::Sync, 2), (FaultKind::Write, 1), (FaultKind::SyncDir, 0)]
    {
        let disk = SimDisk::new();
        let mut log = create(&disk);
        disk.inject(Fault::once(kind, skip));
        let entries: Vec<_> = (1..=8).map(|index| entry(1, index, 300)).collect();
        let error = log.append(&Batch { entries: &entries, hard_state: None }).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{kind:?} {skip}: {error}");
        assert!(matches!(log.sync().unwrap_err(), Error::Failed { .. }));
        drop(log);
        disk.crash(&mut LoseAll);
        let (mut log, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.entries, entries, "{kind:?} {skip}");
        append(&mut log, 9..=9);
    }
}

#[test]
fn a_full_disk_loses_nothing_and_does_not_keep_a_member_from_starting() {
    let disk = SimDisk::new();
    let options = Options { segment_bytes: 1 << 20 };
    let mut log = Wal::create(&disk.dir(), "wal", METADATA, &options).unwrap();
    append(&mut log, 1..=3);
    disk.set_capacity(Some(disk.used_bytes()));
    // What is reserved is there to be used.
    append(&mut log, 4..=6);
    assert!(log.preallocator().run().is_err(), "there is no room for the next segment");
    append(&mut log, 7..=7);
    let big = [entry(1, 8, 2 << 20)];
    log.append(&Batch { entries: &big, hard_state: None }).unwrap_err();
    drop(log);
    disk.kill();
    let start = walpb::Snapshot::default();
    // The large entry was cut short by the end of the disk: torn, and a copy of it does not fit either.
    disk.set_capacity(None);
    let (log, recovered) = Wal::open(&disk.dir(), "wal", &start, &options).unwrap();
    assert_eq!(recovered.entries.len(), 7);
    drop(log);
    disk.set_capacity(Some(0));
    let (_log, recovered) = Wal::open(&disk.dir(), "wal", &start, &options).unwrap();
    assert_eq!(recovered.entries.len(), 7);
}

#[test]
fn a_reserved_segment_is_taken_at_the_cut_whatever_stood_in_it() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    log.preallocator().run().unwrap();
    log.preallocator().run().unwrap();
    assert_eq!(names(&disk.dir().subdir("wal").unwrap())[0], "0.tmp");
    append(&mut log, 1..=6);
    assert_eq!(segments(&disk.dir()).len(), 2);
    assert!(!names(&disk.dir().subdir("wal").unwrap()).contains(&"0.tmp".to_owned()));
    log.preallocator().run().unwrap();
    // An old process left this: it must not show behind the new head.
    drop(log);
    let dir = disk.dir().subdir("wal").unwrap();
    dir.open("0.tmp", OpenMode::Create).unwrap().write_at(&[7; 1000], 0).unwrap();
    let (mut log, _) = open(&disk).unwrap();
    assert_eq!(names(&dir).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
    dir.open("0.tmp", OpenMode::Create).unwrap().write_at(&[7; 1000], 0).unwrap();
    append(&mut log, 7..=14);
    drop(log);
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries.len(), 14);
    log.preallocator().run().unwrap();
    log.close().unwrap();
    assert!(names(&dir).iter().all(|name| name.ends_with(".wal")));
}

#[test]
fn the_preallocator_works_from_another_thread() {
    let root = tempfile::tempdir().unwrap();
    let member = RealDir::open(root.path()).unwrap();
    let options = Options { segment_bytes: 100_000 };
    let mut log = Wal::create(&member, "wal", METADATA, &options).unwrap();
    std::thread::scope(|scope| {
        let (kick, kicked) = std::sync::mpsc::channel();
        let preallocator = log.preallocator();
        scope.spawn(move || kicked.iter().for_each(|()| preallocator.run().unwrap()));
        kick.send(()).unwrap();
        for index in 1..=200 {
            let appended = log
                .append(&Batch { entries: &[entry(1, index, 5_000)], hard_state: None })
                .unwrap();
            if appended.cut {
                kick.send(()).unwrap();
            }
        }
    });
    log.close().unwrap();
    assert!(segments(&member).len() > 9);
    let (_, recovered) = Wal::open(&member, "wal", &walpb::Snapshot::default(), &options).unwrap();
    assert_eq!(recovered.entries.len(), 200);
}

/// Records framed by the test itself.
fn frames(records: &[(i64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut crc = 0;
    for (kind, data) in records {
        crc = crc32c::crc32c_append(crc, data);
        let record = walpb::Record { r#type: *kind, crc, data: Some(Bytes::from(data.clone())) }
            .encode_to_vec();
        let padding = record.len().next_multiple_of(8) - record.len();
        let mut word = record.len() as u64;
        if padding > 0 {
            word |= (0x80 | padding as u64) << 56;
        }
        bytes.extend(word.to_le_bytes());
        bytes.extend(record);
        bytes.extend(vec![0; padding]);
    }
    bytes
}

fn by_hand(records: &[(i64, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new();
    let dir = disk.dir().create_subdir("wal").unwrap();
    let file = dir.open("0000000000000000-0000000000000000.wal", OpenMode::Create).unwrap();
    let head = [(1, METADATA.to_vec()), (5, walpb::Snapshot::default().encode_to_vec())];
    file.write_at(&frames(&[&head, records].concat()), 0).unwrap();
    disk
}

fn put(term: u64, index: u64) -> (i64, Vec<u8>) {
    (2, entry(term, index, 10).encode_to_vec())
}

fn hard(term: u64, commit: u64) -> (i64, Vec<u8>) {
    (3, state(term, 1, commit).encode_to_vec())
}

fn recovered_from(records: &[(i64, Vec<u8>)], start: &walpb::Snapshot) -> Vec<(u64, u64)> {
    let disk = by_hand(records);
    let (_, recovered) = Wal::open(&disk.dir(), "wal", start, &SMALL).unwrap();
    recovered.entries.iter().map(|entry| (entry.term, entry.index)).collect()
}

#[test]
fn later_entries_replace_earlier_ones() {
    let none = walpb::Snapshot::default();
    assert_eq!(
        recovered_from(&[put(1, 1), put(1, 2), put(1, 3), put(2, 2)], &none),
        [(1, 1), (2, 2)]
    );
    // A follower may hold a tail of a higher term than the one that replaces it.
    assert_eq!(recovered_from(&[put(1, 1), put(3, 2), put(2, 2)], &none), [(1, 1), (2, 2)]);
}

/// Found by thinking through what the check of terms refused in a crash test: etcd 3.5 gives 7 and 8 to raft here.
#[test]
fn a_tail_that_was_replaced_below_the_snapshot_does_not_come_back() {
    let start = snapshot(2, 6);
    let record = (5, start.encode_to_vec());
    let mut records: Vec<_> = (1..=8).map(|index| put(1, index)).collect();
    records.extend([put(2, 5), put(2, 6), hard(2, 6), record.clone()]);
    assert_eq!(recovered_from(&records, &start), []);
    records.push(put(2, 7));
    assert_eq!(recovered_from(&records, &start), [(2, 7)]);

    // A snapshot that came from the leader replaces a log that differs at its index, and only then.
    let mut records: Vec<_> = (1..=8).map(|index| put(1, index)).collect();
    records.extend([hard(2, 6), record]);
    assert_eq!(recovered_from(&records, &start), []);
    let own = snapshot(1, 6);
    records.pop();
    records.push((5, own.encode_to_vec()));
    assert_eq!(recovered_from(&records, &own), [(1, 7), (1, 8)]);
}

#[test]
fn cve_2020_15112_records_that_no_crash_explains_are_refused() {
    let check = |records: &[(i64, Vec<u8>)], what: &str| {
        let disk = by_hand(records);
        let error = open(&disk).map(|_| ()).unwrap_err();
        let Error::Corrupt { file, offset, what: found } = &error else { panic!("{error}") };
        assert!(file.ends_with("0000000000000000-0000000000000000.wal"), "{file}");
        assert!(*offset > 0);
        assert!(found.contains(what), "{found:?} should contain {what:?}");
        assert_eq!(segments(&disk.dir()).len(), 1, "nothing is repaired");
    };
    check(&[(9, vec![1])], "unexpected block type 9");
    check(&[(0, vec![])], "unexpected block type 0");
    check(&[(1, vec![8, 9])], "wal: conflicting metadata found");
    check(&[(2, vec![0xff])], "no raftpb.Entry");
    check(&[(3, vec![0xff])], "no raftpb.HardState");
    check(&[(5, vec![0xff])], "no walpb.Snapshot");
    check(&[put(1, 1), put(1, 3)], "wal: slice bounds out of range: entry 3 follows entry 1");
    check(&[put(1, u64::MAX)], "slice bounds out of range");
    check(&[put(0, 1)], "entry 1 has term 0");
    check(&[put(2, 1), put(1, 2)], "entry 2 has term 1, below 2");
    check(&[put(1, 1), hard(1, 1), put(2, 1)], "all up to 1 are committed");
    check(&[hard(2, 0), hard(1, 0)], "the term goes back from 2 to 1");
    check(
        &[(2, raftpb::Entry { r#type: 7, term: 1, index: 1, data: None }.encode_to_vec())],
        "unknown type 7",
    );
}

#[test]
fn only_the_last_segment_may_be_torn() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    append(&mut log, 1..=10);
    drop(log);
    let first = segments(&disk.dir()).remove(0);
    let dir = disk.dir().subdir("wal").unwrap();
    let whole = read_file(&dir, &first);
    let file = dir.open(&first, OpenMode::ReadWrite).unwrap();
    for len_bytes in [whole.len() - 1, whole.len() - 8, whole.len() - 100] {
        file.set_len(len_bytes as u64).unwrap();
        let error = open(&disk).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not the last segment"), "{error}");
    }
    file.write_at(&whole, 0).unwrap();
    assert_eq!(open(&disk).unwrap().1.entries.len(), 10);
    // Cut off between two records, it does not lead to the next segment any more.
    let last_record = 24; // a hard state
    file.set_len((whole.len() - last_record) as u64).unwrap();
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("wal: crc mismatch"), "{error}");
}

#[test]
fn a_gap_between_segments_is_refused() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    append(&mut log, 1..=20);
    drop(log);
    let names = segments(&disk.dir());
    disk.dir().subdir("wal").unwrap().remove(&names[1]).unwrap();
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(wal::valid_snapshots(&disk.dir(), "wal").is_err());
}

#[test]
fn cve_2020_15106_a_length_beyond_the_limit_takes_no_memory() {
    let disk = by_hand(&[]);
    let file = disk
        .dir()
        .subdir("wal")
        .unwrap()
        .open("0000000000000000-0000000000000000.wal", OpenMode::ReadWrite)
        .unwrap();
    let end = file.len_bytes().unwrap();
    file.write_at(&(1u64 << 40).to_le_bytes(), end).unwrap();
    // Behind the end of the file it counts as torn, as etcd has it.
    let image = disk.fork();
    assert!(open(&image).unwrap().1.repair.is_some());
    // In a file that is that long, nobody wrote such a record.
    file.set_len(1 << 41).unwrap();
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("above the limit"), "{error}");
}

#[test]
fn unreadable_is_not_damaged() {
    let disk = SimDisk::new();
    drop(create(&disk));
    disk.inject(Fault::once(FaultKind::Read, 0));
    assert!(matches!(open(&disk).map(|_| ()).unwrap_err(), Error::Io { .. }));
    open(&disk).unwrap();
}

#[test]
fn snapshots_above_the_commit_are_not_vouched_for() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    append(&mut log, 1..=5);
    log.save_snapshot(&snapshot(1, 3)).unwrap();
    log.save_snapshot(&snapshot(1, 5)).unwrap();
    let indexes = |disk: &SimDisk| -> Vec<u64> {
        wal::valid_snapshots(&disk.dir(), "wal")
            .unwrap()
            .iter()
            .map(|snapshot| snapshot.index)
            .collect()
    };
    assert_eq!(indexes(&disk), [0, 3]);
    log.append(&Batch { entries: &[], hard_state: Some(state(1, 1, 5)) }).unwrap();
    log.sync().unwrap();
    assert_eq!(indexes(&disk), [0, 3, 5]);
}

/// A member's own snapshot covers entries that its log has had; one from the leader comes in place of entries.
#[test]
fn a_received_snapshot_is_told_from_an_own_one() {
    let is_received = |write: &dyn Fn(&mut Wal)| {
        let disk = SimDisk::new();
        let mut log = Wal::create(&disk.dir(), "wal", METADATA, &SMALL).unwrap();
        append(&mut log, 1..=20);
        write(&mut log);
        log.append(&Batch { entries: &[], hard_state: Some(state(2, 1, 40)) }).unwrap();
        log.sync().unwrap();
        drop(log);
        let start = valid(&disk);
        let (_, recovered) = Wal::open(&disk.dir(), "wal", &start, &SMALL).unwrap();
        assert!(recovered.snapshot_found);
        recovered.snapshot_is_received
    };
    assert!(!is_received(&|log| log.save_snapshot(&snapshot(1, 20)).unwrap()));
    assert!(!is_received(&|log| log.save_snapshot(&snapshot(1, 7)).unwrap()));
    assert!(is_received(&|log| log.save_snapshot(&snapshot(2, 40)).unwrap()));
    // The log had another entry there.
    assert!(is_received(&|log| log.save_snapshot(&snapshot(2, 20)).unwrap()));
    assert!(is_received(&|log| {
        log.save_snapshot(&snapshot(2, 30)).unwrap();
        log.append(&Batch { entries: &[entry(2, 31, 300)], hard_state: None }).unwrap();
    }));
}

/// The newest snapshot that the log vouches for.
fn valid(disk: &SimDisk) -> walpb::Snapshot {
    wal::valid_snapshots(&disk.dir(), "wal").unwrap().pop().unwrap()
}
