use std::time::Duration;

use crate::entrance::Entrance;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseLeasesRequest, MemberListRequest, PutRequest, RangeRequest,
    StatusRequest,
};
use rpc::etcdserverpb::cluster_client::ClusterClient;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::lease_client::LeaseClient;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use rpc::health::HealthCheckRequest;
use rpc::health::health_check_response::ServingStatus;
use rpc::health::health_client::HealthClient;
use tokio_stream::StreamExt as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request};

use super::*;
use crate::config::Config;
use crate::member::{Member, unconnected};
use crate::version::parse_emulated;

/// A member without a leader, of that version.
fn leaderless(dir: &std::path::Path, version: &str) -> (Member, Entrance) {
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
    let mut patient = while_led(core, &metadata, silent(), Error::NoLeader.into());
    assert!(timeout(patience, patient.next()).await.is_err(), "nobody asked for it");
    metadata.insert("hasleader", MetadataValue::<Ascii>::from_static("true"));
    let mut stream = while_led(core, &metadata, silent(), Error::NoLeader.into());
    let last = stream.next().await.unwrap().unwrap_err();
    assert_eq!((last.code(), last.message()), (Code::Unavailable, "etcdserver: no leader"));
    assert!(stream.next().await.is_none());
}

/// One thread, so that a task that was woken first has run by the time another one goes on.
#[tokio::test]
async fn open_streams_end_as_etcds_when_the_leader_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (member, routes) = unconnected::start(Config {
        emulated_version: Some(parse_emulated("3.7").unwrap()),
        heartbeat: Duration::from_millis(10),
        election: Duration::from_millis(100),
        max_request_bytes: 2000,
        ..unconnected::config(dir.path())
    })
    .await;
    let core = unconnected::core(&member);
    let mut kv = KvClient::new(routes.clone());
    for number in 0..100 {
        let (key, value) = (format!("k{number:03}").into(), "v".repeat(1000).into());
        kv.put(PutRequest { key, value, ..PutRequest::default() }).await.unwrap();
    }
    let mut health = HealthClient::new(routes);
    let unknown = HealthCheckRequest { service: "other".to_owned() };
    let mut statuses = Vec::new();
    for (request, first) in [
        (HealthCheckRequest::default(), ServingStatus::Serving),
        (unknown, ServingStatus::ServiceUnknown),
    ] {
        let mut stream = health.watch(led(request)).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().status(), first);
        statuses.push(stream);
    }
    let mut unled = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    unled.message().await.unwrap();
    let all = RangeRequest { range_end: "l".into(), ..range() };
    let mut pages = kv.range_stream(led(all.clone())).await.unwrap().into_inner();
    let mut unled_pages = kv.range_stream(all).await.unwrap().into_inner();
    assert_eq!(pages.message().await.unwrap().unwrap().range_response.unwrap().kvs.len(), 10);

    // Its thread says nothing of a leader before it has something else to tell.
    core.board.update(&replica::Status {
        term: core.board.term(),
        leader: raft::NodeId::NONE,
        role: raft::Role::Follower,
        commit: core.board.commit(),
        reads_locally: false,
        is_learner: false,
    });
    let told = |status: Status| format!("{:?} {}", status.code(), status.message());
    for mut stream in statuses {
        let end = stream.message().await.unwrap_err();
        assert_eq!(told(end), "Cancelled Stream has ended.");
    }
    let end = loop {
        match pages.message().await {
            Ok(page) => assert!(page.is_some(), "the stream was not cut"),
            Err(end) => break told(end),
        }
        tokio::task::yield_now().await;
    };
    let expected = "Unknown rangeKeys: context cancelled: rpc error: code = Unavailable desc = etcdserver: no leader";
    assert_eq!(end, expected);
    assert!(pages.message().await.unwrap().is_none());
    // Whoever did not ask for a leader is served.
    let mut keys = 0;
    while let Some(page) = unled_pages.message().await.unwrap() {
        keys += page.range_response.unwrap().kvs.len();
    }
    assert_eq!(keys, 100);
    assert!(timeout(Duration::ZERO, unled.message()).await.is_err());
    member.stop().await;
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
