//! The list of members, which names proxies instead: clients that look for endpoints are to stay with the proxies.
//!
//! With a common prefix all proxies that are registered below it, else this one alone; with no address to advertise, the members. The
//! other calls pass as they are.
//!
//! Upstream: `server/proxy/grpcproxy/cluster.go` (3.6.16). Differs: a promotion passes, where upstream answers "not implemented".

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::retry::Policy;
use client::{Client, range_of_prefix};
use proto::etcdserverpb::{
    Member, MemberListRequest, MemberListResponse, RangeRequest, WatchCreateRequest,
};
use proto::mvccpb::{KeyValue, event::EventType};
use rpc::etcdserverpb::cluster_client::ClusterClient;
use serde_json::Value;
use tonic::server::UnaryService;
use tonic::{Request, Response, Status};

use crate::namespace::Namespace;
use crate::register::host_name;
use crate::upstream::{Caller, Upstream};

/// Path of Cluster.MemberList.
pub(crate) const MEMBER_LIST_PATH: &str = "/etcdserverpb.Cluster/MemberList";

/// Pause before the registered proxies are looked for again; upstream's.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Registered proxies by their keys.
pub(crate) type Proxies = Arc<Mutex<BTreeMap<Bytes, Member>>>;

/// Serves Cluster.MemberList.
#[derive(Debug, Clone)]
pub(crate) struct MemberList {
    pub(crate) upstream: Upstream,
    /// Empty for none.
    pub(crate) advertised: String,
    /// Guards the table; held for a look only.
    pub(crate) proxies: Proxies,
}

impl MemberList {
    fn answer(&self) -> Option<MemberListResponse> {
        if self.advertised.is_empty() {
            return None;
        }
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut members: Vec<Member> = proxies.values().cloned().collect();
        if members.is_empty() {
            members.push(member(host_name(), self.advertised.clone()));
        }
        Some(MemberListResponse { header: None, members })
    }
}

impl UnaryService<MemberListRequest> for MemberList {
    type Response = MemberListResponse;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<MemberListResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<MemberListRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if let Some(response) = this.answer() {
                return Ok(Response::new(response));
            }
            let caller = Caller::of(request.metadata());
            let call = this.upstream.call(
                &caller,
                Policy::Repeatable,
                request.into_inner(),
                |transport, request| async move {
                    ClusterClient::new(transport).member_list(request).await
                },
            );
            Ok(Response::new(call.await?))
        })
    }
}

fn member(name: String, address: String) -> Member {
    Member { name, client_urls: vec![address], ..Member::default() }
}

/// Follows which proxies are registered; does not end.
pub(crate) async fn follow(client: Client, namespace: Namespace, prefix: String, proxies: Proxies) {
    let (key, range_end) = range_of_prefix(namespace.key(&Bytes::from(format!("{prefix}/"))));
    loop {
        if let Err(error) = follow_once(&client, key.clone(), range_end.clone(), &proxies).await {
            tracing::warn!(prefix, error = %error, "failed to establish endpoint watch");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn follow_once(
    client: &Client,
    key: Bytes,
    range_end: Bytes,
    proxies: &Proxies,
) -> client::Result<()> {
    let lock = || proxies.lock().unwrap_or_else(PoisonError::into_inner);
    let request =
        RangeRequest { key: key.clone(), range_end: range_end.clone(), ..RangeRequest::default() };
    let found = client.range(request).await?;
    *lock() = found.kvs.iter().filter_map(registered).collect();
    let start_revision = found.header.map_or(0, |header| header.revision).saturating_add(1);
    let request =
        WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() };
    let mut watch = client.watch(request).await?;
    while let Some(response) = watch.next().await {
        let response = response?;
        for event in response.events {
            let is_put = event.r#type() == EventType::Put;
            let Some(pair) = event.kv else { continue };
            match registered(&pair).filter(|_| is_put) {
                Some((key, member)) => lock().insert(key, member),
                None => lock().remove(&pair.key),
            };
        }
        if response.canceled {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads an entry; one that is none is left out.
fn registered(pair: &KeyValue) -> Option<(Bytes, Member)> {
    let entry: Value = serde_json::from_slice(&pair.value).ok()?;
    let address = entry.get("Addr")?.as_str()?.to_owned();
    let metadata: Value = serde_json::from_str(entry.get("Metadata")?.as_str()?).ok()?;
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((pair.key.clone(), member(name, address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_etcd_are_read_and_others_left_out() {
        let pair = |value: &'static str| KeyValue {
            key: "k".into(),
            value: value.into(),
            ..KeyValue::default()
        };
        let entry = r#"{"Op":0,"Addr":"127.0.0.1:53391","Metadata":"{\"name\":\"vm\"}"}"#;
        let expected = member("vm".to_owned(), "127.0.0.1:53391".to_owned());
        assert_eq!(registered(&pair(entry)), Some(("k".into(), expected)));
        for entry in ["", "{}", r#"{"Addr":1}"#, r#"{"Addr":"a","Metadata":"x"}"#] {
            assert_eq!(registered(&pair(entry)), None, "{entry}");
        }
    }
}
