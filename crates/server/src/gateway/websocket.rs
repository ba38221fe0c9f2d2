//! The gateway for those who cannot stream requests over HTTP, browsers above all: a WebSocket at the same path.
//!
//! ```text
//!  GET, Upgrade: websocket ──► 101 ──► message ─► line of a POST's body ─► gateway ─► line of the answer ─► text message
//! ```
//!
//! The call begins when the connection is taken over, and is a POST like any other, so an unknown path or an error is told in a
//! message too. Either end ends the other: a client that leaves cancels its call, and a call that is over closes the connection,
//! without a closing frame, as in etcd. Nobody is pinged; the system's keep-alive finds those that are gone.
//!
//! Of the request's headers few reach the call: `Origin`, `Referer`, and a token, which scripts in a browser can only send as a
//! subprotocol (`Sec-WebSocket-Protocol: Bearer, token`) or as a cookie (`token`).
//!
//! A connection holds one message each way and small buffers: the next message is read when the call took the one before,
//! and the next answer is asked for when the one before is sent.
//!
//! Upstream: github.com/tmc/grpc-websocket-proxy (v0.0.0-20201229170055) as etcd 3.5 and later set it up. Differs: messages are
//! bounded (there they are not), text is UTF-8 or refused, and a call that takes one message is answered after it (etcd 3.6 waits
//! until the client closes, when nobody hears the answer any more).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use sha1::{Digest as _, Sha1};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::Gateway;
use crate::access::ConnectionInfo;
use crate::{http, takeover};

/// Makes the answer to a key (RFC 6455, section 1.3).
const ACCEPT_SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A key is so many bytes, in base64.
const KEY_BYTES: usize = 16;
/// Most of what clients send is shorter; a longer message gets its own buffer.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// For the last words to a client that does not listen. gorilla/websocket gives as much.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// The name of the subprotocol, and what stands before a token.
const BEARER: &str = "Bearer";

type Outgoing = SplitSink<WebSocketStream<takeover::Socket>, Message>;
type Incoming = SplitStream<WebSocketStream<takeover::Socket>>;

/// Whether a request asks for a WebSocket. If it does, but not properly, it is refused.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
}

/// The WebSockets that are open: tasks, which outlive the requests that they came from, but not the member.
#[derive(Debug, Default)]
pub(crate) struct Conversations(Mutex<JoinSet<()>>);

impl Conversations {
    fn spawn(&self, conversation: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(conversation);
    }

    /// Ends all of them.
    pub(crate) async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

impl Gateway {
    /// Answers a request for a WebSocket at a path under `/v3/`; the call goes on without it.
    pub(crate) fn open_websocket(self: &Arc<Self>, path: &str, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let accepted = match handshake(&head, &body) {
            Ok(accepted) => accepted,
            Err(status) => return refusal(status),
        };
        let headers = call_headers(&head.headers);
        let answer = [
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::CONNECTION, HeaderValue::from_static("Upgrade")),
            (header::SEC_WEBSOCKET_ACCEPT, accepted.key),
        ];
        let mut answer = (StatusCode::SWITCHING_PROTOCOLS, answer).into_response();
        if subprotocol(&head.headers).starts_with(BEARER.as_bytes()) {
            let bearer = HeaderValue::from_static(BEARER);
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, bearer);
        }
        let (gateway, path, socket) = (Arc::clone(self), path.to_owned(), accepted.socket);
        self.conversations.spawn(async move {
            // An error: the client spoke before it was answered.
            if let Ok(socket) = socket.await {
                gateway.converse(socket, &path, headers).await;
            }
        });
        answer
    }

    /// Carries messages to a call, and its answers back, until one of them ends.
    async fn converse(&self, mut socket: takeover::Socket, path: &str, headers: HeaderMap) {
        // The answer to the handshake may still be in the connection's buffer.
        if socket.flush().await.is_err() {
            return;
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(self.value_bytes_max))
            .max_frame_size(Some(self.value_bytes_max));
        let websocket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await;
        let (mut outgoing, mut incoming) = websocket.split();
        let (lines, body) = mpsc::channel(1);
        let mut request = Request::new(Body::from_stream(ReceiverStream::new(body)));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        let answering = async {
            let answer = self.answer(path, request).await;
            send_lines(answer.into_body(), &mut outgoing).await
        };
        let failure = tokio::select! {
            received = receive_lines(&mut incoming, lines) => received.err(),
            sent = answering => sent.err(),
        };
        if let Some(failure) = &failure {
            tracing::debug!(path, error = %failure, "a WebSocket of the gateway failed");
        }
        if let Some(frame) = failure.as_ref().and_then(last_words) {
            // Who does not take them in time does without.
            let _ = timeout(CLOSE_LIMIT, outgoing.send(Message::Close(Some(frame)))).await;
        }
        // They are two halves of one.
        if let Ok(websocket) = outgoing.reunite(incoming) {
            let _ = timeout(CLOSE_LIMIT, websocket.into_inner().shutdown()).await;
        }
    }
}

/// A handshake that is in order.
struct Accepted {
    /// The proof that the key was understood.
    key: HeaderValue,
    socket: oneshot::Receiver<takeover::Socket>,
}

/// Looks at a request for a WebSocket, and claims its connection.
fn handshake(head: &Parts, body: &Body) -> Result<Accepted, StatusCode> {
    if head.method != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| {
        STANDARD.decode(key.as_bytes()).is_ok_and(|decoded| decoded.len() == KEY_BYTES)
    });
    let is_version_known = has_token(&head.headers, &header::SEC_WEBSOCKET_VERSION, "13");
    // A connection of HTTP/1.1 can be left, if all of the request is there. One of HTTP/2 is shared with other requests.
    let can_leave = head.version == Version::HTTP_11
        && head.extensions.get::<OnUpgrade>().is_some()
        && body.is_end_stream();
    let connection = head.extensions.get::<ConnectionInfo>();
    match (key, connection) {
        (Some(key), Some(connection)) if is_version_known && can_leave => Ok(Accepted {
            key: accept(key.as_bytes()).ok_or(StatusCode::BAD_REQUEST)?,
            socket: connection.claim.make(),
        }),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

fn accept(key: &[u8]) -> Option<HeaderValue> {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_SALT).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

/// Says which version is spoken here, for those who speak another.
fn refusal(status: StatusCode) -> Response {
    let mut answer = http::error(status, status.canonical_reason().unwrap_or_default());
    answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

/// Whether one of a header's tokens is this, in whatever case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn subprotocol(headers: &HeaderMap) -> &[u8] {
    headers.get(header::SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes).unwrap_or_default()
}

/// The headers of the call.
fn call_headers(asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [header::ORIGIN, header::REFERER] {
        if let Some(value) = asked.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(authorization) = authorization(asked) {
        headers.insert(header::AUTHORIZATION, authorization);
    }
    headers
}

/// The token, as an HTTP client would send it. A subprotocol that holds none is an empty one.
fn authorization(asked: &HeaderMap) -> Option<HeaderValue> {
    let token = match (cookie(asked), subprotocol(asked)) {
        (Some(token), _) => token,
        (None, []) => return None,
        (None, subprotocol) => {
            let mut rests = (0..subprotocol.len()).map(|at| &subprotocol[at..]);
            match rests.find_map(|rest| rest.strip_prefix(b"Bearer,")) {
                Some(token) => token.trim_ascii(),
                None => return Some(HeaderValue::from_static("")),
            }
        }
    };
    HeaderValue::from_bytes(&[BEARER.as_bytes(), b" ", token].concat()).ok()
}

/// The value of the cookie `token`.
fn cookie(asked: &HeaderMap) -> Option<&[u8]> {
    asked
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b';'))
        .find_map(|cookie| cookie.trim_ascii().strip_prefix(b"token="))
}

/// Hands each message on as a line, until the client closes the connection.
async fn receive_lines(
    incoming: &mut Incoming,
    lines: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
) -> Result<(), Error> {
    // After a closing frame, asking for the next message sends the answer to it, and then there is none.
    while let Some(message) = incoming.next().await {
        let line = match message? {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => continue,
        };
        for part in [line, Bytes::from_static(b"\n")] {
            // Once nobody takes them, the call is about to end, and what comes is thrown away until then.
            let _ = lines.send(Ok(part)).await;
        }
    }
    Ok(())
}

/// Sends each line of an answer as a message.
async fn send_lines(body: Body, outgoing: &mut Outgoing) -> Result<(), Error> {
    let mut pieces = body.into_data_stream();
    let mut lines = Lines::default();
    // A body that fails has told why in its last line.
    while let Some(Ok(piece)) = pieces.next().await {
        lines.begun.extend_from_slice(&piece);
        while let Some(line) = lines.next() {
            send_line(line, outgoing).await?;
        }
    }
    send_line(lines.begun.freeze(), outgoing).await
}

/// What came of an answer and is no whole line yet.
#[derive(Debug, Default)]
struct Lines {
    begun: BytesMut,
    /// How far there is no end of a line, so that one of many pieces is searched once.
    searched: usize,
}

impl Lines {
    /// Takes the first line out, if all of it is there.
    fn next(&mut self) -> Option<Bytes> {
        let rest = self.begun.get(self.searched..).unwrap_or_default();
        let Some(found) = rest.iter().position(|&byte| byte == b'\n') else {
            self.searched = self.begun.len();
            return None;
        };
        let end = self.searched + found;
        self.searched = 0;
        Some(self.begun.split_to(end + 1).freeze().slice(..end))
    }
}

async fn send_line(line: Bytes, outgoing: &mut Outgoing) -> Result<(), Error> {
    if line.is_empty() {
        return Ok(());
    }
    let text = Utf8Bytes::try_from(line).map_err(|error| Error::Utf8(error.to_string()))?;
    outgoing.send(Message::Text(text)).await
}

/// What a client is told whose messages cannot be read; nothing if it cannot be told, or has ended the connection itself.
fn last_words(failure: &Error) -> Option<CloseFrame> {
    let code = if matches!(failure, Error::Capacity(_)) {
        CloseCode::Size
    } else if matches!(failure, Error::Utf8(_)) {
        CloseCode::Invalid
    } else if matches!(failure, Error::Protocol(_)) {
        CloseCode::Protocol
    } else {
        return None;
    };
    Some(CloseFrame { code, reason: Utf8Bytes::from_static("") })
}

#[cfg(test)]
mod tests;
