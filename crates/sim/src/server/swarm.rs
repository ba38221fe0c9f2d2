//! What a seed draws, see [`crate::cluster`]: faults are left out as often as not.

use crate::net::Quality;
use crate::rng::Stream;

/// A fault, or something that an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    CrashAny,
    CrashLeader,
    CrashTorn,
    CrashAll,
    Kill,
    FailFsync,
    FillDisk,
    SlowDisk,
    Pause,
    PauseLeader,
    Split,
    Isolate,
    IsolateLeader,
    OneWay,
    Loss,
    Transfer,
    Defragment,
    AddLearner,
    Remove,
    Replace,
}

impl Fault {
    pub(super) const ALL: &[Self] = &[
        Self::CrashAny,
        Self::CrashLeader,
        Self::CrashTorn,
        Self::CrashAll,
        Self::Kill,
        Self::FailFsync,
        Self::FillDisk,
        Self::SlowDisk,
        Self::Pause,
        Self::PauseLeader,
        Self::Split,
        Self::Isolate,
        Self::IsolateLeader,
        Self::OneWay,
        Self::Loss,
        Self::Transfer,
        Self::Defragment,
        Self::AddLearner,
        Self::Remove,
        Self::Replace,
    ];
}

/// The world of one seed. Times are in microseconds, `(low, high)` are ranges from which is drawn each time.
#[derive(Debug, Clone)]
pub(super) struct Swarm {
    pub(super) founders: u64,
    pub(super) chaos_us: u64,
    pub(super) pre_vote: bool,
    pub(super) election_ticks: u32,
    /// How far the speed of clocks differs from true time.
    pub(super) drift_ppm: u64,
    pub(super) delay_us: (u64, u64),
    pub(super) loss_ppm: u64,
    pub(super) duplicate_ppm: u64,
    pub(super) is_ordered: bool,
    /// How long the log writer, the apply stage, the committer and the watch stage take until they look at what gathered.
    pub(super) heart_us: (u64, u64),
    pub(super) write_us: (u64, u64),
    pub(super) apply_us: (u64, u64),
    pub(super) commit_us: (u64, u64),
    pub(super) watch_us: (u64, u64),
    /// Longest time that a change waits for a commit of the database.
    pub(super) commit_interval_us: u64,
    pub(super) snapshot_count: u64,
    pub(super) catch_up: u64,
    pub(super) segment_bytes: u64,
    pub(super) page_size: u32,
    pub(super) compaction_batch: usize,
    pub(super) files_kept: usize,
    /// A piece of a database on its way to another member.
    pub(super) piece_bytes: usize,
    pub(super) clients: u64,
    pub(super) think_us: u64,
    pub(super) keys: u64,
    /// How often a client moves on to another member.
    pub(super) roam_percent: u64,
    /// Shares of put, delete, transaction, linearizable read, serializable read, past read, compaction, grant, renewal,
    /// revocation.
    pub(super) mix: [u64; 10],
    pub(super) watchers: u64,
    pub(super) poll_us: u64,
    pub(super) cut_percent: u64,
    pub(super) hub_queue: usize,
    pub(super) progress_us: u64,
    pub(super) fault_us: u64,
    pub(super) downtime_us: u64,
    pub(super) weights: Vec<u64>,
}

const SECOND_US: u64 = 1_000_000;

/// Shares of the operations, before some are left out.
const MIX: [u64; 10] = [30, 6, 12, 12, 8, 4, 1, 3, 10, 1];

impl Swarm {
    pub(super) fn draw(rng: &mut Stream) -> Self {
        let pick = |rng: &mut Stream, from: &[u64]| rng.pick(from).unwrap_or(0);
        let size = |number: u64| usize::try_from(number).unwrap_or(1);
        let founders = pick(rng, &[1, 2, 3, 3, 3, 3, 3, 5]);
        let delay = pick(rng, &[200, 1_000, 5_000, 20_000]);
        let write = pick(rng, &[100, 1_000, 5_000, 40_000]);
        let snapshot_count = pick(rng, &[10, 30, 80, 200]);
        let weights: Vec<u64> =
            Fault::ALL.iter().map(|_| if rng.percent(50) { 0 } else { 1 + rng.below(9) }).collect();
        let mut mix = MIX;
        for (place, share) in mix.iter_mut().enumerate() {
            // Puts are always there; of the others some are left out, some are many.
            *share = match rng.below(8) {
                0 if place > 0 => 0,
                1 => *share * 4,
                _ => *share,
            };
        }
        Self {
            founders,
            chaos_us: rng.between((15, 60)) * SECOND_US,
            pre_vote: rng.percent(80),
            election_ticks: u32::try_from(pick(rng, &[5, 10, 10])).unwrap_or(10),
            drift_ppm: pick(rng, &[0, 0, 20_000, 100_000]),
            delay_us: (delay / 4, delay * pick(rng, &[1, 3, 10])),
            loss_ppm: pick(rng, &[0, 0, 1_000, 20_000]),
            duplicate_ppm: pick(rng, &[0, 0, 1_000, 50_000]),
            is_ordered: rng.percent(60),
            heart_us: (0, pick(rng, &[0, 100, 1_000, 20_000])),
            write_us: (write / 3, write),
            apply_us: (0, pick(rng, &[0, 100, 1_000, 20_000])),
            commit_us: (100, pick(rng, &[1_000, 20_000, 200_000])),
            watch_us: (0, pick(rng, &[0, 1_000, 50_000])),
            commit_interval_us: pick(rng, &[100_000, 100_000, 1_000_000, 5_000_000]),
            snapshot_count,
            catch_up: rng.below(snapshot_count.min(40) + 1),
            segment_bytes: pick(rng, &[4_096, 16_384, 65_536]),
            page_size: u32::try_from(pick(rng, &[1_024, 4_096])).unwrap_or(4_096),
            compaction_batch: size(pick(rng, &[3, 10, 100])),
            files_kept: size(pick(rng, &[1, 2, 5])),
            piece_bytes: size(pick(rng, &[2_000, 16_384, 65_536])),
            clients: rng.between((4, 8)),
            think_us: pick(rng, &[3_000, 10_000, 40_000]),
            keys: pick(rng, &[3, 10, 30]),
            roam_percent: pick(rng, &[0, 5, 30]),
            mix,
            watchers: rng.between((1, 4)),
            poll_us: pick(rng, &[5_000, 50_000, 400_000]),
            cut_percent: pick(rng, &[0, 1, 5]),
            hub_queue: size(pick(rng, &[1, 4, 128])),
            progress_us: pick(rng, &[300_000, 2_000_000]),
            fault_us: pick(rng, &[500_000, 1_500_000, 4_000_000]),
            downtime_us: pick(rng, &[50_000, 300_000, 1_500_000]),
            weights,
        }
    }

    pub(super) fn quality(&self) -> Quality {
        Quality {
            delay_us: self.delay_us,
            loss_ppm: self.loss_ppm,
            duplicate_ppm: self.duplicate_ppm,
            is_ordered: self.is_ordered,
        }
    }
}
