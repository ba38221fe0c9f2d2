//! Random groups of members under random faults, checked for what raft promises.
//!
//! Everything is drawn from one seed: the settings, the order in which messages arrive, are lost or doubled, ticks,
//! proposals, changes of membership, crashes that lose what was not synced, compactions. Checked after every step:
//!
//! - election safety: no two leaders in one term;
//! - log matching, state machine safety: what is committed at an index is the same wherever it is, for ever;
//! - leader completeness: a new leader's log holds everything that was committed before;
//! - promises: no vote and no acknowledgement leaves a member before what it vouches for is on its disk, and nothing is
//!   applied before it is there;
//! - reads: an index given for a read covers everything that was committed when the read was asked for;
//! - then, when the faults end, that the group gets going again and its members agree.
//!
//! `RETCD_RAFT_SEEDS=n` sets how many seeds are run; `RETCD_RAFT_SEED=n` runs one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of this is a test")]

mod sim;

use std::env::var;

use sim::Sim;

/// Enough to see every kind of fault in every setting, in a few seconds.
const DEFAULT_SEEDS: u64 = 150;

/// Names the seed when a check fails.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "seed {0}: RETCD_RAFT_SEED={0} cargo test -p raft --test cluster random_histories",
                self.0
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn random_histories_keep_raft_promises() {
    let seeds = match number("RETCD_RAFT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RETCD_RAFT_SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    let mut totals = sim::Totals::default();
    for seed in seeds {
        let _announce = Announce(seed);
        let mut sim = Sim::new(seed);
        sim.run();
        sim.heal_and_agree();
        totals.add(&sim.totals);
    }
    println!("{totals:?}");
}

#[test]
fn one_seed_gives_one_history() {
    let trace = |seed| {
        let mut sim = Sim::new(seed);
        sim.run();
        sim.heal_and_agree();
        sim.fingerprint
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
