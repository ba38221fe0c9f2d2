//! etcd's names of requests in the log, as its metrics and its warnings about slow entries have them.

use proto::etcdserverpb::internal_raft_request::Request as Op;

/// The name of a request.
#[must_use]
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Range(_) => "Range",
        Op::Put(_) => "Put",
        Op::DeleteRange(_) => "DeleteRange",
        Op::Txn(_) => "Txn",
        Op::Compaction(_) => "Compaction",
        Op::LeaseGrant(_) => "LeaseGrant",
        Op::LeaseRevoke(_) => "LeaseRevoke",
        Op::LeaseCheckpoint(_) => "LeaseCheckpoint",
        Op::Alarm(_) => "Alarm",
        Op::AuthEnable(_) => "AuthEnable",
        Op::AuthDisable(_) => "AuthDisable",
        Op::AuthStatus(_) => "AuthStatus",
        Op::Authenticate(_) => "Authenticate",
        Op::AuthUserAdd(_) => "AuthUserAdd",
        Op::AuthUserDelete(_) => "AuthUserDelete",
        Op::AuthUserGet(_) => "AuthUserGet",
        Op::AuthUserChangePassword(_) => "AuthUserChangePassword",
        Op::AuthUserGrantRole(_) => "AuthUserGrantRole",
        Op::AuthUserRevokeRole(_) => "AuthUserRevokeRole",
        Op::AuthUserList(_) => "AuthUserList",
        Op::AuthRoleAdd(_) => "AuthRoleAdd",
        Op::AuthRoleDelete(_) => "AuthRoleDelete",
        Op::AuthRoleGet(_) => "AuthRoleGet",
        Op::AuthRoleGrantPermission(_) => "AuthRoleGrantPermission",
        Op::AuthRoleRevokePermission(_) => "AuthRoleRevokePermission",
        Op::AuthRoleList(_) => "AuthRoleList",
        Op::ClusterVersionSet(_) => "ClusterVersionSet",
        Op::ClusterMemberAttrSet(_) => "ClusterMemberAttrSet",
        Op::DowngradeInfoSet(_) => "DowngradeInfoSet",
        Op::DowngradeVersionTest(_) => "DowngradeVersionTest",
        Op::V2(_) => "unknown",
    }
}
