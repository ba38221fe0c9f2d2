//! Random faults under a checked workload, cycle after cycle.
//!
//! A cycle: clients start, a fault happens and lasts for a while, it is mended, the clients go on, and then everything is
//! checked (see [`Trial::finish`]). Between the death of a leader and the first accepted write of the others the time is taken.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::check::Summary;
use super::kind::Kind;
use super::members::{Cluster, Config as ClusterConfig, HEALTHY_TIMEOUT};
use super::proxy::Link;
use super::trial::Trial;
use super::workload;

/// How long a majority may take to accept writes without the leader: far beyond what is hoped for, to have a figure.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);

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
    ];

    /// Takes a name as reports print it.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(text));
        found.copied().with_context(|| format!("no fault {text:?}; there are {:?}", Self::ALL))
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the operations and the faults.
    pub seed: u64,
    /// Faults.
    pub cycles: u64,
    /// The programs.
    pub kinds: Vec<Kind>,
    /// The faults to choose from.
    pub faults: Vec<Fault>,
    /// More flags for all members.
    pub flags: Vec<String>,
    /// Where the data directories go.
    pub folder: PathBuf,
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

impl Report {
    /// A percentile of the times without a leader after a fault.
    pub fn failover(&self, fault: Fault, percent: usize) -> Option<Duration> {
        let times = self.failovers.get(&fault)?;
        let last = times.len().checked_sub(1)?;
        times.get((last * percent).div_ceil(100)).copied()
    }
}

/// Runs the cycles; the first violation is the error.
pub async fn run(config: &Config) -> Result<Report> {
    let cluster = Cluster::start(ClusterConfig {
        kinds: config.kinds.clone(),
        flags: config.flags.clone(),
        folder: config.folder.clone(),
        is_proxied: config.faults.iter().any(|fault| !Fault::OF_PROCESSES.contains(fault)),
    })
    .await?;
    let load = workload::Config { seed: config.seed, ..workload::Config::default() };
    let mut trial = Trial::new(cluster, load);
    let mut report = Report::default();
    // Each fault of the list once before any comes again.
    let mut waiting = Vec::new();
    for cycle in 0..config.cycles {
        if waiting.is_empty() {
            waiting.clone_from(&config.faults);
        }
        ensure!(!waiting.is_empty(), "no faults to choose from");
        let fault = waiting.swap_remove(trial.random.index(waiting.len()));
        let context = || format!("seed {} cycle {cycle}: {fault:?}", config.seed);
        let failover = run_cycle(&mut trial, fault).await.with_context(context)?;
        *report.faults.entry(fault).or_default() += 1;
        if let Some(failover) = failover {
            report.failovers.entry(fault).or_default().push(failover);
        }
        if config.is_verbose {
            let summary = trial.summary();
            eprintln!(
                "cycle {cycle}: {fault:?}: revision {}, {} operations, without a leader: {failover:?}",
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

async fn run_cycle(trial: &mut Trial, fault: Fault) -> Result<Option<Duration>> {
    let health = trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.begin();
    trial.wait_operations(200).await?;
    let leader = trial.cluster.leader().await.unwrap_or(health.leader);
    let others: Vec<usize> =
        trial.cluster.serving().into_iter().filter(|index| *index != leader).collect();
    let follower = trial.random.pick(&others);
    let hold = Duration::from_millis(300 + trial.random.below(2_500));
    let mut failover = None;
    match fault {
        Fault::KillLeader => {
            trial.cluster.kill_node(leader)?;
            failover = Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            tokio::time::sleep(hold).await;
            trial.cluster.start_node(leader)?;
        }
        Fault::KillFollower => {
            trial.cluster.kill_node(follower)?;
            tokio::time::sleep(hold).await;
            trial.cluster.start_node(follower)?;
        }
        Fault::KillAll => {
            let all = trial.cluster.running();
            for index in &all {
                trial.cluster.kill_node(*index)?;
            }
            for index in all {
                trial.cluster.start_node(index)?;
            }
        }
        Fault::PauseLeader | Fault::PauseFollower => {
            let index = if fault == Fault::PauseLeader { leader } else { follower };
            trial.cluster.pause_node(index)?;
            tokio::time::sleep(hold).await;
            trial.cluster.resume_node(index)?;
        }
        Fault::ReplaceMember => {
            let old = if trial.random.one_in(2) { leader } else { follower };
            let kind = trial.cluster.nodes()[old].kind.clone();
            trial.cluster.kill_node(old)?;
            trial.cluster.remove_member(old).await?;
            trial.cluster.discard(old)?;
            trial.follow_members();
            trial.cluster.add_member(&kind, false).await?;
            trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
            trial.follow_members();
        }
        Fault::CutLeader => {
            part(trial, leader, &others, Link::Cut, Link::Cut)?;
            failover = Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            tokio::time::sleep(hold).await;
        }
        Fault::CutFollower => {
            let rest: Vec<usize> =
                trial.cluster.serving().into_iter().filter(|index| *index != follower).collect();
            part(trial, follower, &rest, Link::Cut, Link::Cut)?;
            tokio::time::sleep(hold).await;
        }
        Fault::DropFromLeader => {
            part(trial, leader, &others, Link::Drop, Link::Pass)?;
            tokio::time::sleep(hold).await;
        }
        Fault::DropToLeader => {
            part(trial, leader, &others, Link::Pass, Link::Drop)?;
            tokio::time::sleep(hold).await;
        }
        Fault::StallLeader => {
            part(trial, leader, &others, Link::Stall, Link::Stall)?;
            failover = Some(trial.cluster.wait_writes_accepted(&others, FAILOVER_TIMEOUT).await?);
            tokio::time::sleep(hold).await;
        }
        Fault::Delay => {
            let serving = trial.cluster.serving();
            for from in &serving {
                for to in serving.iter().filter(|to| *to != from) {
                    let delay = Duration::from_millis(50 + trial.random.below(51));
                    trial.cluster.proxy().context("no proxy")?.set(*from, *to, Link::Delay(delay));
                }
            }
            tokio::time::sleep(hold).await;
        }
    }
    if let Some(proxy) = trial.cluster.proxy() {
        proxy.heal();
    }
    trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.wait_operations(200).await?;
    trial.finish().await?;
    Ok(failover)
}

/// Sets the links between one member and others, outwards and inwards.
fn part(trial: &Trial, one: usize, others: &[usize], outwards: Link, inwards: Link) -> Result<()> {
    let proxy = trial.cluster.proxy().context("no proxy")?;
    for other in others {
        proxy.set(one, *other, outwards);
        proxy.set(*other, one, inwards);
    }
    Ok(())
}
