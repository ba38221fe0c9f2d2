//! Spans of calls, as etcd sends them to a collector of OpenTelemetry.
//!
//! ```text
//!  metrics::calls ─► Traces::begin ─► CallSpan ─── end, with the status ─► collector
//!                        └─► extension of the request ─► step ("put", "range", …), from 3.7 on
//!                                                          └─► Credentials ─► Core: "Send raft proposal", …
//! ```
//!
//! What a span says depends on the version that the member stands for, since dashboards look for names and attributes. From 3.7
//! on the steps say keys, as etcd's do (cut at [`otlp::TEXT_BYTES_MAX`] bytes); values, names of users and passwords are in
//! no span.
//!
//! Where nobody asked for spans there are no `Traces`, and a call looks once whether there are.
//!
//! Upstream: server/embed/config_tracing.go and otelgrpc (0.46 in 3.5.30, 0.59 in 3.6.16, 0.68 in 3.7.3);
//! server/etcdserver/v3_server.go and api/v3rpc/watch.go (3.7.3).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use machine::{Answer, Version};
use otlp::{Parent, Scope, Span, Value};
use proto::etcdserverpb::request_op::Request as TxnOp;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, TxnRequest,
    WatchCreateRequest,
};
use tonic::Status;

use crate::access::{ConnectionInfo, Credentials};
use crate::bootstrap::StartError;
use crate::config::Tracing;
use crate::request::Refusal;

/// Where the exporter's rest may go when the member stops.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// The library that etcd's spans of calls come from; its version depends on etcd's.
const OF_CALLS: &str =
    "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc";
/// Of the steps within a call.
const OF_STEPS: Scope = Scope { name: "go.etcd.io/etcd", version: "" };

/// Names of the codes in the attributes of 3.7, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Codes that are the server's fault: unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
const FAULTS: [usize; 6] = [2, 4, 12, 13, 14, 15];

/// How the attributes are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edition {
    V35,
    V36,
    V37,
}

/// Refuses what spans could not be sent by. Whether anybody takes them shows later.
pub(crate) fn check(config: &Tracing) -> Result<(), StartError> {
    otlp::check_address(&config.address)?;
    environment()?;
    Ok(())
}

/// What etcd's exporter would read.
fn environment() -> Result<otlp::Environment, otlp::EncryptionError> {
    otlp::Environment::read(|name| std::env::var(name).ok())
}

/// Where spans of calls begin.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    tracer: otlp::Tracer,
    edition: Edition,
    scope: Scope,
}

impl Traces {
    /// Starts the exporter, on the runtime that this is called on.
    pub(crate) fn start(
        config: &Tracing,
        version: Version,
    ) -> Result<(Self, otlp::Exporter), StartError> {
        let mut resource = vec![("service.name", config.service_name.clone())];
        if !config.instance_id.is_empty() {
            resource.push(("service.instance.id", config.instance_id.clone()));
        }
        let settings = otlp::Settings {
            address: config.address.clone(),
            resource,
            environment: environment()?,
            sampler: otlp::Sampler::per_million(config.rate_per_million),
        };
        let (tracer, exporter) = otlp::Exporter::start(settings)?;
        tracing::debug!(
            address = config.address,
            service_name = config.service_name,
            service_instance_id = config.instance_id,
            sampling_rate = config.rate_per_million,
            "distributed tracing enabled"
        );
        let (edition, library) = match version.minor {
            ..=5 => (Edition::V35, "0.46.0"),
            6 => (Edition::V36, "0.59.0"),
            7.. => (Edition::V37, "0.68.0"),
        };
        tracing::info!("distributed tracing setup enabled");
        Ok((Self { tracer, edition, scope: Scope { name: OF_CALLS, version: library } }, exporter))
    }

    /// Begins the span of a call, and lets its steps know; `None` if the call is not recorded.
    pub(crate) fn begin<B>(&self, request: &mut http::Request<B>) -> Option<Box<CallSpan>> {
        let path = request.uri().path();
        let name = path.strip_prefix('/').unwrap_or(path);
        let mut span =
            self.tracer.serve(self.scope, || Cow::Owned(name.to_owned()), request.headers());
        let parent = span.parent()?;
        let connection = request.extensions().get::<ConnectionInfo>();
        match self.edition {
            Edition::V35 | Edition::V36 => {
                let (service, method) = name.rsplit_once('/').unwrap_or_default();
                span.set("rpc.system", "grpc");
                span.set("rpc.service", Value::of_text(service));
                span.set("rpc.method", Value::of_text(method));
            }
            Edition::V37 => {
                span.set("rpc.method", Value::of_text(name));
                span.set("rpc.system.name", "grpc");
                let local = connection.and_then(|connection| connection.local);
                place(&mut span, "server.address", "server.port", local);
            }
        }
        let remote = connection.and_then(|connection| connection.remote);
        if self.edition == Edition::V35 {
            place(&mut span, "net.sock.peer.addr", "net.sock.peer.port", remote);
        }
        if self.edition == Edition::V37 {
            request.extensions_mut().insert(parent);
        }
        Some(Box::new(CallSpan { span, edition: self.edition, remote }))
    }
}

fn place(
    span: &mut Span,
    address_key: &'static str,
    port_key: &'static str,
    address: Option<SocketAddr>,
) {
    if let Some(address) = address {
        span.set(address_key, Value::of_text(&address.ip().to_string()));
        span.set(port_key, i64::from(address.port()));
    }
}

/// The span of a call under way.
#[derive(Debug)]
pub(crate) struct CallSpan {
    span: Span,
    edition: Edition,
    remote: Option<SocketAddr>,
}

impl CallSpan {
    /// The answer has headers of its own, so it is more than an error: only then 3.6 says who asked.
    pub(crate) fn has_headers(&mut self) {
        if self.edition == Edition::V36 {
            place(&mut self.span, "net.sock.peer.addr", "net.sock.peer.port", self.remote);
        }
    }

    /// Ends it with this code, and these headers or trailers.
    pub(crate) fn end(mut self, code: usize, headers: Option<&HeaderMap>) {
        if FAULTS.contains(&code) {
            let status = headers.and_then(Status::from_header_map);
            self.span.fail(status.as_ref().map_or("", Status::message));
        }
        match self.edition {
            Edition::V35 | Edition::V36 => {
                self.span.set("rpc.grpc.status_code", i64::try_from(code).unwrap_or(0));
            }
            Edition::V37 => {
                let name = CODES.get(code).copied().unwrap_or(CODES[2]);
                self.span.set("rpc.response.status_code", name);
            }
        }
    }
}

/// A request is on its way into the log.
pub(crate) fn proposed(span: Option<&Parent>) {
    if let Some(span) = span {
        span.event("Send raft proposal");
    }
}

/// The state machine has answered, or nothing will come of the request.
pub(crate) fn answered(span: Option<&Parent>, answer: &Result<Answer, Refusal>) {
    let Some(span) = span else { return };
    match answer {
        Ok(_) | Err(Refusal::Request(_)) => span.event("Receive raft result"),
        Err(refusal) => {
            let message = Value::of_text(&refusal.to_string());
            span.event_with("exception", vec![("exception.message", message)]);
        }
    }
}

/// Begins a step of a call; what happens next to the call is told there.
fn step<const N: usize>(
    credentials: &mut Credentials,
    name: &'static str,
    attributes: impl FnOnce() -> [(&'static str, Value); N],
) -> Span {
    let step = begin(credentials.span.as_ref(), name, attributes);
    if step.is_recording() {
        credentials.span = step.parent();
    }
    step
}

fn begin<const N: usize>(
    parent: Option<&Parent>,
    name: &'static str,
    attributes: impl FnOnce() -> [(&'static str, Value); N],
) -> Span {
    let Some(parent) = parent else { return Span::NONE };
    let mut step = parent.child(OF_STEPS, name);
    for (key, value) in attributes() {
        step.set(key, value);
    }
    step
}

pub(crate) fn range(credentials: &mut Credentials, request: &RangeRequest) -> Span {
    step(credentials, "range", || {
        [
            ("range_begin", Value::of_bytes(&request.key)),
            ("range_end", Value::of_bytes(&request.range_end)),
            ("rev", request.revision.into()),
            ("limit", request.limit.into()),
            ("count_only", request.count_only.into()),
            ("keys_only", request.keys_only.into()),
        ]
    })
}

pub(crate) fn range_stream(credentials: &Credentials, request: &RangeRequest) -> Span {
    begin(credentials.span.as_ref(), "range_streaming", || {
        [
            ("range_begin", Value::of_bytes(&request.key)),
            ("range_end", Value::of_bytes(&request.range_end)),
            ("rev", request.revision.into()),
            ("limit", request.limit.into()),
            ("count_only", request.count_only.into()),
        ]
    })
}

pub(crate) fn put(credentials: &mut Credentials, request: &PutRequest) -> Span {
    step(credentials, "put", || [("key", Value::of_bytes(&request.key))])
}

pub(crate) fn delete_range(credentials: &mut Credentials, request: &DeleteRangeRequest) -> Span {
    step(credentials, "delete_range", || {
        [
            ("range_begin", Value::of_bytes(&request.key)),
            ("range_end", Value::of_bytes(&request.range_end)),
        ]
    })
}

pub(crate) fn txn(credentials: &mut Credentials, request: &TxnRequest, is_read_only: bool) -> Span {
    step(credentials, "txn", || {
        let compared = request.compare.first().map_or(&[][..], |compare| &compare.key);
        let first = request.success.first().and_then(|op| op.request.as_ref());
        let (key, kind, lease): (&[u8], &'static str, i64) = match first {
            None => (&[], "", -1),
            Some(TxnOp::RequestRange(range)) => (&range.key, "range", -1),
            Some(TxnOp::RequestPut(put)) => (&put.key, "put", put.lease),
            Some(TxnOp::RequestDeleteRange(delete)) => (&delete.key, "delete_range", -1),
            Some(TxnOp::RequestTxn(_)) => (&[], "txn", -1),
        };
        let len = |len: usize| i64::try_from(len).unwrap_or(i64::MAX).into();
        [
            ("compare_first_key", Value::of_bytes(compared)),
            ("success_first_key", Value::of_bytes(key)),
            ("success_first_type", kind.into()),
            ("success_first_lease", lease.into()),
            ("compare_len", len(request.compare.len())),
            ("success_len", len(request.success.len())),
            ("failure_len", len(request.failure.len())),
            ("read_only", is_read_only.into()),
        ]
    })
}

pub(crate) fn compact(credentials: &mut Credentials, request: &CompactionRequest) -> Span {
    step(credentials, "compact", || {
        [("is_physical", request.physical.into()), ("rev", request.revision.into())]
    })
}

pub(crate) fn lease_grant(credentials: &mut Credentials, request: &LeaseGrantRequest) -> Span {
    step(credentials, "lease_grant", || [("id", request.id.into()), ("ttl", request.ttl.into())])
}

pub(crate) fn lease_revoke(credentials: &mut Credentials, id: i64) -> Span {
    step(credentials, "lease_revoke", || [("id", id.into())])
}

pub(crate) fn lease_renew(call: Option<&Parent>, id: i64) -> Span {
    begin(call, "lease_renew", || [("id", id.into())])
}

/// Lasts as long as the watcher.
pub(crate) fn watch(call: Option<&Parent>, request: &WatchCreateRequest) -> Span {
    begin(call, "watch", || {
        [
            ("key", Value::of_bytes(&request.key)),
            ("range_end", Value::of_bytes(&request.range_end)),
            ("start_rev", request.start_revision.into()),
            ("progress_notify", request.progress_notify.into()),
            ("prev_kv", request.prev_kv.into()),
            ("fragment", request.fragment.into()),
        ]
    })
}
