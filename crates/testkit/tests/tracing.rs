//! `--enable-distributed-tracing`: spans arrive at a collector, they are those that real etcd sends, and a collector that is away
//! or hangs disturbs nobody.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tracing/collector.rs"]
mod collector;
#[allow(dead_code, reason = "counts are for other tests")]
mod common;

use std::path::Path;
use std::time::Duration;

use collector::{Answer, Collector, KEY_HEADER};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use rpc::etcdserverpb::auth_client::AuthClient;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::lease_client::LeaseClient;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use rpc::etcdserverpb::watch_client::WatchClient;
use rpc::v3lockpb::lock_client::LockClient;
use testkit::member::{Member, Options};
use testkit::{embed, programs};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// The span of the caller, of which the calls are parts.
const CALLER: &str = "b7ad6b7169203331";

/// What is in no span.
const SECRET_VALUE: &str = "canary-value";
const SECRET_PASSWORD: &str = "canary-password";

/// Variables that an exporter heeds, and some that etcd's flags leave no room.
const VARIABLES: [(&str, &str); 7] = [
    ("EXPORTER_OTLP_HEADERS", "KEY=of-no-effect"),
    ("EXPORTER_OTLP_TRACES_HEADERS", "KEY = a%3Db , malformed"),
    ("RESOURCE_ATTRIBUTES", "zone=eu%2F1, service.name=other,malformed"),
    ("SERVICE_NAME", "another"),
    ("EXPORTER_OTLP_TIMEOUT", "9000"),
    ("EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ("TRACES_SAMPLER", "always_off"),
];

/// Makes calls in a trace for each, whose id counts up.
struct Caller {
    channel: Channel,
    trace: u128,
}

impl Caller {
    async fn connect(url: &str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        Self { channel, trace: 0 }
    }

    fn request<T>(&mut self, message: T) -> Request<T> {
        self.trace += 1;
        // Ids are as large as random ones, so that no sampler takes them for those below its bound.
        let trace = self.trace | 0xffff_ffff << 96 | 0xffff_ffff_ffff << 16;
        with_parent(message, &format!("00-{trace:032x}-{CALLER}-01"))
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }
}

fn with_parent<T>(message: T, parent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: SECRET_VALUE.into(), ..Default::default() }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// A bit of everything, what goes well and what does not. Calls that fail are part of it.
async fn load(url: &str) {
    let mut caller = Caller::connect(url).await;
    let mut kv = caller.kv();
    kv.put(caller.request(put("k1"))).await.unwrap();
    let mut with_state = caller.request(put("k2"));
    with_state.metadata_mut().insert("tracestate", "vendor=of-the-caller".parse().unwrap());
    kv.put(with_state).await.unwrap();
    kv.put(caller.request(put(""))).await.unwrap_err();
    kv.put(caller.request(pb::PutRequest { lease: 9, ..put("k3") })).await.unwrap_err();
    let to = pb::RangeRequest { range_end: "k9".into(), limit: 7, keys_only: true, ..range("k1") };
    kv.range(caller.request(to)).await.unwrap();
    kv.range(caller.request(pb::RangeRequest { revision: 1000, ..range("k1") })).await.unwrap_err();
    let range_end = "k4".into();
    let delete = pb::DeleteRangeRequest { key: "k3".into(), range_end, ..Default::default() };
    kv.delete_range(caller.request(delete)).await.unwrap();
    let op = |op: Op| pb::RequestOp { request: Some(op) };
    let compare = pb::Compare { key: "k1".into(), ..Default::default() };
    let write = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Op::RequestPut(put("t1"))), op(Op::RequestPut(put("t2")))],
        failure: vec![op(Op::RequestRange(range("k1")))],
    };
    kv.txn(caller.request(write)).await.unwrap();
    let read =
        pb::TxnRequest { success: vec![op(Op::RequestRange(range("k1")))], ..Default::default() };
    kv.txn(caller.request(read)).await.unwrap();
    kv.txn(caller.request(pb::TxnRequest::default())).await.unwrap();
    let compact = pb::CompactionRequest { revision: 3, physical: true };
    kv.compact(caller.request(compact)).await.unwrap();
    kv.compact(caller.request(compact)).await.unwrap_err();
    let mut lease = LeaseClient::new(caller.channel.clone());
    lease.lease_grant(caller.request(pb::LeaseGrantRequest { id: 77, ttl: 600 })).await.unwrap();
    let alive = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 77 }]);
    let mut alive = lease.lease_keep_alive(caller.request(alive)).await.unwrap().into_inner();
    while alive.message().await.unwrap().is_some() {}
    lease.lease_revoke(caller.request(pb::LeaseRevokeRequest { id: 77 })).await.unwrap();
    lease.lease_revoke(caller.request(pb::LeaseRevokeRequest { id: 77 })).await.unwrap_err();
    watch(&mut caller).await;
    let mut maintenance = MaintenanceClient::new(caller.channel.clone());
    maintenance.status(caller.request(pb::StatusRequest {})).await.unwrap();
    maintenance.hash_kv(caller.request(pb::HashKvRequest { revision: 1000 })).await.unwrap_err();
    let mut auth = AuthClient::new(caller.channel.clone());
    auth.role_add(caller.request(pb::AuthRoleAddRequest { name: "r".to_owned() })).await.unwrap();
    auth.role_get(caller.request(pb::AuthRoleGetRequest { role: "x".to_owned() }))
        .await
        .unwrap_err();
    let options = Some(proto::authpb::UserAddOptions { no_password: false });
    let (name, password) = ("canary-user".to_owned(), SECRET_PASSWORD.to_owned());
    let user = pb::AuthUserAddRequest { name, password, options, ..Default::default() };
    auth.user_add(caller.request(user)).await.unwrap();
    lease.lease_grant(caller.request(pb::LeaseGrantRequest { id: 78, ttl: 600 })).await.unwrap();
    let mut locks = LockClient::new(caller.channel.clone());
    let lock = LockRequest { name: "mutex".into(), lease: 78 };
    let LockResponse { key, .. } = locks.lock(caller.request(lock)).await.unwrap().into_inner();
    locks.unlock(caller.request(UnlockRequest { key })).await.unwrap();
    // Nobody has such a method.
    let mut grpc = tonic::client::Grpc::new(caller.channel.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<pb::PutRequest, pb::PutResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Nothing");
    grpc.unary(caller.request(put("k1")), path, codec).await.unwrap_err();
    // The caller's trace is not taken down.
    let parent = format!("00-{}-{CALLER}-00", "e".repeat(32));
    kv.put(with_parent(put("k1"), &parent)).await.unwrap();
}

/// Two watchers: one is cancelled, the other ends with the stream.
async fn watch(caller: &mut Caller) {
    let create = |key: &str| pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: "z".into(),
            prev_kv: true,
            ..Default::default()
        })),
    };
    let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 });
    let cancel = pb::WatchRequest { request_union: Some(cancel) };
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    for request in [create("a"), create("b"), cancel] {
        sender.send(request).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut client = WatchClient::new(caller.channel.clone());
    let mut answers = client.watch(caller.request(requests)).await.unwrap().into_inner();
    for _ in 0..3 {
        answers.message().await.unwrap().unwrap();
    }
    drop(sender);
    drop(answers);
}

/// A member that sends its spans there, on a folder of its own.
struct Traced {
    member: Member,
    _folder: tempfile::TempDir,
}

impl Traced {
    /// `prefix` is that of the flags about tracing: 3.5 calls them experimental.
    async fn start(program: &Path, prefix: &str, collector: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(program, &folder.path().join("m1")).with(flags);
        options.flags.extend([
            format!("--{prefix}enable-distributed-tracing"),
            format!("--{prefix}distributed-tracing-service-name=store"),
            format!("--{prefix}distributed-tracing-instance-id=m1"),
            format!("--{prefix}distributed-tracing-address={collector}"),
        ]);
        options.environment = VARIABLES
            .map(|(name, value)| (format!("OTEL_{name}"), value.replace("KEY", KEY_HEADER)))
            .to_vec();
        let start = tokio::task::spawn_blocking(move || Member::start(&options));
        Self { member: start.await.unwrap().unwrap(), _folder: folder }
    }

    /// Of ours, with flags.
    async fn ours(collector: &str, flags: &[&str]) -> Self {
        Self::start(&programs::ours().unwrap().etcd, "", collector, flags).await
    }

    async fn stop(self) {
        let Self { member, _folder } = self;
        tokio::task::spawn_blocking(move || member.stop()).await.unwrap().unwrap();
    }
}

/// What a member sends about [`load`], to the last span: what was not sent before is when the member stops.
fn sent_by(program: &Path, prefix: &str, flags: &[&str]) -> String {
    common::runtime().block_on(async {
        let collector = Collector::start([]).await;
        let member = Traced::start(program, prefix, &collector.address, flags).await;
        load(&member.member.url()).await;
        member.stop().await;
        assert_eq!(collector.keys(), ["a=b".to_owned()].into());
        let text = collector.taken().text();
        assert!(text.contains("zone=\"eu/1\""), "no attribute of the environment:\n{text}");
        assert!(text.contains("etcdserverpb.Auth/UserAdd"), "not all is there:\n{text}");
        text
    })
}

/// Lines that differ, and how.
fn assert_equal(real: &str, ours: &str, version: &str) {
    let differences: Vec<String> = real
        .lines()
        .zip(ours.lines())
        .filter(|(real, ours)| real != ours)
        .map(|(real, ours)| format!("real {real}\nours {ours}\n"))
        .collect();
    let is_equal = differences.is_empty() && real.lines().count() == ours.lines().count();
    assert!(is_equal, "{version}:\n{}\n{real}\n{ours}", differences.join("\n"));
}

#[test]
fn spans_are_those_of_real_etcd_3_5() {
    let ours =
        sent_by(&programs::ours().unwrap().etcd, "experimental-", &["--emulated-version=3.5"]);
    assert!(!ours.contains("k1"), "no key is in a span before 3.7:\n{ours}");
    let Some(real) = programs::real_or_skip("spans_are_those_of_real_etcd_3_5") else { return };
    let real = sent_by(&real.etcd, "experimental-", &[]);
    // Debian builds with a newer library than etcd, which does not say in the flags that the trace is sampled.
    let same =
        |text: &str| text.replace(" 0.56.0\n", " 0.46.0\n").replace("flags 300", "flags 301");
    assert_equal(&same(&real), &ours, "3.5");
}

#[test]
fn spans_are_those_of_newer_etcd() {
    let ours = |version: &str| {
        let flag = format!("--emulated-version={version}");
        sent_by(&programs::ours().unwrap().etcd, "", &[&flag])
    };
    let all: Vec<(&&str, String)> =
        embed::VERSIONS.iter().map(|version| (version, ours(version))).collect();
    for (version, text) in &all {
        assert!(!text.contains("canary"), "{version}: a secret is in a span:\n{text}");
    }
    if !embed::are_there_or_skip("spans_are_those_of_newer_etcd") {
        return;
    }
    for (version, ours) in all {
        let real = sent_by(&embed::find(version).unwrap(), "", &[]);
        assert_equal(&real, &ours, version);
    }
}

/// Without a caller's trace it is the rate that decides, and a caller that takes no trace down is heeded.
#[test]
fn the_rate_decides_on_new_traces() {
    common::runtime().block_on(async {
        for (rate, wanted) in [("0", 1), ("1000000", 21)] {
            let collector = Collector::start([]).await;
            let flag = format!("--distributed-tracing-sampling-rate={rate}");
            let member = Traced::ours(&collector.address, &["--emulated-version=3.6", &flag]).await;
            let mut caller = Caller::connect(&member.member.url()).await;
            for _ in 0..20 {
                caller.kv().range(range("k")).await.unwrap();
            }
            let request = caller.request(range("k"));
            caller.kv().range(request).await.unwrap();
            member.stop().await;
            assert_eq!(collector.taken().names(), vec!["etcdserverpb.KV/Range"; wanted], "{rate}");
        }
    });
}

/// A large key is cut, and bytes that are no text are replaced: nothing of what a client sends makes a span that a collector
/// refuses, or one of any size.
#[test]
fn keys_in_spans_are_short_and_text() {
    common::runtime().block_on(async {
        let collector = Collector::start([]).await;
        let member = Traced::ours(&collector.address, &["--emulated-version=3.7"]).await;
        let mut caller = Caller::connect(&member.member.url()).await;
        let key = [&[0xff_u8, 0xfe][..], &vec![b'k'; 1024 * 1024]].concat();
        let request = caller.request(pb::RangeRequest { key: key.into(), ..range("") });
        caller.kv().range(request).await.unwrap();
        member.stop().await;
        let text = collector.taken().text();
        assert!(text.contains("range_begin=\"\u{fffd}\u{fffd}kkk"), "{text}");
        assert!(text.len() < 3000, "{}", text.len());
    });
}

/// The collector is not there: calls are answered as ever, and the member stops.
#[test]
fn nobody_waits_for_a_collector_that_is_not_there() {
    common::runtime().block_on(async {
        // A port that was free a moment ago.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let member = Traced::ours(&address, &["--distributed-tracing-sampling-rate=1000000"]).await;
        let caller = Caller::connect(&member.member.url()).await;
        for _ in 0..100 {
            caller.kv().range(range("k")).await.unwrap();
        }
        member.stop().await;
    });
}

/// The collector takes connections and never answers: far more calls than the queue has room for are answered, memory stays what it
/// is, and the member stops within a moment.
#[test]
fn a_collector_that_hangs_holds_nobody_up() {
    /// Twice what the queue holds, with what is on its way.
    const CALLS: usize = 6_000;
    common::runtime().block_on(async {
        let hanging = std::iter::repeat_with(|| Answer::Hang).take(100);
        let collector = Collector::start(hanging).await;
        let flags = ["--distributed-tracing-sampling-rate=1000000", "--emulated-version=3.7"];
        let member = Traced::ours(&collector.address, &flags).await;
        let caller = Caller::connect(&member.member.url()).await;
        let serve = async |count: usize| {
            let mut kv = caller.kv();
            for _ in 0..count {
                // Two spans each, with a key that is cut.
                let request = range(&"k".repeat(4096));
                kv.range(pb::RangeRequest { serializable: true, ..request }).await.unwrap();
            }
        };
        serve(CALLS / 2).await;
        collector.asked().await;
        let before = resident_bytes(member.member.pid());
        serve(CALLS / 2).await;
        let grown = resident_bytes(member.member.pid()).saturating_sub(before);
        assert!(grown < 16 * 1024 * 1024, "{grown} bytes more");
        let began = std::time::Instant::now();
        member.stop().await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert_eq!(collector.taken().spans().count(), 0);
    });
}

/// A collector that is not ready gets its spans later, once.
#[test]
fn what_a_collector_cannot_take_yet_is_sent_again() {
    common::runtime().block_on(async {
        let collector = Collector::start([Answer::Refuse(tonic::Code::Unavailable)]).await;
        let member = Traced::ours(&collector.address, &["--emulated-version=3.5"]).await;
        let mut caller = Caller::connect(&member.member.url()).await;
        let request = caller.request(range("k"));
        caller.kv().range(request).await.unwrap();
        // The refusal, and the next try.
        collector.asked().await;
        collector.asked().await;
        assert_eq!(collector.taken().names(), ["etcdserverpb.KV/Range"]);
        member.stop().await;
        assert_eq!(collector.taken().spans().count(), 1);
    });
}

/// What a process holds in memory.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
