//! Leases: keep-alives ([`renewals`]), and the one call that names keys: how long a lease lives, and which keys of the namespace hang on it. The
//! rest passes as it is.

mod renewals;

pub(crate) use renewals::{KEEP_ALIVE_PATH, KeepAlive};

use std::future::Future;
use std::pin::Pin;

use client::retry::Policy;
use proto::etcdserverpb::{LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use rpc::etcdserverpb::lease_client::LeaseClient;
use tonic::server::UnaryService;
use tonic::{Request, Response, Status};

use crate::namespace::Namespace;
use crate::upstream::{Caller, Upstream};

/// Path of Lease.LeaseTimeToLive.
pub(crate) const TIME_TO_LIVE_PATH: &str = "/etcdserverpb.Lease/LeaseTimeToLive";

/// Serves Lease.LeaseTimeToLive.
#[derive(Debug, Clone)]
pub(crate) struct TimeToLive {
    pub(crate) upstream: Upstream,
    pub(crate) namespace: Namespace,
}

impl UnaryService<LeaseTimeToLiveRequest> for TimeToLive {
    type Response = LeaseTimeToLiveResponse;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<LeaseTimeToLiveResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<LeaseTimeToLiveRequest>) -> Self::Future {
        let Self { upstream, namespace } = self.clone();
        Box::pin(async move {
            let caller = Caller::of(request.metadata());
            let limit = upstream.recv_bytes_max;
            let mut response = upstream
                .call(&caller, Policy::Repeatable, request.into_inner(), |transport, request| {
                    let mut stub = LeaseClient::new(transport).max_decoding_message_size(limit);
                    async move { stub.lease_time_to_live(request).await }
                })
                .await?;
            response.keys = namespace.strip_all(response.keys);
            Ok(Response::new(response))
        })
    }
}
