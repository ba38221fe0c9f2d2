//! A snapshot on its way out: the message, then the database, as one posted body.
//!
//! The database is read by a thread that may block, a few blocks ahead of the socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, header};
use hyper::body::Frame;
use raft::{Message, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{self, CallError};
use super::codec::encode_sized;
use super::pipeline::{PostError, check};
use super::status::Status;
use super::urls::Urls;
use super::{Host, Shared};
use crate::told::{self, Transfer};

/// Snapshots on their way out, as in etcd.
pub(crate) const AT_ONCE: usize = 16;
/// One read of the database, and one chunk of the body.
const BLOCK_BYTES: usize = 128 * 1024;
/// Blocks read ahead.
const BLOCKS_AHEAD: usize = 4;
/// A body that makes no progress for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// After the last byte the peer makes the database durable, and that may be gigabytes. Meanwhile raft sends the peer nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// The answer says little.
const ANSWER_BODY_LIMIT: Duration = Duration::from_secs(5);

/// Tells the host how it went, once: also when the task is ended half-way.
#[derive(Debug)]
pub(crate) struct Report {
    host: Arc<dyn Host>,
    to: NodeId,
    is_sent: bool,
}

impl Report {
    pub(crate) fn new(host: Arc<dyn Host>, to: NodeId) -> Self {
        Self { host, to, is_sent: false }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.is_sent {
            self.host.unreachable(self.to);
        }
        self.host.snapshot_sent(self.to, self.is_sent);
    }
}

/// What sending one needs.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) urls: Arc<Urls>,
    pub(crate) status: Arc<Status>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) report: Report,
}

impl Sending {
    /// Sends it and reports.
    pub(crate) async fn run(mut self, message: Message, db: backend::Snapshot) {
        let url = self.urls.pick();
        let to = message.to;
        let db_bytes = db.len_bytes();
        let size = told::human_bytes(db_bytes);
        let raft::Body::Snapshot(snapshot) = &message.body else { return };
        let index = snapshot.metadata.index.0;
        tracing::info!(
            snapshot_index = index,
            remote_peer_id = %to,
            bytes = db_bytes,
            size,
            "sending database snapshot"
        );
        let status = Arc::clone(&self.status);
        let figures = &status.figures().snapshots_sent;
        let _under_way = figures.under_way.enter();
        let start = Instant::now();
        match self.post(&url, &message, db).await {
            Ok(()) => {
                self.status.activate();
                figures.succeeded.count();
                figures.took.observe(start.elapsed());
                status.figures().sent_bytes.add(db_bytes);
                self.report.is_sent = true;
                tracing::info!(
                    snapshot_index = index,
                    remote_peer_id = %to,
                    bytes = db_bytes,
                    size,
                    "sent database snapshot"
                );
            }
            Err(error) => {
                figures.failed.count();
                self.urls.failed(&url);
                self.status.deactivate("snapshot", "post", &error);
                tracing::warn!(
                    snapshot_index = index,
                    remote_peer_id = %to,
                    bytes = db_bytes,
                    size,
                    error = %error,
                    "failed to send database snapshot"
                );
                match error {
                    PostError::Removed => self.shared.host.removed_from_cluster(to.0),
                    PostError::Call(_) | PostError::Refused { .. } => {}
                }
            }
        }
    }

    async fn post(
        &self,
        url: &crate::config::Url,
        message: &Message,
        db: backend::Snapshot,
    ) -> Result<(), PostError> {
        let mut headers = self.shared.request_headers.clone();
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, octets);
        let mut head = BytesMut::new();
        encode_sized(message, &mut head);
        let (progress, progressed) =
            watch::channel(Progress { at: Instant::now(), is_read: false });
        let body = Blocks { head: Some(head.freeze()), blocks: read_ahead(db), progress };
        let request =
            client::request(Method::POST, url, "/raft/snapshot", headers, Body::new(body))
                .map_err(CallError::from)?;
        let client = &self.shared.client;
        let (response, connection) = tokio::select! {
            sent = client.send(url, request) => sent?,
            limit = stalled(progressed) => return Err(CallError::TimedOut(limit).into()),
        };
        let read = timeout(ANSWER_BODY_LIMIT, client.read(url, response, connection)).await;
        check(&read.map_err(|_| CallError::TimedOut(ANSWER_BODY_LIMIT))??)
    }
}

/// How far the body is.
#[derive(Debug, Clone, Copy)]
struct Progress {
    at: Instant,
    /// The connection has taken all of it.
    is_read: bool,
}

/// Returns when there was no progress for too long.
async fn stalled(mut progressed: watch::Receiver<Progress>) -> Duration {
    loop {
        let Progress { at, is_read } = *progressed.borrow_and_update();
        let limit = if is_read { ANSWER_LIMIT } else { STALL_LIMIT };
        tokio::select! {
            () = sleep_until(at + limit) => return limit,
            changed = progressed.changed() => if changed.is_err() {
                // The body is gone, read or not. What comes now is the answer.
                sleep_until(at + ANSWER_LIMIT).await;
                return ANSWER_LIMIT;
            },
        }
    }
}

fn read_ahead(mut db: backend::Snapshot) -> mpsc::Receiver<Result<Bytes, backend::Error>> {
    let (sender, blocks) = mpsc::channel(BLOCKS_AHEAD);
    let transfer = Transfer::begin(db.len_bytes());
    tokio::task::spawn_blocking(move || {
        let _under_way = transfer;
        loop {
            let mut block = vec![0; BLOCK_BYTES];
            let block = match db.read(&mut block) {
                Ok(0) => return,
                Ok(count) => {
                    block.truncate(count);
                    Ok(Bytes::from(block))
                }
                Err(error) => Err(error),
            };
            let is_last = block.is_err();
            // Nobody reads on if the connection broke.
            if sender.blocking_send(block).is_err() || is_last {
                return;
            }
        }
    });
    blocks
}

/// The body: the message, then blocks as they are read. A read that fails breaks the connection, so that the peer does not
/// take half of a database for all of it.
#[derive(Debug)]
struct Blocks {
    head: Option<Bytes>,
    blocks: mpsc::Receiver<Result<Bytes, backend::Error>>,
    progress: watch::Sender<Progress>,
}

impl hyper::body::Body for Blocks {
    type Data = Bytes;
    type Error = backend::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, backend::Error>>> {
        let next = match self.head.take() {
            Some(head) => Poll::Ready(Some(Ok(head))),
            None => self.blocks.poll_recv(context),
        };
        next.map(|block| {
            self.progress.send_replace(Progress { at: Instant::now(), is_read: block.is_none() });
            block.map(|block| block.map(Frame::data))
        })
    }
}
