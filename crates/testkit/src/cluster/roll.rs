//! Members are given another program one by one, on their data directories, while clients work; and then back.

use anyhow::{Context, Result, ensure};

use super::check::Summary;
use super::kind::Kind;
use super::members::HEALTHY_TIMEOUT;
use super::setup::Setup;

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The programs at first.
    pub kinds: Vec<Kind>,
    /// The programs in the middle.
    pub to: Vec<Kind>,
    /// Operations of the clients between two steps.
    pub operations: usize,
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
pub async fn run(setup: &Setup, config: &Config) -> Result<Report> {
    ensure!(config.kinds.len() == config.to.len(), "as many programs as there are members");
    let mut trial = setup.trial(config.kinds.clone()).await?;
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
