//! Maintenance: status, hashes, snapshots, defragmentation, alarms.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use backend::HashRule;
use backend::schema::meta;
use bytes::Bytes;
use machine::Response as Applied;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse, alarm_request::AlarmAction,
};
use rpc::errors::Error;
use rpc::etcdserverpb::maintenance_server::Maintenance;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{downgrade, health, limits, status};
use crate::config::QUOTA_DEFAULT_BYTES;
use crate::driver::{apply, heart};
use crate::request::{Core, Refusal};
use crate::told::{self, Transfer};

/// etcd's size of a piece of a snapshot.
const CHUNK_BYTES: usize = 32 * 1024;

/// Pieces of a snapshot that are read ahead of the client.
const CHUNKS_AHEAD: usize = 4;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// For what reaches all data.
    async fn require_admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let allowed = self.core.require_admin(&self.core.credentials(request)).await;
        allowed.map_err(|error| status::of_maintenance_auth(error, self.core.version.minor))
    }

    /// What a status says besides from 3.6 on.
    fn status_since_3_6(&self) -> StatusResponse {
        let core = &self.core;
        if core.version.minor < 6 {
            return StatusResponse::default();
        }
        let known = core.facts.get();
        let downgrade = known.membership.downgrade();
        let quota = match core.config.quota_backend_bytes {
            0 => i64::try_from(QUOTA_DEFAULT_BYTES).unwrap_or(i64::MAX),
            bytes => bytes,
        };
        StatusResponse {
            storage_version: core.storage_version().unwrap_or_default(),
            db_size_quota: quota,
            downgrade_info: Some(DowngradeInfo {
                enabled: downgrade.enabled,
                target_version: downgrade.target_version.clone(),
            }),
            ..StatusResponse::default()
        }
    }
}

#[tonic::async_trait]
impl Maintenance for Service {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        let request = request.into_inner();
        let allowed = if request.action == i32::from(AlarmAction::Get) {
            self.core.require_identity(&credentials).await
        } else {
            self.core.require_admin(&credentials).await
        };
        allowed.map_err(status::of_auth)?;
        // etcd crashes for an unknown action, and 3.5 also for an alarm of an unknown kind, which its successors raise; a client's
        // mistake is the client's to hear.
        let Ok(action) = AlarmAction::try_from(request.action) else {
            return Err(Status::invalid_argument("etcdserver: unknown alarm action"));
        };
        let is_known = AlarmType::try_from(request.alarm).is_ok();
        if !is_known && action == AlarmAction::Activate && self.core.version.minor < 6 {
            return Err(Status::invalid_argument("etcdserver: unknown alarm type"));
        }
        let answer = self
            .core
            .propose_for(&credentials, Op::Alarm(request))
            .await
            .map_err(|refusal| status::of(&refusal))?;
        let Applied::Alarms(alarms) = answer.response else {
            return Err(Status::internal("the state machine answered another request"));
        };
        Ok(Response::new(AlarmResponse { header: Some(self.core.header(answer.revision)), alarms }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let core = &self.core;
        limits::check_metadata(core, request.metadata())?;
        let credentials = core.credentials(&request);
        let allowed = if core.version.status_needs_identity_only() {
            core.require_identity(&credentials).await
        } else {
            core.require_admin(&credentials).await
        };
        allowed.map_err(status::of_auth)?;
        let size = core.backend.size();
        let leader = core.board.leader();
        let mut errors = Vec::new();
        if leader == raft::NodeId::NONE {
            errors.push(Error::NoLeader.message().to_owned());
        }
        let alarms = core.facts.get().alarms.list(AlarmType::None.into());
        errors.extend(alarms.iter().map(|alarm| alarm_text(alarm, core.version.minor)));
        let to_i64 = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(StatusResponse {
            header: Some(core.header(0)),
            version: core.version.to_string(),
            db_size: to_i64(size.total_bytes),
            db_size_in_use: to_i64(size.in_use_bytes),
            leader: leader.0,
            raft_index: core.board.commit().0,
            raft_applied_index: core.board.applied().0,
            raft_term: core.board.term().0,
            is_learner: core.board.is_learner(),
            errors,
            ..self.status_since_3_6()
        }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.require_admin(&request).await?;
        let (reply, done) = oneshot::channel();
        self.core.heart.send_all([heart::Work::Apply(apply::Work::Defragment(reply))]);
        let done = if self.core.config.stops_grpc_on_defrag {
            let core = Arc::clone(&self.core);
            core.defragmentations.send_modify(|count| *count += 1);
            health::tell(false);
            // To its end, also if nobody waits for it any more.
            let defragmenting = tokio::spawn(async move {
                let done = done.await;
                core.defragmentations.send_modify(|count| *count -= 1);
                health::tell(true);
                done
            });
            defragmenting.await.map_err(|error| Status::internal(error.to_string()))?
        } else {
            done.await
        };
        match done {
            Ok(Ok(_)) => Ok(Response::new(DefragmentResponse { header: None })),
            Ok(Err(why)) => Err(Status::new(Code::Unknown, why)),
            Err(_) => Err(status::of(&Refusal::Stopped)),
        }
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.require_admin(&request).await?;
        self.core.commit().await.map_err(|refusal| status::of(&refusal))?;
        let (view, header) = (self.core.backend.view(), self.core.header(0));
        let rule =
            if self.core.version.has_storage_version() { HashRule::V3_6 } else { HashRule::V3_5 };
        let hash = blocking(move || view.hash(rule))
            .await?
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(HashResponse { header: Some(header), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.require_admin(&request).await?;
        let revision = request.get_ref().revision;
        let store = self.core.store.clone();
        let found = blocking(move || store.hash_kv(revision))
            .await?
            .map_err(|error| status::of_read(&error))?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.core.header(found.current_revision)),
            hash: found.hashed.hash,
            compact_revision: found.hashed.compact_revision,
            hash_revision: if self.core.version.minor < 6 { 0 } else { found.hashed.revision },
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        limits::check_metadata(&self.core, request.metadata())?;
        self.require_admin(&request).await?;
        // What is applied by now is in it.
        self.core.commit().await.map_err(|refusal| status::of(&refusal))?;
        let view = self.core.backend.view();
        let version = if self.core.version.has_storage_version() {
            let version = meta::storage_version(&view);
            version.map_err(|error| Status::internal(error.to_string()))?.unwrap_or_default()
        } else {
            String::new()
        };
        let snapshot = view.snapshot();
        let total_bytes = snapshot.len_bytes();
        tracing::info!(
            total_bytes,
            size = told::human_bytes(total_bytes),
            storage_version = (!version.is_empty()).then_some(version.as_str()),
            "sending database snapshot to client"
        );
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let transfer = Transfer::begin(total_bytes);
        tokio::task::spawn_blocking(move || {
            let _under_way = transfer;
            send_snapshot(snapshot, &version, &sender);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.core.require_admin(&self.core.credentials(&request)).await.map_err(status::of_auth)?;
        if !self.core.board.is_leader() {
            return Err(Error::NotLeader.into());
        }
        let target = request.get_ref().target_id;
        let is_voter = {
            let known = self.core.facts.get();
            known.membership.member(target).is_some_and(|member| !member.is_learner)
        };
        if !is_voter {
            return Err(Error::BadLeaderTransferee.into());
        }
        if target != self.core.member_id {
            let to = raft::NodeId(target);
            self.core.move_leader(to).await.map_err(|refusal| status::of(&refusal))?;
        }
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.core.require_admin(&self.core.credentials(&request)).await.map_err(status::of_auth)?;
        let version = downgrade::carry_out(&self.core, request.get_ref()).await?;
        Ok(Response::new(DowngradeResponse { header: Some(self.core.header(0)), version }))
    }
}

/// Go's text of an alarm, before 3.7 with a trailing blank.
pub(crate) fn alarm_text(alarm: &AlarmMember, minor: u32) -> String {
    let mut text = String::new();
    if alarm.member_id != 0 {
        text.push_str(&format!("memberID:{} ", alarm.member_id));
    }
    if alarm.alarm != i32::from(AlarmType::None) {
        text.push_str(&format!("alarm:{} ", machine::alarm_name(alarm.alarm)));
    }
    if minor >= 7 {
        text.truncate(text.trim_end().len());
    }
    text
}

/// Runs what reads much or waits for a disk off the executor's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

/// Sends the pieces, then their SHA-256, until the client has gone.
fn send_snapshot(
    mut snapshot: backend::Snapshot,
    version: &str,
    sender: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) {
    let piece = |blob, remaining_bytes| SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version: version.to_owned(),
    };
    let begun = Instant::now();
    let total_bytes = snapshot.len_bytes();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    while snapshot.remaining_bytes() > 0 {
        let piece = match snapshot.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                hash.update(&buffer[..length]);
                Ok(piece(Bytes::copy_from_slice(&buffer[..length]), snapshot.remaining_bytes()))
            }
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let is_last = piece.is_err();
        if sender.blocking_send(piece).is_err() || is_last {
            return;
        }
    }
    let digest = Bytes::copy_from_slice(&hash.finalize());
    tracing::info!(
        total_bytes,
        checksum_size = digest.len(),
        "sending database sha256 checksum to client"
    );
    if sender.blocking_send(Ok(piece(digest, 0))).is_ok() {
        let took = begun.elapsed();
        // 3.5, which knows no version of its storage, has words for the time.
        let took = if version.is_empty() { told::ago(took) } else { told::go_duration(took) };
        tracing::info!(
            total_bytes,
            size = told::human_bytes(total_bytes),
            took,
            storage_version = (!version.is_empty()).then_some(version),
            "successfully sent database snapshot to client"
        );
    }
}

#[cfg(test)]
mod tests;
