//! A log that ends before what the database has applied: no crash leaves that, since the log is written first.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use std::sync::Arc;

use proto::etcdserverpb::PutRequest;
use proto::etcdserverpb::internal_raft_request::Request;
use sim::{Settings, Solo};
use vfs::sim::SimDisk;
use vfs::{Dir, OpenMode};

fn member(dir: &Arc<dyn Dir>, puts: u8) -> Solo {
    let mut member = Solo::open(dir, &Settings::default()).unwrap();
    member.lead().unwrap();
    for key in 0..puts {
        member.propose(Request::Put(PutRequest {
            key: vec![b'k', key].into(),
            ..PutRequest::default()
        }));
        member.settle().unwrap();
    }
    while member.machine().writer().pending_ops() > 0 || member.machine().writer().is_busy() {
        member.step_committer().unwrap();
    }
    member
}

fn database(dir: &Arc<dyn Dir>) -> Arc<dyn vfs::File> {
    dir.subdir("snap").unwrap().open("db", OpenMode::ReadWrite).unwrap()
}

/// Found by writing garbage over a log: what was cut off was given up silently, and the numbers of lost entries were given
/// to new ones, which the database then skipped.
#[test]
fn a_log_that_has_lost_applied_entries_is_refused() {
    let (long, short) = (SimDisk::new(), SimDisk::new());
    drop(member(&long.dir(), 40));
    drop(member(&short.dir(), 1));
    let source = database(&long.dir());
    let mut bytes = vec![0; usize::try_from(source.len_bytes().unwrap()).unwrap()];
    source.read_at(&mut bytes, 0).unwrap();
    database(&short.dir()).write_at(&bytes, 0).unwrap();
    let Err(error) = Solo::open(&short.dir(), &Settings::default()) else { panic!("it opened") };
    let text = error.to_string();
    assert!(text.contains("the log ends at entry") && text.contains("has lost"), "{text}");
    Solo::open(&long.dir(), &Settings::default()).unwrap();
}
