//! Cluster: the members. Changing them comes with clusters of several members.

use std::sync::Arc;

use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use rpc::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::{limits, status, unserved};
use crate::request::Core;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// Answers of this service carry no revision.
    fn header(&self) -> ResponseHeader {
        self.core.bare_header()
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_add(
        &self,
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        Err(unserved::later("adding members"))
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(unserved::later("removing members"))
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(unserved::later("updating members"))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        limits::admit(&self.core)?;
        if request.get_ref().linearizable {
            self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        }
        let members = self.core.facts.get().membership.to_messages();
        Ok(Response::new(MemberListResponse { header: Some(self.header()), members }))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(unserved::later("promoting learners"))
    }
}
