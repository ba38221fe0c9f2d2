//! Messages by POST: for a peer without a stream, and for members that this one only knows from their requests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use raft::Message;
use raft::codec::encode_message;

use super::Shared;
use super::client::{Answer, CallError, Question};
use super::queue::Queue;
use super::status::Status;
use super::urls::Urls;

/// Requests to one peer at a time, as in etcd.
pub(crate) const SENDERS: usize = 4;
/// Messages that wait for one of them, as in etcd.
pub(crate) const QUEUE_MESSAGES: usize = 64;
/// A message is a few MiB at most, and is answered as soon as raft has it. etcd has no limit, and is stuck for as long as the
/// operating system believes in a peer that is gone.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// One of the senders of one peer.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) queue: Arc<Queue>,
    pub(crate) urls: Arc<Urls>,
    pub(crate) status: Arc<Status>,
    pub(crate) shared: Arc<Shared>,
}

/// Why a post was in vain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("unexpected http status {status}: {text}")]
    Refused {
        /// What it was answered.
        status: StatusCode,
        /// And why.
        text: String,
    },
}

impl Sender {
    /// Sends until the queue is closed.
    pub(crate) async fn run(self) {
        while let Some(message) = self.queue.take_one().await {
            let url = self.urls.pick();
            let error = match self.post(&url.to_string(), &message).await {
                Ok(()) => {
                    self.status.activate();
                    continue;
                }
                Err(error) => error,
            };
            self.urls.failed(&url);
            self.status.figures().send_failures.count();
            self.status.deactivate("pipeline", "write", &error);
            match error {
                PostError::Removed => self.shared.host.removed_from_cluster(message.to.0),
                PostError::Call(_) | PostError::Refused { .. } => {}
            }
            self.shared.host.unreachable(message.to);
        }
    }

    async fn post(&self, url: &str, message: &Message) -> Result<(), PostError> {
        let encoded = encode_message(message);
        self.status.figures().sent_bytes.add(encoded.len() as u64);
        let question = Question::post("/raft", encoded)
            .with_headers(self.shared.request_headers.clone())
            .protobuf();
        check(&self.shared.client.call(url, question, POST_LIMIT).await?)
    }
}

/// What the answer to a post means.
pub(crate) fn check(answer: &Answer) -> Result<(), PostError> {
    match answer.status {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
        StatusCode::FORBIDDEN => Err(PostError::Removed),
        status => {
            let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
            Err(PostError::Refused { status, text })
        }
    }
}
