//! Whether the cluster has members older than 3.5, which stop at the requests by which newer ones publish themselves and set the
//! cluster's version. Beside such members those two are made as etcd 3.5 makes them ([`machine::v2`]); otherwise never, since a
//! member of 3.7 stops at *these*.
//!
//! A cluster from 3.5 on has no older member. One below has, or had until just now. One that has no version yet is new, and its
//! members are asked; those that begin more slowly are waited for a while, once in the life of a cluster.

use std::time::Duration;

use machine::Version;
use raft::NodeId;
use tokio::time::{Instant, timeout};

use crate::cluster_version::{self, UNDECIDED};
use crate::request::Core;

/// The first version whose members know the newer requests.
const FIRST_NEWER: Version = Version::v3(5, 0);
/// How long the members of a new cluster are waited for, from when it has a leader.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before they are asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Whether there are such members. Returns when it is known, or when patience is at its end: then those that were heard decide.
pub(crate) async fn are_there(core: &Core) -> bool {
    let mut patience = None;
    let mut changes = core.facts.changes();
    loop {
        let known = core.facts.get();
        if let Some(presumed) = presumed(core.version, known.membership.version()) {
            return presumed;
        }
        // The founding entries may still have to be applied.
        let is_founded = known.membership.members().len() > 0;
        let told = cluster_version::told(core).await;
        if told.iter().any(|(_, version)| version.is_some_and(|version| version < FIRST_NEWER)) {
            return true;
        }
        if is_founded && told.iter().all(|(_, version)| version.is_some()) {
            return false;
        }
        if core.board.leader() != NodeId::NONE {
            let end = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
            if Instant::now() >= end {
                return false;
            }
        }
        // The version may be decided meanwhile, or this member learn of the others. A member that stops gives this up.
        let _ = timeout(AGAIN, changes.changed()).await;
    }
}

/// What needs no asking: what this member's version and the cluster's say.
fn presumed(own: Version, cluster: Option<Version>) -> Option<bool> {
    if own.of_cluster() > FIRST_NEWER {
        // Two minor versions apart is too far.
        return Some(false);
    }
    let decided = cluster.filter(|version| *version > UNDECIDED)?;
    Some(decided < FIRST_NEWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_has_a_version_need_not_be_asked() {
        let [v3_5, v3_6, v3_7] = Version::EMULATED;
        assert_eq!(presumed(v3_5, Some(Version::v3(4, 0))), Some(true));
        assert_eq!(presumed(v3_5, Some(Version::v3(5, 0))), Some(false));
        assert_eq!(presumed(v3_5, Some(Version::v3(6, 0))), Some(false));
        assert_eq!(presumed(v3_5, Some(UNDECIDED)), None);
        assert_eq!(presumed(v3_5, None), None);
        assert_eq!(presumed(v3_6, None), Some(false));
        assert_eq!(presumed(v3_7, Some(Version::v3(6, 0))), Some(false));
    }
}
