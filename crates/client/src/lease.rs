//! Lease calls, and keep-alives that survive a lost connection.

use std::time::Duration;

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use rpc::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::{Client, Streaming};
use crate::error::{Error, Result};
use crate::retry::Policy;

/// etcd's client waits this long before it opens a broken keep-alive stream again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// Requests that may wait for the connection on one keep-alive stream.
const STREAM_REQUESTS_MAX: usize = 64;

impl Client {
    /// Grants a lease; id 0 lets the server choose.
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse> {
        let request = LeaseGrantRequest { ttl, id };
        self.call(Policy::Repeatable, request, |transport, request| async move {
            LeaseClient::new(transport).lease_grant(request).await
        })
        .await
    }

    /// Revokes a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse> {
        let request = LeaseRevokeRequest { id };
        self.call(Policy::Repeatable, request, |transport, request| async move {
            LeaseClient::new(transport).lease_revoke(request).await
        })
        .await
    }

    /// Remaining time of a lease, and its keys if asked for.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse> {
        let request = LeaseTimeToLiveRequest { id, keys };
        self.call(Policy::Repeatable, request, |transport, request| async move {
            LeaseClient::new(transport)
                .max_decoding_message_size(usize::MAX)
                .lease_time_to_live(request)
                .await
        })
        .await
    }

    /// Lists the leases.
    pub async fn lease_leases(&self) -> Result<LeaseLeasesResponse> {
        self.call(Policy::Repeatable, LeaseLeasesRequest {}, |transport, request| async move {
            LeaseClient::new(transport)
                .max_decoding_message_size(usize::MAX)
                .lease_leases(request)
                .await
        })
        .await
    }

    /// Renews a lease once. A lease that is gone is `etcdserver: requested lease not found`.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        loop {
            let error = match self.renew_once(id).await {
                Ok(response) if response.ttl > 0 => return Ok(response),
                Ok(_) => return Err(lease_not_found()),
                Err(error) => error,
            };
            if !error.is_resumable() {
                return Err(error);
            }
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    async fn renew_once(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        let (sender, mut stream) = self.lease_keep_alive_stream().await?;
        sender.send(id).await?;
        stream.message().await?.ok_or_else(ended)
    }

    /// Opens a bare keep-alive stream: each id sent is answered by one response, in order. Nothing is retried.
    pub async fn lease_keep_alive_stream(
        &self,
    ) -> Result<(KeepAliveSender, Streaming<LeaseKeepAliveResponse>)> {
        let (sender, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
        let request = self.request(ReceiverStream::new(receiver));
        let mut stub = LeaseClient::new(self.transport());
        let stream = Streaming::new(self, async move { stub.lease_keep_alive(request).await });
        Ok((KeepAliveSender { sender }, stream))
    }

    /// Keeps a lease alive for as long as the handle lives, renewing it at a third of its time to live.
    pub fn lease_keep_alive(&self, id: i64) -> KeepAlive {
        KeepAlive { client: self.clone().require_leader(), id, open: None, next_in: None }
    }
}

/// Sends ids to renew on a bare stream.
#[derive(Clone, Debug)]
pub struct KeepAliveSender {
    sender: mpsc::Sender<LeaseKeepAliveRequest>,
}

impl KeepAliveSender {
    /// Renews a lease; waits while the connection is behind.
    pub async fn send(&self, id: i64) -> Result<()> {
        self.sender.send(LeaseKeepAliveRequest { id }).await.map_err(|_| ended())
    }
}

/// Keeps one lease alive while it is polled through [`KeepAlive::next`].
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    id: i64,
    open: Option<(KeepAliveSender, Streaming<LeaseKeepAliveResponse>)>,
    /// When the next renewal is due; `None` is at once.
    next_in: Option<tokio::time::Instant>,
}

impl KeepAlive {
    /// Waits until the next renewal is due, renews, and returns the server's answer; `None` once the lease is gone.
    ///
    /// Reopens the stream after a lost connection. An error is final.
    pub async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse>> {
        if let Some(due) = self.next_in {
            tokio::time::sleep_until(due).await;
        }
        loop {
            match self.renew().await {
                Ok(response) if response.ttl > 0 => {
                    // A third of the time to live, as etcd's client: two renewals may be lost without harm.
                    let third =
                        Duration::from_millis(response.ttl.unsigned_abs().saturating_mul(1000) / 3);
                    self.next_in = Some(tokio::time::Instant::now() + third);
                    return Some(Ok(response));
                }
                Ok(_) => return None,
                Err(error) if error.is_resumable() => {
                    self.open = None;
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse> {
        if self.open.is_none() {
            self.open = Some(self.client.lease_keep_alive_stream().await?);
        }
        let Some((sender, stream)) = &mut self.open else { return Err(ended()) };
        sender.send(self.id).await?;
        stream.message().await?.ok_or_else(ended)
    }
}

fn lease_not_found() -> Error {
    let error = rpc::errors::Error::LeaseNotFound;
    Error::rpc(error.code(rpc::errors::DEFAULT_MINOR), error.message())
}

/// The server closed the stream without a status: as good as a lost connection.
fn ended() -> Error {
    Error::rpc(Code::Unavailable, "EOF")
}
