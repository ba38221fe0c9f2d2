//! Locks: whoever has the oldest key below the lock's name holds it, for as long as its lease lives.
//!
//! Nobody checks that an unlock comes from the holder: it is the deletion of a key, as in etcd.
//!
//! Upstream: `server/etcdserver/api/v3lock`, `client/v3/concurrency/mutex.go` (3.5).

use std::sync::Arc;

use proto::etcdserverpb::{RangeRequest, TxnRequest};
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use rpc::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

use super::limits;
use super::own::{self, Own};
use crate::request::Core;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
    own: Own,
}

impl Service {
    pub(super) fn new(core: &Arc<Core>, own: &Own) -> Self {
        Self { core: Arc::clone(core), own: own.clone() }
    }
}

#[tonic::async_trait]
impl Lock for Service {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let (caller, LockRequest { name, lease }) = self.own.caller(request);
        let lease = caller.lease(lease).await?;
        let prefix = own::prefix_of(&name);
        let key = own::key_of(&prefix, lease);
        let own_key = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let owner = own::range_op(own::oldest_below(&prefix));
        let request = TxnRequest {
            compare: vec![own::created_at(key.clone(), 0)],
            success: vec![own::put_op(key.clone(), bytes::Bytes::new(), lease), owner.clone()],
            failure: vec![own::range_op(own_key.clone()), owner],
        };
        let (joined, mut candidate) = caller.join(prefix, key.clone(), request).await?;
        let oldest = own::found_by(&joined, 1).first();
        if oldest.is_none_or(|owner| owner.create_revision == candidate.revision) {
            candidate.stay();
            return Ok(Response::new(LockResponse { header: joined.header, key }));
        }
        if let Err(error) = candidate.wait().await {
            candidate.withdraw();
            return Err(error);
        }
        // The lease may have ended while its turn came. Until that is known the key still goes with the client, which has no
        // answer: it would hold a lock that it does not know of.
        let found = match caller.range(own_key).await {
            Ok(found) => found,
            Err(error) => {
                candidate.withdraw();
                return Err(error);
            }
        };
        candidate.stay();
        if found.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        Ok(Response::new(LockResponse { header: found.header, key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let (caller, UnlockRequest { key }) = self.own.caller(request);
        let deleted = caller.delete(key).await?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}
