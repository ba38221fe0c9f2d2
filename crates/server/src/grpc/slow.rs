//! Calls that took long: etcd's `request stats`.
//!
//! Only calls with one answer are looked at; streams last as long as their clients like. Sizes and contents are not known here,
//! and written as etcd writes what it does not know.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::Request;
use axum::response::Response;
use tonic::service::Routes;

use crate::access::ConnectionInfo;
use crate::request::Core;
use crate::told::go_duration;

/// Methods that answer with a stream.
const STREAMS: &[&str] = &[
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.KV/RangeStream",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
];

/// The routes, looked at.
pub(crate) fn watched(core: &Arc<Core>, routes: Routes) -> Routes {
    let limit = core.config.warning_unary_request_duration;
    Routes::from(routes.into_axum_router().layer(Layer { limit }))
}

#[derive(Debug, Clone)]
struct Layer {
    limit: Duration,
}

impl<S> tower_layer::Layer<S> for Layer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, limit: self.limit }
    }
}

#[derive(Debug, Clone)]
struct Timed<S> {
    inner: S,
    limit: Duration,
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
        let call = (!STREAMS.contains(&path)).then(|| Call {
            path: request.uri().path_and_query().cloned(),
            remote: request
                .extensions()
                .get::<ConnectionInfo>()
                .and_then(|connection| connection.remote),
            start: Instant::now(),
            limit: self.limit,
        });
        Answering { answer: Box::pin(self.inner.call(request)), call }
    }
}

struct Call {
    path: Option<http::uri::PathAndQuery>,
    remote: Option<std::net::SocketAddr>,
    start: Instant,
    limit: Duration,
}

struct Answering<F> {
    answer: Pin<Box<F>>,
    call: Option<Call>,
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Answering<F> {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answer.as_mut().poll(context));
        if let Some(call) = &self.call {
            call.tell();
        }
        Poll::Ready(answer)
    }
}

impl Call {
    fn tell(&self) {
        let took = self.start.elapsed();
        if took <= self.limit {
            return;
        }
        let began = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        let unix = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        tracing::warn!(
            "start time" = crate::told::utc(unix),
            "time spent" = go_duration(took),
            remote = self.remote.map(|address| address.to_string()).unwrap_or_default(),
            "response type" = self.path.as_ref().map_or("", http::uri::PathAndQuery::path),
            "request count" = -1,
            "request size" = -1,
            "response count" = -1,
            "response size" = -1,
            "request content" = "",
            "request stats"
        );
    }
}
