//! Who may call what: every RPC, by somebody without a token, a user, root, and somebody with a bad token.
//!
//! The same table is held against our server in each of its versions and against real etcd 3.6 and 3.7, so that the table is
//! proved as well. CVE-2026-33413 (GHSA-q8m4-xhhv-38mg), MemberList, Alarm, leases and compaction without a token;
//! CVE-2023-32082 (GHSA-3p4g-rcw5-8298), keys of a lease without the right to read them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use proto::authpb::Permission;
use proto::etcdserverpb as pb;
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
    /// The same three from calls in which 3.5 forgets to translate.
    Untranslated(&'static str),
}

use Verdict::{BadToken, Denied, Nobody, Passed, Untranslated};

/// Texts of refusals, with their codes.
const REFUSALS: [(Code, &str, Verdict); 6] = [
    (Code::InvalidArgument, "etcdserver: user name is empty", Nobody),
    (Code::PermissionDenied, "etcdserver: permission denied", Denied),
    (Code::Unauthenticated, "etcdserver: invalid auth token", BadToken),
    (Code::Unknown, "auth: user name is empty", Untranslated("nobody")),
    (Code::Unknown, "auth: permission denied", Untranslated("denied")),
    (Code::Unknown, "auth: invalid auth token", Untranslated("bad token")),
];

fn verdict(status: &Status) -> Verdict {
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

const CALLERS: [&str; 4] = ["nobody", "user", "root", "bad token"];
/// For who has the right to the keys.
const OPEN: [Verdict; 4] = [Nobody, Passed, Passed, BadToken];
/// For root, and the user not.
const ADMIN: [Verdict; 4] = [Nobody, Denied, Passed, BadToken];
const ADMIN_3_5: [Verdict; 4] =
    [Untranslated("nobody"), Untranslated("denied"), Passed, Untranslated("bad token")];
const PUBLIC: [Verdict; 4] = [Passed; 4];

/// The lease that root hung a key on, out of the user's reach.
const LEASE: i64 = 9;

/// The user may read and write `[a, c)`.
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
    let permission = Permission { perm_type: 0, key: bytes("x"), range_end: Bytes::new() };
    let maintenance = if minor < 6 { ADMIN_3_5 } else { ADMIN };
    let status = if minor < 6 { ADMIN } else { OPEN };
    let auth_status = if minor < 7 { ADMIN } else { [Passed, Passed, Passed, BadToken] };
    let compare = pb::TxnRequest {
        compare: vec![pb::Compare { key: bytes("z"), ..Default::default() }],
        ..Default::default()
    };
    use pb::request_op::Request as TxnOp;
    vec![
        row("KV/Range", range("a", "c", false), OPEN),
        row("KV/Range", range("b", "d", false), ADMIN),
        row("KV/Range", range("b", "\0", true), ADMIN),
        row("KV/Put", put("a", 0, true), OPEN),
        row("KV/Put", put("c", 0, false), ADMIN),
        // CVE-2026-44283: the lease's keys are not the user's.
        row("KV/Put", put("a", LEASE, false), ADMIN),
        row("KV/DeleteRange", delete("a", "c"), OPEN),
        row("KV/DeleteRange", delete("a", "\0"), ADMIN),
        // Root's deletion took the key off the lease.
        row("KV/Put", put("z", LEASE, false), ADMIN),
        row("KV/Txn", txn(TxnOp::RequestRange(range("a", "", false))), OPEN),
        row("KV/Txn", txn(TxnOp::RequestRange(range("z", "", true))), ADMIN),
        row("KV/Txn", compare, ADMIN),
        // CVE-2026-33343: in a branch of a branch.
        row("KV/Txn", nested(TxnOp::RequestPut(put("a", 0, true))), OPEN),
        row("KV/Txn", nested(TxnOp::RequestPut(put("z", 0, false))), ADMIN),
        row("KV/Txn", nested(TxnOp::RequestPut(put("a", LEASE, false))), ADMIN),
        row("KV/Txn", nested(TxnOp::RequestDeleteRange(delete("z", ""))), ADMIN),
        row("KV/Put", put("z", LEASE, false), ADMIN),
        row("KV/Compact", pb::CompactionRequest { revision: 1, physical: false }, ADMIN),
        row("Watch/Watch", watch("a", "c"), OPEN),
        row("Watch/Watch", watch("z", ""), ADMIN),
        // CVE-2026-73499: all keys from `a` on, not the key `a`.
        row("Watch/Watch", watch("a", "\0"), ADMIN),
        row("Watch/Watch", watch("", "\0"), ADMIN),
        row("Lease/LeaseGrant", pb::LeaseGrantRequest { id: 0, ttl: 100 }, OPEN),
        row("Lease/LeaseKeepAlive", pb::LeaseKeepAliveRequest { id: LEASE }, ADMIN),
        row("Lease/LeaseTimeToLive", pb::LeaseTimeToLiveRequest { id: LEASE, keys: false }, OPEN),
        row("Lease/LeaseTimeToLive", pb::LeaseTimeToLiveRequest { id: LEASE, keys: true }, ADMIN),
        row("Lease/LeaseLeases", pb::LeaseLeasesRequest {}, ADMIN),
        row("Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: 77 }, OPEN),
        row("Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: LEASE }, ADMIN),
        row("Cluster/MemberList", pb::MemberListRequest { linearizable: true }, OPEN),
        row(
            "Cluster/MemberAdd",
            pb::MemberAddRequest { peer_urls: vec![text("http://127.0.0.1:1")], is_learner: true },
            ADMIN,
        ),
        row(
            "Cluster/MemberUpdate",
            pb::MemberUpdateRequest { id: 77, peer_urls: vec![text("http://127.0.0.1:2")] },
            ADMIN,
        ),
        row("Cluster/MemberRemove", pb::MemberRemoveRequest { id: 77 }, ADMIN),
        row("Cluster/MemberPromote", pb::MemberPromoteRequest { id: 77 }, ADMIN),
        row("Maintenance/Alarm", pb::AlarmRequest::default(), OPEN),
        row("Maintenance/Alarm", pb::AlarmRequest { action: 2, member_id: 77, alarm: 1 }, ADMIN),
        row("Maintenance/Status", pb::StatusRequest {}, status),
        row("Maintenance/Defragment", pb::DefragmentRequest {}, maintenance),
        row("Maintenance/Hash", pb::HashRequest {}, maintenance),
        row("Maintenance/HashKV", pb::HashKvRequest::default(), maintenance),
        row("Maintenance/Snapshot", pb::SnapshotRequest {}, maintenance),
        row("Maintenance/MoveLeader", pb::MoveLeaderRequest { target_id: 77 }, ADMIN),
        row(
            "Maintenance/Downgrade",
            pb::DowngradeRequest { action: 0, version: text("1.2") },
            ADMIN,
        ),
        row("Auth/AuthEnable", pb::AuthEnableRequest {}, ADMIN),
        row("Auth/AuthStatus", pb::AuthStatusRequest {}, auth_status),
        row(
            "Auth/Authenticate",
            pb::AuthenticateRequest { name: text("u1"), password: text("wrong") },
            PUBLIC,
        ),
        row("Auth/UserGet", pb::AuthUserGetRequest { name: text("u1") }, OPEN),
        row("Auth/UserGet", pb::AuthUserGetRequest { name: text("none") }, ADMIN),
        row("Auth/UserList", pb::AuthUserListRequest {}, ADMIN),
        row("Auth/RoleGet", pb::AuthRoleGetRequest { role: text("r1") }, OPEN),
        row("Auth/RoleGet", pb::AuthRoleGetRequest { role: text("none") }, ADMIN),
        row("Auth/RoleList", pb::AuthRoleListRequest {}, ADMIN),
        row(
            "Auth/UserAdd",
            pb::AuthUserAddRequest { name: text("u9"), ..Default::default() },
            ADMIN,
        ),
        row(
            "Auth/UserChangePassword",
            pb::AuthUserChangePasswordRequest {
                name: text("u9"),
                password: text("new"),
                ..Default::default()
            },
            ADMIN,
        ),
        row("Auth/RoleAdd", pb::AuthRoleAddRequest { name: text("r9") }, ADMIN),
        row(
            "Auth/RoleGrantPermission",
            pb::AuthRoleGrantPermissionRequest { name: text("r9"), perm: Some(permission) },
            ADMIN,
        ),
        row(
            "Auth/RoleRevokePermission",
            pb::AuthRoleRevokePermissionRequest {
                role: text("r9"),
                key: bytes("x"),
                range_end: Bytes::new(),
            },
            ADMIN,
        ),
        row(
            "Auth/UserGrantRole",
            pb::AuthUserGrantRoleRequest { user: text("u9"), role: text("r9") },
            ADMIN,
        ),
        row(
            "Auth/UserRevokeRole",
            pb::AuthUserRevokeRoleRequest { name: text("u9"), role: text("r9") },
            ADMIN,
        ),
        row("Auth/UserDelete", pb::AuthUserDeleteRequest { name: text("u9") }, ADMIN),
        row("Auth/RoleDelete", pb::AuthRoleDeleteRequest { role: text("r9") }, ADMIN),
        // The last: from here on everybody may do everything.
        row("Auth/AuthDisable", pb::AuthDisableRequest {}, ADMIN),
    ]
}

/// Calls a method and returns its first answer.
async fn call(
    channel: &Channel,
    path: &str,
    message: Bytes,
    token: Option<&str>,
) -> Result<Bytes, Status> {
    // A stream of requests that ends may end the stream of answers before the first.
    let stays_open = path.starts_with("Watch/") || path.contains("KeepAlive");
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
    let path = format!("/etcdserverpb.{path}").parse().unwrap();
    let answers = client.streaming(request, path, Raw).await?;
    Ok(answers.into_inner().message().await?.unwrap_or_default())
}

/// The verdict on a call; watchers are refused within an answer.
async fn judge(channel: &Channel, row: &Row, token: Option<&str>) -> Verdict {
    let answer = match call(channel, row.path, row.request.clone(), token).await {
        Ok(answer) => answer,
        Err(status) => return verdict(&status),
    };
    if !row.path.starts_with("Watch/") {
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
    T::decode(answer.unwrap_or_else(|status| panic!("{path}: {status:?}"))).unwrap()
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
    let permission =
        Permission { perm_type: 2, key: Bytes::from("a"), range_end: Bytes::from("c") };
    let done = |path, request: Bytes| async move {
        call(channel, path, request, None).await.unwrap_or_else(|status| panic!("{status:?}"));
    };
    let role = pb::AuthRoleAddRequest { name: "r1".to_owned() };
    let perm =
        pb::AuthRoleGrantPermissionRequest { name: role.name.clone(), perm: Some(permission) };
    let lease = pb::LeaseGrantRequest { id: LEASE, ttl: 1000 };
    let put = pb::PutRequest { key: Bytes::from("z"), lease: LEASE, ..Default::default() };
    for (path, request) in [
        ("Auth/UserAdd", user("root").encode_to_vec()),
        ("Auth/UserAdd", user("u1").encode_to_vec()),
        ("Auth/RoleAdd", role.encode_to_vec()),
        ("Auth/RoleGrantPermission", perm.encode_to_vec()),
        ("Auth/UserGrantRole", grant("u1", "r1").encode_to_vec()),
        ("Auth/UserGrantRole", grant("root", "root").encode_to_vec()),
        ("Lease/LeaseGrant", lease.encode_to_vec()),
        ("KV/Put", put.encode_to_vec()),
        ("Auth/AuthEnable", Vec::new()),
    ] {
        done(path, Bytes::from(request)).await;
    }
    (log_in(channel, "root").await, log_in(channel, "u1").await)
}

async fn log_in(channel: &Channel, name: &str) -> String {
    let request =
        pb::AuthenticateRequest { name: name.to_owned(), password: format!("{name}-canary") };
    let answer: pb::AuthenticateResponse = ask(channel, "Auth/Authenticate", request, None).await;
    answer.token
}

fn start(program: &Path, folder: &Path, flags: &[&str]) -> Member {
    let options =
        Options::new(program, &folder.join("data")).with(&["--bcrypt-cost=4"]).with(flags);
    Member::start(&options).unwrap()
}

/// Holds the table against a server; returns what differs.
fn check(program: &Path, flags: &[&str], minor: u32) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let member = start(program, folder.path(), flags);
    let differences = common::runtime().block_on(async {
        let channel = Endpoint::from_shared(member.url()).unwrap().connect().await.unwrap();
        let (root, user) = guard(&channel).await;
        let tokens = [None, Some(user.as_str()), Some(root.as_str()), Some("abcdefghijklmnop.1")];
        let mut differences = Vec::new();
        for row in table(minor) {
            // Those who may not go first: root's call may change what the others find.
            for place in [0, 1, 3, 2] {
                let found = judge(&channel, &row, tokens[place]).await;
                if found != row.expected[place] {
                    let (caller, expected) = (CALLERS[place], row.expected[place]);
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
    for (minor, flag) in [
        (5, "--emulated-version=3.5"),
        (6, "--emulated-version=3.6"),
        (7, "--emulated-version=3.7"),
    ] {
        let differences = check(&ours, &[flag], minor);
        assert!(differences.is_empty(), "{flag}:\n{}", differences.join("\n"));
    }
}

#[test]
fn the_table_is_real_etcd_s() {
    if !embed::are_there_or_skip("the_table_is_real_etcd_s") {
        return;
    }
    for (version, minor) in [("3.6", 6), ("3.7", 7)] {
        let differences = check(&embed::find(version).unwrap(), &[], minor);
        assert!(differences.is_empty(), "{version}:\n{}", differences.join("\n"));
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
        let refused =
            call(&channel, "Auth/Authenticate", Bytes::from(wrong.encode_to_vec()), None).await;
        assert!(!format!("{refused:?}").contains("canary"));
        let refused = call(&channel, "KV/Range", range("a"), Some("token-canary.1")).await;
        assert_eq!(verdict(&refused.unwrap_err()), BadToken);
        tokens
    });
    member.stop().unwrap();
    let member = start(&ours, folder.path(), &["--log-level=debug"]);
    runtime.block_on(async {
        let channel = Endpoint::from_shared(member.url()).unwrap().connect().await.unwrap();
        let refused = call(&channel, "KV/Range", range("a"), Some(&user)).await;
        assert_eq!(verdict(&refused.unwrap_err()), BadToken);
        let user = log_in(&channel, "u1").await;
        call(&channel, "KV/Range", range("a"), Some(&user)).await.unwrap();
        let refused = call(&channel, "KV/Range", range("z"), Some(&user)).await;
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
