//! `--force-new-cluster`: a member goes on alone, with what it knows to be committed, when the others are lost for good.
//!
//! What is not known to be committed is dropped, since others might have decided otherwise. Then conf changes are appended that
//! remove all others, and everything is declared committed: with one member left, that is what a quorum would do. The
//! member and the cluster keep their ids.
//!
//! Upstream: `restartAsStandaloneNode`, `createConfigChangeEnts` in `server/etcdserver/raft.go` (3.5.30).

use std::collections::BTreeMap;

use bytes::Bytes;
use machine::{ConfChangeContext, Member};
use prost::Message as _;
use proto::raftpb::{self, ConfChange, ConfChangeType, EntryType};
use wal::{Batch, Wal};

use crate::Error;

/// Where a member is found that does not know its own URLs: etcd's stopgap, until the operator updates it.
const OWN_URL: &str = "http://localhost:2380";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forced {
    /// How far the log said that it was committed.
    pub commit_before: u64,
    /// How far it says so now.
    pub commit_index: u64,
    /// Entries that were dropped, since nobody knows whether they were committed.
    pub discarded: usize,
}

/// Changes the log, on disk too, to that of a cluster of one. `entries` and `hard_state` are what the log holds behind
/// `snapshot`; `applied` is the last entry whose effect is in the database.
pub(crate) fn force(
    wal: &mut Wal,
    own: u64,
    snapshot: &raftpb::SnapshotMetadata,
    entries: &mut Vec<raftpb::Entry>,
    hard_state: &mut raftpb::HardState,
    applied: u64,
) -> Result<Forced, Error> {
    let commit_before = hard_state.commit;
    // A commit index alone is not always written, so that the database may know better.
    let commit = commit_before.max(applied);
    let mut members = Members::of(&snapshot.conf_state);
    let mut known = 0;
    for entry in entries.iter() {
        // What a member wrote that votes alone is committed, whatever the commit index says. Differs from etcd, which drops
        // what it acknowledged if its database does not have it yet.
        if entry.index > commit && !members.is_only_voter(own) {
            break;
        }
        members.follow(entry)?;
        known += 1;
    }
    let discarded = entries.len() - known;
    entries.truncate(known);

    let last = entries.last().map_or(snapshot.index, |entry| entry.index);
    let changes = members.changes_to_only(own);
    let appended: Vec<raftpb::Entry> = (last + 1..)
        .zip(changes)
        .map(|(index, change)| raftpb::Entry {
            r#type: EntryType::EntryConfChange.into(),
            term: hard_state.term,
            index,
            data: Some(Bytes::from(change.encode_to_vec())),
        })
        .collect();
    hard_state.commit = last + appended.len() as u64;
    // In one write with its commit index: whoever starts next, forced or not, finds a cluster of one or what was before.
    wal.stage(&Batch { entries: &appended, hard_state: Some(*hard_state) });
    wal.sync()?;
    entries.extend(appended);
    Ok(Forced { commit_before, commit_index: hard_state.commit, discarded })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voting {
    Yes,
    No,
}

/// The members as the log tells them. One whose change was refused when it was applied may be among them: its removal is then
/// refused too.
struct Members(BTreeMap<u64, Voting>);

impl Members {
    fn of(conf_state: &raftpb::ConfState) -> Self {
        let voters = conf_state.voters.iter().map(|id| (*id, Voting::Yes));
        let learners = conf_state.learners.iter().map(|id| (*id, Voting::No));
        Self(voters.chain(learners).collect())
    }

    fn follow(&mut self, entry: &raftpb::Entry) -> Result<(), Error> {
        if entry.r#type != i32::from(EntryType::EntryConfChange) {
            return Ok(());
        }
        let data = entry.data.clone().unwrap_or_default();
        let change = ConfChange::decode(data)
            .map_err(|error| Error::ConfChange { index: entry.index, why: error.to_string() })?;
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode => {
                self.0.insert(change.node_id, Voting::Yes);
            }
            ConfChangeType::ConfChangeAddLearnerNode => {
                self.0.insert(change.node_id, Voting::No);
            }
            ConfChangeType::ConfChangeRemoveNode => {
                self.0.remove(&change.node_id);
            }
            ConfChangeType::ConfChangeUpdateNode => {}
        }
        Ok(())
    }

    fn is_only_voter(&self, id: u64) -> bool {
        let mut voters = self.0.iter().filter(|(_, voting)| **voting == Voting::Yes);
        voters.next().is_some_and(|(voter, _)| *voter == id) && voters.next().is_none()
    }

    /// The changes that leave this member alone, and a voter. Its own come first: there must always be one who votes.
    fn changes_to_only(&self, own: u64) -> Vec<ConfChange> {
        let mut changes = Vec::new();
        let add = |member: Member, is_promote| ConfChange {
            r#type: ConfChangeType::ConfChangeAddNode.into(),
            node_id: own,
            context: Some(Bytes::from(ConfChangeContext { member, is_promote }.encode())),
            ..ConfChange::default()
        };
        match self.0.get(&own) {
            Some(Voting::Yes) => {}
            Some(Voting::No) => changes.push(add(Member { id: own, ..Member::default() }, true)),
            None => {
                let peer_urls = vec![OWN_URL.to_owned()];
                changes.push(add(Member { id: own, peer_urls, ..Member::default() }, false));
            }
        }
        changes.extend(self.0.keys().filter(|id| **id != own).map(|&node_id| ConfChange {
            r#type: ConfChangeType::ConfChangeRemoveNode.into(),
            node_id,
            ..ConfChange::default()
        }));
        changes
    }
}

#[cfg(test)]
mod tests;
