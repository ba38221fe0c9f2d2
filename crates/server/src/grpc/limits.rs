//! What stands before every request: whether this member may serve it at all, and whether there is room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use rpc::errors::Error;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::request::Core;
use crate::told;

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
fn needs_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// Returns when there was no leader for some time: then streams end whose clients want one.
async fn leader_lost(core: &Core) {
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

/// Ends when there was no leader for some time. It watches whether or not it is polled: a stream whose client reads slowly is.
#[derive(Debug)]
pub(crate) struct LeaderGuard {
    /// `None` once it has ended.
    watching: Option<JoinHandle<()>>,
    is_lost: bool,
}

impl LeaderGuard {
    /// Watches from now on, if the client asked for it.
    pub(crate) fn start(core: &Arc<Core>, metadata: &MetadataMap) -> Option<Self> {
        needs_leader(metadata).then(|| {
            let core = Arc::clone(core);
            let watching = tokio::spawn(async move { leader_lost(&core).await });
            Self { watching: Some(watching), is_lost: false }
        })
    }
}

impl Future for LeaderGuard {
    type Output = ();

    /// May be polled again after it was ready, and is then ready again.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(watching) = &mut self.watching
            && let Poll::Ready(end) = Pin::new(watching).poll(context)
        {
            self.watching = None;
            self.is_lost = end.is_ok();
        }
        if self.is_lost { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

/// A stream that ends with that status when there was no leader for some time, if its client asked for that.
pub(crate) fn while_led<T, S>(
    core: &Arc<Core>,
    metadata: &MetadataMap,
    answers: S,
    end: Status,
) -> impl Stream<Item = Result<T, Status>> + Send + use<T, S>
where
    S: Stream<Item = Result<T, Status>> + Send,
    T: Send,
{
    let guard = LeaderGuard::start(core, metadata);
    Led { answers: Box::pin(answers), guard, end: Some(end) }
}

/// See [`while_led`].
struct Led<S> {
    answers: Pin<Box<S>>,
    guard: Option<LeaderGuard>,
    /// `None` once it was said.
    end: Option<Status>,
}

impl<T, S> Stream for Led<S>
where
    S: Stream<Item = Result<T, Status>>,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.end.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(answer) = this.answers.as_mut().poll_next(context) {
            return Poll::Ready(answer);
        }
        if let Some(guard) = &mut this.guard
            && Pin::new(guard).poll(context).is_ready()
        {
            return Poll::Ready(this.end.take().map(Err));
        }
        Poll::Pending
    }
}

/// Refuses what would not fit the quota, and raises the alarm unless it stands: who goes on trying adds nothing to the log.
pub(crate) fn check_quota(core: &Arc<Core>, cost_bytes: u64) -> Result<(), Status> {
    if cost_bytes == 0 || core.quota.has_room(core.backend.size().total_bytes, cost_bytes) {
        return Ok(());
    }
    let kind = AlarmType::Nospace.into();
    let standing = core.facts.get().alarms.list(kind);
    if standing.iter().any(|alarm| alarm.member_id == core.member_id) {
        return Err(Error::NoSpace.into());
    }
    told::over_quota(&core.config);
    let core = Arc::clone(core);
    let alarm = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: core.member_id,
        alarm: kind,
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
