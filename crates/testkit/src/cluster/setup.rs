//! What every run is given.

use std::path::PathBuf;

use anyhow::Result;

use super::kind::Kind;
use super::members::{self, Cluster};
use super::trial::Trial;
use super::workload;

/// What every run with members of chosen programs is given, whatever it does with them.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Names the operations, and what else the run chooses.
    pub seed: u64,
    /// More flags for all members.
    pub flags: Vec<String>,
    /// Where the data directories and logs go.
    pub folder: PathBuf,
}

impl Setup {
    /// The same in a folder below.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self { folder: self.folder.join(name), ..self.clone() }
    }

    /// A cluster of these programs, without proxies and disks.
    pub(crate) fn members(&self, kinds: Vec<Kind>) -> members::Config {
        members::Config {
            kinds,
            flags: self.flags.clone(),
            folder: self.folder.clone(),
            is_proxied: false,
            has_disks: false,
        }
    }

    /// Starts a cluster of these programs for a run whose load is checked.
    pub(crate) async fn trial(&self, kinds: Vec<Kind>) -> Result<Trial> {
        Ok(self.try_on(Cluster::start(self.members(kinds)).await?))
    }

    /// A run whose load is checked, on a cluster that was started.
    pub(crate) fn try_on(&self, cluster: Cluster) -> Trial {
        Trial::new(cluster, workload::Config { seed: self.seed, ..workload::Config::default() })
    }
}
