//! How errors look: the HTTP status of a gRPC code, and bodies that clients of both gateway versions understand.

use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tonic::{Code, Status};

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

/// The answer when a call fails as a whole: `code` and `message` as gateway v2, `error` as v1.
pub(super) fn response(status: &Status) -> Response {
    // In the order of v1: there are scripts that look for the text.
    let (code, message) = (status.code() as i32, json!(status.message()));
    let body = format!(r#"{{"error":{message},"code":{code},"message":{message}}}"#);
    let mut response = with_body(status.code(), body);
    if status.code() == Code::Unauthenticated
        && let Ok(value) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// The answer when a stream fails before its first message.
pub(super) fn stream_response(status: &Status) -> Response {
    with_body(status.code(), line(status))
}

/// A stream's last line when it fails.
pub(super) fn line(status: &Status) -> String {
    format!("{}\n", json!({ "error": in_stream(status) }))
}

/// `code` and `message` as gateway v2, the others as v1.
fn in_stream(status: &Status) -> Value {
    let code = status.code() as i32;
    let http = http_status(status.code());
    json!({
        "code": code,
        "message": status.message(),
        "grpc_code": code,
        "http_code": http.as_u16(),
        "http_status": http.canonical_reason().unwrap_or_default(),
    })
}

fn with_body(code: Code, body: String) -> Response {
    (http_status(code), [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_text_is_that_of_gateway_v1() {
        let answer = response(&Status::unknown("\"leader\" field must be provided"));
        let body = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
        let expected = r#"{"error":"\"leader\" field must be provided","code":2,"message":"\"leader\" field must be provided"}"#;
        assert_eq!(body, expected);
    }
}
