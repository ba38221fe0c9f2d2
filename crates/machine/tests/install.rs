//! A backend that came from another member takes the place of this one's.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it does not expect"
)]

mod common;

use backend::schema::Bucket;
use common::{Fixture, MEMBER};
use machine::{ConfChangeContext, Member, Payload};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{LeaseGrantRequest, PutRequest};
use proto::raftpb;
use vfs::OpenMode;

fn add(id: u64, url: &str) -> Payload {
    let member = Member { id, peer_urls: vec![url.to_owned()], ..Member::default() };
    Payload::ConfChange(raftpb::ConfChange {
        node_id: id,
        context: Some(ConfChangeContext { member, is_promote: false }.encode().into()),
        ..raftpb::ConfChange::default()
    })
}

fn put(key: &'static str, lease: i64) -> Op {
    Op::Put(PutRequest { key: key.into(), lease, ..PutRequest::default() })
}

#[test]
fn everything_is_taken_over() {
    let mut leader = Fixture::new();
    leader.apply(add(MEMBER, "http://a:1"));
    leader.apply(add(2, "http://b:1"));
    leader.ok(Op::LeaseGrant(LeaseGrantRequest { id: 8, ttl: 60 }));
    for key in ["x", "y", "z"] {
        leader.ok(put(key, 8));
    }
    leader.commit();
    let snapshot = leader.machine.snapshot();

    let mut follower = Fixture::new();
    follower.apply(add(MEMBER, "http://a:1"));
    follower.ok(put("old", 0));
    follower.commit();
    let mut stream = leader.machine.writer().view().snapshot();
    let mut content = vec![0; usize::try_from(stream.len_bytes()).unwrap()];
    let mut filled = 0;
    while filled < content.len() {
        filled += stream.read(&mut content[filled..]).unwrap();
    }
    let name = backend::snapshot_db_name(snapshot.metadata.index);
    let file = follower.dir.open(&name, OpenMode::Create).unwrap();
    file.write_at(&content, 0).unwrap();
    file.sync_data().unwrap();

    let reader = follower.machine.reader();
    let lessor = follower.machine.lessor();
    assert!(follower.machine.install(&snapshot).unwrap().is_none());
    follower.index = snapshot.metadata.index;
    assert_eq!(follower.machine.applied(), leader.machine.applied());
    assert_eq!(follower.machine.membership(), leader.machine.membership());
    assert_eq!(follower.machine.conf_state(), leader.machine.conf_state());
    // Handles of before see the new content.
    assert_eq!(reader.current_revision(), 4);
    assert_eq!(lessor.lock().unwrap().keys(lease::LeaseId(8)).count(), 3);
    assert_eq!(follower.rows(&Bucket::ALL), leader.rows(&Bucket::ALL));

    let (ours, theirs) = (follower.ok(put("next", 8)), leader.ok(put("next", 8)));
    assert_eq!(ours, theirs);
    assert_eq!(follower.rows(&Bucket::ALL), leader.rows(&Bucket::ALL));
}
