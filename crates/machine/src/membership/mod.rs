//! Who belongs to the cluster: members, ids that were removed, cluster version, and what raft makes of it.
//!
//! There are two stores of the same facts, and both must be right for etcd to take this directory over:
//!
//! - rows of the buckets `members`, `members_removed` and `cluster`, which stand for the consistent index;
//! - the tree in the `.snap` file ([`document`]), which stands for the snapshot's index. etcd 3.5 starts from it and
//!   replays every log entry behind it, whether the rows have that entry already or not.
//!
//! This module does as 3.5: it starts from the document, and the rows follow. Only when there is no document (a
//! directory of 3.7) it starts from the rows.
//!
//! - `changes` decides on conf changes and carries them out;
//! - `conf_state` is what raft's configuration becomes by them;
//! - [`document`] reads and writes the tree.
//!
//! Upstream: `server/etcdserver/api/membership/cluster.go` (3.5.30).

pub(crate) mod changes;
pub(crate) mod conf_state;
pub mod document;

use std::collections::{BTreeMap, BTreeSet};

use backend::schema::members::MemberRow;
use backend::schema::{cluster, members};
use backend::{View, Writer};

pub use backend::schema::cluster::Downgrade;
/// One member: id, peer URLs, whether it is a learner, and once it has started its name and client URLs.
pub use backend::schema::members::MemberRow as Member;
pub use changes::{ConfChangeContext, PeerChange};

use crate::Version;

/// Members, removed ids and cluster version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    version: Option<Version>,
    downgrade: Downgrade,
}

impl Membership {
    /// Reads the rows.
    pub(crate) fn load(view: &View) -> Result<Self, crate::OpenError> {
        let version =
            cluster::version(view)?.map(|text| crate::parse_cluster_version(&text)).transpose()?;
        Ok(Self {
            members: members::all(view)?.into_iter().map(|member| (member.id, member)).collect(),
            removed: members::removed(view)?.into_iter().collect(),
            version,
            downgrade: Downgrade::default(),
        })
    }

    /// Takes the downgrade from the rows: the document has no place for it.
    pub(crate) fn with_downgrade_of_rows(self, view: &View) -> Result<Self, backend::Error> {
        Ok(Self { downgrade: cluster::downgrade(view)?.unwrap_or_default(), ..self })
    }

    /// Makes a membership of these, for those who want to know what would be.
    pub fn of(members: impl IntoIterator<Item = Member>) -> Self {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Self { members, ..Self::default() }
    }

    /// Returns the members in the order of their ids.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// Returns one member.
    #[must_use]
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Returns the ids that must not come back, ascending.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// Whether a member of this id was removed.
    #[must_use]
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// Returns the cluster version; `None` until a leader decided on one.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Returns the downgrade in progress, or one that is not enabled.
    #[must_use]
    pub fn downgrade(&self) -> &Downgrade {
        &self.downgrade
    }

    /// Returns the members as the Cluster service lists them.
    #[must_use]
    pub fn to_messages(&self) -> Vec<proto::etcdserverpb::Member> {
        self.members.values().map(to_message).collect()
    }

    /// Sets name and client URLs. `false` if there is no such member.
    pub(crate) fn publish(
        &mut self,
        id: u64,
        name: String,
        client_urls: Vec<String>,
        rows: Option<&mut Writer>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        member.name = name;
        member.client_urls = client_urls;
        if let Some(writer) = rows {
            members::put(writer, member);
        }
        true
    }

    /// Sets the cluster version.
    pub(crate) fn set_version(&mut self, version: Version, rows: Option<&mut Writer>) {
        self.version = Some(version);
        if let Some(writer) = rows {
            cluster::put_version(writer, &version.to_string());
        }
    }

    /// Starts or ends a downgrade.
    pub(crate) fn set_downgrade(&mut self, downgrade: Downgrade, rows: Option<&mut Writer>) {
        if let Some(writer) = rows {
            cluster::put_downgrade(writer, &downgrade);
        }
        self.downgrade = downgrade;
    }

    /// Returns the ids of those members that are no learners.
    pub(crate) fn voters(&self) -> Vec<u64> {
        self.members.values().filter(|member| !member.is_learner).map(|member| member.id).collect()
    }

    /// Makes voters of those of these members that are said to be learners; returns the ids of those whose rows said so.
    ///
    /// etcd before 3.5.22 left the row of a promoted learner as it was, and only its document and raft knew.
    ///
    /// Upstream: `SyncLearnerPromotionIfNeeded` (3.5.30).
    pub(crate) fn mend_voters(
        &mut self,
        writer: &mut Writer,
        voters: &[u64],
    ) -> Result<Vec<u64>, backend::Error> {
        let mut mended = Vec::new();
        for row in members::all(&writer.view())? {
            if row.is_learner && voters.contains(&row.id) {
                mended.push(row.id);
                members::put(writer, &MemberRow { is_learner: false, ..row });
            }
        }
        for member in self.members.values_mut() {
            member.is_learner &= !voters.contains(&member.id);
        }
        Ok(mended)
    }

    /// Makes the rows say what this says, where they differ from it in a way that etcd mends too: members that the
    /// document does not know, and learners that were promoted.
    ///
    /// Upstream: `CleanupZombieMembersIfNeeded`, `SyncLearnerPromotionIfNeeded` (3.5.26).
    pub(crate) fn mend_rows(&self, writer: &mut Writer) -> Result<(), backend::Error> {
        for row in members::all(&writer.view())? {
            match self.members.get(&row.id) {
                None => members::forget(writer, row.id),
                Some(member) if row.is_learner && !member.is_learner => {
                    members::put(writer, &MemberRow { is_learner: false, ..row });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn to_message(member: &Member) -> proto::etcdserverpb::Member {
    proto::etcdserverpb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
