//! Random operations against real etcd and ours, every answer compared; and the same with the data directories exchanged.
//!
//! `RETCD_OPERATIONS` and `RETCD_SEED` change the run; `cargo run --release -p testkit -- differential` is for long ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use testkit::cluster::Kind;
use testkit::differential::{Config, Rules, Stop, run};
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
