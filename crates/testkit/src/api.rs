//! A server spoken to directly over gRPC: one request enum, one reply enum, nothing retried or hidden.

mod auth;
mod watches;

use std::time::Duration;

use anyhow::{Context, Result};
use proto::etcdserverpb as pb;
use rpc::etcdserverpb::auth_client::AuthClient;
use rpc::etcdserverpb::cluster_client::ClusterClient;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::lease_client::LeaseClient;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use rpc::etcdserverpb::watch_client::WatchClient;
use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

pub use auth::{AuthRequest, AuthResponse};
pub use watches::{Seen, Watched};

/// Room for the largest answers a test provokes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// How long a connection may take: all servers are on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One request of any kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant holds the message of that name")]
pub enum Request {
    Range(pb::RangeRequest),
    /// Read to its end.
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    /// Sent alone on a stream of its own.
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases(pb::LeaseLeasesRequest),
    HashKv(pb::HashKvRequest),
    Alarm(pb::AlarmRequest),
    /// Answered by the first message; the watch ends with it.
    Watch(pb::WatchCreateRequest),
    /// Created on one stream, and held until each has seen writes of its range's first key, which belong to the request.
    Watches(Vec<pb::WatchCreateRequest>),
    Auth(AuthRequest),
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant holds the message of that name")]
pub enum Response {
    Range(pb::RangeResponse),
    /// The pages, put together.
    RangeStream(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// `None`: the stream ended without an answer.
    LeaseKeepAlive(Option<pb::LeaseKeepAliveResponse>),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    HashKv(pb::HashKvResponse),
    Alarm(pb::AlarmResponse),
    /// `None`: the stream ended without an answer.
    Watch(Option<pb::WatchResponse>),
    Watches(Watched),
    Auth(AuthResponse),
}

/// A refusal: gRPC code and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: tonic::Code,
    /// The text.
    pub message: String,
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

impl Request {
    /// Whether the request leaves the store as it is, so that several may be under way at once.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Range(_)
            | Self::RangeStream(_)
            | Self::LeaseTimeToLive(_)
            | Self::LeaseLeases(_)
            | Self::HashKv(_)
            | Self::Watch(_)
            | Self::LeaseKeepAlive(_) => true,
            Self::Put(_)
            | Self::DeleteRange(_)
            | Self::Txn(_)
            | Self::Compact(_)
            | Self::LeaseGrant(_)
            | Self::LeaseRevoke(_)
            | Self::Alarm(_)
            | Self::Watches(_)
            | Self::Auth(_) => false,
        }
    }
}

impl Response {
    /// The header, if one came.
    pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        match self {
            Self::Range(m) | Self::RangeStream(m) => m.header.as_mut(),
            Self::Put(m) => m.header.as_mut(),
            Self::DeleteRange(m) => m.header.as_mut(),
            Self::Txn(m) => m.header.as_mut(),
            Self::Compact(m) => m.header.as_mut(),
            Self::LeaseGrant(m) => m.header.as_mut(),
            Self::LeaseRevoke(m) => m.header.as_mut(),
            Self::LeaseKeepAlive(m) => m.as_mut().and_then(|m| m.header.as_mut()),
            Self::LeaseTimeToLive(m) => m.header.as_mut(),
            Self::LeaseLeases(m) => m.header.as_mut(),
            Self::HashKv(m) => m.header.as_mut(),
            Self::Alarm(m) => m.header.as_mut(),
            Self::Watch(m) => m.as_mut().and_then(|m| m.header.as_mut()),
            Self::Watches(m) => m.header.as_mut(),
            Self::Auth(m) => m.header_mut(),
        }
    }
}

/// Clients for one server, on one connection.
#[derive(Clone, Debug)]
pub struct Api {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    watch: WatchClient<Channel>,
    cluster: ClusterClient<Channel>,
    auth: AuthClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl Api {
    /// Connects to `http://host:port`.
    pub async fn connect(url: &str) -> Result<Self> {
        let channel =
            endpoint(url)?.connect().await.with_context(|| format!("connect to {url}"))?;
        Ok(Self::on(channel))
    }

    /// Makes clients that connect at their first request, and again at the first request after a loss.
    pub fn connect_lazily(url: &str) -> Result<Self> {
        Ok(Self::on(endpoint(url)?.connect_lazy()))
    }

    fn on(channel: Channel) -> Self {
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            token: None,
            watch: WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Sends one request and waits for its answer.
    pub async fn call(&self, request: Request) -> Result<Response, Refusal> {
        let (mut kv, mut lease) = (self.kv.clone(), self.lease.clone());
        Ok(match request {
            Request::Range(m) => Response::Range(kv.range(self.asked(m)).await?.into_inner()),
            Request::RangeStream(m) => Response::RangeStream(self.range_stream(m).await?),
            Request::Put(m) => Response::Put(kv.put(self.asked(m)).await?.into_inner()),
            Request::DeleteRange(m) => {
                Response::DeleteRange(kv.delete_range(self.asked(m)).await?.into_inner())
            }
            Request::Txn(m) => Response::Txn(kv.txn(self.asked(m)).await?.into_inner()),
            Request::Compact(m) => Response::Compact(kv.compact(self.asked(m)).await?.into_inner()),
            Request::LeaseGrant(m) => {
                Response::LeaseGrant(lease.lease_grant(self.asked(m)).await?.into_inner())
            }
            Request::LeaseRevoke(m) => {
                Response::LeaseRevoke(lease.lease_revoke(self.asked(m)).await?.into_inner())
            }
            Request::LeaseKeepAlive(m) => {
                let mut answers =
                    lease.lease_keep_alive(self.asked(tokio_stream::once(m))).await?.into_inner();
                Response::LeaseKeepAlive(answers.next().await.transpose()?)
            }
            Request::LeaseTimeToLive(m) => Response::LeaseTimeToLive(
                lease.lease_time_to_live(self.asked(m)).await?.into_inner(),
            ),
            Request::LeaseLeases(m) => {
                Response::LeaseLeases(lease.lease_leases(self.asked(m)).await?.into_inner())
            }
            Request::HashKv(m) => Response::HashKv(
                self.maintenance.clone().hash_kv(self.asked(m)).await?.into_inner(),
            ),
            Request::Alarm(m) => {
                Response::Alarm(self.maintenance.clone().alarm(self.asked(m)).await?.into_inner())
            }
            Request::Watch(m) => {
                let (_requests, mut answers) = self.open_watch(m).await?;
                Response::Watch(answers.message().await?)
            }
            Request::Watches(m) => Response::Watches(watches::call(self, m).await?),
            Request::Auth(m) => Response::Auth(auth::call(self, &self.auth, m).await?),
        })
    }

    /// Reads a range.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Refusal> {
        Ok(self.kv.clone().range(self.asked(request)).await?.into_inner())
    }

    /// Reads a range in pages (etcd 3.7), and puts them together.
    async fn range_stream(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Refusal> {
        let mut pages = self.kv.clone().range_stream(self.asked(request)).await?.into_inner();
        let mut whole = pb::RangeResponse::default();
        while let Some(page) = pages.message().await? {
            let mut page = page.range_response.unwrap_or_default();
            let mut kvs = std::mem::take(&mut whole.kvs);
            kvs.append(&mut page.kvs);
            whole = pb::RangeResponse { kvs, ..page };
        }
        Ok(whole)
    }

    /// Writes one key.
    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Refusal> {
        Ok(self.kv.clone().put(self.asked(request)).await?.into_inner())
    }

    /// Gives the room back that the database does not use any more.
    pub async fn defragment(&self) -> Result<(), Refusal> {
        self.maintenance.clone().defragment(self.asked(pb::DefragmentRequest {})).await?;
        Ok(())
    }

    /// The hash of all revisions up to one.
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Refusal> {
        Ok(self
            .maintenance
            .clone()
            .hash_kv(self.asked(pb::HashKvRequest { revision }))
            .await?
            .into_inner())
    }

    /// What a member says about itself.
    pub async fn status(&self) -> Result<pb::StatusResponse, Refusal> {
        Ok(self.maintenance.clone().status(self.asked(pb::StatusRequest {})).await?.into_inner())
    }

    /// Hands leadership to another member; only the leader does that.
    pub async fn move_leader(&self, target: u64) -> Result<(), Refusal> {
        let request = pb::MoveLeaderRequest { target_id: target };
        self.maintenance.clone().move_leader(self.asked(request)).await?;
        Ok(())
    }

    /// The members, as the leader knows them or as this member does.
    pub async fn member_list(&self, is_linearizable: bool) -> Result<Vec<pb::Member>, Refusal> {
        let request = pb::MemberListRequest { linearizable: is_linearizable };
        Ok(self.cluster.clone().member_list(self.asked(request)).await?.into_inner().members)
    }

    /// Adds a member that is not running yet, and returns its id.
    pub async fn member_add(&self, peer_url: &str, is_learner: bool) -> Result<u64, Refusal> {
        let request = pb::MemberAddRequest { peer_urls: vec![peer_url.to_owned()], is_learner };
        let answer = self.cluster.clone().member_add(self.asked(request)).await?.into_inner();
        Ok(answer.member.map_or(0, |member| member.id))
    }

    /// Removes a member.
    pub async fn member_remove(&self, id: u64) -> Result<(), Refusal> {
        self.cluster.clone().member_remove(self.asked(pb::MemberRemoveRequest { id })).await?;
        Ok(())
    }

    /// Makes a learner a voter.
    pub async fn member_promote(&self, id: u64) -> Result<(), Refusal> {
        self.cluster.clone().member_promote(self.asked(pb::MemberPromoteRequest { id })).await?;
        Ok(())
    }

    /// Opens a watch on every key from a revision; the first message (created) is taken off.
    pub async fn watch_all(&self, start_revision: i64) -> Result<WatchStream, Refusal> {
        let all = bytes::Bytes::from_static(b"\0");
        let create = pb::WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            start_revision,
            prev_kv: true,
            ..Default::default()
        };
        self.watch(create).await
    }

    /// Opens a watch; the first message (created) is taken off.
    pub async fn watch(&self, create: pb::WatchCreateRequest) -> Result<WatchStream, Refusal> {
        let (sender, mut answers) = self.open_watch(create).await?;
        let created = answers.message().await?;
        if !created.as_ref().is_some_and(|answer| answer.created && !answer.canceled) {
            return Err(Refusal {
                code: tonic::Code::Unknown,
                message: format!("not created: {created:?}"),
            });
        }
        Ok(WatchStream { answers, requests: sender })
    }

    async fn open_watch(&self, create: pb::WatchCreateRequest) -> Result<Watching, Refusal> {
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        // The receiver is right here: the first send has room.
        let _ = sender.send(request).await;
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = self.watch.clone().watch(self.asked(requests)).await?.into_inner();
        Ok((sender, answers))
    }

    /// The same server, asked with a token, or with none.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.and_then(|token| token.parse().ok()), ..self.clone() }
    }

    /// The token that a user gets for a password.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<String, Refusal> {
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        Ok(self.auth.clone().authenticate(request).await?.into_inner().token)
    }

    fn asked<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// The two halves of a watch stream; it ends when the first is dropped.
type Watching = (tokio::sync::mpsc::Sender<pb::WatchRequest>, tonic::Streaming<pb::WatchResponse>);

/// A watch; it ends when this is dropped.
#[derive(Debug)]
pub struct WatchStream {
    answers: tonic::Streaming<pb::WatchResponse>,
    requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
}

impl WatchStream {
    /// Waits for the next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Refusal> {
        Ok(self.answers.message().await?)
    }
    /// Asks for a message that says how far the watch has come. Does nothing when the last such request still waits.
    pub fn request_progress(&self) {
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::ProgressRequest(
                pb::WatchProgressRequest {},
            )),
        };
        let _ = self.requests.try_send(request);
    }
}

fn endpoint(url: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(url.to_owned())
        .context("parse the URL")?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT))
}
