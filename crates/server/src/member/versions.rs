//! What a member does differently by the etcd version that it stands for.

use std::path::Path;
use std::time::Duration;

use backend::schema::{lease as lease_rows, meta};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    DowngradeRequest, LeaseGrantRequest, downgrade_request::DowngradeAction,
};

use super::Member;
use super::unconnected::{config, start};
use crate::cluster_version;
use crate::config::Config;
use crate::grpc;
use crate::version::{Version, parse_emulated};

fn config_of(data_dir: &Path, version: &str) -> Config {
    let emulated_version = (!version.is_empty()).then(|| parse_emulated(version).unwrap());
    Config { emulated_version, ..config(data_dir) }
}

async fn downgrade(member: &Member, action: DowngradeAction, to: &str) -> Result<String, String> {
    let request = DowngradeRequest { action: action.into(), version: to.to_owned() };
    let answer = grpc::downgrade(&member.core, &request).await;
    answer.map_err(|status| format!("{:?} {}", status.code(), status.message()))
}

fn cluster_version(member: &Member) -> String {
    let version = member.core.facts.get().membership.version();
    version.map(|version| version.to_string()).unwrap_or_default()
}

/// Looks again until it is so; what is waited for is work of other threads.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    const LIMIT: Duration = Duration::from_secs(30);
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, looking).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_stays_what_its_cluster_is_until_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    for (asked, cluster, own) in [
        ("", "3.5.0", "3.5.30"),
        ("3.6", "3.6.0", "3.6.14"),
        ("", "3.6.0", "3.6.14"),
        ("3.7", "3.7.0", "3.7.1"),
        ("", "3.7.0", "3.7.1"),
    ] {
        let (member, _) = start(config_of(dir.path(), asked)).await;
        // What the leader does every few seconds; at once here.
        cluster_version::look(&member.core).await;
        assert_eq!(cluster_version(&member), cluster, "asked for {asked:?}");
        assert_eq!(member.core.version.to_string(), own, "asked for {asked:?}");
        let storage = (own != "3.5.30").then_some(cluster);
        until("storage version", || {
            let found = meta::storage_version(&member.core.backend.view()).unwrap();
            found.as_deref() == storage
        })
        .await;
        member.stop().await;
    }
    let lowered = crate::bootstrap::open(&config_of(dir.path(), "3.6"), None, 1, true).map(drop);
    let error = lowered.unwrap_err().to_string();
    assert!(error.contains("enable a downgrade first"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_lowers_the_cluster_then_its_rows_then_the_member() {
    use DowngradeAction::{Cancel, Enable, Validate};

    let dir = tempfile::tempdir().unwrap();
    let (member, _) = start(config_of(dir.path(), "3.6")).await;
    let in_process = "FailedPrecondition etcdserver: cluster has a downgrade job in progress";
    for (action, to, expected) in [
        (Validate, "x", Err("InvalidArgument etcdserver: wrong downgrade target version format")),
        (Validate, "3.4", Err("InvalidArgument etcdserver: invalid downgrade target version")),
        (Validate, "3.5.7", Ok("3.6")),
        (Cancel, "", Ok("3.6")),
        (Enable, "3.5", Ok("3.6")),
        (Enable, "3.5", Err(in_process)),
        (Validate, "3.5", Err(in_process)),
    ] {
        let answer = downgrade(&member, action, to).await;
        assert_eq!(answer, expected.map(str::to_owned).map_err(str::to_owned), "{action:?} {to}");
    }
    cluster_version::look(&member.core).await;
    assert_eq!(cluster_version(&member), "3.5.0");
    until("rows of 3.5", || meta::storage_version(&member.core.backend.view()).unwrap().is_none())
        .await;
    cluster_version::look(&member.core).await;
    assert_eq!(cluster_version(&member), "3.5.0", "it does not rise while the downgrade lasts");
    cluster_version::end_downgrade(&member.core).await;
    assert!(member.core.facts.get().membership.downgrade().enabled, "this member is still 3.6");
    member.stop().await;

    let (member, _) = start(config_of(dir.path(), "")).await;
    assert_eq!(member.core.version, Version::EMULATED[0]);
    cluster_version::end_downgrade(&member.core).await;
    assert!(!member.core.facts.get().membership.downgrade().enabled);
    let answer = downgrade(&member, Cancel, "").await;
    let none = "FailedPrecondition etcdserver: no inflight downgrade job";
    assert_eq!(answer, Err(none.to_owned()));
    assert_eq!(downgrade(&member, Validate, "3.4").await.as_deref(), Ok("3.5.0"));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_lease_is_noted_and_taken_back() {
    const ID: i64 = 7;
    const TTL: i64 = 100;
    for (version, persist, is_kept) in
        [("3.5", false, false), ("3.5", true, true), ("3.6", false, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            lease_checkpoint_interval: Some(Duration::from_secs(1)),
            lease_checkpoint_persist: persist,
            ..config_of(dir.path(), version)
        };
        let (member, _) = start(config).await;
        let core = &member.core;
        core.propose(Op::LeaseGrant(LeaseGrantRequest { id: ID, ttl: TTL })).await.unwrap();
        let row = || {
            let view = core.backend.view();
            let rows = lease_rows::all(&view).unwrap();
            let rows: Vec<_> = rows.map(Result::unwrap).collect();
            assert_eq!(rows.len(), 1);
            rows[0].remaining_ttl
        };
        let applied = core.board.applied();
        until("a checkpoint", || core.board.applied() > applied).await;
        assert_eq!(row() > 0, is_kept, "{version} {persist}");
        assert_eq!(grpc::renew_here(core, lease::LeaseId(ID)).await.unwrap(), Some(TTL));
        assert_eq!(row(), 0);
        member.stop().await;
    }
}
