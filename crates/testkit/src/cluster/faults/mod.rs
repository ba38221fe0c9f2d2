//! Random faults under a checked workload, cycle after cycle.
//!
//! A cycle: clients start, a fault happens and lasts for a while, it is mended, the clients go on, and then everything is
//! checked (see [`Trial::finish`]). Between the death of a leader and the first accepted write of the others the time is taken.
//!
//! [`Trial::finish`]: super::Trial::finish

mod cycle;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::check::Summary;
use super::kind::Kind;
use super::members::Cluster;
use super::setup::Setup;
use super::{disk, trace};

/// Revisions that stay readable when a cycle compacts.
const HISTORY: i64 = 500;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to the leader, and a restart.
    KillLeader,
    /// SIGKILL to another member, and a restart.
    KillFollower,
    /// SIGKILL to all at once, and a restart.
    KillAll,
    /// SIGSTOP and SIGCONT to the leader.
    PauseLeader,
    /// SIGSTOP and SIGCONT to another member.
    PauseFollower,
    /// A member is killed, removed, and a new one takes its place.
    ReplaceMember,
    /// Connections between the leader and the others are cut.
    CutLeader,
    /// Connections between one other member and the rest are cut.
    CutFollower,
    /// What the leader sends is lost.
    DropFromLeader,
    /// What the leader is sent is lost.
    DropToLeader,
    /// The leader's connections hang, half open.
    StallLeader,
    /// Everything between members takes 50 to 100 ms.
    Delay,
    /// A member's disk hangs: writes and syncs wait until it is mended.
    HangDisk,
    /// A member's disk is full: the member stops, or goes on, and is started again when there is room.
    FillDisk,
    /// A sync fails with an input/output error: the member must stop, as nobody knows what has been written.
    FailSync,
}

impl Fault {
    /// Faults that need nothing but signals.
    pub const OF_PROCESSES: &[Self] = &[
        Self::KillLeader,
        Self::KillFollower,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::ReplaceMember,
    ];

    /// All.
    pub const ALL: &[Self] = &[
        Self::KillLeader,
        Self::KillFollower,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::ReplaceMember,
        Self::CutLeader,
        Self::CutFollower,
        Self::DropFromLeader,
        Self::DropToLeader,
        Self::StallLeader,
        Self::Delay,
        Self::HangDisk,
        Self::FillDisk,
        Self::FailSync,
    ];

    /// Faults that need a [`Disk`](super::disk::Disk).
    const OF_DISKS: &[Self] = &[Self::HangDisk, Self::FillDisk];

    /// Faults that need the [`proxy`](super::proxy).
    fn is_of_links(self) -> bool {
        !Self::OF_PROCESSES.contains(&self)
            && !Self::OF_DISKS.contains(&self)
            && self != Self::FailSync
    }

    /// Takes a name as reports print it.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(text));
        found.copied().with_context(|| format!("no fault {text:?}; there are {:?}", Self::ALL))
    }
}

/// The faults among these that can be made on this machine; names the others on standard error.
///
/// That there are others is an error when `CI` is `true`.
pub async fn possible_or_skip(faults: &[Fault]) -> Result<Vec<Fault>> {
    let has_any = |wanted: &[Fault]| faults.iter().any(|fault| wanted.contains(fault));
    let disk = if has_any(Fault::OF_DISKS) { disk::obstacle().await } else { None };
    let trace = (!trace::is_available()).then(|| "strace absent".to_owned());
    let mut possible = Vec::new();
    for fault in faults {
        let obstacle = if Fault::OF_DISKS.contains(fault) {
            &disk
        } else if *fault == Fault::FailSync {
            &trace
        } else {
            &None
        };
        let Some(obstacle) = obstacle else {
            possible.push(*fault);
            continue;
        };
        ensure!(std::env::var("CI").as_deref() != Ok("true"), "{fault:?}: {obstacle}");
        eprintln!("{fault:?}: skipped: {obstacle}");
    }
    Ok(possible)
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Faults.
    pub cycles: u64,
    /// The programs.
    pub kinds: Vec<Kind>,
    /// The faults to choose from.
    pub faults: Vec<Fault>,
    /// Whether to say on standard error how far the run is.
    pub is_verbose: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each fault happened.
    pub faults: BTreeMap<Fault, u64>,
    /// From a leader's death, or its separation from the others, until they accepted a write; shortest first.
    pub failovers: BTreeMap<Fault, Vec<Duration>>,
    /// What was checked.
    pub checked: Summary,
}

/// Runs the cycles; the first violation is the error.
pub async fn run(setup: &Setup, config: &Config) -> Result<Report> {
    let mut members = setup.members(config.kinds.clone());
    members.is_proxied = config.faults.iter().any(|fault| fault.is_of_links());
    members.has_disks = config.faults.iter().any(|fault| Fault::OF_DISKS.contains(fault));
    let mut trial = setup.try_on(Cluster::start(members).await?);
    let mut report = Report::default();
    // Each fault of the list once before any comes again.
    let mut waiting = Vec::new();
    for cycle in 0..config.cycles {
        if waiting.is_empty() {
            waiting.clone_from(&config.faults);
        }
        ensure!(!waiting.is_empty(), "no faults to choose from");
        let fault = waiting.swap_remove(trial.random.index(waiting.len()));
        let context = || format!("seed {} cycle {cycle}: {fault:?}", setup.seed);
        let seen = cycle::run(&mut trial, fault).await.with_context(context)?;
        *report.faults.entry(fault).or_default() += 1;
        if let Some(failover) = seen.failover {
            report.failovers.entry(fault).or_default().push(failover);
        }
        if config.is_verbose {
            let summary = trial.summary();
            eprintln!(
                "cycle {cycle}: {fault:?}: revision {}, {} operations, {seen:?}",
                summary.revision, summary.operations
            );
        }
        if trial.summary().revision > 2 * HISTORY && trial.random.one_in(2) {
            trial.compact(HISTORY).await.with_context(context)?;
        }
    }
    for times in report.failovers.values_mut() {
        times.sort_unstable();
    }
    report.checked = trial.summary();
    trial.cluster.stop().await?;
    Ok(report)
}
