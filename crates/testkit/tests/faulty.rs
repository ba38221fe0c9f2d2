//! A member whose database rots while it is down: what each check of corruption does about it, in a running cluster.
//!
//! The pages of bbolt have no checksums: a byte of a value that changes on its disk is what the member then serves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::AlarmType;
use testkit::api::{Request, Response};
use testkit::cluster::{Cluster, Config, Kind};

/// Never waited for where a test passes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The member that rots; another one leads.
const VICTIM: usize = 2;
/// The value that rots. Nothing else in the file looks like it.
const SOUND: &[u8] = b"a value that will rot on its disk";

/// One cluster at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn put(key: impl Into<bytes::Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: SOUND.into(), ..pb::PutRequest::default() }
}

fn flags(flags: &[&str]) -> Vec<String> {
    // A busy machine must not make the victim a leader.
    [&["--election-timeout=3000"], flags].concat().iter().map(ToString::to_string).collect()
}

/// Three members with some keys, the last of which is stopped and has another value than the others.
async fn rotten(folder: &Path, kind: &str, checks: &[&str]) -> Cluster {
    let config = Config {
        kinds: vec![Kind::parse(kind).unwrap(); 3],
        flags: flags(checks),
        folder: folder.to_owned(),
        is_proxied: false,
        has_disks: false,
    };
    let mut cluster = Cluster::start(config).await.unwrap();
    for number in 0..20 {
        cluster.nodes()[0].api().put(put(format!("key {number}"))).await.unwrap();
    }
    let revision = cluster.revision().await.unwrap();
    cluster.wait_revision(VICTIM, revision).await.unwrap();
    cluster.equal_hashes().await.unwrap();
    cluster.move_leader(0).await.unwrap();
    cluster.stop_node(VICTIM).await.unwrap();
    let path = cluster.nodes()[VICTIM].data_dir().join("member/snap/db");
    let mut bytes = std::fs::read(&path).unwrap();
    // Every copy of one of them: which page counts is none of this test's business.
    let places = |part: &[u8]| -> Vec<usize> {
        let windows = bytes.windows(part.len()).enumerate();
        windows.filter(|(_, found)| *found == part).map(|(at, _)| at).collect()
    };
    let values = places(SOUND);
    let behind = |key: usize| values.iter().copied().find(|value| *value > key);
    let rotting: BTreeSet<usize> = places(b"key 7").into_iter().filter_map(behind).collect();
    assert!(!rotting.is_empty(), "the value is in the file");
    for at in rotting {
        bytes[at] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    cluster
}

/// The victim refuses to start when it is told to look first, and harms nobody.
async fn refuses_to_start(cluster: &mut Cluster, checks: &[&str], initial_check: &str) {
    cluster.set_flags(flags(&[checks, &[initial_check]].concat()));
    cluster.start_node(VICTIM).unwrap();
    let ended = cluster.wait_ended(VICTIM, PATIENCE).await.unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
    let log = std::fs::read_to_string(cluster.nodes()[VICTIM].log_path()).unwrap();
    for told in [
        "\"msg\":\"found different hash values from remote peer\"",
        "\"msg\":\"checkInitialHashKV failed\"",
        " found data inconsistency with peers\"",
    ] {
        assert!(log.contains(told), "{told} is not in {log}");
    }
    cluster.nodes()[1].api().put(put("after it")).await.unwrap();
    cluster.set_flags(flags(checks));
}

/// Waits for the alarm, returns whom it names, and sees that no member takes a write any more.
async fn alarmed(cluster: &Cluster) -> Vec<u64> {
    let deadline = Instant::now() + PATIENCE;
    let named = loop {
        let Response::Alarm(answer) = cluster.nodes()[0]
            .api()
            .call(Request::Alarm(pb::AlarmRequest::default()))
            .await
            .unwrap()
        else {
            panic!("another answer")
        };
        if !answer.alarms.is_empty() {
            assert!(answer.alarms.iter().all(|alarm| alarm.alarm() == AlarmType::Corrupt));
            break answer.alarms.iter().map(|alarm| alarm.member_id).collect();
        }
        assert!(Instant::now() < deadline, "no alarm:\n{}", cluster.nodes()[0].log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for node in cluster.nodes() {
        loop {
            let error = node.api().put(put("key")).await.map(drop);
            match error {
                Err(refusal) if refusal.message == "etcdserver: corrupt cluster" => {
                    assert_eq!(refusal.code, tonic::Code::DataLoss);
                    break;
                }
                // One that has just started does not serve yet, or has not heard of the alarm.
                Err(_) | Ok(()) => {
                    assert!(Instant::now() < deadline, "{error:?}:\n{}", node.log_tail());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
    named
}

/// Runs a test in a folder that is kept when it fails.
fn alone<F: Future<Output = ()>>(run: impl FnOnce(std::path::PathBuf) -> F) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    common::runtime().block_on(run(folder.path().to_owned()));
}

/// At the start, and from time to time; as 3.5 spells it. Its alarm names nobody.
#[test]
fn rot_is_found_at_the_start_and_from_time_to_time() {
    alone(|folder| async move {
        let checks = ["--experimental-corrupt-check-time=200ms"];
        let mut cluster = rotten(&folder, "ours", &checks).await;
        let initial_check = "--experimental-initial-corrupt-check=true";
        refuses_to_start(&mut cluster, &checks, initial_check).await;
        cluster.start_node(VICTIM).unwrap();
        assert_eq!(alarmed(&cluster).await, [0]);
        let told = cluster.logged(0, "same compact revision then hashes must match").unwrap();
        assert!(told > 0, "{}", cluster.nodes()[0].log_tail());
        cluster.stop().await.unwrap();
    });
}

/// At the start, and after a compaction, whose hashes cost nothing more; as 3.7 spells it. The alarm names the member.
#[test]
fn rot_is_found_by_a_compaction() {
    alone(|folder| async move {
        let checks = ["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=200ms"];
        let mut cluster = rotten(&folder, "ours-3.7", &checks).await;
        let initial_check = "--feature-gates=CompactHashCheck=true,InitialCorruptCheck=true";
        refuses_to_start(&mut cluster, &checks[1..], initial_check).await;
        cluster.set_flags(flags(&checks));
        cluster.start_node(VICTIM).unwrap();
        cluster.wait_healthy(PATIENCE).await.unwrap();
        let revision = cluster.revision().await.unwrap();
        cluster.wait_revision(VICTIM, revision).await.unwrap();
        let compact = pb::CompactionRequest { revision, physical: true };
        cluster.nodes()[1].api().call(Request::Compact(compact)).await.unwrap();
        assert_eq!(alarmed(&cluster).await, [cluster.nodes()[VICTIM].id]);
        let told = cluster.logged(0, "Detected compaction hash mismatch").unwrap();
        assert!(told > 0, "{}", cluster.nodes()[0].log_tail());
        cluster.stop().await.unwrap();
    });
}
