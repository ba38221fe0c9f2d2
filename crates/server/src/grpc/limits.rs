//! What stands before every request: whether this member may serve it at all, and whether there is room for it.

use std::sync::Arc;

use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use rpc::errors::Error;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::request::Core;

/// A learner serves next to nothing.
pub(crate) fn admit(core: &Core) -> Result<(), Status> {
    if core.board.is_learner() {
        return Err(Error::NotSupportedForLearner.status(core.version.minor));
    }
    Ok(())
}

/// Whether the client wants to be refused where there is no leader.
pub(crate) fn needs_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// Refuses a client that wants a leader where there is none.
pub(crate) fn check_leader(core: &Core, metadata: &MetadataMap) -> Result<(), Status> {
    if needs_leader(metadata) && core.board.leader() == raft::NodeId::NONE {
        Err(Error::NoLeader.into())
    } else {
        Ok(())
    }
}

/// Refuses what would not fit the quota, and raises the alarm.
pub(crate) fn check_quota(core: &Arc<Core>, cost_bytes: u64) -> Result<(), Status> {
    if cost_bytes == 0 || core.quota.has_room(core.backend.size().total_bytes, cost_bytes) {
        return Ok(());
    }
    let core = Arc::clone(core);
    let alarm = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: core.member_id,
        alarm: AlarmType::Nospace.into(),
    };
    tokio::spawn(async move {
        if let Err(error) = core.propose(Op::Alarm(alarm)).await {
            tracing::warn!(error = %error, "failed to raise alarm");
        }
    });
    Err(Error::NoSpace.into())
}
