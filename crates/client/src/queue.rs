//! Locks and elections, as the server's services hold them.

use bytes::Bytes;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ResignRequest,
    ResignResponse,
};
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use rpc::v3electionpb::election_client::ElectionClient;
use rpc::v3lockpb::lock_client::LockClient;

use crate::client::{Client, Streaming};
use crate::error::Result;
use crate::retry::Policy;

impl Client {
    /// Waits for a lock and holds it until its key is deleted or the lease ends. Dropping the future gives up the place in the queue.
    pub async fn lock(&self, name: impl Into<Bytes>, lease: i64) -> Result<LockResponse> {
        let request = LockRequest { name: name.into(), lease };
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            LockClient::new(transport).lock(request).await
        })
        .await
    }

    /// Releases a lock by the key that [`Client::lock`] returned.
    pub async fn unlock(&self, key: impl Into<Bytes>) -> Result<UnlockResponse> {
        let request = UnlockRequest { key: key.into() };
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            LockClient::new(transport).unlock(request).await
        })
        .await
    }

    /// Waits until this candidate leads. Dropping the future gives up the candidacy.
    pub async fn campaign(
        &self,
        name: impl Into<Bytes>,
        lease: i64,
        value: impl Into<Bytes>,
    ) -> Result<CampaignResponse> {
        let request = CampaignRequest { name: name.into(), lease, value: value.into() };
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            ElectionClient::new(transport).campaign(request).await
        })
        .await
    }

    /// Gives up a leadership.
    pub async fn resign(&self, leader: LeaderKey) -> Result<ResignResponse> {
        let request = ResignRequest { leader: Some(leader) };
        self.call(Policy::NonRepeatable, request, |transport, request| async move {
            ElectionClient::new(transport).resign(request).await
        })
        .await
    }

    /// Follows the leaders of an election and what they proclaim.
    pub async fn observe_election(
        &self,
        name: impl Into<Bytes>,
    ) -> Result<Streaming<LeaderResponse>> {
        let mut stub = ElectionClient::new(self.transport()).max_decoding_message_size(usize::MAX);
        let request = self.request(LeaderRequest { name: name.into() });
        let mut stream = Streaming::new(self, async move { stub.observe(request).await });
        stream.opened_in_time().await?;
        Ok(stream)
    }
}
