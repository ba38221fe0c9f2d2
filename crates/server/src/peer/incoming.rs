//! The streams that this member reads: it dials the peer and asks for them, again and again.

use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as RequestBody;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::{Body as _, Incoming};
use raft::NodeId;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::codec::{Decoder, StreamError, StreamKind};
use super::dial::{DialError, Driver, hides_cause};
use super::headers::RAFT_TO;
use super::status::{Seldom, Status};
use super::urls::Urls;
use super::{Delivery, Shared, client};

/// A stream says something every 5/3 s; one that is silent for so long is dead.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// At most one try in this time, as in etcd.
const TRY_INTERVAL: Duration = Duration::from_millis(100);
/// After so much the thread's other work has its turn: it is the heart's.
const AT_ONCE_BYTES: usize = 256 * 1024;
/// Of a refusal, so much is read.
const REFUSAL_BYTES_MAX: usize = 4096;

/// One kind of stream from one peer.
#[derive(Debug)]
pub(crate) struct StreamReader {
    pub(crate) kind: StreamKind,
    pub(crate) peer: NodeId,
    pub(crate) urls: Arc<Urls>,
    pub(crate) status: Arc<Status>,
    pub(crate) shared: Arc<Shared>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{}", super::innermost(.0))]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("unsupported stream type")]
    NoStreams,
    #[error("failed to find remote peer in cluster")]
    Unknown,
    #[error("{0}")]
    Incompatible(String),
    #[error("unhandled http status {0}")]
    Status(StatusCode),
    #[error("i/o timeout")]
    TimedOut,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("EOF")]
    End,
    #[error("{}", super::innermost(.0))]
    Http(#[from] hyper::Error),
    #[error("i/o timeout")]
    TimedOut,
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("this member is stopping")]
    Stopped,
}

impl StreamReader {
    /// Reads for as long as the peer is one: the caller aborts it.
    pub(crate) async fn run(self) {
        let channel = self.kind.to_string();
        // A failing peer is tried ten times a second; it is named now and then.
        let refusals = Seldom::default();
        loop {
            let next_try = Instant::now() + TRY_INTERVAL;
            tracing::debug!(
                from = format!("{:x}", self.shared.identity.member_id),
                to = %self.peer,
                "dial stream reader"
            );
            match self.ask().await {
                Ok(stream) => match self.read(stream).await {
                    ReadError::Stopped => return,
                    // The peer closes a stream when it stops or has a newer one.
                    ReadError::End => {}
                    error @ (ReadError::Http(_) | ReadError::TimedOut | ReadError::Stream(_)) => {
                        self.status.deactivate(&channel, "read", &error);
                    }
                },
                Err(AskError::Removed) => {
                    self.status.deactivate(&channel, "dial", &AskError::Removed);
                    self.shared.host.removed_from_cluster(self.peer.0);
                    return;
                }
                // It is reached, but speaks by POST only.
                Err(AskError::NoStreams) => {}
                Err(error) => {
                    if let (AskError::Incompatible(_), Some(count)) = (&error, refusals.is_due()) {
                        tracing::warn!(
                            remote_peer_id = %self.peer,
                            error = %error,
                            count,
                            "request sent was ignored by remote peer"
                        );
                    }
                    self.status.deactivate(&channel, "dial", &error);
                }
            }
            tokio::time::sleep_until(next_try).await;
        }
    }

    async fn ask(&self) -> Result<Stream, AskError> {
        let url = self.urls.pick();
        let asked = self.ask_at(&url).await;
        match &asked {
            Ok(_) => {}
            // An answer, though another URL of the same member would give the same.
            Err(_) => self.urls.failed(&url),
        }
        asked
    }

    async fn ask_at(&self, url: &crate::config::Url) -> Result<Stream, AskError> {
        let path =
            format!("/raft/stream/{}/{:x}", self.kind.segment(), self.shared.identity.member_id);
        let mut headers: HeaderMap = self.shared.request_headers.clone();
        if let Ok(to) = HeaderValue::from_str(&self.peer.to_string()) {
            headers.insert(RAFT_TO, to);
        }
        let request = client::request(Method::GET, url, &path, headers, RequestBody::empty())?;
        let (mut sender, mut driver) = self.shared.options.dialler.connect(url).await?;
        let answer = async {
            let mut answer = pin!(sender.send_request(request));
            // The connection is driven here and not by a task of its own: what arrives is decoded without a detour.
            std::future::poll_fn(|context| {
                let driven = Pin::new(&mut driver).poll(context);
                match (answer.as_mut().poll(context), driven) {
                    (Poll::Ready(Err(told)), Poll::Ready(Err(cause))) if hides_cause(&told) => {
                        Poll::Ready(Err(cause.into()))
                    }
                    (Poll::Ready(answer), _) => Poll::Ready(answer.map_err(AskError::from)),
                    (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
                    (Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => Poll::Pending,
                }
            })
            .await
        };
        let response = timeout(READ_LIMIT, answer).await.map_err(|_| AskError::TimedOut)??;
        let (head, body) = response.into_parts();
        let stream = Stream::new(driver, body);
        if !self.shared.identity.is_streaming(&head.headers) {
            return Err(AskError::NoStreams);
        }
        match head.status {
            StatusCode::OK => Ok(stream),
            StatusCode::GONE => Err(AskError::Removed),
            StatusCode::NOT_FOUND => Err(AskError::Unknown),
            StatusCode::PRECONDITION_FAILED => Err(AskError::Incompatible(stream.refusal().await)),
            other => Err(AskError::Status(other)),
        }
    }

    async fn read(&self, mut stream: Stream) -> ReadError {
        self.status.activate();
        tracing::info!(
            stream_reader_type = %self.kind,
            local_member_id = format!("{:x}", self.shared.identity.member_id),
            remote_peer_id = %self.peer,
            "established TCP streaming connection with remote peer"
        );
        let ended = self.deliver_all(&mut stream).await;
        tracing::warn!(
            stream_reader_type = %self.kind,
            local_member_id = format!("{:x}", self.shared.identity.member_id),
            remote_peer_id = %self.peer,
            error = %ended,
            "lost TCP streaming connection with remote peer"
        );
        ended
    }

    async fn deliver_all(&self, stream: &mut Stream) -> ReadError {
        let local = NodeId(self.shared.identity.member_id);
        let mut decoder = Decoder::new(self.kind, local, self.peer);
        let mut messages = Vec::new();
        let mut since_pause = 0;
        loop {
            let arrived = match stream.next().await {
                Ok(arrived) => arrived,
                Err(error) => return error,
            };
            self.status.figures().received_bytes.add(arrived.len() as u64);
            since_pause += arrived.len();
            let decoded = decoder.decode(arrived, &mut messages);
            for message in messages.drain(..) {
                match self.shared.take(message) {
                    // Raft copes with what is lost, so one that is refused does not end the stream.
                    Ok(Delivery::Taken | Delivery::Full) | Err(_) => {}
                    Ok(Delivery::Stopped) => return ReadError::Stopped,
                }
            }
            if let Err(error) = decoded {
                self.status.figures().receive_failures.count();
                return error.into();
            }
            if since_pause >= AT_ONCE_BYTES {
                since_pause = 0;
                yield_now().await;
            }
        }
    }
}

/// The body of an answer, with the connection that it comes from and the limit on its silence.
struct Stream {
    driver: Option<Driver>,
    body: Incoming,
    /// Set anew when it fires, and not for each read: most reads end long before.
    silence: Pin<Box<Sleep>>,
    last_read: Instant,
}

impl Stream {
    fn new(driver: Driver, body: Incoming) -> Self {
        Self {
            driver: Some(driver),
            body,
            silence: Box::pin(sleep(READ_LIMIT)),
            last_read: Instant::now(),
        }
    }

    async fn next(&mut self) -> Result<Bytes, ReadError> {
        self.last_read = Instant::now();
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, ReadError>> {
        loop {
            if let Poll::Ready(read) = self.poll_frame(context) {
                return Poll::Ready(read);
            }
            let Some(driver) = &mut self.driver else { break };
            // Whatever it reads by being polled is there afterwards, also when it ends.
            let driven = Pin::new(driver).poll(context);
            if let Poll::Ready(read) = self.poll_frame(context) {
                return Poll::Ready(read);
            }
            match driven {
                Poll::Ready(Ok(())) => self.driver = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => break,
            }
        }
        while self.silence.as_mut().poll(context).is_ready() {
            let limit = self.last_read + READ_LIMIT;
            if limit <= Instant::now() {
                return Poll::Ready(Err(ReadError::TimedOut));
            }
            self.silence.as_mut().reset(limit);
        }
        Poll::Pending
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, ReadError>> {
        Pin::new(&mut self.body).poll_frame(context).map(|frame| match frame {
            None => Err(ReadError::End),
            Some(Err(error)) => Err(error.into()),
            // Trailers say nothing here.
            Some(Ok(frame)) => Ok(frame.into_data().unwrap_or_default()),
        })
    }

    /// The text with which the peer refused.
    async fn refusal(mut self) -> String {
        let mut text = BytesMut::new();
        while text.len() < REFUSAL_BYTES_MAX {
            match self.next().await {
                Ok(bytes) => text.extend_from_slice(&bytes),
                Err(_) => break,
            }
        }
        text.truncate(REFUSAL_BYTES_MAX);
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}
