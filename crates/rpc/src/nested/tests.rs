use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, ResponseOp,
    request_op, response_op,
};
use proto::nested::TXN_LEVELS_MAX;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::tokio_stream;
use tonic::{Code, Request, Response};

use super::*;
use crate::etcdserverpb::kv_client::KvClient;
use crate::etcdserverpb::kv_server::{Kv, KvServer};
use crate::raw::{RawCodec, Reply, TXN_PATH};

/// Answers a transaction with one that is nested as deep.
struct Echo;

fn echo(request: &TxnRequest) -> TxnResponse {
    let responses = request.success.iter().map(|op| match &op.request {
        Some(request_op::Request::RequestTxn(txn)) => {
            ResponseOp { response: Some(response_op::Response::ResponseTxn(echo(txn))) }
        }
        Some(_) | None => ResponseOp::default(),
    });
    TxnResponse { responses: responses.collect(), ..TxnResponse::default() }
}

fn levels(mut response: &TxnResponse) -> usize {
    let mut count = 1;
    while let Some(ResponseOp { response: Some(response_op::Response::ResponseTxn(inner)) }) =
        response.responses.first()
    {
        response = inner;
        count += 1;
    }
    count
}

#[tonic::async_trait]
impl Kv for Echo {
    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(echo(request.get_ref())))
    }

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// An in-process transport between the generated client and the generated server.
#[derive(Clone)]
struct Direct;

impl GrpcService<Body> for Direct {
    type ResponseBody = Body;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { GrpcService::call(&mut KvServer::new(Echo), request).await })
    }
}

async fn ask(levels_sent: usize) -> Result<usize, Status> {
    let mut txn = TxnRequest::default();
    for _ in 1..levels_sent {
        let op = RequestOp { request: Some(request_op::Request::RequestTxn(txn)) };
        txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
    }
    Ok(levels(KvClient::new(Direct).txn(txn).await?.get_ref()))
}

#[tokio::test]
async fn generated_client_and_server_take_what_etcd_takes() {
    for sent in [1, 60, TXN_LEVELS_MAX] {
        assert_eq!(ask(sent).await.unwrap(), sent);
    }
    let refused = ask(TXN_LEVELS_MAX + 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "etcdserver: too many operations in txn request");
}

#[tokio::test]
async fn hostile_depth_is_refused_at_the_edge() {
    let mut reversed = Vec::new();
    for _ in 0..100_000 {
        for field in [4_u8, 2] {
            let mut length = Vec::new();
            prost::encoding::encode_varint(reversed.len() as u64, &mut length);
            reversed.extend(length.into_iter().rev());
            reversed.push(field << 3 | 2);
        }
    }
    reversed.reverse();
    let request = Reply::<TxnRequest>::Encoded(vec![reversed.into()]);
    let path = http::uri::PathAndQuery::from_static(TXN_PATH);
    let codec = RawCodec::<Reply<TxnRequest>, TxnResponse>::default();
    let mut client = tonic::client::Grpc::new(Direct);
    let refused = client.unary(Request::new(request), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "etcdserver: too many operations in txn request");
}
