//! Calls of gRPC: how many of each method were started and how they ended, their messages, and their bytes.
//!
//! [`Counting`] stands around every service and sees what the network sees, so that a service needs nothing to be counted. It looks a
//! path up, counts frames of gRPC as bodies go by, and reads the status of the trailers; a call whose answer is dropped before
//! them was cancelled. The gateway's calls go the same way. Large answers leave it in [`Pieces`],
//! those that end at a deadline too: a piece that is not the message's last is followed by the next whatever the time is.
//!
//! Upstream: go-grpc-prometheus, and server/etcdserver/api/v3rpc (3.5.30).

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use machine::Version;
use tonic::Status;
use tonic::body::Body;

use super::kinds::{Buckets, Counter, Histogram, MILLISECOND};
use crate::pieces::Pieces;
use crate::traces::{CallSpan, Traces};

/// Names of the codes, by number.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Of a call whose client has gone.
const CANCELED: usize = 1;
/// Of a status that cannot be read.
const UNKNOWN: usize = 2;
/// Of a revision that is not there.
const OUT_OF_RANGE: usize = 11;
/// Of renewals of leases whose client has gone, before 3.7.
const UNAVAILABLE: usize = 14;

/// The metadata in which clients say which version of the API they speak.
const CLIENT_VERSION: &str = "client-api-version";
/// What is said of those that do not.
const UNKNOWN_VERSION: &str = "unknown";
/// Versions that are told apart. There are a handful; whoever makes up more of them counts as unknown.
const VERSIONS_MAX: usize = 32;
/// Longest version that is taken for one.
const VERSION_BYTES_MAX: usize = 16;

/// Buckets of `grpc_server_handling_seconds`: the Go library's.
const HANDLING: Buckets = Buckets::These(&[
    5 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    250 * MILLISECOND,
    500 * MILLISECOND,
    1_000 * MILLISECOND,
    2_500 * MILLISECOND,
    5_000 * MILLISECOND,
    10_000 * MILLISECOND,
]);

/// Buckets of `etcd_server_range_duration_seconds`.
const RANGING: Buckets = Buckets::Doubling { first: MILLISECOND / 10, count: 20 };

/// Bytes of messages, of all calls together.
#[derive(Debug, Default)]
pub(crate) struct MessageBytes {
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
}

/// Figures of one method.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) service: String,
    pub(crate) name: String,
    /// `unary`, `client_stream`, `server_stream` or `bidi_stream`.
    pub(crate) kind: &'static str,
    pub(crate) started: Counter,
    /// By code.
    pub(crate) handled: [Counter; CODES.len()],
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    /// How long calls took, if that is asked for.
    pub(crate) handling: Option<Histogram>,
    /// The same of calls that went well, for a method whose work has a figure of its own.
    work: Option<Arc<Histogram>>,
    /// Of those that asked for a revision that is not there, the same.
    failed_work: Option<Arc<Histogram>>,
    /// The code of calls whose client has gone.
    gone: usize,
    bytes: Arc<MessageBytes>,
}

/// Figures of all methods.
#[derive(Debug)]
pub(crate) struct Calls {
    /// By path.
    methods: HashMap<String, Arc<Method>>,
    /// Calls without a stream and with one, by the version that the client says. Held to find one; there are few.
    clients: Mutex<Vec<(String, [u64; 2])>>,
    pub(crate) bytes: Arc<MessageBytes>,
    /// Of `Maintenance/Hash`.
    pub(crate) hash: Arc<Histogram>,
    /// Of `Maintenance/HashKV`.
    pub(crate) hash_kv: Arc<Histogram>,
    /// Of `Maintenance/Snapshot`.
    pub(crate) snapshot: Arc<Histogram>,
    /// Of `KV/Range`, if [`Calls::times_ranges`].
    pub(crate) range: Arc<Histogram>,
    /// The same, of those whose revision is not there.
    pub(crate) failed_range: Arc<Histogram>,
    /// From 3.6 on.
    pub(crate) times_ranges: bool,
}

impl Calls {
    /// Of a member that stands for that version. `is_extensive`: times are measured too.
    pub(crate) fn new(version: Version, is_extensive: bool) -> Self {
        let bytes = Arc::new(MessageBytes::default());
        let hashing = Buckets::Doubling { first: 10 * MILLISECOND, count: 15 };
        let mut calls = Self {
            methods: HashMap::new(),
            clients: Mutex::new(vec![(UNKNOWN_VERSION.to_owned(), [0; 2])]),
            bytes,
            hash: Arc::new(Histogram::of_seconds(hashing)),
            hash_kv: Arc::new(Histogram::of_seconds(hashing)),
            snapshot: Arc::new(Histogram::of_seconds(Buckets::Doubling {
                first: 10 * MILLISECOND,
                count: 17,
            })),
            range: Arc::new(Histogram::of_seconds(RANGING)),
            failed_range: Arc::new(Histogram::of_seconds(RANGING)),
            times_ranges: version >= Version::v3(6, 0),
        };
        for (service, name, kind) in served(version) {
            calls.add(version, service, name, kind, is_extensive);
        }
        calls
    }

    fn add(
        &mut self,
        version: Version,
        service: String,
        name: String,
        kind: &'static str,
        is_extensive: bool,
    ) {
        let path = format!("/{service}/{name}");
        let work = match path.as_str() {
            "/etcdserverpb.Maintenance/Hash" => Some(&self.hash),
            "/etcdserverpb.Maintenance/HashKV" => Some(&self.hash_kv),
            "/etcdserverpb.Maintenance/Snapshot" => Some(&self.snapshot),
            "/etcdserverpb.KV/Range" if self.times_ranges => Some(&self.range),
            _ => None,
        };
        // Before 3.7 etcd says there that it has no leader, whatever has ended the call.
        let is_renewal = path == "/etcdserverpb.Lease/LeaseKeepAlive";
        let gone = match is_renewal && version < Version::v3(7, 0) {
            true => UNAVAILABLE,
            false => CANCELED,
        };
        let method = Method {
            gone,
            service,
            name,
            kind,
            started: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            received: Counter::default(),
            sent: Counter::default(),
            handling: is_extensive.then(|| Histogram::of_seconds(HANDLING)),
            failed_work: work
                .filter(|work| Arc::ptr_eq(work, &self.range))
                .map(|_| Arc::clone(&self.failed_range)),
            work: work.cloned(),
            bytes: Arc::clone(&self.bytes),
        };
        self.methods.insert(path, Arc::new(method));
    }

    /// All methods, in order of their labels.
    pub(crate) fn methods(&self) -> Vec<&Method> {
        let mut methods: Vec<&Method> = self.methods.values().map(Arc::as_ref).collect();
        methods.sort_unstable_by_key(|method| (&method.name, &method.service));
        methods
    }

    /// Versions with their calls without a stream and with one, in order.
    pub(crate) fn clients(&self) -> Vec<(String, [u64; 2])> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
        clients.sort_unstable();
        clients
    }

    fn begin(&self, path: &str, headers: &HeaderMap) -> Option<Call> {
        let method = Arc::clone(self.methods.get(path)?);
        method.started.count();
        self.count_client(headers, method.kind != "unary");
        let is_timed = method.handling.is_some() || method.work.is_some();
        Some(Call { method, start: is_timed.then(Instant::now), span: None, has_ended: false })
    }

    fn count_client(&self, headers: &HeaderMap, is_stream: bool) {
        let version = headers
            .get(CLIENT_VERSION)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
            .filter(|version| !version.is_empty() && version.len() <= VERSION_BYTES_MAX)
            .unwrap_or(UNKNOWN_VERSION);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clients.iter().position(|(known, _)| known == version);
        let place = match known {
            Some(place) => place,
            None if clients.len() < VERSIONS_MAX => {
                clients.push((version.to_owned(), [0; 2]));
                clients.len() - 1
            }
            None => 0,
        };
        if let Some((_, counts)) = clients.get_mut(place) {
            counts[usize::from(is_stream)] += 1;
        }
    }
}

/// Service, name and kind of every method that a member of that version serves.
fn served(version: Version) -> Vec<(String, String, &'static str)> {
    let pool = prost_reflect::DescriptorPool::decode(rpc::API_DESCRIPTORS)
        .expect("generated descriptors are whole");
    let mut served: Vec<(String, String, &'static str)> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| {
            let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => "unary",
                (true, false) => "client_stream",
                (false, true) => "server_stream",
                (true, true) => "bidi_stream",
            };
            (method.parent_service().full_name().to_owned(), method.name().to_owned(), kind)
        })
        .filter(|(_, name, _)| name != "RangeStream" || version >= Version::v3(7, 0))
        .collect();
    // The health service's descriptor is not among those of etcd.
    let health = "grpc.health.v1.Health";
    served.push((health.to_owned(), "Check".to_owned(), "unary"));
    served.push((health.to_owned(), "List".to_owned(), "unary"));
    served.push((health.to_owned(), "Watch".to_owned(), "server_stream"));
    served
}

/// A call under way. Dropped before its end, it was cancelled.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    /// `None` where nobody wants to know how long it takes.
    start: Option<Instant>,
    /// `None` unless it is recorded.
    span: Option<Box<CallSpan>>,
    has_ended: bool,
}

impl Call {
    /// The call has ended with the status in these headers or trailers.
    fn end(&mut self, headers: &HeaderMap) {
        let code = headers
            .get(Status::GRPC_STATUS)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
            .filter(|code| *code < CODES.len())
            .unwrap_or(UNKNOWN);
        if let Some(span) = self.span.take() {
            span.end(code, Some(headers));
        }
        self.end_with(code);
    }

    fn end_with(&mut self, code: usize) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        if let Some(counter) = self.method.handled.get(code) {
            counter.count();
        }
        if let Some(span) = self.span.take() {
            span.end(code, None);
        }
        let Some(took) = self.start.map(|start| start.elapsed()) else { return };
        if let Some(handling) = &self.method.handling {
            handling.observe(took);
        }
        let work = match code {
            0 => &self.method.work,
            OUT_OF_RANGE => &self.method.failed_work,
            _ => &None,
        };
        if let Some(work) = work {
            work.observe(took);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end_with(self.method.gone);
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub(crate) struct Counting<S> {
    service: S,
    calls: Arc<Calls>,
    /// Where spans begin, if anywhere.
    traces: Option<Traces>,
}

impl<S> Counting<S> {
    pub(crate) fn new(service: S, calls: &Arc<Calls>, traces: Option<&Traces>) -> Self {
        Self { service, calls: Arc::clone(calls), traces: traces.cloned() }
    }
}

impl<S> tower_service::Service<http::Request<Body>> for Counting<S>
where
    S: tower_service::Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
        >,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut call = self.calls.begin(request.uri().path(), request.headers());
        if let (Some(traces), Some(call)) = (&self.traces, &mut call) {
            call.span = traces.begin(&mut request);
        }
        let request = match &call {
            Some(call) => {
                let method = Arc::clone(&call.method);
                request.map(|body| Body::new(Received { body, method, frames: Frames::default() }))
            }
            None => request,
        };
        Answering { answer: self.service.call(request), call }
    }
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answering<F> {
    answer: F,
    call: Option<Call>,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context))?;
        let Some(mut call) = self.call.take() else { return Poll::Ready(Ok(answer)) };
        // An error without a message before it is all in the headers.
        if answer.headers().contains_key(Status::GRPC_STATUS) {
            call.end(answer.headers());
            return Poll::Ready(Ok(answer));
        }
        if let Some(span) = &mut call.span {
            span.has_headers();
        }
        let frames = Frames::default();
        Poll::Ready(Ok(answer.map(|body| Body::new(Sent { body: Pieces::of(body), call, frames }))))
    }
}

/// Where a body is within gRPC's frames: five bytes (a flag and a length), then the message.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; Self::HEAD_BYTES],
    head_bytes: usize,
    /// Of the message that follows.
    rest: usize,
}

impl Frames {
    const HEAD_BYTES: usize = 5;

    /// Takes what follows; returns how many messages begin in it, and how many bytes of messages there are.
    fn take(&mut self, mut bytes: &[u8]) -> (u64, u64) {
        let (mut messages, mut message_bytes) = (0, 0);
        loop {
            let within = self.rest.min(bytes.len());
            message_bytes += within as u64;
            self.rest -= within;
            bytes = bytes.get(within..).unwrap_or_default();
            let Some((byte, others)) = bytes.split_first() else {
                return (messages, message_bytes);
            };
            self.head[self.head_bytes] = *byte;
            self.head_bytes += 1;
            bytes = others;
            if self.head_bytes == Self::HEAD_BYTES {
                let [_, length @ ..] = self.head;
                self.rest = u32::from_be_bytes(length) as usize;
                self.head_bytes = 0;
                messages += 1;
            }
        }
    }
}

/// The body of a request.
#[derive(Debug)]
struct Received {
    body: Body,
    method: Arc<Method>,
    frames: Frames,
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let (messages, bytes) = this.frames.take(data);
            this.method.received.add(messages);
            this.method.bytes.received.add(bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
#[derive(Debug)]
struct Sent {
    body: Pieces,
    call: Call,
    frames: Frames,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = this.frames.take(data);
                    this.call.method.sent.add(messages);
                    this.call.method.bytes.sent.add(bytes);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.call.end(trailers);
                }
            }
            Some(Err(_)) => this.call.end_with(UNKNOWN),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]];
        let body = body.concat();
        for size in [1, 2, 5, 8, body.len()] {
            let mut frames = Frames::default();
            let mut total = (0, 0);
            for piece in body.chunks(size) {
                let (messages, bytes) = frames.take(piece);
                total = (total.0 + messages, total.1 + bytes);
            }
            assert_eq!(total, (3, 259), "{size}");
        }
    }

    #[test]
    fn made_up_versions_do_not_add_up() {
        let calls = Calls::new(Version::v3(5, 0), false);
        for number in 0..1000 {
            let mut headers = HeaderMap::new();
            headers.insert(CLIENT_VERSION, format!("3.{number}").parse().unwrap());
            calls.count_client(&headers, number % 2 == 0);
        }
        let clients = calls.clients();
        assert_eq!(clients.len(), VERSIONS_MAX);
        assert_eq!(clients.iter().flat_map(|(_, counts)| counts).sum::<u64>(), 1000);
    }
}
