//! Space: what requests cost, and how much there is.
//!
//! The costs are etcd's estimates, and all members agree on them. Whether *this* member's file is over the quota is
//! local: the request is executed all the same, its client is told, and an alarm is proposed. What is refused is
//! decided by that alarm, once it is committed.
//!
//! Upstream: `server/storage/quota.go`, `server/etcdserver/apply.go` (3.5.30).

use proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op};

use crate::Version;

/// Bytes of a lease; etcd's own estimate.
pub const LEASE_COST_BYTES: u64 = 64;

/// Bytes that a pair takes besides key and value; etcd's own estimate.
const PAIR_OVERHEAD_BYTES: u64 = 256;

/// Quota when none is set: etcd's default, 2 GiB.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// How large the backend may get on this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// `None`: as large as it likes.
    limit_bytes: Option<u64>,
}

impl Quota {
    /// Reads `--quota-backend-bytes`: 0 is the default, less is no quota.
    #[must_use]
    pub fn from_flag(bytes: i64) -> Self {
        let limit_bytes = match u64::try_from(bytes) {
            Ok(0) => Some(DEFAULT_QUOTA_BYTES),
            Ok(limit) => Some(limit),
            Err(_) => None,
        };
        Self { limit_bytes }
    }

    /// Whether a request of this cost fits a backend of this size. What costs nothing always fits.
    #[must_use]
    pub fn has_room(self, backend_bytes: u64, cost_bytes: u64) -> bool {
        cost_bytes == 0
            || self.limit_bytes.is_none_or(|limit| backend_bytes.saturating_add(cost_bytes) < limit)
    }
}

/// Returns what a put costs.
#[must_use]
pub fn put_cost(request: &PutRequest) -> u64 {
    PAIR_OVERHEAD_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// Returns what a transaction costs: the more expensive branch.
#[must_use]
pub fn txn_cost(request: &TxnRequest, version: Version) -> u64 {
    branch_cost(&request.success, version).max(branch_cost(&request.failure, version))
}

fn branch_cost(ops: &[RequestOp], version: Version) -> u64 {
    ops.iter()
        .map(|op| match &op.request {
            Some(request_op::Request::RequestPut(put)) => put_cost(put),
            Some(request_op::Request::RequestTxn(txn)) if version.counts_nested_puts() => {
                txn_cost(txn, version)
            }
            Some(
                request_op::Request::RequestTxn(_)
                | request_op::Request::RequestRange(_)
                | request_op::Request::RequestDeleteRange(_),
            )
            | None => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(value_len: usize) -> RequestOp {
        let put = PutRequest {
            key: Bytes::from_static(b"k"),
            value: vec![0; value_len].into(),
            ..Default::default()
        };
        RequestOp { request: Some(request_op::Request::RequestPut(put)) }
    }

    #[test]
    fn a_txn_costs_its_dearer_branch() {
        let txn = TxnRequest {
            success: vec![put(1), put(2)],
            failure: vec![put(300)],
            ..Default::default()
        };
        assert_eq!(txn_cost(&txn, Version::v3(5, 30)), 557);
        let nested = TxnRequest {
            success: vec![RequestOp { request: Some(request_op::Request::RequestTxn(txn)) }],
            ..Default::default()
        };
        assert_eq!(txn_cost(&nested, Version::v3(5, 30)), 0);
        assert_eq!(txn_cost(&nested, Version::v3(5, 33)), 557);
    }

    #[test]
    fn quota_counts_what_is_to_come() {
        let quota = Quota::from_flag(1000);
        assert!(quota.has_room(900, 99));
        assert!(!quota.has_room(900, 100));
        assert!(quota.has_room(5000, 0));
        assert!(Quota::from_flag(-1).has_room(u64::MAX, 1));
        assert!(Quota::from_flag(0).has_room(0, DEFAULT_QUOTA_BYTES - 1));
        assert!(!Quota::from_flag(0).has_room(0, DEFAULT_QUOTA_BYTES));
    }
}
