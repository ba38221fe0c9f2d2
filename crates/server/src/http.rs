//! What is served over plain HTTP beside gRPC: the JSON gateway, health and version for clients; version and members for
//! peers.
//!
//! One port serves both. A path of a gRPC service goes straight to it; everything else comes here, and is treated in the
//! order in which etcd's handlers are nested: the old prefix of the gateway, CORS, a path to be cleaned, and then the path.
//!
//! Upstream: server/embed/serve.go, and Go's net/http where something is not found.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use proto::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;
use tonic::Status;
use tonic::service::Routes;

use crate::access::ConnectionInfo;
use crate::gateway::Gateway;
use crate::grpc;
use crate::request::Core;

/// The gateway's prefix.
const GATEWAY: &str = "/v3/";
/// Its prefix of etcd 3.3.
const OLD_GATEWAY: &str = "/v3beta/";

/// gRPC and HTTP for clients.
pub(crate) fn client_routes(core: &Arc<Core>, grpc: Routes) -> Routes {
    let gateway = core
        .config
        .enable_grpc_gateway
        .then(|| Gateway::new(&grpc, core.message_bytes_max(), &core.config));
    let front = Arc::new(Front { core: Arc::clone(core), gateway });
    let answer = move |request: Request| {
        let front = Arc::clone(&front);
        async move { front.answer(request).await }
    };
    Routes::from(grpc.into_axum_router().fallback(answer))
}

/// What answers clients that do not call a gRPC service.
#[derive(Debug)]
struct Front {
    core: Arc<Core>,
    gateway: Option<Gateway>,
}

impl Front {
    async fn answer(&self, request: Request) -> Response {
        let is_grpc = content_type(request.headers()).starts_with("application/grpc");
        if is_grpc {
            return grpc::unknown_service(request.uri().path()).into_http();
        }
        // Without TLS, HTTP/2 is gRPC's alone.
        if request.version() == Version::HTTP_2 {
            return not_grpc(request.headers());
        }
        let mut response = self.answer_http(request).await;
        allow_any_origin(response.headers_mut());
        response
    }

    async fn answer_http(&self, request: Request) -> Response {
        if request.method() == Method::OPTIONS {
            return StatusCode::OK.into_response();
        }
        let path = match request.uri().path().strip_prefix(OLD_GATEWAY) {
            Some(rest) => format!("{GATEWAY}{rest}"),
            None => request.uri().path().to_owned(),
        };
        if let Some(cleaned) = cleaned(&path) {
            return moved(&cleaned, request.uri());
        }
        match (path.as_str(), &self.gateway) {
            ("/health", _) => match *request.method() {
                Method::GET => health(&self.core, request.uri().query().unwrap_or_default()).await,
                _ => method_not_allowed(),
            },
            ("/version", _) => match *request.method() {
                Method::GET => version_of_cluster(&self.core),
                _ => method_not_allowed(),
            },
            (path, Some(_)) if path.starts_with(GATEWAY) && self.shows_ignored_name(&request) => {
                error(
                    StatusCode::BAD_REQUEST,
                    "CommonName of client sending a request against gateway will be ignored and not used as expected",
                )
            }
            ("/v3", Some(_)) => moved(GATEWAY, request.uri()),
            (path, Some(gateway)) if path.starts_with(GATEWAY) => {
                gateway.answer(path, request).await
            }
            _ => not_found(),
        }
    }
}

impl Front {
    /// Whether a client shows a name in its certificate, and would be surprised that the gateway does not look at it.
    fn shows_ignored_name(&self, request: &Request) -> bool {
        let info = request.extensions().get::<ConnectionInfo>();
        self.core.config.client_tls.client_cert_auth
            && self.core.access.is_enabled()
            && info.is_some_and(|info| info.common_name.is_some())
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What grpc-go answers to a request that is not gRPC's.
fn not_grpc(headers: &HeaderMap) -> Response {
    let text = format!("invalid gRPC request content-type {:?}", content_type(headers));
    let mut response: Response = Status::invalid_argument(text).into_http();
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Any page may ask; what it may send is etcd's fixed list.
fn allow_any_origin(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The path without empty, `.` and `..` parts, if it has any.
fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut cleaned = format!("/{}", parts.join("/"));
    // A slash at the end means another resource, and stays.
    if path.ends_with('/') && cleaned != "/" {
        cleaned.push('/');
    }
    (cleaned != path).then_some(cleaned)
}

/// Sends the client to the path as it should be.
fn moved(path: &str, uri: &Uri) -> Response {
    let location = match uri.path_and_query().and_then(PathAndQuery::query) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, location)]).into_response()
}

/// A text as Go's `http.Error` sends it.
pub(crate) fn error(status: StatusCode, text: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{text}\n")).into_response()
}

pub(crate) fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(crate) fn method_not_allowed() -> Response {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

pub(crate) fn version_of_cluster(core: &Core) -> Response {
    let cluster = core
        .facts
        .get()
        .membership
        .version()
        .map_or_else(|| "not_decided".to_owned(), |v| v.to_string());
    // In etcd's order, which a map would not keep.
    let mut body = format!(r#"{{"etcdserver":"{}","etcdcluster":"{cluster}""#, core.version);
    if core.version.has_storage_version() {
        let storage = core.storage_version().unwrap_or_else(|| "unknown".to_owned());
        body.push_str(&format!(r#","storage":"{storage}""#));
    }
    body.push('}');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What stands in the way of being healthy, in etcd's words; `None` if nothing does.
async fn ill_health(core: &Core, excluded: &[&str], is_serializable: bool) -> Option<String> {
    let alarms = core.facts.get();
    for kind in [AlarmType::Nospace, AlarmType::Corrupt] {
        let name = kind.as_str_name();
        if alarms.alarms.stands(kind) && !excluded.contains(&name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !is_serializable {
        if core.board.leader() == raft::NodeId::NONE {
            return Some("RAFT NO LEADER".to_owned());
        }
        if let Err(refusal) = core.linearizable().await {
            return Some(format!("RANGE ERROR:{}", grpc::text_of(&refusal)));
        }
    }
    let request =
        RangeRequest { key: "\0".into(), limit: 1, keys_only: true, ..RangeRequest::default() };
    core.store.range(&request).err().map(|error| format!("RANGE ERROR:{error}"))
}

async fn health(core: &Core, query: &str) -> Response {
    let values = |name: &str| -> Vec<&str> {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .collect()
    };
    let is_serializable = values("serializable").contains(&"true");
    match ill_health(core, &values("exclude"), is_serializable).await {
        None => {
            let body = json!({ "health": "true", "reason": "" }).to_string();
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
        }
        Some(reason) => {
            tracing::warn!(reason, "serving /health false");
            let body = json!({ "health": "false", "reason": reason }).to_string();
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tonic::Code;
    use tower_service::Service as _;

    use super::*;
    use crate::member::unconnected;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, expected) in [
            ("//v3/kv/range", Some("/v3/kv/range")),
            ("/v3/kv/../kv/./range", Some("/v3/kv/range")),
            ("/..", Some("/")),
            ("/a//", Some("/a/")),
            ("/", None),
            ("/v3/kv/range", None),
            ("/v3/kv/range/", None),
        ] {
            assert_eq!(cleaned(path).as_deref(), expected, "{path}");
        }
    }

    /// The answer of a member to a request that no connection brought.
    async fn answered(
        routes: &Routes,
        request: http::request::Builder,
        body: &str,
    ) -> (http::response::Parts, String) {
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let (head, body) = routes.clone().call(request).await.unwrap().into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
        (head, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_are_go_s() {
        let data_dir = tempfile::tempdir().unwrap();
        let (member, routes) = unconnected::start(unconnected::config(data_dir.path())).await;
        let not_found = "404 page not found\n";
        let not_allowed = "Method Not Allowed\n";
        for (method, path, status, body) in [
            (Method::GET, "/", 404, not_found),
            (Method::GET, "/nosuch", 404, not_found),
            (Method::GET, "/v2/keys", 404, not_found),
            (Method::PUT, "/config/local/log", 404, not_found),
            (Method::POST, "/v3alpha/kv/range", 404, not_found),
            (Method::GET, "/health", 200, r#"{"health":"true","reason":""}"#),
            (Method::GET, "/health?serializable=true", 200, r#"{"health":"true","reason":""}"#),
            (Method::GET, "/version", 200, r#"{"etcdserver":"3.5.30","etcdcluster":"3.5.0"}"#),
            (Method::POST, "/health", 405, not_allowed),
            (Method::HEAD, "/version", 405, ""),
            (Method::OPTIONS, "/v3/kv/put", 200, ""),
            (Method::POST, "//v3/kv/range", 301, "/v3/kv/range"),
            (Method::POST, "/v3", 301, "/v3/"),
        ] {
            let (head, found) =
                answered(&routes, http::Request::builder().method(&method).uri(path), "").await;
            assert_eq!(head.status.as_u16(), status, "{method} {path}");
            assert_eq!(head.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{method} {path}");
            let header = |name: header::HeaderName| {
                head.headers.get(name).map(|value| value.to_str().unwrap())
            };
            assert_eq!(header(header::ALLOW), (status == 405).then_some("GET"), "{method} {path}");
            // The place to go to stands for the body, which is empty.
            let is_moved = status == 301;
            let found = if is_moved { header(header::LOCATION) } else { Some(found.as_str()) };
            assert_eq!(found, Some(body), "{method} {path}");
            let is_error = matches!(status, 404 | 405);
            assert_eq!(
                header(header::X_CONTENT_TYPE_OPTIONS),
                is_error.then_some("nosniff"),
                "{method} {path}"
            );
        }

        let request = http::Request::get("/version").version(Version::HTTP_2);
        let (head, _) = answered(&routes, request, "").await;
        assert_eq!(head.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let status = Status::from_header_map(&head.headers).unwrap();
        assert_eq!(status.message(), "invalid gRPC request content-type \"\"");
        member.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn grpc_errors_are_grpc_go_s() {
        let data_dir = tempfile::tempdir().unwrap();
        let (member, routes) = unconnected::start(unconnected::config(data_dir.path())).await;
        let too_large = "\0\0\x30\0\0";
        for (path, body, code, message) in [
            (
                "/etcdserverpb.KV/Get",
                "",
                Code::Unimplemented,
                "unknown method Get for service etcdserverpb.KV",
            ),
            (
                "/etcdserverpb.Watch/See",
                "",
                Code::Unimplemented,
                "unknown method See for service etcdserverpb.Watch",
            ),
            ("/some.Service/Call", "", Code::Unimplemented, "unknown service some.Service"),
            ("/health", "", Code::Unimplemented, "malformed method name: \"/health\""),
            (
                "/etcdserverpb.KV/Put",
                too_large,
                Code::ResourceExhausted,
                "grpc: received message larger than max (3145728 vs. 2097152)",
            ),
            (
                "/etcdserverpb.KV/Range",
                too_large,
                Code::ResourceExhausted,
                "grpc: received message larger than max (3145728 vs. 2097152)",
            ),
        ] {
            let request = http::Request::post(path)
                .version(Version::HTTP_2)
                .header(header::CONTENT_TYPE, "application/grpc");
            let (head, _) = answered(&routes, request, body).await;
            assert_eq!(head.status, StatusCode::OK, "{path}");
            let status = Status::from_header_map(&head.headers).unwrap();
            assert_eq!((status.code(), status.message()), (code, message), "{path}");
        }
        member.stop().await;
    }
}
