//! Level L2: whole clusters of the server's own logic, a seed a cluster.
//!
//! `SIM_SERVER_SEEDS` sets how many seeds there are, `SIM_SEED_BASE` where the second half of them begins (the first half
//! is always the same). A failure names its seed and the command that shows what happened.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::server::{self, Mark, Marks, Options, Plant, Run};

/// Few enough for every run of the tests.
const SEEDS: u64 = 40;

/// Where the second half begins, if nobody says.
const SEED_BASE: u64 = 1_000_000;

/// From so many seeds on, everything that is to happen sometimes must have happened.
const SEEDS_FOR_ALL_MARKS: u64 = 400;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn complaint(run: &Run) -> String {
    format!(
        "{run}\nreplay: cargo run --profile test -p sim --example simulate -- --level 2 --replay {}\ndrawn: {}",
        run.seed, run.drawn
    )
}

#[test]
fn clusters_keep_their_promises() {
    let wanted = from_environment("SIM_SERVER_SEEDS").unwrap_or(SEEDS);
    let base = from_environment("SIM_SEED_BASE").unwrap_or(SEED_BASE);
    let fixed = wanted - wanted / 2;
    let regress: Vec<u64> = include_str!("regress-server-seeds.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.trim().parse().unwrap())
        .collect();
    let (next, ops, virtual_us, faults) =
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
                    let run = server::run(seed, Options::default());
                    ops.fetch_add(run.ops, Ordering::Relaxed);
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
        "{total} server seeds run: {} virtual minutes, {} operations, {} faults, in {:.1} s",
        virtual_us.into_inner() / 60_000_000,
        ops.into_inner(),
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
            let run = server::run(seed, Options::default());
            (run.trace_hash, run.events, run.virtual_us)
        };
        assert_eq!(hash(), hash(), "seed {seed}");
    }
    let other = |seed| server::run(seed, Options::default()).trace_hash;
    assert_ne!(other(1), other(2));
}

/// The checks that are meant to find a mistake.
fn expected(plant: Plant) -> &'static [&'static str] {
    match plant {
        Plant::None => &[],
        Plant::AckBeforeFsync => &["durable before sent", "state machine safety"],
        Plant::IndexAheadOfData => &[
            "all answer what the model answers",
            "no index ahead of the data",
            "the index stands for the data",
        ],
        Plant::WatchOverInstall | Plant::WatchResumesLate => {
            &["watch: every event, once and in order", "watch: honest progress"]
        }
        Plant::DeposedLeaderRevokes | Plant::ExpiryKeptAtPromotion => &["leases last their time"],
        Plant::AppliedTwice => &["the index stands for the data", "equal leases", "equal hashes"],
        Plant::CompactionTakesLive => {
            &["everything can be read", "no stage fails", "equal hashes", "reads equal the model"]
        }
        Plant::ReadWithoutRound => &["linearizable reads"],
        // Members refuse to start, or to go on, over a database that does not go with the log.
        Plant::SnapshotDataStale | Plant::SnapshotBeforeCommit | Plant::ReceivedGoesEarly => {
            &["no stage fails"]
        }
        Plant::LeasesKeptAtInstall => &["equal leases"],
        Plant::DivergentApply => {
            &["events are the model's", "all answer what the model answers", "equal hashes"]
        }
        Plant::AckOnPropose => &["acknowledged writes are there"],
    }
}

/// Each mistake is found within so many seeds, by a check that is meant to find it.
#[test]
fn planted_mistakes_are_found() {
    const SEEDS: u64 = 60;
    for &plant in Plant::ALL {
        let options = Options { plant, ..Options::default() };
        let began = Instant::now();
        // The rare one is looked for where it is known to be: two snapshots must arrive while a disk is slow.
        let first = if plant == Plant::ReceivedGoesEarly { 150 } else { 1 };
        let found = (first..first + SEEDS).find_map(|seed| {
            let run = server::run(seed, options);
            run.violation.map(|violation| (seed, violation))
        });
        let name = format!("{plant:?}");
        let (seed, violation) =
            found.unwrap_or_else(|| panic!("{name} is not found in {SEEDS} seeds"));
        println!(
            "{name:<24} seed {seed:>4} of {SEEDS:>4}, {:>5.1} s  {}: {:.120}",
            began.elapsed().as_secs_f64(),
            violation.check,
            violation.detail
        );
        assert!(expected(plant).contains(&violation.check), "{name}, seed {seed}: {violation:?}");
    }
}
