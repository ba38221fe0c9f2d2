//! The body of the fuzz target `gateway_requests` (`fuzz/`), as a plain function: the corpus is replayed by an ordinary test too.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::OnceLock;

use axum::body::Body;
use bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tokio_stream::StreamExt as _;

use super::requests::Requests;
use super::routes::{self, Call};
use super::{Dialect, messages};

/// A number of JSON, with a comma, takes ten bytes of protobuf at most.
const GROWTH_MAX: usize = 8;

/// What a client posts to the gateway: in which pieces the body arrives (a byte), the path, a line feed, the body.
///
/// # Panics
/// When a promise is broken: how a body arrives matters; a message is larger than its JSON by more than its numbers explain, is not one
/// of its kind, or is another one when it is written as JSON and read again.
pub fn gateway_requests(bytes: &[u8]) {
    static CALLS: OnceLock<HashMap<&'static str, Call>> = OnceLock::new();
    let Some((&piece_bytes, rest)) = bytes.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let (path, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(path) = std::str::from_utf8(path) else { return };
    let Some(call) = CALLS.get_or_init(routes::calls).get(path) else { return };
    for dialect in [Dialect::V1, Dialect::V2] {
        let whole = read(dialect, call, body, usize::MAX);
        let pieces = read(dialect, call, body, usize::from(piece_bytes).max(1));
        assert_eq!(whole, pieces, "how a body arrives changes no message");
        let mut sum = 0;
        for message in whole.iter().flatten() {
            sum += message.len();
            check(dialect, &call.request, message);
        }
        assert!(
            sum <= GROWTH_MAX * body.len(),
            "{sum} bytes of messages from {} of JSON",
            body.len()
        );
    }
}

/// The messages of a body that arrives in pieces of that size, and what is wrong with the rest of it.
fn read(
    dialect: Dialect,
    call: &Call,
    body: &[u8],
    piece_bytes: usize,
) -> Vec<Result<Bytes, String>> {
    let pieces: Vec<Result<Bytes, Infallible>> =
        body.chunks(piece_bytes).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let body = Body::from_stream(tokio_stream::iter(pieces));
    let (requests, _rest) = Requests::new(body, call.request.clone(), dialect, usize::MAX);
    let read = requests.map(|message| message.map_err(|status| status.message().to_owned()));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return Vec::new();
    };
    runtime.block_on(read.collect())
}

fn check(dialect: Dialect, descriptor: &MessageDescriptor, message: &Bytes) {
    let decoded = DynamicMessage::decode(descriptor.clone(), message.clone());
    assert!(decoded.is_ok(), "what was read from JSON is a message");
    let json = messages::to_json(descriptor, message.clone());
    let again = json.and_then(|json| messages::from_json(dialect, descriptor, &json));
    assert!(
        again.as_ref().is_ok_and(|again| again == message),
        "written as JSON and read again, {message:?} is {again:?}"
    );
}

/// A path on which the gateway has a call.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn posted_to(grpc_path: &str) -> Option<&'static str> {
    routes::ROUTES.iter().find(|(_, known)| *known == grpc_path).map(|(path, _)| *path)
}
