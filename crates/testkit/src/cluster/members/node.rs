//! A place in the cluster.

use std::path::{Path, PathBuf};

use super::super::disk::Disk;
use super::super::kind::Kind;
use crate::api::Api;
use crate::process::Process;

/// A place in the cluster.
#[derive(Debug)]
pub struct Node {
    /// `--name`.
    pub name: String,
    /// The program.
    pub kind: Kind,
    /// `http://host:port` for clients.
    pub client_url: String,
    /// The member's id, when it is known.
    pub id: u64,
    /// Whether it was added as a learner and not promoted.
    pub is_learner: bool,
    /// Whether it was removed from the cluster.
    pub is_removed: bool,
    pub(super) data_dir: PathBuf,
    pub(super) log_path: PathBuf,
    pub(super) listen_peer_url: String,
    pub(super) peer_url: String,
    /// `--initial-cluster`, and whether that cluster is new.
    pub(super) initial_cluster: String,
    pub(super) is_initial: bool,
    /// Dropped before the process: one that waits for a frozen disk cannot be killed.
    pub(super) disk: Option<Disk>,
    pub(super) process: Option<Process>,
    pub(super) is_paused: bool,
    pub(super) api: Api,
}

impl Node {
    /// Whether its process is there and not paused.
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.is_paused
    }

    /// Clients for this member.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map_or_else(|| "(not running)".to_owned(), Process::log_tail)
    }

    /// `--data-dir`.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The file that holds its log.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }
}
