//! The protobuf format: the message as it came, without a newline.
//!
//! Upstream quirk (3.5): answers about leases are wrapped there in a struct that only has its header's encoding, so only the header is
//! printed; revocations have no encoding at all.

use prost::Message;
use proto::etcdserverpb as pb;

use super::{Answer, header};
use crate::exit::{Exit, Failure};

/// Renders an answer, or `None` where etcd does not.
pub fn render(answer: Answer<'_>) -> Option<Vec<u8>> {
    let header_only = |of: Option<&pb::ResponseHeader>| header(of).encode_to_vec();
    Some(match answer {
        Answer::Put(response) => response.encode_to_vec(),
        Answer::Get(response) => response.encode_to_vec(),
        Answer::Del(response) => response.encode_to_vec(),
        Answer::Txn(response) => response.encode_to_vec(),
        Answer::Watch(response) => watch(response),
        Answer::LeaseGrant(response) => header_only(response.header.as_ref()),
        Answer::LeaseKeepAlive(response) => header_only(response.header.as_ref()),
        Answer::LeaseTimeToLive { response, .. } => header_only(response.header.as_ref()),
        Answer::LeaseList(response) => header_only(response.header.as_ref()),
        Answer::MemberList(response) => response.encode_to_vec(),
        Answer::MemberAdd(response) => response.encode_to_vec(),
        Answer::MemberRemove { response, .. } => response.encode_to_vec(),
        Answer::MemberUpdate { response, .. } => response.encode_to_vec(),
        Answer::MemberPromote { response, .. } => response.encode_to_vec(),
        Answer::Alarm(response) => response.encode_to_vec(),
        Answer::MoveLeader { response, .. } => response.encode_to_vec(),
        Answer::LeaseRevoke { .. }
        | Answer::EndpointHealth(_)
        | Answer::EndpointStatus(_)
        | Answer::EndpointHashKv(_) => return None,
    })
}

/// The client library does not keep the watch id and the reason; it makes the message anew from what it keeps.
fn watch(response: &pb::WatchResponse) -> Vec<u8> {
    pb::WatchResponse {
        header: Some(header(response.header.as_ref())),
        watch_id: 0,
        cancel_reason: String::new(),
        ..response.clone()
    }
    .encode_to_vec()
}

/// What etcd says about a revocation in this format.
pub(super) fn revoke_failure(response: &pb::LeaseRevokeResponse) -> Failure {
    let header = header(response.header.as_ref());
    let mut shown = String::new();
    let fields = [
        ("cluster_id", header.cluster_id.to_string()),
        ("member_id", header.member_id.to_string()),
        ("revision", header.revision.to_string()),
        ("raft_term", header.raft_term.to_string()),
    ];
    for (name, value) in fields.iter().filter(|(_, value)| value != "0") {
        shown.push_str(&format!("{name}:{value} "));
    }
    let text = format!(
        "marshal unsupported for type clientv3.LeaseRevokeResponse ({{{shown} {{}} [] 0}})"
    );
    Failure::new(Exit::BadFeature, text)
}
