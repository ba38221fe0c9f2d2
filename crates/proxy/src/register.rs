//! The proxy's entry among its kind: a key below the common prefix, kept by a lease for as long as the proxy lives.
//!
//! A lease that is gone, after a partition or a long stop, is followed by another one.
//!
//! Upstream: `server/proxy/grpcproxy/register.go` and `client/v3/naming/endpoints` (3.6.16).

use std::time::Duration;

use bytes::Bytes;
use client::Client;
use proto::etcdserverpb::PutRequest;
use serde_json::json;

use crate::namespace::Namespace;

/// Pause between two attempts; upstream's.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What is registered, and how long it outlives the proxy.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Common to all proxies that know of each other.
    pub prefix: String,
    /// Seconds.
    pub ttl: i64,
}

/// The name of this machine; empty where it has none.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Keeps the entry; does not end.
pub(crate) async fn run(
    client: Client,
    namespace: Namespace,
    registration: Registration,
    address: String,
) {
    let key = namespace.key(&Bytes::from(format!("{}/{address}", registration.prefix)));
    let metadata = json!({ "name": host_name() }).to_string();
    // In etcd's order, which a map would not keep.
    let value = format!(r#"{{"Op":0,"Addr":{},"Metadata":{}}}"#, json!(address), json!(metadata));
    loop {
        match one_session(&client, &registration, &address, key.clone(), value.clone()).await {
            Ok(()) => {
                tracing::warn!("session expired; possible network partition or server restart");
                tracing::warn!("creating a new session to rejoin");
            }
            Err(error) => tracing::warn!(error = %error, "failed to create a session"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Ends well when the lease is gone.
async fn one_session(
    client: &Client,
    registration: &Registration,
    address: &str,
    key: Bytes,
    value: String,
) -> client::Result<()> {
    let lease = client.lease_grant(registration.ttl, 0).await?.id;
    let put = PutRequest { key, value: value.into(), lease, ..PutRequest::default() };
    client.put_with(put).await?;
    tracing::info!(addr = address, lease_ttl = registration.ttl, "registered session with lease");
    let mut renewals = client.lease_keep_alive(lease);
    while let Some(renewed) = renewals.next().await {
        renewed?;
    }
    Ok(())
}
