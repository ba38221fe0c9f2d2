//! Members are given another program one by one, on their data directories, while clients work; and then back.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::check::Summary;
use super::kind::Kind;
use super::members::{Cluster, Config as ClusterConfig, HEALTHY_TIMEOUT};
use super::trial::Trial;
use super::workload;

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the operations.
    pub seed: u64,
    /// The programs at first.
    pub kinds: Vec<Kind>,
    /// The programs in the middle.
    pub to: Vec<Kind>,
    /// More flags for all members.
    pub flags: Vec<String>,
    /// Operations of the clients between two steps.
    pub operations: usize,
    /// Where the data directories go.
    pub folder: PathBuf,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Programs replaced.
    pub replaced: usize,
    /// Hashes equal on all members, one after each step.
    pub hashes: usize,
    /// What was checked.
    pub checked: Summary,
}

/// Replaces each member's program, and back; each time the cluster must be whole and equal.
pub async fn run(config: &Config) -> Result<Report> {
    ensure!(config.kinds.len() == config.to.len(), "as many programs as there are members");
    let cluster = Cluster::start(ClusterConfig {
        kinds: config.kinds.clone(),
        flags: config.flags.clone(),
        folder: config.folder.clone(),
        is_proxied: false,
    })
    .await?;
    let load = workload::Config { seed: config.seed, ..workload::Config::default() };
    let mut trial = Trial::new(cluster, load);
    let (mut replaced, mut hashes) = (0, 0);
    for (way, kinds) in [("there", &config.to), ("back", &config.kinds)] {
        trial.begin();
        trial.wait_operations(config.operations).await?;
        for (index, kind) in kinds.iter().enumerate() {
            let step = || format!("{way}: m{} becomes {}", index, kind.label);
            trial.cluster.replace_program(index, kind).await.with_context(step)?;
            trial.cluster.wait_healthy(HEALTHY_TIMEOUT).await.with_context(step)?;
            trial.wait_operations(config.operations).await.with_context(step)?;
            trial.cluster.equal_hashes().await.with_context(step)?;
            replaced += 1;
            hashes += 1;
        }
        trial.finish().await.with_context(|| format!("after all steps {way}"))?;
        hashes += 1;
    }
    let checked = trial.summary();
    trial.cluster.stop().await?;
    Ok(Report { replaced, hashes, checked })
}
