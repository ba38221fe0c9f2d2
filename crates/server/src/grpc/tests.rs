use std::io::Write as _;

use axum::body::Body;
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, PutRequest, RangeRequest, RangeResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use tonic::Code;

use crate::listen::served::{Served, open_body};

/// A message that is packed.
fn packed(message: &impl Message) -> Bytes {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&message.encode_to_vec()).unwrap();
    let message = packer.finish().unwrap();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[1][..], &length, &message].concat().into()
}

const PACKED: [(&str, &str); 1] = [("grpc-encoding", "gzip")];
const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// OpenTelemetry's exporter registers gzip with grpc-go, and so etcd knows it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_may_be_packed() {
    let server = Served::start(|_| {}).await;
    let put = PutRequest { key: "k".into(), value: vec![7; 100_000].into(), ..Default::default() };
    let answer = server.grpc(PUT, &PACKED, packed(&put).into()).await;
    assert_eq!(answer.status.code(), Code::Ok, "{:?}", answer.status);

    let range = RangeRequest { key: "k".into(), ..Default::default() };
    let answer = server.grpc(RANGE, &PACKED, packed(&range).into()).await;
    let found = RangeResponse::decode(&answer.body[5..]).unwrap();
    assert_eq!(found.kvs[0].value, put.value);

    // Streams: the deadline ends them.
    let streams = [PACKED[0], ("grpc-timeout", "300m")];
    let create = WatchCreateRequest { key: "k".into(), start_revision: 1, ..Default::default() };
    let watch = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let answer = server.grpc(WATCH, &streams, open_body(packed(&watch))).await;
    let created = usize::from(answer.body[4]);
    assert!(WatchResponse::decode(&answer.body[5..5 + created]).unwrap().created);
    let renewal = LeaseKeepAliveRequest { id: 5 };
    let answer = server.grpc(KEEP_ALIVE, &streams, open_body(packed(&renewal))).await;
    assert!(!answer.body.is_empty(), "{:?}", answer.status);
    server.stop().await;
}

/// 256 MiB of zeros are a quarter of a megabyte when they are packed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_when_unpacked_is_refused() {
    let server = Served::start(|_| {}).await;
    let put = PutRequest { value: vec![0; 256 << 20].into(), ..Default::default() };
    let bomb = packed(&put);
    assert!(bomb.len() < 2 << 20);
    for path in [PUT, RANGE, WATCH, KEEP_ALIVE] {
        let answer = server.grpc(path, &PACKED, Body::from(bomb.clone())).await;
        assert_eq!(
            (answer.status.code(), answer.status.message()),
            (
                Code::ResourceExhausted,
                "grpc: received message after decompression larger than max 2097152"
            ),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_unpacked_are_refused_in_grpc_go_s_words() {
    let server = Served::start(|_| {}).await;
    let packed = packed(&RangeRequest::default());
    for (encoding, body, code, message) in [
        (
            "zip",
            packed.clone(),
            Code::Unimplemented,
            "grpc: Decompressor is not installed for grpc-encoding \"zip\"",
        ),
        (
            "identity",
            packed,
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (
            "gzip",
            Bytes::from_static(&[1, 0, 0, 0, 2, 1, 2]),
            Code::Internal,
            "grpc: failed to decompress the received message: ",
        ),
    ] {
        let answer = server.grpc(RANGE, &[("grpc-encoding", encoding)], body.into()).await;
        assert_eq!(answer.status.code(), code, "{encoding}");
        assert!(answer.status.message().starts_with(message), "{:?}", answer.status);
    }
    server.stop().await;
}
