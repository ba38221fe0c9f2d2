//! The words of grpc-go where tonic has others, or none: clients of etcd show them, and some look for them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};

/// A service whose errors speak like grpc-go's.
#[derive(Debug, Clone)]
pub(crate) struct Worded<S>(pub(crate) S);

impl<S: NamedService> NamedService for Worded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> tower_service::Service<http::Request<Body>> for Worded<S>
where
    S: tower_service::Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
        >,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().cloned();
        Answering { answer: self.0.call(request), path }
    }
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answering<F> {
    answer: F,
    path: Option<PathAndQuery>,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context))?;
        // An error without a message before it is all in the headers; other answers have no status there.
        if !answer.headers().contains_key(Status::GRPC_STATUS) {
            return Poll::Ready(Ok(answer));
        }
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        Poll::Ready(Ok(match Status::from_header_map(answer.headers()) {
            Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
                unknown_method(path).into_http()
            }
            Some(status) => match reworded(&status) {
                Some(status) => status.into_http(),
                None => answer,
            },
            None => answer,
        }))
    }
}

/// The error of a client's stream of requests, as the client is told it.
pub(crate) fn of_stream(status: Status) -> Status {
    reworded(&status).unwrap_or(status)
}

/// The end of what prost says of a text.
const NOT_UTF8: &str = "invalid string value: data is not UTF-8 encoded";

/// What grpc-go says instead, if it says something else.
fn reworded(status: &Status) -> Option<Status> {
    match status.code() {
        Code::OutOfRange => {
            let sizes =
                status.message().strip_prefix("Error, decoded message length too large: found ")?;
            let (found, limit) =
                sizes.strip_suffix(" bytes")?.split_once(" bytes, the limit is: ")?;
            let text = format!("grpc: received message larger than max ({found} vs. {limit})");
            Some(Status::resource_exhausted(text))
        }
        Code::Internal => {
            let text = status.message();
            let said = if text.ends_with(NOT_UTF8) {
                // As etcd 3.7 says it. Older ones take such text, and all members keep it; here no version does.
                "grpc: error unmarshalling request: string field contains invalid UTF-8".to_owned()
            } else if text.starts_with("failed to decode Protobuf message") {
                format!("grpc: error unmarshalling request: {text}")
            } else if let Some(why) = text.strip_prefix("Error decompressing: ") {
                let why = why.strip_suffix(", while sending request").unwrap_or(why);
                format!("grpc: failed to decompress the received message: {why}")
            } else if text.starts_with("protocol error: received message with compressed-flag") {
                "grpc: compressed flag set with identity or empty encoding".to_owned()
            } else {
                return None;
            };
            Some(Status::internal(said))
        }
        Code::ResourceExhausted => {
            let limit = status.message().strip_prefix("Error decompressing: size limit, of ")?;
            let (limit, _) = limit.split_once(" bytes")?;
            let text =
                format!("grpc: received message after decompression larger than max {limit}");
            Some(Status::resource_exhausted(text))
        }
        Code::Unimplemented => {
            let encoding = status.message().strip_prefix("Content is compressed with `")?;
            let (encoding, _) = encoding.rsplit_once('`')?;
            let text =
                format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
            Some(Status::unimplemented(text))
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

fn unknown_method(path: &str) -> Status {
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
    Status::unimplemented(format!("unknown method {method} for service {service}"))
}

/// The answer to a call of a service that is not there.
pub(crate) fn unknown_service(path: &str) -> Status {
    match path.strip_prefix('/').unwrap_or(path).rsplit_once('/') {
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: &Status, code: Code, message: &str) {
        assert_eq!((status.code(), status.message()), (code, message));
    }

    #[test]
    fn too_large_is_exhausted() {
        let status = Status::out_of_range(
            "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes",
        );
        check(
            &of_stream(status),
            Code::ResourceExhausted,
            "grpc: received message larger than max (3000000 vs. 2097152)",
        );
    }

    #[test]
    fn etcd_s_own_errors_stay() {
        check(
            &of_stream(rpc::errors::Error::Compacted.into()),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        check(&of_stream(Status::internal("else")), Code::Internal, "else");
    }

    #[test]
    fn malformed_messages() {
        let error =
            <proto::etcdserverpb::PutRequest as prost::Message>::decode(&b"\x0a\x09short"[..])
                .unwrap_err();
        let status = of_stream(Status::internal(error.to_string()));
        assert!(status.message().starts_with("grpc: error unmarshalling request: "), "{status:?}");
    }

    #[test]
    fn text_that_is_not_utf8() {
        let error = <proto::etcdserverpb::AuthRoleAddRequest as prost::Message>::decode(
            &b"\x0a\x02\xff\xfe"[..],
        )
        .unwrap_err();
        check(
            &of_stream(Status::internal(error.to_string())),
            Code::Internal,
            "grpc: error unmarshalling request: string field contains invalid UTF-8",
        );
    }

    #[test]
    fn unknown_names() {
        check(
            &unknown_method("/etcdserverpb.KV/Get"),
            Code::Unimplemented,
            "unknown method Get for service etcdserverpb.KV",
        );
        check(
            &unknown_service("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
            Code::Unimplemented,
            "unknown service grpc.reflection.v1.ServerReflection",
        );
        check(&unknown_service("/name"), Code::Unimplemented, "malformed method name: \"/name\"");
    }
}
