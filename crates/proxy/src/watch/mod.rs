//! Watches: many watchers of one range share one watch of the cluster.
//!
//! ```text
//!  client's stream ─► session ──join, leave──► group (a range) ◄── watch of the cluster
//!        ▲                                       │      │
//!        └────────── queue ◄── watcher ──────────┘      └─ ... one more for each position in the past
//! ```
//!
//! - A [`session`] is one stream of a client: it checks, through a read that costs the member next to nothing, that the client may see
//!   the range, and gives each watcher its id. One create request is answered before the next is looked at.
//! - A [`group`] is one range: a task that owns its watches of the cluster, and everybody who listens to them.
//! - A [`watcher`] knows which revision it is to see next, so it can listen to any watch that is not past it: it leaves out what it has
//!   seen.
//!
//! Watches begin where their first watcher does. One that began in the past has its own watch until it has caught up.
//!
//! The member is asked for previous values and progress always, since anybody may join; a watcher gets what it asked for.
//!
//! What fails: a client that does not take [`QUEUE_RESPONSES_MAX`] responses for [`SLOW_LIMIT`] loses its stream, and nobody else waits longer. A
//! watch that the cluster ends ends for all who share it. A broken connection is mended below, without a gap (`client::Watch`).
//!
//! Upstream: `server/proxy/grpcproxy/watch*.go` (3.6.16). Differs: watchers of the present join at once, headers name the member, wanted ids and
//! fragments are honoured. As there, requests for progress are left unanswered.

mod group;
mod session;
mod watcher;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use crate::answers::{Answers, answers};
use crate::kv;
use crate::leader::Tracker;
use crate::metrics::Metrics;
use crate::namespace::Namespace;
use crate::upstream::{Caller, Upstream};
use group::{Group, Input};
use session::Session;

/// Responses that may wait for one client's stream; upstream's number.
const QUEUE_RESPONSES_MAX: usize = 1024;

/// How long a full queue may hold up a group; upstream's.
const SLOW_LIMIT: Duration = Duration::from_millis(50);

/// Inputs that may wait for a group.
const GROUP_INPUTS_MAX: usize = 64;

/// A range of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    key: Bytes,
    end: Bytes,
}

impl Range {
    /// Whether it may hold a key.
    fn is_valid(&self) -> bool {
        self.end.is_empty() || self.end.as_ref() == b"\0" || self.end > self.key
    }
}

/// All groups.
#[derive(Debug)]
struct Hub {
    namespace: Namespace,
    metrics: Arc<Metrics>,
    /// Guards the table; held for a look or a change only. A group whose inbox is closed is ending.
    groups: Mutex<BTreeMap<Range, mpsc::Sender<Input>>>,
}

impl Hub {
    /// Brings something to a range's group, which is started if there is none.
    async fn send(self: &Arc<Self>, range: &Range, mut input: Input) {
        loop {
            let group = self.group(range);
            match group.send(input).await {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => input = back,
            }
        }
    }

    /// Tells a range's group, if there is one, that a watcher is not wanted any more.
    async fn leave(
        &self,
        range: &Range,
        number: u64,
        reply: Option<oneshot::Sender<ResponseHeader>>,
    ) {
        let group = self.lock().get(range).cloned();
        if let Some(group) = group {
            // A group that ends has nobody.
            let _ = group.send(Input::Left(number, reply)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Range, mpsc::Sender<Input>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(self: &Arc<Self>, range: &Range) -> mpsc::Sender<Input> {
        let mut groups = self.lock();
        match groups.get(range) {
            Some(group) if !group.is_closed() => group.clone(),
            Some(_) | None => {
                let (inputs, inbox) = mpsc::channel(GROUP_INPUTS_MAX);
                groups.insert(range.clone(), inputs.clone());
                let group = Group::new(Arc::clone(self), range.clone(), inputs.clone());
                tokio::spawn(group.run(inbox));
                inputs
            }
        }
    }

    /// Forgets a group that ends, unless another one has taken its place.
    fn forget(&self, range: &Range, inputs: &mpsc::Sender<Input>) {
        let mut groups = self.lock();
        if groups.get(range).is_some_and(|group| group.same_channel(inputs)) {
            groups.remove(range);
        }
    }
}

/// Serves Watch.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    upstream: Upstream,
    kv: kv::Service,
    leader: Tracker,
    hub: Arc<Hub>,
}

impl Service {
    pub(crate) fn new(
        upstream: &Upstream,
        kv: &kv::Service,
        namespace: &Namespace,
        leader: &Tracker,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let hub = Hub {
            namespace: namespace.clone(),
            metrics: Arc::clone(metrics),
            groups: Mutex::default(),
        };
        Self {
            upstream: upstream.clone(),
            kv: kv.clone(),
            leader: leader.clone(),
            hub: Arc::new(hub),
        }
    }
}

#[tonic::async_trait]
impl rpc::etcdserverpb::watch_server::Watch for Service {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Answers<WatchResponse>>, Status> {
        let caller = Caller::of(request.metadata());
        let (queue, end, responses) = answers(QUEUE_RESPONSES_MAX);
        let session = Session::new(self, caller, queue, end);
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(responses))
    }
}
