//! Calls that took long: etcd's `request stats`, with `--log-level=debug` for every call.
//!
//! Only calls with one answer are looked at; streams last as long as their clients like. As in etcd, sizes and contents are told
//! of ranges, puts, deletions and transactions, which look after themselves ([`Call`]); all others pass through the layer
//! here and are told with -1. What is kept of a request until its answer is there holds its keys but not its values: those
//! would be in memory for longer than they are needed.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use tonic::service::Routes;

use crate::access::ConnectionInfo;
use crate::request::Core;
use crate::told::{self, Form, go_duration};
use crate::version::Version;

/// Methods that answer with a stream, and those that look after themselves.
const OTHERS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.KV/RangeStream",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
];

/// The routes, looked at.
pub(crate) fn watched(core: &Arc<Core>, routes: Routes) -> Routes {
    Routes::from(routes.into_axum_router().layer(Layer { core: Arc::clone(core) }))
}

#[derive(Debug, Clone)]
struct Layer {
    core: Arc<Core>,
}

impl<S> tower_layer::Layer<S> for Layer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, core: Arc::clone(&self.core) }
    }
}

#[derive(Debug, Clone)]
struct Timed<S> {
    inner: S,
    core: Arc<Core>,
}

impl<S> tower_service::Service<Request> for Timed<S>
where
    S: tower_service::Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let path = request.uri().path();
        let is_other = OTHERS.contains(&path);
        let call = (!is_other).then(|| Call::begin(&self.core, "", request.extensions()));
        let is_kept = !is_other || tracing::enabled!(tracing::Level::DEBUG);
        let path = if is_kept { request.uri().path_and_query().cloned() } else { None };
        Answering { answer: Box::pin(self.inner.call(request)), call, path }
    }
}

struct Answering<F> {
    answer: Pin<Box<F>>,
    call: Option<Call>,
    /// Of a call that there may be something to tell of.
    path: Option<http::uri::PathAndQuery>,
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Answering<F> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answer.as_mut().poll(context));
        if let Some(path) = self.path.take() {
            if let Ok(answer) = &answer {
                tell_refusal(path.path(), answer);
            }
            if let Some(call) = self.call.take() {
                call.end_at(path.path(), |_| Stats::UNKNOWN);
            }
        }
        Poll::Ready(answer)
    }
}

/// With debug, tells of a call that was answered with an error.
fn tell_refusal(path: &str, answer: &Response) {
    if tracing::enabled!(tracing::Level::DEBUG)
        && let Some(status) = tonic::Status::from_header_map(answer.headers())
        && status.code() != tonic::Code::Ok
    {
        tracing::debug!(
            method = path,
            code = ?status.code(),
            error = status.message(),
            "refused a call"
        );
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct Call {
    path: &'static str,
    remote: Option<std::net::SocketAddr>,
    start: Instant,
    limit: Duration,
    version: Version,
    /// The time that a range waited until it could be read here.
    pub(super) agreement: Option<Duration>,
}

impl Call {
    /// From now on.
    pub(super) fn begin(core: &Core, path: &'static str, extensions: &http::Extensions) -> Self {
        Self {
            path,
            remote: extensions.get::<ConnectionInfo>().and_then(|connection| connection.remote),
            start: Instant::now(),
            limit: core.config.warning_unary_request_duration,
            version: core.version,
            agreement: None,
        }
    }

    /// Tells of it, if it took long.
    pub(super) fn end(self, stats: impl FnOnce(Form) -> Stats) {
        let path = self.path;
        self.end_at(path, stats);
    }

    fn end_at(self, path: &str, stats: impl FnOnce(Form) -> Stats) {
        let took = self.start.elapsed();
        let tells_all = tracing::enabled!(tracing::Level::DEBUG);
        let is_slow = took > self.limit;
        let is_traced = took > told::TRACE_AFTER;
        if !is_slow && !is_traced && !tells_all {
            return;
        }
        let stats = stats(Form::of(self.version));
        if let Some((operation, detail)) = stats.trace.as_ref().filter(|_| is_traced) {
            let raft = [("process raft request", took)];
            let read = self.agreement.map(|agreement| {
                [
                    ("agreement among raft nodes before linearized reading", agreement),
                    ("range keys from bolt db", took.saturating_sub(agreement)),
                ]
            });
            let steps = read.as_ref().map_or(&raft[..], |steps| &steps[..]);
            told::Trace { operation, detail, took, steps }.tell(self.version);
        }
        if !is_slow && !tells_all {
            return;
        }
        let began = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        let unix = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let remote = self.remote.map(|address| address.to_string()).unwrap_or_default();
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    "start time" = told::utc(unix),
                    "time spent" = go_duration(took),
                    remote,
                    "response type" = path,
                    "request count" = stats.request_count,
                    "request size" = stats.request_bytes,
                    "response count" = stats.response_count,
                    "response size" = stats.response_bytes,
                    "request content" = stats.content,
                    "request stats"
                )
            };
        }
        // Either way it is one line.
        if tells_all { tell!(debug) } else { tell!(warn) }
    }
}

/// What etcd tells of a call: counts and sizes in bytes, -1 where it does not know them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stats {
    request_count: i64,
    request_bytes: i64,
    response_count: i64,
    response_bytes: i64,
    content: String,
    /// What etcd calls it where it traces it, and the trace's detail.
    trace: Option<(&'static str, Vec<(&'static str, String)>)>,
}

impl Stats {
    const UNKNOWN: Self = Self {
        request_count: -1,
        request_bytes: -1,
        response_count: -1,
        response_bytes: -1,
        content: String::new(),
        trace: None,
    };

    /// A range, and its answer as it is sent.
    pub(super) fn of_range(asked: &RangeRequest, answered: Option<&Bytes>, form: Form) -> Self {
        let answer = answered.and_then(|bytes| RangeResponse::decode(bytes.clone()).ok());
        let mut detail = vec![
            ("range_begin", told::shown_key(&asked.key)),
            ("range_end", told::shown_key(&asked.range_end)),
        ];
        if let Some(answer) = &answer {
            detail.push(("response_count", answer.kvs.len().to_string()));
            detail.push(revision(answer.header.as_ref()));
        }
        Self {
            trace: Some(("range", detail)),
            request_count: 0,
            request_bytes: bytes(asked.encoded_len()),
            response_count: answer.map_or(0, |answer| answer.count),
            response_bytes: answered.map_or(0, |answer| bytes(answer.len())),
            content: told::range(asked, form),
        }
    }

    pub(super) fn of_put(asked: &PutRequest, answered: Option<&PutResponse>, _: Form) -> Self {
        let mut detail = vec![
            ("key", told::shown_key(&asked.key)),
            ("req_size", asked.encoded_len().to_string()),
        ];
        detail.extend(answered.map(|answer| revision(answer.header.as_ref())));
        Self {
            trace: Some(("put", detail)),
            request_count: 1,
            request_bytes: bytes(asked.encoded_len()),
            response_count: 0,
            response_bytes: answered.map_or(0, |answer| bytes(answer.encoded_len())),
            content: told::put(asked),
        }
    }

    pub(super) fn of_delete_range(
        asked: &DeleteRangeRequest,
        answered: Option<&DeleteRangeResponse>,
        form: Form,
    ) -> Self {
        Self {
            trace: None,
            request_count: 0,
            request_bytes: bytes(asked.encoded_len()),
            response_count: answered.map_or(0, |answer| answer.deleted),
            response_bytes: answered.map_or(0, |answer| bytes(answer.encoded_len())),
            content: told::delete_range(asked, form),
        }
    }

    /// A transaction: what counts of it is the branch that was taken.
    pub(super) fn of_txn(asked: &TxnRequest, answered: Option<&TxnResponse>, form: Form) -> Self {
        let Some(answer) = answered else {
            return Self {
                request_count: 0,
                request_bytes: 0,
                response_count: 0,
                response_bytes: 0,
                content: String::new(),
                trace: None,
            };
        };
        let taken = if answer.succeeded { &asked.success } else { &asked.failure };
        let detail = vec![
            ("number_of_response", answer.responses.len().to_string()),
            revision(answer.header.as_ref()),
        ];
        Self {
            trace: Some(("transaction", detail)),
            request_count: bytes(taken.len()),
            request_bytes: bytes(taken.iter().map(RequestOp::encoded_len).sum()),
            response_count: 0,
            response_bytes: bytes(answer.encoded_len()),
            content: told::txn(asked, form),
        }
    }
}

fn revision(header: Option<&ResponseHeader>) -> (&'static str, String) {
    ("response_revision", header.map_or(0, |header| header.revision).to_string())
}

fn bytes(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The answer to a range, as the line about a slow one has it.
pub(super) fn range_response(answer: &Bytes) -> String {
    let pairs = RangeResponse::decode(answer.clone()).map_or(0, |answer| answer.kvs.len());
    format!("range_response_count:{pairs} size:{}", answer.len())
}

/// The answer to a transaction that only reads, likewise.
pub(super) fn txn_response(answer: &TxnResponse) -> String {
    let counts: Vec<String> = answer
        .responses
        .iter()
        .filter_map(|response| match &response.response {
            Some(Answer::ResponseRange(range)) => {
                Some(format!("range_response_count:{}", range.kvs.len()))
            }
            Some(_) | None => None,
        })
        .collect();
    format!("responses:<{}> size:{}", counts.join(" "), answer.encoded_len())
}

/// Stands for values of up to this size. Nobody writes it, and hardly anybody reads it: it takes no memory.
static NOTHING: [u8; 2 * 1024 * 1024] = [0; 2 * 1024 * 1024];

/// A value of the same size. Those larger than any usual limit on requests are kept.
fn hollow(value: &Bytes) -> Bytes {
    NOTHING.get(..value.len()).map_or_else(|| value.clone(), Bytes::from_static)
}

/// The put without its value, of the same size.
pub(super) fn hollow_put(put: &PutRequest) -> PutRequest {
    PutRequest { key: put.key.clone(), value: hollow(&put.value), ..*put }
}

/// The transaction without its values, of the same size.
pub(super) fn hollow_txn(txn: &TxnRequest) -> TxnRequest {
    let mut hollowed = txn.clone();
    hollow_out(&mut hollowed);
    hollowed
}

/// Transactions are within each other only as deep as messages may be.
fn hollow_out(txn: &mut TxnRequest) {
    for compare in &mut txn.compare {
        if let Some(TargetUnion::Value(value)) = &mut compare.target_union {
            *value = hollow(value);
        }
    }
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(Op::RequestPut(put)) => put.value = hollow(&put.value),
            Some(Op::RequestTxn(nested)) => hollow_out(nested),
            Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), lease: 7, ..PutRequest::default() }
    }

    #[test]
    fn a_transaction_counts_the_branch_that_was_taken() {
        let operation = |put| RequestOp { request: Some(Op::RequestPut(put)) };
        let asked = TxnRequest {
            compare: Vec::new(),
            success: vec![operation(put("a", "secret")), operation(put("b", "secret"))],
            failure: vec![operation(put("c", ""))],
        };
        let kept = hollow_txn(&asked);
        assert_eq!(kept.encoded_len(), asked.encoded_len());
        let answer = TxnResponse { succeeded: true, ..TxnResponse::default() };
        let stats = Stats::of_txn(&kept, Some(&answer), Form::Curly);
        assert_eq!((stats.request_count, stats.request_bytes), (2, 2 * (2 + 3 + 8 + 2)));
        assert_eq!(stats.response_bytes, 2);
        assert!(stats.content.contains("key:\"a\" value_size:6 lease:7 "), "{}", stats.content);
        // A refused one has no branch.
        assert_eq!(Stats::of_txn(&kept, None, Form::Curly).request_count, 0);
    }

    #[test]
    fn a_value_is_not_kept_but_its_size_is() {
        let asked = put("k", "secret");
        let kept = hollow_put(&asked);
        assert_eq!(kept.encoded_len(), asked.encoded_len());
        assert!(kept.value.iter().all(|byte| *byte == 0));
        assert_eq!(
            Stats::of_put(&kept, None, Form::Angular),
            Stats {
                request_count: 1,
                request_bytes: 13,
                response_count: 0,
                response_bytes: 0,
                content: "key:\"k\" value_size:6 lease:7 ".to_owned(),
                trace: Some(("put", vec![("key", "k".to_owned()), ("req_size", "13".to_owned())])),
            }
        );
    }
}
