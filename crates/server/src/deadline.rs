//! Deadlines that callers of gRPC set (`grpc-timeout`): when one has passed, its call ends, whatever it is doing.
//!
//! ```text
//!  request ─► Stamps          reads the header, stamps the request with the moment
//!             └► routes ─► Counting ─► Limited ─► service
//!                                      drops what is under way at that moment, and answers DeadlineExceeded: in the headers, or in
//!                                      the trailers of a stream that has begun
//! ```
//!
//! tonic has a timer of its own for the header, which says that the call was cancelled and does not look at streams. It starts after
//! [`Stamps`], and looks at the call before it looks at its watch, so that a moment a little before the caller's comes first
//! always. A call is dropped as it is when its client goes away: what it holds goes with it.
//!
//! A message that has begun goes out whole, however many [pieces](crate::pieces) it is in: half of it would be a broken answer to a
//! client that has a moment left. The trailers that end a call come between messages, or behind the only one.
//!
//! Nothing is spent on calls without the header but the look for it.
//!
//! Upstream: grpc-go's http2_server.go.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

/// The header.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Most digits of a timeout.
const DIGITS_MAX: usize = 8;
/// By how much a call ends before its caller's deadline: two ticks of the timers, so that tonic's is the later one.
const EARLY: Duration = Duration::from_millis(2);

/// When a call ends: an extension of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// That of the call with these extensions, if it has one.
    pub(crate) fn of(extensions: &http::Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0 <= Instant::now()
    }
}

/// When a request came that has the header but is none of gRPC: an extension of it. The gateway counts from there, so that it is
/// earlier than tonic too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival(Instant);

impl Arrival {
    /// When a call ends that came then, or now if that is not known; `None` if never.
    pub(crate) fn deadline(arrival: Option<Self>, timeout: Duration) -> Option<Instant> {
        let arrived = arrival.map_or_else(Instant::now, |Self(arrived)| arrived);
        // One that is too far away for the clock never comes.
        arrived.checked_add(timeout.saturating_sub(EARLY))
    }
}

/// Wraps all routes of a listener, see the module's documentation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamps;

impl<S> tower_layer::Layer<S> for Stamps {
    type Service = Stamping<S>;

    fn layer(&self, inner: S) -> Stamping<S> {
        Stamping { inner }
    }
}

/// Made by [`Stamps`].
#[derive(Debug, Clone)]
pub(crate) struct Stamping<S> {
    inner: S,
}

impl<S> tower_service::Service<http::Request<Body>> for Stamping<S>
where
    S: tower_service::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Stamped<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(value) = request.headers().get(TIMEOUT) else {
            return Stamped::Called(self.inner.call(request));
        };
        match serving::says_call(request.headers()).then(|| deadline(value)) {
            // The gateway's calls have a header of the same name, with other rules.
            None => {
                request.extensions_mut().insert(Arrival(Instant::now()));
            }
            Some(Ok(Some(deadline))) => {
                request.extensions_mut().insert(deadline);
            }
            Some(Ok(None)) => {}
            Some(Err(refusal)) => return Stamped::Refused(Some(refusal)),
        }
        Stamped::Called(self.inner.call(request))
    }
}

/// An answer under way.
#[derive(Debug)]
pub(crate) enum Stamped<F> {
    Called(F),
    /// `None` once it is answered.
    Refused(Option<Status>),
}

impl<F, E> Future for Stamped<F>
where
    F: Future<Output = Result<http::Response<Body>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Called(answer) => Pin::new(answer).poll(context),
            Self::Refused(refusal) => {
                let mut answer: http::Response<Body> =
                    refusal.take().unwrap_or_else(too_late).into_http();
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                Poll::Ready(Ok(answer))
            }
        }
    }
}

/// The deadline that a call of gRPC sets; `None` for one that never comes.
fn deadline(value: &HeaderValue) -> Result<Option<Deadline>, Status> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let timeout = timeout(&text)
        .map_err(|why| Status::internal(format!("malformed grpc-timeout: {why}: {text:?}")))?;
    Ok(Arrival::deadline(None, timeout).map(Deadline))
}

/// Reads at most eight digits and a unit; or says what is wrong with them.
fn timeout(text: &str) -> Result<Duration, &'static str> {
    let Some((unit_at, unit)) = text.char_indices().next_back().filter(|(at, _)| *at > 0) else {
        return Err("transport: timeout string is too short");
    };
    if unit_at > DIGITS_MAX {
        return Err("transport: timeout string is too long");
    }
    let of_nanoseconds = match unit {
        'H' => |amount| Duration::from_secs(amount * 3600),
        'M' => |amount| Duration::from_secs(amount * 60),
        'S' => Duration::from_secs,
        'm' => Duration::from_millis,
        'u' => Duration::from_micros,
        'n' => Duration::from_nanos,
        _ => return Err("transport: timeout unit is not recognized"),
    };
    let digits = &text[..unit_at];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    digits.parse().map(of_nanoseconds).map_err(|_| "invalid syntax")
}

/// Go's words for a deadline that has passed.
fn too_late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// A service whose calls end at their deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Limited<S>(pub(crate) S);

impl<S> tower_service::Service<http::Request<Body>> for Limited<S>
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
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let alarm = request.extensions().get().map(|Deadline(at)| Alarm::at(*at));
        let is_late = alarm.as_ref().is_some_and(|alarm| alarm.at <= Instant::now());
        Answering { answer: (!is_late).then(|| self.0.call(request)), alarm }
    }
}

/// Rings at a moment, and from then on.
#[derive(Debug)]
struct Alarm {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    fn at(at: Instant) -> Self {
        Self { at, sleep: Box::pin(sleep_until(at)) }
    }

    /// Whether it rings; if not, the task is woken when it does.
    fn rings(&mut self, context: &mut Context<'_>) -> bool {
        // Timers are late by a tick, the clock is not.
        self.at <= Instant::now() || self.sleep.as_mut().poll(context).is_ready()
    }
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answering<F> {
    /// `None` once it has come, or is given up; also if it came too late to begin.
    answer: Option<F>,
    alarm: Option<Alarm>,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = match &mut this.answer {
            Some(answer) => Pin::new(answer).poll(context),
            None => Poll::Pending,
        };
        if let Poll::Ready(answer) = polled {
            this.answer = None;
            let alarm = this.alarm.take();
            return Poll::Ready(answer.map(|answer| match alarm {
                Some(alarm) if !answer.body().is_end_stream() => {
                    answer.map(|body| Body::new(Until { body: Some(body), alarm }))
                }
                Some(_) | None => answer,
            }));
        }
        if this.alarm.as_mut().is_none_or(|alarm| !alarm.rings(context)) {
            return Poll::Pending;
        }
        this.answer = None;
        Poll::Ready(Ok(too_late().into_http()))
    }
}

/// The body of an answer, until its call's deadline.
#[derive(Debug)]
struct Until {
    /// `None` after the end.
    body: Option<Body>,
    alarm: Alarm,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        // Looked at first: a stream that always has something to say ends too.
        if !this.alarm.rings(context) {
            return Pin::new(body).poll_frame(context);
        }
        this.body = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match too_late().add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // The trailers may come before what the body promises.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests;
