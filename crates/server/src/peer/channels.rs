//! One other member: its channels and the tasks that serve them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use raft::{Body, Message, NodeId};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::Shared;
use super::codec::StreamKind;
use super::incoming::StreamReader;
use super::outgoing::{Outgoing, Pushed, StreamBody};
use super::pipeline::{self, Sender};
#[cfg(test)]
use super::prober::Health;
use super::prober::Prober;
use super::queue::Queue;
use super::status::Status;
use super::urls::Urls;

/// How much this member knows of the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquaintance {
    /// A member of the cluster: streams both ways.
    Peer,
    /// Known from its own requests, or from the configuration that this member joins with: it gets answers by POST, until the
    /// membership says that it is a peer.
    Remote,
}

/// The channels to one member. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Channels {
    id: NodeId,
    pub(crate) urls: Arc<Urls>,
    pub(crate) status: Arc<Status>,
    shared: Arc<Shared>,
    appends: Arc<Outgoing>,
    messages: Arc<Outgoing>,
    posts: Arc<Queue>,
    prober: Arc<Prober>,
    runtime: Handle,
    /// Stream readers, senders, the prober and running snapshots. Held to add one or to end all.
    tasks: Mutex<JoinSet<()>>,
}

impl Channels {
    /// Starts the tasks.
    pub(crate) fn start(
        id: u64,
        urls: Urls,
        acquaintance: Acquaintance,
        shared: Arc<Shared>,
        runtime: Handle,
    ) -> Self {
        let id = NodeId(id);
        let status = Arc::new(Status::new(id.0, shared.options.metrics.peers.of(id.0)));
        let outgoing = |kind| {
            let (host, status) = (Arc::clone(&shared.host), Arc::clone(&status));
            Arc::new(Outgoing::new(kind, id, host, status))
        };
        let urls = Arc::new(urls);
        let this = Self {
            id,
            prober: Arc::new(Prober::new(
                id.0,
                Arc::clone(&urls),
                Arc::clone(&status),
                Arc::clone(&shared),
            )),
            urls,
            appends: outgoing(StreamKind::Append),
            messages: outgoing(StreamKind::Message),
            status,
            shared,
            posts: Arc::new(Queue::new(pipeline::QUEUE_MESSAGES)),
            runtime,
            tasks: Mutex::default(),
        };
        for _ in 0..pipeline::SENDERS {
            let sender = Sender {
                queue: Arc::clone(&this.posts),
                urls: Arc::clone(&this.urls),
                status: Arc::clone(&this.status),
                shared: Arc::clone(&this.shared),
            };
            this.spawn(sender.run());
        }
        if acquaintance == Acquaintance::Peer {
            for kind in StreamKind::ALL {
                let reader = StreamReader {
                    kind,
                    peer: id,
                    urls: Arc::clone(&this.urls),
                    status: Arc::clone(&this.status),
                    shared: Arc::clone(&this.shared),
                };
                let streams = this.shared.options.streams.clone();
                this.spawn_on(reader.run(), &streams);
            }
            this.spawn(Arc::clone(&this.prober).run());
            tracing::info!(remote_peer_id = %id, "started remote peer");
        }
        this
    }

    /// Sends by the best channel there is, or loses the message and says so.
    pub(crate) fn send(&self, message: Message) {
        let kind = message.body.kind();
        let Err(channel) = self.push(message) else { return };
        self.shared.host.unreachable(self.id);
        self.status.figures().send_failures.count();
        if let Some(count) = self.shared.dropped.is_due() {
            tracing::warn!(
                message_type = %kind,
                remote_peer_id = %self.id,
                channel,
                count,
                "dropped internal Raft message since sending buffer is full"
            );
        }
    }

    /// Names the channel that was full.
    fn push(&self, message: Message) -> Result<(), &'static str> {
        let mut unsent = message;
        let is_append = matches!(unsent.body, Body::Append { .. });
        for stream in
            [is_append.then_some(&self.appends), Some(&self.messages)].into_iter().flatten()
        {
            unsent = match stream.push(unsent) {
                Ok(Pushed::Queued) => return Ok(()),
                Ok(Pushed::Full) => return Err("stream"),
                Err(unsent) => unsent,
            };
        }
        self.posts.push(unsent).map_err(|_| "pipeline")
    }

    /// Takes over a stream that the member asked for; `None` when this is being stopped.
    pub(crate) fn attach(&self, kind: StreamKind) -> Option<StreamBody> {
        match kind {
            StreamKind::Append => self.appends.attach(),
            StreamKind::Message => self.messages.attach(),
        }
    }

    /// Whether the member reads both streams.
    #[cfg(test)]
    pub(crate) fn is_read(&self) -> bool {
        self.appends.is_connected() && self.messages.is_connected()
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        self.status.active_since()
    }

    /// What the prober knows of the member.
    #[cfg(test)]
    pub(crate) fn health(&self) -> Health {
        self.prober.health()
    }

    /// Runs a task that ends with the acquaintance.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(task, &self.runtime);
    }

    fn spawn_on(&self, task: impl Future<Output = ()> + Send + 'static, runtime: &Handle) {
        let mut tasks = self.lock();
        // Ended ones would pile up otherwise.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, runtime);
    }

    /// Ends all channels.
    pub(crate) fn stop(&self) {
        self.appends.stop();
        self.messages.stop();
        self.posts.close();
        self.lock().abort_all();
        tracing::info!(remote_peer_id = %self.id, "stopped remote peer");
    }

    /// Ends all channels and waits until nothing runs any more.
    pub(crate) async fn stopped(&self) {
        self.stop();
        let mut tasks = std::mem::take(&mut *self.lock());
        while tasks.join_next().await.is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.appends.stop();
        self.messages.stop();
        self.posts.close();
    }
}
