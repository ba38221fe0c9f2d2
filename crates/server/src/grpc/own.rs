//! The member's own KV, Lease and Watch, called for a client: what locks and elections are made of.
//!
//! The calls go through the same services as the network's, with the metadata and the connection's facts of the client's own call. So
//! whoever may not touch a key may not lock it either, and nothing but ordinary keys and leases is replicated.
//!
//! Both kinds of service queue candidates up in the same way ([`Candidate`]): everyone has a key below a common prefix, named
//! after their lease, and the oldest key is in possession.
//!
//! Upstream: `client/v3/concurrency` and `server/etcdserver/api/v3client` (3.5).

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseKeepAliveRequest,
    PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use proto::mvccpb::event::EventType;
use rpc::errors::Error;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::lease_client::LeaseClient;
use rpc::etcdserverpb::watch_client::WatchClient;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Status, Streaming};

use super::services::Services;

/// Time to live of the lease that a call without one gets, in seconds. It is not kept alive.
const LEASE_TTL_SECONDS: i64 = 60;

/// Headers of the client's call that describe its own message, and not the client.
const OF_THE_MESSAGE: &[&str] =
    &["content-length", "grpc-encoding", "grpc-accept-encoding", "grpc-timeout"];

/// The services.
#[derive(Debug, Clone)]
pub(super) struct Own(Services);

impl Own {
    pub(super) fn new(services: Services) -> Self {
        Self(services)
    }

    /// Takes a client's call apart: who calls, and what for.
    pub(super) fn caller<T>(&self, request: Request<T>) -> (Caller, T) {
        let (metadata, extensions, message) = request.into_parts();
        let mut headers = metadata.into_headers();
        for name in OF_THE_MESSAGE {
            headers.remove(*name);
        }
        let metadata = MetadataMap::from_headers(headers);
        (Caller { services: self.0.clone(), metadata, extensions }, message)
    }
}

/// The services in the name of one client. Errors are as etcd's own client inside of the server has them, see [`as_a_client_does`].
#[derive(Debug, Clone)]
pub(super) struct Caller {
    services: Services,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Caller {
    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// The KV service; its answers may be of any size.
    fn kv(&self) -> KvClient<Services> {
        KvClient::new(self.services.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let answer = self.kv().range(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(as_a_client_does)
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let answer = self.kv().txn(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(as_a_client_does)
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let answer = self.kv().delete_range(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(as_a_client_does)
    }

    pub(super) async fn watch(
        &self,
        request: WatchCreateRequest,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
        let mut client =
            WatchClient::new(self.services.clone()).max_decoding_message_size(usize::MAX);
        let answers = client.watch(self.request(tokio_stream::once(create))).await;
        answers.map(tonic::Response::into_inner).map_err(as_a_client_does)
    }

    /// The lease of a session: the given one, renewed once, or a new one.
    pub(super) async fn lease(&self, given: i64) -> Result<i64, Status> {
        let mut client = LeaseClient::new(self.services.clone());
        if given == 0 {
            let request = LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: 0 };
            let granted = client.lease_grant(self.request(request)).await;
            return granted.map(|granted| granted.into_inner().id).map_err(as_a_client_does);
        }
        // A lease that is not there shows when a key is to be put under it; nobody waits for the renewal.
        let mut renewal = self.request(tokio_stream::once(LeaseKeepAliveRequest { id: given }));
        // In etcd a task of the session's own renews it, which is no part of the call.
        renewal.extensions_mut().remove::<otlp::Parent>();
        tokio::spawn(async move {
            match client.lease_keep_alive(renewal).await {
                Ok(mut answers) => drop(answers.get_mut().message().await),
                Err(error) => tracing::debug!(error = error.message(), "cannot renew the lease"),
            }
        });
        Ok(given)
    }

    /// Puts a candidate's key in a transaction whose first operation finds the key instead if the candidate has one. It goes on if this
    /// call is given up meanwhile; a key that was put then goes again.
    pub(super) async fn join(
        &self,
        prefix: Bytes,
        key: Bytes,
        request: TxnRequest,
    ) -> Result<(TxnResponse, Candidate), Status> {
        let caller = self.clone();
        let joining = tokio::spawn(async move {
            let joined = caller.txn(request).await?;
            let revision = match found_by(&joined, 0) {
                [kv, ..] if !joined.succeeded => kv.create_revision,
                _ => revision_of(joined.header.as_ref()),
            };
            let is_withdrawn = joined.succeeded;
            let candidate = Candidate { caller, prefix, key, revision, is_withdrawn };
            Ok((joined, candidate))
        });
        joining.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }

    /// The oldest key below a prefix.
    pub(super) async fn oldest(&self, prefix: &[u8]) -> Result<RangeResponse, Status> {
        self.range(oldest_below(prefix)).await
    }

    /// Waits until there is no key below the prefix that was created at `revision` or before.
    async fn wait_for_older(&self, prefix: &[u8], revision: i64) -> Result<(), Status> {
        loop {
            // The newest of them is the last to go, if they all go in their turn.
            let found = self
                .range(RangeRequest {
                    sort_order: SortOrder::Descend.into(),
                    max_create_revision: revision,
                    ..oldest_below(prefix)
                })
                .await?;
            let Some(kv) = found.kvs.into_iter().next() else { return Ok(()) };
            self.wait_until_deleted(kv.key, revision_of(found.header.as_ref())).await?;
        }
    }

    /// Waits until a key that was there at `revision` is deleted, or until its history is gone and the caller must look again.
    async fn wait_until_deleted(&self, key: Bytes, revision: i64) -> Result<(), Status> {
        let request =
            WatchCreateRequest { key, start_revision: revision, ..WatchCreateRequest::default() };
        let mut answers = self.watch(request).await?;
        while let Some(answer) = answers.message().await.map_err(as_a_client_does)? {
            let is_deleted = |event: &proto::mvccpb::Event| event.r#type() == EventType::Delete;
            if answer.compact_revision != 0 || answer.events.iter().any(is_deleted) {
                return Ok(());
            }
            if answer.canceled {
                return Err(Status::unknown(answer.cancel_reason));
            }
        }
        Err(Status::unknown("lost watcher waiting for delete"))
    }
}

/// One who waits for its turn, or has it; made by [`Caller::join`]. A key that was put for it goes with this value, until
/// [`Candidate::stay`].
#[derive(Debug)]
pub(super) struct Candidate {
    caller: Caller,
    prefix: Bytes,
    /// The key of this candidate.
    pub(super) key: Bytes,
    /// Its creation.
    pub(super) revision: i64,
    /// Whether the key goes when this value does.
    is_withdrawn: bool,
}

impl Candidate {
    /// Waits for the turn of this candidate. If its client goes away, which ends the call at this await or a later one, its key goes
    /// too, also one that it had before.
    pub(super) async fn wait(&mut self) -> Result<(), Status> {
        self.is_withdrawn = true;
        self.caller.wait_for_older(&self.prefix, self.revision - 1).await
    }

    /// Leaves the key where it is, with the end of this value too.
    pub(super) fn stay(mut self) {
        self.is_withdrawn = false;
    }

    /// Withdraws with the end of this value.
    pub(super) fn withdraw(mut self) {
        self.is_withdrawn = true;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if !self.is_withdrawn {
            return;
        }
        // Without a runtime the member has stopped, and the lease will end it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let caller = self.caller.clone();
        let request = TxnRequest {
            compare: vec![created_at(self.key.clone(), self.revision)],
            success: vec![delete_op(self.key.clone())],
            failure: Vec::new(),
        };
        runtime.spawn(async move {
            if let Err(error) = caller.txn(request).await {
                tracing::warn!(error = error.message(), "failed to withdraw a candidate's key");
            }
        });
    }
}

/// The prefix of a name's keys.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    Bytes::from([name, b"/"].concat())
}

/// The key below a prefix that belongs to a lease.
pub(super) fn key_of(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    Bytes::from([prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat())
}

/// The end of the range of keys below a prefix, which ends in a byte that can be raised.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    Bytes::from(end)
}

/// Asks for the oldest key below a prefix.
pub(super) fn oldest_below(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

/// Whether a key was created at this revision; at 0, whether it is not there.
pub(super) fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

pub(super) fn put_op(key: Bytes, value: Bytes, lease: i64) -> RequestOp {
    let request = PutRequest { key, value, lease, ..PutRequest::default() };
    RequestOp { request: Some(Op::RequestPut(request)) }
}

pub(super) fn range_op(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Op::RequestRange(request)) }
}

pub(super) fn delete_op(key: Bytes) -> RequestOp {
    let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
    RequestOp { request: Some(Op::RequestDeleteRange(request)) }
}

/// The pairs that one range of a transaction found; nothing if that operation was no range.
pub(super) fn found_by(response: &TxnResponse, op: usize) -> &[proto::mvccpb::KeyValue] {
    use proto::etcdserverpb::response_op::Response;
    match response.responses.get(op).and_then(|response| response.response.as_ref()) {
        Some(Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

pub(super) fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// The status that a client is told: etcd's client inside of the server makes plain texts of the errors that it knows, and those
/// go out with the code `Unknown`.
fn as_a_client_does(status: Status) -> Status {
    if Error::from_message(status.message()).is_some() {
        Status::new(Code::Unknown, status.message())
    } else {
        status
    }
}

#[cfg(test)]
mod tests;
