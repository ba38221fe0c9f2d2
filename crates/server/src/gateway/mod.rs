//! The JSON gateway: `POST /v3/...` with JSON for those who do not speak gRPC.
//!
//! It is a client of the services in this process: a body's JSON becomes the bytes of a request, which go to the same
//! routes that the network's gRPC calls go to, and the answer's bytes become JSON. So whatever stands before a service
//! (size limits, checks, errors) holds here too, and a service needs nothing to be reachable by JSON but a line in
//! [`routes`]. Messages are handled by their descriptors ([`messages`]), none by its Rust type.
//!
//! ```text
//! HTTP body ─► scan ─► one JSON value ─► messages ─► request's bytes ─► grpc routes
//!                                                                          │
//! HTTP body ◄── one JSON value, or a line for each ◄── messages ◄── answer's bytes
//! ```
//!
//! A stream's requests are read while its answers are written, so that a client may hold the body open and go on asking.
//! All calls together count as one gRPC connection: `--max-concurrent-streams` bounds them, and the next one waits.
//!
//! What JSON is understood, and what errors look like, goes by the version of etcd: see [`Dialect`].
//!
//! Upstream: grpc-gateway v1 as etcd 3.5 sets it up, v2 as 3.6 and 3.7 do (server/embed/serve.go). Differs: of texts for values that do
//! not fit their field a few; malformed JSON instead of a stream's first request is an error, where etcd 3.6 opens the stream and is silent.

mod codec;
mod errors;
pub(crate) mod fuzz;
mod headers;
mod messages;
mod reader;
mod requests;
mod responses;
mod routes;
mod scan;
mod websocket;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use machine::Version;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::client::Grpc;
use tonic::{Code, Status, Streaming};

use codec::EncodedMessages;
use requests::{Requests, Rest};
use responses::Lines;
use routes::Call;
pub(crate) use websocket::{Conversations, is_asked_for as is_websocket_asked_for};

use crate::config::Config;
use crate::grpc::Services;
use crate::http;

/// Header that every answer of a service has, and errors do not.
const ANSWERED: (HeaderName, &str) =
    (HeaderName::from_static("grpc-metadata-content-type"), "application/grpc");

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// grpc-gateway v1's, of etcd 3.5.
    V1,
    /// grpc-gateway v2's, from etcd 3.6 on.
    V2,
}

/// The gateway of one member.
#[derive(Debug)]
pub(crate) struct Gateway {
    calls: HashMap<&'static str, Call>,
    dialect: Dialect,
    services: Services,
    /// Longest JSON value that is read.
    value_bytes_max: usize,
    /// Calls that may be under way.
    vacancies: Arc<Semaphore>,
    conversations: Arc<Conversations>,
}

/// A stream that has been answered once, or has failed, or ended.
struct Opened {
    first: Result<Option<Bytes>, Status>,
    answers: Streaming<Bytes>,
    vacancy: OwnedSemaphorePermit,
}

impl Gateway {
    /// A gateway to these services, which take messages of at most `message_bytes_max`.
    pub(crate) fn new(
        services: &Services,
        message_bytes_max: usize,
        version: Version,
        config: &Config,
        conversations: Arc<Conversations>,
    ) -> Self {
        let streams = usize::try_from(config.max_concurrent_streams).unwrap_or(usize::MAX);
        Self {
            calls: routes::calls(),
            dialect: if version < Version::v3(6, 0) { Dialect::V1 } else { Dialect::V2 },
            services: services.clone(),
            // Base64 makes a third more of a message, and the rest of JSON is little beside the largest of them. Whether
            // the message is too large is for the service to say.
            value_bytes_max: message_bytes_max.saturating_mul(2),
            vacancies: Arc::new(Semaphore::new(streams.min(Semaphore::MAX_PERMITS))),
            conversations,
        }
    }

    /// Answers a request to a path under `/v3/`.
    pub(crate) async fn answer(&self, path: &str, request: Request) -> Response {
        let Some(call) = self.calls.get(path) else {
            return match self.dialect {
                Dialect::V1 => http::error(StatusCode::NOT_FOUND, "Not Found"),
                Dialect::V2 => errors::response(self.dialect, &Status::not_found("Not Found")),
            };
        };
        if request.method() != Method::POST {
            let text = "Method Not Allowed";
            return match self.dialect {
                Dialect::V1 => http::error(StatusCode::METHOD_NOT_ALLOWED, text),
                Dialect::V2 => errors::response(self.dialect, &Status::unimplemented(text)),
            };
        }
        let (head, body) = request.into_parts();
        self.forward(call, &head, body)
            .await
            .unwrap_or_else(|status| errors::response(self.dialect, &status))
    }

    async fn forward(&self, call: &Call, head: &Parts, body: Body) -> Result<Response, Status> {
        let headers = &head.headers;
        let deadline = headers::deadline(headers, head.extensions.get().copied())?;
        headers::check_binary(headers)?;
        let (requests, mut rest) =
            Requests::new(body, call.request.clone(), self.dialect, self.value_bytes_max);
        if call.streams_answers {
            let opened = until(deadline, self.open(call, headers, requests));
            let opened = tokio::select! {
                opened = opened => opened?,
                never = &mut rest => match never {},
            };
            Ok(self.stream(call, opened, deadline, rest))
        } else {
            tokio::select! {
                answered = until(deadline, self.forward_one(call, headers, requests)) => answered,
                never = rest => match never {},
            }
        }
    }

    async fn forward_one(
        &self,
        call: &Call,
        headers: &HeaderMap,
        requests: Requests,
    ) -> Result<Response, Status> {
        let request = headers::with_metadata(headers, only_one(requests).await?);
        let _vacancy = self.vacancies.acquire().await.map_err(|_| gone())?;
        let answer = self.client().unary(request, call.grpc_path.clone(), EncodedMessages).await?;
        let json = messages::to_json(&call.response, answer.into_inner())?;
        Ok(([(CONTENT_TYPE, "application/json"), ANSWERED], json).into_response())
    }

    /// Begins a stream, and waits for its first answer. The status line waits for it too: an error that comes instead of it has
    /// a status of its own.
    async fn open(
        &self,
        call: &Call,
        headers: &HeaderMap,
        mut requests: Requests,
    ) -> Result<Opened, Status> {
        let (mut client, path) = (self.client(), call.grpc_path.clone());
        let (vacancy, answers) = if call.streams_requests {
            let first = requests.next().await.transpose().map_err(|error| match self.dialect {
                Dialect::V1 => Status::unknown(error.message()),
                Dialect::V2 => error,
            })?;
            let vacancy = Arc::clone(&self.vacancies).acquire_owned().await.map_err(|_| gone())?;
            // Malformed JSON is the end of what is asked, as etcd has it; what was asked before goes on.
            let others = requests.map_while(Result::ok);
            let requests = headers::with_metadata(headers, tokio_stream::iter(first).chain(others));
            (vacancy, client.streaming(requests, path, EncodedMessages).await?)
        } else {
            let request = headers::with_metadata(headers, only_one(requests).await?);
            let vacancy = Arc::clone(&self.vacancies).acquire_owned().await.map_err(|_| gone())?;
            (vacancy, client.server_streaming(request, path, EncodedMessages).await?)
        };
        let mut answers = answers.into_inner();
        let first = answers.message().await;
        Ok(Opened { first, answers, vacancy })
    }

    fn stream(
        &self,
        call: &Call,
        opened: Opened,
        deadline: Option<Instant>,
        rest: Rest,
    ) -> Response {
        let Opened { first, answers, vacancy } = opened;
        match first {
            Ok(Some(first)) => {
                let written = (call.response.clone(), self.dialect);
                let lines = Lines::new(first, answers, written, deadline, vacancy, rest);
                ([(CONTENT_TYPE, "application/json"), ANSWERED], Body::from_stream(lines))
                    .into_response()
            }
            Ok(None) => StatusCode::OK.into_response(),
            Err(status) => errors::stream_response(self.dialect, &status),
        }
    }

    /// Answers may be of any size: their bounds are the services' own.
    fn client(&self) -> Grpc<Services> {
        Grpc::new(self.services.clone()).max_decoding_message_size(usize::MAX)
    }
}

/// The body's first message; an empty body is an empty message. What follows is not looked at.
async fn only_one(mut requests: Requests) -> Result<Bytes, Status> {
    requests.next().await.unwrap_or(Ok(Bytes::new()))
}

async fn until<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        // The timer's clock is coarse: a quick call would slip through.
        Some(deadline) if deadline <= Instant::now() => Err(too_late()),
        Some(deadline) => {
            tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(too_late()))
        }
        None => work.await,
    }
}

/// Go's words for a deadline that has passed.
fn too_late() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

/// Nobody closes the semaphore; if somebody did, it would be because the member stops.
fn gone() -> Status {
    rpc::errors::Error::Stopped.into()
}

#[cfg(test)]
mod tests;
