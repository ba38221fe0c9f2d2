//! Level L1: whole groups on simulated networks, disks and clocks, a seed a group.
//!
//! `SIM_RAFT_SEEDS` sets how many seeds there are, `SIM_SEED_BASE` where the second half of them begins (the first half is
//! always the same). A failure names its seed and the command that shows what happened.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a failed step is the failure, and most mistakes are alike"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::cluster::{self, Mark, Marks, Options, Plant, Run};

/// Few enough for every run of the tests.
const SEEDS: u64 = 200;

/// Where the second half begins, if nobody says.
const SEED_BASE: u64 = 1_000_000;

/// From so many seeds on, everything that is to happen sometimes must have happened.
const SEEDS_FOR_ALL_MARKS: u64 = 1_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn complaint(run: &Run) -> String {
    format!(
        "{run}\nreplay: cargo run -p sim --example simulate -- --replay {}\ndrawn: {}",
        run.seed, run.drawn
    )
}

#[test]
fn groups_keep_their_promises() {
    let wanted = from_environment("SIM_RAFT_SEEDS").unwrap_or(SEEDS);
    let base = from_environment("SIM_SEED_BASE").unwrap_or(SEED_BASE);
    let fixed = wanted - wanted / 2;
    let regress: Vec<u64> = include_str!("regress-seeds.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.trim().parse().unwrap())
        .collect();
    let (next, events, virtual_us, faults) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let total = wanted + regress.len() as u64;
    let marks = Mutex::new(Marks::default());
    let failures = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let seed = if number < fixed {
                        1 + number
                    } else if number < wanted {
                        base + number - fixed
                    } else if number < total {
                        regress[usize::try_from(number - wanted).unwrap()]
                    } else {
                        return;
                    };
                    let run = cluster::run(seed, Options::default());
                    events.fetch_add(run.events, Ordering::Relaxed);
                    virtual_us.fetch_add(run.virtual_us, Ordering::Relaxed);
                    faults.fetch_add(run.faults, Ordering::Relaxed);
                    marks.lock().unwrap().add(&run.marks);
                    if run.violation.is_some() {
                        failures.lock().unwrap().push(complaint(&run));
                        // The rest would tell no more.
                        next.store(total, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let marks = marks.into_inner().unwrap();
    println!(
        "{total} raft seeds run: {} virtual minutes, {} events, {} faults, in {:.1} s",
        virtual_us.into_inner() / 60_000_000,
        events.into_inner(),
        faults.into_inner(),
        began.elapsed().as_secs_f64()
    );
    for &mark in Mark::ALL {
        println!("{:>10}  {}", marks.count(mark), mark.text());
    }
    if wanted >= SEEDS_FOR_ALL_MARKS {
        let missed: Vec<&str> = marks.missed().into_iter().map(Mark::text).collect();
        assert!(missed.is_empty(), "never happened: {missed:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=20 {
        let hash = || {
            let run = cluster::run(seed, Options::default());
            (run.trace_hash, run.events, run.virtual_us)
        };
        assert_eq!(hash(), hash(), "seed {seed}");
    }
    let other = |seed| cluster::run(seed, Options::default()).trace_hash;
    assert_ne!(other(1), other(2));
}

/// Each mistake is found within so many seeds, by a check that is meant to find it.
#[test]
fn planted_mistakes_are_found() {
    let durable: &[&str] = &[
        "durable before sent",
        "durable before applied",
        "commit is durable on a quorum",
        "one vote a term",
        "election safety",
        "log matching",
        "leader completeness",
    ];
    let lost: &[&str] = &[
        "leader completeness",
        "log matching",
        "one vote a term",
        "commit is durable on a quorum",
        "messages of correct peers are taken",
        "state machine safety",
        "restart",
        "log continuity",
    ];
    let state: &[&str] = &["state machine safety"];
    let conf: &[&str] = &["equal configurations", "liveness"];
    let reads: &[&str] = &["linearizable reads"];
    for &plant in Plant::ALL {
        let (expected, seeds) = match plant {
            Plant::None => continue,
            Plant::AckBeforeFsync
            | Plant::ResponsesBeforeDurable
            | Plant::VoteAskedEarly
            | Plant::VoteNotPersisted
            | Plant::TermNotPersisted => (durable, 50),
            Plant::TruncatedOnRestart | Plant::Amnesia => (lost, 100),
            // Rare: a crash must come between the damage and its repair by later writes.
            Plant::OverwriteKeepsTail | Plant::SnapshotKeepsLog => (lost, 1_000),
            Plant::SnapshotDataStale | Plant::ApplyBeforeCommit | Plant::AppliedTwice => {
                (state, 50)
            }
            Plant::ConfChangeNotReplayed | Plant::ConfChangeTwice | Plant::LearnerCounted => {
                (conf, 50)
            }
            Plant::AckOnAppend => (&["acknowledged is committed"][..], 5),
            Plant::ReadWithoutRound | Plant::ReadContextReused | Plant::ReadBeforeApply => {
                (reads, 100)
            }
        };
        let options = Options { plant, ..Options::default() };
        let began = Instant::now();
        // The rarest are looked for where they are known to be, so that the test does not take minutes.
        let first = match plant {
            Plant::OverwriteKeepsTail => 60,
            Plant::SnapshotKeepsLog => 220,
            _ => 1,
        };
        let found = (first..first + seeds).find_map(|seed| {
            let run = cluster::run(seed, options);
            run.violation.map(|violation| (seed, violation))
        });
        let (seed, violation) =
            found.unwrap_or_else(|| panic!("{plant:?} is not found in {seeds} seeds"));
        let name = format!("{plant:?}");
        println!(
            "{name:<24} seed {seed:>4} of {seeds:>4}, {:>5.1} s  {}",
            began.elapsed().as_secs_f64(),
            violation.check
        );
        assert!(expected.contains(&violation.check), "{plant:?}, seed {seed}: {violation:?}");
    }
}
