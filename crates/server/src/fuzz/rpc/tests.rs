//! Replays the corpus of `rpc_requests`, and throws changed and random calls at it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Once;

use proptest::prelude::*;
use proptest::sample::Index;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::{v3electionpb as election, v3lockpb as lock};

use super::*;

/// Seeds wait for what is certain to come.
const SEED_PATIENCE: Duration = Duration::from_secs(10);

const KV: &str = "/etcdserverpb.KV/";
const LEASE: &str = "/etcdserverpb.Lease/";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const CLUSTER: &str = "/etcdserverpb.Cluster/";
const MAINTENANCE: &str = "/etcdserverpb.Maintenance/";
const AUTH: &str = "/etcdserverpb.Auth/";
const LOCK: &str = "/v3lockpb.Lock/";
const ELECTION: &str = "/v3electionpb.Election/";

/// Who calls.
const ROOT: u8 = 1;
const ANN: u8 = 2;
const STRANGER: u8 = 3;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/rpc_requests")
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

thread_local! {
    /// Panics of this thread. The runtime that the calls run on catches those of its tasks.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// As the target does it; and no task of the member may have panicked.
fn run(bytes: &[u8], patience: Duration) -> Vec<Called> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            hook(info);
        }));
    });
    let before = PANICS.get();
    let all = called(bytes, patience);
    assert_eq!(PANICS.get(), before, "a task has panicked: {all:?}");
    all
}

#[test]
fn the_corpus_breaks_no_promise_and_calls_everything() {
    let (mut by_grpc, mut by_json) = (BTreeSet::new(), BTreeSet::new());
    for (name, bytes) in corpus() {
        let all = std::panic::catch_unwind(|| run(&bytes, SEED_PATIENCE));
        let all = all.unwrap_or_else(|_| panic!("{name}"));
        assert!(!all.is_empty(), "{name}");
        for Called { path, is_json, answer } in all {
            // A corpus that is turned away would try nothing.
            if matches!(answer, Some(Answer::Grpc(Code::Ok) | Answer::Http(StatusCode::OK))) {
                if is_json { &mut by_json } else { &mut by_grpc }.insert(path);
            }
        }
    }
    // There is nobody to hand leadership to, to promote, or to remove: the ids of others are made by the clock.
    let refused = [
        "/etcdserverpb.Maintenance/MoveLeader",
        "/etcdserverpb.Cluster/MemberPromote",
        "/etcdserverpb.Cluster/MemberRemove",
    ];
    for method in methods().iter().filter(|method| !refused.contains(&method.path.as_str())) {
        assert!(by_grpc.contains(&method.path), "no seed succeeds with {}", method.path);
    }
    assert!(by_json.len() >= 10, "{by_json:?}");
}

/// `RETCD_FUZZ_CASES` sets how many, for a longer run where there is no nightly toolchain.
fn cases(usual: u32) -> ProptestConfig {
    let set = std::env::var("RETCD_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: set.unwrap_or(usual),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn random_calls_break_no_promise(
        state in 0..8_u8,
        calls in prop::collection::vec(
            (any::<u8>(), 0..32_u8, prop::collection::vec(any::<u8>(), 0..40)),
            20..40,
        ),
    ) {
        let mut bytes = vec![state];
        for (method, how, message) in calls {
            push(&mut bytes, method, how, &message);
        }
        run(&bytes, PATIENCE);
    }

    #[test]
    fn changed_seeds_break_no_promise(
        seed in any::<Index>(),
        state in 0..8_u8,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..9),
    ) {
        let mut seeds = corpus();
        let (_, mut bytes) = seeds.swap_remove(seed.index(seeds.len()));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes[0] = state;
        run(&bytes, PATIENCE);
    }
}

/// Writes a call as the target reads it behind the first byte.
fn push(bytes: &mut Vec<u8>, method: u8, how: u8, message: &[u8]) {
    bytes.extend([method, how]);
    bytes.extend(u16::try_from(message.len()).unwrap().to_le_bytes());
    bytes.extend(message);
}

/// A seed.
struct Seed(Vec<u8>);

impl Seed {
    fn new(state: u8) -> Self {
        Self(vec![state])
    }

    fn bytes(mut self, path: &str, how: u8, message: &[u8]) -> Self {
        let method = methods().iter().position(|method| method.path == path);
        let method = method.unwrap_or_else(|| panic!("{path}"));
        push(&mut self.0, u8::try_from(method).unwrap(), how, message);
        self
    }

    fn call(self, (service, method): (&str, &str), how: u8, message: &impl Message) -> Self {
        self.bytes(&format!("{service}{method}"), how, &message.encode_to_vec())
    }

    fn json(self, (service, method): (&str, &str), who: u8, json: &str) -> Self {
        self.bytes(&format!("{service}{method}"), how::JSON | who, json.as_bytes())
    }
}

fn put(key: &'static str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: "value".into(), lease, ..Default::default() }
}

fn range(key: &'static str, range_end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

fn txn(key: &'static str) -> pb::TxnRequest {
    let op = |op| pb::RequestOp { request: Some(op) };
    let nested = pb::TxnRequest {
        success: vec![op(Op::RequestRange(range("a", "b")))],
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: key.into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Default::default()
        }],
        success: vec![op(Op::RequestPut(put(key, 0))), op(Op::RequestTxn(nested))],
        failure: vec![op(Op::RequestDeleteRange(delete("a", "b")))],
    }
}

fn delete(key: &'static str, range_end: &'static str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: true }
}

fn watch(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn create(key: &'static str, range_end: &'static str, start_revision: i64) -> pb::WatchRequest {
    watch(RequestUnion::CreateRequest(pb::WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        filters: vec![FilterType::Nodelete.into()],
        prev_kv: true,
        fragment: true,
        ..Default::default()
    }))
}

fn alarm(action: AlarmAction) -> pb::AlarmRequest {
    pb::AlarmRequest { action: action.into(), member_id: 1, alarm: pb::AlarmType::Nospace.into() }
}

fn downgrade(action: DowngradeAction, version: &str) -> pb::DowngradeRequest {
    pb::DowngradeRequest { action: action.into(), version: version.to_owned() }
}

fn user(name: &str) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest { name: name.into(), password: "one".into(), ..Default::default() }
}

fn permission() -> Permission {
    Permission { perm_type: Type::Write.into(), key: "b".into(), range_end: "d".into() }
}

fn keys() -> Seed {
    Seed::new(1)
        .call((KV, "Put"), 0, &put("a", 0))
        .call((KV, "Put"), 0, &put("b", 0))
        .call((KV, "Txn"), 0, &txn("a"))
        .call((KV, "Range"), 0, &range("a", "c"))
        .call((KV, "DeleteRange"), 0, &delete("a", "c"))
        .call((KV, "Compact"), 0, &pb::CompactionRequest { revision: 3, physical: true })
        .call((KV, "Range"), 0, &pb::RangeRequest { revision: 2, ..range("a", "c") })
        .call((KV, "Put"), how::RAW, &put("a", 0))
}

fn streams() -> Seed {
    let cancel = pb::WatchCancelRequest { watch_id: 0 };
    Seed::new(2)
        .call((KV, "Put"), 0, &put("a", 0))
        .call((KV, "RangeStream"), 0, &range("a", "\0"))
        .call((WATCH, ""), how::MORE, &create("a", "b", 1))
        .call((WATCH, ""), how::MORE, &watch(RequestUnion::CancelRequest(cancel)))
        .call((WATCH, ""), 0, &watch(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})))
        .call((WATCH, ""), 0, &create("b", "a", 0))
        .call((MAINTENANCE, "Snapshot"), 0, &pb::SnapshotRequest {})
        .call(("", HEALTH[0]), 0, &())
        .call(("", HEALTH[1]), 0, &())
}

fn leases() -> Seed {
    Seed::new(0)
        .call((LEASE, "LeaseGrant"), 0, &pb::LeaseGrantRequest { ttl: 60, id: 7 })
        .call((KV, "Put"), 0, &put("a", 7))
        .call((LEASE, "LeaseKeepAlive"), how::MORE, &pb::LeaseKeepAliveRequest { id: 7 })
        .call((LEASE, "LeaseKeepAlive"), 0, &pb::LeaseKeepAliveRequest { id: 8 })
        .call((LEASE, "LeaseTimeToLive"), 0, &pb::LeaseTimeToLiveRequest { id: 7, keys: true })
        .call((LEASE, "LeaseLeases"), 0, &pb::LeaseLeasesRequest {})
        .call((LEASE, "LeaseRevoke"), 0, &pb::LeaseRevokeRequest { id: 7 })
}

/// Learners leave the voters as they are. The last one is of a cluster that cannot decide any more.
fn members() -> Seed {
    let add = |port: u16, is_learner| pb::MemberAddRequest {
        peer_urls: vec![format!("http://127.0.0.1:{port}")],
        is_learner,
    };
    let list = pb::MemberListRequest { linearizable: true };
    Seed::new(2)
        .call((CLUSTER, "MemberAdd"), 0, &add(1, true))
        .call((CLUSTER, "MemberList"), 0, &list)
        .call((CLUSTER, "MemberPromote"), 0, &pb::MemberPromoteRequest { id: 7 })
        .call((CLUSTER, "MemberRemove"), 0, &pb::MemberRemoveRequest { id: 7 })
        .call((CLUSTER, "MemberAdd"), 0, &add(1, false))
        .call((CLUSTER, "MemberAdd"), 0, &add(2, false))
}

/// The id of a member stands for its URLs and the cluster's name: the same in each run.
fn own_member() -> Seed {
    let (id, peer_urls) = (0x8e9e_05c5_2164_694d, vec!["http://localhost:9".to_owned()]);
    Seed::new(0)
        .call((CLUSTER, "MemberUpdate"), 0, &pb::MemberUpdateRequest { id, peer_urls })
        .call((MAINTENANCE, "MoveLeader"), 0, &pb::MoveLeaderRequest { target_id: id })
        .call((CLUSTER, "MemberRemove"), 0, &pb::MemberRemoveRequest { id })
}

fn maintenance() -> Seed {
    Seed::new(1)
        .call((MAINTENANCE, "Status"), 0, &pb::StatusRequest {})
        .call((MAINTENANCE, "Hash"), 0, &pb::HashRequest {})
        .call((MAINTENANCE, "HashKV"), 0, &pb::HashKvRequest { revision: 1 })
        .call((MAINTENANCE, "Alarm"), 0, &alarm(AlarmAction::Activate))
        .call((KV, "Put"), 0, &put("a", 0))
        .call((MAINTENANCE, "Alarm"), 0, &alarm(AlarmAction::Get))
        .call((MAINTENANCE, "Alarm"), 0, &alarm(AlarmAction::Deactivate))
        .call((MAINTENANCE, "Defragment"), 0, &pb::DefragmentRequest {})
        .call((MAINTENANCE, "MoveLeader"), 0, &pb::MoveLeaderRequest { target_id: 7 })
        .call((MAINTENANCE, "Downgrade"), 0, &downgrade(DowngradeAction::Validate, "3.5.0"))
        .call((MAINTENANCE, "Downgrade"), 0, &downgrade(DowngradeAction::Enable, "3.5.0"))
        .call((MAINTENANCE, "Downgrade"), 0, &downgrade(DowngradeAction::Cancel, ""))
}

fn users() -> Seed {
    let (name, password) = ("bob".to_owned(), "two".to_owned());
    let role = "few".to_owned();
    Seed::new(state::AUTH)
        .call((AUTH, "AuthStatus"), ROOT, &pb::AuthStatusRequest {})
        .call((AUTH, "UserAdd"), ROOT, &user("bob"))
        .call((AUTH, "UserAdd"), ANN, &user("eve"))
        .call(
            (AUTH, "UserChangePassword"),
            ROOT,
            &pb::AuthUserChangePasswordRequest {
                name: name.clone(),
                password: password.clone(),
                ..Default::default()
            },
        )
        .call((AUTH, "Authenticate"), 0, &pb::AuthenticateRequest { name: name.clone(), password })
        .call((AUTH, "RoleAdd"), ROOT, &pb::AuthRoleAddRequest { name: role.clone() })
        .call(
            (AUTH, "RoleGrantPermission"),
            ROOT,
            &pb::AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(permission()) },
        )
        .call(
            (AUTH, "UserGrantRole"),
            ROOT,
            &pb::AuthUserGrantRoleRequest { user: name.clone(), role: role.clone() },
        )
        .call((AUTH, "UserGet"), ROOT, &pb::AuthUserGetRequest { name: name.clone() })
        .call((AUTH, "UserList"), ROOT, &pb::AuthUserListRequest {})
        .call((AUTH, "RoleGet"), ROOT, &pb::AuthRoleGetRequest { role: role.clone() })
        .call((AUTH, "RoleList"), ROOT, &pb::AuthRoleListRequest {})
        .call(
            (AUTH, "RoleRevokePermission"),
            ROOT,
            &pb::AuthRoleRevokePermissionRequest {
                role: role.clone(),
                key: "b".into(),
                range_end: "d".into(),
            },
        )
        .call(
            (AUTH, "UserRevokeRole"),
            ROOT,
            &pb::AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() },
        )
        .call((AUTH, "RoleDelete"), ROOT, &pb::AuthRoleDeleteRequest { role })
        .call((AUTH, "UserDelete"), ROOT, &pb::AuthUserDeleteRequest { name })
        .call((AUTH, "AuthDisable"), ROOT, &pb::AuthDisableRequest {})
        .call((AUTH, "AuthEnable"), 0, &pb::AuthEnableRequest {})
}

/// Everybody asks for what some may have.
fn rights() -> Seed {
    let mut seed = Seed::new(state::AUTH | 2);
    for who in [0, ROOT, ANN, STRANGER] {
        seed = seed
            .call((KV, "Put"), who, &put("a", 0))
            .call((KV, "Range"), who, &range("b", "d"))
            .call((KV, "RangeStream"), who, &range("b", "d"))
            .call((KV, "Txn"), who, &txn("c"))
            .call((WATCH, ""), who, &create("a", "d", 0))
            .call((LEASE, "LeaseGrant"), who, &pb::LeaseGrantRequest { ttl: 60, id: 0 });
    }
    seed.call((LOCK, "Lock"), ANN, &lock::LockRequest { name: "a".into(), lease: 0 }).call(
        (MAINTENANCE, "Defragment"),
        ANN,
        &pb::DefragmentRequest {},
    )
}

fn locks() -> Seed {
    let key = |prefix: &str| Bytes::from(format!("{prefix}/7"));
    let leader = |name: &str, rev| election::LeaderKey {
        name: Bytes::copy_from_slice(name.as_bytes()),
        key: key(name),
        rev,
        lease: 7,
    };
    let name = || Bytes::from_static(b"room");
    Seed::new(0)
        .call((LEASE, "LeaseGrant"), 0, &pb::LeaseGrantRequest { ttl: 60, id: 7 })
        .call((LOCK, "Lock"), 0, &lock::LockRequest { name: "door".into(), lease: 7 })
        .call((LOCK, "Unlock"), 0, &lock::UnlockRequest { key: key("door") })
        .call(
            (ELECTION, "Campaign"),
            0,
            &election::CampaignRequest { name: name(), lease: 7, value: "me".into() },
        )
        .call((ELECTION, "Leader"), 0, &election::LeaderRequest { name: name() })
        .call((ELECTION, "Observe"), 0, &election::LeaderRequest { name: name() })
        .call(
            (ELECTION, "Proclaim"),
            0,
            &election::ProclaimRequest { leader: Some(leader("room", 4)), value: "still".into() },
        )
        .call((ELECTION, "Resign"), 0, &election::ResignRequest { leader: Some(leader("room", 4)) })
}

fn json() -> Seed {
    Seed::new(2)
        .json((KV, "Put"), 0, r#"{"key":"YQ==","value":"Yg=="}"#)
        .json((KV, "Range"), 0, r#"{"key":"YQ==","limit":"1"}"#)
        .json(
            (KV, "Txn"),
            0,
            r#"{"compare":[{"key":"YQ==","target":"VERSION","version":"1"}],"success":[{"request_put":{"key":"Yg=="}}]}"#,
        )
        .json((KV, "DeleteRange"), 0, r#"{"key":"YQ==","prev_kv":true}"#)
        .json((KV, "Compact"), 0, r#"{"revision":"2"}"#)
        .json((WATCH, ""), 0, r#"{"create_request":{"key":"YQ=="}}"#)
        .json((LEASE, "LeaseGrant"), 0, r#"{"TTL":"60","ID":"7"}"#)
        .json((LEASE, "LeaseKeepAlive"), 0, r#"{"ID":"7"}"#)
        .json((LEASE, "LeaseLeases"), 0, "{}")
        .json((CLUSTER, "MemberList"), 0, "{}")
        .json((MAINTENANCE, "Status"), 0, "{}")
        .json((MAINTENANCE, "Snapshot"), 0, "{}")
        .json((LOCK, "Lock"), 0, r#"{"name":"ZG9vcg==","lease":"7"}"#)
        .json((KV, "Put"), 0, r#"{"key":"YQ==","#)
}

fn json_with_rights() -> Seed {
    Seed::new(state::AUTH)
        .json((AUTH, "Authenticate"), 0, r#"{"name":"ann","password":"ann"}"#)
        .json((AUTH, "UserList"), ROOT, "{}")
        .json((AUTH, "UserList"), ANN, "{}")
        .json((KV, "Put"), ANN, r#"{"key":"YQ=="}"#)
        .json((KV, "Put"), STRANGER, r#"{"key":"YQ=="}"#)
        .json((WATCH, ""), ANN, r#"{"create_request":{"key":"ZQ=="}}"#)
}

/// Writes the corpus anew, after a change of what inputs look like.
#[test]
#[ignore = "writes files into the repository"]
fn seeds_are_written() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, seed) in [
        ("keys", keys()),
        ("streams", streams()),
        ("leases", leases()),
        ("members", members()),
        ("own_member", own_member()),
        ("maintenance", maintenance()),
        ("users", users()),
        ("rights", rights()),
        ("locks", locks()),
        ("json", json()),
        ("json_with_rights", json_with_rights()),
    ] {
        std::fs::write(folder().join(name), seed.0).unwrap();
    }
}
