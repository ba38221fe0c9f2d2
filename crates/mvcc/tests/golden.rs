//! What real etcd 3.5.30 wrote and answered, against what the store makes of the same database, and of the same entries.
//!
//! `tests/fixtures/NAME/` holds `db` (the database, cut to its used pages), `entries.bin` (the requests of its log that
//! concern keys, leases and compaction: index u64, length u32, little-endian, then an `InternalRaftRequest`), and
//! `expected.txt`, which tells what a client saw at some moments:
//!
//! ```text
//! moment N applied INDEX revision REVISION
//! hashkv REVISION HASH COMPACT_REVISION
//! range REVISION COUNT                                            every key, in order
//! kv KEY_HEX CREATE MOD VERSION LEASE VALUE_LEN VALUE_CRC32C
//! lease ID KEY_HEX...
//! ```

mod common;

use std::{collections::BTreeMap, collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use common::Fixture;
use mvcc::KeyRange;
use prost::Message;
use proto::{
    etcdserverpb::{InternalRaftRequest, RangeRequest, internal_raft_request},
    mvccpb::KeyValue,
};
use vfs::{Dir, OpenMode, sim::SimDisk};

#[derive(Debug, Default)]
struct Moment {
    applied: u64,
    revision: i64,
    hashes: Vec<(i64, u32, i64)>,
    ranges: Vec<(i64, Vec<String>)>,
    leases: BTreeMap<i64, BTreeSet<String>>,
}

fn read(name: &str, file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn expected(name: &str) -> Vec<Moment> {
    let text = String::from_utf8(read(name, "expected.txt")).expect("text");
    let mut moments: Vec<Moment> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |place: usize| words[place].parse::<i64>().expect("a number");
        match words[0] {
            "moment" => moments.push(Moment {
                applied: words[3].parse().expect("an index"),
                revision: number(5),
                ..Moment::default()
            }),
            kind => {
                let moment = moments.last_mut().expect("a moment comes first");
                match kind {
                    "hashkv" => moment.hashes.push((
                        number(1),
                        words[2].parse().expect("a hash"),
                        number(3),
                    )),
                    "range" => moment.ranges.push((number(1), Vec::new())),
                    "kv" => moment
                        .ranges
                        .last_mut()
                        .expect("a range comes first")
                        .1
                        .push(line.to_owned()),
                    "lease" => {
                        let keys = words[2..]
                            .iter()
                            .filter(|key| !key.is_empty())
                            .map(|key| (*key).to_owned())
                            .collect();
                        moment.leases.insert(number(1), keys);
                    }
                    other => panic!("{other}"),
                }
            }
        }
    }
    moments
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tell(pair: &KeyValue) -> String {
    let KeyValue { key, create_revision, mod_revision, version, value, lease } = pair;
    let (key, crc) = (hex(key), crc32c::crc32c(value));
    format!("kv {key} {create_revision} {mod_revision} {version} {lease} {} {crc}", value.len())
}

fn check_moment(fixture: &Fixture, moment: &Moment) {
    assert_eq!(fixture.reader.current_revision(), moment.revision);
    for (revision, pairs) in &moment.ranges {
        let request = RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            revision: *revision,
            ..Default::default()
        };
        let response =
            fixture.reader.range(&request).expect("readable").into_response().expect("sound");
        assert_eq!(
            response.kvs.iter().map(tell).collect::<Vec<_>>(),
            *pairs,
            "at revision {revision}"
        );
    }
}

/// Opens a database of etcd's.
fn open_db(name: &str) -> Fixture {
    let disk = SimDisk::new();
    let dir: Arc<dyn Dir> = disk.dir();
    let db = dir.open("db", OpenMode::Truncate).expect("a new file");
    db.write_at(&read(name, "db"), 0).expect("written");
    db.sync_all().expect("synced");
    dir.sync().expect("synced");
    drop(db);
    Fixture::open(disk)
}

fn check_db(name: &str) {
    let moment = expected(name).pop().expect("a moment");
    let mut fixture = open_db(name);
    assert!(fixture.compactions.is_empty());
    for round in 0..2 {
        check_moment(&fixture, &moment);
        let mut compared = 0;
        for &(revision, hash, compacted) in &moment.hashes {
            // The others were in the cache of the member that answered.
            if compacted == fixture.reader.compact_revision() {
                let got = fixture.reader.hash_kv(revision).expect("readable").hashed;
                assert_eq!(
                    (got.hash, got.compact_revision),
                    (hash, compacted),
                    "at revision {revision}"
                );
                compared += 1;
            }
        }
        assert!(compared > 0 || round > 0);
        let mut leases: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        for (lease, key) in &fixture.attachments {
            leases.entry(*lease).or_default().insert(hex(key));
        }
        let mut expected = moment.leases.clone();
        expected.retain(|_, keys| !keys.is_empty());
        assert_eq!(leases, expected);
        // The same once more after our own commit.
        fixture = fixture.restart();
    }
}

#[test]
fn a_database_of_etcd_answers_as_etcd_did() {
    check_db("rich-3.5.30");
    check_db("snapshot-3.5.30");
}

/// Executes the requests of a log, up to each moment.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the fixture may hold requests that concern other crates"
)]
fn replay(name: &str, restart_after: Option<u64>) -> Fixture {
    let mut restart_after = restart_after;
    let moments = expected(name);
    let bytes = read(name, "entries.bin");
    let mut rest = bytes.as_slice();
    let mut fixture = Fixture::new();
    let mut attached: BTreeMap<Bytes, i64> = BTreeMap::new();
    let mut leases = BTreeSet::new();
    let mut moments = moments.into_iter().peekable();
    loop {
        let next = rest.split_first_chunk::<8>().map(|(index, _)| u64::from_le_bytes(*index));
        if let Some(moment) =
            moments.next_if(|moment| next.is_none_or(|next| next > moment.applied))
        {
            check_moment(&fixture, &moment);
            for (revision, hash, compacted) in moment.hashes {
                let got = fixture.reader.hash_kv(revision).expect("readable").hashed;
                assert_eq!(
                    (got.hash, got.compact_revision),
                    (hash, compacted),
                    "{name} at revision {revision}"
                );
            }
            continue;
        }
        let Some(index) = next else { break };
        if restart_after.is_some_and(|after| index > after) {
            restart_after = None;
            fixture = fixture.restart();
        }
        let len = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes"));
        let (entry, after) = rest[12..].split_at(usize::try_from(len).expect("small"));
        rest = after;
        let entry = InternalRaftRequest::decode(entry).expect("a request");
        let Fixture { store, writer, .. } = &mut fixture;
        let changes = match entry.request.expect("a request") {
            internal_raft_request::Request::Put(request) => {
                store
                    .put(writer, &request, &|lease| leases.contains(&lease))
                    .expect("etcd did it")
                    .1
            }
            internal_raft_request::Request::DeleteRange(request) => {
                store.delete_range(writer, &request).expect("etcd did it").1
            }
            internal_raft_request::Request::Txn(request) => {
                store
                    .txn(writer, &request, &|lease| leases.contains(&lease))
                    .expect("etcd did it")
                    .1
            }
            internal_raft_request::Request::Compaction(request) => {
                let compaction = store.compact(writer, request.revision).expect("etcd did it");
                compaction.run(writer, 10).expect("rows are sound");
                continue;
            }
            internal_raft_request::Request::LeaseGrant(request) => {
                leases.insert(request.id);
                continue;
            }
            internal_raft_request::Request::LeaseRevoke(request) => {
                leases.remove(&request.id);
                let keys: Vec<Bytes> = attached
                    .iter()
                    .filter(|(_, lease)| **lease == request.id)
                    .map(|(key, _)| key.clone())
                    .collect();
                let mut txn = store.begin(writer);
                for key in keys {
                    txn.delete_range(KeyRange::Single(&key));
                }
                txn.finish()
            }
            _ => continue,
        };
        for change in changes.lease_changes() {
            attached.insert(change.key, change.lease);
        }
    }
    assert!(moments.next().is_none());
    fixture
}

#[test]
fn the_entries_of_etcd_make_the_rows_of_etcd() {
    // The member of the fixture was restarted after entry 86: its cache of hashes was lost there.
    let fixture = replay("rich-3.5.30", Some(86));
    assert_eq!(fixture.rows(), open_db("rich-3.5.30").rows());
    replay("killed-3.5.30", None);
    replay("cluster-3.5.30", None);
}
