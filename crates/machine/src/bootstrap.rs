//! The first entries of a new cluster's log.
//!
//! Every founding member writes the same ones on its own: a conf change for each member, in the order of ids, term 1,
//! index 1 and on. They count as committed.
//!
//! Upstream: `server/etcdserver/bootstrap.go`, `raft.go` (3.5.30).

use prost::Message;
use proto::raftpb;

use crate::ids;
use crate::membership::{ConfChangeContext, Member};

/// A new cluster: its id, and its members in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// The members.
    pub members: Vec<Member>,
}

impl Founding {
    /// Founds a cluster of these members (name and peer URLs, as normalised by a URL parser) under a token.
    #[must_use]
    pub fn new(
        members: impl IntoIterator<Item = (String, Vec<String>)>,
        cluster_token: &str,
    ) -> Self {
        let mut members: Vec<Member> = members
            .into_iter()
            .map(|(name, mut peer_urls)| {
                peer_urls.sort_unstable();
                Member {
                    id: ids::founder_id(&peer_urls, cluster_token),
                    name,
                    peer_urls,
                    ..Member::default()
                }
            })
            .collect();
        members.sort_unstable_by_key(|member| member.id);
        Self { cluster_id: ids::cluster_id(members.iter().map(|member| member.id)), members }
    }

    /// Returns the member of this name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Returns the context of each member's conf change, with the member's id: what a raft core is bootstrapped with.
    pub fn contexts(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        self.members.iter().map(|member| {
            (member.id, ConfChangeContext { member: member.clone(), is_promote: false }.encode())
        })
    }

    /// Returns the entries themselves.
    #[must_use]
    pub fn entries(&self) -> Vec<raftpb::Entry> {
        self.contexts()
            .zip(1..)
            .map(|((node_id, context), index)| {
                let change = raftpb::ConfChange {
                    id: 0,
                    r#type: raftpb::ConfChangeType::ConfChangeAddNode.into(),
                    node_id,
                    context: Some(context.into()),
                };
                raftpb::Entry {
                    r#type: raftpb::EntryType::EntryConfChange.into(),
                    term: 1,
                    index,
                    data: Some(change.encode_to_vec().into()),
                }
            })
            .collect()
    }
}
