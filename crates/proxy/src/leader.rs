//! Whether the cluster has a leader, for clients' streams that are to end without one.
//!
//! A watch stream of the proxy's own asks for a leader. The member that serves it ends it when it loses its leader; that a connection breaks
//! says nothing about the leader, and the stream is opened again.
//!
//! Upstream: `server/proxy/grpcproxy/leader.go` (3.6.16). Differs: what is believed before the first answer (upstream: no leader).

use std::time::Duration;

use client::Client;
use proto::etcdserverpb::WatchCreateRequest;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A key that nobody writes, at a revision that does not come; upstream's.
const KEY: &str = "__lostleader";
const REVISION: i64 = i64::MAX - 2;

/// Pause before the stream is opened again; upstream tries ten times a second.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leader {
    /// Nobody has answered yet.
    Unknown,
    Here,
    Lost,
}

/// Follows whether there is a leader, until the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    state: watch::Receiver<Leader>,
}

impl Tracker {
    /// Starts to follow.
    pub(crate) fn start(client: &Client) -> (Self, AbortHandle) {
        let (sender, state) = watch::channel(Leader::Unknown);
        let task = tokio::spawn(follow(client.clone().require_leader(), sender));
        (Self { state }, task.abort_handle())
    }

    /// Waits until there is no leader.
    pub(crate) async fn lost(&self) {
        let mut state = self.state.clone();
        if state.wait_for(|state| *state == Leader::Lost).await.is_err() {
            // The proxy is going down: its streams end with it.
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(client: Client, state: watch::Sender<Leader>) {
    loop {
        match one_stream(&client, &state).await {
            Err(error) if error.etcd() == Some(rpc::errors::Error::NoLeader) => {
                state.send_replace(Leader::Lost);
            }
            Ok(()) | Err(_) => {}
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

async fn one_stream(client: &Client, state: &watch::Sender<Leader>) -> client::Result<()> {
    let (sender, mut stream) = client.watch_stream().await?;
    let request = WatchCreateRequest {
        key: KEY.into(),
        start_revision: REVISION,
        ..WatchCreateRequest::default()
    };
    sender.create(request).await?;
    // The stream is what counts: that the watch is refused, where there are rights, changes nothing.
    while stream.message().await?.is_some() {
        state.send_replace(Leader::Here);
    }
    Ok(())
}
