//! Random operations against real etcd and ours, every answer compared; and the same with the data directories exchanged.
//!
//! `RETCD_OPERATIONS` and `RETCD_SEED` change the run; `cargo run --release -p testkit -- differential` is for long ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use testkit::cluster::Kind;
use testkit::differential::{Config, Rules, Stop, run, run_quota};
use testkit::{embed, programs};

fn config(left: &str, right: &str) -> Config {
    Config {
        seed: common::seed(),
        operations: common::number("RETCD_OPERATIONS", 3_000),
        left: Kind::parse(left).unwrap(),
        right: Kind::parse(right).unwrap(),
        phases: 1,
        is_swapping: false,
        stop: Stop::Term,
        flags: Vec::new(),
        value_bytes_max: 48,
        folder: None,
        users: None,
        watches_one_in: 40,
        is_verbose: false,
    }
}

fn check(config: &Config) {
    let report =
        common::runtime().block_on(run(config)).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(report.operations >= config.operations, "{report:?}");
    assert!(report.events > 0 && report.hashes > 0 && report.refusals > 0, "{report:?}");
}

#[test]
fn random_operations_get_equal_answers() {
    if programs::real_or_skip("random_operations_get_equal_answers").is_some() {
        check(&config("real", "ours"));
    }
}

/// Root, users and strangers, while rights and passwords change; ours stands for the version that it is compared with.
#[test]
fn users_get_equal_answers() {
    if programs::real_or_skip("users_get_equal_answers").is_some() {
        check(&Config { users: Some(Rules::Old), ..config("real", "ours") });
    }
    for version in embed::VERSIONS {
        if embed::are_there_or_skip("users_get_equal_answers") {
            let (theirs, ours) = (embed::label(version), format!("ours-{version}"));
            check(&Config { users: Some(Rules::Present), phases: 2, ..config(&theirs, &ours) });
        }
    }
}

/// RangeStream and watches, where these are not what 3.5 has.
#[test]
fn newer_versions_get_equal_answers() {
    for version in embed::VERSIONS {
        if embed::are_there_or_skip("newer_versions_get_equal_answers") {
            let (theirs, ours) = (embed::label(version), format!("ours-{version}"));
            check(&config(&theirs, &ours));
        }
    }
}

/// What is refused when the quota is used up, what is not, and what it takes to write again: across a restart.
#[test]
fn a_used_up_quota_has_equal_consequences() {
    let mut pairs = Vec::new();
    if programs::real_or_skip("a_used_up_quota_has_equal_consequences").is_some() {
        pairs.push(("real".to_owned(), "ours".to_owned()));
    }
    for version in embed::VERSIONS {
        if embed::are_there_or_skip("a_used_up_quota_has_equal_consequences") {
            pairs.push((embed::label(version), format!("ours-{version}")));
        }
    }
    for (theirs, ours) in pairs {
        let (left, right) = (Kind::parse(&theirs).unwrap(), Kind::parse(&ours).unwrap());
        let steps = common::runtime()
            .block_on(run_quota(&left, &right))
            .unwrap_or_else(|error| panic!("{theirs}: {error:#}"));
        let refused = steps.iter().filter(|(_, outcome)| outcome.contains("space exceeded"));
        assert!(refused.count() >= 10, "{theirs}: {steps:?}");
        let last = steps.iter().rfind(|(what, _)| *what == "put a large value");
        assert_eq!(last, Some(&("put a large value", "ok".to_owned())), "{theirs}: {steps:?}");
    }
}

/// Ours goes on with real etcd's directory and real etcd with ours, four times, after SIGTERM and after SIGKILL, with
/// raft snapshots every 50 entries and compactions at random.
#[test]
fn data_directories_can_be_exchanged() {
    if programs::real_or_skip("data_directories_can_be_exchanged").is_none() {
        return;
    }
    let config = Config {
        phases: 5,
        is_swapping: true,
        stop: Stop::Mixed,
        flags: vec!["--snapshot-count=50".to_owned()],
        ..config("real", "ours")
    };
    check(&config);
}

/// Needs no real etcd: one of ours is killed and restarted, the other is never compared with anything but it.
#[test]
fn our_member_is_the_same_after_each_restart() {
    check(&Config { phases: 3, stop: Stop::Mixed, is_swapping: true, ..config("ours", "ours") });
}
