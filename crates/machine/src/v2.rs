//! The two requests that a member makes for itself, as etcd 3.5 makes them: puts into the store of the v2 API.
//!
//! From 3.6 on they are requests of their own. A member of 3.4 stops at those and one of 3.7 at these; 3.5 and 3.6 take both. etcd
//! 3.5 writes them into the log with nothing around them; here they are within a request like any other, which 3.4 to 3.6 take too.
//!
//! Upstream: `server/etcdserver/server.go` (`publish`, `updateClusterVersionV2`, 3.5.30; `applyEntryNormal`, 3.4 to 3.6).

use proto::etcdserverpb::Request;
use proto::etcdserverpb::internal_raft_request::Request as Op;

use crate::Version;
use crate::membership::document;

/// Tells the name and the client URLs of a member.
#[must_use]
pub fn publication(member_id: u64, name: String, client_urls: Vec<String>) -> Op {
    put(document::path_of_publication(member_id), document::publication(name, client_urls))
}

/// Sets the cluster's version.
#[must_use]
pub fn cluster_version(version: Version) -> Op {
    put(document::CLUSTER_VERSION.to_owned(), version.to_string())
}

fn put(path: String, val: String) -> Op {
    Op::V2(Box::new(Request { method: "PUT".to_owned(), path, val, ..Request::default() }))
}
