//! The calls of clients, as the protocol has them made.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::prefix_end;
use client::retry::Policy;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;
use rpc::etcdserverpb::kv_client::KvClient;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::AbortHandle;
use tonic::{Code, Status};

use super::keys::{Acquisition, Effect, Keys, Owned, Read, Writing};
use super::session;
use crate::cache::Interval;
use crate::namespace::Namespace;
use crate::upstream::{Caller, Upstream};

/// What a lease key holds whose owner is to give it up.
pub(super) const REVOKE: &[u8] = b"REVOKE";

/// How long the deletion of a revoked lease key is waited for until the cluster is asked again, with a watch and without.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_BLIND: Duration = Duration::from_millis(100);

/// Intervals that are guarded one by one. More become one interval around all of them: members take 128 comparisons. So do fewer where
/// members are told to take fewer (`--max-txn-ops`).
const GUARDS_MAX: usize = 64;

/// Lease keys that are listed at once.
const LISTED_MAX: i64 = 1000;

/// Deletions that a slow waiter may be behind; one that is further behind asks the cluster.
const DELETIONS_MAX: usize = 1024;

/// A leasing client. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Leasing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) upstream: Upstream,
    pub(super) namespace: Namespace,
    /// The prefix of lease keys, as a namespace.
    pub(super) below: Namespace,
    pub(super) prefix: Bytes,
    /// Held for a look or a change only.
    keys: Mutex<Keys>,
    /// There are lease keys to delete.
    pub(super) releasing: Notify,
    /// The lease is found to be gone.
    pub(super) lease_lost: Notify,
    /// Keys whose lease keys are deleted, by whomever.
    pub(super) deletions: broadcast::Sender<Bytes>,
}

impl Shared {
    pub(super) fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a transaction; keys in and out are without namespace.
    pub(super) async fn txn(
        &self,
        caller: &Caller,
        policy: Policy,
        txn: TxnRequest,
    ) -> Result<TxnResponse, Status> {
        let limit = self.upstream.recv_bytes_max;
        let mut response = self
            .upstream
            .call(caller, policy, self.namespace.txn(txn), |transport, request| {
                let mut stub = KvClient::new(transport).max_decoding_message_size(limit);
                async move { stub.txn(request).await }
            })
            .await?;
        self.namespace.strip_txn(&mut response);
        Ok(response)
    }

    /// Reads lease keys.
    async fn list(&self, caller: &Caller, request: RangeRequest) -> Result<RangeResponse, Status> {
        let limit = self.upstream.recv_bytes_max;
        let mut response = self
            .upstream
            .call(
                caller,
                Policy::Repeatable,
                self.namespace.range(request),
                |transport, request| {
                    let mut stub = KvClient::new(transport).max_decoding_message_size(limit);
                    async move { stub.range(request).await }
                },
            )
            .await?;
        self.namespace.strip_range(&mut response);
        Ok(response)
    }

    /// Gives up what is to be given up.
    fn wake(&self, has_releases: bool) {
        if has_releases {
            self.releasing.notify_one();
        }
    }
}

impl Leasing {
    /// Starts the task that keeps a session, and waits until it has one or is refused.
    pub(crate) async fn start(
        upstream: &Upstream,
        namespace: &Namespace,
        prefix: &str,
    ) -> (Self, AbortHandle) {
        let prefix = Bytes::from(prefix.to_owned());
        let shared = Arc::new(Shared {
            upstream: upstream.clone(),
            namespace: namespace.clone(),
            below: Namespace::new(prefix.clone()),
            keys: Mutex::new(Keys::new(prefix.clone())),
            prefix,
            releasing: Notify::new(),
            lease_lost: Notify::new(),
            deletions: broadcast::Sender::new(DELETIONS_MAX),
        });
        let (sender, mut has_tried) = watch::channel(false);
        let task = tokio::spawn(session::run(Arc::clone(&shared), sender)).abort_handle();
        // It can only be gone with the whole proxy.
        let _ = has_tried.wait_for(|has_tried| *has_tried).await;
        (Self { shared }, task)
    }

    /// Learns how far the cluster is from an answer that others got.
    pub(crate) fn see(&self, header: Option<&ResponseHeader>) {
        self.shared.keys().see(header);
    }

    /// Answers a range from memory, or asks for the key and its ownership; `None` where the range is to be asked for as it is.
    pub(crate) async fn range(
        &self,
        caller: &Caller,
        request: &RangeRequest,
    ) -> Option<RangeResponse> {
        let read = self.shared.keys().read(request, Instant::now());
        let (lease, ticket) = match read {
            Read::Answer(response) => return Some(response),
            Read::Acquire { lease, ticket } => (lease, ticket),
            Read::Pass => {
                self.wake();
                return None;
            }
        };
        let acquiring = Acquiring { leasing: self, ticket: Some(ticket) };
        let key = &request.key;
        let lease_key = self.shared.below.key(key);
        let get = |key: &Bytes| op(Op::RequestRange(one(key.clone())));
        let put = PutRequest { key: lease_key.clone(), lease, ..PutRequest::default() };
        let lease_of_key = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Lease.into(),
            target_union: Some(TargetUnion::Lease(0)),
            key: key.clone(),
            range_end: Bytes::new(),
        };
        let absent = created(CompareResult::Equal, lease_key.clone(), Bytes::new(), 0);
        let txn = TxnRequest {
            compare: vec![absent, lease_of_key],
            success: vec![get(key), op(Op::RequestPut(put))],
            failure: vec![get(key), get(&lease_key)],
        };
        let response = match self.shared.txn(caller, Policy::NonRepeatable, txn).await {
            Ok(response) => response,
            Err(status) => {
                let error = client::Error::from(status);
                let is_current = self.shared.keys().lease(Instant::now()) == Some(lease);
                if is_current && error.etcd() == Some(rpc::errors::Error::LeaseNotFound) {
                    self.shared.lease_lost.notify_one();
                }
                // A read of the key alone may succeed, where there is no room for a lease key for example, or fails with the error of a read.
                return None;
            }
        };
        let header = response.header;
        let mut answers = response.responses.into_iter().map(|op| op.response);
        let Some(Answer::ResponseRange(found)) = answers.next()? else { return None };
        let content = found.kvs.into_iter().next();
        let revision = match (response.succeeded, answers.next().flatten()) {
            (true, _) => header.map(|header| header.revision),
            (false, Some(Answer::ResponseRange(leases))) => leases
                .kvs
                .first()
                .filter(|pair| pair.lease == lease && pair.value != REVOKE)
                .map(|pair| pair.create_revision),
            (false, _) => None,
        };
        let owned = revision.map(|revision| Owned { revision, content: content.clone() });
        let response = super::keys::answer(request, &content, header);
        acquiring.over(header, owned);
        Some(response)
    }

    /// Answers a transaction from memory.
    pub(crate) fn evaluate(&self, txn: &TxnRequest) -> Option<TxnResponse> {
        self.shared.keys().evaluate(txn, Instant::now())
    }

    /// Writes, when nobody else owns what is written. `None` if it writes nothing, or names no key: it may pass.
    pub(crate) async fn write(
        &self,
        caller: &Caller,
        request: Op,
    ) -> Result<Option<(ResponseHeader, Answer)>, Status> {
        let mut intervals = Vec::new();
        written(&request, &mut intervals);
        // Members refuse what names no key.
        if intervals.is_empty() || intervals.iter().any(|interval| interval.key.is_empty()) {
            return Ok(None);
        }
        let intervals = bounded(intervals, GUARDS_MAX);
        let mut write = Write::begin(self, intervals);
        loop {
            let (compare, failure) = self.guards(caller, write.intervals()).await?;
            let txn = TxnRequest { compare, success: vec![op(request.clone())], failure };
            let mut revocation = Revocation::begin(&self.shared);
            write.is_sent = true;
            let response = match self.shared.txn(caller, Policy::NonRepeatable, txn).await {
                Ok(response) => response,
                Err(status) => {
                    write.is_sent = !is_refusal(status.code());
                    // Members may take fewer than is usual, and the guards count as well as what is inside.
                    if write.intervals().len() > 1 && is_too_many_ops(&status) {
                        let around = bounded(write.intervals().to_vec(), 1);
                        drop(write);
                        write = Write::begin(self, around);
                        continue;
                    }
                    return Err(status);
                }
            };
            let TxnResponse { header, succeeded, responses } = response;
            let header = header.unwrap_or_default();
            if succeeded {
                let Some(answer) = responses.into_iter().next().and_then(|op| op.response) else {
                    return Err(Status::internal("a member's answer has no response"));
                };
                let mut effects = Vec::new();
                effects_of(&request, &answer, &mut effects);
                write.over(&header, &effects);
                return Ok(Some((header, answer)));
            }
            write.is_sent = false;
            for ResponseOp { response } in responses {
                let Some(Answer::ResponseRange(leases)) = response else { continue };
                revocation.ask(caller, leases.kvs).await?;
            }
            revocation.wait().await;
        }
    }

    /// What must hold when these intervals are written, and what is read where it does not: the lease keys. Lease keys of others in
    /// intervals of more than one key are revoked.
    async fn guards(
        &self,
        caller: &Caller,
        intervals: &[Interval],
    ) -> Result<(Vec<Compare>, Vec<RequestOp>), Status> {
        let (mut compare, mut failure) = (Vec::new(), Vec::new());
        for interval in intervals {
            let lease_key = self.shared.below.key(&interval.key);
            let end = self.shared.below.end(&interval.end);
            let limit = if end.is_empty() {
                failure.push(op(Op::RequestRange(one(lease_key.clone()))));
                self.shared.keys().guard(&interval.key)
            } else {
                self.revoke_range(caller, &lease_key, &end).await?
            };
            let limit = limit.saturating_add(1);
            compare.push(created(CompareResult::Less, lease_key, end, limit));
        }
        Ok((compare, failure))
    }

    /// Revokes what others own in an interval of lease keys, until nothing is found there that is not held here. Returns a revision: of
    /// the lease keys that are there now, those that were created by then are held here. Whose owner is gone is there until its lease
    /// ends, so the caller's patience is the limit.
    async fn revoke_range(
        &self,
        caller: &Caller,
        start: &Bytes,
        end: &Bytes,
    ) -> Result<i64, Status> {
        loop {
            let mut revocation = Revocation::begin(&self.shared);
            let mut request = RangeRequest {
                key: start.clone(),
                range_end: end.clone(),
                limit: LISTED_MAX,
                ..RangeRequest::default()
            };
            // Of the first page. Later ones are read later: what is created in between has a later revision, wherever it is.
            let mut revision = None;
            loop {
                let page = self.shared.list(caller, request.clone()).await?;
                let of_page = page.header.map_or(0, |header| header.revision);
                revision.get_or_insert(of_page);
                let last = page.kvs.last().map(|pair| pair.key.clone());
                revocation.ask(caller, page.kvs).await?;
                match last.filter(|_| page.more) {
                    Some(last) => request.key = [last.as_ref(), &[0]].concat().into(),
                    None => break,
                }
            }
            if let Some(revision) = revision.filter(|_| revocation.found_none()) {
                return Ok(revision);
            }
            revocation.wait().await;
        }
    }

    fn wake(&self) {
        let has_releases = self.shared.keys().has_releases();
        self.shared.wake(has_releases);
    }
}

/// Lease keys that others are to give up.
struct Revocation<'a> {
    shared: &'a Shared,
    /// Since before they were found, so that no deletion is missed.
    deletions: broadcast::Receiver<Bytes>,
    /// Keys whose lease keys were found.
    found: BTreeSet<Bytes>,
}

impl<'a> Revocation<'a> {
    /// Must begin before the lease keys are looked for.
    fn begin(shared: &'a Shared) -> Self {
        Self { shared, deletions: shared.deletions.subscribe(), found: BTreeSet::new() }
    }

    /// Asks the owners of those lease keys that are not held here.
    async fn ask(&mut self, caller: &Caller, leases: Vec<KeyValue>) -> Result<(), Status> {
        for lease in leases {
            let mut key = lease.key.clone();
            self.shared.below.strip(&mut key);
            if self.shared.keys().guard(&key) == lease.create_revision {
                continue;
            }
            self.found.insert(key);
            if lease.value == REVOKE {
                continue;
            }
            let put = PutRequest {
                key: lease.key.clone(),
                value: Bytes::from_static(REVOKE),
                ignore_lease: true,
                ..PutRequest::default()
            };
            let is_same =
                created(CompareResult::Equal, lease.key, Bytes::new(), lease.create_revision);
            let txn = TxnRequest {
                compare: vec![is_same],
                success: vec![op(Op::RequestPut(put))],
                failure: Vec::new(),
            };
            // To ask twice does no harm. Where it is another by now, the next look shows it.
            self.shared.txn(caller, Policy::Repeatable, txn).await?;
        }
        Ok(())
    }

    fn found_none(&self) -> bool {
        self.found.is_empty()
    }

    /// Waits until all that was found has been deleted, but only so long: then it is time to look again. It is in any case, since an
    /// earlier lease key of the same name may have been the deleted one.
    async fn wait(mut self) {
        let has_watch = self.shared.keys().lease(Instant::now()).is_some();
        let limit = if has_watch { WAIT } else { WAIT_BLIND };
        let deleted = async {
            while !self.found.is_empty() {
                match self.deletions.recv().await {
                    Ok(key) => {
                        self.found.remove(&key);
                    }
                    // Too far behind.
                    Err(_) => return tokio::time::sleep(WAIT_BLIND).await,
                }
            }
        };
        let _ = tokio::time::timeout(limit, deleted).await;
    }
}

/// An acquisition under way, which its client may leave.
struct Acquiring<'a> {
    leasing: &'a Leasing,
    ticket: Option<Acquisition>,
}

impl Acquiring<'_> {
    fn over(mut self, header: Option<ResponseHeader>, owned: Option<Owned>) {
        let Some(ticket) = self.ticket.take() else { return };
        {
            let mut keys = self.leasing.shared.keys();
            keys.see(header.as_ref());
            keys.acquired(ticket, owned, Instant::now());
        }
        self.leasing.wake();
    }
}

impl Drop for Acquiring<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            self.leasing.shared.keys().perhaps_acquired(ticket);
        }
    }
}

/// A write under way, which its client may leave.
struct Write<'a> {
    leasing: &'a Leasing,
    writing: Option<Writing>,
    /// A member may have it.
    is_sent: bool,
}

impl<'a> Write<'a> {
    fn begin(leasing: &'a Leasing, intervals: Vec<Interval>) -> Self {
        let writing = leasing.shared.keys().write(intervals);
        Self { leasing, writing: Some(writing), is_sent: false }
    }

    fn intervals(&self) -> &[Interval] {
        self.writing.as_ref().map_or(&[], Writing::intervals)
    }

    fn over(mut self, header: &ResponseHeader, effects: &[Effect]) {
        let Some(writing) = self.writing.take() else { return };
        {
            let mut keys = self.leasing.shared.keys();
            keys.see(Some(header));
            keys.written(writing, header.revision, effects);
        }
        self.leasing.wake();
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        if self.is_sent {
            self.leasing.shared.keys().perhaps_written(writing);
            self.leasing.wake();
        } else {
            self.leasing.shared.keys().not_written(writing);
        }
    }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn one(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// Compares create revisions.
pub(super) fn created(
    result: CompareResult,
    key: Bytes,
    range_end: Bytes,
    revision: i64,
) -> Compare {
    Compare {
        result: result.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end,
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

/// Whether an error says that nothing was written.
fn is_refusal(code: Code) -> bool {
    // Not all: of `ResourceExhausted` is also an answer that is too large.
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

fn is_too_many_ops(status: &Status) -> bool {
    client::Error::from(status.clone()).etcd() == Some(rpc::errors::Error::TooManyOps)
}

/// All that a request may write, whichever way it goes.
fn written(request: &Op, into: &mut Vec<Interval>) {
    match request {
        Op::RequestRange(_) => {}
        Op::RequestPut(put) => into.push(Interval { key: put.key.clone(), end: Bytes::new() }),
        Op::RequestDeleteRange(delete) => {
            into.push(Interval { key: delete.key.clone(), end: delete.range_end.clone() });
        }
        Op::RequestTxn(txn) => {
            for op in txn.success.iter().chain(&txn.failure) {
                if let Some(request) = &op.request {
                    written(request, into);
                }
            }
        }
    }
}

/// Each interval once, or a single one around all of them where there are more than `limit`.
pub(super) fn bounded(mut intervals: Vec<Interval>, limit: usize) -> Vec<Interval> {
    intervals.sort_unstable_by(|a, b| (&a.key, &a.end).cmp(&(&b.key, &b.end)));
    intervals.dedup();
    if intervals.len() <= limit {
        return intervals;
    }
    let key = intervals.first().map(|first| first.key.clone()).unwrap_or_default();
    let end_of = |interval: Interval| match interval.end.as_ref() {
        b"" => Bytes::from([interval.key.as_ref(), &[0]].concat()),
        _ => interval.end,
    };
    let is_endless = intervals.iter().any(|interval| interval.end.as_ref() == b"\0");
    let last = intervals.into_iter().map(end_of).max().unwrap_or_default();
    let end = if is_endless { prefix_end(&[]) } else { last };
    vec![Interval { key, end }]
}

/// What a request has done that was answered so.
fn effects_of(request: &Op, answer: &Answer, into: &mut Vec<Effect>) {
    match (request, answer) {
        (Op::RequestPut(put), _) => into.push(Effect::Put {
            key: put.key.clone(),
            value: (!put.ignore_value).then(|| put.value.clone()),
            lease: (!put.ignore_lease).then_some(put.lease),
        }),
        (Op::RequestDeleteRange(delete), _) => {
            let (key, end) = (delete.key.clone(), delete.range_end.clone());
            into.push(Effect::Delete(Interval { key, end }));
        }
        (Op::RequestTxn(txn), Answer::ResponseTxn(response)) => {
            let branch = if response.succeeded { &txn.success } else { &txn.failure };
            for (op, response) in branch.iter().zip(&response.responses) {
                if let (Some(request), Some(answer)) = (&op.request, &response.response) {
                    effects_of(request, answer, into);
                }
            }
        }
        (Op::RequestRange(_) | Op::RequestTxn(_), _) => {}
    }
}
