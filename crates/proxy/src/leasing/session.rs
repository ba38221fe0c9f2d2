//! The session: a lease that is kept alive, and a watch of all lease keys.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::retry::Policy;
use client::{Client, Watch, Watcher};
use proto::etcdserverpb::compare::CompareResult;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchResponse,
};
use proto::mvccpb::event::EventType;
use rpc::errors::Error as EtcdError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

use super::calls::{REVOKE, Shared, created};
use crate::upstream::Caller;

/// Seconds that a session's lease lives without being renewed; that of sessions of etcd's client.
const TTL: i64 = 60;

/// How long one call of the session may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Pause before another session, and between attempts to delete a lease key.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Pause before another session where the last one was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Lease keys that are deleted at once.
const RELEASES_MAX: usize = 64;

/// Attempts to revoke a lease that is over; it ends by itself after that.
const REVOKE_ATTEMPTS: u32 = 5;

/// Keeps a session; does not end. Says so when the first one is there or refused.
pub(super) async fn run(shared: Arc<Shared>, has_tried: watch::Sender<bool>) {
    loop {
        let why = one_session(&shared, &has_tried).await;
        let was_there = shared.keys().end();
        let pause = match (was_there, &why) {
            (true, why) => {
                tracing::warn!(why = %why, "leasing session ended; keys are acquired anew");
                RETRY_PAUSE
            }
            (false, why) if is_refusal(why) => {
                tracing::warn!(why = %why, "no leasing session: reads are not answered from memory");
                has_tried.send_replace(true);
                REFUSED_PAUSE
            }
            (false, why) => {
                tracing::warn!(why = %why, "failed to create a leasing session");
                RETRY_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether the cluster has spoken, and will say the same again.
fn is_refusal(error: &client::Error) -> bool {
    matches!(error.code(), Code::PermissionDenied | Code::InvalidArgument | Code::Unauthenticated)
}

fn ended(why: &str) -> client::Error {
    client::Error::rpc(Code::Aborted, why)
}

/// Returns why the session ended or could not begin.
async fn one_session(shared: &Arc<Shared>, has_tried: &watch::Sender<bool>) -> client::Error {
    let client = shared.upstream.client.clone().with_timeout(Some(CALL_LIMIT));
    let asked = Instant::now();
    let granted = match client.lease_grant(TTL, 0).await {
        Ok(granted) => granted,
        Err(error) => return error,
    };
    let lease = Lease { id: granted.id, client: client.clone() };
    let time_to_live = Duration::from_secs(granted.ttl.max(1).unsigned_abs());
    let revision = granted.header.map_or(0, |header| header.revision);
    // A member without a leader would let the watch wait; that ends the session.
    let watcher = shared.upstream.client.clone().require_leader().watcher();
    let watch = match watch_lease_keys(shared, &watcher, revision.saturating_add(1)).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    shared.keys().start(lease.id, asked + time_to_live);
    has_tried.send_replace(true);
    tracing::info!(lease_ttl = granted.ttl, "leasing session started");
    tokio::select! {
        error = renew(shared, &lease, &watcher, time_to_live) => error,
        error = follow(shared, lease.id, watch) => error,
        never = release(shared) => match never {},
        () = shared.lease_lost.notified() => ended("the lease is gone"),
    }
}

/// A lease, revoked with the session.
struct Lease {
    id: i64,
    client: Client,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Without a runtime the process is at its end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (id, client) = (self.id, self.client.clone());
        runtime.spawn(async move {
            for _ in 0..REVOKE_ATTEMPTS {
                match client.lease_revoke(id).await {
                    Ok(_) => return,
                    Err(error) if error.etcd() == Some(EtcdError::LeaseNotFound) => return,
                    Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
                }
            }
        });
    }
}

/// Renews the lease at a third of its time, and has the watch show that it hears; returns when the session is over.
async fn renew(
    shared: &Shared,
    lease: &Lease,
    watcher: &Watcher,
    time_to_live: Duration,
) -> client::Error {
    let interval = time_to_live / 3;
    let mut valid_until = Instant::now() + time_to_live;
    loop {
        tokio::time::sleep(interval).await;
        // What is renewed lives from when the member hears of it, which is not before.
        let asked = Instant::now();
        let renewal = lease.client.lease_keep_alive_once(lease.id);
        match tokio::time::timeout(interval, renewal).await {
            Ok(Ok(renewed)) => {
                let until = asked + Duration::from_secs(renewed.ttl.max(0).unsigned_abs());
                if shared.keys().renewed(until) {
                    valid_until = until;
                }
                // Also where the last request is not answered: it may be lost with its stream.
                if let Err(error) = watcher.request_progress().await {
                    return error;
                }
            }
            Ok(Err(error)) if error.etcd() == Some(EtcdError::LeaseNotFound) => return error,
            Ok(Err(_)) | Err(_) => {}
        }
        if Instant::now() >= valid_until {
            return ended("the lease could not be renewed, or the watch is silent");
        }
        // Leases are renewed for anybody. One who may not read may not answer either.
        let key = shared.namespace.key(&shared.prefix);
        let probe =
            RangeRequest { key, serializable: true, keys_only: true, ..RangeRequest::default() };
        if let Err(error) = lease.client.range(probe).await
            && is_refusal(&error)
        {
            return error;
        }
    }
}

/// Watches all lease keys.
async fn watch_lease_keys(
    shared: &Shared,
    watcher: &Watcher,
    start_revision: i64,
) -> client::Result<Watch> {
    let key = shared.namespace.key(&shared.prefix);
    let range_end = client::prefix_end(&key);
    let request =
        WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() };
    // A watch takes as long as it takes, so it has no limit.
    let mut watch = watcher.watch(request).await?;
    let created = tokio::time::timeout(CALL_LIMIT, watch.next()).await;
    match created.ok().flatten() {
        Some(Ok(response)) if response.canceled => Err(canceled(&response)),
        Some(Ok(_)) => Ok(watch),
        Some(Err(error)) => Err(error),
        None => Err(client::Error::rpc(Code::Unavailable, "the watch is not created")),
    }
}

/// Why a watch was canceled. Of refusals the reason has the text alone.
fn canceled(response: &WatchResponse) -> client::Error {
    let reason = response.cancel_reason.as_str();
    let is_refused = reason.contains("permission denied")
        || reason.contains("user name is empty")
        || reason.contains("invalid auth token");
    let code = if is_refused { Code::PermissionDenied } else { Code::Aborted };
    client::Error::rpc(code, format!("the watch is canceled: {reason}"))
}

/// Tells what happens to lease keys; returns when some of it may be missing.
async fn follow(shared: &Shared, lease: i64, mut watch: Watch) -> client::Error {
    loop {
        let response = match watch.next().await {
            Some(Ok(response)) if !response.canceled => response,
            Some(Ok(response)) => return canceled(&response),
            Some(Err(error)) => return error,
            None => return ended("the watch is over"),
        };
        let now = Instant::now();
        let revision = response.header.map_or(0, |header| header.revision);
        for event in response.events {
            let is_deletion = event.r#type() == EventType::Delete;
            let Some(mut pair) = event.kv else { continue };
            shared.namespace.strip(&mut pair.key);
            shared.below.strip(&mut pair.key);
            if is_deletion {
                shared.keys().deleted(&pair.key, pair.mod_revision);
                // That nobody waits is no error.
                let _ = shared.deletions.send(pair.key);
            } else if pair.lease == lease && pair.value == REVOKE {
                shared.keys().revoked(pair.key, pair.create_revision, pair.mod_revision, now);
                shared.releasing.notify_one();
            }
        }
        shared.keys().heard(revision);
    }
}

/// Deletes lease keys that are given up; does not end.
async fn release(shared: &Arc<Shared>) -> Infallible {
    let mut releases = JoinSet::new();
    loop {
        while releases.len() < RELEASES_MAX {
            let Some((key, revision)) = shared.keys().next_release() else { break };
            releases.spawn(release_one(Arc::clone(shared), key, revision));
        }
        tokio::select! {
            Some(released) = releases.join_next() => {
                if let Ok((key, revision)) = released {
                    shared.keys().released(&key, revision);
                }
            }
            () = shared.releasing.notified(), if releases.len() < RELEASES_MAX => {}
        }
    }
}

/// Deletes one lease key, unless it is another by now.
async fn release_one(shared: Arc<Shared>, key: Bytes, revision: i64) -> (Bytes, i64) {
    let lease_key = shared.below.key(&key);
    let delete = DeleteRangeRequest { key: lease_key.clone(), ..DeleteRangeRequest::default() };
    let txn = TxnRequest {
        compare: vec![created(CompareResult::Equal, lease_key, Bytes::new(), revision)],
        success: vec![RequestOp { request: Some(Op::RequestDeleteRange(delete)) }],
        failure: Vec::new(),
    };
    // To delete it twice does no harm.
    let caller = Caller::default();
    while let Err(status) = shared.txn(&caller, Policy::Repeatable, txn.clone()).await {
        tracing::debug!(error = status.message(), "failed to delete a lease key");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    (key, revision)
}
