//! Elections: whoever has the oldest key below the election's name leads, and the key's value is what it proclaims.
//!
//! Upstream: `server/etcdserver/api/v3election`, `client/v3/concurrency/election.go` (3.5).

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::{
    RangeRequest, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
};
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use rpc::errors::Error;
use rpc::v3electionpb::election_server::Election;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::limits;
use super::own::{self, Caller, Own};
use crate::request::Core;

/// Proclamations that wait for a client that observes; those after it wait in the watch.
const OBSERVED_AHEAD: usize = 16;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
    own: Own,
}

impl Service {
    pub(super) fn new(core: &Arc<Core>, own: &Own) -> Self {
        Self { core: Arc::clone(core), own: own.clone() }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        limits::admit(&self.core, request.metadata())
    }
}

#[tonic::async_trait]
impl Election for Service {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.admit(&request)?;
        let (caller, CampaignRequest { name, lease, value }) = self.own.caller(request);
        let lease = caller.lease(lease).await?;
        let prefix = own::prefix_of(&name);
        let key = own::key_of(&prefix, lease);
        let own_key = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let request = TxnRequest {
            compare: vec![own::created_at(key.clone(), 0)],
            success: vec![own::put_op(key.clone(), value.clone(), lease)],
            failure: vec![own::range_op(own_key)],
        };
        let (joined, mut candidate) = caller.join(prefix, key.clone(), request).await?;
        let earlier = own::found_by(&joined, 0).first();
        let leader = LeaderKey { name, key, rev: candidate.revision, lease };
        if earlier.is_some_and(|kv| kv.value != value)
            && let Err(error) = proclaim(&caller, &leader, value).await
        {
            candidate.withdraw();
            return Err(error);
        }
        let turn = candidate.wait().await;
        candidate.stay();
        turn?;
        // Of the moment at which the candidate joined, not of its victory: etcd's quirk.
        Ok(Response::new(CampaignResponse { header: joined.header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        self.admit(&request)?;
        let (caller, ProclaimRequest { leader, value }) = self.own.caller(request);
        let mut leader = leader.ok_or_else(no_leader_given)?;
        leader.lease = caller.lease(leader.lease).await?;
        let header = proclaim(&caller, &leader, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        self.admit(&request)?;
        let (caller, LeaderRequest { name }) = self.own.caller(request);
        let found = caller.oldest(&own::prefix_of(&name)).await?;
        let kv = found.kvs.into_iter().next();
        let kv = kv.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(LeaderResponse { header: found.header, kv: Some(kv) }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.admit(&request)?;
        let metadata = request.metadata().clone();
        let (caller, LeaderRequest { name }) = self.own.caller(request);
        let (sender, receiver) = mpsc::channel(OBSERVED_AHEAD);
        tokio::spawn(async move {
            let observer = Observer { caller, prefix: own::prefix_of(&name), sender };
            tokio::select! {
                // The client has gone.
                () = observer.sender.closed() => {}
                end = observer.run() => {
                    if let Err(error) = end {
                        // As in etcd: the stream ends, and nobody is told why.
                        tracing::debug!(error = error.message(), "an observation ended early");
                    }
                }
            }
        });
        let found = ReceiverStream::new(receiver);
        let end = Error::NoLeader.into();
        Ok(Response::new(Box::pin(limits::while_led(&self.core, &metadata, found, end))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        self.admit(&request)?;
        let (caller, ResignRequest { leader }) = self.own.caller(request);
        let leader = leader.ok_or_else(no_leader_given)?;
        if leader.lease != 0 {
            caller.lease(leader.lease).await?;
        }
        // Whoever does not lead has nothing to resign from, and that is no error.
        let resigned = if_leading(&caller, &leader, own::delete_op(leader.key.clone())).await?;
        Ok(Response::new(ResignResponse { header: resigned.header }))
    }
}

fn no_leader_given() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

async fn if_leading(
    caller: &Caller,
    leader: &LeaderKey,
    op: proto::etcdserverpb::RequestOp,
) -> Result<TxnResponse, Status> {
    let compare = vec![own::created_at(leader.key.clone(), leader.rev)];
    caller.txn(TxnRequest { compare, success: vec![op], failure: Vec::new() }).await
}

async fn proclaim(
    caller: &Caller,
    leader: &LeaderKey,
    value: Bytes,
) -> Result<Option<ResponseHeader>, Status> {
    let put = own::put_op(leader.key.clone(), value, leader.lease);
    let put = if_leading(caller, leader, put).await?;
    if !put.succeeded {
        return Err(Status::unknown("election: not leader"));
    }
    Ok(put.header)
}

/// Follows the leaders of one election for one client.
struct Observer {
    caller: Caller,
    prefix: Bytes,
    sender: mpsc::Sender<Result<LeaderResponse, Status>>,
}

impl Observer {
    /// Runs until the client has gone or a watch fails.
    async fn run(&self) -> Result<(), Status> {
        loop {
            let found = self.caller.oldest(&self.prefix).await?;
            let (header, kv) = match found.kvs.into_iter().next() {
                Some(kv) => (found.header, kv),
                None => self.first_put(own::revision_of(found.header.as_ref())).await?,
            };
            let (key, next) = (kv.key.clone(), own::revision_of(header.as_ref()) + 1);
            self.tell(header, kv).await?;
            self.follow(key, next).await?;
        }
    }

    /// Waits for the first candidate. The header has the revision of its put.
    async fn first_put(&self, since: i64) -> Result<(Option<ResponseHeader>, KeyValue), Status> {
        let mut answers = self
            .caller
            .watch(WatchCreateRequest {
                key: self.prefix.clone(),
                range_end: own::end_of(&self.prefix),
                start_revision: since,
                ..WatchCreateRequest::default()
            })
            .await?;
        loop {
            let WatchResponse { header, events, .. } = next_of(&mut answers).await?;
            let put = events.into_iter().find(|event| event.r#type() == EventType::Put);
            if let Some(kv) = put.and_then(|event| event.kv) {
                let revision = kv.mod_revision;
                let header = header.map(|header| ResponseHeader { revision, ..header });
                return Ok((header, kv));
            }
        }
    }

    /// Tells what the leader proclaims, until its key is deleted.
    async fn follow(&self, key: Bytes, since: i64) -> Result<(), Status> {
        let request =
            WatchCreateRequest { key, start_revision: since, ..WatchCreateRequest::default() };
        let mut answers = self.caller.watch(request).await?;
        loop {
            let WatchResponse { header, events, .. } = next_of(&mut answers).await?;
            for event in events {
                if event.r#type() == EventType::Delete {
                    return Ok(());
                }
                self.tell(header, event.kv.unwrap_or_default()).await?;
            }
        }
    }

    async fn tell(&self, header: Option<ResponseHeader>, kv: KeyValue) -> Result<(), Status> {
        let told = self.sender.send(Ok(LeaderResponse { header, kv: Some(kv) })).await;
        told.map_err(|_| Status::cancelled("the client has gone"))
    }
}

/// The next answer of a watch that goes on.
async fn next_of(answers: &mut tonic::Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    match answers.message().await? {
        Some(answer) if !answer.canceled => Ok(answer),
        Some(answer) => Err(Status::unknown(answer.cancel_reason)),
        None => Err(Status::unknown("the watch has ended")),
    }
}
