//! The peer port's paths beside those of consensus: what members ask each other, and what operators' scripts ask them.
//!
//! Paths, codes and bodies are etcd's: see `server/etcdserver/api/etcdhttp/peer.go`, `lease/leasehttp` (3.5.30).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::Bytes;
use machine::Membership;
use prost::Message as _;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    Member, ResponseHeader,
};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tonic::{Code, Status};

use crate::grpc;
use crate::http::{error, method_not_allowed, not_found, version_of_cluster};
use crate::request::Core;

/// Largest body that is read: the questions here are small.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a question waits until this member has applied what is committed.
const APPLY_WAIT: Duration = Duration::from_secs(1);

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// A member as `/members` shows it. Its order of fields is etcd's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRow {
    pub(crate) id: u64,
    #[serde(rename = "peerURLs", default)]
    pub(crate) peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) client_urls: Vec<String>,
}

impl From<&machine::Member> for MemberRow {
    fn from(member: &machine::Member) -> Self {
        Self {
            id: member.id,
            peer_urls: member.peer_urls.clone(),
            is_learner: member.is_learner,
            name: member.name.clone(),
            client_urls: member.client_urls.clone(),
        }
    }
}

impl From<Member> for MemberRow {
    fn from(member: Member) -> Self {
        Self {
            id: member.id,
            peer_urls: member.peer_urls,
            is_learner: member.is_learner,
            name: member.name,
            client_urls: member.client_urls,
        }
    }
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            peer_urls: row.peer_urls,
            client_urls: row.client_urls,
            is_learner: row.is_learner,
        }
    }
}

/// The routes.
pub(crate) fn routes(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/version", any(version))
        .route("/members", any(members))
        .route("/members/promote/{id}", any(promote))
        .route("/members/hashkv", any(hash_kv))
        .route("/leases", any(keep_alive))
        .route("/leases/internal", any(time_to_live))
        .route("/downgrade/enabled", any(downgrade_enabled))
        .fallback(async || not_found())
        .with_state(Arc::clone(core))
}

async fn version(State(core): State<Arc<Core>>, method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    version_of_cluster(&core)
}

async fn members(State(core): State<Arc<Core>>, method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    list(&core, rows(&core.facts.get().membership))
}

fn rows(membership: &Membership) -> Vec<MemberRow> {
    membership.members().map(MemberRow::from).collect()
}

fn list(core: &Core, rows: Vec<MemberRow>) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    with_cluster_id(core, (headers, format!("{}\n", json!(rows))).into_response())
}

fn with_cluster_id(core: &Core, mut response: Response) -> Response {
    if let Ok(id) = HeaderValue::try_from(format!("{:x}", core.cluster_id)) {
        response.headers_mut().insert(CLUSTER_ID, id);
    }
    response
}

async fn promote(
    State(core): State<Arc<Core>>,
    method: Method,
    axum::extract::Path(id): axum::extract::Path<String>,
) -> Response {
    if method != Method::POST {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return with_cluster_id(&core, response);
    }
    let Ok(id) = id.parse::<u64>() else {
        let text = format!("member {id} not found in cluster");
        return with_cluster_id(&core, error(StatusCode::NOT_FOUND, &text));
    };
    let promoted = if core.board.is_leader() {
        tokio::time::timeout(core.config.request_timeout(), grpc::promote(&core, id))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("etcdserver: request timed out")))
    } else {
        Err(rpc::errors::Error::NotLeader.into())
    };
    let response = match promoted {
        Ok(members) => return list(&core, members.into_iter().map(MemberRow::from).collect()),
        Err(status) => refused(&status),
    };
    with_cluster_id(&core, response)
}

/// A refused promotion, as the member that forwarded it reads it.
fn refused(status: &Status) -> Response {
    let text = status.message();
    let (code, text) = if status.code() == Code::NotFound {
        (StatusCode::NOT_FOUND, "membership: ID not found")
    } else if status.code() == Code::DeadlineExceeded {
        (StatusCode::REQUEST_TIMEOUT, text)
    } else if text == "etcdserver: can only promote a learner member" {
        (StatusCode::PRECONDITION_FAILED, "membership: can only promote a learner member")
    } else if status.code() == Code::FailedPrecondition {
        (StatusCode::PRECONDITION_FAILED, text)
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    error(code, text)
}

#[derive(Deserialize)]
struct HashKvQuestion {
    #[serde(default)]
    revision: i64,
}

/// What `/members/hashkv` is asked for.
pub(crate) fn revision_to_hash(body: &[u8]) -> Option<i64> {
    serde_json::from_slice::<HashKvQuestion>(body).ok().map(|question| question.revision)
}

async fn hash_kv(State(core): State<Arc<Core>>, request: Request) -> Response {
    if request.method() != Method::GET {
        return method_not_allowed();
    }
    let given =
        request.headers().get(CLUSTER_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    if given.is_some_and(|id| id != format!("{:x}", core.cluster_id)) {
        return error(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch");
    }
    let Ok(body) = to_bytes(request.into_body(), BODY_BYTES_MAX).await else {
        return error(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Some(revision) = revision_to_hash(&body) else { return unreadable() };
    let store = core.store.clone();
    let hashed = tokio::task::spawn_blocking(move || store.hash_kv(revision)).await;
    let hash = match hashed {
        Ok(Ok(hash)) => hash,
        Ok(Err(mvcc::Error::Request(refused))) => {
            let text = match refused {
                mvcc::RequestError::Compacted { .. } => {
                    "mvcc: required revision has been compacted"
                }
                mvcc::RequestError::FutureRevision { .. } => {
                    "mvcc: required revision is a future revision"
                }
                mvcc::RequestError::KeyNotFound
                | mvcc::RequestError::LeaseNotFound { .. }
                | mvcc::RequestError::Malformed(_) => "mvcc: the hash cannot be made",
            };
            return with_cluster_id(&core, error(StatusCode::BAD_REQUEST, text));
        }
        Ok(Err(failed)) => {
            return error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string());
        }
        Err(_) => return error(StatusCode::INTERNAL_SERVER_ERROR, "stopped"),
    };
    let mut answer = json!({
        "header": { "revision": hash.current_revision },
        "hash": hash.hashed.hash,
    });
    if hash.hashed.compact_revision != 0 {
        answer["compact_revision"] = json!(hash.hashed.compact_revision);
    }
    if core.version.minor >= 6 {
        answer["hash_revision"] = json!(hash.hashed.revision);
    }
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    with_cluster_id(&core, (headers, answer.to_string()).into_response())
}

/// Reads a question about a lease, and waits until what is committed is applied.
async fn lease_question(core: &Core, request: Request) -> Result<Bytes, Response> {
    if request.method() != Method::POST {
        return Err(error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX)
        .await
        .map_err(|_| error(StatusCode::PAYLOAD_TOO_LARGE, "http: request body too large"))?;
    let applied = core.board.wait_applied(core.board.commit());
    if tokio::time::timeout(APPLY_WAIT, applied).await.is_err() {
        return Err(error(
            StatusCode::REQUEST_TIMEOUT,
            "waiting for node to catch up its applied index has timed out",
        ));
    }
    Ok(body)
}

fn unreadable() -> Response {
    error(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

fn protobuf(body: Vec<u8>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    (headers, body).into_response()
}

/// The lease that `/leases` is asked to renew.
pub(crate) fn lease_to_renew(body: Bytes) -> Option<i64> {
    LeaseKeepAliveRequest::decode(body).ok().map(|request| request.id)
}

/// What `/leases/internal` is asked for.
pub(crate) fn lease_to_tell(body: Bytes) -> Option<LeaseTimeToLiveRequest> {
    LeaseInternalRequest::decode(body).ok()?.lease_time_to_live_request
}

async fn keep_alive(State(core): State<Arc<Core>>, request: Request) -> Response {
    let body = match lease_question(&core, request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let Some(id) = lease_to_renew(body) else { return unreadable() };
    match grpc::renew_here(&core, lease::LeaseId(id)).await {
        Ok(Some(ttl)) => protobuf(LeaseKeepAliveResponse { header: None, id, ttl }.encode_to_vec()),
        Ok(None) => error(StatusCode::NOT_FOUND, "lease not found"),
        Err(status) => error(StatusCode::BAD_REQUEST, status.message()),
    }
}

async fn time_to_live(State(core): State<Arc<Core>>, request: Request) -> Response {
    let body = match lease_question(&core, request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let Some(request) = lease_to_tell(body) else { return unreadable() };
    match grpc::time_to_live_here(&core, &request) {
        grpc::TimeToLive::Known(response) => {
            let response =
                LeaseTimeToLiveResponse { header: Some(ResponseHeader::default()), ..response };
            let response = LeaseInternalResponse { lease_time_to_live_response: Some(response) };
            protobuf(response.encode_to_vec())
        }
        grpc::TimeToLive::NotFound => error(StatusCode::NOT_FOUND, "lease not found"),
        grpc::TimeToLive::NotPrimary => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "not a primary lessor")
        }
    }
}

async fn downgrade_enabled(State(core): State<Arc<Core>>, method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let response = match core.linearizable().await {
        Ok(()) => {
            let enabled = core.facts.get().membership.downgrade().enabled;
            let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))];
            (headers, enabled.to_string()).into_response()
        }
        Err(refusal) => error(StatusCode::INTERNAL_SERVER_ERROR, &grpc::text_of(&refusal)),
    };
    with_cluster_id(&core, response)
}
