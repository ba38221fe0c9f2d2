//! Databases that real etcd wrote, read through the schema, and written again to the same bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use backend::schema::meta::ConfState;
use backend::schema::{Bucket, Revision, RowKey, alarm, auth, cluster, lease, members, meta};
use backend::{HashRule, Reader, Writer};
use bytes::Bytes;
use common::{content, disk_with, options, read_fixture, without_index};
use prost::Message;
use proto::etcdserverpb::AlarmMember;
use proto::mvccpb::KeyValue;
use vfs::sim::SimDisk;

fn open(name: &str) -> (SimDisk, Writer, Reader) {
    let disk = disk_with("db", &read_fixture(name));
    let (writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    (disk, writer, reader)
}

#[test]
fn reads_every_kind_of_row() {
    let (_disk, writer, reader) = open("rich-3.5.30.db");
    let view = reader.view();
    assert_eq!(view.check(), []);

    assert_eq!(meta::consistent_index(&view).unwrap(), 195);
    assert_eq!(meta::term(&view).unwrap(), 3);
    assert_eq!((writer.consistent().index, writer.consistent().term), (195, 3));
    let conf_state = meta::conf_state(&view).unwrap().unwrap();
    assert_eq!(
        conf_state,
        ConfState {
            voters: vec![5_804_811_342_534_228_393],
            learners: vec![9_287_419_635_096_652_392],
            ..ConfState::default()
        }
    );
    assert_eq!(meta::scheduled_compaction(&view).unwrap(), Some(98));
    assert_eq!(meta::finished_compaction(&view).unwrap(), Some(98));
    assert_eq!(meta::storage_version(&view).unwrap(), None);

    assert_eq!(cluster::version(&view).unwrap().as_deref(), Some("3.5.0"));
    assert_eq!(cluster::downgrade(&view).unwrap(), None);

    let leases: Vec<_> =
        lease::all(&view).unwrap().map(|row| row.unwrap()).map(|l| (l.id, l.ttl)).collect();
    assert_eq!(leases, [(1001, 100_000), (1002, 200_000), (7_587_848_390_000_000_001, 5000)]);

    assert!(auth::is_enabled(&view).unwrap());
    assert_eq!(auth::revision(&view).unwrap(), 22);
    let users: Vec<_> = auth::users(&view).unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(users, ["alice", "bob", "cert-user", "root"]);
    let roles: Vec<_> = auth::roles(&view).unwrap().into_iter().map(|role| role.name).collect();
    assert_eq!(roles, ["reader", "root", "writer"]);

    assert_eq!(
        alarm::all(&view).unwrap(),
        [AlarmMember { member_id: 5_804_811_342_534_228_393, alarm: 1 }]
    );

    let members = members::all(&view).unwrap();
    assert_eq!(
        members.iter().map(|m| (m.name.as_str(), m.is_learner)).collect::<Vec<_>>(),
        [("m1", false), ("", true)]
    );
    assert_eq!(members[0].client_urls, ["http://127.0.0.1:41000"]);
    assert_eq!(members::removed(&view).unwrap(), [0x71e4_d10a_3045_7db5]);
}

#[test]
fn reads_rows_of_keys() {
    let (_disk, _writer, reader) = open("rich-3.5.30.db");
    let view = reader.view();
    let rows: Vec<_> = view.rows(..).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), 65);
    assert!(rows.is_sorted_by(|(a, _), (b, _)| a < b));
    let (key, value) = &rows[0];
    assert_eq!(*key, RowKey::put(Revision::new(6, 0)));
    assert_eq!(KeyValue::decode(&**value).unwrap().key, "k/004");
    // A value with overflow pages.
    let big = view.row(RowKey::put(Revision::new(59, 0))).unwrap().unwrap();
    assert_eq!(KeyValue::decode(&*big).unwrap().value.len(), 20_000);
    // Inside a transaction, and to its end.
    let main: Vec<_> = view
        .rows(Revision::first_of(61)..Revision::first_of(62))
        .unwrap()
        .map(|row| row.unwrap().0.revision.sub)
        .collect();
    assert_eq!(main, [0, 1, 3]);
    assert!(view.row(RowKey::tombstone(Revision::new(59, 0))).unwrap().is_none());
}

#[test]
fn hashes_as_etcd_does() {
    // Computed from the closed files by an independent program, which agrees with what etcd answered over gRPC.
    for (name, hash) in [
        ("rich-3.5.30.db", 3_453_039_645),
        ("rich-3.5.16.db", 1_471_920_816),
        ("cluster-3.5.30-c3.db", 2_315_855_591),
        ("killed-3.5.30.db", 3_618_822_400),
    ] {
        let (_disk, _writer, reader) = open(name);
        assert_eq!(reader.view().hash(HashRule::V3_5).unwrap(), hash, "{name}");
        assert_eq!(reader.view().hash(HashRule::V3_6).unwrap(), hash, "{name}");
    }
}

#[test]
fn opening_a_sound_file_writes_nothing() {
    let (disk, mut writer, _reader) = open("rich-3.5.30.db");
    let job = writer.take_commit().unwrap();
    let stats = job.run().unwrap();
    assert_eq!(stats.pages_written, 0);
    drop((writer, _reader));
    let file = disk.dir().open("db", vfs::OpenMode::Read).unwrap();
    let expected = read_fixture("rich-3.5.30.db");
    let mut bytes = vec![0; expected.len()];
    file.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected, "the file is as it was");
}

/// Everything read through the schema and written through it again gives the same rows, byte for byte.
#[test]
fn rewrites_to_the_same_bytes() {
    for name in ["rich-3.5.30.db", "rich-3.5.16.db", "cluster-3.5.30-c3.db", "killed-3.5.30.db"] {
        let (_disk, source, reader) = open(name);
        let view = reader.view();
        let copy_disk = SimDisk::new();
        let (mut writer, copy) = backend::open(&copy_disk.dir(), &options()).unwrap();

        for row in view.rows(..).unwrap() {
            let (key, value) = row.unwrap();
            writer.put_row(key, value.to_bytes());
        }
        for alarm in alarm::all(&view).unwrap() {
            alarm::put(&mut writer, &alarm);
        }
        if view.get(Bucket::Auth, b"authEnabled").unwrap().is_some() {
            auth::put_enabled(&mut writer, auth::is_enabled(&view).unwrap());
        }
        auth::put_revision(&mut writer, auth::revision(&view).unwrap());
        for mut user in auth::users(&view).unwrap() {
            if user.options == Some(Default::default()) {
                user.options = None; // is written all the same
            }
            auth::put_user(&mut writer, &user);
        }
        for role in auth::roles(&view).unwrap() {
            auth::put_role(&mut writer, &role);
        }
        if let Some(version) = cluster::version(&view).unwrap() {
            cluster::put_version(&mut writer, &version);
        }
        for lease in lease::all(&view).unwrap() {
            lease::put(&mut writer, &lease.unwrap());
        }
        for member in members::all(&view).unwrap() {
            members::put(&mut writer, &member);
        }
        for id in members::removed(&view).unwrap() {
            members::remove(&mut writer, id);
        }
        if let Some(conf_state) = meta::conf_state(&view).unwrap() {
            meta::put_conf_state(&mut writer, &conf_state);
        }
        if let Some(revision) = meta::scheduled_compaction(&view).unwrap() {
            meta::put_scheduled_compaction(&mut writer, revision);
        }
        if let Some(revision) = meta::finished_compaction(&view).unwrap() {
            meta::put_finished_compaction(&mut writer, revision);
        }
        writer.set_consistent_index(source.consistent().index, source.consistent().term);
        writer.publish();

        assert_eq!(
            without_index(content(&copy.view())),
            without_index(content(&view)),
            "{name}: pending"
        );
        writer.take_commit().unwrap().run().unwrap();
        assert_eq!(content(&copy.view()), content(&view), "{name}: committed");
        assert_eq!(
            copy.view().hash(HashRule::EveryRow).unwrap(),
            view.hash(HashRule::EveryRow).unwrap(),
            "{name}: hash"
        );
        assert_eq!(copy.view().check(), [], "{name}");
    }
}

#[test]
fn snapshot_stream_is_a_database() {
    let (_disk, _writer, reader) = open("rich-3.5.30.db");
    let mut snapshot = reader.view().snapshot();
    assert_eq!(snapshot.len_bytes(), 81_920, "what etcd saved of this database");
    let mut bytes = Vec::new();
    let mut buf = vec![0; 32 << 10];
    loop {
        match snapshot.read(&mut buf).unwrap() {
            0 => break,
            count => bytes.extend_from_slice(&buf[..count]),
        }
    }
    assert_eq!((bytes.len(), snapshot.remaining_bytes()), (81_920, 0));
    let copy_disk = disk_with("db", &bytes);
    let (_, copy) = backend::open(&copy_disk.dir(), &options()).unwrap();
    assert_eq!(content(&copy.view()), content(&reader.view()));
}

#[test]
fn a_tool_reads_a_file_of_any_name() {
    let bytes = read_fixture("rich-3.5.30.db");
    let disk = disk_with("backup", &bytes);
    let view = backend::open_view(&disk.dir(), "backup").unwrap();
    assert!(backend::open_view(&disk.dir(), "backup").is_ok(), "the lock is shared");
    assert_eq!(view.hash(HashRule::V3_5).unwrap(), 3_453_039_645);
    assert_eq!(view.rows(..).unwrap().count(), 65);
    assert!(backend::open_view(&disk.dir(), "missing").is_err());
    drop(view);
    disk.dir().rename("backup", "db").unwrap();
    backend::open(&disk.dir(), &options()).unwrap();
}

#[test]
fn a_new_database_has_the_ten_buckets() {
    let disk = SimDisk::new();
    assert!(!backend::exists(&disk.dir()).unwrap());
    let (writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    assert!(backend::exists(&disk.dir()).unwrap());
    let view = reader.view();
    for bucket in Bucket::ALL {
        assert_eq!(view.scan(bucket, &[], None).unwrap().count(), 0);
    }
    assert_eq!((meta::consistent_index(&view).unwrap(), meta::term(&view).unwrap()), (0, 0));
    assert!(matches!(
        backend::open(&disk.dir(), &options()),
        Err(backend::Error::Bolt(bolt::Error::Locked { .. }))
    ));
    drop((writer, reader, view));
    backend::open(&disk.dir(), &options()).unwrap();
}

#[test]
fn rows_that_fixtures_lack() {
    let disk = SimDisk::new();
    let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    let downgrade = cluster::Downgrade { target_version: "3.5.0".into(), enabled: true };
    cluster::put_downgrade(&mut writer, &downgrade);
    meta::put_storage_version(&mut writer, Some("3.6.0"));
    let member = members::MemberRow {
        id: 0xabc,
        peer_urls: vec!["http://h/?a=1&b=<2>".into()],
        name: "\u{2028}".into(),
        ..Default::default()
    };
    members::put(&mut writer, &member);
    writer.publish();
    let view = reader.view();
    let text = |bucket, key: &[u8]| {
        String::from_utf8(view.get(bucket, key).unwrap().unwrap().to_vec()).unwrap()
    };
    assert_eq!(text(Bucket::Cluster, b"downgrade"), r#"{"target-version":"3.5.0","enabled":true}"#);
    assert_eq!(text(Bucket::Meta, b"storageVersion"), "3.6.0");
    assert_eq!(
        text(Bucket::Members, b"abc"),
        r#"{"id":2748,"peerURLs":["http://h/?a=1\u0026b=\u003c2\u003e"],"name":"\u2028"}"#
    );
    assert_eq!(cluster::downgrade(&view).unwrap(), Some(downgrade));
    assert_eq!(members::all(&view).unwrap(), [member]);
    assert_ne!(view.hash(HashRule::V3_5).unwrap(), view.hash(HashRule::V3_6).unwrap());
    meta::put_storage_version(&mut writer, None);
    members::remove(&mut writer, 0xabc);
    members::forget(&mut writer, 0xdef);
    writer.publish();
    assert_eq!(
        meta::storage_version(&view).unwrap().as_deref(),
        Some("3.6.0"),
        "an old view stays"
    );
    let view = reader.view();
    assert_eq!(meta::storage_version(&view).unwrap(), None);
    assert_eq!(
        (members::all(&view).unwrap(), members::removed(&view).unwrap()),
        (vec![], vec![0xabc])
    );
}

#[test]
fn damaged_rows_are_named() {
    let disk = SimDisk::new();
    {
        let db = bolt::Db::open(&disk.dir(), "db", &bolt::Options::default()).unwrap();
        let mut tx = db.write().unwrap();
        for (bucket, key, value) in [
            (Bucket::Meta, &b"term"[..], &b"123"[..]),
            (Bucket::Meta, b"confState", b"{"),
            (Bucket::Meta, b"scheduledCompactRev", b"12345678x12345678"),
            (Bucket::Members, b"0abc", br#"{"id":2748,"peerURLs":null}"#),
            (Bucket::Lease, b"12345678", b""),
            (Bucket::Auth, b"authEnabled", b"\x02"),
            (Bucket::Key, b"not a revision", b""),
            (Bucket::Cluster, b"clusterVersion", b"\xff"),
        ] {
            tx.create_bucket_if_missing(bucket.name().as_bytes()).unwrap().put(key, value).unwrap();
        }
        tx.commit().unwrap();
    }
    let error = backend::open(&disk.dir(), &options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "db: bucket key, key not a revision: not a revision (8 bytes, '_', 8 bytes, perhaps 't')"
    );
    {
        let db = bolt::Db::open(&disk.dir(), "db", &bolt::Options::default()).unwrap();
        let mut tx = db.write().unwrap();
        tx.bucket(b"key").unwrap().unwrap().delete(b"not a revision").unwrap();
        tx.commit().unwrap();
    }
    let error = backend::open(&disk.dir(), &options()).unwrap_err();
    assert_eq!(error.to_string(), "db: bucket meta, key term: 3 bytes instead of 8");
    {
        let db = bolt::Db::open(&disk.dir(), "db", &bolt::Options::default()).unwrap();
        let mut tx = db.write().unwrap();
        tx.bucket(b"meta").unwrap().unwrap().delete(b"term").unwrap();
        tx.commit().unwrap();
    }
    let (_writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    let view = reader.view();
    let text = |error: backend::Error| error.to_string();
    assert!(
        text(meta::conf_state(&view).unwrap_err())
            .starts_with("db: bucket meta, key confState: JSON: ")
    );
    assert!(text(meta::scheduled_compaction(&view).unwrap_err()).contains("not a revision"));
    assert_eq!(
        text(members::all(&view).unwrap_err()),
        "db: bucket members, key 0abc: the row is of member abc"
    );
    assert!(
        text(lease::all(&view).unwrap().next().unwrap().unwrap_err())
            .contains("the row is of lease 0")
    );
    assert!(text(auth::is_enabled(&view).unwrap_err()).contains("neither 0 nor 1"));
    assert!(text(cluster::version(&view).unwrap_err()).contains("not UTF-8"));
}

#[test]
fn go_writes_null_for_no_urls() {
    let disk = SimDisk::new();
    let (mut writer, reader) = backend::open(&disk.dir(), &options()).unwrap();
    writer.put(
        Bucket::Members,
        Bytes::from_static(b"1"),
        Bytes::from_static(br#"{"id":1,"peerURLs":null,"more":[]}"#),
    );
    writer.put(
        Bucket::Meta,
        Bytes::from_static(b"confState"),
        Bytes::from_static(br#"{"voters":null,"learners":[3]}"#),
    );
    writer.publish();
    let view = reader.view();
    assert_eq!(members::all(&view).unwrap(), [members::MemberRow { id: 1, ..Default::default() }]);
    let conf_state = meta::conf_state(&view).unwrap().unwrap();
    assert_eq!(conf_state, ConfState { learners: vec![3], ..ConfState::default() });
    let there_and_back = ConfState::from(proto::raftpb::ConfState::from(conf_state.clone()));
    assert_eq!(there_and_back, conf_state);
}
