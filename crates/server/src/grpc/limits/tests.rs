use std::time::Duration;

use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseLeasesRequest, MemberListRequest, PutRequest, RangeRequest,
    StatusRequest,
};
use rpc::etcdserverpb::cluster_client::ClusterClient;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::lease_client::LeaseClient;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use rpc::health::HealthCheckRequest;
use rpc::health::health_client::HealthClient;
use tokio_stream::StreamExt as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Request};

use super::*;
use crate::config::Config;
use crate::member::{Member, unconnected};
use crate::version::parse_emulated;

/// A member without a leader, of that version.
fn leaderless(dir: &std::path::Path, version: &str) -> (Member, Routes) {
    unconnected::start_without_leader(Config {
        emulated_version: Some(parse_emulated(version).unwrap()),
        heartbeat: Duration::from_millis(10),
        election: Duration::from_millis(100),
        ..unconnected::config(dir)
    })
}

fn with<T>(message: T, key: &'static str, value: &[u8]) -> Request<T> {
    let mut request = Request::new(message);
    let value = http::HeaderValue::from_bytes(value).unwrap();
    request.metadata_mut().as_mut().insert(key, value);
    request
}

fn led<T>(message: T) -> Request<T> {
    with(message, "hasleader", b"true")
}

/// A range that needs no leader.
fn range() -> RangeRequest {
    RangeRequest { key: "k".into(), serializable: true, ..RangeRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_leader_is_refused_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (member, routes) = leaderless(dir.path(), "3.6");
    let mut kv = KvClient::new(routes.clone());
    let mut lease = LeaseClient::new(routes.clone());
    let mut maintenance = MaintenanceClient::new(routes.clone());
    let keep_alive = tokio_stream::once(LeaseKeepAliveRequest { id: 1 });
    let answers = [
        kv.range(led(range())).await.map(drop),
        kv.put(led(PutRequest { key: "k".into(), ..PutRequest::default() })).await.map(drop),
        lease.lease_leases(led(LeaseLeasesRequest {})).await.map(drop),
        lease.lease_keep_alive(led(keep_alive)).await.map(drop),
        maintenance.status(led(StatusRequest {})).await.map(drop),
        ClusterClient::new(routes.clone())
            .member_list(led(MemberListRequest::default()))
            .await
            .map(drop),
        HealthClient::new(routes).check(led(HealthCheckRequest::default())).await.map(drop),
    ];
    for answer in answers {
        let status = answer.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    }
    // Whoever says something else does not want one.
    for value in [&b"TRUE"[..], b"false", b""] {
        kv.range(with(range(), "hasleader", value)).await.unwrap();
    }
    kv.range(range()).await.unwrap();
    maintenance.status(StatusRequest {}).await.unwrap();
    drop(member);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_wants_a_leader_ends_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let (member, _) = leaderless(dir.path(), "3.6");
    let core = unconnected::core(&member);
    let silent = tokio_stream::pending::<Result<(), Status>>;
    let mut metadata = MetadataMap::new();
    let patience = Duration::from_secs(1);
    let mut patient = while_led(core, &metadata, silent());
    assert!(timeout(patience, patient.next()).await.is_err(), "nobody asked for it");
    metadata.insert("hasleader", MetadataValue::<Ascii>::from_static("true"));
    let mut stream = while_led(core, &metadata, silent());
    let last = stream.next().await.unwrap().unwrap_err();
    assert_eq!((last.code(), last.message()), (Code::Unavailable, "etcdserver: no leader"));
    assert!(stream.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_no_text_is_refused_from_3_6_on() {
    for (version, is_refused) in [("3.5", false), ("3.6", true), ("3.7", true)] {
        let dir = tempfile::tempdir().unwrap();
        let (member, routes) = leaderless(dir.path(), version);
        let mut kv = KvClient::new(routes);
        let key = "client-api-version";
        for text in [&b"3.6"[..], b"", "drei".as_bytes(), "ü".as_bytes()] {
            kv.range(with(range(), key, text)).await.unwrap();
        }
        let answer = kv.range(with(range(), key, b"3.\xff")).await;
        assert_eq!(answer.is_err(), is_refused, "{version}");
        if let Err(status) = answer {
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(status.message(), "etcdserver: invalid client api version");
        }
        drop(member);
    }
}
