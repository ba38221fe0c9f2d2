//! Conf changes: which are valid, and what they do to the members.
//!
//! Validation happens when the entry is applied, on every member with the same result: two valid proposals can become
//! an invalid second one by the order in which they were committed.
//!
//! Upstream: `ValidateConfigurationChange` in `membership/cluster.go`, `applyConfChange` in `etcdserver/server.go`
//! (3.5.30).

use backend::Writer;
use backend::schema::{members, to_go_json};
use proto::raftpb::{ConfChange, ConfChangeType};
use serde::{Deserialize, Serialize};

use super::{Member, Membership};
use crate::{RequestError, Version};

/// What stands in the context of a change that adds, promotes or updates: a member, and whether it is promoted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeContext {
    /// The new member, or the member to update; of a member to promote only the id counts.
    pub member: Member,
    /// The change makes a learner a voter.
    pub is_promote: bool,
}

/// The field that a context has besides those of the member, which stand beside it and not in an object of their own.
#[derive(Serialize, Deserialize)]
struct Promotion {
    #[serde(default, rename = "isPromote")]
    is_promote: bool,
}

impl ConfChangeContext {
    /// Encodes the context as etcd does.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = to_go_json(&self.member);
        if self.is_promote {
            // The object of a member always has fields and always ends in its brace.
            text.pop();
            text.push_str(",\"isPromote\":true}");
        }
        text.into_bytes()
    }

    /// Decodes the context of a change.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let member = serde_json::from_slice(bytes)?;
        let Promotion { is_promote } = serde_json::from_slice(bytes)?;
        Ok(Self { member, is_promote })
    }
}

/// What a conf change means for the connections to other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// Connect to a new member.
    Add {
        /// The member.
        id: u64,
        /// Where to reach it.
        peer_urls: Vec<String>,
    },
    /// Reach a member elsewhere from now on.
    Update {
        /// The member.
        id: u64,
        /// Where to reach it.
        peer_urls: Vec<String>,
    },
    /// Disconnect from a member, for good.
    Remove {
        /// The member.
        id: u64,
    },
}

/// A change with its context read.
#[derive(Debug)]
pub(crate) enum Change {
    Add(Member),
    Promote(u64),
    Update(Member),
    Remove(u64),
}

impl Change {
    /// Reads a change.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it. etcd panics there: no member writes such an entry.
    pub(crate) fn decode(change: &ConfChange) -> Result<Self, String> {
        let kind = ConfChangeType::try_from(change.r#type)
            .map_err(|_| format!("conf change of unknown type {}", change.r#type))?;
        if kind == ConfChangeType::ConfChangeRemoveNode {
            return Ok(Self::Remove(change.node_id));
        }
        let context = change.context.as_deref().unwrap_or_default();
        let ConfChangeContext { member, is_promote } = ConfChangeContext::decode(context)
            .map_err(|error| format!("context of a conf change: {error}"))?;
        if member.id != change.node_id {
            return Err(format!(
                "conf change of node {:x} has the context of member {:x}",
                change.node_id, member.id
            ));
        }
        Ok(match kind {
            ConfChangeType::ConfChangeUpdateNode => Self::Update(member),
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode
                if is_promote =>
            {
                Self::Promote(member.id)
            }
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                Self::Add(member)
            }
            ConfChangeType::ConfChangeRemoveNode => Self::Remove(member.id),
        })
    }

    fn id(&self) -> u64 {
        match self {
            Self::Add(member) | Self::Update(member) => member.id,
            Self::Promote(id) | Self::Remove(id) => *id,
        }
    }
}

impl Membership {
    /// Says whether a change may be carried out now.
    pub(crate) fn validate(
        &self,
        change: &Change,
        learners_max: usize,
    ) -> Result<(), RequestError> {
        let id = change.id();
        if self.removed.contains(&id) {
            return Err(RequestError::MemberRemoved);
        }
        match change {
            Change::Add(member) => {
                if self.members.contains_key(&id) {
                    return Err(RequestError::MemberExists);
                }
                self.check_urls(member)?;
                let learners = self.members.values().filter(|member| member.is_learner).count();
                if member.is_learner && learners >= learners_max {
                    return Err(RequestError::TooManyLearners);
                }
            }
            Change::Promote(_) => {
                let member = self.members.get(&id).ok_or(RequestError::MemberNotFound)?;
                if !member.is_learner {
                    return Err(RequestError::MemberNotLearner);
                }
            }
            Change::Update(member) => {
                if !self.members.contains_key(&id) {
                    return Err(RequestError::MemberNotFound);
                }
                self.check_urls(member)?;
            }
            Change::Remove(_) => {
                if !self.members.contains_key(&id) {
                    return Err(RequestError::MemberNotFound);
                }
            }
        }
        Ok(())
    }

    /// Carries a valid change out, in the rows too if there are some to change.
    pub(crate) fn change(
        &mut self,
        change: Change,
        version: Version,
        rows: Option<&mut Writer>,
    ) -> PeerChange {
        match change {
            Change::Add(member) => {
                let peer_change =
                    PeerChange::Add { id: member.id, peer_urls: member.peer_urls.clone() };
                self.put(member, rows);
                peer_change
            }
            Change::Promote(id) => {
                let mut member = self.members.get(&id).cloned().unwrap_or_default();
                member.is_learner = false;
                let peer_change = PeerChange::Update { id, peer_urls: member.peer_urls.clone() };
                self.put(member, rows);
                peer_change
            }
            Change::Update(new) => {
                let mut member = self.members.get(&new.id).cloned().unwrap_or_default();
                member.peer_urls = new.peer_urls;
                if !version.update_keeps_learner() {
                    // What the client sent, which never says learner.
                    member.is_learner = new.is_learner;
                }
                let peer_change =
                    PeerChange::Update { id: member.id, peer_urls: member.peer_urls.clone() };
                self.put(member, rows);
                peer_change
            }
            Change::Remove(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
                if let Some(writer) = rows {
                    members::remove(writer, id);
                }
                PeerChange::Remove { id }
            }
        }
    }

    fn put(&mut self, member: Member, rows: Option<&mut Writer>) {
        if let Some(writer) = rows {
            members::put(writer, &member);
        }
        self.members.insert(member.id, member);
    }

    /// No two members may be reached at one URL.
    fn check_urls(&self, member: &Member) -> Result<(), RequestError> {
        let others = self.members.values().filter(|other| other.id != member.id);
        let is_taken =
            others.flat_map(|other| &other.peer_urls).any(|url| member.peer_urls.contains(url));
        if is_taken { Err(RequestError::PeerUrlExists) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
