//! What a seed draws: how large the group is, how the network, the disks and the clocks are, which faults there are.
//!
//! Faults are left out as often as not (swarm testing): what always happens hides what only shows without it.

use crate::net::Quality;
use crate::rng::Stream;

/// A fault, or something that an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    CrashAny,
    CrashLeader,
    CrashAll,
    Pause,
    PauseLeader,
    Split,
    Isolate,
    IsolateLeader,
    OneWay,
    Bridge,
    Heal,
    Loss,
    StallDisk,
    FailDisk,
    Transfer,
    Campaign,
    AddLearner,
    AddVoter,
    Promote,
    Demote,
    Remove,
    RemoveLeader,
    JointImplicit,
    JointExplicit,
    LeaveJoint,
}

impl Fault {
    pub(super) const ALL: &[Self] = &[
        Self::CrashAny,
        Self::CrashLeader,
        Self::CrashAll,
        Self::Pause,
        Self::PauseLeader,
        Self::Split,
        Self::Isolate,
        Self::IsolateLeader,
        Self::OneWay,
        Self::Bridge,
        Self::Heal,
        Self::Loss,
        Self::StallDisk,
        Self::FailDisk,
        Self::Transfer,
        Self::Campaign,
        Self::AddLearner,
        Self::AddVoter,
        Self::Promote,
        Self::Demote,
        Self::Remove,
        Self::RemoveLeader,
        Self::JointImplicit,
        Self::JointExplicit,
        Self::LeaveJoint,
    ];
}

/// The world of one seed. Times are in microseconds, `(low, high)` are ranges from which is drawn each time.
#[derive(Debug, Clone)]
pub(super) struct Swarm {
    pub(super) founders: u64,
    pub(super) chaos_us: u64,
    pub(super) pre_vote: bool,
    pub(super) election_ticks: u32,
    /// How far the speed of clocks differs.
    pub(super) drift_ppm: u64,
    pub(super) delay_us: (u64, u64),
    pub(super) loss_ppm: u64,
    pub(super) duplicate_ppm: u64,
    /// Whether messages on a link keep their order, as in a stream.
    pub(super) is_ordered: bool,
    /// Whether what a node sent arrives although it crashed.
    pub(super) outlives_sender: bool,
    /// Whether messages go through their encoding.
    pub(super) is_encoded: bool,
    pub(super) write_us: (u64, u64),
    pub(super) apply_us: (u64, u64),
    /// How long a node lets inputs gather.
    pub(super) gather_us: u64,
    pub(super) snapshot_every: u64,
    pub(super) catch_up: u64,
    /// How often the state machine's own state is made durable, a time it applied something.
    pub(super) checkpoint_ppm: u64,
    pub(super) propose_us: u64,
    pub(super) burst: u64,
    pub(super) read_us: u64,
    pub(super) fault_us: u64,
    pub(super) downtime_us: u64,
    pub(super) weights: Vec<u64>,
}

const SECOND_US: u64 = 1_000_000;

impl Swarm {
    pub(super) fn quality(&self) -> Quality {
        Quality {
            delay_us: self.delay_us,
            loss_ppm: self.loss_ppm,
            duplicate_ppm: self.duplicate_ppm,
            is_ordered: self.is_ordered,
        }
    }

    pub(super) fn draw(rng: &mut Stream) -> Self {
        let pick = |rng: &mut Stream, from: &[u64]| rng.pick(from).unwrap_or(0);
        let founders = pick(rng, &[1, 2, 3, 3, 3, 3, 4, 5, 5, 7]);
        let delay = pick(rng, &[200, 1_000, 10_000, 50_000]);
        let write = pick(rng, &[100, 1_000, 10_000, 60_000, 300_000]);
        let apply = pick(rng, &[0, 100, 1_000, 30_000]);
        let snapshot_every = pick(rng, &[5, 20, 60, 200, 5_000]);
        let is_calm = rng.percent(5);
        let weights = Fault::ALL
            .iter()
            .map(|_| if is_calm || rng.percent(50) { 0 } else { 1 + rng.below(9) })
            .collect();
        Self {
            founders,
            chaos_us: rng.between((30, 90)) * SECOND_US,
            pre_vote: rng.percent(80),
            election_ticks: u32::try_from(pick(rng, &[5, 10, 10, 10, 20])).unwrap_or(10),
            drift_ppm: pick(rng, &[0, 0, 50_000, 100_000, 300_000]),
            delay_us: (delay / 4, delay * pick(rng, &[1, 3, 10])),
            loss_ppm: pick(rng, &[0, 0, 1_000, 20_000, 150_000]),
            duplicate_ppm: pick(rng, &[0, 0, 1_000, 50_000, 200_000]),
            is_ordered: rng.percent(50),
            outlives_sender: rng.percent(50),
            is_encoded: rng.percent(10),
            write_us: (write / 3, write),
            apply_us: (apply / 3, apply),
            gather_us: pick(rng, &[0, 0, 0, 500, 5_000]),
            snapshot_every,
            catch_up: rng.below(snapshot_every.min(100) + 1),
            checkpoint_ppm: pick(rng, &[0, 10_000, 200_000, 1_000_000]),
            propose_us: pick(rng, &[30_000, 100_000, 300_000, 1_500_000]),
            burst: pick(rng, &[1, 1, 4, 20]),
            read_us: pick(rng, &[50_000, 200_000, 1_000_000]),
            fault_us: pick(rng, &[300_000, 1_000_000, 3_000_000, 8_000_000]),
            downtime_us: pick(rng, &[100_000, 1_000_000, 5_000_000]),
            weights,
        }
    }
}
