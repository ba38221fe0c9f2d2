//! Membership calls.

use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use rpc::etcdserverpb::cluster_client::ClusterClient;

use crate::client::Client;
use crate::error::Result;
use crate::retry::Policy;

impl Client {
    /// Lists the members; linearizable unless asked otherwise, as etcd's client does.
    pub async fn member_list(&self, linearizable: bool) -> Result<MemberListResponse> {
        let request = MemberListRequest { linearizable };
        self.call(Policy::Repeatable, request, |transport, request| async move {
            ClusterClient::new(transport).member_list(request).await
        })
        .await
    }

    /// Adds a member.
    pub async fn member_add(&self, request: MemberAddRequest) -> Result<MemberAddResponse> {
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            ClusterClient::new(transport).member_add(request).await
        })
        .await
    }

    /// Removes a member.
    pub async fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse> {
        let request = MemberRemoveRequest { id };
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            ClusterClient::new(transport).member_remove(request).await
        })
        .await
    }

    /// Changes a member's peer URLs.
    pub async fn member_update(
        &self,
        request: MemberUpdateRequest,
    ) -> Result<MemberUpdateResponse> {
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            ClusterClient::new(transport).member_update(request).await
        })
        .await
    }

    /// Makes a learner a voter.
    pub async fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse> {
        let request = MemberPromoteRequest { id };
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            ClusterClient::new(transport).member_promote(request).await
        })
        .await
    }
}
