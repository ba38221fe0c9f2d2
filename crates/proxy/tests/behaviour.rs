//! The gRPC proxy and the gateway between clients and a real member.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use client::{Client, Watch, Watcher};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, CompactionRequest,
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    WatchResponse,
};
use proto::mvccpb::Event;
use proxy::gateway::{self, Gateway, Target};
use proxy::grpc::{GrpcProxy, Options, Registration};
use tempfile::TempDir;
use testkit::member::Member;
use testkit::programs;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything takes that comes at all.
const LIMIT: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("no {what}"))
}

/// A member, and its folder.
struct Cluster {
    member: Member,
    _folder: TempDir,
}

impl Cluster {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = programs::ours().unwrap().etcd;
        let mut options = testkit::member::Options::new(&program, &folder.path().join("data"));
        options.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { member: Member::start(&options).unwrap(), _folder: folder }
    }

    async fn client(&self) -> Client {
        connect(&self.member.endpoint()).await
    }

    /// Options of a proxy of this cluster.
    fn options(&self) -> Options {
        Options {
            listen_address: "127.0.0.1:0".to_owned(),
            metrics_address: None,
            advertised: String::new(),
            endpoints: vec![self.member.endpoint()],
            sync_interval: None,
            registration: None,
            namespace: String::new(),
            leasing_prefix: String::new(),
            is_ordered: false,
            send_bytes_max: 1 << 20,
            recv_bytes_max: 1 << 30,
            dial_keepalive_time: None,
            dial_keepalive_timeout: LIMIT,
            dial_keepalive_while_idle: false,
            keepalive_min_time: Duration::from_secs(5),
            profiled: None,
            logs_calls: false,
            keepalive_interval: None,
            keepalive_timeout: LIMIT,
            max_concurrent_streams: 1000,
            upstream_tls: None,
            listen_tls: tls::Settings::default(),
            auto_tls: None,
        }
    }

    async fn proxy(&self) -> Proxy {
        Proxy::start(self.options()).await
    }
}

async fn connect(endpoint: &str) -> Client {
    let options = client::Options { timeout: Some(LIMIT), ..client::Options::default() };
    Client::connect([endpoint], options).await.unwrap()
}

/// A proxy that runs.
struct Proxy {
    address: SocketAddr,
    task: tokio::task::JoinHandle<String>,
}

impl Proxy {
    async fn start(options: Options) -> Self {
        let proxy = GrpcProxy::bind(options).await.unwrap();
        let address = proxy.address().unwrap();
        Self { address, task: tokio::spawn(proxy.run()) }
    }

    async fn client(&self) -> Client {
        connect(&self.address.to_string()).await
    }

    /// The status and body of one request of HTTP.
    async fn http(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("answer", stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    async fn metric(&self, name: &str) -> i64 {
        let (_, body) = self.http("/proxy/metrics").await;
        let name = format!("etcd_grpc_proxy_{name}_total ");
        let line = body.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name}in {body}")).parse().unwrap()
    }

    async fn wait_for_metric(&self, name: &str, expected: i64) {
        within(name, async {
            while self.metric(name).await != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn next(watch: &mut Watch) -> WatchResponse {
    within("watch response", watch.next()).await.unwrap().unwrap()
}

/// A watch of one key, confirmed.
async fn watch(watcher: &Watcher, key: &'static str, start_revision: i64) -> Watch {
    let request =
        WatchCreateRequest { key: key.into(), start_revision, ..WatchCreateRequest::default() };
    let mut watch = watcher.watch(request).await.unwrap();
    let created = next(&mut watch).await;
    assert!(created.created && !created.canceled, "{created:?}");
    watch
}

fn seen(events: &[Event]) -> Vec<(Bytes, Bytes)> {
    let pair = |event: &Event| {
        let pair = event.kv.clone().unwrap();
        (pair.key, pair.value)
    };
    events.iter().map(pair).collect()
}

fn pair(key: &'static str, value: &'static str) -> (Bytes, Bytes) {
    (key.into(), value.into())
}

fn serializable(key: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), serializable: true, ..RangeRequest::default() }
}

async fn value(client: &Client, request: RangeRequest) -> Bytes {
    client.range(request).await.unwrap().kvs.first().map(|pair| pair.value.clone()).unwrap()
}

#[tokio::test]
async fn watchers_of_one_key_share_one_watch_of_the_cluster() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let client = proxy.client().await;
    let first_put = client.put("k", "1").await.unwrap().header.unwrap().revision;
    client.put("k", "2").await.unwrap();

    // Two of the present on a stream, a third on another; one of the past waits for nobody.
    let (shared, other) = (client.watcher(), client.watcher());
    let mut present =
        [watch(&shared, "k", 0).await, watch(&shared, "k", 0).await, watch(&other, "k", 0).await];
    proxy.wait_for_metric("watchers_coalescing", 2).await;
    let mut past = watch(&client.watcher(), "k", first_put).await;
    let mut old = Vec::new();
    while old.len() < 2 {
        old.extend(seen(&next(&mut past).await.events));
    }
    assert_eq!(old, [pair("k", "1"), pair("k", "2")]);

    client.put("k", "3").await.unwrap();
    client.put("unwatched", "x").await.unwrap();
    for watch in present.iter_mut().chain([&mut past]) {
        assert_eq!(seen(&next(watch).await.events), [pair("k", "3")]);
    }
    assert!(proxy.metric("events_coalescing").await >= 2);
    // It has caught up, and shares from now on. Nobody sees anything twice.
    proxy.wait_for_metric("watchers_coalescing", 3).await;
    client.delete("k").await.unwrap();
    for watch in present.iter_mut().chain([&mut past]) {
        let response = next(watch).await;
        assert_eq!(response.events.len(), 1);
        assert_eq!(response.events[0].r#type, 1);
    }

    drop((shared, other, present));
    proxy.wait_for_metric("watchers_coalescing", 0).await;
    client.put("k", "4").await.unwrap();
    assert_eq!(seen(&next(&mut past).await.events), [pair("k", "4")]);
}

#[tokio::test]
async fn a_watcher_sees_what_it_asked_for_and_no_more() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let client = proxy.client().await;
    client.put("k", "1").await.unwrap();
    let (sender, mut stream) = client.watch_stream().await.unwrap();
    let request = |watch_id, prev_kv, filters: &[i32]| WatchCreateRequest {
        key: "k".into(),
        watch_id,
        prev_kv,
        filters: filters.to_vec(),
        ..WatchCreateRequest::default()
    };
    sender.create(request(7, true, &[])).await.unwrap();
    sender.create(request(0, false, &[0])).await.unwrap();
    sender.create(request(7, false, &[])).await.unwrap();
    let mut message = async || within("response", stream.message()).await.unwrap().unwrap();
    let ids = [message().await, message().await].map(|r| (r.watch_id, r.created, r.canceled));
    assert_eq!(ids, [(7, true, false), (0, true, false)]);
    let refused = message().await;
    assert!(refused.created && refused.canceled && !refused.cancel_reason.is_empty());

    client.put("k", "2").await.unwrap();
    let put = message().await;
    assert_eq!(put.watch_id, 7);
    assert_eq!(put.events[0].prev_kv.as_ref().unwrap().value, "1");
    client.delete("k").await.unwrap();
    let mut deletions = [message().await, message().await];
    deletions.sort_by_key(|response| response.watch_id);
    assert!(deletions[0].watch_id == 0 && deletions[0].events[0].prev_kv.is_none());
    assert!(deletions[1].watch_id == 7 && deletions[1].events[0].prev_kv.is_some());

    sender.cancel(7).await.unwrap();
    let canceled = message().await;
    assert!(canceled.canceled && canceled.watch_id == 7 && canceled.header.is_some());
    // The other one goes on; ids that are free are given again.
    sender.create(request(7, false, &[])).await.unwrap();
    assert_eq!(message().await.watch_id, 7);

    let empty = WatchCreateRequest {
        key: "k".into(),
        range_end: "a".into(),
        ..WatchCreateRequest::default()
    };
    sender.create(empty).await.unwrap();
    assert!(message().await.canceled);
}

#[tokio::test]
async fn a_watch_of_a_past_that_is_gone_ends_with_its_revision() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let client = proxy.client().await;
    let mut revision = 0;
    for value in ["1", "2", "3"] {
        revision = client.put("k", value).await.unwrap().header.unwrap().revision;
    }
    client.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    let request =
        WatchCreateRequest { key: "k".into(), start_revision: 1, ..WatchCreateRequest::default() };
    let mut watch = client.watch(request).await.unwrap();
    let mut last = next(&mut watch).await;
    while !last.canceled {
        last = next(&mut watch).await;
    }
    assert_eq!(last.compact_revision, revision);
    // The proxy knows it for reads too.
    let past = RangeRequest { revision: 1, ..serializable("k") };
    let error = client.range(past).await.unwrap_err();
    assert_eq!(error.etcd(), Some(rpc::errors::Error::Compacted));
    assert_eq!(error.code(), client::Code::OutOfRange);
}

#[tokio::test]
async fn serializable_reads_are_answered_from_the_cache_until_a_write() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let client = proxy.client().await;
    client.put("k", "1").await.unwrap();
    assert_eq!(value(&client, serializable("k")).await, "1");
    assert_eq!(proxy.metric("cache_misses").await, 1);
    assert_eq!(proxy.metric("cache_keys").await, 1);
    // Behind the proxy's back: serializable readers need not see it, linearizable ones do, and tell the others.
    cluster.client().await.put("k", "2").await.unwrap();
    assert_eq!(value(&client, serializable("k")).await, "1");
    assert_eq!(proxy.metric("cache_hits").await, 1);
    let linearizable = RangeRequest { serializable: false, ..serializable("k") };
    assert_eq!(value(&client, linearizable).await, "2");
    assert_eq!(value(&client, serializable("k")).await, "2");
    // A client sees its own writes, by whichever call.
    client.put("k", "3").await.unwrap();
    assert_eq!(proxy.metric("cache_keys").await, 0);
    assert_eq!(value(&client, serializable("k")).await, "3");
    let put = PutRequest { key: "k".into(), value: "4".into(), ..PutRequest::default() };
    let op = RequestOp { request: Some(Op::RequestPut(put)) };
    client.txn(TxnRequest { success: vec![op], ..TxnRequest::default() }).await.unwrap();
    assert_eq!(value(&client, serializable("k")).await, "4");
    client.delete("k").await.unwrap();
    assert!(client.range(serializable("k")).await.unwrap().kvs.is_empty());
}

#[tokio::test]
async fn a_namespace_is_all_that_its_clients_see() {
    let cluster = Cluster::start();
    let options = Options { namespace: "ns/".to_owned(), ..cluster.options() };
    let proxy = Proxy::start(options).await;
    let (inside, outside) = (proxy.client().await, cluster.client().await);
    outside.put("a", "outside").await.unwrap();
    let all = || RangeRequest { key: "\0".into(), range_end: "\0".into(), ..serializable("") };
    let watch_all = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..WatchCreateRequest::default()
    };
    let mut watch = inside.watch(watch_all).await.unwrap();
    assert!(next(&mut watch).await.created);
    let lease = inside.lease_grant(60, 0).await.unwrap().id;
    let put =
        PutRequest { key: "a".into(), value: "inside".into(), lease, ..PutRequest::default() };
    inside.put_with(put).await.unwrap();
    outside.put("z", "outside").await.unwrap();
    let put = PutRequest { key: "b".into(), prev_kv: true, ..PutRequest::default() };
    let op = |put| RequestOp { request: Some(Op::RequestPut(put)) };
    let txn = TxnRequest { success: vec![op(put)], ..TxnRequest::default() };
    inside.txn(txn).await.unwrap();

    let keys = |response: proto::etcdserverpb::RangeResponse| -> Vec<Bytes> {
        response.kvs.into_iter().map(|pair| pair.key).collect()
    };
    assert_eq!(keys(inside.range(all()).await.unwrap()), ["a", "b"]);
    assert_eq!(keys(outside.range(all()).await.unwrap()), ["a", "ns/a", "ns/b", "z"]);
    assert_eq!(seen(&next(&mut watch).await.events), [pair("a", "inside")]);
    assert_eq!(seen(&next(&mut watch).await.events), [pair("b", "")]);
    let put = PutRequest { key: "other".into(), lease, ..PutRequest::default() };
    outside.put_with(put).await.unwrap();
    assert_eq!(inside.lease_time_to_live(lease, true).await.unwrap().keys, ["a"]);
}

#[tokio::test]
async fn leases_and_other_calls_pass_through() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let client = proxy.client().await;
    let lease = client.lease_grant(60, 0).await.unwrap().id;
    let renewed = within("renewal", client.lease_keep_alive_once(lease)).await.unwrap();
    assert_eq!((renewed.id, renewed.ttl), (lease, 60));
    let mut renewals = client.lease_keep_alive(lease);
    assert_eq!(within("renewal", renewals.next()).await.unwrap().unwrap().ttl, 60);
    client.lease_revoke(lease).await.unwrap();
    let error = within("refusal", client.lease_keep_alive_once(lease)).await.unwrap_err();
    assert_eq!(error.etcd(), Some(rpc::errors::Error::LeaseNotFound));
    assert_eq!(client.member_list(true).await.unwrap().members.len(), 1);
    let too_large = client.put("k", vec![0; 1 << 20]).await.unwrap_err();
    assert_eq!(too_large.code(), client::Code::ResourceExhausted);
    assert!(too_large.message().starts_with("trying to send message larger than max"));
}

#[tokio::test]
async fn proxies_tell_of_each_other() {
    let cluster = Cluster::start();
    let registered = |address: &str| Options {
        advertised: address.to_owned(),
        registration: Some(Registration { prefix: "proxies".to_owned(), ttl: 60 }),
        ..cluster.options()
    };
    let _first = Proxy::start(registered("127.0.0.1:1")).await;
    let second = Proxy::start(registered("127.0.0.1:2")).await;
    let client = second.client().await;
    let urls = async || -> Vec<String> {
        let members = client.member_list(true).await.unwrap().members;
        assert!(members.iter().all(|member| member.id == 0 && member.peer_urls.is_empty()));
        members.into_iter().flat_map(|member| member.client_urls).collect()
    };
    within("list of both", async {
        while urls().await != ["127.0.0.1:1", "127.0.0.1:2"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let key = RangeRequest { key: "proxies/127.0.0.1:1".into(), ..RangeRequest::default() };
    let entry = value(&cluster.client().await, key).await;
    assert!(entry.starts_with(br#"{"Op":0,"Addr":"127.0.0.1:1","Metadata":"{\"name\":"#));
}

/// CVE-2018-1098: a browser can be had to post this by any page; it was a put.
#[tokio::test]
async fn cve_2018_1098_calls_of_grpc_say_that_they_are() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    for kind in ["text/plain", "application/grpc"] {
        let put = "\0\0\0\0\u{6}\n\u{1}k\u{12}\u{1}v";
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let request = format!(
            "POST /etcdserverpb.KV/Put HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{put}",
            put.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{kind}: {answer}");
        assert!(cluster.client().await.get("k").await.unwrap().kvs.is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn health_is_told_over_http() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let well = r#"{"health":"true","reason":""}"#;
    assert_eq!(proxy.http("/health").await, ("HTTP/1.1 200 OK".to_owned(), well.to_owned()));
    let (status, body) = proxy.http("/proxy/health").await;
    assert!(status.contains("503") && body.contains("no connection to proxy"), "{status} {body}");
    assert!(proxy.http("/v3/kv/range").await.0.contains("404"));

    // One that knows its own address asks itself.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options =
        Options { listen_address: address.clone(), advertised: address, ..cluster.options() };
    let proxy = Proxy::start(options).await;
    assert_eq!(proxy.http("/proxy/health").await.1, well);
    cluster.member.kill().unwrap();
    let (status, body) = proxy.http("/health").await;
    assert!(status.contains("503") && body.contains("GET ERROR:"), "{status} {body}");
}

#[tokio::test]
async fn clients_are_served_over_tls() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let options = Options { auto_tls: Some((folder.path().join("proxy"), 1)), ..cluster.options() };
    let proxy = Proxy::start(options).await;
    let settings = tls::Settings { skip_server_check: true, ..tls::Settings::default() };
    let options =
        client::Options { tls: Some(settings), timeout: Some(LIMIT), ..client::Options::default() };
    let endpoint = format!("https://{}", proxy.address);
    let client = Client::connect([endpoint], options).await.unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!(value(&cluster.client().await, serializable("k")).await, "v");
}

/// Accepts one connection after another, and says its name.
fn greet(listener: TcpListener, name: &'static str) {
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // A client that is gone did not want to know.
            let _ = client.write_all(name.as_bytes()).await;
        }
    });
}

#[tokio::test]
async fn the_gateway_leaves_out_an_endpoint_until_it_is_back() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (gone_at, here_at) = (gone.local_addr().unwrap(), here.local_addr().unwrap());
    drop(gone);
    greet(here, "here");
    let target = |address: SocketAddr| Target::parse(&format!("http://{address}")).unwrap();
    let gateway = Gateway::bind(gateway::Options {
        listen_address: "127.0.0.1:0".to_owned(),
        targets: vec![target(gone_at), target(here_at)],
        retry_delay: Duration::from_millis(20),
    })
    .await
    .unwrap();
    let address = gateway.address().unwrap();
    let running = tokio::spawn(gateway.run());
    let ask = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        within("answer", stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    for _ in 0..4 {
        assert_eq!(ask().await, "here");
    }
    greet(TcpListener::bind(gone_at).await.unwrap(), "back");
    within("second endpoint", async { while ask().await != "back" {} }).await;
    running.abort();
}

#[tokio::test]
async fn cve_2020_15114_a_gateway_to_itself_is_refused() {
    let options = gateway::Options {
        listen_address: "127.0.0.1:1".to_owned(),
        targets: vec![Target::parse("localhost:1").unwrap()],
        retry_delay: LIMIT,
    };
    let error = Gateway::bind(options).await.unwrap_err().to_string();
    assert!(
        error.contains("should not resolve to the gateway listen addr (127.0.0.1:1)"),
        "{error}"
    );
}

/// Lease keys as they are in the cluster: each with its value, and whether it has a lease.
async fn lease_keys(client: &Client) -> Vec<(Bytes, Bytes, bool)> {
    let (key, range_end) = client::range_of_prefix("lp/".into());
    let request = RangeRequest { key, range_end, ..RangeRequest::default() };
    let found = client.range(request).await.unwrap().kvs;
    found.into_iter().map(|pair| (pair.key, pair.value, pair.lease != 0)).collect()
}

fn owned(key: &'static str) -> (Bytes, Bytes, bool) {
    (key.into(), Bytes::new(), true)
}

/// Two proxies that own keys, and a client of the member, which sees what is there and can write past the protocol.
async fn two_owners(cluster: &Cluster) -> (Proxy, Proxy, Client) {
    let options = Options { leasing_prefix: "lp/".to_owned(), ..cluster.options() };
    let (one, two) = (Proxy::start(options.clone()).await, Proxy::start(options).await);
    (one, two, cluster.client().await)
}

async fn get(client: &Client, key: &'static str) -> Bytes {
    let found = client.get(key).await.unwrap();
    found.kvs.first().map_or(Bytes::from_static(b"absent"), |pair| pair.value.clone())
}

#[tokio::test]
async fn owned_keys_are_read_from_memory_until_another_writes() {
    let cluster = Cluster::start();
    let (one, two, member) = two_owners(&cluster).await;
    let (a, b) = (one.client().await, two.client().await);
    b.put("k", "1").await.unwrap();
    assert_eq!(get(&a, "k").await, "1");
    assert_eq!(lease_keys(&member).await, [owned("lp/k")]);
    // Past the protocol: who still reads the old value has not asked the cluster.
    member.put("k", "unseen").await.unwrap();
    assert_eq!((get(&a, "k").await, get(&member, "k").await), ("1".into(), "unseen".into()));

    within("the other's write", b.put("k", "2")).await.unwrap();
    assert_eq!(lease_keys(&member).await, []);
    assert_eq!((get(&a, "k").await, get(&b, "k").await), ("2".into(), "2".into()));
    assert_eq!(lease_keys(&member).await, [owned("lp/k")], "the other's now");
    // Its owner writes without giving it up.
    let written = b.put("k", "3").await.unwrap().header.unwrap().revision;
    let found = b.get("k").await.unwrap();
    let pair = &found.kvs[0];
    assert_eq!((pair.mod_revision, pair.version, &pair.value[..]), (written, 4, &b"3"[..]));
    assert_eq!(lease_keys(&member).await, [owned("lp/k")]);
    assert_eq!(get(&a, "k").await, "3");

    // That a key is absent is owned as well.
    assert_eq!(get(&a, "none").await, "absent");
    within("a write to an absent key", b.put("none", "now")).await.unwrap();
    assert_eq!(get(&a, "none").await, "now");
    within("a deletion", a.delete("k")).await.unwrap();
    assert_eq!((get(&a, "k").await, get(&b, "k").await), ("absent".into(), "absent".into()));
}

#[tokio::test]
async fn transactions_and_ranges_take_all_keys_that_others_own() {
    let cluster = Cluster::start();
    let (one, two, member) = two_owners(&cluster).await;
    let (a, b) = (one.client().await, two.client().await);
    for key in ["a", "b", "c"] {
        member.put(key, "1").await.unwrap();
        assert_eq!(get(if key == "b" { &b } else { &a }, key).await, "1");
    }
    let put = |key: &'static str| {
        let put = PutRequest { key: key.into(), value: "2".into(), ..PutRequest::default() };
        RequestOp { request: Some(Op::RequestPut(put)) }
    };
    let both = TxnRequest { success: vec![put("a"), put("b")], ..TxnRequest::default() };
    let done = within("transaction", b.txn(both)).await.unwrap();
    assert_eq!((done.succeeded, done.responses.len()), (true, 2));
    for client in [&a, &b, &member] {
        assert_eq!((get(client, "a").await, get(client, "b").await), ("2".into(), "2".into()));
    }
    // Reads alone are answered from memory where they can be.
    member.put("c", "unseen").await.unwrap();
    let read = RequestOp { request: Some(Op::RequestRange(range_of("c"))) };
    let read = a.txn(TxnRequest { success: vec![read], ..TxnRequest::default() }).await.unwrap();
    let Some(Answer::ResponseRange(found)) = &read.responses[0].response else {
        panic!("{read:?}")
    };
    assert_eq!(found.kvs[0].value, "1");

    let request = DeleteRangeRequest {
        key: "a".into(),
        range_end: Bytes::from_static(b"\0"),
        ..DeleteRangeRequest::default()
    };
    // To the end of all keys, so the lease keys that still are go as well.
    let deleted = within("deletion", b.delete_range(request)).await.unwrap();
    assert!(deleted.deleted >= 3, "{deleted:?}");
    for client in [&a, &b] {
        assert_eq!(
            (get(client, "a").await, get(client, "c").await),
            ("absent".into(), "absent".into())
        );
    }
}

fn range_of(key: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

#[tokio::test]
async fn more_keys_than_a_transaction_may_compare_can_be_written() {
    let cluster = Cluster::start();
    let (one, two, member) = two_owners(&cluster).await;
    let (a, b) = (one.client().await, two.client().await);
    let key = |n: u8| Bytes::from(vec![b'k', n]);
    for n in [0, 50, 99] {
        assert!(a.get(key(n)).await.unwrap().kvs.is_empty());
    }
    assert_eq!(lease_keys(&member).await.len(), 3);
    let puts = (0..100).map(|n| {
        let put = PutRequest { key: key(n), value: "2".into(), ..PutRequest::default() };
        RequestOp { request: Some(Op::RequestPut(put)) }
    });
    let txn = TxnRequest { success: puts.collect(), ..TxnRequest::default() };
    assert_eq!(within("transaction", b.txn(txn)).await.unwrap().responses.len(), 100);
    assert_eq!(lease_keys(&member).await, []);
    assert_eq!(a.get(key(99)).await.unwrap().kvs[0].value, "2");
}

#[tokio::test]
async fn members_that_take_few_comparisons_can_be_written_to() {
    let cluster = Cluster::with(&["--max-txn-ops=4"]);
    let (one, two, member) = two_owners(&cluster).await;
    let (a, b) = (one.client().await, two.client().await);
    assert_eq!(get(&a, "k1").await, "absent");
    let puts = |keys: [&'static str; 3]| {
        let put = |key: &'static str| {
            let put = PutRequest { key: key.into(), value: "2".into(), ..PutRequest::default() };
            RequestOp { request: Some(Op::RequestPut(put)) }
        };
        keys.into_iter().map(put).collect()
    };
    // Each branch has as many as fit inside another transaction, but there are twice as many keys to guard.
    let txn = TxnRequest {
        success: puts(["k1", "k2", "k3"]),
        failure: puts(["k4", "k5", "k6"]),
        ..TxnRequest::default()
    };
    assert_eq!(within("transaction", b.txn(txn.clone())).await.unwrap().responses.len(), 3);
    assert_eq!(lease_keys(&member).await, []);
    assert_eq!(get(&a, "k1").await, "2");
    let success = [txn.success, txn.failure].concat();
    let refused = b.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap_err();
    assert_eq!(refused.etcd(), Some(rpc::errors::Error::TooManyOps));
}

#[tokio::test]
async fn a_range_is_not_written_before_its_owners_have_given_it_up() {
    let cluster = Cluster::start();
    let (one, _two, member) = two_owners(&cluster).await;
    let a = one.client().await;
    member.put("b", "1").await.unwrap();
    // An owner that does not answer.
    let lease = member.lease_grant(600, 0).await.unwrap().id;
    let put = PutRequest { key: "lp/b".into(), lease, ..PutRequest::default() };
    member.put_with(put).await.unwrap();
    let mut lease_key = watch(&member.watcher(), "lp/b", 0).await;
    let request = DeleteRangeRequest {
        key: "a".into(),
        range_end: "c".into(),
        ..DeleteRangeRequest::default()
    };
    let deletion = a.delete_range(request);
    tokio::pin!(deletion);
    tokio::select! {
        done = &mut deletion => panic!("{done:?}"),
        asked = next(&mut lease_key) => {
            assert_eq!(seen(&asked.events), [pair("lp/b", "REVOKE")]);
        }
    }
    // Longer than one wait for an owner.
    let patience = Duration::from_millis(1500);
    assert!(tokio::time::timeout(patience, &mut deletion).await.is_err());
    assert_eq!(get(&member, "b").await, "1");
    let gone = member.delete("lp/b").await.unwrap().header.unwrap().revision;
    let deleted = within("deletion", deletion).await.unwrap();
    assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (1, gone + 1));
}

#[tokio::test]
async fn a_lease_that_is_gone_ends_ownership_and_another_follows() {
    let cluster = Cluster::start();
    let (one, _two, member) = two_owners(&cluster).await;
    let a = one.client().await;
    let namespaced = Options {
        leasing_prefix: "lp/".to_owned(),
        namespace: "ns/".to_owned(),
        ..cluster.options()
    };
    let namespaced = Proxy::start(namespaced).await;
    assert_eq!(get(&namespaced.client().await, "k").await, "absent");
    let found = member.get("ns/lp/k").await.unwrap();
    assert_eq!(found.count, 1, "lease keys are in the namespace");

    assert_eq!(get(&a, "k").await, "absent");
    let lease = member.get("lp/k").await.unwrap().kvs[0].lease;
    member.lease_revoke(lease).await.unwrap();
    member.put("k", "1").await.unwrap();
    within("the new value", async {
        while get(&a, "k").await != "1" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A key that may end by itself is nobody's.
    let lease = member.lease_grant(60, 0).await.unwrap().id;
    a.put_with(PutRequest { key: "leased".into(), lease, ..PutRequest::default() }).await.unwrap();
    assert_eq!(get(&a, "leased").await, "");
    assert_eq!(member.get("lp/leased").await.unwrap().count, 0);
    within("another session", async {
        while member.get("lp/other").await.unwrap().count == 0 {
            let _ = get(&a, "other").await;
        }
    })
    .await;
}

#[tokio::test]
async fn where_rights_are_checked_nothing_is_answered_from_memory() {
    let cluster = Cluster::start();
    let member = cluster.client().await;
    let (name, password) = ("root".to_owned(), "pw".to_owned());
    let user = AuthUserAddRequest { name: name.clone(), password, ..Default::default() };
    member.user_add(user).await.unwrap();
    let root = AuthUserGrantRoleRequest { user: name, role: "root".to_owned() };
    member.user_grant_role(root).await.unwrap();
    member.auth_enable(AuthEnableRequest {}).await.unwrap();
    let options = Options { leasing_prefix: "lp/".to_owned(), ..cluster.options() };
    let proxy = within("start", Proxy::start(options)).await;
    let user = Some(("root".to_owned(), "pw".to_owned()));
    let options = client::Options { user, timeout: Some(LIMIT), ..Default::default() };
    let client = Client::connect([proxy.address.to_string()], options.clone()).await.unwrap();
    let member = Client::connect([cluster.member.endpoint()], options).await.unwrap();
    client.put("k", "1").await.unwrap();
    assert_eq!(get(&client, "k").await, "1");
    member.put("k", "2").await.unwrap();
    assert_eq!(get(&client, "k").await, "2");
    assert_eq!(lease_keys(&member).await, []);
    assert!(proxy.client().await.get("k").await.is_err(), "without a user");
}

#[tokio::test]
async fn profiles_are_served_where_they_are_asked_for() {
    let cluster = Cluster::start();
    let profiled = Some(vec!["etcd".to_owned(), "grpc-proxy".to_owned()]);
    let metrics_address = Some("http://127.0.0.1:0".to_owned());
    let with = Proxy::start(Options { profiled, metrics_address, ..cluster.options() }).await;
    for (path, status, says) in [
        ("/debug/pprof", "301", ""),
        ("/debug/pprof/", "200", "profile?seconds=30"),
        ("/debug/pprof/cmdline", "200", "etcd\0grpc-proxy"),
        ("/debug/pprof/nosuch", "404", "Unknown profile"),
    ] {
        let (found, body) = with.http(path).await;
        assert!(found.contains(status) && body.contains(says), "{path}: {found} {body}");
    }
    let (status, _) = cluster.proxy().await.http("/debug/pprof/").await;
    assert!(status.contains("404"), "{status}");
}

#[tokio::test]
async fn whoever_pings_too_often_is_sent_away() {
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0 a ping ";
    let cluster = Cluster::start();
    let proxy = cluster.proxy().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stream.write_all(&PING.repeat(4)).await.unwrap();
    let mut told = Vec::new();
    within("farewell", stream.read_to_end(&mut told)).await.unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("too_many_pings"), "{told}");
}
