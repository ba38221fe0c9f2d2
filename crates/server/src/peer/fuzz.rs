//! Bodies of the fuzz targets of the peer port (`fuzz/`), as plain functions: the corpus is replayed by ordinary tests too.
//!
//! Each takes any bytes for what a peer sent, and panics when a promise is broken. No sockets: requests go to the routes as a
//! connection would give them, a database goes to a simulated disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body as RequestBody;
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use raft::codec::encode_message;
use raft::{Body, Message, NodeId};
use tokio::runtime::{Builder, Handle};
use tower_service::Service as _;

use super::codec::{
    Decoder, Encoder, SnapshotHead, StreamKind, decode_posted, decode_snapshot_head,
};
use super::headers::{RAFT_TO, SERVER_FROM};
use super::{Delivery, Dialler, Host, Identity, Options, REMOTES_MAX, Transport, answers};

/// The member that everything is sent to.
const LOCAL: NodeId = NodeId(0x1234);
/// A member that it knows.
const PEER: NodeId = NodeId(0xabc);
/// A member that was removed.
const REMOVED: NodeId = NodeId(0x99);
const CLUSTER: u64 = 0x49d3_79cb_f559_ade7;

/// The first byte says in which pieces the others arrive, as a stream of messages.
pub fn peer_message_stream(bytes: &[u8]) {
    stream(StreamKind::Message, bytes);
}

/// The first byte says in which pieces the others arrive, as a stream of appends.
pub fn peer_append_stream(bytes: &[u8]) {
    stream(StreamKind::Append, bytes);
}

fn stream(kind: StreamKind, bytes: &[u8]) {
    let Some((&piece_bytes, stream)) = bytes.split_first() else { return };
    let (whole, whole_ends) = decode(kind, stream, usize::MAX);
    let (pieces, pieces_end) = decode(kind, stream, usize::from(piece_bytes).max(1));
    assert_eq!(whole, pieces, "how bytes arrive changes no message");
    assert_eq!(whole_ends, pieces_end, "nor whether the stream is understood");
    let mut encoder = Encoder::new(kind);
    let mut encoded = BytesMut::new();
    for message in &whole {
        encoder.encode(message, &mut encoded);
    }
    let (again, ends) = decode(kind, &encoded, usize::MAX);
    assert!(ends, "what this member writes is understood");
    let bodies = |messages: &[Message]| -> Vec<Body> {
        messages.iter().map(|message| message.body.clone()).collect()
    };
    assert_eq!(bodies(&again), bodies(&whole), "what is written again reads the same");
}

/// The messages, and whether the stream breaks no rule.
fn decode(kind: StreamKind, stream: &[u8], piece_bytes: usize) -> (Vec<Message>, bool) {
    let mut decoder = Decoder::new(kind, LOCAL, PEER);
    let mut messages = Vec::new();
    let mut arrived = 0;
    for piece in stream.chunks(piece_bytes) {
        arrived += piece.len();
        if decoder.decode(Bytes::copy_from_slice(piece), &mut messages).is_err() {
            return (messages, false);
        }
        assert!(
            decoder.gathered_bytes() <= 2 * arrived + super::codec::GATHER_BYTES,
            "memory is taken as bytes arrive"
        );
    }
    (messages, true)
}

/// The bytes are a message as `POST /raft` brings it, or stand in front of a snapshot.
pub fn peer_posted(bytes: &[u8]) {
    let posted = decode_posted(Bytes::copy_from_slice(bytes));
    if let Ok(message) = &posted {
        let again = decode_posted(Bytes::from(encode_message(message)));
        assert_eq!(again.as_ref(), Ok(message), "what is written again reads the same");
    }
    match decode_snapshot_head(Bytes::copy_from_slice(bytes)) {
        Ok(SnapshotHead::Snapshot(message)) => {
            assert!(matches!(message.body, Body::Snapshot(_)));
            assert_eq!(posted, Ok(message));
        }
        Ok(SnapshotHead::OtherKind) => {
            let is_snapshot = |message: &Message| matches!(message.body, Body::Snapshot(_));
            assert!(!posted.as_ref().is_ok_and(is_snapshot));
        }
        Err(_) => assert!(posted.is_err()),
    }
}

/// The bytes are an answer of a peer, of whatever kind this member takes them for; or the body of one of the questions that members
/// ask each other.
pub fn peer_answers(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(members) = answers::members(&bytes) {
        let again = serde_json::to_vec(&members).map(Bytes::from);
        let again = again.ok().and_then(|again| answers::members(&again).ok());
        assert_eq!(again.as_ref(), Some(&members), "a list that is written again reads the same");
    }
    let versions = [answers::cluster_version(&bytes), answers::server_version(&bytes)];
    for version in versions.into_iter().flatten() {
        assert_eq!(machine::Version::parse(&version.to_string()), Some(version));
    }
    let probed = answers::probed(&bytes);
    assert!(probed.is_none_or(|at| at.as_secs() < 400_000_000_000), "a year of four digits");
    // These have no promise but to return.
    let _ = answers::renewed(bytes.clone());
    let _ = answers::time_to_live(bytes.clone());
    let _ = crate::peer_port::lease_to_renew(bytes.clone());
    let _ = crate::peer_port::lease_to_tell(bytes.clone());
    let _ = crate::peer_port::revision_to_hash(&bytes);
}

/// The bytes are a request, written as HTTP/1.1 writes it: `GET /raft/probing`, headers, an empty line, a body. A line `peer` stands
/// for the headers that a peer sends. Lines end in `\n`; what HTTP cannot carry is left out.
pub fn peer_requests(bytes: &[u8]) {
    let Some((request, body)) = request(bytes) else { return };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without sockets needs nothing but memory");
    runtime.block_on(async {
        let member = Member::new();
        let (head, answer) = match member.transport.routes().call(request).await {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        let is_answered =
            matches!(head.status.as_u16(), 200 | 204 | 400 | 404 | 405 | 410 | 412 | 500);
        assert!(is_answered, "{method} {path}: {}", head.status);
        let is_stream = path.starts_with("/raft/stream/") && head.status == StatusCode::OK;
        if !is_stream {
            let answer = answer.collect().await.map(|body| body.to_bytes().len());
            assert!(answer.is_ok_and(|count| count < 4096), "an answer is short and whole");
        }
        let delivered = member.host.delivered();
        assert_eq!(
            !delivered.is_empty(),
            method == Method::POST && head.status == StatusCode::NO_CONTENT,
            "204 says that raft has it"
        );
        for message in &delivered {
            assert!(message.to == LOCAL && message.from != REMOVED, "{message:?}");
        }
        member.check_files(&delivered, &body);
        assert!(member.transport.read().remotes.len() <= REMOTES_MAX);
        member.transport.stop().await;
    });
}

/// The request, and its body once more.
pub(crate) fn request(bytes: &[u8]) -> Option<(Request<RequestBody>, Bytes)> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut read = lines.next()?.len() + 1;
    let first = std::str::from_utf8(bytes.get(..read - 1)?).ok()?;
    let (method, path) = first.split_once(' ')?;
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = Uri::from(http::uri::PathAndQuery::try_from(path).ok()?);
    let headers = request.headers_mut();
    for line in lines {
        read += line.len() + 1;
        if line.is_empty() {
            break;
        }
        if line == b"peer" {
            headers.extend(identity(PEER).request_headers());
            headers.insert(SERVER_FROM, HeaderValue::from_static("abc"));
            headers.insert(RAFT_TO, HeaderValue::from_static("1234"));
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            headers.insert(name, value);
        }
    }
    let body = Bytes::copy_from_slice(bytes.get(read..).unwrap_or_default());
    let piece_bytes = bytes.len() % 64 + 1;
    *request.body_mut() = RequestBody::new(InPieces { rest: body.clone(), piece_bytes });
    Some((request, body))
}

/// A body that arrives in pieces.
struct InPieces {
    rest: Bytes,
    piece_bytes: usize,
}

impl hyper::body::Body for InPieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let count = self.piece_bytes.min(self.rest.len());
        let piece = (count > 0).then(|| Ok(Frame::data(self.rest.split_to(count))));
        std::task::Poll::Ready(piece)
    }
}

fn identity(member: NodeId) -> Identity {
    Identity {
        cluster_id: CLUSTER,
        member_id: member.0,
        server_version: "3.5.30".to_owned(),
        // Never dialled: the scheme is not served.
        peer_urls: vec!["unix://localhost:1".to_owned()],
    }
}

/// A transport that knows one peer, on a simulated disk.
struct Member {
    transport: Arc<Transport>,
    host: Arc<Ears>,
    disk: vfs::sim::SimDisk,
}

impl Member {
    fn new() -> Self {
        let host = Arc::new(Ears::default());
        let disk = vfs::sim::SimDisk::new();
        let options = Options {
            dialler: Dialler::new(Duration::from_secs(1), None),
            snap_dir: disk.dir(),
            metrics: Arc::default(),
            streams: Handle::current(),
        };
        let told: Arc<dyn Host> = Arc::clone(&host) as _;
        let transport = Transport::new(identity(LOCAL), options, told, Handle::current());
        transport.add_peer(PEER.0, &identity(PEER).peer_urls);
        Self { transport, host, disk }
    }

    /// There is a file for a snapshot that raft has, with what stood behind its head, and no other.
    fn check_files(&self, delivered: &[Message], posted: &Bytes) {
        let dir = self.disk.dir();
        let files = dir.list().expect("a simulated disk without faults");
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let Some(Message { body: Body::Snapshot(snapshot), .. }) = delivered.first() else {
            assert!(names.is_empty(), "{names:?} without a snapshot");
            return;
        };
        let name = backend::snapshot_db_name(snapshot.metadata.index.0);
        assert_eq!(names, [name.as_str()]);
        let head = posted.first_chunk().map_or(0, |head| u64::from_be_bytes(*head));
        let start = usize::try_from(head).unwrap_or(usize::MAX).saturating_add(8);
        let database = posted.get(start..).unwrap_or_default();
        let file = dir.open(&name, vfs::OpenMode::Read).expect("it is in the list");
        let mut kept = vec![0; database.len()];
        let read = file.read_at(&mut kept, 0).expect("a simulated disk without faults");
        let len_bytes = file.len_bytes().expect("a simulated disk without faults");
        assert_eq!((read, len_bytes), (database.len(), database.len() as u64));
        assert!(kept == database, "the file holds what was sent");
    }
}

/// Keeps what it is given.
#[derive(Debug, Default)]
struct Ears {
    /// Held to add one or to look at them.
    delivered: Mutex<Vec<Message>>,
}

impl Ears {
    fn delivered(&self) -> Vec<Message> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Host for Ears {
    fn deliver(&self, message: Message) -> Delivery {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        Delivery::Taken
    }

    fn unreachable(&self, _: NodeId) {}

    fn snapshot_sent(&self, _: NodeId, _: bool) {}

    fn is_removed(&self, id: u64) -> bool {
        id == REMOVED.0
    }

    fn removed_from_cluster(&self, told_by: u64) {
        panic!("{told_by:x} cannot remove a member by a request");
    }
}
