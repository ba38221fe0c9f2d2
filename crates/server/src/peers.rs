//! The other members: what the stages say to the transport, and what the transport says to the stages.
//!
//! [`Peers`] is what the stages hold. Without a transport (a member in a test) everything that is sent is lost, as on a
//! network that is down.

use std::sync::{Arc, OnceLock};

use machine::{Membership, PeerChange};
use raft::{Message, NodeId};
use replica::Input;
use tokio::sync::watch;

use crate::driver::heart::Work;
use crate::driver::mailbox::{SendError, Sender};
use crate::facts::Facts;
use crate::peer::{Delivery, Dialler, Host, PeerClient, Transport};

/// The other members, as seen by the stages.
#[derive(Debug)]
pub(crate) struct Peers {
    member_id: u64,
    heart: Sender<Work>,
    transport: OnceLock<Arc<Transport>>,
    client: PeerClient,
    /// Set when this member no longer belongs to the cluster.
    removed: watch::Sender<bool>,
}

impl Peers {
    /// Members are reached by the dialler.
    pub(crate) fn new(member_id: u64, heart: Sender<Work>, dialler: Dialler) -> Self {
        Self {
            member_id,
            heart,
            transport: OnceLock::new(),
            client: PeerClient::new(dialler),
            removed: watch::channel(false).0,
        }
    }

    /// For requests to the peer ports of other members.
    pub(crate) fn client(&self) -> &PeerClient {
        &self.client
    }

    /// Connects to the members that are known at the start. Called once.
    pub(crate) fn connect(&self, transport: Arc<Transport>, membership: &Membership) {
        let _ = self.transport.set(transport);
        self.replace(membership);
    }

    /// The transport, once there is one.
    pub(crate) fn transport(&self) -> Option<&Arc<Transport>> {
        self.transport.get()
    }

    /// Sends messages; what cannot be sent is lost.
    pub(crate) fn send(&self, messages: Vec<Message>) {
        if let Some(transport) = self.transport() {
            transport.send(messages);
        }
    }

    /// Sends a snapshot, in the background.
    pub(crate) fn send_snapshot(&self, message: Message, database: backend::Snapshot) {
        match self.transport() {
            Some(transport) => transport.send_snapshot(message, database),
            None => {
                let sent = Input::SnapshotSent { to: message.to, is_taken: false };
                self.heart.send_all([Work::Replica(sent)]);
            }
        }
    }

    /// Follows a change of the membership.
    pub(crate) fn change(&self, change: &PeerChange) {
        let Some(transport) = self.transport() else { return };
        match change {
            PeerChange::Add { id, peer_urls } if *id != self.member_id => {
                transport.add_peer(*id, peer_urls);
            }
            PeerChange::Update { id, peer_urls } if *id != self.member_id => {
                transport.update_peer(*id, peer_urls);
            }
            PeerChange::Remove { id } if *id != self.member_id => transport.remove_peer(*id),
            PeerChange::Add { .. } | PeerChange::Update { .. } | PeerChange::Remove { .. } => {}
        }
    }

    /// Follows a membership that came as a whole.
    pub(crate) fn replace(&self, membership: &Membership) {
        let Some(transport) = self.transport() else { return };
        let members: Vec<(u64, Vec<String>)> = membership
            .members()
            .filter(|member| member.id != self.member_id)
            .map(|member| (member.id, member.peer_urls.clone()))
            .collect();
        transport.replace_peers(&members);
    }

    /// This member was removed from the cluster.
    pub(crate) fn removed(&self) {
        self.removed.send_replace(true);
    }

    /// What the transport tells the member. It does not hold these peers, which hold the transport.
    pub(crate) fn front(&self, facts: Arc<Facts>) -> Arc<dyn Host> {
        Arc::new(Front { heart: self.heart.clone(), facts, removed: self.removed.clone() })
    }

    /// Tells of the removal.
    pub(crate) fn removal(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }
}

/// What the transport tells the member.
#[derive(Debug)]
struct Front {
    heart: Sender<Work>,
    facts: Arc<Facts>,
    removed: watch::Sender<bool>,
}

impl Host for Front {
    fn deliver(&self, message: Message) -> Delivery {
        match self.heart.send(Work::Replica(Input::Received(message))) {
            Ok(()) => Delivery::Taken,
            Err(SendError::Full(_)) => Delivery::Full,
            Err(SendError::Closed(_)) => Delivery::Stopped,
        }
    }

    fn unreachable(&self, to: NodeId) {
        self.heart.send_all([Work::Replica(Input::Unreachable(to))]);
    }

    fn snapshot_sent(&self, to: NodeId, ok: bool) {
        self.heart.send_all([Work::Replica(Input::SnapshotSent { to, is_taken: ok })]);
    }

    fn is_removed(&self, id: u64) -> bool {
        self.facts.get().membership.is_removed(id)
    }

    fn removed_from_cluster(&self, told_by: u64) {
        tracing::error!(
            told_by = format!("{told_by:x}"),
            "the member has been permanently removed from the cluster"
        );
        self.removed.send_replace(true);
    }
}
