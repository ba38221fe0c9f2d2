//! What is served over plain HTTP beside gRPC: health and version for clients, version and members for peers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use proto::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;
use tonic::service::Routes;

use crate::request::Core;
use crate::version;

/// gRPC and HTTP for clients.
pub(crate) fn client_routes(core: &Arc<Core>, grpc: Routes) -> Routes {
    let http = Router::new()
        .route("/health", get(health))
        .route("/version", get(version_of_cluster))
        .with_state(Arc::clone(core));
    Routes::from(grpc.into_axum_router().merge(http))
}

/// HTTP for other members.
pub(crate) fn peer_routes(core: &Arc<Core>) -> Routes {
    let http = Router::new()
        .route("/version", get(version_of_cluster))
        .route("/members", get(members))
        .with_state(Arc::clone(core));
    Routes::from(http)
}

async fn version_of_cluster(State(core): State<Arc<Core>>) -> Response {
    let cluster = core
        .facts
        .get()
        .membership
        .version()
        .map_or_else(|| "not_decided".to_owned(), |v| v.to_string());
    let body =
        json!({ "etcdserver": version::EMULATED.to_string(), "etcdcluster": cluster }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn members(State(core): State<Arc<Core>>) -> Response {
    let members: Vec<_> = core
        .facts
        .get()
        .membership
        .members()
        .map(|member| {
            let mut row = json!({ "id": member.id, "peerURLs": member.peer_urls });
            if member.is_learner {
                row["isLearner"] = json!(true);
            }
            if !member.name.is_empty() {
                row["name"] = json!(member.name);
                row["clientURLs"] = json!(member.client_urls);
            }
            row
        })
        .collect();
    let cluster_id = HeaderValue::try_from(format!("{:x}", core.cluster_id));
    let mut response =
        ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", json!(members)))
            .into_response();
    if let Ok(cluster_id) = cluster_id {
        response.headers_mut().insert(HeaderName::from_static("x-etcd-cluster-id"), cluster_id);
    }
    response
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
            return Some(format!("RANGE ERROR:{}", crate::grpc::text_of(&refusal)));
        }
    }
    let request =
        RangeRequest { key: "\0".into(), limit: 1, keys_only: true, ..RangeRequest::default() };
    core.store.range(&request).err().map(|error| format!("RANGE ERROR:{error}"))
}

async fn health(State(core): State<Arc<Core>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let values = |name: &str| -> Vec<&str> {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(key, _)| *key == name)
            .map(|(_, v)| v)
            .collect()
    };
    let is_serializable = values("serializable").contains(&"true");
    let content_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match ill_health(&core, &values("exclude"), is_serializable).await {
        None => {
            (content_type, json!({ "health": "true", "reason": "" }).to_string()).into_response()
        }
        Some(reason) => {
            tracing::warn!(reason, "serving /health false");
            let body = format!("{}\n", json!({ "health": "false", "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, content_type, body).into_response()
        }
    }
}
