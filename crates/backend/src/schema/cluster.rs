//! Bucket `cluster`: the cluster version and the downgrade in progress.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Bucket;
use super::json::to_go_json;
use crate::{Error, View, Writer};

const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const DOWNGRADE: &[u8] = b"downgrade";

/// The version that all members can speak, as text: `3.5.0`. `None` until the leader first set it.
pub fn version(view: &View) -> Result<Option<String>, Error> {
    view.get_text(Bucket::Cluster, CLUSTER_VERSION)
}

/// Stores the cluster version.
pub fn put_version(writer: &mut Writer, version: &str) {
    writer.put(
        Bucket::Cluster,
        Bytes::from_static(CLUSTER_VERSION),
        Bytes::copy_from_slice(version.as_bytes()),
    );
}

/// A downgrade of the cluster, or that none is on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Downgrade {
    /// The version to go down to; empty when none is on.
    #[serde(default, rename = "target-version")]
    pub target_version: String,
    /// Whether it is on.
    #[serde(default)]
    pub enabled: bool,
}

/// The last downgrade request that was applied.
pub fn downgrade(view: &View) -> Result<Option<Downgrade>, Error> {
    view.get_json(Bucket::Cluster, DOWNGRADE)
}

/// Stores the downgrade.
pub fn put_downgrade(writer: &mut Writer, downgrade: &Downgrade) {
    writer.put(Bucket::Cluster, Bytes::from_static(DOWNGRADE), Bytes::from(to_go_json(downgrade)));
}
