//! One range: its watches of the cluster, and who listens to them.
//!
//! A watch of the cluster, here a [`Broadcast`], has a position: the first revision that it has not served. It is *current* once it has served all
//! that was there when it began; until then it is alone with those who came for the same past.
//!
//! ```text
//!  watcher comes ──► a broadcast that is current and not past it?  ──yes──► joins, confirmed at once
//!                └─► one that begins where it does, unconfirmed?   ──yes──► joins, confirmed with it
//!                └─► a new broadcast
//!  broadcast becomes current ──► another current one? ──► its watchers move to the one that is behind
//! ```
//!
//! Moving to one that is behind costs nothing but events that the watcher leaves out; the other way round would lose some.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::Client;
use proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::watcher::Watcher;
use super::{Hub, Range};

/// What happens to a group.
#[derive(Debug)]
pub(super) enum Input {
    /// Somebody wants to listen. The client carries his token.
    Joined(Box<Watcher>, Client),
    /// Somebody does not any more; with a sender, he wants the header of his last response.
    Left(u64, Option<oneshot::Sender<ResponseHeader>>),
    /// A watch of the cluster says something.
    Said(u64, client::Result<WatchResponse>),
    /// A watch of the cluster is over.
    Ended(u64),
}

/// See the module.
pub(super) struct Group {
    hub: Arc<Hub>,
    range: Range,
    /// Its own inbox, for the broadcasts.
    inputs: mpsc::Sender<Input>,
    broadcasts: Vec<Broadcast>,
    last_number: u64,
    /// What this group adds to the number of watchers that share.
    sharing: i64,
}

/// One watch of the cluster.
struct Broadcast {
    number: u64,
    start_revision: i64,
    /// First revision that it has not served; 0 until a watch of the present is confirmed.
    next_revision: i64,
    /// What the range was read at before it began.
    known_revision: i64,
    is_confirmed: bool,
    is_current: bool,
    /// Of its last response.
    header: ResponseHeader,
    watchers: Vec<Watcher>,
    pump: AbortHandle,
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        // The task holds the watch, which is cancelled with it.
        self.pump.abort();
    }
}

impl Broadcast {
    /// Whether a watcher may listen without missing anything, or waiting for what is not for it.
    fn suits(&self, watcher: &Watcher) -> bool {
        if self.is_confirmed {
            let is_ahead = watcher.start_revision == 0;
            return self.is_current && (is_ahead || watcher.start_revision >= self.next_revision);
        }
        self.start_revision == watcher.start_revision
    }
}

impl Group {
    pub(super) fn new(hub: Arc<Hub>, range: Range, inputs: mpsc::Sender<Input>) -> Self {
        Self { hub, range, inputs, broadcasts: Vec::new(), last_number: 0, sharing: 0 }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        while let Some(input) = inbox.recv().await {
            self.handle(input).await;
            self.publish_sharing();
            if self.broadcasts.is_empty() && inbox.is_empty() {
                break;
            }
        }
        // Whoever sends from now on starts another group.
        inbox.close();
        self.hub.forget(&self.range, &self.inputs);
        // Who came in between is told nothing, and comes again (`session`).
        drop(inbox);
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Joined(watcher, client) => self.join(*watcher, client).await,
            Input::Left(number, reply) => self.leave(number, reply),
            Input::Said(number, said) => {
                let Some(at) = self.broadcasts.iter().position(|b| b.number == number) else {
                    return;
                };
                // Out of the list while it is worked on.
                let broadcast = self.broadcasts.swap_remove(at);
                if let Some(broadcast) = self.hear(broadcast, said).await {
                    self.keep(broadcast);
                }
            }
            Input::Ended(number) => {
                let Some(at) = self.broadcasts.iter().position(|b| b.number == number) else {
                    return;
                };
                let mut broadcast = self.broadcasts.swap_remove(at);
                cancel_all(&mut broadcast, "etcdserver: watch canceled", 0).await;
            }
        }
    }

    async fn join(&mut self, mut watcher: Watcher, client: Client) {
        let Some(broadcast) = self.broadcasts.iter_mut().find(|b| b.suits(&watcher)) else {
            return self.begin(watcher, client);
        };
        let is_here = if broadcast.is_confirmed {
            let header = broadcast.header;
            watcher.confirm(&header, broadcast.next_revision.saturating_sub(1)).await
        } else {
            true
        };
        if is_here {
            broadcast.watchers.push(watcher);
        }
    }

    /// Begins a watch of the cluster for a watcher.
    fn begin(&mut self, watcher: Watcher, client: Client) {
        self.last_number += 1;
        let number = self.last_number;
        let request = WatchCreateRequest {
            key: self.hub.namespace.key(&self.range.key),
            range_end: self.hub.namespace.end(&self.range.end),
            start_revision: watcher.start_revision,
            progress_notify: true,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let pump = tokio::spawn(pump(client, request, number, self.inputs.clone())).abort_handle();
        self.broadcasts.push(Broadcast {
            number,
            start_revision: watcher.start_revision,
            next_revision: watcher.start_revision,
            known_revision: watcher.known_revision,
            is_confirmed: false,
            is_current: watcher.start_revision == 0
                || watcher.start_revision > watcher.known_revision,
            header: watcher.header,
            watchers: vec![watcher],
            pump,
        });
    }

    fn leave(&mut self, number: u64, reply: Option<oneshot::Sender<ResponseHeader>>) {
        for broadcast in &mut self.broadcasts {
            if let Some(at) = broadcast.watchers.iter().position(|w| w.number == number) {
                let watcher = broadcast.watchers.swap_remove(at);
                if let Some(reply) = reply {
                    // Who asked may be gone himself.
                    let _ = reply.send(watcher.header);
                }
                break;
            }
        }
        self.broadcasts.retain(|broadcast| !broadcast.watchers.is_empty());
    }

    /// Tells watchers what their watch said; `None` when it has nobody to tell any more.
    async fn hear(
        &mut self,
        mut broadcast: Broadcast,
        said: client::Result<WatchResponse>,
    ) -> Option<Broadcast> {
        let mut response = match said {
            Ok(response) => response,
            Err(error) => {
                cancel_all(&mut broadcast, &error.to_string(), 0).await;
                return None;
            }
        };
        if let Some(header) = response.header {
            broadcast.header = header;
        }
        if response.canceled {
            let reason = &response.cancel_reason;
            cancel_all(&mut broadcast, reason, response.compact_revision).await;
            return None;
        }
        self.hub.namespace.strip_events(&mut response.events);
        let header = broadcast.header;
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        if response.created {
            broadcast.is_confirmed = true;
            if broadcast.next_revision == 0 {
                broadcast.next_revision = header.revision.saturating_add(1);
            }
        } else {
            // Without events it says that all up to its revision has been served.
            let served = last.map_or(header.revision, |pair| pair.mod_revision);
            broadcast.next_revision = broadcast.next_revision.max(served.saturating_add(1));
            broadcast.is_current |= last.is_none() || served >= broadcast.known_revision;
            let others = broadcast.watchers.len().saturating_sub(1);
            let others = u64::try_from(others).unwrap_or(u64::MAX);
            self.hub.metrics.events_coalescing.fetch_add(others, Ordering::Relaxed);
        }
        let mut staying = Vec::with_capacity(broadcast.watchers.len());
        for mut watcher in std::mem::take(&mut broadcast.watchers) {
            let is_here = if response.created {
                watcher.confirm(&header, header.revision).await
            } else if response.events.is_empty() {
                watcher.progress(&header).await
            } else {
                watcher.events(&header, &response.events).await
            };
            if is_here {
                staying.push(watcher);
            }
        }
        broadcast.watchers = staying;
        (!broadcast.watchers.is_empty()).then_some(broadcast)
    }

    /// Keeps a broadcast, or makes one of it and another.
    fn keep(&mut self, mut broadcast: Broadcast) {
        let is_shareable = |b: &Broadcast| b.is_confirmed && b.is_current;
        let other = self.broadcasts.iter_mut().find(|other| is_shareable(other));
        match other {
            Some(other) if is_shareable(&broadcast) => {
                if other.next_revision > broadcast.next_revision {
                    std::mem::swap(other, &mut broadcast);
                }
                other.watchers.append(&mut broadcast.watchers);
            }
            Some(_) | None => self.broadcasts.push(broadcast),
        }
    }

    fn publish_sharing(&mut self) {
        let beyond_first = |broadcast: &Broadcast| broadcast.watchers.len().saturating_sub(1);
        let sharing = self.broadcasts.iter().map(beyond_first).sum::<usize>();
        let sharing = i64::try_from(sharing).unwrap_or(i64::MAX);
        let change = sharing - self.sharing;
        self.sharing = sharing;
        self.hub.metrics.watchers_coalescing.fetch_add(change, Ordering::Relaxed);
    }
}

async fn cancel_all(broadcast: &mut Broadcast, reason: &str, compact_revision: i64) {
    for mut watcher in std::mem::take(&mut broadcast.watchers) {
        watcher.cancel(reason, compact_revision).await;
    }
}

/// Brings what a watch of the cluster says to its group. Has a stream of its own: nobody else's events hold it up, and it ends at once
/// when nobody listens.
async fn pump(
    client: Client,
    request: WatchCreateRequest,
    number: u64,
    inputs: mpsc::Sender<Input>,
) {
    match client.watch(request).await {
        Ok(mut watch) => {
            while let Some(said) = watch.next().await {
                if inputs.send(Input::Said(number, said)).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => {
            let _ = inputs.send(Input::Said(number, Err(error))).await;
        }
    }
    // The group is gone where this fails.
    let _ = inputs.send(Input::Ended(number)).await;
}
