//! What the apply stage says in the log of entries that it has applied: who may do what, who belongs to the cluster, which
//! version it has. Every member says so, as etcd's.

use std::borrow::Cow;

use auth::Snapshot;
use machine::{Membership, Payload, Version};
use proto::authpb::permission::Type as Permission;
use proto::etcdserverpb::InternalRaftRequest;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::nested::Nested as _;
use proto::raftpb;

use crate::told::{self, Form};

/// The member that speaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speaker {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) version: Version,
}

impl Speaker {
    fn ids(self) -> (String, String) {
        (format!("{:x}", self.cluster_id), format!("{:x}", self.member_id))
    }

    /// Tells of an entry that is applied next, after the one of index `applied`.
    pub(super) fn entry(self, committed: &machine::Committed, applied: u64) {
        let entry_type = match committed.payload {
            Payload::ConfChange(_) => "EntryConfChange",
            Payload::Request(_) | Payload::Raw(_) | Payload::Empty => "EntryNormal",
        };
        tracing::debug!(
            consistent_index = applied,
            entry_index = committed.index,
            entry_term = committed.term,
            entry_type,
            "Applying entry"
        );
        if let Some(request) = proposal(&committed.payload, Form::of(self.version)) {
            tracing::debug!(raftReq = request, "Apply");
        }
    }

    /// Tells of a change of the cluster's version.
    pub(super) fn cluster_version(self, old: Option<Version>, new: Version) {
        let (cluster_id, local_member_id) = self.ids();
        let cluster_version = format!("{}.{}", new.major, new.minor);
        match old {
            None => tracing::info!(
                cluster_id,
                local_member_id,
                cluster_version,
                "set initial cluster version"
            ),
            Some(from) => tracing::info!(
                cluster_id,
                local_member_id,
                from = format!("{}.{}", from.major, from.minor),
                to = cluster_version,
                "updated cluster version"
            ),
        }
        tracing::info!(cluster_version, "enabled capabilities for version");
        tracing::info!(cluster_version, "cluster version is updated");
    }

    /// Tells of a change of the membership that was accepted, with the members before and after it.
    pub(super) fn membership(
        self,
        change: &raftpb::ConfChange,
        before: &Membership,
        after: &Membership,
    ) {
        let (cluster_id, local_member_id) = self.ids();
        let id = change.node_id;
        let (was, is) = (before.member(id), after.member(id));
        let peer_id = format!("{id:x}");
        match (raftpb::ConfChangeType::try_from(change.r#type), was, is) {
            (Ok(raftpb::ConfChangeType::ConfChangeRemoveNode), Some(was), _) => tracing::info!(
                cluster_id,
                local_member_id,
                removed_remote_peer_id = peer_id,
                removed_remote_peer_urls = ?told::url_texts(&was.peer_urls),
                removed_remote_peer_is_learner = was.is_learner,
                "removed member"
            ),
            (Ok(raftpb::ConfChangeType::ConfChangeRemoveNode), None, _) => tracing::warn!(
                cluster_id,
                local_member_id,
                removed_remote_peer_id = peer_id,
                "skipped removing already removed member"
            ),
            (Ok(raftpb::ConfChangeType::ConfChangeUpdateNode), _, Some(is)) => tracing::info!(
                cluster_id,
                local_member_id,
                updated_remote_peer_id = peer_id,
                updated_remote_peer_urls = ?told::url_texts(&is.peer_urls),
                updated_remote_peer_is_learner = (self.version.minor >= 6).then_some(is.is_learner),
                "updated member"
            ),
            (_, Some(was), Some(is)) if was.is_learner && !is.is_learner => tracing::info!(
                cluster_id,
                local_member_id,
                promoted_member_id = peer_id,
                "promote member"
            ),
            (_, _, Some(is)) => tracing::info!(
                cluster_id,
                local_member_id,
                added_peer_id = peer_id,
                added_peer_peer_urls = ?told::url_texts(&is.peer_urls),
                added_peer_is_learner = is.is_learner,
                "added member"
            ),
            (_, _, None) => {}
        }
    }

    /// Tells of a change of users and roles, with what they were before and are now. Nothing else is told: no password,
    /// and no token.
    pub(super) fn auth(self, payload: &Payload, before: &Snapshot, after: &Snapshot) {
        let Some(request) = request_in(payload) else { return };
        match &request.request {
            Some(Op::AuthUserAdd(user)) => {
                tracing::info!(user_name = user.name, "added a user");
            }
            Some(Op::AuthUserDelete(user)) => tracing::info!(
                user_name = user.name,
                user_roles = ?before.roles_of(&user.name),
                "deleted a user"
            ),
            Some(Op::AuthUserChangePassword(user)) => tracing::info!(
                user_name = user.name,
                user_roles = ?after.roles_of(&user.name),
                "changed a password of a user"
            ),
            Some(Op::AuthUserGrantRole(grant)) => tracing::info!(
                user_name = grant.user,
                user_roles = ?after.roles_of(&grant.user),
                added_role_name = grant.role,
                "granted a role to a user"
            ),
            Some(Op::AuthUserRevokeRole(revoked)) => tracing::info!(
                user_name = revoked.name,
                old_user_roles = ?before.roles_of(&revoked.name),
                new_user_roles = ?after.roles_of(&revoked.name),
                revoked_role_name = revoked.role,
                "revoked a role from a user"
            ),
            Some(Op::AuthRoleAdd(role)) => {
                tracing::info!(role_name = role.name, "created a role");
            }
            Some(Op::AuthRoleDelete(role)) => {
                tracing::info!(role_name = role.role, "deleted a role");
            }
            Some(Op::AuthRoleGrantPermission(grant)) => {
                let permission = grant.perm.clone().unwrap_or_default();
                let kind = Permission::try_from(permission.perm_type);
                let permission_name = kind.map_or("", |kind| kind.as_str_name());
                // etcd calls the role a user here. Before 3.6 it does not say what for.
                if self.version.minor < 6 {
                    tracing::info!(
                        user_name = grant.name,
                        permission_name,
                        "granted/updated a permission to a user"
                    );
                } else {
                    tracing::info!(
                        user_name = grant.name,
                        permission_name,
                        key = %String::from_utf8_lossy(&permission.key),
                        range_end = %String::from_utf8_lossy(&permission.range_end),
                        "granted/updated a permission to a user"
                    );
                }
            }
            Some(Op::AuthRoleRevokePermission(revoked)) => tracing::info!(
                role_name = revoked.role,
                key = %String::from_utf8_lossy(&revoked.key),
                range_end = %String::from_utf8_lossy(&revoked.range_end),
                "revoked a permission on range"
            ),
            // Switching it on and off is told where it takes effect.
            Some(_) | None => {}
        }
    }
}

/// The request in an entry, if there is one.
fn request_in(payload: &Payload) -> Option<Cow<'_, InternalRaftRequest>> {
    match payload {
        Payload::Request(request) => Some(Cow::Borrowed(request)),
        Payload::Raw(bytes) => {
            InternalRaftRequest::decode_nested(bytes.clone()).ok().map(Cow::Owned)
        }
        Payload::ConfChange(_) | Payload::Empty => None,
    }
}

/// It as text, without what is stored.
pub(super) fn proposal(payload: &Payload, form: Form) -> Option<String> {
    request_in(payload).map(|request| told::proposal(&request, form))
}
