//! What other members answer to the questions of this one: bodies that are read, and nothing believed that cannot be.

use std::time::Duration;

use bytes::Bytes;
use machine::Version;
use prost::Message as _;
use proto::etcdserverpb::{LeaseKeepAliveResponse, LeaseTimeToLiveResponse};
use proto::leasepb::LeaseInternalResponse;
use serde::Deserialize;

use super::timestamp;
use crate::corruption::PeerHash;
use crate::peer_port::MemberRow;

/// The answer to `/members` and to `/members/promote/…`.
///
/// # Errors
/// It is no such list.
pub(crate) fn members(body: &[u8]) -> Result<Vec<MemberRow>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// The answer to `/version`; fields that it may have besides are not looked at.
#[derive(Deserialize)]
struct Versions {
    etcdserver: Option<String>,
    etcdcluster: Option<String>,
}

/// The cluster's version in the answer to `/version`, once it is decided.
pub(crate) fn cluster_version(body: &[u8]) -> Option<Version> {
    let versions: Versions = serde_json::from_slice(body).ok()?;
    Version::parse(&versions.etcdcluster?)
}

/// The member's own version in the answer to `/version`.
pub(crate) fn server_version(body: &[u8]) -> Option<Version> {
    let versions: Versions = serde_json::from_slice(body).ok()?;
    Version::parse(&versions.etcdserver?)
}

/// The time to live in seconds, of the answer to `/leases`.
pub(crate) fn renewed(body: Bytes) -> Option<i64> {
    LeaseKeepAliveResponse::decode(body).ok().map(|response| response.ttl)
}

/// The answer to `/leases/internal`.
pub(crate) fn time_to_live(body: Bytes) -> Option<LeaseTimeToLiveResponse> {
    LeaseInternalResponse::decode(body).ok()?.lease_time_to_live_response
}

/// The answer to `/members/hashkv`.
pub(crate) fn hash(body: &[u8]) -> Option<PeerHash> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        revision: i64,
    }
    #[derive(Deserialize)]
    struct Hash {
        header: Header,
        #[serde(default)]
        hash: u32,
        #[serde(default)]
        compact_revision: i64,
    }
    let Hash { header, hash, compact_revision } = serde_json::from_slice(body).ok()?;
    Some(PeerHash { hash, compact_revision, current_revision: header.revision })
}

/// What the clock of a member showed when it answered `/raft/probing`, as time since 1970; `None` unless it is well.
pub(crate) fn probed(body: &[u8]) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Health {
        #[serde(rename = "OK")]
        ok: bool,
        #[serde(rename = "Now")]
        now: String,
    }
    let Health { ok, now } = serde_json::from_slice(body).ok()?;
    timestamp::parse(&now).filter(|_| ok)
}
