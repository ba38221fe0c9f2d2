//! When two answers count as equal.
//!
//! Everything must be equal, except what etcd's contract leaves open:
//! - the raft term;
//! - the order of keys with equal sort fields, and so which of them a limit cuts off;
//! - the token that somebody gets;
//! - the order of alarms, of leases and of a lease's keys, and how much of a TTL is left.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::SortTarget;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::mvccpb::KeyValue;

use crate::api::{AuthResponse, Refusal, Request, Response};

/// How strict a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// As this module says.
    Contract,
    /// Member and cluster ids may differ as well.
    OtherCluster,
}

/// Brings an answer into the form in which equal means equal.
pub fn normalise_reply(
    request: &Request,
    reply: Result<Response, Refusal>,
    tolerance: Tolerance,
) -> Result<Response, Refusal> {
    let mut response = reply?;
    if let Some(header) = response.header_mut() {
        header.raft_term = 0;
        if tolerance == Tolerance::OtherCluster {
            header.cluster_id = 0;
            header.member_id = 0;
        }
    }
    match (request, &mut response) {
        (Request::Range(request), Response::Range(response))
        | (Request::RangeStream(request), Response::RangeStream(response)) => {
            normalise_range(request, response);
        }
        (Request::Txn(request), Response::Txn(response)) => normalise_txn(request, response),
        (_, Response::LeaseTimeToLive(response)) => {
            response.keys.sort_unstable();
            response.ttl = response.ttl.min(1);
        }
        (_, Response::Alarm(response)) => {
            response.alarms.sort_unstable_by_key(|alarm| (alarm.member_id, alarm.alarm));
        }
        (_, Response::Auth(AuthResponse::Authenticate(response))) => response.token.clear(),
        (_, Response::LeaseLeases(response)) => {
            response.leases.sort_unstable_by_key(|lease| lease.id)
        }
        (_, _) => {}
    }
    Ok(response)
}

fn normalise_txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    let ops = if response.succeeded { &request.success } else { &request.failure };
    for (op, answer) in ops.iter().zip(&mut response.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Op::RequestRange(request)), Some(OpResponse::ResponseRange(response))) => {
                normalise_range(request, response);
            }
            (Some(Op::RequestTxn(request)), Some(OpResponse::ResponseTxn(response))) => {
                normalise_txn(request, response);
            }
            (_, _) => {}
        }
    }
}

fn normalise_range(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    if request.sort_target == SortTarget::Key as i32 {
        return;
    }
    let field = |kv: &KeyValue| -> (i64, bytes::Bytes) {
        match SortTarget::try_from(request.sort_target) {
            Ok(SortTarget::Version) => (kv.version, bytes::Bytes::new()),
            Ok(SortTarget::Create) => (kv.create_revision, bytes::Bytes::new()),
            Ok(SortTarget::Mod) => (kv.mod_revision, bytes::Bytes::new()),
            // With keys_only the value is gone from the answer, and the groups cannot be told apart.
            Ok(SortTarget::Value) if request.keys_only => (0, bytes::Bytes::new()),
            Ok(SortTarget::Value) => (0, kv.value.clone()),
            Ok(SortTarget::Key) | Err(_) => (0, kv.key.clone()),
        }
    };
    let is_cut =
        usize::try_from(request.limit).is_ok_and(|limit| limit > 0 && response.kvs.len() >= limit);
    let mut start = 0;
    while start < response.kvs.len() {
        let group = field(&response.kvs[start]);
        let len = response.kvs[start..].iter().take_while(|kv| field(kv) == group).count();
        let end = start + len;
        response.kvs[start..end].sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if end == response.kvs.len() && is_cut {
            // The limit may have cut through this group: only its length and its field are comparable.
            for kv in &mut response.kvs[start..end] {
                let value = if request.keys_only { bytes::Bytes::new() } else { group.1.clone() };
                *kv = KeyValue { version: group.0, value, ..Default::default() };
            }
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, version: i64) -> KeyValue {
        KeyValue { key: key.into(), version, ..Default::default() }
    }

    fn check(limit: i64, left: &[KeyValue], right: &[KeyValue], is_equal: bool) {
        let request = pb::RangeRequest {
            sort_target: SortTarget::Version as i32,
            limit,
            ..Default::default()
        };
        let normal = |kvs: &[KeyValue]| {
            let mut response = pb::RangeResponse { kvs: kvs.to_vec(), ..Default::default() };
            normalise_range(&request, &mut response);
            response
        };
        assert_eq!(normal(left) == normal(right), is_equal, "{left:?} {right:?}");
    }

    #[test]
    fn ties_may_come_in_any_order() {
        check(
            0,
            &[kv("a", 1), kv("b", 1), kv("c", 2)],
            &[kv("b", 1), kv("a", 1), kv("c", 2)],
            true,
        );
        check(0, &[kv("a", 1), kv("b", 2)], &[kv("b", 2), kv("a", 1)], false);
        check(0, &[kv("a", 1), kv("b", 1)], &[kv("a", 1), kv("c", 1)], false);
    }

    #[test]
    fn a_limit_may_cut_a_tie_anywhere() {
        check(2, &[kv("a", 1), kv("b", 2)], &[kv("a", 1), kv("c", 2)], true);
        check(2, &[kv("a", 1), kv("b", 2)], &[kv("x", 1), kv("b", 2)], false);
        check(2, &[kv("a", 1), kv("b", 2)], &[kv("a", 1), kv("b", 3)], false);
    }
}
