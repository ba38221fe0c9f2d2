//! `/debug/vars`: what Go's expvar shows of an etcd.
//!
//! The keys are etcd's. `memstats` has the figures that a process without a garbage collector has.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::request::Core;

/// The variables, in order of their names.
pub(super) async fn vars(core: &Core) -> Response {
    let variables = [
        ("cmdline", json!(core.config.command_line)),
        ("file_descriptor_limit", json!(file_limit())),
        ("memstats", json!({ "Sys": resident_bytes() })),
        ("raft.status", raft_status(core).await),
    ];
    let lines: Vec<String> =
        variables.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    let body = format!("{{\n{}\n}}\n", lines.join(",\n"));
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}

/// As raft's library in Go writes its status; ids are hexadecimal.
async fn raft_status(core: &Core) -> Value {
    let board = &core.board;
    let state = match (board.is_leader(), board.leader()) {
        (true, _) => "StateLeader",
        (false, raft::NodeId::NONE) => "StateCandidate",
        (false, _) => "StateFollower",
    };
    let followers = match board.is_leader() {
        true => core.followers().await.unwrap_or_default(),
        false => Vec::new(),
    };
    let progress: serde_json::Map<String, Value> = followers
        .iter()
        .map(|follower| {
            let at = follower.match_index.0;
            (format!("{:x}", follower.id.0), json!({ "match": at, "next": at + 1 }))
        })
        .collect();
    json!({
        "id": format!("{:x}", core.member_id),
        "term": board.term().0,
        "commit": board.commit().0,
        "lead": format!("{:x}", board.leader().0),
        "raftState": state,
        "applied": board.applied().0,
        "progress": progress,
    })
}

fn file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}
