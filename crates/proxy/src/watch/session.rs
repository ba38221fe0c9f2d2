//! One watch stream of a client: its requests in order, its watchers by id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    RangeRequest, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse,
};
use rpc::errors::Error;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::group::Input;
use super::watcher::Watcher;
use super::{Hub, Range, Service};
use crate::kv;
use crate::leader::Tracker;
use crate::upstream::{Caller, Upstream};

/// The id of a watcher that there is not.
const NO_WATCH: i64 = -1;

/// Numbers of watchers, all over the process.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// See the module.
pub(super) struct Session {
    caller: Caller,
    upstream: Upstream,
    kv: kv::Service,
    leader: Tracker,
    hub: Arc<Hub>,
    queue: mpsc::Sender<WatchResponse>,
    end: mpsc::Sender<Status>,
    /// Number and range of each watcher, by its id. One that the cluster ended stays until its id is looked at.
    watchers: BTreeMap<i64, (u64, Range)>,
    next_id: i64,
}

/// The client is gone, or does not read.
struct Gone;

impl Session {
    pub(super) fn new(
        service: &Service,
        caller: Caller,
        queue: mpsc::Sender<WatchResponse>,
        end: mpsc::Sender<Status>,
    ) -> Self {
        Self {
            caller,
            upstream: service.upstream.clone(),
            kv: service.kv.clone(),
            leader: service.leader.clone(),
            hub: Arc::clone(&service.hub),
            queue,
            end,
            watchers: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// Runs until the client is gone, or wants a leader where there is none.
    pub(super) async fn run(mut self, requests: Streaming<WatchRequest>) {
        let needs_leader = self.caller.needs_leader();
        let (leader, queue, end) = (self.leader.clone(), self.queue.clone(), self.end.clone());
        let leader_lost = async {
            match needs_leader {
                true => leader.lost().await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            // A leader that is known to be lost lets nothing begin.
            biased;
            () = leader_lost => {
                // The stream may be ending for another reason.
                let _ = end.try_send(Error::NoLeader.into());
            }
            () = queue.closed() => {}
            Gone = self.serve(requests) => {}
        }
        for (_, (number, range)) in std::mem::take(&mut self.watchers) {
            self.hub.leave(&range, number, None).await;
        }
    }

    /// Serves until the client is gone. One that has no more requests may listen still.
    async fn serve(&mut self, mut requests: Streaming<WatchRequest>) -> Gone {
        loop {
            let outcome = match requests.message().await {
                Ok(Some(request)) => self.request(request).await,
                Ok(None) => std::future::pending().await,
                Err(_) => Err(Gone),
            };
            if let Err(gone) = outcome {
                return gone;
            }
        }
    }

    async fn request(&mut self, request: WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => {
                tracing::debug!("requests for progress are not served by the gRPC proxy");
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Gone> {
        if request.start_revision < 0 {
            return self.refuse(ResponseHeader::default(), Error::Compacted.message()).await;
        }
        let header = match self.check_rights(&request).await {
            Ok(header) => header,
            Err(status) => {
                return self.refuse(ResponseHeader::default(), status.message()).await;
            }
        };
        let range = Range { key: request.key.clone(), end: request.range_end.clone() };
        if !range.is_valid() {
            return self.refuse(header, "mvcc: watcher range is empty").await;
        }
        let watch_id = match request.watch_id {
            0 => self.free_id(),
            wanted if self.watchers.contains_key(&wanted) => {
                let reason = "mvcc: duplicate watch ID provided on the WatchStream";
                return self.refuse(header, reason).await;
            }
            wanted => wanted,
        };
        // A group that ends just now forgets whom it was told of.
        loop {
            let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed);
            let (created, is_created) = oneshot::channel();
            let ways = (self.queue.clone(), self.end.clone());
            let watcher = Watcher::new((number, watch_id), &request, header, ways, created);
            self.watchers.insert(watch_id, (number, range.clone()));
            let client = self.upstream.client.clone().with_token(self.caller.token());
            self.hub.send(&range, Input::Joined(Box::new(watcher), client)).await;
            // The answer is in the queue by then.
            if is_created.await.is_ok() {
                return Ok(());
            }
            if self.queue.is_closed() || self.end.capacity() == 0 {
                return Err(Gone);
            }
        }
    }

    /// Reads nothing, with the client's rights: who may read a range may watch it. Returns the header, whose revision the client may have
    /// seen before.
    async fn check_rights(&self, request: &WatchCreateRequest) -> Result<ResponseHeader, Status> {
        let (key, range_end) = match request.key.is_empty() {
            true => ("\0".into(), "\0".into()),
            false => (request.key.clone(), request.range_end.clone()),
        };
        let request = RangeRequest {
            key,
            range_end,
            serializable: true,
            count_only: true,
            limit: 1,
            ..RangeRequest::default()
        };
        let response = self.kv.read(&self.caller, request).await?;
        Ok(response.header.unwrap_or_default())
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), Gone> {
        let Some((number, range)) = self.watchers.remove(&watch_id) else { return Ok(()) };
        let (reply, header) = oneshot::channel();
        self.hub.leave(&range, number, Some(reply)).await;
        // One that the cluster ended has said so itself.
        let Ok(header) = header.await else { return Ok(()) };
        let response = WatchResponse {
            header: Some(header),
            watch_id,
            canceled: true,
            ..WatchResponse::default()
        };
        self.queue.send(response).await.map_err(|_| Gone)
    }

    async fn refuse(&self, header: ResponseHeader, reason: &str) -> Result<(), Gone> {
        let response = WatchResponse {
            header: Some(header),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        };
        self.queue.send(response).await.map_err(|_| Gone)
    }

    fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}
