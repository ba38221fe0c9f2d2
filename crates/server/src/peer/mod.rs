//! Members talk to each other: raft's messages, snapshots, and the few requests that one member forwards to another.
//!
//! ```text
//!             this member                                          a peer
//!  heart ──► Transport::send ──► outgoing ══ stream MsgApp ══► incoming ──► Host::deliver ──► its heart
//!                           ├──► outgoing ══ stream Message ═► incoming ──►
//!                           └──► pipeline ── POST /raft ─────► routes ────►
//!  committer ──► send_snapshot ──► snapshot_send ── POST /raft/snapshot ──► snapshot_receive ──► file, then deliver
//!
//!  and the same in the other direction: each of two members dials two streams and reads them
//! ```
//!
//! - [`Transport`] knows the other members and picks the channel for each message; nothing here decides anything about raft.
//! - Sending never waits. A message that finds no room is lost and the peer reported unreachable: raft sends again.
//! - Everything that arrives is hostile until checked: `codec` for bytes, `headers` for who speaks, `routes` for the order
//!   of checks and the answers, which are etcd's to the letter.
//! - `prober` watches each peer's answers and clock, for the log and for metrics; `answers` reads what members say to questions.
//! - Streams are read and written by tasks of [`Options::streams`], the heart's thread: a message goes from the socket to the heart, and
//!   from there to the next socket, without another thread. They are few, take turns, and never block; the ones that this member reads
//!   are dialled there too. What strangers can cause (their handshakes, requests and posts), databases and probes stay with the executor
//!   of the clients' requests: a connection moves when it is answered with a stream ([`routes::GoesOnAt`]), and takes no other request.
//! - Each task belongs to a [`channels::Channels`] or to a connection of [`serve()`], and ends with it.
//! - `dial` is the one place that makes connections, `serve` the one that takes them.
//!
//! Invariants
//! - one message is given to one channel; on a stream, messages of a kind keep their order;
//! - a stream that this member writes has one connection: a newer one ends the older;
//! - a received database has its final name only when all of it is durable, and raft gets no snapshot without one;
//! - what strangers can make this member hold is bounded: connections, those of them that have asked nothing yet, the time that
//!   a request takes to arrive, and the memory of all posted messages together.
//!
//! Upstream: server/etcdserver/api/rafthttp (3.5.30). Differs: appends and other messages have lanes of their own where they
//! share a channel; a message that the host refuses is answered 500 with a whole body; a peer is probed once where etcd probes it
//! twice (`prober` says why).

pub(crate) mod answers;
mod channels;
mod client;
mod codec;
mod dial;
pub(crate) mod fuzz;
mod headers;
mod incoming;
mod outgoing;
mod pipeline;
mod prober;
mod queue;
mod routes;
mod serve;
mod snapshot_receive;
mod snapshot_send;
mod status;
mod timely;
mod timestamp;
mod urls;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use http::HeaderMap;
use raft::{Body, Message, MessageKind, NodeId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::channels::{Acquaintance, Channels};
pub(crate) use self::client::{Answer, PeerClient, Question};
pub(crate) use self::dial::Dialler;
pub(crate) use self::headers::Identity;
pub(crate) use self::serve::serve;
use self::status::Seldom;
use self::urls::Urls;
use crate::metrics::Metrics;

/// Members that are only known from their requests. A cluster has a handful; whoever sends more is none of it.
const REMOTES_MAX: usize = 64;

/// Whoever is not known to be a member is counted under this id, as in etcd.
pub(crate) const STRANGER: u64 = 0;

/// What the transport asks of the member it belongs to. All calls return at once; they come from any thread.
pub(crate) trait Host: Send + Sync + std::fmt::Debug + 'static {
    /// A message for this member's raft.
    fn deliver(&self, message: Message) -> Delivery;
    /// Messages to that member were lost.
    fn unreachable(&self, to: NodeId);
    /// A snapshot has arrived there, or has not. Said once for each.
    fn snapshot_sent(&self, to: NodeId, ok: bool);
    /// Whether that member was one and is none any more.
    fn is_removed(&self, id: u64) -> bool;
    /// A peer says that this member is none any more. It has to stop.
    fn removed_from_cluster(&self, told_by: u64);
}

/// What became of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Raft gets it.
    Taken,
    /// There is no room; it is lost.
    Full,
    /// This member is stopping.
    Stopped,
}

/// What an operator and a data directory decide.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How members are reached.
    pub(crate) dialler: Dialler,
    /// Where received databases go.
    pub(crate) snap_dir: Arc<dyn vfs::Dir>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Where streams are read and written.
    pub(crate) streams: Handle,
}

/// What all channels share.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    /// Of the identity, for every request.
    request_headers: HeaderMap,
    options: Options,
    host: Arc<dyn Host>,
    client: PeerClient,
    /// Lines about messages that found no room, here and at the host.
    dropped: Seldom,
    /// Lines about messages that are none of this member's.
    refused: Seldom,
    /// One permit for each snapshot on its way out.
    sending: Arc<Semaphore>,
    receiving: snapshot_receive::Receiving,
    /// Room for posted messages that are being read, in [`routes::ROOM_UNIT_BYTES`].
    room: Semaphore,
}

/// Why a message was not even offered to raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum NotOurs {
    #[error("the sender has been removed from the cluster")]
    Removed,
    #[error("the message is addressed to another member")]
    NotAddressee,
    #[error("a snapshot came without its database")]
    NoDatabase,
}

impl Shared {
    fn check(&self, message: &Message) -> Result<(), NotOurs> {
        if self.host.is_removed(message.from.0) {
            return Err(NotOurs::Removed);
        }
        if message.to.0 != self.identity.member_id {
            return Err(NotOurs::NotAddressee);
        }
        Ok(())
    }

    /// Gives a message of another member to raft, but no snapshot: no member sends one without its database, and this one would have to
    /// stop if raft took one whose database is not here.
    fn take(&self, message: Message) -> Result<Delivery, NotOurs> {
        let checked = match message.body.kind() == MessageKind::Snapshot {
            true => Err(NotOurs::NoDatabase),
            false => self.check(&message),
        };
        self.deliver(message, checked)
    }

    /// Gives raft a snapshot whose database is durable here.
    fn take_snapshot(&self, message: Message) -> Result<Delivery, NotOurs> {
        let checked = self.check(&message);
        self.deliver(message, checked)
    }

    fn deliver(&self, message: Message, checked: Result<(), NotOurs>) -> Result<Delivery, NotOurs> {
        let (kind, from) = (message.body.kind(), message.from);
        if let Err(error) = checked {
            // Anybody may have sent it, under any name.
            self.options.metrics.peers.of(STRANGER).receive_failures.count();
            if let Some(count) = self.refused.is_due() {
                let reason = error.to_string();
                tracing::warn!(message_type = %kind, from = %from, count, reason, "rejected Raft message");
            }
            return Err(error);
        }
        let delivery = self.host.deliver(message);
        if delivery == Delivery::Full {
            self.options.metrics.peers.of(from.0).receive_failures.count();
        }
        if delivery == Delivery::Full
            && let Some(count) = self.dropped.is_due()
        {
            tracing::warn!(
                message_type = %kind,
                from = %from,
                count,
                "dropped internal Raft message since receiving buffer is full"
            );
        }
        Ok(delivery)
    }
}

/// This member's connections to all others.
#[derive(Debug)]
pub(crate) struct Transport {
    shared: Arc<Shared>,
    runtime: Handle,
    /// Held for reading while a message is queued, for writing when the membership changes.
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    peers: BTreeMap<u64, Arc<Channels>>,
    remotes: BTreeMap<u64, Arc<Channels>>,
    is_stopped: bool,
}

impl Transport {
    /// Knows nobody yet. Tasks run on that runtime.
    pub(crate) fn new(
        identity: Identity,
        options: Options,
        host: Arc<dyn Host>,
        runtime: Handle,
    ) -> Arc<Self> {
        let shared = Shared {
            request_headers: identity.request_headers(),
            client: PeerClient::new(options.dialler.clone()),
            identity,
            options,
            host,
            dropped: Seldom::default(),
            refused: Seldom::default(),
            sending: Arc::new(Semaphore::new(snapshot_send::AT_ONCE)),
            receiving: snapshot_receive::Receiving::default(),
            room: Semaphore::new(routes::ROOM_UNITS),
        };
        Arc::new(Self { shared: Arc::new(shared), runtime, known: RwLock::default() })
    }

    /// Sends what can be sent and drops the rest; never waits, so any thread may call it. Of several [`Body::AppendResponse`]
    /// to one member only the last is sent, which speaks for the others. A [`Body::Snapshot`] does not belong here but to
    /// [`Transport::send_snapshot`].
    pub(crate) fn send(&self, messages: Vec<Message>) {
        let known = self.read();
        let is_superseded = superseded(&messages);
        for (place, message) in messages.into_iter().enumerate() {
            if is_superseded.get(place).is_some_and(|is_superseded| *is_superseded) {
                continue;
            }
            if let Body::Snapshot(_) = message.body {
                tracing::error!(remote_peer_id = %message.to, "a snapshot cannot be sent as a message");
                self.shared.host.snapshot_sent(message.to, false);
                continue;
            }
            match known.get(message.to.0) {
                Some(remote) => remote.send(message),
                None => tracing::debug!(
                    message_type = %message.body.kind(),
                    unknown_target_peer_id = %message.to,
                    "ignored message send request; unknown remote peer target"
                ),
            }
        }
    }

    /// Sends the message, a [`Body::Snapshot`], with the database that it speaks of; [`Host::snapshot_sent`] tells how it
    /// went.
    pub(crate) fn send_snapshot(&self, message: Message, db: backend::Snapshot) {
        let to = message.to;
        let report = snapshot_send::Report::new(Arc::clone(&self.shared.host), to);
        let Some(peer) = self.read().get(to.0).cloned() else {
            tracing::warn!(remote_peer_id = %to, "no such peer to send a snapshot to");
            return;
        };
        let Ok(permit) = Arc::clone(&self.shared.sending).try_acquire_owned() else {
            tracing::warn!(remote_peer_id = %to, "too many snapshots are being sent");
            return;
        };
        let sending = snapshot_send::Sending {
            urls: Arc::clone(&peer.urls),
            status: Arc::clone(&peer.status),
            shared: Arc::clone(&self.shared),
            report,
        };
        peer.spawn(async move {
            sending.run(message, db).await;
            drop(permit);
        });
    }

    /// A member of the cluster from now on. Known ones stay as they are.
    pub(crate) fn add_peer(&self, id: u64, urls: &[String]) {
        self.add(id, urls, Acquaintance::Peer);
    }

    /// A member that the local state does not know yet: it gets answers, by POST.
    pub(crate) fn add_remote(&self, id: u64, urls: &[String]) {
        self.add(id, urls, Acquaintance::Remote);
    }

    fn add(&self, id: u64, urls: &[String], acquaintance: Acquaintance) {
        if id == self.shared.identity.member_id {
            return;
        }
        let mut known = self.write();
        let is_known = known.peers.contains_key(&id)
            || (acquaintance == Acquaintance::Remote
                && (known.remotes.contains_key(&id) || known.remotes.len() >= REMOTES_MAX));
        if known.is_stopped || is_known {
            return;
        }
        let parsed = match Urls::parse(urls) {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::warn!(remote_peer_id = format!("{id:x}"), error = %error, "cannot reach a member");
                return;
            }
        };
        let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
        let remote = Arc::new(Channels::start(id, parsed, acquaintance, shared, runtime));
        match acquaintance {
            Acquaintance::Peer => {
                known.peers.insert(id, remote);
                tracing::info!(
                    local_member_id = format!("{:x}", self.shared.identity.member_id),
                    remote_peer_id = format!("{id:x}"),
                    remote_peer_urls = ?crate::told::url_texts(urls),
                    "added remote peer"
                );
                if let Some(remote) = known.remotes.remove(&id) {
                    remote.stop();
                }
            }
            Acquaintance::Remote => {
                known.remotes.insert(id, remote);
                tracing::info!(
                    local_member_id = format!("{:x}", self.shared.identity.member_id),
                    remote_peer_id = format!("{id:x}"),
                    remote_peer_urls = ?crate::told::url_texts(urls),
                    "added new remote peer"
                );
            }
        }
    }

    /// The member is reached at other URLs from now on.
    pub(crate) fn update_peer(&self, id: u64, urls: &[String]) {
        let Some(peer) = self.read().get(id).cloned() else { return };
        match peer.urls.update(urls) {
            Ok(()) => tracing::info!(
                local_member_id = format!("{:x}", self.shared.identity.member_id),
                updated_remote_peer_id = format!("{id:x}"),
                updated_remote_peer_urls = ?crate::told::url_texts(urls),
                "updated remote peer"
            ),
            Err(error) => {
                tracing::warn!(remote_peer_id = format!("{id:x}"), error = %error, "cannot reach a member");
            }
        }
    }

    /// The member is none any more: its streams end, what is queued for it is dropped.
    pub(crate) fn remove_peer(&self, id: u64) {
        let mut known = self.write();
        let removed = [known.peers.remove(&id), known.remotes.remove(&id)];
        drop(known);
        for remote in removed.into_iter().flatten() {
            remote.stop();
            tracing::info!(
                local_member_id = format!("{:x}", self.shared.identity.member_id),
                removed_remote_peer_id = format!("{id:x}"),
                "removed remote peer"
            );
        }
    }

    /// These are the members from now on: for when a snapshot brings another membership. Connections to members that
    /// stay are kept.
    pub(crate) fn replace_peers(&self, members: &[(u64, Vec<String>)]) {
        let gone: Vec<u64> = {
            let is_member = |id: &u64| members.iter().any(|(member, _)| member == id);
            self.read().peers.keys().copied().filter(|id| !is_member(id)).collect()
        };
        for id in gone {
            self.remove_peer(id);
        }
        for (id, urls) in members {
            if self.peer(*id).is_some() {
                self.update_peer(*id, urls);
            } else {
                self.add_peer(*id, urls);
            }
        }
    }

    /// Ends all connections that this member made or writes to, and waits for their tasks. Nobody is added any more.
    pub(crate) async fn stop(&self) {
        let known = {
            let mut known = self.write();
            std::mem::replace(&mut *known, Known { is_stopped: true, ..Known::default() })
        };
        for remote in known.peers.values().chain(known.remotes.values()) {
            remote.stop();
        }
        for remote in known.peers.values().chain(known.remotes.values()) {
            remote.stopped().await;
        }
        self.shared.client.close_idle();
    }

    /// Since when the peer is reached; `None` when it is not, or is no peer.
    pub(crate) fn active_since(&self, id: u64) -> Option<Instant> {
        self.read().peers.get(&id)?.active_since()
    }

    /// How the peer answers, and what its clock shows; `None` when it is no peer.
    #[cfg(test)]
    pub(crate) fn health(&self, id: u64) -> Option<prober::Health> {
        Some(self.read().peers.get(&id)?.health())
    }

    /// What other members ask for below `/raft`, for [`serve()`].
    pub(crate) fn routes(self: &Arc<Self>) -> axum::Router {
        routes::routes(self)
    }

    fn peer(&self, id: u64) -> Option<Arc<Channels>> {
        self.read().peers.get(&id).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn get(&self, id: u64) -> Option<&Arc<Channels>> {
        self.peers.get(&id).or_else(|| self.remotes.get(&id))
    }
}

/// Which messages are append responses that a later one to the same member makes needless. Empty if there are none.
fn superseded(messages: &[Message]) -> Vec<bool> {
    let is_response = |message: &Message| matches!(message.body, Body::AppendResponse { .. });
    if messages.iter().filter(|message| is_response(message)).count() < 2 {
        return Vec::new();
    }
    let mut answered: Vec<NodeId> = Vec::new();
    let mut superseded = vec![false; messages.len()];
    for (message, is_superseded) in messages.iter().zip(&mut superseded).rev() {
        if is_response(message) {
            *is_superseded = answered.contains(&message.to);
            answered.push(message.to);
        }
    }
    superseded
}

/// The cause of an error of HTTP: "connection error" alone does not say that a certificate was refused.
fn innermost(error: &hyper::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
