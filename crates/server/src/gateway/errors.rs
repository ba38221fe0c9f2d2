//! How errors look: the HTTP status of a gRPC code, and the body.

use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::Dialect;

/// The HTTP status for a gRPC code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // "Client closed request", which no standard has.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer when a call fails as a whole.
pub(super) fn response(dialect: Dialect, status: &Status) -> Response {
    // In etcd's order: there are scripts that look for the text.
    let (code, message) = (status.code() as i32, json!(status.message()));
    let body = match dialect {
        Dialect::V1 => format!(r#"{{"error":{message},"code":{code},"message":{message}}}"#),
        Dialect::V2 => format!(r#"{{"code":{code}, "message":{message}}}"#),
    };
    let mut response = with_body(status.code(), body);
    if status.code() == Code::Unauthenticated
        && let Ok(value) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// The answer when a stream fails before its first message.
pub(super) fn stream_response(dialect: Dialect, status: &Status) -> Response {
    with_body(status.code(), line(dialect, status))
}

/// A stream's last line when it fails.
pub(super) fn line(dialect: Dialect, status: &Status) -> String {
    format!("{}\n", json!({ "error": in_stream(dialect, status) }))
}

fn in_stream(dialect: Dialect, status: &Status) -> Value {
    let (code, message) = (status.code() as i32, status.message());
    match dialect {
        Dialect::V1 => {
            let http = http_status(status.code());
            json!({
                "grpc_code": code,
                "http_code": http.as_u16(),
                "message": message,
                "http_status": http.canonical_reason().unwrap_or_default(),
            })
        }
        Dialect::V2 => json!({ "code": code, "message": message }),
    }
}

fn with_body(code: Code, body: String) -> Response {
    (http_status(code), [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_text_is_that_of_the_version() {
        let status = Status::unknown("\"leader\" field must be provided");
        for (dialect, expected) in [
            (
                Dialect::V1,
                r#"{"error":"\"leader\" field must be provided","code":2,"message":"\"leader\" field must be provided"}"#,
            ),
            (Dialect::V2, r#"{"code":2, "message":"\"leader\" field must be provided"}"#),
        ] {
            let answer = response(dialect, &status);
            let body = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
            assert_eq!(body, expected);
        }
    }
}
