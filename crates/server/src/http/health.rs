//! Whether this member is well: `/health`, and `/livez` and `/readyz` with their checks.
//!
//! ```text
//! /health                    alarms, a leader, a read                  what load balancers of old ask
//! /livez                     serializable_read                         restart it if this fails
//! /readyz                    data_corruption, serializable_read,       send it no requests if this fails
//!                            linearizable_read, non_learner
//! /livez/NAME, /readyz/NAME  one check
//! ```
//!
//! Upstream: server/etcdserver/api/etcdhttp/health.go (3.5.30). Differs: the lines of `?verbose` have an order.

use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;

use super::{error, method_not_allowed, not_found};
use crate::grpc;
use crate::request::Core;

/// Something that must hold for the member to be well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    /// Says what is wrong.
    async fn make(self, core: &Core) -> Result<(), String> {
        match self {
            Self::DataCorruption if core.facts.get().alarms.stands(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if core.board.is_learner() => {
                Err("not supported for learner".to_owned())
            }
            Self::DataCorruption | Self::NonLearner => Ok(()),
            Self::SerializableRead => read(core),
            Self::LinearizableRead => {
                core.linearizable().await.map_err(|refusal| grpc::text_of(&refusal))?;
                read(core)
            }
        }
    }
}

/// Reads one key of this member's state.
fn read(core: &Core) -> Result<(), String> {
    let request =
        RangeRequest { key: "\0".into(), limit: 1, keys_only: true, ..RangeRequest::default() };
    core.metrics.applying.ranges.count();
    core.store.range(&request).map(drop).map_err(|error| error.to_string())
}

/// An endpoint with its checks.
#[derive(Debug, Clone, Copy)]
struct Endpoint {
    name: &'static str,
    checks: &'static [Check],
}

const ENDPOINTS: [Endpoint; 2] = [
    Endpoint { name: "livez", checks: &[Check::SerializableRead] },
    Endpoint {
        name: "readyz",
        checks: &[
            Check::DataCorruption,
            Check::SerializableRead,
            Check::LinearizableRead,
            Check::NonLearner,
        ],
    },
];

/// Answers a path of health; `None` for another path.
pub(super) async fn answer(
    core: &Core,
    method: &Method,
    path: &str,
    query: &str,
) -> Option<Response> {
    if path == "/health" {
        return Some(match *method {
            Method::GET => health(core, query).await,
            _ => {
                tracing::warn!(status_code = 405, "/health error");
                method_not_allowed()
            }
        });
    }
    let (name, check) = match path.strip_prefix('/')?.split_once('/') {
        Some((name, check)) => (name, Some(check)),
        None => (path.strip_prefix('/')?, None),
    };
    let endpoint = ENDPOINTS.into_iter().find(|endpoint| endpoint.name == name)?;
    let checks: Vec<Check> = match check {
        Some(wanted) => {
            endpoint.checks.iter().copied().filter(|check| check.name() == wanted).collect()
        }
        None => selected(endpoint, query),
    };
    Some(if check.is_some() && checks.is_empty() {
        not_found()
    } else if method != Method::GET {
        method_not_allowed()
    } else {
        run(core, endpoint, path, &checks, query).await
    })
}

/// The endpoint's checks without those that the query excludes.
fn selected(endpoint: Endpoint, query: &str) -> Vec<Check> {
    let excluded: Vec<&str> = values(query, "exclude").collect();
    for name in &excluded {
        if !endpoint.checks.iter().any(|check| check.name() == *name) {
            tracing::warn!(check = name, "some health checks cannot be excluded");
        }
    }
    let is_wanted = |check: &Check| !excluded.contains(&check.name());
    endpoint.checks.iter().copied().filter(is_wanted).collect()
}

async fn run(
    core: &Core,
    endpoint: Endpoint,
    path: &str,
    checks: &[Check],
    query: &str,
) -> Response {
    let mut lines = String::new();
    let mut is_well = true;
    for check in checks {
        let name = check.name();
        let made = check.make(core).await;
        core.metrics.checks.checked(endpoint.name, name, made.is_ok());
        match made {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(what) => {
                is_well = false;
                lines.push_str(&format!("[-]{name} failed: {what}\n"));
            }
        }
    }
    if !is_well {
        tracing::error!(path, reason = lines, status_code = 503, "Health check error");
        return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    tracing::debug!(path, reason = lines, status_code = 200, "Health check OK");
    let is_verbose = query.split('&').any(|pair| pair.split('=').next() == Some("verbose"));
    let text = if is_verbose { format!("{lines}ok") } else { "ok".to_owned() };
    // Go sends this one as it sends errors, but for the status.
    error(StatusCode::OK, &text)
}

/// The values of a query's key, in order.
fn values<'q>(query: &'q str, name: &str) -> impl Iterator<Item = &'q str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// What stands in the way of being healthy, in etcd's words; `None` if nothing does. The log is told which check it was.
async fn ill_health(core: &Core, excluded: &[&str], is_serializable: bool) -> Option<String> {
    for alarm in core.facts.get().alarms.list(AlarmType::None.into()) {
        let text = grpc::alarm_text(&alarm, core.version.minor);
        if excluded.contains(&&*machine::alarm_name(alarm.alarm)) {
            tracing::debug!(alarm = text, "/health excluded alarm");
            continue;
        }
        tracing::warn!(alarm = text, "serving /health false due to an alarm");
        return Some(match AlarmType::try_from(alarm.alarm) {
            Ok(kind @ (AlarmType::Nospace | AlarmType::Corrupt)) => {
                format!("ALARM {}", kind.as_str_name())
            }
            Ok(AlarmType::None) | Err(_) => "ALARM UNKNOWN".to_owned(),
        });
    }
    if !is_serializable && core.board.leader() == raft::NodeId::NONE {
        tracing::warn!("serving /health false; no leader");
        return Some("RAFT NO LEADER".to_owned());
    }
    let confirmed = if is_serializable { Ok(()) } else { core.linearizable().await };
    let read = confirmed.map_err(|refusal| grpc::text_of(&refusal)).and_then(|()| read(core));
    match read {
        Ok(()) => {
            tracing::debug!("serving /health true");
            None
        }
        Err(error) => {
            tracing::warn!(error, "serving /health false; Range fails");
            Some(format!("RANGE ERROR:{error}"))
        }
    }
}

async fn health(core: &Core, query: &str) -> Response {
    let excluded: Vec<&str> = values(query, "exclude").collect();
    let is_serializable = values(query, "serializable").any(|value| value == "true");
    match ill_health(core, &excluded, is_serializable).await {
        None => {
            core.metrics.checks.succeeded.count();
            tracing::debug!(status_code = 200, "/health OK");
            let body = json!({ "health": "true", "reason": "" }).to_string();
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
        }
        Some(reason) => {
            core.metrics.checks.failed.count();
            let body = json!({ "health": "false", "reason": reason }).to_string();
            tracing::warn!(output = body, status_code = 503, "/health error");
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::AlarmRequest;
    use proto::etcdserverpb::alarm_request::AlarmAction;
    use proto::etcdserverpb::internal_raft_request::Request as Op;

    use super::*;
    use crate::member::unconnected;
    use crate::told::lines::Lines;

    /// The reason of a `/health` that is bad.
    async fn reason(core: &Core, query: &str) -> String {
        let response = answer(core, &Method::GET, "/health", query).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status.as_u16(), body["health"].as_str()), (503, Some("false")), "{body}");
        body["reason"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn an_alarm_is_told_as_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (member, _) = unconnected::start(unconnected::config(dir.path())).await;
        let core = unconnected::core(&member);
        let raise = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: 7,
            alarm: AlarmType::Corrupt.into(),
        };
        core.propose(Op::Alarm(raise)).await.unwrap();
        let (lines, _told) = Lines::gather();
        assert_eq!(reason(core, "").await, "ALARM CORRUPT");
        let told = ["WARN", "serving /health false due to an alarm", "memberID:7 alarm:CORRUPT"];
        assert_eq!(lines.with(&told), 1);
        assert_eq!(lines.with(&["WARN", "/health error", "ALARM CORRUPT", "503"]), 1);
        let well = answer(core, &Method::GET, "/health", "exclude=CORRUPT").await.unwrap();
        assert_eq!(well.status(), StatusCode::OK);
        assert_eq!(lines.with(&["DEBUG", "/health excluded alarm", "alarm:CORRUPT"]), 1);
        assert_eq!(lines.with(&["DEBUG", "serving /health true"]), 1);
        let refused = answer(core, &Method::POST, "/health", "").await.unwrap();
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(lines.with(&["WARN", "/health error", "405"]), 1);
        member.stop().await;
    }

    #[tokio::test]
    async fn a_missing_leader_and_a_failed_read_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (member, _) = unconnected::start_without_leader(unconnected::config(dir.path()));
        let core = unconnected::core(&member);
        let (lines, _told) = Lines::gather();
        assert_eq!(reason(core, "").await, "RAFT NO LEADER");
        assert_eq!(lines.with(&["WARN", "serving /health false; no leader"]), 1);
        // A leader that is lost while the read waits for it. The member's own word that there is none may come in between.
        loop {
            core.board
                .update(&replica::Status { leader: raft::NodeId(7), ..replica::Status::default() });
            let lose = async { core.reads.leader_changed() };
            let (reason, ()) = tokio::join!(biased; reason(core, ""), lose);
            if reason != "RAFT NO LEADER" {
                assert_eq!(reason, "RANGE ERROR:etcdserver: leader changed");
                break;
            }
        }
        let told =
            ["WARN", "serving /health false; Range fails", "error=etcdserver: leader changed"];
        assert_eq!(lines.with(&told), 1);
        member.stop().await;
    }
}
