//! Which etcd version a member stands for: that of its cluster, or what the operator asks for if that is possible.
//!
//! A cluster's version is in the rows, and what the rows do not have yet is in the log behind them. A member that stood for an older
//! version could not apply what is there; one that stood for a newer one would let the cluster rise, after which there is no
//! simple way back. So going on as before is the default, and rising is asked for.
//!
//! Upstream: `MustDetectDowngrade` in `version/downgrade.go` (3.6.14), `mustDetectDowngrade` in `membership/cluster.go` (3.5.30).

use backend::schema::{cluster, meta};
use machine::Version;
use machine::membership::document;
use prost::Message as _;
use proto::etcdserverpb::InternalRaftRequest;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::raftpb;
use raft::{Entry, EntryKind};

use crate::Error;

/// What a directory says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The cluster's version.
    cluster: Option<Version>,
    /// Where a downgrade that is enabled leads to.
    downgrade_target: Option<Version>,
}

/// Reads it from the rows, from the snapshot's document where the rows have nothing, and from the entries that the rows do not have.
pub(crate) fn of_directory(
    writer: &backend::Writer,
    snapshot: &raftpb::Snapshot,
    entries: &[Entry],
) -> Result<Found, Error> {
    let view = writer.view();
    let text = match cluster::version(&view)? {
        Some(text) => Some(text),
        None => meta::storage_version(&view)?,
    };
    let mut version = match text {
        Some(text) => Some(parse(&text)?),
        None => None,
    };
    let document = snapshot.data.as_deref().unwrap_or_default();
    if version.is_none() && !document.is_empty() {
        version = document::decode(document)?.version();
    }
    let applied = writer.consistent().index;
    for entry in entries.iter().filter(|entry| entry.index.0 > applied) {
        // The highest: a member that was there when the cluster had it can be there again.
        version = version.max(version_set_by(entry));
    }
    let downgrade = cluster::downgrade(&view)?.filter(|downgrade| downgrade.enabled);
    let downgrade_target =
        downgrade.and_then(|downgrade| Version::parse(&downgrade.target_version));
    Ok(Found { cluster: version, downgrade_target })
}

fn parse(text: &str) -> Result<Version, Error> {
    Version::parse(text).ok_or_else(|| machine::OpenError::MalformedVersion(text.to_owned()).into())
}

/// The cluster version that an entry sets. One in the v2 form of 3.5 is 3.5's, and needs no look.
fn version_set_by(entry: &Entry) -> Option<Version> {
    // It is short, and decoding every large request of the log would take its time.
    const BYTES_MAX: usize = 256;
    if entry.kind != EntryKind::Normal || entry.data.len() > BYTES_MAX {
        return None;
    }
    let request = InternalRaftRequest::decode(entry.data.clone()).ok()?;
    let Some(Op::ClusterVersionSet(request)) = request.request else { return None };
    Version::parse(&request.ver)
}

/// Decides on the version. `fallback` is for a directory that says nothing.
pub(crate) fn decide(
    found: Found,
    asked: Option<Version>,
    fallback: Version,
) -> Result<Version, Error> {
    let Found { cluster, downgrade_target } = found;
    let Some(cluster) = cluster.map(Version::of_cluster) else {
        return Ok(asked.unwrap_or(fallback));
    };
    match asked {
        Some(asked)
            if asked.of_cluster() >= cluster || downgrade_target == Some(asked.of_cluster()) =>
        {
            Ok(asked)
        }
        Some(asked) => Err(Error::Lowered { cluster, asked }),
        None => Version::emulated_for(cluster).ok_or(Error::UnknownVersion { cluster }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3_5: Version = Version::EMULATED[0];
    const V3_6: Version = Version::EMULATED[1];
    const V3_7: Version = Version::EMULATED[2];

    #[track_caller]
    fn check(
        cluster: Option<Version>,
        downgrade_target: Option<Version>,
        asked: Option<Version>,
        expected: Result<Version, &str>,
    ) {
        let found = Found { cluster, downgrade_target };
        let decided = decide(found, asked, V3_5).map_err(|error| error.to_string());
        assert_eq!(decided, expected.map_err(ToOwned::to_owned));
    }

    #[test]
    fn a_member_goes_on_as_its_cluster_unless_asked() {
        check(None, None, None, Ok(V3_5));
        check(None, None, Some(V3_6), Ok(V3_6));
        for version in Version::EMULATED {
            check(Some(version.of_cluster()), None, None, Ok(version));
        }
        // What a cluster has whose members were not all heard at its beginning.
        check(Some(Version::v3(0, 0)), None, None, Ok(V3_5));
        check(Some(V3_5.of_cluster()), None, Some(V3_7), Ok(V3_7));
    }

    #[test]
    fn lowering_takes_a_downgrade() {
        let cluster = Some(V3_6.of_cluster());
        check(
            cluster,
            None,
            Some(V3_5),
            Err(
                "the cluster has version 3.6.0, and this member is to be 3.5.30: enable a downgrade first (etcdctl downgrade \
                 enable), or ask for no version",
            ),
        );
        check(cluster, Some(V3_5.of_cluster()), Some(V3_5), Ok(V3_5));
        check(cluster, Some(V3_5.of_cluster()), None, Ok(V3_6));
    }

    #[test]
    fn a_version_that_is_not_known_is_refused() {
        check(
            Some(Version::v3(8, 0)),
            None,
            None,
            Err(
                "the cluster has version 3.8.0, which this program does not know: it knows 3.5, 3.6 and 3.7",
            ),
        );
    }
}
