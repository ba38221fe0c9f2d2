//! Watches: many on one stream, resumed after a lost connection.
//!
//! One task owns the gRPC stream and knows for each watch the next revision it has to see. When the stream breaks it opens another and creates
//! every watch again from there, so that a consumer sees each event once and in order.
//!
//! A watch's queue is bounded. A consumer that stops reading holds up the other watches of its [`Watcher`], and through flow control the
//! server's stream; give independent consumers a watcher each.
//!
//! Upstream: client/v3/watch.go (3.5). Differs: creation is not awaited, and watches of one watcher share back-pressure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use rpc::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::{Client, Streaming};
use crate::error::{Error, Result};

/// Responses one watch may lag behind before its stream is held up.
const QUEUE_RESPONSES_MAX: usize = 256;

/// Requests that may wait for the connection on one stream.
const STREAM_REQUESTS_MAX: usize = 1024;

/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// The watch id of a response that is for every watch of the stream.
const BROADCAST: i64 = -1;

impl Client {
    /// Makes a watcher: one stream, opened with its first watch.
    pub fn watcher(&self) -> Watcher {
        let (commands, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        tokio::spawn(Run::new(self.clone(), receiver).run());
        Watcher { commands }
    }

    /// Watches with a watcher of its own.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<Watch> {
        self.watcher().watch(request).await
    }

    /// Opens a bare watch stream: requests and responses as they are on the wire, nothing resumed.
    pub async fn watch_stream(&self) -> Result<(WatchSender, Streaming<WatchResponse>)> {
        let (sender, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        let request = self.request(ReceiverStream::new(receiver));
        let mut stub = WatchClient::new(self.transport()).max_decoding_message_size(usize::MAX);
        let stream = Streaming::new(self, async move { stub.watch(request).await });
        Ok((WatchSender { sender }, stream))
    }
}

/// Sends requests on a bare watch stream.
#[derive(Clone, Debug)]
pub struct WatchSender {
    sender: mpsc::Sender<WatchRequest>,
}

impl WatchSender {
    /// Asks for a watch; the response names its id.
    pub async fn create(&self, request: WatchCreateRequest) -> Result<()> {
        self.send(RequestUnion::CreateRequest(request)).await
    }

    /// Ends a watch.
    pub async fn cancel(&self, watch_id: i64) -> Result<()> {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await
    }

    /// Asks for the revision up to which every watch of the stream has been served.
    pub async fn progress(&self) -> Result<()> {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await
    }

    async fn send(&self, union: RequestUnion) -> Result<()> {
        let request = WatchRequest { request_union: Some(union) };
        self.sender.send(request).await.map_err(|_| closed())
    }
}

/// Makes watches that share one stream. Its stream ends when the watcher and all its watches are dropped.
#[derive(Clone, Debug)]
pub struct Watcher {
    commands: mpsc::Sender<Command>,
}

impl Watcher {
    /// Starts a watch. The request's `watch_id` is ignored: the server chooses.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<Watch> {
        let (sender, responses) = mpsc::channel(QUEUE_RESPONSES_MAX);
        let request = WatchCreateRequest { watch_id: 0, ..request };
        self.send(Command::Create { request, sender }).await?;
        Ok(Watch { responses, _watcher: self.clone() })
    }

    /// Asks for progress; answered on every watch of the stream, or on none if one of them is still catching up.
    pub async fn request_progress(&self) -> Result<()> {
        self.send(Command::Progress).await
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| closed())
    }
}

/// One watch. Dropping it cancels it on the server when its next response arrives.
#[derive(Debug)]
pub struct Watch {
    responses: mpsc::Receiver<Result<WatchResponse>>,
    /// Keeps the stream open.
    _watcher: Watcher,
}

impl Watch {
    /// The next response: the confirmation of creation, events (fragments are put together), progress, or a final one with `canceled`.
    /// `None` after the end.
    pub async fn next(&mut self) -> Option<Result<WatchResponse>> {
        self.responses.recv().await
    }
}

#[derive(Debug)]
enum Command {
    Create { request: WatchCreateRequest, sender: mpsc::Sender<Result<WatchResponse>> },
    Progress,
}

/// A watch as the task keeps it.
struct Sub {
    request: WatchCreateRequest,
    sender: mpsc::Sender<Result<WatchResponse>>,
    /// First revision not seen yet; 0 until the server confirmed a watch that starts "now".
    next_revision: i64,
    /// The confirmation was passed on: one after a resumption is not.
    confirmed: bool,
    /// Fragments of a response whose last part is still to come.
    partial: Option<WatchResponse>,
}

/// The task behind a [`Watcher`].
struct Run {
    client: Client,
    commands: mpsc::Receiver<Command>,
    /// Asked for on the current stream and not confirmed yet: the server confirms in order.
    pending: VecDeque<Sub>,
    /// Confirmed on the current stream, by the server's id.
    active: BTreeMap<i64, Sub>,
}

/// What ended a turn of the loop.
enum Turn {
    Continue,
    /// No handle is left.
    Finished,
    Broken(Error),
}

impl Run {
    fn new(client: Client, commands: mpsc::Receiver<Command>) -> Self {
        Self { client, commands, pending: VecDeque::new(), active: BTreeMap::new() }
    }

    async fn run(mut self) {
        // The stream is opened with the first watch: a watcher that only asks for progress has nobody to tell.
        while self.pending.is_empty() {
            match self.commands.recv().await {
                Some(Command::Create { request, sender }) => {
                    self.pending.push_back(Sub::new(request, sender))
                }
                Some(Command::Progress) => {}
                None => return,
            }
        }
        loop {
            let error = match self.serve_one_stream().await {
                Ok(()) => return,
                Err(error) => error,
            };
            let lost_leader = error.etcd() == Some(rpc::errors::Error::NoLeader);
            if !error.is_resumable() || lost_leader {
                return self.fail_all(&error).await;
            }
            self.prepare_resumption();
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    /// Serves until nobody is left (`Ok`) or the stream ends.
    async fn serve_one_stream(&mut self) -> Result<()> {
        let (sender, mut stream) = self.client.watch_stream().await?;
        for sub in &self.pending {
            sender.create(sub.resuming_request()).await?;
        }
        loop {
            let turn = tokio::select! {
                command = self.commands.recv() => self.command(command, &sender).await,
                response = stream.message() => match response {
                    Ok(Some(response)) => self.response(response, &sender).await,
                    Ok(None) => Turn::Broken(closed()),
                    Err(error) => Turn::Broken(error),
                },
            };
            match turn {
                Turn::Continue => {}
                Turn::Finished => return Ok(()),
                Turn::Broken(error) => return Err(error),
            }
        }
    }

    async fn command(&mut self, command: Option<Command>, sender: &WatchSender) -> Turn {
        let sent = match command {
            Some(Command::Create { request, sender: responses }) => {
                let sub = Sub::new(request, responses);
                let sent = sender.create(sub.resuming_request()).await;
                self.pending.push_back(sub);
                sent
            }
            Some(Command::Progress) => sender.progress().await,
            None => return Turn::Finished,
        };
        sent.map_or_else(Turn::Broken, |()| Turn::Continue)
    }

    async fn response(&mut self, response: WatchResponse, sender: &WatchSender) -> Turn {
        if response.created {
            self.created(response).await;
            return Turn::Continue;
        }
        if response.watch_id == BROADCAST {
            for sub in self.active.values_mut() {
                sub.deliver(response.clone()).await;
            }
            return Turn::Continue;
        }
        let id = response.watch_id;
        let canceled = response.canceled;
        let Some(sub) = self.active.get_mut(&id) else { return Turn::Continue };
        let alive = sub.deliver(response).await;
        if canceled || !alive {
            self.active.remove(&id);
        }
        // Its consumer is gone: the server need not go on.
        if !alive && !canceled {
            return sender.cancel(id).await.map_or_else(Turn::Broken, |()| Turn::Continue);
        }
        Turn::Continue
    }

    async fn created(&mut self, response: WatchResponse) {
        let Some(mut sub) = self.pending.pop_front() else { return };
        if sub.next_revision == 0 {
            sub.next_revision = revision(&response).saturating_add(1);
        }
        let id = response.watch_id;
        let refused = response.canceled;
        if !sub.confirmed || refused {
            sub.confirmed = true;
            let _ = sub.sender.send(Ok(response)).await;
        }
        if !refused {
            self.active.insert(id, sub);
        }
    }

    /// Every watch is asked for again on the next stream, the oldest id first.
    fn prepare_resumption(&mut self) {
        let confirmed = std::mem::take(&mut self.active).into_values();
        let unconfirmed = std::mem::take(&mut self.pending);
        self.pending = confirmed.chain(unconfirmed).filter(|sub| !sub.sender.is_closed()).collect();
        for sub in &mut self.pending {
            sub.partial = None;
        }
    }

    async fn fail_all(&mut self, error: &Error) {
        for sub in self.active.values().chain(&self.pending) {
            let _ = sub.sender.send(Err(error.clone())).await;
        }
    }
}

impl Sub {
    fn new(request: WatchCreateRequest, sender: mpsc::Sender<Result<WatchResponse>>) -> Self {
        let next_revision = request.start_revision;
        Self { request, sender, next_revision, confirmed: false, partial: None }
    }

    fn resuming_request(&self) -> WatchCreateRequest {
        WatchCreateRequest { start_revision: self.next_revision, ..self.request.clone() }
    }

    /// Passes a response on; false once nobody listens.
    async fn deliver(&mut self, mut response: WatchResponse) -> bool {
        if let Some(mut partial) = self.partial.take() {
            partial.events.append(&mut response.events);
            partial.fragment = response.fragment;
            response = partial;
        }
        if response.fragment {
            self.partial = Some(response);
            return !self.sender.is_closed();
        }
        let last =
            response.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        // A response without events tells that all up to its revision has been seen.
        let seen = last.unwrap_or_else(|| if response.canceled { 0 } else { revision(&response) });
        self.next_revision = self.next_revision.max(seen.saturating_add(1));
        self.sender.send(Ok(response)).await.is_ok()
    }
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

fn closed() -> Error {
    Error::rpc(Code::Unavailable, "the watch stream is closed")
}
