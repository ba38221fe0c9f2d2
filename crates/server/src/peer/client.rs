//! One-off requests to other members' peer URLs, over connections that are kept for a while.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::dial::{Broken, Connection, DialError, Dialler, address_of};
use crate::config::{Url, UrlError};

/// Largest answer that is read: a list of members, a status.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Connections kept for each address; the pipeline of a peer uses four at most.
const IDLE_MAX: usize = 8;
/// How long one is kept. A member closes a connection that says nothing for 5 s, and a request must not meet that.
/// Longer than the prober's pause, so that it does not dial for each question.
const IDLE_FOR: Duration = Duration::from_millis(4500);

/// Sends requests to any member. Cheap to keep, shared by all.
#[derive(Debug)]
pub(crate) struct PeerClient {
    dialler: Dialler,
    /// Connections that wait for the next request, by URL. Held to put one in or take one out.
    idle: Mutex<BTreeMap<Url, Vec<(Instant, Connection)>>>,
}

/// What a member is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    method: Method,
    path: &'a str,
    headers: HeaderMap,
    body: Bytes,
}

impl<'a> Question<'a> {
    /// For a path.
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// With a body; without a type, an empty one.
    pub(crate) fn post(path: &'a str, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), ..Self::get(path) }
    }

    /// With a body.
    pub(crate) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With these headers, in place of those that it has.
    pub(crate) fn with_headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }

    /// The body is a protobuf message.
    pub(crate) fn protobuf(mut self) -> Self {
        let protobuf = HeaderValue::from_static("application/protobuf");
        self.headers.insert(header::CONTENT_TYPE, protobuf);
        self
    }
}

/// An answer that was read as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("{}", super::innermost(.0))]
    Http(hyper::Error),
    /// The connection was closed before there was an answer; Go's word for it.
    #[error("EOF")]
    Closed,
    /// The answer's body broke, or is too long.
    #[error("reading the answer: {0}")]
    Answer(String),
    /// A path or header that HTTP cannot carry.
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    /// The other side took too long.
    #[error("the request was not answered in {0:?}")]
    TimedOut(Duration),
}

impl From<Broken> for CallError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Error(error) => Self::Http(error),
            Broken::Closed => Self::Closed,
        }
    }
}

impl From<UrlError> for CallError {
    fn from(error: UrlError) -> Self {
        Self::Dial(error.into())
    }
}

impl PeerClient {
    /// Keeps what the dialler connects.
    pub(crate) fn new(dialler: Dialler) -> Self {
        Self { dialler, idle: Mutex::default() }
    }

    /// Asks the member at that URL and reads the whole answer, within the limit.
    pub(crate) async fn call(
        &self,
        url: &str,
        question: Question<'_>,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let url = Url::parse(url)?;
        let Question { method, path, headers, body } = question;
        let request = request(method, &url, path, headers, Body::from(body))?;
        let answered = async {
            let (response, connection) = self.send(&url, request).await?;
            self.read(&url, response, connection).await
        };
        timeout(limit, answered).await.unwrap_or(Err(CallError::TimedOut(limit)))
    }

    /// Sends a request over a kept connection or a new one. The answer is read while the connection is held.
    pub(super) async fn send(
        &self,
        url: &Url,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Connection), CallError> {
        loop {
            let kept = self.take_idle(url);
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(url, &self.dialler).await?,
            };
            match connection.sender.ready().await {
                Ok(()) => {}
                Err(_) if is_kept => continue,
                Err(error) => return Err(connection.cause(error).await.into()),
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                // The other side had closed it, and nothing was written: as if it had not been there.
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(connection.cause(refused.into_error()).await.into()),
                },
            }
        }
    }

    /// Reads the whole answer and keeps the connection.
    pub(super) async fn read(
        &self,
        url: &Url,
        response: Response<Incoming>,
        connection: Connection,
    ) -> Result<Answer, CallError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            CallError::Answer(match error.downcast_ref::<LengthLimitError>() {
                Some(_) => format!("it is longer than {ANSWER_BYTES_MAX} bytes"),
                None => error.to_string(),
            })
        })?;
        self.keep(url, connection);
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    /// Closes what is kept.
    pub(super) fn close_idle(&self) {
        self.lock().clear();
    }

    fn take_idle(&self, url: &Url) -> Option<Connection> {
        let mut idle = self.lock();
        let kept = idle.get_mut(url)?;
        // The one used last is the least likely to be closed.
        while let Some((since, connection)) = kept.pop() {
            if since.elapsed() < IDLE_FOR && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, url: &Url, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.lock();
        for kept in idle.values_mut() {
            kept.retain(|(since, connection)| {
                since.elapsed() < IDLE_FOR && !connection.sender.is_closed()
            });
        }
        idle.retain(|_, kept| !kept.is_empty());
        let kept = idle.entry(url.clone()).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((Instant::now(), connection));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Url, Vec<(Instant, Connection)>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, String::from_utf8_lossy(&self.body).trim())
    }
}

/// A request as a connection to one server takes it: a path, and the server's name in a header.
pub(super) fn request(
    method: Method,
    url: &Url,
    path: &str,
    headers: HeaderMap,
    body: Body,
) -> Result<Request<Body>, http::Error> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(PathAndQuery::try_from(path)?);
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(&address_of(url))?);
    Ok(request)
}
