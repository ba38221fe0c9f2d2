//! What other members ask of this one below `/raft`, with etcd's checks in etcd's order and etcd's answers.
//!
//! Upstream: server/etcdserver/api/rafthttp/http.go (3.5.30). Differs: a version that cannot be read is refused, where etcd drops
//! the connection; a message that is not taken is answered with a whole 500, where etcd's breaks off.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::codec::{MESSAGE_BYTES_MAX, StreamKind, decode_posted};
use super::headers::{PEER_URLS, RAFT_TO, SERVER_FROM, parse_id, text};
use super::snapshot_receive::{self, READ_LIMIT, ReceiveError};
use super::{Delivery, STRANGER, Transport, timestamp};
use crate::metrics::PeerFigures;

/// What [`read_body`] asks for room in: most messages take one.
pub(super) const ROOM_UNIT_BYTES: usize = 64 * 1024;
/// All posted messages that are being read take as much memory as the largest one may. A member's are small: the large
/// ones, which wait for a stream, are a few MiB.
pub(super) const ROOM_UNITS: usize = 8 * 1024;
const _: () = assert!((ROOM_UNITS * ROOM_UNIT_BYTES) as u64 == MESSAGE_BYTES_MAX);

/// `/raft` and everything below it.
pub(super) fn routes(transport: &Arc<Transport>) -> Router {
    let at = |path: &str, router: Router, handler: Handler| {
        let transport = Arc::clone(transport);
        let answer = move |request: Request| {
            let transport = Arc::clone(&transport);
            async move { handler.answer(&transport, request).await }
        };
        router.route(path, any(answer))
    };
    let router = at("/raft", Router::new(), Handler::Post);
    let router = at("/raft/snapshot", router, Handler::Snapshot);
    let router = at("/raft/probing", router, Handler::Probing);
    let router = at("/raft/stream/", router, Handler::Stream);
    at("/raft/stream/{*rest}", router, Handler::Stream)
}

/// In an answer: its connection goes on at that executor.
#[derive(Debug, Clone)]
pub(super) struct GoesOnAt(pub(super) Handle);

#[derive(Debug, Clone, Copy)]
enum Handler {
    Post,
    Snapshot,
    Probing,
    Stream,
}

impl Handler {
    async fn answer(self, transport: &Transport, request: Request) -> Response {
        match self {
            Self::Post => post(transport, request).await,
            Self::Snapshot => snapshot(transport, request).await,
            Self::Probing => probing(),
            Self::Stream => stream(transport, &request),
        }
    }
}

/// A status and a text, which is sent as Go's `http.Error` sends it.
#[derive(Debug)]
struct Refusal(StatusCode, Cow<'static, str>);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, format!("{}\n", self.1)).into_response();
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

fn refuse(status: StatusCode, text: &'static str) -> Refusal {
    Refusal(status, text.into())
}

/// For the wrong method, which is answered without the headers that the other answers have.
fn not_allowed(allowed: &'static str) -> Response {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed").into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn answer(answer: Result<Response, Refusal>, headers: HeaderMap) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().extend(headers);
    response
}

impl Transport {
    fn check_caller(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let identity = &self.shared.identity;
        let from = text(headers, &SERVER_FROM).unwrap_or_default();
        let refused = |text| refuse(StatusCode::PRECONDITION_FAILED, text);
        if !identity.is_compatible(headers) {
            if let Some(count) = self.shared.refused.is_due() {
                tracing::warn!(from, count, "request of a member with an incompatible version");
            }
            return Err(refused("incompatible version"));
        }
        if !identity.is_same_cluster(headers) {
            if let Some(count) = self.shared.refused.is_due() {
                let theirs = text(headers, &super::headers::CLUSTER_ID).unwrap_or_default();
                tracing::warn!(
                    from,
                    count,
                    local_member_cluster_id = format!("{:x}", identity.cluster_id),
                    remote_peer_cluster_id = theirs,
                    "request cluster ID mismatch"
                );
            }
            return Err(refused("cluster ID mismatch"));
        }
        Ok(())
    }

    /// What is counted of whoever says that it is that member. Anybody may say so; those that are not known share one.
    fn figures_of(&self, id: u64) -> Arc<PeerFigures> {
        let is_known = self.read().get(id).is_some();
        self.shared.options.metrics.peers.of(if is_known { id } else { STRANGER })
    }

    /// A message that cannot be read: nobody knows who sent it. etcd counts it under the sender's address and port, each with a
    /// series of its own.
    fn count_unread(&self) {
        self.shared.options.metrics.peers.of(STRANGER).receive_failures.count();
    }

    /// Whoever shows that it is of this cluster gets answers, also before the membership names it here.
    fn note_caller(&self, headers: &HeaderMap) {
        let from = text(headers, &SERVER_FROM).and_then(parse_id);
        if let (Some(from), Some(urls)) = (from, text(headers, &PEER_URLS)) {
            self.note_remote(from, urls);
        }
    }

    fn note_remote(&self, id: u64, urls: &str) {
        if !urls.is_empty() && !self.shared.host.is_removed(id) {
            let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
            self.add_remote(id, &urls);
        }
    }
}

async fn post(transport: &Transport, request: Request) -> Response {
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    let posted = post_checked(transport, request).await;
    answer(posted, transport.shared.identity.answer_headers())
}

async fn post_checked(transport: &Transport, request: Request) -> Result<Response, Refusal> {
    transport.check_caller(request.headers())?;
    transport.note_caller(request.headers());
    let room = &transport.shared.room;
    let bytes = read_body(request.into_body(), room).await.map_err(|error| {
        transport.count_unread();
        tracing::warn!(error, "failed to read Raft message");
        refuse(StatusCode::BAD_REQUEST, "error reading raft message")
    })?;
    let length = bytes.len() as u64;
    let message = decode_posted(bytes).map_err(|error| {
        transport.count_unread();
        tracing::warn!(error = %error, "failed to unmarshal Raft message");
        refuse(StatusCode::BAD_REQUEST, "error unmarshalling raft message")
    })?;
    transport.figures_of(message.from.0).received_bytes.add(length);
    match transport.shared.take(message) {
        Ok(Delivery::Taken) => Ok(StatusCode::NO_CONTENT.into_response()),
        // Never 403: the caller would take it that it is no member any more.
        Ok(Delivery::Full | Delivery::Stopped) | Err(_) => {
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message"))
        }
    }
}

/// Reads all of a message, which takes room while it is being read.
async fn read_body(mut body: Body, room: &Semaphore) -> Result<Bytes, String> {
    let no_room = |_| "there is no room for another message".to_owned();
    let mut taken = room.try_acquire_many(1).map_err(no_room)?;
    let mut first = Bytes::new();
    let mut gathered = BytesMut::new();
    loop {
        let frame = match timeout(READ_LIMIT, body.frame()).await {
            Err(_) => return Err("i/o timeout".to_owned()),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Ok(Some(Ok(frame))) => frame,
        };
        let bytes = frame.into_data().unwrap_or_default();
        let count = first.len() + gathered.len() + bytes.len();
        if count as u64 > MESSAGE_BYTES_MAX {
            return Err("it is too large".to_owned());
        }
        let missing = count.div_ceil(ROOM_UNIT_BYTES).saturating_sub(taken.num_permits());
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        taken.merge(room.try_acquire_many(missing).map_err(no_room)?);
        // Most come in one piece, which is not copied.
        if first.is_empty() && gathered.is_empty() {
            first = bytes;
        } else {
            gathered.extend_from_slice(&std::mem::take(&mut first));
            gathered.extend_from_slice(&bytes);
        }
    }
    Ok(if gathered.is_empty() { first } else { gathered.freeze() })
}

async fn snapshot(transport: &Transport, request: Request) -> Response {
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    let received = snapshot_checked(transport, request).await;
    answer(received, transport.shared.identity.answer_headers())
}

async fn snapshot_checked(transport: &Transport, request: Request) -> Result<Response, Refusal> {
    transport.check_caller(request.headers())?;
    transport.note_caller(request.headers());
    let received = snapshot_receive::receive(&transport.shared, request.into_body()).await;
    received.map_err(|error| {
        // etcd's words for each.
        match error {
            ReceiveError::Decode(_) => {
                transport.count_unread();
                tracing::warn!(%error, "failed to decode Raft message");
            }
            ReceiveError::WrongType => tracing::warn!(%error, "unexpected Raft message type"),
            ReceiveError::Save(_) => {
                tracing::warn!(%error, "failed to save incoming database snapshot");
            }
            ReceiveError::Process(_) => tracing::warn!(%error, "failed to process Raft message"),
        }
        let status = match error {
            ReceiveError::Decode(_) | ReceiveError::WrongType => StatusCode::BAD_REQUEST,
            ReceiveError::Save(_) | ReceiveError::Process(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(status, error.to_string().into())
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn stream(transport: &Transport, request: &Request) -> Response {
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    let opened = stream_checked(transport, request);
    answer(opened, transport.shared.identity.stream_answer_headers())
}

fn stream_checked(transport: &Transport, request: &Request) -> Result<Response, Refusal> {
    let headers = request.headers();
    transport.check_caller(headers)?;
    let rest = request.uri().path().strip_prefix("/raft/stream/").unwrap_or_default();
    let (kind, id) = rest.rsplit_once('/').unwrap_or(("", rest));
    let not_found = |text| refuse(StatusCode::NOT_FOUND, text);
    let kind = StreamKind::from_segment(kind).ok_or_else(|| not_found("invalid path"))?;
    let from = parse_id(id).ok_or_else(|| not_found("invalid from"))?;
    if transport.shared.host.is_removed(from) {
        tracing::warn!(
            remote_peer_id_from = format!("{from:x}"),
            "rejected stream from remote peer because it was removed"
        );
        return Err(refuse(StatusCode::GONE, "removed member"));
    }
    let Some(peer) = transport.peer(from) else {
        // It may be a member that this one has not heard of yet.
        if let Some(urls) = text(headers, &PEER_URLS) {
            transport.note_remote(from, urls);
        }
        tracing::warn!(
            remote_peer_id_from = format!("{from:x}"),
            remote_peer_id_stream_handler = format!("{:x}", transport.shared.identity.member_id),
            "failed to find remote peer in cluster"
        );
        return Err(not_found("error sender not found"));
    };
    let to = format!("{:x}", transport.shared.identity.member_id);
    if text(headers, &RAFT_TO) != Some(to.as_str()) {
        return Err(refuse(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    let body = peer.attach(kind).ok_or_else(|| not_found("error sender not found"))?;
    let mut response = Response::new(Body::new(body));
    response.extensions_mut().insert(GoesOnAt(transport.shared.options.streams.clone()));
    Ok(response)
}

fn probing() -> Response {
    let body = format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", timestamp::write(timestamp::now()));
    let mut response = body.into_response();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_that_are_being_read_share_a_room() {
        let room = Semaphore::new(3);
        let body = |units: usize| Body::from(vec![1; units * ROOM_UNIT_BYTES]);
        assert_eq!(read_body(body(3), &room).await.map(|read| read.len()), Ok(3 * ROOM_UNIT_BYTES));
        assert_eq!(room.available_permits(), 3, "it is given back");
        assert!(read_body(body(4), &room).await.unwrap_err().contains("no room"));
        let other = room.try_acquire_many(2).unwrap();
        assert!(read_body(body(2), &room).await.is_err());
        assert!(read_body(body(1), &room).await.is_ok());
        drop(other);
        assert!(read_body(body(2), &room).await.is_ok());
        assert_eq!(room.available_permits(), 3);
    }
}
