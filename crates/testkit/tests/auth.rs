//! Who may call what: every RPC, by somebody without a token, a user, root, and somebody with a bad token.
//!
//! The same table is held against our server in each of its versions and against real etcd 3.6 and 3.7, so that the table is
//! proved as well, and against the descriptors, so that no method is forgotten.
//!
//! CVE-2026-33413 (GHSA-q8m4-xhhv-38mg), MemberList, Alarm, leases and compaction without a token;
//! CVE-2023-32082 (GHSA-3p4g-rcw5-8298), keys of a lease without the right to read them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb as pb;
use proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use proto::v3lockpb::{LockRequest, UnlockRequest};
use rpc::health::{HealthCheckRequest, HealthListRequest};
use testkit::embed;
use testkit::member::{Member, Options};
use testkit::programs;
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// What came of a call: let through, whatever became of it, or refused for want of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// Nobody said who asks.
    Nobody,
    Denied,
    BadToken,
    /// The same three from calls in which 3.5 forgets to translate, and from locks and elections, whose calls the server makes
    /// for the client.
    Untranslated(&'static str),
    /// The version has no such method.
    Absent,
    /// A stream that ends without a word.
    Silence,
}

use Verdict::{Absent, BadToken, Denied, Nobody, Passed, Silence, Untranslated};

/// Texts of refusals, with their codes.
const REFUSALS: [(Code, &str, Verdict); 9] = [
    (Code::InvalidArgument, "etcdserver: user name is empty", Nobody),
    (Code::PermissionDenied, "etcdserver: permission denied", Denied),
    (Code::Unauthenticated, "etcdserver: invalid auth token", BadToken),
    (Code::Unknown, "auth: user name is empty", Untranslated("nobody")),
    (Code::Unknown, "auth: permission denied", Untranslated("denied")),
    (Code::Unknown, "auth: invalid auth token", Untranslated("bad token")),
    (Code::Unknown, "etcdserver: user name is empty", Untranslated("nobody")),
    (Code::Unknown, "etcdserver: permission denied", Untranslated("denied")),
    (Code::Unknown, "etcdserver: invalid auth token", Untranslated("bad token")),
];

fn verdict(status: &Status) -> Verdict {
    if status.code() == Code::Unimplemented {
        return Absent;
    }
    let known =
        REFUSALS.iter().find(|(code, text, _)| (*code, *text) == (status.code(), status.message()));
    let is_other = !status.message().contains("token") && !status.message().contains("denied");
    known.map_or_else(
        || {
            assert!(is_other, "an unknown refusal: {status:?}");
            Passed
        },
        |(_, _, verdict)| *verdict,
    )
}

/// Bytes as they are, both ways.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One call: path, request, and what the four callers get.
struct Row {
    path: &'static str,
    request: Bytes,
    /// Nobody, the user, root, a bad token.
    expected: [Verdict; 4],
}

fn row(path: &'static str, request: impl Message, expected: [Verdict; 4]) -> Row {
    Row { path, request: Bytes::from(request.encode_to_vec()), expected }
}

/// For who has the right to the keys.
const OPEN: [Verdict; 4] = [Nobody, Passed, Passed, BadToken];
/// For root, and the user not.
const ADMIN: [Verdict; 4] = [Nobody, Denied, Passed, BadToken];
const ADMIN_3_5: [Verdict; 4] =
    [Untranslated("nobody"), Untranslated("denied"), Passed, Untranslated("bad token")];
const PUBLIC: [Verdict; 4] = [Passed; 4];
/// What the server's own calls are refused with goes out with another code.
const OPEN_INSIDE: [Verdict; 4] =
    [Untranslated("nobody"), Passed, Passed, Untranslated("bad token")];
const ADMIN_INSIDE: [Verdict; 4] = ADMIN_3_5;
const OPEN_OBSERVED: [Verdict; 4] = [Silence, Passed, Passed, Silence];
const ADMIN_OBSERVED: [Verdict; 4] = [Silence, Silence, Passed, Silence];

/// The lease that root hung a key on, out of the user's reach.
const LEASE: i64 = 9;
/// A lease whose keys, once it has some, are all in the user's reach.
const USERS_LEASE: i64 = 10;

/// The user may read and write `[a, c)`, and read `[r, s)`.
#[allow(clippy::too_many_lines, reason = "a table")]
fn table(minor: u32) -> Vec<Row> {
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let text = |text: &str| text.to_owned();
    let range = |key: &str, end: &str, serializable| pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        serializable,
        ..Default::default()
    };
    let put = |key: &str, lease, prev_kv| pb::PutRequest {
        key: bytes(key),
        value: bytes("v"),
        lease,
        prev_kv,
        ..Default::default()
    };
    let delete = |key: &str, end: &str| pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: true,
    };
    let txn = |op: pb::request_op::Request| pb::TxnRequest {
        failure: vec![pb::RequestOp { request: Some(op) }],
        ..Default::default()
    };
    let nested = |op| txn(pb::request_op::Request::RequestTxn(txn(op)));
    let watch = |key: &str, end: &str| pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest { key: bytes(key), range_end: bytes(end), ..Default::default() },
        )),
    };
    let lock = |name: &str, lease| LockRequest { name: bytes(name), lease };
    let unlock = |key: &str| UnlockRequest { key: bytes(key) };
    let campaign =
        |name: &str, lease| CampaignRequest { name: bytes(name), lease, value: bytes("v") };
    // Nobody's key: whoever may ask at all is told that it does not lead.
    let leader = |name: &str, lease| {
        let key = bytes(&format!("{name}/none"));
        Some(LeaderKey { name: bytes(name), key, rev: 1, lease })
    };
    let proclaim =
        |name: &str, lease| ProclaimRequest { leader: leader(name, lease), value: bytes("w") };
    let resign = |name: &str, lease| ResignRequest { leader: leader(name, lease) };
    let election = |name: &str| LeaderRequest { name: bytes(name) };
    let health = || HealthCheckRequest::default();
    let permission = Permission { perm_type: 0, key: bytes("x"), range_end: Bytes::new() };
    let maintenance = if minor < 6 { ADMIN_3_5 } else { ADMIN };
    let status = if minor < 6 { ADMIN } else { OPEN };
    let auth_status = if minor < 7 { ADMIN } else { [Passed, Passed, Passed, BadToken] };
    let range_stream = |verdicts| if minor < 7 { [Absent; 4] } else { verdicts };
    let compare = pb::TxnRequest {
        compare: vec![pb::Compare { key: bytes("z"), ..Default::default() }],
        ..Default::default()
    };
    use pb::request_op::Request as TxnOp;
    vec![
        row("etcdserverpb.KV/Range", range("a", "c", false), OPEN),
        row("etcdserverpb.KV/Range", range("b", "d", false), ADMIN),
        row("etcdserverpb.KV/Range", range("b", "\0", true), ADMIN),
        row("etcdserverpb.KV/RangeStream", range("a", "c", false), range_stream(OPEN)),
        row("etcdserverpb.KV/RangeStream", range("b", "d", false), range_stream(ADMIN)),
        row("etcdserverpb.KV/RangeStream", range("b", "\0", true), range_stream(ADMIN)),
        row("etcdserverpb.KV/Put", put("a", 0, true), OPEN),
        row("etcdserverpb.KV/Put", put("c", 0, false), ADMIN),
        // CVE-2026-44283: the lease's keys are not the user's.
        row("etcdserverpb.KV/Put", put("a", LEASE, false), ADMIN),
        row("etcdserverpb.KV/DeleteRange", delete("a", "c"), OPEN),
        row("etcdserverpb.KV/DeleteRange", delete("a", "\0"), ADMIN),
        // Root's deletion took the key off the lease.
        row("etcdserverpb.KV/Put", put("z", LEASE, false), ADMIN),
        row("etcdserverpb.KV/Txn", txn(TxnOp::RequestRange(range("a", "", false))), OPEN),
        row("etcdserverpb.KV/Txn", txn(TxnOp::RequestRange(range("z", "", true))), ADMIN),
        row("etcdserverpb.KV/Txn", compare, ADMIN),
        // CVE-2026-33343: in a branch of a branch.
        row("etcdserverpb.KV/Txn", nested(TxnOp::RequestPut(put("a", 0, true))), OPEN),
        row("etcdserverpb.KV/Txn", nested(TxnOp::RequestPut(put("z", 0, false))), ADMIN),
        row("etcdserverpb.KV/Txn", nested(TxnOp::RequestPut(put("a", LEASE, false))), ADMIN),
        row("etcdserverpb.KV/Txn", nested(TxnOp::RequestDeleteRange(delete("z", ""))), ADMIN),
        row("etcdserverpb.KV/Put", put("z", LEASE, false), ADMIN),
        row(
            "etcdserverpb.KV/Compact",
            pb::CompactionRequest { revision: 1, physical: false },
            ADMIN,
        ),
        row("etcdserverpb.Watch/Watch", watch("a", "c"), OPEN),
        row("etcdserverpb.Watch/Watch", watch("z", ""), ADMIN),
        // CVE-2026-73499: all keys from `a` on, not the key `a`.
        row("etcdserverpb.Watch/Watch", watch("a", "\0"), ADMIN),
        row("etcdserverpb.Watch/Watch", watch("", "\0"), ADMIN),
        // The lease is there for all, and who has the lock may take it again.
        row("v3lockpb.Lock/Lock", lock("a", USERS_LEASE), OPEN_INSIDE),
        row("v3lockpb.Lock/Lock", lock("z", LEASE), ADMIN_INSIDE),
        row("v3lockpb.Lock/Lock", lock("r", LEASE), ADMIN_INSIDE),
        row("v3lockpb.Lock/Unlock", unlock("a/none"), OPEN_INSIDE),
        row("v3lockpb.Lock/Unlock", unlock("r/none"), ADMIN_INSIDE),
        row("v3lockpb.Lock/Unlock", unlock("z/none"), ADMIN_INSIDE),
        row("v3electionpb.Election/Campaign", campaign("b", USERS_LEASE), OPEN_INSIDE),
        row("v3electionpb.Election/Campaign", campaign("r", LEASE), ADMIN_INSIDE),
        row("v3electionpb.Election/Campaign", campaign("z", LEASE), ADMIN_INSIDE),
        row("v3electionpb.Election/Proclaim", proclaim("b", USERS_LEASE), OPEN_INSIDE),
        row("v3electionpb.Election/Proclaim", proclaim("r", LEASE), ADMIN_INSIDE),
        row("v3electionpb.Election/Proclaim", proclaim("z", LEASE), ADMIN_INSIDE),
        row("v3electionpb.Election/Leader", election("b"), OPEN_INSIDE),
        row("v3electionpb.Election/Leader", election("r"), OPEN_INSIDE),
        row("v3electionpb.Election/Leader", election("z"), ADMIN_INSIDE),
        row("v3electionpb.Election/Observe", election("b"), OPEN_OBSERVED),
        row("v3electionpb.Election/Observe", election("r"), OPEN_OBSERVED),
        row("v3electionpb.Election/Observe", election("z"), ADMIN_OBSERVED),
        row("v3electionpb.Election/Resign", resign("b", USERS_LEASE), OPEN_INSIDE),
        row("v3electionpb.Election/Resign", resign("r", LEASE), ADMIN_INSIDE),
        row("v3electionpb.Election/Resign", resign("z", LEASE), ADMIN_INSIDE),
        row("etcdserverpb.Lease/LeaseGrant", pb::LeaseGrantRequest { id: 0, ttl: 100 }, OPEN),
        row("etcdserverpb.Lease/LeaseKeepAlive", pb::LeaseKeepAliveRequest { id: LEASE }, ADMIN),
        row(
            "etcdserverpb.Lease/LeaseTimeToLive",
            pb::LeaseTimeToLiveRequest { id: LEASE, keys: false },
            OPEN,
        ),
        row(
            "etcdserverpb.Lease/LeaseTimeToLive",
            pb::LeaseTimeToLiveRequest { id: LEASE, keys: true },
            ADMIN,
        ),
        row("etcdserverpb.Lease/LeaseLeases", pb::LeaseLeasesRequest {}, ADMIN),
        row("etcdserverpb.Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: 77 }, OPEN),
        row("etcdserverpb.Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: LEASE }, ADMIN),
        row("etcdserverpb.Cluster/MemberList", pb::MemberListRequest { linearizable: true }, OPEN),
        row(
            "etcdserverpb.Cluster/MemberAdd",
            pb::MemberAddRequest { peer_urls: vec![text("http://127.0.0.1:1")], is_learner: true },
            ADMIN,
        ),
        row(
            "etcdserverpb.Cluster/MemberUpdate",
            pb::MemberUpdateRequest { id: 77, peer_urls: vec![text("http://127.0.0.1:2")] },
            ADMIN,
        ),
        row("etcdserverpb.Cluster/MemberRemove", pb::MemberRemoveRequest { id: 77 }, ADMIN),
        row("etcdserverpb.Cluster/MemberPromote", pb::MemberPromoteRequest { id: 77 }, ADMIN),
        row("etcdserverpb.Maintenance/Alarm", pb::AlarmRequest::default(), OPEN),
        row(
            "etcdserverpb.Maintenance/Alarm",
            pb::AlarmRequest { action: 2, member_id: 77, alarm: 1 },
            ADMIN,
        ),
        row("etcdserverpb.Maintenance/Status", pb::StatusRequest {}, status),
        row("etcdserverpb.Maintenance/Defragment", pb::DefragmentRequest {}, maintenance),
        row("etcdserverpb.Maintenance/Hash", pb::HashRequest {}, maintenance),
        row("etcdserverpb.Maintenance/HashKV", pb::HashKvRequest::default(), maintenance),
        row("etcdserverpb.Maintenance/Snapshot", pb::SnapshotRequest {}, maintenance),
        row("etcdserverpb.Maintenance/MoveLeader", pb::MoveLeaderRequest { target_id: 77 }, ADMIN),
        row(
            "etcdserverpb.Maintenance/Downgrade",
            pb::DowngradeRequest { action: 0, version: text("1.2") },
            ADMIN,
        ),
        row("etcdserverpb.Auth/AuthEnable", pb::AuthEnableRequest {}, ADMIN),
        row("etcdserverpb.Auth/AuthStatus", pb::AuthStatusRequest {}, auth_status),
        row(
            "etcdserverpb.Auth/Authenticate",
            pb::AuthenticateRequest { name: text("u1"), password: text("wrong") },
            PUBLIC,
        ),
        row("etcdserverpb.Auth/UserGet", pb::AuthUserGetRequest { name: text("u1") }, OPEN),
        row("etcdserverpb.Auth/UserGet", pb::AuthUserGetRequest { name: text("none") }, ADMIN),
        row("etcdserverpb.Auth/UserList", pb::AuthUserListRequest {}, ADMIN),
        row("etcdserverpb.Auth/RoleGet", pb::AuthRoleGetRequest { role: text("r1") }, OPEN),
        row("etcdserverpb.Auth/RoleGet", pb::AuthRoleGetRequest { role: text("none") }, ADMIN),
        row("etcdserverpb.Auth/RoleList", pb::AuthRoleListRequest {}, ADMIN),
        row(
            "etcdserverpb.Auth/UserAdd",
            pb::AuthUserAddRequest { name: text("u9"), ..Default::default() },
            ADMIN,
        ),
        row(
            "etcdserverpb.Auth/UserChangePassword",
            pb::AuthUserChangePasswordRequest {
                name: text("u9"),
                password: text("new"),
                ..Default::default()
            },
            ADMIN,
        ),
        row("etcdserverpb.Auth/RoleAdd", pb::AuthRoleAddRequest { name: text("r9") }, ADMIN),
        row(
            "etcdserverpb.Auth/RoleGrantPermission",
            pb::AuthRoleGrantPermissionRequest { name: text("r9"), perm: Some(permission) },
            ADMIN,
        ),
        row(
            "etcdserverpb.Auth/RoleRevokePermission",
            pb::AuthRoleRevokePermissionRequest {
                role: text("r9"),
                key: bytes("x"),
                range_end: Bytes::new(),
            },
            ADMIN,
        ),
        row(
            "etcdserverpb.Auth/UserGrantRole",
            pb::AuthUserGrantRoleRequest { user: text("u9"), role: text("r9") },
            ADMIN,
        ),
        row(
            "etcdserverpb.Auth/UserRevokeRole",
            pb::AuthUserRevokeRoleRequest { name: text("u9"), role: text("r9") },
            ADMIN,
        ),
        row("etcdserverpb.Auth/UserDelete", pb::AuthUserDeleteRequest { name: text("u9") }, ADMIN),
        row("etcdserverpb.Auth/RoleDelete", pb::AuthRoleDeleteRequest { role: text("r9") }, ADMIN),
        row("grpc.health.v1.Health/Check", health(), PUBLIC),
        row("grpc.health.v1.Health/List", HealthListRequest {}, PUBLIC),
        row("grpc.health.v1.Health/Watch", health(), PUBLIC),
        // The last: from here on everybody may do everything.
        row("etcdserverpb.Auth/AuthDisable", pb::AuthDisableRequest {}, ADMIN),
    ]
}

/// Calls a method and returns its first answer, or nothing if the answers end before.
async fn call(
    channel: &Channel,
    path: &str,
    message: Bytes,
    token: Option<&str>,
) -> Result<Option<Bytes>, Status> {
    // A stream of requests that ends may end the stream of answers before the first.
    let stays_open = path.starts_with("etcdserverpb.Watch/") || path.contains("KeepAlive");
    let once = tokio_stream::once(message);
    let mut request = if stays_open {
        Request::new(Box::pin(once.chain(tokio_stream::pending()))
            as std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Bytes> + Send>>)
    } else {
        Request::new(Box::pin(once) as _)
    };
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().unwrap());
    }
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = format!("/{path}").parse().unwrap();
    let answers = client.streaming(request, path, Raw).await?;
    answers.into_inner().message().await
}

/// The verdict on a call; watchers are refused within an answer.
async fn judge(channel: &Channel, row: &Row, token: Option<&str>) -> Verdict {
    let answer = match call(channel, row.path, row.request.clone(), token).await {
        Ok(Some(answer)) => answer,
        Ok(None) => return Silence,
        Err(status) => return verdict(&status),
    };
    if row.path != "etcdserverpb.Watch/Watch" {
        return Passed;
    }
    let answer = pb::WatchResponse::decode(answer).unwrap();
    if !answer.canceled {
        return Passed;
    }
    let known = REFUSALS.iter().find(|(code, text, _)| {
        answer.cancel_reason == format!("rpc error: code = {code:?} desc = {text}")
    });
    known.unwrap_or_else(|| panic!("{answer:?}")).2
}

async fn ask<T: Message + Default>(
    channel: &Channel,
    path: &str,
    request: impl Message,
    token: Option<&str>,
) -> T {
    let bytes = Bytes::from(request.encode_to_vec());
    let answer = call(channel, path, bytes, token).await;
    let answer = answer.unwrap_or_else(|status| panic!("{path}: {status:?}"));
    T::decode(answer.unwrap()).unwrap()
}

/// Adds root and the user, turns authentication on, and returns the tokens of both.
async fn guard(channel: &Channel) -> (String, String) {
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.to_owned(),
        password: format!("{name}-canary"),
        ..Default::default()
    };
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest {
        user: user.to_owned(),
        role: role.to_owned(),
    };
    let permission = |perm_type, key, range_end| {
        let perm =
            Permission { perm_type, key: Bytes::from(key), range_end: Bytes::from(range_end) };
        pb::AuthRoleGrantPermissionRequest { name: "r1".to_owned(), perm: Some(perm) }
    };
    let done = |path, request: Bytes| async move {
        call(channel, path, request, None).await.unwrap_or_else(|status| panic!("{status:?}"));
    };
    let role = pb::AuthRoleAddRequest { name: "r1".to_owned() };
    let lease = |id| pb::LeaseGrantRequest { id, ttl: 1000 };
    let put = pb::PutRequest { key: Bytes::from("z"), lease: LEASE, ..Default::default() };
    for (path, request) in [
        ("etcdserverpb.Auth/UserAdd", user("root").encode_to_vec()),
        ("etcdserverpb.Auth/UserAdd", user("u1").encode_to_vec()),
        ("etcdserverpb.Auth/RoleAdd", role.encode_to_vec()),
        ("etcdserverpb.Auth/RoleGrantPermission", permission(2, "a", "c").encode_to_vec()),
        ("etcdserverpb.Auth/RoleGrantPermission", permission(0, "r", "s").encode_to_vec()),
        ("etcdserverpb.Auth/UserGrantRole", grant("u1", "r1").encode_to_vec()),
        ("etcdserverpb.Auth/UserGrantRole", grant("root", "root").encode_to_vec()),
        ("etcdserverpb.Lease/LeaseGrant", lease(LEASE).encode_to_vec()),
        ("etcdserverpb.Lease/LeaseGrant", lease(USERS_LEASE).encode_to_vec()),
        ("etcdserverpb.KV/Put", put.encode_to_vec()),
        ("etcdserverpb.Auth/AuthEnable", Vec::new()),
    ] {
        done(path, Bytes::from(request)).await;
    }
    (log_in(channel, "root").await, log_in(channel, "u1").await)
}

async fn log_in(channel: &Channel, name: &str) -> String {
    let request =
        pb::AuthenticateRequest { name: name.to_owned(), password: format!("{name}-canary") };
    let answer: pb::AuthenticateResponse =
        ask(channel, "etcdserverpb.Auth/Authenticate", request, None).await;
    answer.token
}

fn start(program: &Path, folder: &Path, flags: &[&str]) -> Member {
    let options =
        Options::new(program, &folder.join("data")).with(&["--bcrypt-cost=4"]).with(flags);
    Member::start(&options).unwrap()
}

/// Tokens that no server gives, and what is wrong with each.
fn bad_tokens(jwt: Option<&Secret>) -> Vec<(&'static str, String)> {
    let text = |text: &str| text.to_owned();
    let mut bad = vec![
        ("an unknown token", text("abcdefghijklmnop.1")),
        ("a token that is none", text("?")),
        ("an empty token", String::new()),
    ];
    if let Some(secret) = jwt {
        bad.extend(secret.bad_tokens());
    }
    bad
}

/// The secret of tokens that are signed.
struct Secret(Vec<u8>);

impl Secret {
    fn sign(&self, expires: u64) -> String {
        let claims = serde_json::json!({ "username": "root", "revision": 1000, "exp": expires });
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        let key = jsonwebtoken::EncodingKey::from_secret(&self.0);
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    /// All of them say that they are root's.
    fn bad_tokens(&self) -> Vec<(&'static str, String)> {
        const FAR: u64 = 99_999_999_999;
        let good = self.sign(FAR);
        let (claims, _) = good.rsplit_once('.').unwrap();
        let (_, payload) = claims.split_once('.').unwrap();
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        vec![
            ("an expired token", self.sign(1)),
            ("a token signed with another secret", Self(b"another".to_vec()).sign(FAR)),
            ("a token without its signature", format!("{claims}.")),
            ("a token of the method none", unsigned),
        ]
    }
}

/// Holds the table against a server; returns what differs.
fn check(program: &Path, flags: &[&str], minor: u32, jwt: Option<&Secret>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("secret");
    let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    if let Some(Secret(secret)) = jwt {
        std::fs::write(&key, secret).unwrap();
        let key = key.display();
        flags.push(format!("--auth-token=jwt,sign-method=HS256,priv-key={key}"));
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let member = start(program, folder.path(), &flags);
    let bad = bad_tokens(jwt);
    let differences = common::runtime().block_on(async {
        let channel = Endpoint::from_shared(member.url()).unwrap().connect().await.unwrap();
        let (mut root, mut user) = guard(&channel).await;
        let mut differences = Vec::new();
        for row in table(minor) {
            if jwt.is_some() {
                // Signed tokens are of the rights of their time, which the row before may have changed.
                root = log_in(&channel, "root").await;
                user = log_in(&channel, "u1").await;
            }
            let mut callers = vec![("nobody", None, 0), ("user", Some(user.as_str()), 1)];
            callers.extend(bad.iter().map(|(name, token)| (*name, Some(token.as_str()), 3)));
            // Those who may not go first: root's call may change what the others find.
            callers.push(("root", Some(root.as_str()), 2));
            for (caller, token, place) in callers {
                let (found, expected) = (judge(&channel, &row, token).await, row.expected[place]);
                if found != expected {
                    differences.push(format!(
                        "{} by {caller} ({:?}): {found:?}, not {expected:?}",
                        row.path, row.request
                    ));
                }
            }
        }
        differences
    });
    member.stop().unwrap();
    differences
}

#[test]
fn cve_2026_33413_every_rpc_asks_who_calls() {
    let ours = programs::ours().unwrap().etcd;
    let secret = Secret(b"nobody else's".to_vec());
    for (minor, flag, jwt) in [
        (5, "--emulated-version=3.5", None),
        (6, "--emulated-version=3.6", None),
        (7, "--emulated-version=3.7", None),
        (7, "--emulated-version=3.7", Some(&secret)),
    ] {
        let differences = check(&ours, &[flag], minor, jwt);
        assert!(differences.is_empty(), "{flag}:\n{}", differences.join("\n"));
    }
}

#[test]
fn the_table_has_every_rpc() {
    let pool = prost_reflect::DescriptorPool::decode(rpc::API_DESCRIPTORS).unwrap();
    // The health service's descriptor is not among those of etcd.
    let health = ["Check", "List", "Watch"].map(|name| format!("grpc.health.v1.Health/{name}"));
    let methods: BTreeSet<String> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("{}/{}", method.parent_service().full_name(), method.name()))
        .chain(health)
        .collect();
    let rows: BTreeSet<String> = table(7).iter().map(|row| row.path.to_owned()).collect();
    assert_eq!(rows, methods);
}

#[test]
fn the_table_is_real_etcd_s() {
    if !embed::are_there_or_skip("the_table_is_real_etcd_s") {
        return;
    }
    for (version, minor) in [("3.6", 6), ("3.7", 7)] {
        let differences = check(&embed::find(version).unwrap(), &[], minor, None);
        assert!(differences.is_empty(), "{version}:\n{}", differences.join("\n"));
    }
}

/// What a login with each password comes to, of users that were added with each.
///
/// Passwords have no least length, in etcd neither: an empty one is a password. Only who changes his to the empty one, or is made
/// without one, has none. Returns what differs from that.
fn log_in_with_little(program: &Path, flags: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let member = start(program, folder.path(), flags);
    let user = |name: &str, password: &str, no_password| pb::AuthUserAddRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        options: Some(UserAddOptions { no_password }),
        ..Default::default()
    };
    let emptied =
        pb::AuthUserChangePasswordRequest { name: "emptied".to_owned(), ..Default::default() };
    let wrong =
        (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
    let pointless =
        (Code::Unknown, "auth: authentication failed, password was given for no password user");
    let differences = common::runtime().block_on(async {
        let channel = Endpoint::from_shared(member.url()).unwrap().connect().await.unwrap();
        for user in [
            user("one", "x", false),
            user("empty", "", false),
            user("emptied", "x", false),
            user("none", "", true),
            user("none at all", "x", true),
        ] {
            let _: pb::AuthUserAddResponse =
                ask(&channel, "etcdserverpb.Auth/UserAdd", user, None).await;
        }
        let _: pb::AuthUserChangePasswordResponse =
            ask(&channel, "etcdserverpb.Auth/UserChangePassword", emptied, None).await;
        guard(&channel).await;
        let mut differences = Vec::new();
        for (name, password, expected) in [
            ("one", "x", None),
            ("one", "", Some(wrong)),
            ("empty", "", None),
            ("empty", "x", Some(wrong)),
            ("emptied", "", Some(wrong)),
            ("emptied", "x", Some(wrong)),
            ("none", "", Some(pointless)),
            ("none", "x", Some(pointless)),
            ("none at all", "x", Some(pointless)),
            ("nobody", "", Some(wrong)),
            ("", "", Some(wrong)),
        ] {
            let login =
                pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let login = Bytes::from(login.encode_to_vec());
            let found = call(&channel, "etcdserverpb.Auth/Authenticate", login, None).await;
            let refusal = found.as_ref().err().map(|status| (status.code(), status.message()));
            if refusal != expected {
                differences.push(format!("{name:?} with {password:?}: {found:?}"));
            }
        }
        differences
    });
    // GHSA-vjg6-93fv-qv64 (TOB-009): who reads the log learns why nobody came in.
    let log = std::fs::read_to_string(member.options().log_path()).unwrap();
    for (user, reason) in
        [("none", "password was given for no password user"), ("one", "invalid user ID")]
    {
        let user = format!("\"user\":\"{user}\"");
        let is_told = |line: &str| {
            ["invalid authentication was requested", &user, reason]
                .iter()
                .all(|part| line.contains(part))
        };
        assert!(log.lines().any(is_told), "{user}: {reason}\n{log}");
    }
    member.stop().unwrap();
    differences
}

/// CVE-2020-15115 (GHSA-4993-m7g5-r9hh, TOB-008), and GHSA-vjg6-93fv-qv64 (TOB-009).
#[test]
fn cve_2020_15115_and_ghsa_vjg6_93fv_qv64_short_and_absent_passwords_are_etcd_s() {
    let ours = programs::ours().unwrap().etcd;
    assert_eq!(log_in_with_little(&ours, &[]), [""; 0]);
    if embed::are_there_or_skip(
        "cve_2020_15115_and_ghsa_vjg6_93fv_qv64_short_and_absent_passwords_are_etcd_s",
    ) {
        assert_eq!(log_in_with_little(&embed::find("3.7").unwrap(), &[]), [""; 0]);
    }
}

/// GHSA-528j-9r78-wffx (TOB-012) and CVE-2021-28235 (GHSA-gmph-wf7j-9gcm): neither passwords nor tokens are in the log of the
/// program or in its files. Rights, users and the state of authentication survive a restart; simple tokens do not.
#[test]
fn ghsa_528j_9r78_wffx_secrets_are_nowhere_to_be_found() {
    let ours = programs::ours().unwrap().etcd;
    let folder = tempfile::tempdir().unwrap();
    let runtime = common::runtime();
    let range = |key: &str| {
        let request = pb::RangeRequest { key: Bytes::from(key.to_owned()), ..Default::default() };
        Bytes::from(request.encode_to_vec())
    };
    let member = start(&ours, folder.path(), &["--log-level=debug"]);
    let (root, user) = runtime.block_on(async {
        let channel = Endpoint::from_shared(member.url()).unwrap().connect().await.unwrap();
        let tokens = guard(&channel).await;
        let wrong =
            pb::AuthenticateRequest { name: "u1".to_owned(), password: "wrong-canary".to_owned() };
        let refused = call(
            &channel,
            "etcdserverpb.Auth/Authenticate",
            Bytes::from(wrong.encode_to_vec()),
            None,
        )
        .await;
        assert!(!format!("{refused:?}").contains("canary"));
        let refused =
            call(&channel, "etcdserverpb.KV/Range", range("a"), Some("token-canary.1")).await;
        assert_eq!(verdict(&refused.unwrap_err()), BadToken);
        tokens
    });
    member.stop().unwrap();
    let member = start(&ours, folder.path(), &["--log-level=debug"]);
    runtime.block_on(async {
        let channel = Endpoint::from_shared(member.url()).unwrap().connect().await.unwrap();
        let refused = call(&channel, "etcdserverpb.KV/Range", range("a"), Some(&user)).await;
        assert_eq!(verdict(&refused.unwrap_err()), BadToken);
        let user = log_in(&channel, "u1").await;
        call(&channel, "etcdserverpb.KV/Range", range("a"), Some(&user)).await.unwrap();
        let refused = call(&channel, "etcdserverpb.KV/Range", range("z"), Some(&user)).await;
        assert_eq!(verdict(&refused.unwrap_err()), Denied);
    });
    member.stop().unwrap();
    let mut pending = vec![folder.path().to_owned()];
    let mut searched = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        searched += content.len();
        // The first part of a token is in the log of the cluster, as in etcd: a token is no use without a running member.
        for secret in ["canary", &root, &user] {
            let is_there = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} is in {}", path.display());
        }
    }
    assert!(searched > 10_000);
}
