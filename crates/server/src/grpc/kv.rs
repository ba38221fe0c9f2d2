//! KV: range, put, delete, txn, compaction.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use machine::{Answer, Response as Applied, quota};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::request_op::Request as TxnOp;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use rpc::etcdserverpb::kv_server::{Kv, KvServer};
use rpc::raw::{
    DELETE_RANGE_PATH, PUT_PATH, RANGE_PATH, RANGE_STREAM_PATH, RawCodec, Reply, TXN_PATH,
};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};

use super::limits::{self, LeaderGuard};
use super::range_stream::{self, Pages};
use super::{slow, status};
use crate::access::Credentials;
use crate::deadline::Deadline;
use crate::request::{Core, Refusal};
use crate::traces;

/// Large reads that are under way at once: more of them would take processors from the requests that take a moment, and
/// be no sooner done.
const LARGE_READS_MAX: usize = 2;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    core: Arc<Core>,
    large_reads: Arc<Semaphore>,
    /// Whether the calls are clients' own, and so told when they take long.
    is_for_clients: bool,
}

impl Service {
    fn new(core: &Arc<Core>, is_for_clients: bool) -> Self {
        let large_reads = Arc::new(Semaphore::new(LARGE_READS_MAX));
        Self { core: Arc::clone(core), large_reads, is_for_clients }
    }

    /// Begins to look at a call, if it is one to tell of.
    fn look<T>(&self, path: &'static str, request: &Request<T>) -> slow::Call<'static> {
        let path = self.is_for_clients.then_some(path);
        slow::Call::begin(&self.core, path, request.extensions())
    }

    fn rules(&self) -> mvcc::Rules {
        mvcc::Rules::of_minor(self.core.version.minor)
    }

    /// Reads here if that takes a moment, and else on a thread that nobody waits for. `little` says `None` where it would
    /// take longer.
    async fn read_store<R: Clone + Send + 'static, T: Send + 'static>(
        &self,
        request: &R,
        little: fn(&mvcc::Reader, &R) -> Result<Option<T>, mvcc::Error>,
        whole: fn(&mvcc::Reader, &R) -> Result<T, mvcc::Error>,
    ) -> Result<T, Status> {
        let read = little(&self.core.store, request).map_err(|error| status::of_read(&error))?;
        if let Some(read) = read {
            return Ok(read);
        }
        let request = request.clone();
        let permit = Arc::clone(&self.large_reads).acquire_owned().await;
        let store = self.core.store.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let read = whole(&store, &request);
            drop(permit);
            read
        });
        let read = reading.await.map_err(|error| Status::internal(error.to_string()))?;
        read.map_err(|error| status::of_read(&error))
    }

    /// Executes a range and encodes the answer.
    async fn read(&self, request: &Request<RangeRequest>) -> Result<bytes::Bytes, Status> {
        let asked = request.get_ref();
        let mut call = self.look(RANGE_PATH, request);
        call.range = Some(asked);
        let answer = self.read_untold(request, &mut call.agreement).await;
        call.agreement.get_or_insert_default();
        call.end(|_, form| slow::Stats::of_range(asked, answer.as_ref().ok(), form));
        answer.map(|found| found.encoded)
    }

    /// Notes in `agreement` how long the members took to agree on what is to be read.
    async fn read_untold(
        &self,
        request: &Request<RangeRequest>,
        agreement: &mut Option<Duration>,
    ) -> Result<slow::Found, Status> {
        // A learner has what it was sent, and gives that.
        if request.get_ref().serializable {
            limits::check_metadata(&self.core, request.metadata())?;
        } else {
            limits::admit(&self.core, request.metadata())?;
        }
        let mut credentials = self.core.credentials(request);
        let range = request.get_ref();
        mvcc::check::range(range, self.rules())
            .map_err(|error| Status::from(status::of_check(&error)))?;
        let _span = traces::range(&mut credentials, range);
        // What is refused before has no time, as in etcd.
        let deadline = Deadline::of(request.extensions());
        let reading = slow::Reading::begin(&self.core, slow::Read::Range(range), deadline);
        let answer = self.read_now(&credentials, range, agreement).await;
        match &answer {
            Ok(found) => reading.end(Ok(|| found.shown())),
            Err(status) => reading.end(Err::<fn() -> String, _>(status)),
        }
        answer
    }

    async fn read_now(
        &self,
        credentials: &Credentials,
        request: &RangeRequest,
        agreement: &mut Option<Duration>,
    ) -> Result<slow::Found, Status> {
        let begun = Instant::now();
        if !request.serializable {
            self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
            *agreement = Some(begun.elapsed());
        }
        let reading = self.read_store(request, mvcc::Reader::range_if_little, mvcc::Reader::range);
        let answer = self
            .core
            .read(
                credentials,
                |rights, caller| rights.check_read(caller, &request.key, &request.range_end),
                reading,
            )
            .await
            .map_err(status::of_auth)?;
        // Also one that found that its revision is gone, as in etcd.
        self.core.metrics.applying.ranges.count();
        let answer = answer?;
        let header = self.core.header(answer.revision);
        let (pairs, count, revision) = (answer.kvs.len(), answer.count, answer.revision);
        Ok(slow::Found { encoded: answer.encode(&header), pairs, count, revision })
    }

    /// Serves a transaction that changes nothing, on one state of the store.
    async fn read_only_txn(
        &self,
        credentials: &Credentials,
        request: &TxnRequest,
        deadline: Option<Deadline>,
    ) -> Result<TxnResponse, Status> {
        if !is_serializable(request) {
            self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        }
        // What comes before is not counted, as in etcd.
        let reading = slow::Reading::begin(&self.core, slow::Read::Txn(request), deadline);
        let answer = self.read_only_txn_now(credentials, request).await;
        match &answer {
            Ok(answer) => reading.end(Ok(|| slow::txn_response(answer))),
            Err(status) => reading.end(Err::<fn() -> String, _>(status)),
        }
        answer
    }

    async fn read_only_txn_now(
        &self,
        credentials: &Credentials,
        request: &TxnRequest,
    ) -> Result<TxnResponse, Status> {
        let reading = self.read_store(request, mvcc::Reader::txn_if_little, mvcc::Reader::txn);
        let mut response = self
            .core
            .read(
                credentials,
                // Without a put no lease is looked at.
                |rights, caller| rights.check_txn(caller, request, &|_| Vec::new()),
                reading,
            )
            .await
            .map_err(status::of_auth)??;
        self.core.metrics.applying.read_txn(&response.responses);
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        response.header = Some(self.core.header(revision));
        Ok(response)
    }

    fn check_put(&self, request: &Request<PutRequest>) -> Result<(), Status> {
        limits::admit(&self.core, request.metadata())?;
        limits::check_quota(&self.core, quota::put_cost(request.get_ref()))?;
        mvcc::check::put(request.get_ref()).map_err(|error| Status::from(status::of_check(&error)))
    }

    fn check_delete_range(&self, request: &Request<DeleteRangeRequest>) -> Result<(), Status> {
        limits::admit(&self.core, request.metadata())?;
        mvcc::check::delete_range(request.get_ref())
            .map_err(|error| Status::from(status::of_check(&error)))
    }

    fn check_txn(&self, request: &Request<TxnRequest>) -> Result<(), Status> {
        limits::admit(&self.core, request.metadata())?;
        let cost = quota::txn_cost(request.get_ref(), self.core.version);
        limits::check_quota(&self.core, cost)?;
        let ops_max = usize::try_from(self.core.config.max_txn_ops).unwrap_or(usize::MAX);
        mvcc::check::txn(request.get_ref(), ops_max, self.rules())
            .map_err(|error| Status::from(status::of_check(&error)))
    }

    /// Proposes a client's request; `call` shares it from then on.
    async fn propose(
        &self,
        credentials: &Credentials,
        op: Op,
        call: &mut slow::Call<'_>,
    ) -> Result<Answer, Status> {
        self.core
            .propose_shared(credentials, op, &mut call.proposed)
            .await
            .map_err(|refusal| status::of(&refusal))
    }

    async fn put_checked(
        &self,
        request: Request<PutRequest>,
        call: &mut slow::Call<'_>,
    ) -> Result<PutResponse, Status> {
        let mut credentials = self.core.credentials(&request);
        let request = request.into_inner();
        let _span = traces::put(&mut credentials, &request);
        let answer = self.propose(&credentials, Op::Put(request), call).await?;
        let Applied::Put(mut response) = answer.response else { return Err(unexpected()) };
        response.header = Some(self.core.header(answer.revision));
        Ok(response)
    }

    async fn delete_range_checked(
        &self,
        request: Request<DeleteRangeRequest>,
        call: &mut slow::Call<'_>,
    ) -> Result<DeleteRangeResponse, Status> {
        let mut credentials = self.core.credentials(&request);
        let request = request.into_inner();
        let _span = traces::delete_range(&mut credentials, &request);
        let answer = self.propose(&credentials, Op::DeleteRange(request), call).await?;
        let Applied::DeleteRange(mut response) = answer.response else { return Err(unexpected()) };
        response.header = Some(self.core.header(answer.revision));
        Ok(response)
    }

    /// A transaction that is to go through the log.
    async fn txn_checked(
        &self,
        request: Request<TxnRequest>,
        call: &mut slow::Call<'_>,
    ) -> Result<TxnResponse, Status> {
        let mut credentials = self.core.credentials(&request);
        let request = request.into_inner();
        let _span = traces::txn(&mut credentials, &request, false);
        let answer = self.propose(&credentials, Op::Txn(request), call).await?;
        let Applied::Txn(mut response) = answer.response else { return Err(unexpected()) };
        response.header = Some(self.core.header(answer.revision));
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
        // Every call takes the short way, see [`Ranges`].
        Err(unexpected())
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let mut call = self.look(PUT_PATH, &request);
        if let Err(refusal) = self.check_put(&request) {
            call.end(|_, form| slow::Stats::of_put(request.get_ref(), None, form));
            return Err(refusal);
        }
        let answer = self.put_checked(request, &mut call).await;
        call.end(|asked, form| match asked {
            Some(Op::Put(asked)) => slow::Stats::of_put(asked, answer.as_ref().ok(), form),
            Some(_) | None => slow::Stats::NOTHING,
        });
        answer.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let mut call = self.look(DELETE_RANGE_PATH, &request);
        if let Err(refusal) = self.check_delete_range(&request) {
            call.end(|_, form| slow::Stats::of_delete_range(request.get_ref(), None, form));
            return Err(refusal);
        }
        let answer = self.delete_range_checked(request, &mut call).await;
        call.end(|asked, form| match asked {
            Some(Op::DeleteRange(asked)) => {
                slow::Stats::of_delete_range(asked, answer.as_ref().ok(), form)
            }
            Some(_) | None => slow::Stats::NOTHING,
        });
        answer.map(Response::new)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let mut call = self.look(TXN_PATH, &request);
        // Dropped, the call says what there is to say of one that is refused.
        self.check_txn(&request)?;
        if is_read_only(request.get_ref()) {
            let mut credentials = self.core.credentials(&request);
            let deadline = Deadline::of(request.extensions());
            let request = request.into_inner();
            let _span = traces::txn(&mut credentials, &request, true);
            let answer = self.read_only_txn(&credentials, &request, deadline).await;
            call.end(|_, form| slow::Stats::of_txn(&request, answer.as_ref().ok(), form));
            return answer.map(Response::new);
        }
        let answer = self.txn_checked(request, &mut call).await;
        call.end(|asked, form| match asked {
            Some(Op::Txn(asked)) => slow::Stats::of_txn(asked, answer.as_ref().ok(), form),
            Some(_) | None => slow::Stats::NOTHING,
        });
        answer.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let mut credentials = self.core.credentials(&request);
        let request = request.into_inner();
        self.core.require_admin(&credentials).await.map_err(status::of_auth)?;
        let _span = traces::compact(&mut credentials, &request);
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
    /// The calls of clients, or those that the member makes for them (`is_for_clients` is false).
    pub(crate) fn new(core: &Arc<Core>, bytes_max: usize, is_for_clients: bool) -> Self {
        let service = Service::new(core, is_for_clients);
        let others = KvServer::new(service.clone())
            .max_decoding_message_size(bytes_max)
            .accept_compressed(super::GZIP);
        Self { others, service, bytes_max }
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
        let is_stream = match request.uri().path() {
            RANGE_PATH => false,
            RANGE_STREAM_PATH => true,
            _ => return self.others.call(request),
        };
        let (service, bytes_max) = (self.service.clone(), self.bytes_max);
        Box::pin(async move {
            if is_stream {
                let codec = RawCodec::<Reply<RangeStreamResponse>, RangeRequest>::default();
                let mut grpc = Grpc::new(codec)
                    .max_decoding_message_size(bytes_max)
                    .accept_compressed(super::GZIP);
                return Ok(grpc.server_streaming(RangeStreamCall { service }, request).await);
            }
            let codec = RawCodec::<Reply<RangeResponse>, RangeRequest>::default();
            let mut grpc = Grpc::new(codec)
                .max_decoding_message_size(bytes_max)
                .accept_compressed(super::GZIP);
            Ok(grpc.unary(RangeCall { service }, request).await)
        })
    }
}

struct RangeStreamCall {
    service: Service,
}

impl ServerStreamingService<RangeRequest> for RangeStreamCall {
    type Response = Reply<RangeStreamResponse>;
    type ResponseStream = Pages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Pages>, Status>> + Send>>;

    fn call(&mut self, request: Request<RangeRequest>) -> Self::Future {
        let Service { core, .. } = self.service.clone();
        Box::pin(async move {
            range_stream::is_known(&core)?;
            limits::admit(&core, request.metadata())?;
            let credentials = core.credentials(&request);
            let guard = LeaderGuard::start(&core, request.metadata());
            let request = request.into_inner();
            let pages = range_stream::start(&core, &credentials, request, guard).await?;
            Ok(Response::new(pages))
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
