use std::future::{Ready, ready};

use proto::etcdserverpb::{RangeRequest, RangeResponse};
use proto::mvccpb::KeyValue;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response};

use super::*;

struct Canned(Reply<RangeResponse>);

impl UnaryService<RangeRequest> for Canned {
    type Response = Reply<RangeResponse>;
    type Future = Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<RangeRequest>) -> Self::Future {
        assert_eq!(&request.get_ref().key[..], b"asked");
        ready(Ok(Response::new(self.0.clone())))
    }
}

/// An in-process transport: what the generated client sends is served with [`RawCodec`].
#[derive(Clone)]
struct Direct(Reply<RangeResponse>);

impl GrpcService<Body> for Direct {
    type ResponseBody = Body;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + Send>,
    >;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), RANGE_PATH);
        let canned = Canned(self.0.clone());
        Box::pin(async move { Ok(Grpc::new(RawCodec::default()).unary(canned, request).await) })
    }
}

async fn ask(reply: Reply<RangeResponse>) -> RangeResponse {
    let mut client = crate::etcdserverpb::kv_client::KvClient::new(Direct(reply));
    let request = RangeRequest { key: Bytes::from_static(b"asked"), ..Default::default() };
    client.range(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn encoded_parts_arrive_as_a_message() {
    let kv = KeyValue { key: Bytes::from_static(b"k"), version: 3, ..Default::default() };
    let expected = RangeResponse { kvs: vec![kv.clone()], count: 1, ..Default::default() };
    let row = Bytes::from(kv.encode_to_vec());
    let head = Bytes::from(vec![0x12, u8::try_from(row.len()).unwrap()]);
    let count = Bytes::from_static(&[0x20, 1]);

    assert_eq!(ask(Reply::Encoded(vec![head, row, count])).await, expected);
    assert_eq!(ask(Reply::Message(expected.clone())).await, expected);
}
