//! What changes the cluster: conf changes, published members, cluster version, downgrade.
//!
//! etcd 3.6 has requests for the last three. 3.5 applies them too, but sends v2 requests for the first two of them;
//! both forms do the same here.

use backend::schema::meta;
use proto::etcdserverpb::Request as V2Request;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::raftpb;

use super::Entry;
use crate::membership::changes::Change;
use crate::membership::{conf_state, document};
use crate::{
    Answer, Applied, Downgrade, Effect, Fatal, Machine, Outcome, PeerChange, RequestError,
    Response, Version,
};

/// Of a log with keys of the v2 API, which a member of etcd 3.5 with `--enable-v2` has written. The first words are etcd's.
const V2_DATA: &str = "detected disallowed v2 WAL for stage --v2-deprecation=write-only: this member does not serve the v2 API, \
                       and nothing was changed; delete its keys with etcd 3.5 (--enable-v2), let that take a snapshot, and start again";

impl Machine {
    /// Carries out a request about the cluster. `None` when it is about something else.
    pub(super) fn apply_to_cluster(
        &mut self,
        entry: Entry,
        op: &Op,
        applied: &mut Applied,
    ) -> Result<Option<Outcome>, Fatal> {
        let outcome = match op {
            Op::ClusterVersionSet(request) => {
                let version = parse_version(entry, &request.ver)?;
                self.set_cluster_version(entry, version, applied)?
            }
            Op::ClusterMemberAttrSet(request) => {
                let attributes = request.member_attributes.clone().unwrap_or_default();
                self.publish_member(
                    entry,
                    request.member_id,
                    attributes.name,
                    attributes.client_urls,
                )?
            }
            Op::DowngradeInfoSet(request) => {
                let target_version =
                    if request.enabled { request.ver.clone() } else { String::new() };
                let downgrade = Downgrade { enabled: request.enabled, target_version };
                if entry.is_new {
                    self.membership.set_downgrade(downgrade, Some(&mut self.writer));
                }
                Ok(self.answer(Response::Done))
            }
            Op::V2(request) => {
                let request_id = applied.request_id;
                self.apply_v2(entry, request, applied)?;
                if request.id == 0 {
                    // Ours has the id around it; see [`crate::v2`].
                    applied.request_id = request_id;
                }
                // As where nothing is around it.
                applied.op = None;
                return Ok(applied.outcome.take());
            }
            Op::Range(_)
            | Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compaction(_)
            | Op::LeaseGrant(_)
            | Op::LeaseRevoke(_)
            | Op::LeaseCheckpoint(_)
            | Op::Alarm(_)
            | Op::AuthEnable(_)
            | Op::AuthDisable(_)
            | Op::Authenticate(_)
            | Op::AuthStatus(_)
            | Op::AuthUserAdd(_)
            | Op::AuthUserDelete(_)
            | Op::AuthUserGet(_)
            | Op::AuthUserChangePassword(_)
            | Op::AuthUserGrantRole(_)
            | Op::AuthUserRevokeRole(_)
            | Op::AuthUserList(_)
            | Op::AuthRoleList(_)
            | Op::AuthRoleAdd(_)
            | Op::AuthRoleDelete(_)
            | Op::AuthRoleGet(_)
            | Op::AuthRoleGrantPermission(_)
            | Op::AuthRoleRevokePermission(_)
            | Op::DowngradeVersionTest(_) => return Ok(None),
        };
        Ok(Some(outcome))
    }

    /// Applies one of the two v2 requests that 3.5 makes for itself; 3.6 stops at any other, and so does this.
    pub(super) fn apply_v2(
        &mut self,
        entry: Entry,
        request: &V2Request,
        applied: &mut Applied,
    ) -> Result<(), Fatal> {
        let wrong = |what: &str| Fatal::Entry {
            index: entry.index,
            what: format!("v2 request {} {}: {what}", request.method, request.path),
        };
        applied.request_id = request.id;
        let outcome = if request.method != "PUT" {
            return Err(wrong(V2_DATA));
        } else if document::is_cluster_version(&request.path) {
            let version = parse_version(entry, &request.val)?;
            self.set_cluster_version(entry, version, applied)?
        } else if let Some(id) = document::published_member(&request.path) {
            let attributes: document::Attributes =
                serde_json::from_str(&request.val).map_err(|error| wrong(&error.to_string()))?;
            self.publish_member(entry, id, attributes.name, attributes.client_urls)?
        } else {
            return Err(wrong(V2_DATA));
        };
        applied.outcome = entry.is_new.then_some(outcome);
        Ok(())
    }

    fn set_cluster_version(
        &mut self,
        entry: Entry,
        new: Version,
        applied: &mut Applied,
    ) -> Result<Outcome, Fatal> {
        let own = self.options.version;
        // What the rows have already was no obstacle then, and a later entry may have taken it back.
        let is_target = target_of(self.membership.downgrade()) == Some(own.of_cluster());
        if entry.is_new && new > own.of_cluster() && !is_target {
            return Err(Fatal::ClusterVersion { index: entry.index, cluster: new, own });
        }
        if entry.index > self.membership_index {
            let old = self.membership.version();
            self.membership.set_version(new, entry.is_new.then_some(&mut self.writer));
            if old != Some(new) {
                applied.effects.push(Effect::ClusterVersion { old, new });
            }
            if entry.is_new && old.is_some_and(|old| new < old) {
                applied.effects.push(Effect::Snapshot);
            }
        }
        Ok(Ok(self.answer(Response::Done)))
    }

    fn publish_member(
        &mut self,
        entry: Entry,
        id: u64,
        name: String,
        client_urls: Vec<String>,
    ) -> Result<Outcome, Fatal> {
        if entry.index > self.membership_index {
            let rows = entry.is_new.then_some(&mut self.writer);
            if !self.membership.publish(id, name, client_urls, rows) {
                return Ok(Err(RequestError::UnknownPublisher));
            }
            if entry.is_new && id == self.options.member_id {
                self.membership.mend_rows(&mut self.writer)?;
            }
        }
        Ok(Ok(self.answer(Response::Done)))
    }

    /// Validates a conf change and carries it out. Raft is told in any case: of a change that is refused, that it
    /// changes nothing.
    pub(super) fn apply_conf_change(
        &mut self,
        entry: Entry,
        change: &raftpb::ConfChange,
        applied: &mut Applied,
    ) -> Result<(), Fatal> {
        applied.request_id = change.id;
        let decoded =
            Change::decode(change).map_err(|what| Fatal::Entry { index: entry.index, what })?;
        // Members that were read from rows of a later index cannot judge an earlier change; raft took it then, or not.
        let can_judge = entry.index > self.membership_index;
        if can_judge && let Err(refused) = self.membership.validate(&decoded, self.learners_max()) {
            applied
                .effects
                .push(Effect::ConfChange(raftpb::ConfChange { node_id: 0, ..change.clone() }));
            applied.outcome = entry.is_new.then_some(Err(refused));
            return Ok(());
        }
        conf_state::apply(&mut self.conf_state, change)
            .map_err(|conf_state::NoVoters| Fatal::NoVoters { index: entry.index })?;
        applied.effects.push(Effect::ConfChange(change.clone()));
        if let Change::Promote(id) = decoded
            && !entry.is_new
        {
            let mended = self.membership.mend_voters(&mut self.writer, &[id])?;
            let is_mended = !mended.is_empty();
            applied.effects.push(Effect::PromotedBefore { id, is_mended });
        }
        if can_judge {
            let rows = entry.is_new.then_some(&mut self.writer);
            let peer_change = self.membership.change(decoded, self.options.version, rows);
            self.note_peer(peer_change, applied);
        }
        if entry.is_new {
            meta::put_conf_state(&mut self.writer, &self.conf_state.clone().into());
            self.membership.mend_rows(&mut self.writer)?;
            let members = Response::Members(self.membership.to_messages());
            applied.outcome = Some(Ok(Answer { revision: 0, response: members }));
        }
        Ok(())
    }

    fn learners_max(&self) -> usize {
        if self.options.version.has_learners_max() { self.options.learners_max } else { 1 }
    }

    /// Makes the rows say that they are of the cluster's version, if they say otherwise; 3.5 has no row for it.
    ///
    /// Raising it is for this to do at any time. Lowering it tells an older etcd that it may open this directory: that waits
    /// until the log behind the last snapshot on disk holds nothing of the newer version (`may_lower`). No entry asks for
    /// it, and its moment may differ between members.
    ///
    /// Upstream: `UpdateStorageVersionIfNeeded` in `version/monitor.go`, `schema/migration.go` (3.6.14).
    ///
    /// # Errors
    /// The row cannot be read.
    pub fn migrate_storage(&mut self, may_lower: bool) -> Result<StorageMigration, Fatal> {
        let Some(cluster) = self.membership.version() else { return Ok(StorageMigration::Settled) };
        // A cluster below 3.5 is one that has not heard all of its members yet.
        if !self.options.version.has_storage_version() || cluster < Version::v3(5, 0) {
            return Ok(StorageMigration::Settled);
        }
        let found = meta::storage_version(&self.writer.view())?;
        let found = found.as_deref().and_then(Version::parse).unwrap_or(Version::v3(5, 0));
        if found.of_cluster() == cluster {
            return Ok(StorageMigration::Settled);
        }
        // Without a term nothing says that these are rows of 3.5.
        if self.writer.consistent().term == 0 || (found.of_cluster() > cluster && !may_lower) {
            return Ok(StorageMigration::Waiting);
        }
        let row = cluster.has_storage_version().then(|| cluster.to_string());
        meta::put_storage_version(&mut self.writer, row.as_deref());
        self.writer.publish();
        Ok(StorageMigration::Done(cluster))
    }

    fn note_peer(&self, change: PeerChange, applied: &mut Applied) {
        let own = self.options.member_id;
        match change {
            PeerChange::Remove { id } if id == own => applied.effects.push(Effect::SelfRemoved),
            PeerChange::Add { id, .. } | PeerChange::Update { id, .. } if id == own => {}
            change @ (PeerChange::Add { .. }
            | PeerChange::Update { .. }
            | PeerChange::Remove { .. }) => {
                applied.effects.push(Effect::Peer(change));
            }
        }
    }
}

/// What [`Machine::migrate_storage`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMigration {
    /// The rows say what they are to say.
    Settled,
    /// They do not, and must not yet.
    Waiting,
    /// They do from now on, with the next commit.
    Done(Version),
}

/// Where a downgrade that is enabled leads to.
pub(crate) fn target_of(downgrade: &Downgrade) -> Option<Version> {
    downgrade.enabled.then(|| Version::parse(&downgrade.target_version))?
}

fn parse_version(entry: Entry, text: &str) -> Result<Version, Fatal> {
    let what = || format!("cluster version {text:?} is not of the form 3.x.y");
    Version::parse(text).ok_or_else(|| Fatal::Entry { index: entry.index, what: what() })
}
