//! Level L1: whole groups under one seed, in one thread and in virtual time.
//!
//! Each node is a real [`replica`] over a simulated disk and a state machine that only remembers what it was given. Nodes
//! crash and lose what was not synced, stand still, run at different speeds, lose and repeat messages, are cut off from
//! each other, come and go; clients propose and read meanwhile. After every step the rules of consensus are checked over all
//! nodes and for all time; at the end all faults are mended, and the group must recover.
//!
//! ```text
//!             ┌──────────── world: loop, faults, clients ────────────┐
//!  swarm ───► │  node ◄──► member (replica)     node        node …   │ ───► trace, marks
//!  (seed)     │   │ disk, machine                 │                  │
//!             │   └───────── net ─────────────────┘                  │ ───► check: a violation ends the run
//!             └──────────────────────────────────────────────────────┘
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `swarm` | what a seed draws |
//! | `world`, `env` | the loop; time, events and what all share |
//! | `node` | one node, and how it carries out what its replica asks for |
//! | `member` | the only contact with [`replica`] |
//! | `disk`, `net` | what survives, what arrives |
//! | `check` | what must hold |
//! | `plant` | mistakes to be found |
//! | `marks` | what must have happened in a large number of runs |
//!
//! Invariants
//! - the same seed gives the same trace, event by event;
//! - each concern (net, disk, clock, workload, schedule) draws from its own stream;
//! - no iteration over anything that is not ordered, no clock, no thread.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a mistake or a fault is looked at where it matters, and nowhere else"
)]

mod check;
mod disk;
mod env;
mod marks;
mod member;
mod node;
mod plant;
mod swarm;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use crate::trace::Line;
pub use crate::violation::Violation;
pub use marks::{Mark, Marks};
pub use plant::Plant;

use world::World;

/// How to run a seed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A mistake to make.
    pub plant: Plant,
    /// Whether to keep the trace, which is long.
    pub keep_trace: bool,
    /// Whether to compare what nodes send with what they have on disk. Otherwise only outcomes count.
    pub inspects_sends: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { plant: Plant::None, keep_trace: false, inspects_sends: true }
    }
}

/// What came of a seed.
#[derive(Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Hash over all events.
    pub trace_hash: u64,
    /// How many events there were.
    pub events: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Proposals that clients made.
    pub proposals: u64,
    /// Reads that clients asked for.
    pub reads: u64,
    /// Faults, and steps of operators.
    pub faults: u64,
    /// What was seen.
    pub marks: Marks,
    /// The trace, if it was to be kept.
    pub trace: Vec<Line>,
    /// What the seed drew.
    pub drawn: String,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation, trace_hash, events, virtual_us, .. } = self;
        let seconds = virtual_us / 1_000_000;
        write!(f, "seed {seed}: {events} events in {seconds} virtual s, trace {trace_hash:016x}")?;
        match violation {
            None => Ok(()),
            Some(Violation { check, detail }) => write!(f, "\nbroken: {check}: {detail}"),
        }
    }
}

/// Runs a seed. A panic of what is under test is a violation like any other.
#[must_use]
pub fn run(seed: u64, options: Options) -> Run {
    let Options { plant, keep_trace, inspects_sends } = options;
    let mut world = World::new(seed, plant, keep_trace, inspects_sends);
    let drawn = format!("{:?}", world.env.swarm);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => Some(Violation::of_panic(&*panic)),
    };
    let env = world.env;
    Run {
        seed,
        violation,
        trace_hash: env.trace.hash(),
        events: env.trace.count(),
        virtual_us: env.now_us,
        proposals: env.proposals,
        reads: env.reads,
        faults: env.faults,
        marks: env.marks,
        trace: env.trace.into_lines(),
        drawn,
    }
}
