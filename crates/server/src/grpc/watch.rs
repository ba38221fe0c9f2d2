//! Watch: one stream for many watchers. The hub decides; this brings requests to it and its messages to the client.
//!
//! A message's events are bytes already, shared with every other watcher that gets them; only the head of each response is
//! made here. So the stream is served beside the generated code, as [`rpc::raw`] shows.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mvcc::watch::{Body, Message};
use otlp::Span;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use rpc::errors::Error;
use rpc::raw::{RawCodec, Reply, WATCH_PATH};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::limits::{self, LeaderGuard};
use super::{status, wording};
use crate::access::{Credentials, Identity};
use crate::request::Core;
use crate::traces;
use crate::watching::{OpenStream, Watching};

/// Pause before looking again whether a stream's queue has room for answers to more requests: etcd's pace for what did not
/// fit.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Watches {
    core: Arc<Core>,
    watching: Arc<Watching>,
    bytes_max: usize,
}

impl Watches {
    pub(crate) fn new(core: &Arc<Core>, watching: &Arc<Watching>, bytes_max: usize) -> Self {
        Self { core: Arc::clone(core), watching: Arc::clone(watching), bytes_max }
    }

    fn start(&self, request: Request<Streaming<WatchRequest>>) -> Result<Responses, Status> {
        limits::admit(&self.core, request.metadata())?;
        let guard = LeaderGuard::start(&self.core, request.metadata());
        let stream = Arc::new(self.watching.open());
        let (end, ended) = oneshot::channel();
        let caller = Caller {
            core: Arc::clone(&self.core),
            metadata: request.metadata().clone(),
            extensions: request.extensions().clone(),
        };
        let is_recorded = self.core.span(request.extensions()).is_some();
        let spans = is_recorded.then(|| Arc::new(Spans::default()));
        let requests = request.into_inner();
        let reader = Reader { stream: Arc::clone(&stream), caller, spans: spans.clone() };
        let reading = tokio::spawn(read_requests(reader, requests, end));
        Ok(Responses {
            core: Arc::clone(&self.core),
            stream,
            fragment_bytes: self.bytes_max,
            messages: VecDeque::new(),
            encoded: VecDeque::new(),
            client_error: Some(ended),
            spans,
            reading: reading.abort_handle(),
            guard,
        })
    }
}

/// Carries out the client's requests until it says no more. Then the stream goes on with what is watched.
async fn read_requests(
    reader: Reader,
    mut requests: Streaming<WatchRequest>,
    end: oneshot::Sender<Status>,
) {
    let stream = &reader.stream;
    loop {
        while !stream.has_room() {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        match requests.message().await {
            Ok(Some(WatchRequest { request_union })) => match request_union {
                Some(RequestUnion::CreateRequest(create)) => reader.create(&create).await,
                Some(RequestUnion::CancelRequest(cancel)) => {
                    tracing::debug!(watch_id = cancel.watch_id, "cancelling a watch");
                    stream.cancel(cancel.watch_id);
                }
                Some(RequestUnion::ProgressRequest(_)) => stream.request_progress(),
                // As etcd: nothing was asked.
                None => {}
            },
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(
                    error = status.message(),
                    "failed to receive watch request from gRPC stream"
                );
                // Nobody to tell when the stream has gone as well.
                let _ = end.send(wording::of_stream(status));
                return;
            }
        }
    }
}

/// What carries out requests.
struct Reader {
    stream: Arc<OpenStream>,
    caller: Caller,
    spans: Option<Arc<Spans>>,
}

impl Reader {
    async fn create(&self, create: &WatchCreateRequest) {
        let checked = self.caller.check(create).await;
        if let Some(spans) = &self.spans {
            spans.asked(match checked {
                Ok(()) => traces::watch(self.caller.core.span(&self.caller.extensions), create),
                Err(_) => Span::NONE,
            });
        }
        tracing::debug!(
            start_revision = create.start_revision,
            watch_id = create.watch_id,
            is_refused = checked.is_err(),
            "creating a watch"
        );
        match checked {
            Ok(()) => self.stream.create(create),
            Err(refused) => self.stream.refuse(reason(refused)),
        }
    }
}

/// Spans of one stream's watchers, where they are recorded. A span lasts until its watcher is cancelled, or as long as the stream.
#[derive(Debug, Default)]
struct Spans(Mutex<SpansOf>);

/// Behind a lock that is held for one of the methods below.
#[derive(Debug, Default)]
struct SpansOf {
    /// Of watchers that were asked for: each is answered in its turn.
    asked: VecDeque<Span>,
    /// By id.
    created: HashMap<i64, Span>,
}

impl Spans {
    fn asked(&self, span: Span) {
        self.lock().asked.push_back(span);
    }

    /// Follows what the client is told.
    fn follow(&self, message: &Message) {
        let mut spans = self.lock();
        match &message.body {
            Body::Created => {
                if let Some(span) = spans.asked.pop_front() {
                    spans.created.insert(message.watch_id, span);
                }
            }
            Body::Refused { .. } => {
                if let Some(span) = spans.asked.pop_front() {
                    span.discard();
                }
            }
            // etcd keeps one whose history is gone for as long as the stream, and so grows.
            Body::Canceled | Body::Compacted { .. } => {
                spans.created.remove(&message.watch_id);
            }
            Body::Progress | Body::Events(_) => {}
        }
    }

    /// Nothing panics with the lock held.
    fn lock(&self) -> MutexGuard<'_, SpansOf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose stream it is. Each watcher is checked when it is asked for, as of then; one that is there stays, whatever becomes
/// of its user, as in etcd.
struct Caller {
    core: Arc<Core>,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Caller {
    async fn check(&self, create: &WatchCreateRequest) -> Result<(), auth::Error> {
        let core = &self.core;
        // One that is malformed is refused for that.
        if !core.access.is_enabled() || create.start_revision < 0 {
            return Ok(());
        }
        let credentials = Credentials::of(&self.metadata, &self.extensions);
        let identity = core.identify(&credentials).await?;
        // The key and end as the client gave them: an end of one zero byte is every key from the first on.
        let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        let caller = Identity::caller(identity.as_ref());
        core.access.rights().check_read(caller, key, &create.range_end)
    }
}

/// Why a watcher is refused, as etcd says it: with the name of the code that the error has elsewhere.
fn reason(refused: auth::Error) -> String {
    let is_told = matches!(
        refused,
        auth::Error::InvalidAuthToken | auth::Error::AuthOldRevision | auth::Error::UserEmpty
    );
    let told = if is_told { refused } else { auth::Error::PermissionDenied };
    let status = status::of_auth(told);
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// What the client receives.
#[derive(Debug)]
struct Responses {
    core: Arc<Core>,
    stream: Arc<OpenStream>,
    fragment_bytes: usize,
    messages: VecDeque<Message>,
    /// Parts of one message that was split.
    encoded: VecDeque<Vec<Bytes>>,
    client_error: Option<oneshot::Receiver<Status>>,
    spans: Option<Arc<Spans>>,
    reading: AbortHandle,
    guard: Option<LeaderGuard>,
}

impl Responses {
    fn encode(&mut self, message: &Message) {
        let sends = self.core.metrics.watch_sends.as_ref().map(|sends| (sends, Instant::now()));
        let header = self.core.bare_header();
        let responses = message.encode(&header, self.fragment_bytes);
        self.encoded.extend(responses.into_iter().map(mvcc::watch::Response::into_segments));
        if let Some((sends, begun)) = sends {
            sends.sent(&message.body, begun.elapsed());
        }
    }

    /// Why the stream ends, if it does.
    fn end(&mut self, context: &mut Context<'_>) -> Option<Status> {
        if let Some(guard) = &mut self.guard
            && Pin::new(guard).poll(context).is_ready()
        {
            return Some(Error::NoLeader.into());
        }
        if let Some(error) = &mut self.client_error {
            match Pin::new(error).poll(context) {
                Poll::Ready(Ok(status)) => return Some(status),
                // The client asks for no more.
                Poll::Ready(Err(_)) => self.client_error = None,
                Poll::Pending => {}
            }
        }
        None
    }
}

impl Stream for Responses {
    type Item = Result<Reply<WatchResponse>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(parts) = this.encoded.pop_front() {
                return Poll::Ready(Some(Ok(Reply::Encoded(parts))));
            }
            if let Some(message) = this.messages.pop_front() {
                if let Some(spans) = &this.spans {
                    spans.follow(&message);
                }
                this.encode(&message);
                continue;
            }
            if let Some(status) = this.end(context) {
                return Poll::Ready(Some(Err(status)));
            }
            this.stream.poll(&mut this.messages, context.waker());
            if this.messages.is_empty() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl NamedService for Watches {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Watches {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != WATCH_PATH {
                return Ok(Status::unimplemented("").into_http());
            }
            let codec = RawCodec::<Reply<WatchResponse>, WatchRequest>::default();
            let mut grpc = Grpc::new(codec)
                .max_decoding_message_size(service.bytes_max)
                .accept_compressed(super::GZIP);
            Ok(grpc.streaming(WatchCall { service }, request).await)
        })
    }
}

struct WatchCall {
    service: Watches,
}

impl StreamingService<WatchRequest> for WatchCall {
    type Response = Reply<WatchResponse>;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        std::future::ready(self.service.start(request).map(Response::new))
    }
}
