//! Lease: grant, revoke, keep-alive, time to live, list.
//!
//! Grants and revocations go through the log. The time of leases is the leader's alone: renewing one touches the lessor and
//! nothing else.

use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};

use lease::{LeaseId, Lessor, RenewError, Renewal};
use machine::{Response as Applied, quota};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use rpc::errors::Error;
use rpc::etcdserverpb::lease_server::Lease;
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{limits, status, wording};
use crate::access::{Credentials, Identity};
use crate::driver::heart;
use crate::forward::{self, OfLease};
use crate::request::{Core, Refusal};
use crate::traces;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    async fn keep_alive(&self, call: &Call, id: LeaseId) -> Result<LeaseKeepAliveResponse, Status> {
        let _span = traces::lease_renew(self.core.span(&call.extensions), id.0);
        self.check_renewal(call, id).await.map_err(status::of_auth)?;
        // Taken before the renewal, so that its revision is never ahead of what the renewal saw.
        let header = self.core.header(0);
        let ttl = self.renew(id).await?;
        Ok(LeaseKeepAliveResponse { header: Some(header), id: id.0, ttl })
    }

    /// Renewing a lease keeps its keys: that is for those who may write them. Checked by the member that is asked, also where
    /// the leader renews.
    async fn check_renewal(&self, call: &Call, id: LeaseId) -> Result<(), auth::Error> {
        let core = &self.core;
        if !core.access.is_enabled() {
            return Ok(());
        }
        let identity = core.identify(&call.credentials()).await?.ok_or(auth::Error::UserEmpty)?;
        let rights = core.access.rights();
        rights
            .check_lease_writes(Identity::caller(Some(&identity)), id.0, &|id| leased(core, id))?;
        if core.access.rights().revision() != rights.revision() {
            return Err(auth::Error::AuthOldRevision);
        }
        Ok(())
    }

    /// Renews, here or at the leader, and returns the time to live; 0 when there is no such lease (any more).
    async fn renew(&self, id: LeaseId) -> Result<i64, Status> {
        loop {
            if self.core.board.is_leader() {
                return Ok(renew_here(&self.core, id).await?.unwrap_or(0));
            }
            match forward::keep_alive(&self.core, id.0).await? {
                OfLease::Known(ttl) => return Ok(ttl),
                OfLease::NotFound => return Ok(0),
                OfLease::LedHere => {}
            }
        }
    }
}

impl Service {
    /// Refuses who may not read all keys of these leases. Returns the auth revision of the rights that were looked at.
    async fn check_keys(
        &self,
        credentials: &Credentials,
        leases: &[i64],
    ) -> Result<Option<u64>, auth::Error> {
        let core = &self.core;
        if !core.access.is_enabled() {
            return Ok(None);
        }
        let identity = core.identify(credentials).await?.ok_or(auth::Error::UserEmpty)?;
        let rights = core.access.rights();
        let caller = Identity::caller(Some(&identity));
        for &lease in leases {
            rights.check_lease_reads(caller, lease, &|id| leased(core, id))?;
        }
        Ok(Some(rights.revision()))
    }

    /// Refuses if users or roles changed since the check.
    fn recheck(&self, checked_revision: Option<u64>) -> Result<(), auth::Error> {
        match checked_revision {
            Some(revision) if revision != self.core.access.rights().revision() => {
                Err(auth::Error::AuthOldRevision)
            }
            _ => Ok(()),
        }
    }
}

/// The call that a stream of requests belongs to: each of them is checked as of its own time.
#[derive(Debug)]
struct Call {
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Arc<Self> {
        Arc::new(Self {
            metadata: request.metadata().clone(),
            extensions: request.extensions().clone(),
        })
    }

    fn credentials(&self) -> Credentials {
        Credentials::of(&self.metadata, &self.extensions)
    }
}

/// The keys that hang on a lease.
fn leased(core: &Core, id: i64) -> Vec<lease::Key> {
    lessor(core).keys(LeaseId(id)).cloned().collect()
}

/// Renews a lease on the leader; `None` when there is no such lease (any more).
pub(crate) async fn renew_here(core: &Core, id: LeaseId) -> Result<Option<i64>, Status> {
    prove_leadership(core).await?;
    // From 3.7 on, a lease that is known already need not wait (the feature gate FastLeaseKeepAlive, on by default).
    if core.version.minor < 7 || !lessor(core).contains(id) {
        catch_up(core).await?;
    }
    loop {
        let renewed = lessor(core).renew(id, core.now());
        match renewed {
            Ok(Renewal::Renewed { ttl }) => {
                core.metrics.leases.renewed.count();
                tracing::debug!(lease_id = %id, ttl, "renewed a lease");
                return Ok(Some(ttl));
            }
            Ok(Renewal::ClearCheckpoint) => clear_checkpoint(core, id).await?,
            Err(RenewError::NotFound { .. }) => return Ok(None),
            // It has run out and its revocation is on the way: that decides.
            Err(RenewError::Expired { .. }) => wait_until_gone(core, id).await?,
            Err(RenewError::NotPrimary) => {
                return Err(Error::NotPrimaryLessor.into());
            }
        }
    }
}

/// Makes sure that a member that was held up still leads: another one may count the time of leases, and have revoked some.
///
/// Upstream: `ensureLeadership` in `server/etcdserver/server.go` (3.6.14). Differs: there a pause is forgotten with the next
/// tick, which may come before the messages of the new leader are read.
async fn prove_leadership(core: &Core) -> Result<(), Status> {
    let limit = heart::TICKS_UNTIL_DOUBT * core.config.heartbeat;
    let Some(pauses) = core.board.doubts_leadership(limit) else { return Ok(()) };
    match core.linearizable().await {
        Ok(()) if core.board.is_leader() => {
            core.board.leadership_proved(pauses);
            Ok(())
        }
        Ok(()) => Err(Error::NotPrimaryLessor.into()),
        Err(error) => {
            tracing::warn!(error = %error, "failed to check current member's leadership");
            Err(Error::NotPrimaryLessor.into())
        }
    }
}

/// Waits until what is committed is applied: a lease may have been granted or revoked in it.
async fn catch_up(core: &Core) -> Result<(), Status> {
    /// etcd's limit.
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(1);
    tokio::time::timeout(LIMIT, core.board.wait_applied(core.board.commit()))
        .await
        .map_err(|_| Error::TimeoutWaitAppliedIndex.into())
}

/// A renewed lease has its whole time again, also for the next leader.
async fn clear_checkpoint(core: &Core, id: LeaseId) -> Result<(), Status> {
    let checkpoints = vec![LeaseCheckpoint { id: id.0, remaining_ttl: 0 }];
    core.propose(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }))
        .await
        .map(drop)
        .map_err(|refusal| status::of(&refusal))
}

async fn wait_until_gone(core: &Core, id: LeaseId) -> Result<(), Status> {
    let deadline = tokio::time::Instant::now() + core.config.request_timeout();
    while lessor(core).contains(id) {
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::Timeout.into());
        }
        tokio::time::sleep(core.config.heartbeat).await;
    }
    Ok(())
}

/// What the leader knows of a lease's time.
#[derive(Debug)]
pub(crate) enum TimeToLive {
    /// This; without a header.
    Known(LeaseTimeToLiveResponse),
    /// There is no such lease.
    NotFound,
    /// This member does not count the time of leases.
    NotPrimary,
}

/// Looks a lease up on the leader.
pub(crate) fn time_to_live_here(core: &Core, request: &LeaseTimeToLiveRequest) -> TimeToLive {
    let id = LeaseId(request.id);
    let lessor = lessor(core);
    let Ok(times) = lessor.time_to_live(id, core.now()) else { return TimeToLive::NotFound };
    let Some(ttl) = times.remaining else { return TimeToLive::NotPrimary };
    let keys = if request.keys {
        lessor.keys(id).map(|key| bytes::Bytes::copy_from_slice(key)).collect()
    } else {
        Vec::new()
    };
    TimeToLive::Known(LeaseTimeToLiveResponse {
        header: None,
        id: id.0,
        ttl,
        granted_ttl: times.granted,
        keys,
    })
}

/// A panic with the lock held ends the process, so a poisoned lock is as good as a sound one.
fn lessor(core: &Core) -> MutexGuard<'_, Lessor> {
    core.lessor.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let mut credentials = self.core.credentials(&request);
        let mut request = request.into_inner();
        limits::check_quota(&self.core, quota::LEASE_COST_BYTES)?;
        self.core.require_identity(&credentials).await.map_err(status::of_auth)?;
        while request.id == 0 {
            // Positive, and never 0.
            request.id = i64::try_from(self.core.ids.next() & 0x7fff_ffff_ffff_ffff).unwrap_or(0);
        }
        let _span = traces::lease_grant(&mut credentials, &request);
        let answer = self
            .core
            .propose_for(&credentials, Op::LeaseGrant(request))
            .await
            .map_err(|refusal| status::of(&refusal))?;
        let Applied::LeaseGrant(mut response) = answer.response else {
            return Err(Status::internal("the state machine answered another request"));
        };
        response.header = Some(self.core.header(answer.revision));
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let mut credentials = self.core.credentials(&request);
        let _span = traces::lease_revoke(&mut credentials, request.get_ref().id);
        self.core.require_identity(&credentials).await.map_err(status::of_auth)?;
        let answer = self
            .core
            .propose_for(&credentials, Op::LeaseRevoke(request.into_inner()))
            .await
            .map_err(|refusal| status::of(&refusal))?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.core.header(answer.revision)) }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let service = self.clone();
        let call = Call::of(&request);
        let metadata = request.metadata().clone();
        let answers = request.into_inner().then(move |request| {
            let (service, call) = (service.clone(), Arc::clone(&call));
            async move {
                let request = request.map_err(wording::of_stream)?;
                service.keep_alive(&call, LeaseId(request.id)).await
            }
        });
        let end = Error::NoLeader.into();
        let answers = limits::while_led(&self.core, &metadata, until_error(answers), end);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        let request = request.into_inner();
        self.core.require_identity(&credentials).await.map_err(status::of_auth)?;
        let checked_revision = match request.keys {
            true => self.check_keys(&credentials, &[request.id]).await.map_err(status::of_auth)?,
            false => None,
        };
        let header = Some(self.core.header(0));
        let unknown = || LeaseTimeToLiveResponse {
            id: request.id,
            ttl: -1,
            ..LeaseTimeToLiveResponse::default()
        };
        let deadline = tokio::time::Instant::now() + self.core.config.request_timeout();
        let response = loop {
            let answer = if self.core.board.is_leader() {
                catch_up(&self.core).await?;
                time_to_live_here(&self.core, &request)
            } else {
                match forward::time_to_live(&self.core, request).await? {
                    OfLease::Known(response) => TimeToLive::Known(response),
                    OfLease::NotFound => TimeToLive::NotFound,
                    OfLease::LedHere => TimeToLive::NotPrimary,
                }
            };
            match answer {
                TimeToLive::Known(response) => break response,
                TimeToLive::NotFound => break unknown(),
                // It leads, and counts the time of leases when it has applied an entry of its own term.
                TimeToLive::NotPrimary if tokio::time::Instant::now() >= deadline => {
                    return Err(Error::LeaderChanged.into());
                }
                TimeToLive::NotPrimary => tokio::time::sleep(self.core.config.heartbeat).await,
            }
        };
        self.recheck(checked_revision).map_err(status::of_auth)?;
        Ok(Response::new(LeaseTimeToLiveResponse { header, ..response }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let ids: Vec<i64> = lessor(&self.core).leases().into_iter().map(|id| id.0).collect();
        let credentials = self.core.credentials(&request);
        let checked_revision =
            self.check_keys(&credentials, &ids).await.map_err(status::of_auth)?;
        self.recheck(checked_revision).map_err(status::of_auth)?;
        let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.core.header(0)), leases }))
    }
}

/// The answers up to and including the first error: after it a stream has nothing more to say.
fn until_error<T>(
    answers: impl Stream<Item = Result<T, Status>> + Send,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let mut has_failed = false;
    answers.take_while(move |answer| {
        let is_wanted = !has_failed;
        has_failed |= answer.is_err();
        is_wanted
    })
}

/// Lets all members know how much is left of the long leases, for the next leader.
async fn note_rests(core: &Core) {
    /// etcd's most in one entry.
    const PER_ENTRY: usize = 1000;
    loop {
        let due = lessor(core).due_checkpoints(core.now(), PER_ENTRY);
        if due.is_empty() {
            return;
        }
        let checkpoints = due
            .into_iter()
            .map(|(id, remaining_ttl)| LeaseCheckpoint { id: id.0, remaining_ttl })
            .collect();
        let op = Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints });
        if let Err(error) = core.propose_as_leader(op).await {
            // The next one of these leases comes with their renewal, or with the next leader.
            tracing::warn!(error = %error, "failed to checkpoint leases");
            return;
        }
    }
}

/// Revokes what has run out and notes what is left of the others, as long as this member leads.
pub(crate) async fn expire(core: Arc<Core>) {
    /// etcd looks twice a second, takes so many at a time, and has so many revocations on their way.
    const EVERY: std::time::Duration = std::time::Duration::from_millis(500);
    const IN_FLIGHT_MAX: usize = 16;
    let in_flight = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT_MAX));
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if !core.board.is_leader() {
            continue;
        }
        if core.config.lease_checkpoint_interval.is_some() {
            // Beside the revocations, which must not wait for it.
            let core = Arc::clone(&core);
            tokio::spawn(async move { note_rests(&core).await });
        }
        let expired = lessor(&core).expired(core.now(), lease::EXPIRED_PER_ROUND);
        for id in expired {
            let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
            let core = Arc::clone(&core);
            tokio::spawn(async move {
                tracing::debug!(lease_id = %id, "revoking a lease that has run out");
                // Under a successor it may have been renewed.
                let revoke = Op::LeaseRevoke(LeaseRevokeRequest { id: id.0 });
                let revoked = core.propose_as_leader(revoke).await;
                drop(permit);
                match revoked {
                    Ok(_) => core.metrics.leases.expired.count(),
                    Err(
                        Refusal::Request(machine::RequestError::LeaseNotFound)
                        | Refusal::Dropped
                        | Refusal::Stopped,
                    ) => {}
                    // It is reported again later.
                    Err(error) => {
                        tracing::warn!(lease_id = %id, error = %error, "failed to revoke lease")
                    }
                }
            });
        }
    }
}
