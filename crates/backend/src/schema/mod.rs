//! Every bucket and key layout of etcd's backend, as types.
//!
//! One module for each family of rows. Readers take a [`View`](crate::View), writers the [`Writer`](crate::Writer);
//! what they return is checked, and a row that etcd could not have written is an
//! [`Error::CorruptRow`](crate::Error::CorruptRow) with its bucket and key.
//!
//! ```text
//! alarm            AlarmMember (protobuf)      -> empty
//! auth             authEnabled, authRevision   -> one byte, u64
//! authRoles        role name                   -> authpb.Role
//! authUsers        user name                   -> authpb.User
//! cluster          clusterVersion, downgrade   -> text, JSON
//! key              revision, 17 or 18 bytes    -> mvccpb.KeyValue
//! lease            lease id, i64               -> leasepb.Lease
//! members          member id, hex              -> JSON
//! members_removed  member id, hex              -> "removed"
//! meta             consistent_index, term, confState, scheduledCompactRev, finishedCompactRev, storageVersion
//! ```
//!
//! Numbers are big-endian. Upstream: `server/mvcc/buckets` and `server/etcdserver/api/membership/store.go` (3.5),
//! `server/storage/schema` (3.6).

pub mod alarm;
pub mod auth;
pub mod cluster;
mod json;
pub mod lease;
pub mod members;
pub mod meta;
mod revision;

use std::fmt;

pub use json::to_go_json;
pub use revision::{EncodedRowKey, MalformedRowKey, Revision, RowKey};

/// The ten buckets, in the order of their names (which is the order on disk and of `Maintenance.Hash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Raised alarms.
    Alarm,
    /// Whether authentication is on, and its revision.
    Auth,
    /// Roles.
    AuthRoles,
    /// Users.
    AuthUsers,
    /// Cluster version and downgrade.
    Cluster,
    /// Revisions of keys.
    Key,
    /// Leases.
    Lease,
    /// Current members.
    Members,
    /// Ids that must not come back.
    MembersRemoved,
    /// Consistent index, conf state, compaction, storage version.
    Meta,
}

impl Bucket {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them in the order of their names.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Alarm,
        Self::Auth,
        Self::AuthRoles,
        Self::AuthUsers,
        Self::Cluster,
        Self::Key,
        Self::Lease,
        Self::Members,
        Self::MembersRemoved,
        Self::Meta,
    ];

    /// The name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Auth => "auth",
            Self::AuthRoles => "authRoles",
            Self::AuthUsers => "authUsers",
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Lease => "lease",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
            Self::Meta => "meta",
        }
    }

    /// Place in [`Bucket::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
