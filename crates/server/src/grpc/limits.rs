//! What stands before every request: whether this member may serve it at all, and whether there is room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use rpc::errors::Error;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::request::Core;

/// A client that asked for it is cut off after this many election timeouts without a leader.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// Refuses what a learner does not serve, and whoever [`check_metadata`] refuses.
pub(crate) fn admit(core: &Core, metadata: &MetadataMap) -> Result<(), Status> {
    if core.board.is_learner() {
        return Err(Error::NotSupportedForLearner.status(core.version.minor));
    }
    check_metadata(core, metadata)
}

/// Refuses a client whose version cannot be told, and one that wants a leader where there is none. For what learners serve too.
pub(crate) fn check_metadata(core: &Core, metadata: &MetadataMap) -> Result<(), Status> {
    if core.version.checks_client_version()
        && let Some(version) = metadata.get("client-api-version")
        && std::str::from_utf8(version.as_bytes()).is_err()
    {
        return Err(Error::InvalidClientAPIVersion.into());
    }
    if needs_leader(metadata) && core.board.leader() == raft::NodeId::NONE {
        return Err(Error::NoLeader.into());
    }
    Ok(())
}

/// Whether the client wants to be refused where there is no leader.
pub(crate) fn needs_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// Returns when there was no leader for some time: then streams end whose clients want one.
pub(crate) async fn leader_lost(core: &Core) {
    let mut leadership = core.board.leadership();
    loop {
        let change = leadership.changed();
        let has_leader = core.board.leader() != raft::NodeId::NONE;
        let changed = if has_leader {
            change.await
        } else {
            match timeout(LEADERLESS_TIMEOUTS * core.config.election, change).await {
                Ok(changed) => changed,
                Err(_) => return,
            }
        };
        if changed.is_err() {
            // The member stops, and ends its streams itself.
            return std::future::pending().await;
        }
    }
}

/// A stream that ends when there was no leader for some time, if its client asked for that.
pub(crate) fn while_led<T, S>(
    core: &Arc<Core>,
    metadata: &MetadataMap,
    answers: S,
) -> impl Stream<Item = Result<T, Status>> + Send + use<T, S>
where
    S: Stream<Item = Result<T, Status>> + Send,
    T: Send,
{
    let lost = needs_leader(metadata).then(|| {
        let core = Arc::clone(core);
        async move { leader_lost(&core).await }
    });
    Led { answers: Box::pin(answers), lost: lost.map(Box::pin), has_ended: false }
}

/// See [`while_led`].
struct Led<S, F> {
    answers: Pin<Box<S>>,
    lost: Option<Pin<Box<F>>>,
    has_ended: bool,
}

impl<T, S, F> Stream for Led<S, F>
where
    S: Stream<Item = Result<T, Status>>,
    F: Future<Output = ()>,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(answer) = this.answers.as_mut().poll_next(context) {
            return Poll::Ready(answer);
        }
        if let Some(lost) = &mut this.lost
            && lost.as_mut().poll(context).is_ready()
        {
            this.has_ended = true;
            return Poll::Ready(Some(Err(Error::NoLeader.into())));
        }
        Poll::Pending
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

#[cfg(test)]
mod tests;
