//! KV: range, put, delete, txn, compaction.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use machine::{Response as Applied, quota};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::request_op::Request as TxnOp;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use rpc::etcdserverpb::kv_server::{Kv, KvServer};
use rpc::raw::{RANGE_PATH, RawCodec, Reply};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use super::{limits, status};
use crate::access::Credentials;
use crate::request::{Core, Refusal};
use crate::told;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// Executes a range and encodes the answer.
    async fn read(&self, request: &Request<RangeRequest>) -> Result<bytes::Bytes, Status> {
        let begun = Instant::now();
        let answer = self.read_now(request).await;
        let (took, limit) = (begun.elapsed(), self.core.config.warning_apply_duration);
        if took > limit {
            let request = told::range(request.get_ref());
            let (bytes, error) = match &answer {
                Ok(answer) => (Some(answer.len()), None),
                Err(status) => (None, Some(status as &dyn std::fmt::Display)),
            };
            told::slow(took, limit, "read-only range ", &request, bytes, error);
        }
        answer
    }

    async fn read_now(&self, request: &Request<RangeRequest>) -> Result<bytes::Bytes, Status> {
        let credentials = self.core.credentials(request);
        let request = request.get_ref();
        limits::admit(&self.core)?;
        mvcc::check::range(request).map_err(|error| Status::from(status::of_check(&error)))?;
        if !request.serializable {
            self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        }
        let answer = self
            .core
            .read(
                &credentials,
                |rights, caller| rights.check_read(caller, &request.key, &request.range_end),
                || self.core.store.range(request),
            )
            .await
            .map_err(status::of_auth)?
            .map_err(|error| status::of_read(&error))?;
        let header = self.core.header(answer.revision);
        Ok(answer.encode(&header))
    }

    /// Serves a transaction that changes nothing, on one state of the store.
    async fn read_only_txn(
        &self,
        credentials: &Credentials,
        request: &TxnRequest,
    ) -> Result<TxnResponse, Status> {
        let begun = Instant::now();
        let answer = self.read_only_txn_now(credentials, request).await;
        let (took, limit) = (begun.elapsed(), self.core.config.warning_apply_duration);
        if took > limit {
            told::slow(took, limit, "read-only txn ", &told::txn(request), None, None);
        }
        answer
    }

    async fn read_only_txn_now(
        &self,
        credentials: &Credentials,
        request: &TxnRequest,
    ) -> Result<TxnResponse, Status> {
        if !is_serializable(request) {
            self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        }
        let mut response = self
            .core
            .read(
                credentials,
                // Without a put no lease is looked at.
                |rights, caller| rights.check_txn(caller, request, &|_| Vec::new()),
                || self.core.store.txn(request),
            )
            .await
            .map_err(status::of_auth)?
            .map_err(|error| status::of_read(&error))?;
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        response.header = Some(self.core.header(revision));
        Ok(response)
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        // Calls of the network take the short way, see [`Ranges`]; this serves those that come otherwise.
        let encoded = self.read(&request).await?;
        let response =
            prost::Message::decode(encoded).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(response))
    }

    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        // etcd 3.5, which this member stands for, does not have it; the text is what it says.
        Err(Status::unimplemented("unknown method RangeStream for service etcdserverpb.KV"))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let credentials = self.core.credentials(&request);
        let request = request.into_inner();
        limits::admit(&self.core)?;
        limits::check_quota(&self.core, quota::put_cost(&request))?;
        mvcc::check::put(&request).map_err(|error| Status::from(status::of_check(&error)))?;
        let answer = self
            .core
            .propose_for(&credentials, Op::Put(request))
            .await
            .map_err(|refusal| status::of(&refusal))?;
        let Applied::Put(mut response) = answer.response else { return Err(unexpected()) };
        response.header = Some(self.core.header(answer.revision));
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let credentials = self.core.credentials(&request);
        let request = request.into_inner();
        limits::admit(&self.core)?;
        mvcc::check::delete_range(&request)
            .map_err(|error| Status::from(status::of_check(&error)))?;
        let answer = self
            .core
            .propose_for(&credentials, Op::DeleteRange(request))
            .await
            .map_err(|refusal| status::of(&refusal))?;
        let Applied::DeleteRange(mut response) = answer.response else { return Err(unexpected()) };
        response.header = Some(self.core.header(answer.revision));
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let credentials = self.core.credentials(&request);
        let request = request.into_inner();
        limits::admit(&self.core)?;
        limits::check_quota(&self.core, quota::txn_cost(&request, self.core.version))?;
        let ops_max = usize::try_from(self.core.config.max_txn_ops).unwrap_or(usize::MAX);
        mvcc::check::txn(&request, ops_max)
            .map_err(|error| Status::from(status::of_check(&error)))?;
        if is_read_only(&request) {
            return self.read_only_txn(&credentials, &request).await.map(Response::new);
        }
        let answer = self
            .core
            .propose_for(&credentials, Op::Txn(request))
            .await
            .map_err(|refusal| status::of(&refusal))?;
        let Applied::Txn(mut response) = answer.response else { return Err(unexpected()) };
        response.header = Some(self.core.header(answer.revision));
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let credentials = self.core.credentials(&request);
        let request = request.into_inner();
        limits::admit(&self.core)?;
        self.core.require_admin(&credentials).await.map_err(status::of_auth)?;
        let outcome = self.core.propose_for(&credentials, Op::Compaction(request)).await;
        // As etcd: also one that comes too late waits for the work of those before it.
        let is_applied = outcome.is_ok() || matches!(outcome, Err(Refusal::Request(_)));
        if request.physical && is_applied {
            self.core.wait_compacted().await.map_err(|refusal| status::of(&refusal))?;
        }
        let answer = outcome.map_err(|refusal| status::of(&refusal))?;
        Ok(Response::new(CompactionResponse { header: Some(self.core.header(answer.revision)) }))
    }
}

/// An answer of another kind than the request's: a broken promise of ours, told instead of guessed around.
fn unexpected() -> Status {
    Status::internal("the state machine answered another request")
}

/// Whether the operations of both branches are ranges. A nested transaction counts as a change, also if it only reads.
fn is_read_only(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(op.request, Some(TxnOp::RequestRange(_))))
}

/// Whether all ranges may be served from this member's state as it is; so may a transaction without any.
fn is_serializable(request: &TxnRequest) -> bool {
    operations(request)
        .all(|op| matches!(&op.request, Some(TxnOp::RequestRange(range)) if range.serializable))
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// The KV service with ranges taken out: their answers are bytes of the store, which need no message in between.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    others: KvServer<Service>,
    service: Service,
    bytes_max: usize,
}

impl Ranges {
    pub(crate) fn before(others: KvServer<Service>, core: &Arc<Core>, bytes_max: usize) -> Self {
        Self { others, service: Service::new(core), bytes_max }
    }
}

impl NamedService for Ranges {
    const NAME: &'static str = <KvServer<Service> as NamedService>::NAME;
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower_service::Service<http::Request<Body>> for Ranges {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Neither of the two ever makes a caller wait here.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        if request.uri().path() != RANGE_PATH {
            return self.others.call(request);
        }
        let (service, bytes_max) = (self.service.clone(), self.bytes_max);
        Box::pin(async move {
            let codec = RawCodec::<Reply<RangeResponse>, RangeRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(bytes_max);
            Ok(grpc.unary(RangeCall { service }, request).await)
        })
    }
}

struct RangeCall {
    service: Service,
}

impl UnaryService<RangeRequest> for RangeCall {
    type Response = Reply<RangeResponse>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<RangeRequest>) -> Self::Future {
        let service = self.service.clone();
        Box::pin(async move {
            let encoded = service.read(&request).await?;
            Ok(Response::new(Reply::Encoded(vec![encoded])))
        })
    }
}
