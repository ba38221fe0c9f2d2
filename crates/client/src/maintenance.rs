//! Maintenance calls. All but alarms speak to one member: see [`Client::at`].

use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, HashKvRequest,
    HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;

use crate::client::{Client, Streaming};
use crate::error::Result;
use crate::retry::Policy;

impl Client {
    /// Gets, raises or clears alarms.
    pub async fn alarm(&self, request: AlarmRequest) -> Result<AlarmResponse> {
        self.call(Policy::Repeatable, request, |transport, request| async move {
            MaintenanceClient::new(transport).alarm(request).await
        })
        .await
    }

    /// State of the member.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.call(Policy::Repeatable, StatusRequest {}, |transport, request| async move {
            MaintenanceClient::new(transport).status(request).await
        })
        .await
    }

    /// Rewrites the member's backend without its free pages.
    pub async fn defragment(&self) -> Result<DefragmentResponse> {
        self.call(Policy::NonRepeatable, DefragmentRequest {}, |transport, request| async move {
            MaintenanceClient::new(transport).defragment(request).await
        })
        .await
    }

    /// Hash of the member's whole backend.
    pub async fn hash(&self) -> Result<HashResponse> {
        self.call(Policy::Repeatable, HashRequest {}, |transport, request| async move {
            MaintenanceClient::new(transport).hash(request).await
        })
        .await
    }

    /// Hash of the key history up to a revision; 0 is the current one.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse> {
        let request = HashKvRequest { revision };
        self.call(Policy::Repeatable, request, |transport, request| async move {
            MaintenanceClient::new(transport).hash_kv(request).await
        })
        .await
    }

    /// Hands leadership to another member; only the leader does it.
    pub async fn move_leader(&self, target_id: u64) -> Result<MoveLeaderResponse> {
        let request = MoveLeaderRequest { target_id };
        self.call(Policy::Repeatable, request, |transport, request| async move {
            MaintenanceClient::new(transport).move_leader(request).await
        })
        .await
    }

    /// Streams a snapshot of the member's backend, followed by its SHA-256. The client's timeout limits the opening of the stream; limit the
    /// reading yourself if it must end.
    pub async fn snapshot(&self) -> Result<Streaming<SnapshotResponse>> {
        let mut stub =
            MaintenanceClient::new(self.transport()).max_decoding_message_size(usize::MAX);
        let request = self.request(SnapshotRequest {});
        let mut stream = Streaming::new(self, async move { stub.snapshot(request).await });
        stream.opened_in_time().await?;
        Ok(stream)
    }
}
