//! A member that is too far behind catches up by a snapshot, and is the same as the others afterwards.
//!
//! Three ways to fall behind: the member is paused (its watches stay open and must go on without a gap), it is stopped, and it
//! is killed while the history that it lacks is compacted as well. Each has a cluster of its own: etcd keeps the log uncut
//! for half a minute after it has sent a snapshot, for the one who got it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::check::Summary;
use super::kind::Kind;
use super::members::{Cluster, Config as ClusterConfig, HEALTHY_TIMEOUT};
use super::trial::Trial;
use super::workload;

/// The member that falls behind.
const LAGGARD: usize = 2;

/// Small, so that the log is cut soon.
const FLAGS: &[&str] = &["--snapshot-count=100", "--experimental-snapshot-catchup-entries=20"];

/// Operations while the member is away: about half are entries of the log, many times the count above.
const OPERATIONS_AWAY: usize = 1_500;

/// Revisions that the compaction leaves: fewer than were written meanwhile.
const HISTORY: i64 = 150;

/// What the receiver logs for each snapshot that it took over.
const RECEIVED: &str = "applied snapshot";

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the operations.
    pub seed: u64,
    /// The program of the leader, which sends.
    pub sender: Kind,
    /// The program of the member that falls behind.
    pub receiver: Kind,
    /// More flags for all members.
    pub flags: Vec<String>,
    /// Where the data directories go.
    pub folder: PathBuf,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Snapshots received.
    pub snapshots: usize,
    /// What was checked, for each way.
    pub checked: Vec<Summary>,
}

/// How the member falls behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Paused,
    Stopped,
    Compacted,
}

/// Runs the three ways.
pub async fn run(config: &Config) -> Result<Report> {
    let mut report = Report { snapshots: 0, checked: Vec::new() };
    for way in [Way::Paused, Way::Stopped, Way::Compacted] {
        let (snapshots, checked) = fall_behind(config, way).await.with_context(|| {
            format!("after the member was {}", format!("{way:?}").to_lowercase())
        })?;
        report.snapshots += snapshots;
        report.checked.push(checked);
    }
    Ok(report)
}

async fn fall_behind(config: &Config, way: Way) -> Result<(usize, Summary)> {
    let flags = FLAGS.iter().map(|flag| (*flag).to_owned());
    let cluster = Cluster::start(ClusterConfig {
        kinds: vec![config.sender.clone(), config.sender.clone(), config.receiver.clone()],
        flags: flags.chain(config.flags.iter().cloned()).collect(),
        folder: config.folder.join(format!("{way:?}")),
        is_proxied: false,
    })
    .await?;
    let load = workload::Config { seed: config.seed, ..workload::Config::default() };
    let mut trial = Trial::new(cluster, load);
    trial.cluster.move_leader(0).await?;
    trial.begin();
    trial.wait_operations(300).await?;
    let before = received(&trial)?;
    match way {
        Way::Paused => {
            trial.cluster.pause_node(LAGGARD)?;
            trial.wait_operations(OPERATIONS_AWAY).await?;
            trial.cluster.resume_node(LAGGARD)?;
        }
        Way::Stopped => {
            trial.cluster.stop_node(LAGGARD).await?;
            trial.wait_operations(OPERATIONS_AWAY).await?;
            trial.cluster.start_node(LAGGARD)?;
        }
        Way::Compacted => {
            trial.cluster.kill_node(LAGGARD)?;
            trial.wait_operations(OPERATIONS_AWAY).await?;
            trial.finish().await.context("with one member away")?;
            trial.compact(HISTORY).await?;
            trial.begin();
            trial.cluster.start_node(LAGGARD)?;
        }
    }
    trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await?;
    trial.wait_operations(200).await?;
    trial.finish().await?;
    let snapshots = received(&trial)?.saturating_sub(before);
    ensure!(snapshots > 0, "the member took over no snapshot");
    let checked = trial.summary();
    trial.cluster.stop().await?;
    Ok((snapshots, checked))
}

fn received(trial: &Trial) -> Result<usize> {
    trial.cluster.logged(LAGGARD, RECEIVED)
}
