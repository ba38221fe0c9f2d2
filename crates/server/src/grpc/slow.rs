//! Calls that took long: etcd's `request stats`, with `--log-level=debug` for every call.
//!
//! Only calls with one answer are looked at; streams last as long as their clients like. As in etcd, sizes and contents are told
//! of ranges, puts, deletions and transactions, which look after themselves ([`Call`]); all others are looked at from
//! outside ([`Timed`]) and are told with -1. Nothing is copied for it: what was asked for is shared with the proposal that carries it ([`Call::proposed`]),
//! or is still with the one who answers. Keeping a key alone would save nothing, since it is a slice of the bytes that the values
//! came in.
//!
//! A call may end without an answer, at its deadline or with its client: it is dropped where it waits, and told then.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use prost::Message as _;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, PutRequest, PutResponse,
    RangeRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use rpc::raw::{
    DELETE_RANGE_PATH, LEASE_KEEP_ALIVE_PATH, PUT_PATH, RANGE_PATH, RANGE_STREAM_PATH, TXN_PATH,
    WATCH_PATH,
};
use tonic::body::Body;

use crate::access::ConnectionInfo;
use crate::deadline::Deadline;
use crate::request::Core;
use crate::told::{self, Form, go_duration};
use crate::version::Version;

/// Methods that answer with a stream, and those that look after themselves.
const OTHERS: &[&str] = &[
    RANGE_PATH,
    PUT_PATH,
    DELETE_RANGE_PATH,
    TXN_PATH,
    WATCH_PATH,
    LEASE_KEEP_ALIVE_PATH,
    "/etcdserverpb.Maintenance/Snapshot",
    RANGE_STREAM_PATH,
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
];

/// A service whose calls are looked at.
#[derive(Debug, Clone)]
pub(super) struct Timed<S> {
    inner: S,
    core: Arc<Core>,
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S, core: &Arc<Core>) -> Self {
        Self { inner, core: Arc::clone(core) }
    }
}

impl<S> tower_service::Service<Request<Body>> for Timed<S>
where
    S: tower_service::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let is_other = OTHERS.contains(&path);
        let call = (!is_other).then(|| Call::begin(&self.core, None, request.extensions()));
        let is_kept = !is_other || tracing::enabled!(tracing::Level::DEBUG);
        let path = if is_kept { request.uri().path_and_query().cloned() } else { None };
        Answering { answer: self.inner.call(request), call, path }
    }
}

/// An answer under way.
pub(super) struct Answering<F> {
    answer: F,
    call: Option<Call<'static>>,
    /// Of a call that there may be something to tell of.
    path: Option<http::uri::PathAndQuery>,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        if let Some(path) = self.path.take() {
            if let Ok(answer) = &answer {
                tell_refusal(path.path(), answer);
            }
            if let Some(mut call) = self.call.take() {
                call.tell(path.path(), |_| Stats::UNKNOWN);
            }
        }
        Poll::Ready(answer)
    }
}

impl<F> Drop for Answering<F> {
    /// Of a call that nobody waits for any more.
    fn drop(&mut self) {
        if let (Some(mut call), Some(path)) = (self.call.take(), self.path.take()) {
            call.tell(path.path(), |_| Stats::UNKNOWN);
        }
    }
}

/// With debug, tells of a call that was answered with an error.
fn tell_refusal(path: &str, answer: &Response<Body>) {
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

/// A call that is under way. Dropped before its end, it is told as one without an answer.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// `None` for what is told by another, or by nobody.
    path: Option<&'static str>,
    remote: Option<std::net::SocketAddr>,
    start: Instant,
    limit: Duration,
    version: Version,
    /// The time that a range waited until it could be read here.
    pub(super) agreement: Option<Duration>,
    /// A range that is asked for.
    pub(super) range: Option<&'a RangeRequest>,
    /// Any other request, from its proposal on.
    pub(super) proposed: Option<Arc<InternalRaftRequest>>,
}

impl Call<'_> {
    /// From now on. Without a path nothing is told.
    pub(super) fn begin(
        core: &Core,
        path: Option<&'static str>,
        extensions: &http::Extensions,
    ) -> Self {
        Self {
            path,
            remote: extensions.get::<ConnectionInfo>().and_then(|connection| connection.remote),
            start: Instant::now(),
            limit: core.config.warning_unary_request_duration,
            version: core.version,
            agreement: None,
            range: None,
            proposed: None,
        }
    }

    /// Tells of it, if it took long. `stats` is given what was proposed, if that came about.
    pub(super) fn end(mut self, stats: impl FnOnce(Option<&Op>, Form) -> Stats) {
        let proposed = self.proposed.take();
        let op = proposed.as_ref().and_then(|proposed| proposed.request.as_ref());
        if let Some(path) = self.path.take() {
            self.tell(path, |form| stats(op, form));
        }
    }

    fn tell(&mut self, path: &str, stats: impl FnOnce(Form) -> Stats) {
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

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let (range, proposed) = (self.range, self.proposed.take());
        if range.is_some_and(|range| !range.serializable) && self.agreement.is_none() {
            // It did not get further.
            self.agreement = Some(self.start.elapsed());
        } else if range.is_some() {
            self.agreement.get_or_insert_default();
        }
        let op = proposed.as_ref().and_then(|proposed| proposed.request.as_ref());
        self.tell(path, |form| match (range, op) {
            (Some(range), _) => Stats::of_range(range, None, form),
            (None, Some(Op::Put(put))) => Stats::of_put(put, None, form),
            (None, Some(Op::DeleteRange(delete))) => Stats::of_delete_range(delete, None, form),
            // Without an answer no branch of a transaction was taken.
            (None, Some(_) | None) => Stats::NOTHING,
        });
    }
}

/// What a read is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read<'a> {
    Range(&'a RangeRequest),
    Txn(&'a TxnRequest),
}

/// A read that is under way: counted and, if it takes long, told at its end, which may be that of its client's patience.
pub(super) struct Reading<'a> {
    core: &'a Core,
    read: Read<'a>,
    begun: Instant,
    deadline: Option<Deadline>,
    is_over: bool,
}

impl<'a> Reading<'a> {
    /// From now on.
    pub(super) fn begin(core: &'a Core, read: Read<'a>, deadline: Option<Deadline>) -> Self {
        Self { core, read, begun: Instant::now(), deadline, is_over: false }
    }

    /// It has ended with an answer, which is written as the line about a slow one has it, or with an error.
    pub(super) fn end(mut self, answer: Result<impl FnOnce() -> String, &dyn Display>) {
        self.is_over = true;
        self.tell(answer);
    }

    fn tell(&self, answer: Result<impl FnOnce() -> String, &dyn Display>) {
        let (took, limit) = (self.begun.elapsed(), self.core.config.warning_apply_duration);
        if let Some(requests) = &self.core.metrics.requests {
            match self.read {
                Read::Range(_) => requests.answered("Range", answer.is_ok(), took),
                Read::Txn(_) => requests.read_only_txn_answered(answer.is_ok(), took),
            }
        }
        if took <= limit {
            return;
        }
        let form = Form::of(self.core.version);
        let (prefix, request) = match self.read {
            Read::Range(range) => ("read-only range ", told::range(range, form)),
            Read::Txn(txn) => ("read-only txn ", told::txn(txn, form)),
        };
        let (response, error) = match answer {
            Ok(answer) => (answer(), None),
            Err(error) => (String::new(), Some(error)),
        };
        told::slow(took, limit, prefix, &request, &response, error);
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let is_late = self.deadline.is_some_and(Deadline::has_passed);
            let why = if is_late { "context deadline exceeded" } else { "context canceled" };
            self.tell(Err::<fn() -> String, _>(&why));
        }
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

    /// Of a call that came to nothing.
    pub(super) const NOTHING: Self = Self {
        request_count: 0,
        request_bytes: 0,
        response_count: 0,
        response_bytes: 0,
        content: String::new(),
        trace: None,
    };

    /// A range, and its answer.
    pub(super) fn of_range(asked: &RangeRequest, answered: Option<&Found>, form: Form) -> Self {
        let mut detail = vec![
            ("range_begin", told::shown_key(&asked.key)),
            ("range_end", told::shown_key(&asked.range_end)),
        ];
        if let Some(answer) = answered {
            detail.push(("response_count", answer.pairs.to_string()));
            detail.push(("response_revision", answer.revision.to_string()));
        }
        Self {
            trace: Some(("range", detail)),
            request_count: 0,
            request_bytes: bytes(asked.encoded_len()),
            response_count: answered.map_or(0, |answer| answer.count),
            response_bytes: answered.map_or(0, |answer| bytes(answer.encoded.len())),
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
        let Some(answer) = answered else { return Self::NOTHING };
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

/// The answer to a range as it is sent, and what is told of it, which would be dear to find in its bytes.
#[derive(Debug)]
pub(super) struct Found {
    /// A `RangeResponse`.
    pub(super) encoded: Bytes,
    /// Pairs in it.
    pub(super) pairs: usize,
    /// Keys in the range.
    pub(super) count: i64,
    pub(super) revision: i64,
}

impl Found {
    /// As the line about a slow one has it.
    pub(super) fn shown(&self) -> String {
        format!("range_response_count:{} size:{}", self.pairs, self.encoded.len())
    }
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

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::request_op::Request as TxnOp;
    use rpc::etcdserverpb::kv_client::KvClient;

    use super::*;
    use crate::member::unconnected;
    use crate::told::lines::Lines;

    fn put(key: &'static str, value: &'static str) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), lease: 7, ..PutRequest::default() }
    }

    #[test]
    fn a_transaction_counts_the_branch_that_was_taken() {
        let operation = |put| RequestOp { request: Some(TxnOp::RequestPut(put)) };
        let asked = TxnRequest {
            compare: Vec::new(),
            success: vec![operation(put("a", "secret")), operation(put("b", "secret"))],
            failure: vec![operation(put("c", ""))],
        };
        let answer = TxnResponse { succeeded: true, ..TxnResponse::default() };
        let stats = Stats::of_txn(&asked, Some(&answer), Form::Curly);
        assert_eq!((stats.request_count, stats.request_bytes), (2, 2 * (2 + 3 + 8 + 2)));
        assert_eq!(stats.response_bytes, 2);
        assert!(stats.content.contains("key:\"a\" value_size:6 lease:7 "), "{}", stats.content);
        // A refused one has no branch.
        assert_eq!(Stats::of_txn(&asked, None, Form::Curly).request_count, 0);
    }

    #[test]
    fn a_value_is_not_told_but_its_size_is() {
        assert_eq!(
            Stats::of_put(&put("k", "secret"), None, Form::Angular),
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

    /// Begins a call, and leaves it where it waits.
    async fn abandon(call: impl Future) {
        let mut call = Box::pin(call);
        for _ in 0..100 {
            let poll = |context: &mut Context<'_>| Poll::Ready(call.as_mut().poll(context));
            assert!(std::future::poll_fn(poll).await.is_pending(), "it has nothing to wait for");
            tokio::task::yield_now().await;
        }
    }

    /// Nothing was told of those that ended at their deadlines, which are the slowest: found by reading.
    #[tokio::test]
    async fn what_ends_without_an_answer_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = unconnected::config(dir.path());
        config.warning_apply_duration = Duration::ZERO;
        let (member, routes) = unconnected::start_without_leader(config);
        let mut client = KvClient::new(routes);
        let (lines, told) = Lines::gather();
        abandon(client.put(put("k", "secret"))).await;
        let delete = DeleteRangeRequest { key: "d".into(), ..DeleteRangeRequest::default() };
        abandon(client.delete_range(delete)).await;
        let range = RangeRequest { key: "r".into(), ..RangeRequest::default() };
        abandon(client.range(range)).await;
        drop(told);
        let stats = |path, content| lines.with(&["request stats", path, content]);
        assert_eq!(stats("KV/Put", "key:\"k\" value_size:6"), 1);
        assert_eq!(stats("KV/DeleteRange", "key:\"d\""), 1);
        assert_eq!(stats("KV/Range", "key:\"r\""), 1);
        assert_eq!(lines.with(&["apply request took too long", "context canceled", "\"r\""]), 1);
        assert_eq!(lines.with(&["secret"]), 0);
        let consensus = &unconnected::core(&member).metrics.consensus;
        assert_eq!(consensus.failed_proposals.get(), 2);
        member.stop().await;
    }
}
