//! Level L3: a member's file operations are recorded, the power is cut behind every one of them, and whatever survives of
//! the unsynced sectors and names, the member opens, holds what it acknowledged and nothing that nobody asked for, and
//! goes on.
//!
//! `SIM_CRASH_REOPENINGS` sets how many reopenings there are at least, `SIM_SEED` the first seed. A failure names its seed:
//! `SIM_SEED=that SIM_CRASH_REOPENINGS=1` runs it alone.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::{Plant, Settings, crash, workload};

/// Images at each cut: nothing kept, everything kept, some changes alone, draws.
const IMAGES_A_CUT: u64 = 6;

/// Few enough for every run of the tests.
const REOPENINGS: u64 = 6_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn settings(seed: u64, plant: Plant) -> Settings {
    let mut settings = Settings { plant, ..Settings::default() };
    if seed % 3 == 2 {
        settings.page_size = 4096;
        settings.segment_bytes = 16_384;
    }
    settings
}

fn run(seed: u64, plant: Plant) -> Result<crash::Looked, String> {
    let recorded = workload::run(seed, &settings(seed, plant))?;
    crash::every_cut(&recorded, IMAGES_A_CUT, seed)
}

#[test]
fn every_cut_of_a_workload_recovers() {
    let wanted = from_environment("SIM_CRASH_REOPENINGS").unwrap_or(REOPENINGS);
    let first = from_environment("SIM_SEED").unwrap_or(1);
    let (next, reopenings, cuts) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let began = Instant::now();
    let threads = if wanted <= 1 { 1 } else { 2 };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match run(seed, Plant::None) {
                        Ok(looked) => {
                            cuts.fetch_add(looked.cuts, Ordering::Relaxed);
                            let before = reopenings.fetch_add(looked.reopenings, Ordering::Relaxed);
                            if before + looked.reopenings >= wanted {
                                return;
                            }
                        }
                        Err(what) => {
                            *failure.lock().unwrap() = Some(format!("SIM_SEED={seed}: {what}"));
                            reopenings.store(wanted, Ordering::Relaxed);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(failure) = failure.into_inner().unwrap() {
        panic!("{failure}");
    }
    let (reopenings, cuts) = (reopenings.into_inner(), cuts.into_inner());
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{reopenings} reopenings at {cuts} cuts, seeds {first}..{}, in {seconds:.1} s",
        next.into_inner()
    );
    assert!(reopenings >= wanted);
}

#[test]
fn same_seed_gives_same_journal() {
    let ops = || {
        let recorded = workload::run(5, &settings(5, Plant::None)).unwrap();
        recorded.journal.ops().iter().map(|op| format!("{op:?}")).collect::<Vec<_>>()
    };
    assert!(ops() == ops());
}

/// Mistakes that the test is there to find. What each says is part of the proof that it was found for its own reason.
#[test]
fn planted_mistakes_are_found() {
    for (plant, complaint) in [
        (Plant::AnswerBeforeSync, "was acknowledged"),
        // The member itself refuses to open so, before the test compares.
        (Plant::IndexAhead, "and the database has applied entry"),
        (Plant::SnapshotBeforeCommit, "behind the raft snapshot"),
    ] {
        let found = (1..20).find_map(|seed| run(seed, plant).err().map(|what| (seed, what)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{plant:?} is not found"));
        println!("{plant:?}, seed {seed}: {what}");
        assert!(what.contains(complaint), "{plant:?}, seed {seed}: {what}");
    }
}
