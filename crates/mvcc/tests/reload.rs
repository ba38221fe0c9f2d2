//! A member that lags far behind gets the whole content of another one: reads are of the old state or of the new one, and
//! watchers go on from where they were.

mod common;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::Fixture;
use mvcc::{
    CompactionStep,
    watch::{Body, Hub, Limits, WatchSpec},
};
use proto::etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest};
use vfs::OpenMode;

/// Entry `index` of the log that both members apply.
fn apply(fixture: &mut Fixture, index: u64) -> mvcc::Changes {
    let key = format!("k{:03}", index % 100);
    let lease = i64::from(index.is_multiple_of(7));
    let request = PutRequest {
        key: key.into(),
        value: index.to_string().into(),
        lease,
        ..Default::default()
    };
    let (_, changes) = fixture.put(&request, &BTreeSet::from([1])).expect("nothing to refuse");
    fixture.writer.set_consistent_index(index, 1);
    fixture.writer.publish();
    changes
}

fn all_at(revision: i64) -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() }
}

#[test]
fn a_snapshot_replaces_everything_at_once() {
    let mut leader = Fixture::new();
    for index in 1..=1000 {
        apply(&mut leader, index);
    }
    let compaction = leader.store.compact(&mut leader.writer, 500).expect("in range");
    compaction.run(&mut leader.writer, 100).expect("rows are sound");
    leader.writer.take_commit().expect("no commit runs").run().expect("the disk is sound");
    let mut stream = leader.reader_view().snapshot();

    let mut follower = Fixture::new();
    for index in 1..=300 {
        apply(&mut follower, index);
    }
    let stale = follower.store.compact(&mut follower.writer, 200).expect("in range");
    follower.compactions.push(stale);
    let file = follower
        .disk
        .dir()
        .open(&backend::snapshot_db_name(1000), OpenMode::Create)
        .expect("a new file");
    let mut buf = vec![0; 32 * 1024];
    let mut offset = 0;
    loop {
        let read = stream.read(&mut buf).expect("the disk is sound");
        if read == 0 {
            break;
        }
        file.write_at(&buf[..read], offset).expect("the disk is sound");
        offset += read as u64;
    }
    file.sync_all().expect("the disk is sound");

    // One watcher is synced, another has all of its history before it, both need what the snapshot brings.
    let mut hub = Hub::new(follower.reader.current_revision(), Limits::default());
    let watched = hub.open_stream(Duration::ZERO, Duration::from_secs(600));
    for start_revision in [0, 250, 600] {
        let request =
            WatchCreateRequest { key: "k007".into(), start_revision, ..Default::default() };
        hub.create(
            watched,
            &WatchSpec::new(&request).expect("sound"),
            follower.reader.current_revision(),
        );
    }

    let (reader, done) = (follower.reader.clone(), &AtomicBool::new(false));
    let reloaded = std::thread::scope(|scope| {
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let range = reader.range(&all_at(0)).expect("readable");
                assert!(range.revision == 301 || range.revision == 1001);
                let newest = range.revision;
                let response = range.into_response().expect("sound");
                assert_eq!(response.count, 100);
                assert_eq!(response.kvs.iter().map(|pair| pair.mod_revision).max(), Some(newest));
                let hashed = reader.hash_kv(0).expect("readable").hashed;
                assert!(hashed.revision == 301 || hashed.revision == 1001);
            }
        });
        let Fixture { store, writer, .. } = &mut follower;
        let reloaded =
            store.reload(|| writer.install_snapshot(1000)).expect("the snapshot is sound");
        done.store(true, Ordering::Relaxed);
        reloaded
    });
    assert!(reloaded.compaction.is_none());
    let expected: BTreeSet<_> = (901..=1000)
        .filter(|index: &u64| index.is_multiple_of(7))
        .map(|index| format!("k{:03}", index % 100))
        .collect();
    let attached: BTreeSet<_> = reloaded
        .attachments
        .iter()
        .map(|(_, key)| String::from_utf8_lossy(key).into_owned())
        .collect();
    assert_eq!(attached, expected);

    assert_eq!(follower.reader.compact_revision(), 500);
    for revision in [500, 777, 1001] {
        assert_eq!(
            follower.reader.range(&all_at(revision)).expect("readable").kvs,
            leader.reader.range(&all_at(revision)).expect("readable").kvs
        );
    }
    assert_eq!(follower.rows(), leader.rows());
    assert_eq!(
        follower.reader.hash_kv(900).expect("readable").hashed,
        leader.reader.hash_kv(900).expect("readable").hashed
    );
    // What was under way for the old content is over.
    let stale = follower.compactions.first_mut().expect("it was made");
    assert_eq!(stale.step(100).expect("nothing is read"), CompactionStep::Abandoned);

    hub.resync(follower.reader.current_revision());
    while hub.catch_up(&follower.reader, 64).expect("rows are sound") {}
    let batch = apply(&mut follower, 1007).batch.expect("a change");
    hub.publish(&batch, &follower.reader).expect("rows are sound");
    let (mut counts, mut ended) = ([0; 3], Vec::new());
    while let Some(message) = hub.poll(watched) {
        match message.body {
            Body::Events(events) => {
                counts[usize::try_from(message.watch_id).expect("small")] += events.len()
            }
            Body::Compacted { compact_revision } => {
                ended.push((message.watch_id, compact_revision))
            }
            Body::Created | Body::Refused { .. } | Body::Canceled | Body::Progress => {}
        }
    }
    // What the first two need next, at 302 and 250, is compacted; the third had nothing before 600.
    assert_eq!(ended, [(1, 500), (0, 500)]);
    assert_eq!(counts, [0, 0, 5]);
}
