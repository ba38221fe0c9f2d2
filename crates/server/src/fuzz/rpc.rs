//! The body of the fuzz target `rpc_requests` (`fuzz/`): calls of every method of every service, on a member without sockets.
//!
//! Any bytes are read as the state that a new member is brought into (one byte), and a list of calls: the method, how it is called, a
//! length, and that many bytes of a message. Calls go to the routes that a connection would give them to, so that everything between
//! a client's frames and the log has its part: decoding, rights, checks, execution, the answer.
//!
//! Compiled for tests, and with the feature `fuzzing`: a member without sockets is of no other use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::entrance::Entrance;
use axum::body::Body;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use machine::Version as EtcdVersion;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use tokio::time::timeout;
use tonic::{Code, Status};
use tower_service::Service as _;

use crate::Member;
use crate::config::Config;
use crate::gateway;
use crate::member::unconnected;
use crate::publish;

/// One run is to be short.
const CALLS_MAX: usize = 32;
/// How long an answer takes at most that has nothing to wait for. Only a call that is never answered takes so long.
const DUE: Duration = Duration::from_secs(10);
/// How long to look for an answer that may have to wait: of a stream, or for a lock.
const PATIENCE: Duration = Duration::from_millis(10);
/// The services that the descriptors do not hold.
const HEALTH: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
/// Calls that wait until others have made room.
const WAITING: [&str; 2] = ["/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign"];

/// What the first byte says.
pub(super) mod state {
    /// The version, by its remainder: 3.5, 3.6, 3.7.
    pub(in super::super) const VERSION: u8 = 0x03;
    /// There are users, and authentication is on.
    pub(in super::super) const AUTH: u8 = 0x04;
}

/// What a call's second byte says.
pub(super) mod how {
    /// Who calls: nobody, root, one with some rights, one with a token that nobody gave out.
    pub(in super::super) const WHO: u8 = 0x03;
    /// The next message belongs to the same call, whatever that one's method is.
    pub(in super::super) const MORE: u8 = 0x04;
    /// The bytes are the whole body, and no message.
    pub(in super::super) const RAW: u8 = 0x08;
    /// The bytes are JSON, and go to the gateway.
    pub(in super::super) const JSON: u8 = 0x10;
}

/// A method that can be called.
struct Method {
    path: String,
    /// Where the gateway has it.
    posted_to: Option<&'static str>,
    streams_requests: bool,
    streams_answers: bool,
    answer: Option<MessageDescriptor>,
}

impl std::fmt::Debug for Method {
    /// Descriptors are long.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)
    }
}

impl Method {
    /// Whether an answer may be a long time in coming.
    fn may_wait(&self) -> bool {
        self.streams_requests || self.streams_answers || WAITING.contains(&self.path.as_str())
    }
}

/// All of them, in the order of their paths.
fn methods() -> &'static [Method] {
    static METHODS: OnceLock<Vec<Method>> = OnceLock::new();
    METHODS.get_or_init(|| {
        let pool = DescriptorPool::decode(rpc::API_DESCRIPTORS);
        let pool = pool.expect("generated descriptors are whole");
        let mut methods: BTreeMap<String, Method> = BTreeMap::new();
        for known in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", known.parent_service().full_name(), known.name());
            let method = Method {
                posted_to: gateway::fuzz::posted_to(&path),
                path: path.clone(),
                streams_requests: known.is_client_streaming(),
                streams_answers: known.is_server_streaming(),
                answer: Some(known.output()),
            };
            methods.insert(path, method);
        }
        for path in HEALTH {
            let method = Method {
                path: path.to_owned(),
                posted_to: None,
                streams_requests: false,
                streams_answers: path.ends_with("Watch"),
                answer: None,
            };
            methods.insert(path.to_owned(), method);
        }
        methods.into_values().collect()
    })
}

/// A call, as the input has it.
#[derive(Debug)]
struct Call {
    method: &'static Method,
    how: u8,
    messages: Vec<Bytes>,
}

/// Takes the next call off the input.
fn next_call(rest: &mut &[u8]) -> Option<Call> {
    let mut call: Option<Call> = None;
    while let [method, how, low, high, tail @ ..] = *rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (message, tail) = tail.split_at(len);
        *rest = tail;
        let call = call.get_or_insert_with(|| Call {
            method: &methods()[usize::from(*method) % methods().len()],
            how: *how,
            messages: Vec::new(),
        });
        call.messages.push(Bytes::copy_from_slice(message));
        if how & how::MORE == 0 {
            break;
        }
    }
    call
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Called {
    pub(super) path: String,
    pub(super) is_json: bool,
    /// `None`: nothing came while this was looked for, which only calls do that may wait.
    pub(super) answer: Option<Answer>,
}

/// An answer, or the first of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Grpc(Code),
    Http(StatusCode),
}

/// The bytes are the state of a member, and calls that it gets one after the other.
///
/// # Panics
/// When a promise is broken: a call that has nothing to wait for is not answered, or not with a status and messages of its kind; the member
/// takes no further write; a stage of it has failed.
pub fn rpc_requests(bytes: &[u8]) {
    called(bytes, PATIENCE);
}

/// The same, with the time that calls are given that may wait.
pub(super) fn called(bytes: &[u8], patience: Duration) -> Vec<Called> {
    let Some((&state, mut rest)) = bytes.split_first() else { return Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs but memory and a few descriptors");
    runtime.block_on(async {
        let folder = Folder::new();
        let (mut member, routes) = unconnected::start(config(&folder.0, state)).await;
        let mut client = Client { routes, patience, tokens: [None, None] };
        if state & state::AUTH != 0 {
            client.enable_auth().await;
        }
        let mut all = Vec::new();
        while all.len() < CALLS_MAX
            && is_alone(&member)
            && let Some(call) = next_call(&mut rest)
        {
            all.push(client.call(&call).await);
        }
        if is_alone(&member) {
            client.check_alive(&member).await;
        }
        let failure = unconnected::failure(&mut member);
        assert!(failure.is_none(), "{failure:?} after {all:?}");
        member.stop().await;
        all
    })
}

/// Whether the member still decides alone. With another voter it waits for one who never comes.
fn is_alone(member: &Member) -> bool {
    let core = unconnected::core(member);
    let known = core.facts.get();
    let mut voters = known.membership.members().filter(|member| !member.is_learner);
    voters.next().is_some_and(|voter| voter.id == core.member_id) && voters.next().is_none()
}

fn config(data_dir: &Path, state: u8) -> Config {
    let versions = EtcdVersion::EMULATED;
    let version = versions[usize::from(state & state::VERSION) % versions.len()];
    Config {
        emulated_version: Some(version),
        // Nothing is to survive.
        unsafe_no_fsync: true,
        // How long a member takes to see that it is not followed any more.
        heartbeat: Duration::from_millis(10),
        election: Duration::from_millis(100),
        ..unconnected::config(data_dir)
    }
}

/// Who calls, and what for.
#[derive(Debug)]
struct Client {
    routes: Entrance,
    patience: Duration,
    /// Those of root and of the one with some rights.
    tokens: [Option<String>; 2],
}

impl Client {
    async fn enable_auth(&mut self) {
        let user = |name: &str| pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: name.to_owned(),
            ..pb::AuthUserAddRequest::default()
        };
        let role = |name: &str| pb::AuthRoleAddRequest { name: name.to_owned() };
        let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        let permission = Permission {
            perm_type: Type::Readwrite.into(),
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"c"),
        };
        let permission =
            pb::AuthRoleGrantPermissionRequest { name: "some".to_owned(), perm: Some(permission) };
        self.do_auth("UserAdd", &user("root")).await;
        self.do_auth("UserAdd", &user("ann")).await;
        self.do_auth("RoleAdd", &role("root")).await;
        self.do_auth("RoleAdd", &role("some")).await;
        self.do_auth("RoleGrantPermission", &permission).await;
        self.do_auth("UserGrantRole", &grant("root", "root")).await;
        self.do_auth("UserGrantRole", &grant("ann", "some")).await;
        self.do_auth("AuthEnable", &pb::AuthEnableRequest {}).await;
        for (at, name) in ["root", "ann"].into_iter().enumerate() {
            let request = pb::AuthenticateRequest { name: name.into(), password: name.into() };
            let answer = self.do_auth("Authenticate", &request).await;
            let answer =
                pb::AuthenticateResponse::decode(answer).expect("it is what was asked for");
            self.tokens[at] = Some(answer.token);
        }
    }

    /// The answer to a request that nothing speaks against.
    async fn do_auth(&mut self, name: &str, message: &impl Message) -> Bytes {
        let path = format!("/etcdserverpb.Auth/{name}");
        let method = methods().iter().find(|known| known.path == path).expect("it is there");
        let call = Call { method, how: 0, messages: vec![message.encode_to_vec().into()] };
        let (code, mut messages) = self.grpc(&call).await;
        assert_eq!(code, Code::Ok, "{path}");
        messages.pop().expect("an answer has a message")
    }

    async fn call(&mut self, call: &Call) -> Called {
        let posted_to = call.method.posted_to.filter(|_| call.how & how::JSON != 0);
        let limit = if call.method.may_wait() { self.patience } else { DUE };
        let answering = async {
            match posted_to {
                Some(path) => Answer::Http(self.post(path, call).await),
                None => Answer::Grpc(self.grpc(call).await.0),
            }
        };
        let answer = timeout(limit, answering).await.ok();
        assert!(answer.is_some() || call.method.may_wait(), "{call:?} is not answered");
        Called { path: call.method.path.clone(), is_json: posted_to.is_some(), answer }
    }

    fn token(&self, how: u8) -> Option<&str> {
        match how & how::WHO {
            0 => None,
            1 => self.tokens[0].as_deref(),
            2 => self.tokens[1].as_deref(),
            _ => Some("WhereDoesThisCome.1"),
        }
    }

    /// Calls by gRPC: the status, and the messages of an answer that is no stream, or the first one of a stream.
    async fn grpc(&mut self, call: &Call) -> (Code, Vec<Bytes>) {
        let mut request = Request::post(&call.method.path)
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers");
        if let Some(token) = self.token(call.how) {
            request = request.header("token", token);
        }
        let body = Sent { rest: frames(call), stays_open: call.method.streams_requests };
        let request = request.body(Body::new(body)).expect("every part of it is well-formed");
        let response = self.routes.call(request).await.unwrap_or_else(|never| match never {});
        let (head, mut body) = response.into_parts();
        assert_eq!(head.status, StatusCode::OK, "{call:?}");
        if let Some(status) = Status::from_header_map(&head.headers) {
            return (status.code(), Vec::new());
        }
        let (mut gathered, mut messages) = (BytesMut::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame =
                frame.unwrap_or_else(|error| panic!("{call:?}: the answer breaks: {error}"));
            if let Some(trailers) = frame.trailers_ref() {
                let status = Status::from_header_map(trailers).expect("trailers have a status");
                let is_whole = messages.len() == 1 && gathered.is_empty();
                let is_unary = !call.method.streams_answers && status.code() == Code::Ok;
                assert!(is_whole || !is_unary, "{call:?}: {} messages", messages.len());
                return (status.code(), messages);
            }
            gathered.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(message) = next_message(&mut gathered) {
                let answer = call.method.answer.clone();
                let read = answer.map(|kind| DynamicMessage::decode(kind, message.clone()));
                assert!(read.is_none_or(|read| read.is_ok()), "{call:?}: {message:?}");
                messages.push(message);
            }
            if call.method.streams_answers && !messages.is_empty() {
                return (Code::Ok, messages);
            }
        }
        panic!("{call:?} ends without a status");
    }

    /// Calls by JSON.
    async fn post(&mut self, path: &str, call: &Call) -> StatusCode {
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
        if let Some(token) = self.token(call.how) {
            request = request.header(AUTHORIZATION, token);
        }
        let body = Sent {
            rest: Bytes::from(call.messages.concat()),
            stays_open: call.method.streams_requests,
        };
        let request = request.body(Body::new(body)).expect("every part of it is well-formed");
        let response = self.routes.call(request).await.unwrap_or_else(|never| match never {});
        let (head, mut body) = response.into_parts();
        if call.method.streams_answers {
            // The first of its lines.
            drop(body.frame().await);
            return head.status;
        }
        let body = body.collect().await;
        let body = body.unwrap_or_else(|error| panic!("{call:?}: the answer breaks: {error}"));
        let json = serde_json::from_slice::<serde_json::Value>(&body.to_bytes());
        assert!(json.is_ok_and(|json| json.is_object()), "{call:?}: {}", head.status);
        head.status
    }

    /// What was called has not ended the member: it brings a proposal of its own through the log, and answers a client.
    async fn check_alive(&mut self, member: &Member) {
        let published = timeout(DUE, publish::publish(unconnected::core(member))).await;
        assert!(published.is_ok(), "nothing gets through the log any more");
        let put = pb::PutRequest { key: Bytes::from_static(b"last"), ..pb::PutRequest::default() };
        let method = methods().iter().find(|known| known.path == "/etcdserverpb.KV/Put");
        let call = Call {
            method: method.expect("it is there"),
            how: 1,
            messages: vec![put.encode_to_vec().into()],
        };
        let (code, _) = timeout(DUE, self.grpc(&call)).await.expect("a put is answered");
        // Alarms and lost rights may refuse it.
        let is_answer =
            !matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Internal);
        assert!(is_answer, "a put is answered with {code:?}");
    }
}

/// The body of a call by gRPC.
fn frames(call: &Call) -> Bytes {
    if call.how & how::RAW != 0 {
        return Bytes::from(call.messages.concat());
    }
    let mut body = BytesMut::new();
    for message in &call.messages {
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        body.put_slice(message);
    }
    body.freeze()
}

/// Takes a whole message off the front.
fn next_message(gathered: &mut BytesMut) -> Option<Bytes> {
    let head = gathered.first_chunk::<5>()?;
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let len = usize::try_from(len).ok().filter(|len| gathered.len() >= 5 + len)?;
    gathered.advance(5);
    Some(gathered.split_to(len).freeze())
}

/// A body that is there at once, and then ends or goes on without anything more.
struct Sent {
    rest: Bytes,
    stays_open: bool,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return if self.stays_open { Poll::Pending } else { Poll::Ready(None) };
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))))
    }
}

/// A folder that goes with this value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("retcd-rpc-fuzz-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the folder for temporary things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
