//! Keep-alives: all clients' on one stream of the proxy's own, which outlives the member that serves it.
//!
//! ```text
//!  client's stream ──id──► renewals ──id, once at a time──► member
//!                 ◄─answer─    ◄────────answer────────────
//! ```
//!
//! A lease that is being renewed already is not renewed again: whoever asks meanwhile gets the same answer. When the stream breaks, what waits is
//! asked for on the next one.
//!
//! A client takes its answers or is not read any more: each request has its place among the answers before it goes on
//! ([`ANSWERS_MAX`]).
//!
//! Members renew leases for anybody, so no token is passed. Upstream: `server/proxy/grpcproxy/lease.go` (3.6.16), which renews by a clock of its own
//! and answers from what it has.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use client::{Client, KeepAliveSender, Streaming as Answering};
use proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use rpc::errors::Error;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::server::StreamingService;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::answers::{Answers, answers};
use crate::leader::Tracker;
use crate::upstream::{Caller, status_of};

/// Path of Lease.LeaseKeepAlive.
pub(crate) const KEEP_ALIVE_PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// Answers that may wait for one client.
const ANSWERS_MAX: usize = 256;

/// Requests of all clients that may wait.
const REQUESTS_MAX: usize = 1024;

/// Pause before a broken stream is opened again; etcd's client's.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// One request, and where its answer goes.
#[derive(Debug)]
struct Renewal {
    id: i64,
    place: mpsc::OwnedPermit<LeaseKeepAliveResponse>,
    end: mpsc::Sender<Status>,
}

/// Serves Lease.LeaseKeepAlive. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct KeepAlive {
    renewals: mpsc::Sender<Renewal>,
    leader: Tracker,
}

impl KeepAlive {
    /// Starts the task that renews.
    pub(crate) fn start(client: &Client, leader: &Tracker) -> (Self, AbortHandle) {
        let (renewals, requests) = mpsc::channel(REQUESTS_MAX);
        let run = Run { client: client.clone(), requests, waiting: BTreeMap::new() };
        let task = tokio::spawn(run.run()).abort_handle();
        (Self { renewals, leader: leader.clone() }, task)
    }

    /// Reads one client's requests.
    async fn read(
        &self,
        requests: &mut Streaming<LeaseKeepAliveRequest>,
        queue: mpsc::Sender<LeaseKeepAliveResponse>,
        end: &mpsc::Sender<Status>,
    ) {
        while let Ok(Some(LeaseKeepAliveRequest { id })) = requests.message().await {
            let Ok(place) = queue.clone().reserve_owned().await else { return };
            let renewal = Renewal { id, place, end: end.clone() };
            if self.renewals.send(renewal).await.is_err() {
                return;
            }
        }
    }
}

impl StreamingService<LeaseKeepAliveRequest> for KeepAlive {
    type Response = LeaseKeepAliveResponse;
    type ResponseStream = Answers<LeaseKeepAliveResponse>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<LeaseKeepAliveRequest>>) -> Self::Future {
        let this = self.clone();
        let needs_leader = Caller::of(request.metadata()).needs_leader();
        let (queue, end, answers) = answers(ANSWERS_MAX);
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            let listening = queue.clone();
            let leader_lost = async {
                match needs_leader {
                    true => this.leader.lost().await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = leader_lost => {
                    // The stream may be ending for another reason.
                    let _ = end.try_send(Error::NoLeader.into());
                }
                () = listening.closed() => {}
                // Whoever has no more requests gets the answers that are under way, and then the end.
                () = this.read(&mut requests, queue, &end) => {}
            }
        });
        Box::pin(async move { Ok(Response::new(answers)) })
    }
}

/// The task that renews.
struct Run {
    client: Client,
    requests: mpsc::Receiver<Renewal>,
    /// Who waits for which lease.
    waiting: BTreeMap<i64, Vec<Renewal>>,
}

impl Run {
    async fn run(mut self) {
        loop {
            // A stream is opened for somebody.
            if self.waiting.is_empty() {
                let Some(renewal) = self.requests.recv().await else { return };
                self.wait(renewal);
            }
            let error = match self.one_stream().await {
                Ok(()) => return,
                Err(error) => error,
            };
            if !matches!(error.code(), Code::Unavailable | Code::Internal) {
                let status = status_of(&error);
                for renewal in std::mem::take(&mut self.waiting).into_values().flatten() {
                    // One reason is enough for a stream.
                    let _ = renewal.end.try_send(status.clone());
                }
            }
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    /// Says whether the lease is to be asked for.
    fn wait(&mut self, renewal: Renewal) -> bool {
        let waiting = self.waiting.entry(renewal.id).or_default();
        waiting.push(renewal);
        waiting.len() == 1
    }

    /// Ends well with the proxy.
    async fn one_stream(&mut self) -> client::Result<()> {
        let (sender, mut stream): (KeepAliveSender, Answering<LeaseKeepAliveResponse>) =
            self.client.lease_keep_alive_stream().await?;
        // Not sent at once: the stream takes requests only while its answers are waited for.
        let mut asked: VecDeque<i64> = self.waiting.keys().copied().collect();
        loop {
            let next = asked.front().copied();
            tokio::select! {
                renewal = self.requests.recv() => {
                    let Some(renewal) = renewal else { return Ok(()) };
                    let id = renewal.id;
                    if self.wait(renewal) {
                        asked.push_back(id);
                    }
                }
                sent = sender.send(next.unwrap_or_default()), if next.is_some() => {
                    sent?;
                    asked.pop_front();
                }
                answer = stream.message() => {
                    let ended = || client::Error::rpc(Code::Unavailable, "the stream is closed");
                    let answer = answer?.ok_or_else(ended)?;
                    for renewal in self.waiting.remove(&answer.id).unwrap_or_default() {
                        renewal.place.send(answer);
                    }
                }
            }
        }
    }
}
