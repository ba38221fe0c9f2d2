//! What a member tells the cluster at each start: its name and client URLs.

use std::time::Duration;

use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};

use crate::older;
use crate::request::{Core, Refusal};
use crate::told;

/// Pause before another try.
const RETRY: Duration = Duration::from_millis(100);

/// Publishes, trying until it succeeds or the member stops. Clients are served only afterwards, hence with a leader.
pub(crate) async fn publish(core: &Core) {
    let name = core.config.name.clone();
    let client_urls: Vec<String> =
        core.config.advertise_client_urls.iter().map(ToString::to_string).collect();
    let op = if older::are_there(core).await {
        machine::v2::publication(core.member_id, name, client_urls)
    } else {
        Op::ClusterMemberAttrSet(ClusterMemberAttrSetRequest {
            member_id: core.member_id,
            member_attributes: Some(Attributes { name, client_urls }),
        })
    };
    if !until_done(core, &op).await {
        return;
    }
    tracing::info!(
        local_member_id = format!("{:x}", core.member_id),
        local_member_attributes = format!(
            "{{Name:{} ClientURLs:[{}]}}",
            core.config.name,
            told::urls(&core.config.advertise_client_urls).join(" ")
        ),
        // Where the attributes were in the old store.
        request_path =
            (core.version.minor < 6).then(|| format!("/0/members/{:x}/attributes", core.member_id)),
        cluster_id = format!("{:x}", core.cluster_id),
        publish_timeout = told::go_duration(core.config.request_timeout()),
        "published local member to cluster through raft"
    );
}

/// Proposes until it is applied; `false` when the member stops before.
async fn until_done(core: &Core, op: &Op) -> bool {
    loop {
        match core.propose(op.clone()).await {
            Ok(_) => return true,
            Err(Refusal::Stopped) => return false,
            Err(error) => {
                tracing::warn!(error = %error, "failed to publish; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
