//! Kill -9 under load on real files. `RETCD_ROUNDS` and `RETCD_SEED` change the run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use testkit::crash::{Config, run};
use testkit::programs;

#[test]
fn nothing_acknowledged_is_lost_to_kill_9() {
    let rounds = common::number("RETCD_ROUNDS", 4);
    let config = Config {
        seed: common::seed(),
        rounds,
        writers: 16,
        program: programs::ours().unwrap(),
        other: programs::real(),
        load_max: Duration::from_millis(500),
        flags: vec!["--snapshot-count=500".to_owned()],
        folder: None,
    };
    let report =
        common::runtime().block_on(run(&config)).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(report.kills, rounds);
    assert!(report.acknowledged > rounds, "{report:?}");
}
