//! Level L2: whole clusters of the server's own logic under one seed, in one thread and in virtual time.
//!
//! Each member is what the server opens: consensus, log, state machine and database over one simulated disk, opened and
//! reopened by [`bootstrap`]. What are threads in the server are actors here, which take what gathered in their mailboxes
//! when the seed says so, and do the same things in the same order. Members crash in the middle of a write, run out of
//! space, stand still, run at different speeds, are cut off, replaced, added and removed; databases travel between them.
//! Clients read, write, watch, and keep leases meanwhile, through any member. At the end all faults are mended, and the
//! cluster must be whole again.
//!
//! ```text
//!             ┌───────────── world: loop, faults, operator, clients ───────────────┐
//!  swarm ───► │  node: heart ──► log writer ──► disk ◄── committer    node   node  │ ───► trace, marks
//!  (seed)     │          └─────► apply stage ──► watch stage             │         │
//!             │             └────────────── net, transfers ──────────────┘         │ ───► witness: a violation
//!             └────────────────────────────────────────────────────────────────────┘      ends the run
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `swarm` | what a seed draws |
//! | `world`, `env` | the loop; time, events, and what all share |
//! | `faults`, `operator`, `recovery` | what goes wrong, who changes the membership, how it ends |
//! | `node` | a member: its disk, its lives |
//! | `heart`, `storage`, `stage`, `reads`, `watching` | the server's threads, and what waits in them |
//! | `transfer` | databases on their way between members |
//! | `client` | who asks for what; leases |
//! | `witness` | what was committed, what follows from it by the [`Model`](crate::Model), and whether all see just that |
//! | `plant` | mistakes to be found |
//! | `marks` | what must have happened in a large number of runs |
//!
//! Invariants
//! - the same seed gives the same trace, event by event;
//! - each concern (net, disk, clock, workload, schedule) draws from its own stream;
//! - no iteration over anything that is not ordered, no clock, no thread.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a mistake, a fault or an event is looked at where it matters, and nowhere else"
)]

mod client;
mod env;
mod faults;
mod heart;
mod marks;
mod node;
mod operator;
mod plant;
mod reads;
mod recovery;
mod stage;
mod storage;
mod swarm;
mod transfer;
mod watching;
mod witness;
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
}

impl Default for Options {
    fn default() -> Self {
        Self { plant: Plant::None, keep_trace: false }
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
    /// Operations that clients asked for.
    pub ops: u64,
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
    let Options { plant, keep_trace } = options;
    let mut world = World::new(seed, plant, keep_trace);
    let drawn = format!("{:?}", world.env.swarm);
    let violation = match catch_unwind(AssertUnwindSafe(|| world.run())) {
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
        virtual_us: env.queue.now_us(),
        ops: env.ops,
        faults: env.faults,
        marks: env.marks,
        trace: env.trace.into_lines(),
        drawn,
    }
}
