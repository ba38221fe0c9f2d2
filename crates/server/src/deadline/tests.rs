use axum::body::Body as Sent;
use prost::Message as _;
use proto::etcdserverpb::{RangeRequest, RangeResponse};
use proto::v3lockpb::LockRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use super::*;
use crate::listen::served::{Served, framed, open_body};

#[test]
fn timeouts() {
    for (text, expected) in [
        ("1S", Ok(Duration::from_secs(1))),
        ("100m", Ok(Duration::from_millis(100))),
        ("99999999H", Ok(Duration::from_secs(99_999_999 * 3600))),
        ("3M", Ok(Duration::from_secs(180))),
        ("5u", Ok(Duration::from_micros(5))),
        ("0n", Ok(Duration::ZERO)),
        ("", Err("transport: timeout string is too short")),
        ("S", Err("transport: timeout string is too short")),
        ("123456789S", Err("transport: timeout string is too long")),
        ("1x", Err("transport: timeout unit is not recognized")),
        ("1é", Err("transport: timeout unit is not recognized")),
        ("-1S", Err("invalid syntax")),
        ("+1S", Err("invalid syntax")),
        ("1.5S", Err("invalid syntax")),
    ] {
        assert_eq!(timeout(text), expected, "{text}");
    }
}

/// A wait for a lock said `Canceled`, and streams had no end: found by calls without a client that keeps time itself.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_ends_at_its_deadline() {
    let server = Served::start(|_| {}).await;
    let lock = || Sent::from(framed(&LockRequest { name: "l".into(), lease: 0 }));
    let held = server.grpc("/v3lockpb.Lock/Lock", &[], lock()).await;
    assert_eq!(held.status.code(), Code::Ok);
    for (path, body) in [
        ("/v3lockpb.Lock/Lock", lock()),
        ("/grpc.health.v1.Health/Watch", Sent::from(vec![0; 5])),
        ("/etcdserverpb.Watch/Watch", open_body(Bytes::from_static(&[0, 0, 0, 0, 2, 0x0a, 0]))),
        ("/etcdserverpb.Lease/LeaseKeepAlive", open_body(Bytes::new())),
        ("/v3electionpb.Election/Observe", Sent::from(vec![0, 0, 0, 0, 3, 0x0a, 1, b'e'])),
    ] {
        let late = server.grpc(path, &[("grpc-timeout", "200m")], body).await;
        let found = (late.http, late.status.code(), late.status.message());
        assert_eq!(found, (200, Code::DeadlineExceeded, "context deadline exceeded"), "{path}");
        let (service, method) = path[1..].split_once('/').unwrap();
        server
            .until_metrics(|page| {
                page.lines().any(|line| {
                    line.starts_with("grpc_server_handled_total{grpc_code=\"DeadlineExceeded\"")
                        && line.contains(&format!("{method}\",grpc_service=\"{service}\""))
                        && line.ends_with(" 1")
                })
            })
            .await;
    }
    // The lock that was waited for is nobody's next.
    let range = RangeRequest { key: "l/".into(), range_end: "l0".into(), ..Default::default() };
    let mut waiting = 2;
    while waiting != 1 {
        let found = server.grpc("/etcdserverpb.KV/Range", &[], framed(&range).into()).await;
        waiting = RangeResponse::decode(&found.body[5..]).unwrap().count;
    }
    // What is done in time is done.
    let timely = [("grpc-timeout", "1M")];
    let found = server.grpc("/etcdserverpb.KV/Range", &timely, framed(&range).into()).await;
    assert_eq!(found.status.code(), Code::Ok);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_that_cannot_be_read_are_refused() {
    let server = Served::start(|_| {}).await;
    for (text, http, code, message) in [
        (
            "1x",
            400,
            Code::Internal,
            "malformed grpc-timeout: transport: timeout unit is not recognized: \"1x\"",
        ),
        ("0n", 200, Code::DeadlineExceeded, "context deadline exceeded"),
    ] {
        let headers = [("grpc-timeout", text)];
        let found = server.grpc("/etcdserverpb.KV/Range", &headers, vec![0; 5].into()).await;
        let status = (found.http, found.status.code(), found.status.message());
        assert_eq!(status, (http, code, message));
    }
    server.stop().await;
}

/// Over JSON too: tonic looks at the header there as well, and knows nothing of HTTP's statuses.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_gateway_end_in_its_words() {
    let server = Served::start(|_| {}).await;
    let lock = Sent::from(framed(&LockRequest { name: "l".into(), lease: 0 }));
    assert_eq!(server.grpc("/v3lockpb.Lock/Lock", &[], lock).await.status.code(), Code::Ok);
    for _ in 0..3 {
        let mut connection = server.connect().await;
        let request = "POST /v3/lock/lock HTTP/1.1\r\nHost: a\r\nGrpc-Timeout: 50m\r\nConnection: close\r\n\
            Content-Length: 15\r\n\r\n{\"name\":\"bA==\"}";
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert!(answer.contains("context deadline exceeded"), "{answer}");
    }
    server.stop().await;
}
