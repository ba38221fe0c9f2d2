//! A line for each message that a client sends or gets, for those who ask for it by flag.
//!
//! Bodies of calls pass by here on their way, in both directions, with nothing held up: a message is a head of five bytes and what follows,
//! wherever frames of HTTP/2 cut it. It is shown in protobuf's JSON. Of long ones only the length is ([`SHOWN_BYTES_MAX`]).
//!
//! Passwords and tokens are left out ([`SECRETS`]); keys and values are not. Metadata is not shown at all.
//!
//! Upstream: `server/etcdmain/grpc_proxy_logger.go` (3.7.1), whose fields these are; 3.6 says the same in other words. Differs: secrets and
//! long messages.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::{Code, Status};

use crate::listen::Peer;

/// Longest message that is shown; more than most, and few lines a disk cannot take.
const SHOWN_BYTES_MAX: usize = 16 * 1024;

/// A message's head: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// Fields of etcd's API that hold what nobody may read in a log.
const SECRETS: &[&str] = &["password", "hashedPassword", "token"];
const HIDDEN: &str = "<hidden>";

/// Logs calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CallLog {
    pool: DescriptorPool,
}

impl CallLog {
    pub(crate) fn new() -> Self {
        // They are generated; were they not whole, messages would not be shown.
        let pool = DescriptorPool::decode(rpc::API_DESCRIPTORS).unwrap_or_default();
        Self { pool }
    }

    /// Passes a request on, and shows its messages and those of its answer.
    pub(crate) async fn observe(self, request: Request, next: Next) -> Response {
        let Some((call, input, output)) = self.call(&request) else {
            return next.run(request).await;
        };
        let call = Arc::new(call);
        let request = request.map(|body| {
            Body::new(Observed::new(body, Arc::clone(&call), Direction::Request, input))
        });
        let response = next.run(request).await;
        // An answer without messages has its status here.
        call.show_error(response.headers());
        response.map(|body| Body::new(Observed::new(body, call, Direction::Response, output)))
    }

    /// What a request asks for, if it is a call of a known method.
    fn call(&self, request: &Request) -> Option<(Call, MessageDescriptor, MessageDescriptor)> {
        let (service, method) = request.uri().path().strip_prefix('/')?.split_once('/')?;
        let found = self.pool.get_service_by_name(service)?;
        let found = found.methods().find(|found| found.name() == method)?;
        let peer = request.extensions().get::<Peer>().and_then(|Peer(address)| *address);
        let call = Call {
            service: service.to_owned(),
            method: method.to_owned(),
            peer: peer.map(|address| address.to_string()).unwrap_or_default(),
        };
        Some((call, found.input(), found.output()))
    }
}

/// Which call a message is of.
#[derive(Debug)]
struct Call {
    service: String,
    method: String,
    peer: String,
}

impl Call {
    fn show(&self, direction: Direction, content: &str) {
        let Self { service, method, peer } = self;
        match direction {
            Direction::Request => tracing::info!(
                grpc.request.content = content,
                grpc.service = service,
                grpc.method = method,
                peer.address = peer,
                "received payload logged as grpc.request.content field"
            ),
            Direction::Response => tracing::info!(
                grpc.response.content = content,
                grpc.service = service,
                grpc.method = method,
                peer.address = peer,
                "returned response payload logged as grpc.response.content field"
            ),
        }
    }

    /// Shows the status in headers or trailers, if it is an error.
    fn show_error(&self, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        if status.code() == Code::Ok {
            return;
        }
        let Self { service, method, peer } = self;
        let error = client::Error::from(status).grpc_text();
        tracing::info!(
            grpc.response.error = error,
            grpc.service = service,
            grpc.method = method,
            peer.address = peer,
            "returned response payload logged as grpc.response.content field"
        );
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Request,
    Response,
}

/// A body whose messages are shown as they pass.
struct Observed {
    body: Body,
    call: Arc<Call>,
    direction: Direction,
    kind: MessageDescriptor,
    messages: Messages,
}

impl Observed {
    fn new(body: Body, call: Arc<Call>, direction: Direction, kind: MessageDescriptor) -> Self {
        Self { body, call, direction, kind, messages: Messages::default() }
    }
}

impl hyper::body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                let Self { call, direction, kind, messages, .. } = this;
                messages.pass(data, |message| call.show(*direction, &text(kind, &message)));
            }
            if let Some(trailers) = frame.trailers_ref() {
                this.call.show_error(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A message that has passed.
#[derive(Debug, PartialEq, Eq)]
enum Passed {
    Whole(Bytes),
    /// It cannot be read here.
    Compressed(usize),
    Long(usize),
}

/// Where a body is within its messages.
#[derive(Debug, Default)]
struct Messages {
    /// The head, and what is kept of what follows.
    kept: BytesMut,
    /// Bytes of a message that is not kept, still to come.
    skipping: usize,
}

impl Messages {
    fn pass(&mut self, mut data: &[u8], mut show: impl FnMut(Passed)) {
        loop {
            let (skipped, rest) = data.split_at(self.skipping.min(data.len()));
            self.skipping -= skipped.len();
            data = rest;
            let Some((&[compressed, l0, l1, l2, l3], _)) =
                self.kept.split_first_chunk::<HEAD_BYTES>()
            else {
                if data.is_empty() {
                    return;
                }
                let missing = HEAD_BYTES - self.kept.len();
                data = self.keep(data, missing);
                continue;
            };
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            if compressed != 0 || length > SHOWN_BYTES_MAX {
                self.kept.clear();
                self.skipping = length;
                show(match compressed {
                    0 => Passed::Long(length),
                    _ => Passed::Compressed(length),
                });
                continue;
            }
            let missing = HEAD_BYTES + length - self.kept.len();
            data = self.keep(data, missing);
            if self.kept.len() < HEAD_BYTES + length {
                return;
            }
            let message = self.kept.split().freeze().slice(HEAD_BYTES..);
            show(Passed::Whole(message));
        }
    }

    /// Keeps at most so many bytes, and returns the rest.
    fn keep<'a>(&mut self, data: &'a [u8], most: usize) -> &'a [u8] {
        let (kept, rest) = data.split_at(most.min(data.len()));
        self.kept.extend_from_slice(kept);
        rest
    }
}

/// A message as the log shows it.
fn text(kind: &MessageDescriptor, message: &Passed) -> String {
    let bytes = match message {
        Passed::Whole(bytes) => bytes.clone(),
        Passed::Compressed(length) => return format!("{length} bytes, compressed"),
        Passed::Long(length) => return format!("{length} bytes"),
    };
    let Ok(message) = DynamicMessage::decode(kind.clone(), bytes) else {
        return "not a message of this method".to_owned();
    };
    let options = SerializeOptions::new();
    match message.serialize_with_options(serde_json::value::Serializer, &options) {
        Ok(mut value) => {
            hide(&mut value);
            value.to_string()
        }
        Err(error) => error.to_string(),
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if SECRETS.contains(&name.as_str()) {
                    *field = HIDDEN.into();
                } else {
                    hide(field);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::etcdserverpb::request_op::Request as Op;
    use proto::etcdserverpb::{
        AuthUserAddRequest, AuthenticateResponse, PutRequest, RequestOp, TxnRequest,
    };

    use super::*;

    fn framed(message: &[u8], compressed: u8) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[compressed], &length[..], message].concat()
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let long = vec![7; SHOWN_BYTES_MAX + 1];
        let body = [
            framed(b"one", 0),
            framed(b"", 0),
            framed(&long, 0),
            framed(b"two", 0),
            framed(b"zip", 1),
            framed(b"three", 0),
        ]
        .concat();
        let whole = |text: &'static [u8]| Passed::Whole(text.into());
        let expected = [
            whole(b"one"),
            whole(b""),
            Passed::Long(SHOWN_BYTES_MAX + 1),
            whole(b"two"),
            Passed::Compressed(3),
            whole(b"three"),
        ];
        for size in [1, 2, 3, 7, 100, 20_000, usize::MAX] {
            let (mut messages, mut passed) = (Messages::default(), Vec::new());
            for piece in body.chunks(size) {
                messages.pass(piece, |message| passed.push(message));
            }
            assert_eq!(passed, expected, "{size}");
            assert!(messages.kept.is_empty() && messages.skipping == 0);
        }
    }

    #[test]
    fn secrets_are_hidden_and_keys_are_not() {
        let log = CallLog::new();
        let show = |name: &str, message: Vec<u8>| {
            let kind = log.pool.get_message_by_name(&format!("etcdserverpb.{name}")).unwrap();
            text(&kind, &Passed::Whole(message.into()))
        };
        let user = AuthUserAddRequest {
            name: "bob".into(),
            password: "p".into(),
            hashed_password: "h".into(),
            options: None,
        };
        assert_eq!(
            show("AuthUserAddRequest", user.encode_to_vec()),
            r#"{"hashedPassword":"<hidden>","name":"bob","password":"<hidden>"}"#
        );
        let token = AuthenticateResponse { header: None, token: "t".into() };
        assert_eq!(show("AuthenticateResponse", token.encode_to_vec()), r#"{"token":"<hidden>"}"#);
        let put = PutRequest { key: "a".into(), lease: 5, ..PutRequest::default() };
        let put = RequestOp { request: Some(Op::RequestPut(put)) };
        let txn = TxnRequest { success: vec![put], ..TxnRequest::default() };
        assert_eq!(
            show("TxnRequest", txn.encode_to_vec()),
            r#"{"success":[{"requestPut":{"key":"YQ==","lease":"5"}}]}"#
        );
        assert_eq!(show("PutRequest", vec![0xff]), "not a message of this method");
    }

    #[test]
    fn every_forwarded_service_is_known() {
        let log = CallLog::new();
        for service in ["etcdserverpb.KV", "v3lockpb.Lock", "v3electionpb.Election"] {
            assert!(log.pool.get_service_by_name(service).is_some(), "{service}");
        }
    }
}
