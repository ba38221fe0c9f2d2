//! Reads and writes: through the cache, into the namespace, to the cluster.
//!
//! Each answer to a range may serve later serializable ones, also that of a linearizable read. A write invalidates what it touches
//! before it is sent, so that a client reads its own writes through this proxy, and again when it is over (`cache`).
//!
//! With a leasing prefix, reads of keys that this proxy owns are answered from memory, linearizable ones too, and writes ask other
//! owners first (`leasing`).
//!
//! Upstream: `server/proxy/grpcproxy/kv.go` (3.6.16). Differs: errors keep their code, which upstream turns into `Unknown`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use client::retry::Policy;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use rpc::errors::Error;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::kv_server::Kv;
use tokio_stream::Empty;
use tonic::{Code, Request, Response, Status};

use crate::cache::{Cache, Interval};
use crate::leasing::Leasing;
use crate::metrics::{Metrics, count};
use crate::namespace::Namespace;
use crate::upstream::{Caller, Upstream};

/// Rounds over all endpoints in which an ordered read looks for a member that is not behind; upstream's number.
const ORDERED_ROUNDS: usize = 5;

/// Pause before the first read of an ordered proxy is tried again; upstream's.
const ORDER_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Serves KV. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    namespace: Namespace,
    cache: Cache,
    metrics: Arc<Metrics>,
    /// Owns keys, if it is to.
    leasing: Option<Leasing>,
    /// The latest revision that a client of this proxy has seen, if reads are not to go back behind it.
    seen_revision: Option<AtomicI64>,
}

impl Service {
    pub(crate) fn new(
        upstream: &Upstream,
        namespace: &Namespace,
        metrics: &Arc<Metrics>,
        leasing: Option<Leasing>,
        is_ordered: bool,
    ) -> Self {
        let shared = Shared {
            upstream: upstream.clone(),
            namespace: namespace.clone(),
            cache: Cache::default(),
            metrics: Arc::clone(metrics),
            leasing,
            seen_revision: is_ordered.then(AtomicI64::default),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads from the cluster, keys without their namespace, the cache left alone.
    pub(crate) async fn read(
        &self,
        caller: &Caller,
        request: RangeRequest,
    ) -> Result<RangeResponse, Status> {
        let upstream = &self.shared.upstream;
        let rounds = ORDERED_ROUNDS * upstream.client.endpoints().len();
        let seen = self.seen();
        let whole = self.shared.namespace.range(request);
        for _ in 0..=rounds {
            let limit = upstream.recv_bytes_max;
            let mut response = upstream
                .call(caller, Policy::Repeatable, whole.clone(), |transport, request| async move {
                    KvClient::new(transport).max_decoding_message_size(limit).range(request).await
                })
                .await?;
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            if revision >= seen {
                self.see(revision);
                if let Some(leasing) = &self.shared.leasing {
                    leasing.see(response.header.as_ref());
                }
                self.shared.namespace.strip_range(&mut response);
                return Ok(response);
            }
        }
        Err(Status::unknown(
            "etcdclient: no cluster members have a revision higher than the previously received revision",
        ))
    }

    /// The revision that answers must not be behind; 0 where they may be.
    fn seen(&self) -> i64 {
        // The number alone is shared, so its order with other memory does not matter.
        self.shared.seen_revision.as_ref().map_or(0, |seen| seen.load(Ordering::Relaxed))
    }

    fn see(&self, revision: i64) {
        if let Some(seen) = &self.shared.seen_revision {
            seen.fetch_max(revision, Ordering::Relaxed);
        }
    }

    /// Learns the latest revision, where answers must not be behind what clients of an earlier proxy have seen. Waits for the cluster.
    pub(crate) async fn recover_order(&self) {
        if self.shared.seen_revision.is_none() {
            return;
        }
        tracing::info!("waiting for linearized read from cluster to recover ordering");
        let request = RangeRequest { key: "_".into(), keys_only: true, ..RangeRequest::default() };
        while let Err(status) = self.read(&Caller::default(), request.clone()).await {
            // A cluster with rights says nothing to a proxy, which has none.
            if status.code() == Code::InvalidArgument || status.code() == Code::PermissionDenied {
                return;
            }
            let error = status.message();
            tracing::warn!(error, "ordering recovery failed, retrying in 1s");
            tokio::time::sleep(ORDER_RETRY_PAUSE).await;
        }
    }

    fn publish_size(&self) {
        let size = i64::try_from(self.shared.cache.len()).unwrap_or(i64::MAX);
        self.shared.metrics.cache_keys.store(size, Ordering::Relaxed);
    }
}

/// Of a member that answers another question.
fn mismatch() -> Status {
    Status::internal("a member's answer is of another kind than the request")
}

/// All that a transaction may touch, whichever way it goes.
fn intervals(txn: &TxnRequest, into: &mut Vec<Interval>) {
    let interval =
        |key: &bytes::Bytes, end: &bytes::Bytes| Interval { key: key.clone(), end: end.clone() };
    // What is compared is what the client believes outdated.
    into.extend(txn.compare.iter().map(|compare| interval(&compare.key, &compare.range_end)));
    for RequestOp { request } in txn.success.iter().chain(&txn.failure) {
        match request {
            Some(Op::RequestPut(put)) => into.push(interval(&put.key, &bytes::Bytes::new())),
            Some(Op::RequestDeleteRange(delete)) => {
                into.push(interval(&delete.key, &delete.range_end));
            }
            Some(Op::RequestTxn(txn)) => intervals(txn, into),
            Some(Op::RequestRange(_)) | None => {}
        }
    }
}

#[tonic::async_trait]
impl Kv for Service {
    type RangeStreamStream = Empty<Result<RangeStreamResponse, Status>>;

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        if request.key.is_empty() {
            return Err(Error::EmptyKey.into());
        }
        let Shared { cache, metrics, leasing, .. } = self.shared.as_ref();
        if let Some(leasing) = leasing
            && let Some(response) = leasing.range(&caller, &request).await
        {
            self.see(response.header.as_ref().map_or(0, |header| header.revision));
            return Ok(Response::new(response));
        }
        let identity = caller.identity();
        if request.serializable {
            let found =
                cache.get(&identity, &request).inspect_err(|_| count(&metrics.cache_hits))?;
            let revision = |found: &RangeResponse| found.header.as_ref().map_or(0, |h| h.revision);
            if let Some(response) = found.filter(|found| revision(found) >= self.seen()) {
                count(&metrics.cache_hits);
                return Ok(Response::new(response));
            }
            count(&metrics.cache_misses);
        }
        let ticket = cache.ticket();
        let response = self.read(&caller, request.clone()).await?;
        cache.add(ticket, &identity, &request, &response);
        self.publish_size();
        Ok(Response::new(response))
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("RangeStream is not supported by the gRPC proxy"))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        if request.key.is_empty() {
            return Err(Error::EmptyKey.into());
        }
        let Shared { upstream, namespace, cache, .. } = self.shared.as_ref();
        let interval = Interval { key: request.key.clone(), end: bytes::Bytes::new() };
        let write = cache.write(vec![interval]);
        if let Some(leasing) = &self.shared.leasing {
            let written = leasing.write(&caller, Op::RequestPut(request)).await;
            drop(write);
            self.publish_size();
            return match written? {
                Some((header, Answer::ResponsePut(put))) => {
                    Ok(Response::new(PutResponse { header: Some(header), ..put }))
                }
                _ => Err(mismatch()),
            };
        }
        let limit = upstream.recv_bytes_max;
        let outcome = upstream
            .call(&caller, Policy::NonRepeatable, namespace.put(request), |transport, request| {
                let mut stub = KvClient::new(transport).max_decoding_message_size(limit);
                async move { stub.put(request).await }
            })
            .await;
        drop(write);
        self.publish_size();
        let mut response = outcome?;
        namespace.strip_put(&mut response);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        if request.key.is_empty() {
            return Err(Error::EmptyKey.into());
        }
        let Shared { upstream, namespace, cache, .. } = self.shared.as_ref();
        let interval = Interval { key: request.key.clone(), end: request.range_end.clone() };
        let write = cache.write(vec![interval]);
        if let Some(leasing) = &self.shared.leasing {
            let written = leasing.write(&caller, Op::RequestDeleteRange(request)).await;
            drop(write);
            self.publish_size();
            return match written? {
                Some((header, Answer::ResponseDeleteRange(deleted))) => {
                    Ok(Response::new(DeleteRangeResponse { header: Some(header), ..deleted }))
                }
                _ => Err(mismatch()),
            };
        }
        let limit = upstream.recv_bytes_max;
        let whole = namespace.delete(request);
        let outcome = upstream
            .call(&caller, Policy::NonRepeatable, whole, |transport, request| {
                let mut stub = KvClient::new(transport).max_decoding_message_size(limit);
                async move { stub.delete_range(request).await }
            })
            .await;
        drop(write);
        self.publish_size();
        let mut response = outcome?;
        namespace.strip_delete(&mut response);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let Shared { upstream, namespace, cache, .. } = self.shared.as_ref();
        if let Some(response) =
            self.shared.leasing.as_ref().and_then(|leasing| leasing.evaluate(&request))
        {
            self.see(response.header.as_ref().map_or(0, |header| header.revision));
            return Ok(Response::new(response));
        }
        let mut touched = Vec::new();
        intervals(&request, &mut touched);
        let write = cache.write(touched);
        if let Some(leasing) = &self.shared.leasing {
            let written = leasing.write(&caller, Op::RequestTxn(request.clone())).await;
            match written.inspect_err(|_| self.publish_size())? {
                Some((header, Answer::ResponseTxn(txn))) => {
                    drop(write);
                    self.publish_size();
                    self.see(header.revision);
                    return Ok(Response::new(TxnResponse { header: Some(header), ..txn }));
                }
                Some(_) => return Err(mismatch()),
                // It only reads.
                None => {}
            }
        }
        let limit = upstream.recv_bytes_max;
        let outcome = upstream
            .call(&caller, Policy::NonRepeatable, namespace.txn(request), |transport, request| {
                let mut stub = KvClient::new(transport).max_decoding_message_size(limit);
                async move { stub.txn(request).await }
            })
            .await;
        drop(write);
        self.publish_size();
        let mut response = outcome?;
        self.see(response.header.as_ref().map_or(0, |header| header.revision));
        namespace.strip_txn(&mut response);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let revision = request.revision;
        let upstream = &self.shared.upstream;
        let response = upstream
            .call(&caller, Policy::NonRepeatable, request, |transport, request| async move {
                KvClient::new(transport).compact(request).await
            })
            .await?;
        self.shared.cache.compact(revision);
        self.publish_size();
        Ok(Response::new(response))
    }
}
