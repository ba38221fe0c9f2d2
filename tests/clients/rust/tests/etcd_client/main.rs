//! The crate etcd-client, all of it, against running members. Where those are is said by the environment.
//!
//! The tests share members, so each has keys of its own, and they run one after the other (`--test-threads=1`), which lets them
//! count revisions.

mod connections;
mod tls;

use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, CampaignResponse, Client, CompactionOptions, Compare,
    CompareOp, ConnectOptions, DeleteOptions, DowngradeOptions, Error, EventType, GetOptions,
    KvClientPrefix, LeaderKey, LeaseClientPrefix, LeaseGrantOptions, LeaseTimeToLiveOptions,
    LockOptions, MemberAddOptions, Permission, PermissionType, ProclaimOptions, PutOptions,
    ResignOptions, RoleRevokePermissionOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    UserAddOptions, WatchFilterType, WatchOptions, WatchStream,
};

/// How long anything may take that ought to happen soon.
const PATIENCE: Duration = Duration::from_secs(20);

fn addresses(variable: &str) -> Vec<String> {
    let value = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: start the tests with tests/clients/run")
    });
    value.split(',').map(String::from).collect()
}

async fn connect(endpoints: &[String], options: ConnectOptions) -> Client {
    Client::connect(endpoints, Some(options.with_timeout(PATIENCE).with_connect_timeout(PATIENCE)))
        .await
        .expect("connects")
}

/// Whether the member stands for this version of etcd or a later one, such as "3.6".
async fn is_at_least(client: &mut Client, version: &str) -> bool {
    // One digit each, for as long as there is no 3.10.
    &client.status().await.expect("status").version()[..3] >= version
}

async fn member() -> Client {
    connect(&addresses("ETCD_MEMBER"), ConnectOptions::new()).await
}

/// One client for each member of the cluster.
async fn cluster() -> Vec<Client> {
    let mut each = Vec::new();
    for address in addresses("ETCD_CLUSTER") {
        each.push(connect(&[address], ConnectOptions::new().with_require_leader(true)).await);
    }
    each
}

/// Puts a value and returns the revision.
async fn put(client: &mut Client, key: &str, value: &str) -> i64 {
    client.put(key, value, None).await.expect("put").header().expect("header").revision()
}

/// What is at the key now.
async fn value(client: &mut Client, key: &str) -> Option<String> {
    let answer = client.get(key, None).await.expect("get");
    answer.kvs().first().map(|kv| kv.value_str().expect("text").to_owned())
}

/// The keys of an answer, behind the prefix, with spaces between.
async fn keys(client: &mut Client, key: &str, options: GetOptions) -> String {
    let answer = client.get(key, Some(options)).await.expect("get");
    let names = answer
        .kvs()
        .iter()
        .map(|kv| kv.key_str().expect("text").rsplit('/').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(" ")
}

/// The text of a refusal by the member.
fn refusal<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::GRpcStatus(status)) => status.message().to_owned(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no refusal"),
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn puts_gets_and_deletes() {
    let mut client = member().await;
    let first = put(&mut client, "rust/kv/b", "1").await;
    let second =
        client.put("rust/kv/b", "2", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(second.prev_key().expect("previous").value(), b"1");
    assert_eq!(second.header().expect("header").revision(), first + 1);
    put(&mut client, "rust/kv/a", "9").await;
    put(&mut client, "rust/kv/c", "5").await;

    let answer = client.get("rust/kv/b", None).await.expect("get");
    assert_eq!((answer.count(), answer.more()), (1, false));
    let kv = &answer.kvs()[0];
    assert_eq!((kv.key(), kv.value()), (&b"rust/kv/b"[..], &b"2"[..]));
    assert_eq!(
        (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease()),
        (first, first + 1, 2, 0)
    );

    let prefix = || GetOptions::new().with_prefix();
    assert_eq!(keys(&mut client, "rust/kv/", prefix()).await, "a b c");
    assert_eq!(
        keys(&mut client, "rust/kv/a", GetOptions::new().with_range("rust/kv/c")).await,
        "a b"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/b", GetOptions::new().with_range("rust/kv0")).await,
        "b c"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_sort(SortTarget::Value, SortOrder::Descend))
            .await,
        "a c b"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_sort(SortTarget::Create, SortOrder::Ascend))
            .await,
        "b a c"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_sort(SortTarget::Mod, SortOrder::Ascend)).await,
        "b a c"
    );
    assert_eq!(
        keys(
            &mut client,
            "rust/kv/",
            prefix().with_sort(SortTarget::Version, SortOrder::Descend).with_limit(1)
        )
        .await,
        "b"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_min_mod_revision(first + 2)).await,
        "a c"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_max_mod_revision(first + 2)).await,
        "a b"
    );
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_min_create_revision(first + 3)).await,
        "c"
    );
    assert_eq!(keys(&mut client, "rust/kv/", prefix().with_max_create_revision(first)).await, "b");
    assert_eq!(
        keys(&mut client, "rust/kv/", prefix().with_revision(first).with_serializable()).await,
        "b"
    );
    let limited = client.get("rust/kv/", Some(prefix().with_limit(2))).await.expect("get");
    assert_eq!((limited.kvs().len(), limited.count(), limited.more()), (2, 3, true));
    let counted = client.get("rust/kv/", Some(prefix().with_count_only())).await.expect("get");
    assert_eq!((counted.kvs().len(), counted.count()), (0, 3));
    let named = client.get("rust/kv/", Some(prefix().with_keys_only())).await.expect("get");
    assert!(named.kvs().iter().all(|kv| kv.value().is_empty() && kv.version() > 0));
    assert!(
        client.get("", Some(GetOptions::new().with_all_keys())).await.expect("get").count() >= 3
    );
    assert!(
        client
            .get("rust/kv/b", Some(GetOptions::new().with_from_key()))
            .await
            .expect("get")
            .count()
            >= 2
    );

    let deleted = client
        .delete("rust/kv/b", Some(DeleteOptions::new().with_prev_key()))
        .await
        .expect("delete");
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value()), (1, &b"2"[..]));
    assert_eq!(deleted.header().expect("header").revision(), first + 4);
    let nothing = client.delete("rust/kv/b", None).await.expect("delete");
    assert_eq!((nothing.deleted(), nothing.header().expect("header").revision()), (0, first + 4));
    let rest =
        client.delete("rust/kv/", Some(DeleteOptions::new().with_prefix())).await.expect("delete");
    assert_eq!(rest.deleted(), 2);
    assert_eq!(value(&mut client, "rust/kv/a").await, None);

    for (options, left) in [
        (DeleteOptions::new().with_range("rust/kv/c"), "c d"),
        (DeleteOptions::new().with_from_key(), ""),
        (DeleteOptions::new().with_all_keys(), ""),
    ] {
        for name in ["a", "b", "c", "d"] {
            put(&mut client, &format!("rust/kv/{name}"), "1").await;
        }
        client.delete("rust/kv/a", Some(options)).await.expect("delete");
        assert_eq!(keys(&mut client, "rust/kv/", prefix()).await, left);
    }
}

#[tokio::test]
async fn ranges_in_pieces() {
    let mut client = member().await;
    for i in 0..40 {
        client
            .put(format!("rust/pieces/{i:02}"), vec![b'a' + i; 100_000], None)
            .await
            .expect("put");
    }
    let options = || Some(GetOptions::new().with_prefix());
    if !is_at_least(&mut client, "3.7").await {
        let stream = client.kv_client().get_stream("rust/pieces/", options()).await;
        let refused = match stream {
            Ok(mut stream) => soon(stream.message()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let Err(Error::GRpcStatus(status)) = refused else { panic!("no refusal: {refused:?}") };
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        return;
    }
    // Together more than one message of the default size.
    let whole = client
        .kv_client()
        .max_decoding_message_size(8 << 20)
        .get("rust/pieces/", options())
        .await
        .expect("get");
    let mut stream = client.kv_client().get_stream("rust/pieces/", options()).await.expect("get");
    let (mut seen, mut pieces, mut count) = (Vec::new(), 0, 0);
    while let Some(piece) = soon(stream.message()).await.expect("piece") {
        pieces += usize::from(!piece.kvs().is_empty());
        seen.extend(piece.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())));
        count = piece.count();
    }
    assert!(pieces > 1, "4 MB come in {pieces} pieces");
    assert_eq!((count, seen.len()), (40, 40));
    let want = whole.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec()));
    assert!(want.eq(seen));
}

#[tokio::test]
async fn refusals() {
    let mut client = member().await;
    let revision = put(&mut client, "rust/refused", "1").await;
    assert_eq!(refusal(client.put("", "x", None).await), "etcdserver: key is not provided");
    let future = GetOptions::new().with_revision(revision + 1000);
    assert_eq!(
        refusal(client.get("rust/refused", Some(future)).await),
        "etcdserver: mvcc: required revision is a future revision"
    );
    let keep = PutOptions::new().with_ignore_value();
    assert_eq!(
        refusal(client.put("rust/absent", "", Some(keep)).await),
        "etcdserver: key not found"
    );
    let leased = PutOptions::new().with_lease(4711);
    assert_eq!(
        refusal(client.put("rust/refused", "2", Some(leased)).await),
        "etcdserver: requested lease not found"
    );
    let twice = Txn::new()
        .and_then([TxnOp::put("rust/refused", "2", None), TxnOp::put("rust/refused", "3", None)]);
    assert_eq!(refusal(client.txn(twice).await), "etcdserver: duplicate key given in txn request");
    assert_eq!(
        refusal(client.put("rust/refused", vec![b'x'; 1_600_000], None).await),
        "etcdserver: request is too large"
    );
    assert_eq!(value(&mut client, "rust/refused").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn compaction() {
    let mut client = member().await;
    let first = put(&mut client, "rust/compacted", "1").await;
    put(&mut client, "rust/compacted", "2").await;
    client
        .compact(first + 1, Some(CompactionOptions::new().with_physical()))
        .await
        .expect("compact");
    let earlier = client.get("rust/compacted", Some(GetOptions::new().with_revision(first))).await;
    assert_eq!(refusal(earlier), "etcdserver: mvcc: required revision has been compacted");
    let again = client.compact(first, None).await;
    assert_eq!(refusal(again), "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(value(&mut client, "rust/compacted").await.as_deref(), Some("2"));

    let mut stream = client
        .watch("rust/compacted", Some(WatchOptions::new().with_start_revision(first)))
        .await
        .expect("watch");
    loop {
        let response = soon(stream.message()).await.expect("response").expect("open");
        if response.canceled() {
            assert_eq!(response.compact_revision(), first + 1);
            break;
        }
    }
}

#[tokio::test]
async fn transactions() {
    let mut client = member().await;
    let created = put(&mut client, "rust/txn/a", "m").await;
    let absent = "rust/txn/absent";
    let comparisons = [
        (Compare::value("rust/txn/a", CompareOp::Equal, "m"), true),
        (Compare::value("rust/txn/a", CompareOp::Greater, "m"), false),
        (Compare::value("rust/txn/a", CompareOp::Less, "n"), true),
        (Compare::value("rust/txn/a", CompareOp::NotEqual, "n"), true),
        (Compare::version("rust/txn/a", CompareOp::Equal, 1), true),
        (Compare::create_revision("rust/txn/a", CompareOp::Equal, created), true),
        (Compare::mod_revision("rust/txn/a", CompareOp::Less, created), false),
        (Compare::lease("rust/txn/a", CompareOp::Equal, 0), true),
        (Compare::version(absent, CompareOp::Equal, 0), true),
        (Compare::value(absent, CompareOp::NotEqual, "x"), false),
        (Compare::version("rust/txn/", CompareOp::Greater, 0).with_prefix(), true),
        (Compare::version("rust/txn/", CompareOp::Greater, 1).with_range("rust/txn0"), false),
    ];
    for (i, (comparison, want)) in comparisons.into_iter().enumerate() {
        let answer = client.txn(Txn::new().when([comparison])).await.expect("txn");
        assert_eq!(answer.succeeded(), want, "comparison {i}");
    }
    let inner = Txn::new()
        .when([Compare::value("rust/txn/b", CompareOp::Equal, "new")])
        .and_then([TxnOp::get("rust/txn/", Some(GetOptions::new().with_prefix()))])
        .or_else([TxnOp::put("rust/txn/wrong", "branch", None)]);
    let outer = Txn::new()
        .when([Compare::value("rust/txn/a", CompareOp::Equal, "m")])
        .and_then([
            TxnOp::put("rust/txn/b", "new", Some(PutOptions::new().with_prev_key())),
            TxnOp::delete("rust/txn/a", Some(DeleteOptions::new().with_prev_key())),
            TxnOp::get("rust/txn/", Some(GetOptions::new().with_prefix())),
        ])
        .or_else([TxnOp::put("rust/txn/wrong", "branch", None)]);
    let answer = client.txn(outer).await.expect("txn");
    assert!(answer.succeeded());
    assert_eq!(answer.header().expect("header").revision(), created + 1);
    let responses = answer.op_responses();
    let [TxnOpResponse::Put(written), TxnOpResponse::Delete(deleted), TxnOpResponse::Get(got)] =
        &responses[..]
    else {
        panic!("other responses: {responses:?}");
    };
    assert!(written.prev_key().is_none());
    assert_eq!(deleted.prev_kvs()[0].value(), b"m");
    assert_eq!(
        (got.count(), got.kvs()[0].key(), got.kvs()[0].mod_revision()),
        (1, &b"rust/txn/b"[..], created + 1)
    );

    let nested = Txn::new().and_then([TxnOp::txn(inner)]);
    let answer = client.txn(nested).await.expect("txn");
    let [TxnOpResponse::Txn(nested)] = &answer.op_responses()[..] else {
        panic!("no transaction inside")
    };
    let nested = nested.clone();
    assert!(nested.succeeded());
    let other = Txn::new()
        .when([Compare::value("rust/txn/b", CompareOp::Equal, "old")])
        .or_else([TxnOp::get("rust/txn/b", None)]);
    let answer = client.txn(other).await.expect("txn");
    assert!(!answer.succeeded());
    assert_eq!(value(&mut client, "rust/txn/wrong").await, None);
    client.delete("rust/txn/", Some(DeleteOptions::new().with_prefix())).await.expect("delete");
}

/// The next `count` events of a stream, as "put key=value@revision (was value)", revisions counted from `base`.
async fn events(stream: &mut WatchStream, count: usize, base: i64) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let response = soon(stream.message()).await.expect("response").expect("open");
        assert!(!response.canceled(), "canceled: {}", response.cancel_reason());
        for event in response.events() {
            let kv = event.kv().expect("key");
            let key = kv.key_str().expect("text").rsplit('/').next().unwrap_or_default().to_owned();
            let mut text = match event.event_type() {
                EventType::Put => format!("put {key}={}", kv.value_str().expect("text")),
                EventType::Delete => format!("delete {key}"),
            };
            text += &format!("@{}", kv.mod_revision() - base);
            if let Some(previous) = event.prev_kv() {
                text += &format!(" (was {})", previous.value_str().expect("text"));
            }
            seen.push(text);
        }
    }
    seen
}

/// Begins to watch, and returns when the member has said so.
async fn watch(client: &mut Client, key: &str, options: WatchOptions) -> WatchStream {
    let mut stream = client.watch(key, Some(options)).await.expect("watch");
    let created = soon(stream.message()).await.expect("response").expect("open");
    assert!(created.created());
    stream
}

#[tokio::test]
async fn watches() {
    let mut client = member().await;
    // The key of the call is the one that counts.
    let mut one =
        watch(&mut client, "rust/watch/a", WatchOptions::new().with_key("elsewhere")).await;
    let mut later = watch(&mut client, "rust/watch/b", WatchOptions::new().with_from_key()).await;
    let mut everything = watch(&mut client, "ignored", WatchOptions::new().with_all_keys()).await;
    let mut all = watch(
        &mut client,
        "rust/watch/",
        WatchOptions::new().with_prefix().with_prev_key().with_fragment(),
    )
    .await;
    let filters = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
    let mut deletions = watch(&mut client, "rust/watch/", filters).await;
    let filters =
        WatchOptions::new().with_range("rust/watch/b").with_filters([WatchFilterType::NoDelete]);
    let mut puts = watch(&mut client, "rust/watch/a", filters).await;
    let base = put(&mut client, "rust/watch/a", "1").await;
    put(&mut client, "rust/watch/b", "2").await;
    put(&mut client, "rust/watch/a", "3").await;
    client.delete("rust/watch/", Some(DeleteOptions::new().with_prefix())).await.expect("delete");
    assert_eq!(events(&mut one, 3, base).await, ["put a=1@0", "put a=3@2", "delete a@3"]);
    assert_eq!(
        events(&mut all, 5, base).await,
        ["put a=1@0", "put b=2@1", "put a=3@2 (was 1)", "delete a@3 (was 3)", "delete b@3 (was 2)"]
    );
    assert_eq!(events(&mut later, 2, base).await, ["put b=2@1", "delete b@3"]);
    assert_eq!(
        events(&mut everything, 5, base).await,
        ["put a=1@0", "put b=2@1", "put a=3@2", "delete a@3", "delete b@3"]
    );
    assert_eq!(events(&mut deletions, 2, base).await, ["delete a@3", "delete b@3"]);
    assert_eq!(events(&mut puts, 2, base).await, ["put a=1@0", "put a=3@2"]);
    let mut past = watch(
        &mut client,
        "rust/watch/",
        WatchOptions::new().with_prefix().with_start_revision(base + 1),
    )
    .await;
    assert_eq!(
        events(&mut past, 4, base).await,
        ["put b=2@1", "put a=3@2", "delete a@3", "delete b@3"]
    );
}

#[tokio::test]
async fn progress_of_itself() {
    let mut client = member().await;
    let revision = put(&mut client, "rust/progress/unwatched", "1").await;
    // The members are told to report each second.
    let mut stream =
        watch(&mut client, "rust/progress/a", WatchOptions::new().with_progress_notify()).await;
    let progress = soon(stream.message()).await.expect("response").expect("open");
    assert!(progress.events().is_empty() && !progress.created() && !progress.canceled());
    assert!(progress.header().expect("header").revision() >= revision);
}

#[tokio::test]
async fn several_watches_of_one_stream() {
    let mut client = member().await;
    let mut stream =
        watch(&mut client, "rust/stream/a", WatchOptions::new().with_watch_id(7)).await;
    stream.watch("rust/stream/b", Some(WatchOptions::new().with_watch_id(8))).await.expect("watch");
    let created = soon(stream.message()).await.expect("response").expect("open");
    assert_eq!((created.created(), created.watch_id()), (true, 8));
    stream.watch("rust/stream/b", Some(WatchOptions::new().with_watch_id(8))).await.expect("watch");
    let refused = soon(stream.message()).await.expect("response").expect("open");
    assert!(refused.canceled());
    assert_eq!(refused.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream");

    let base = put(&mut client, "rust/stream/b", "1").await;
    let response = soon(stream.message()).await.expect("response").expect("open");
    assert_eq!((response.watch_id(), response.events().len()), (8, 1));
    stream.cancel(8).await.expect("cancel");
    let canceled = soon(stream.message()).await.expect("response").expect("open");
    assert_eq!((canceled.watch_id(), canceled.canceled()), (8, true));
    put(&mut client, "rust/stream/b", "2").await;
    put(&mut client, "rust/stream/a", "3").await;
    assert_eq!(events(&mut stream, 1, base).await, ["put a=3@2"]);

    // Progress is the revision up to which everything has been told.
    let (mut sender, mut responses) = stream.split();
    loop {
        sender.request_progress().await.expect("request");
        let progress = soon(responses.message()).await.expect("response").expect("open");
        assert!(progress.events().is_empty());
        if progress.header().expect("header").revision() >= base + 2 {
            break;
        }
    }
    sender.cancel(7).await.expect("cancel");
    assert!(soon(responses.message()).await.expect("response").expect("open").canceled());
}

#[tokio::test]
async fn leases() {
    let mut client = member().await;
    let granted = client
        .lease_grant(600, Some(LeaseGrantOptions::new().with_id(12345)))
        .await
        .expect("grant");
    assert_eq!((granted.id(), granted.ttl()), (12345, 600));
    let again = client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(12345))).await;
    assert_eq!(refusal(again), "etcdserver: lease already exists");
    let options = || Some(PutOptions::new().with_lease(12345));
    client.put("rust/lease/a", "1", options()).await.expect("put");
    client.put("rust/lease/b", "2", options()).await.expect("put");
    client
        .put("rust/lease/b", "3", Some(PutOptions::new().with_ignore_lease()))
        .await
        .expect("put");
    let left = client
        .lease_time_to_live(12345, Some(LeaseTimeToLiveOptions::new().with_keys()))
        .await
        .expect("time to live");
    assert!(left.ttl() > 500 && left.granted_ttl() == 600);
    let mut attached = left.keys().to_vec();
    attached.sort();
    assert_eq!(attached, [b"rust/lease/a", b"rust/lease/b"]);
    assert!(
        client.leases().await.expect("leases").leases().iter().any(|lease| lease.id() == 12345)
    );

    let (mut keeper, mut renewals) = client.lease_keep_alive(12345).await.expect("keep alive");
    for _ in 0..3 {
        keeper.keep_alive().await.expect("keep alive");
        let renewed = soon(renewals.message()).await.expect("response").expect("open");
        assert_eq!((renewed.id(), renewed.ttl()), (12345, 600));
    }
    client.lease_revoke(12345).await.expect("revoke");
    assert_eq!(value(&mut client, "rust/lease/a").await, None);
    assert_eq!(refusal(client.lease_revoke(12345).await), "etcdserver: requested lease not found");
    assert_eq!(client.lease_time_to_live(12345, None).await.expect("time to live").ttl(), -1);

    // A lease that nobody renews takes its keys with it.
    let granted = client.lease_grant(1, None).await.expect("grant");
    assert_eq!(granted.ttl(), 2);
    let mut stream = watch(&mut client, "rust/lease/", WatchOptions::new().with_prefix()).await;
    let begun = Instant::now();
    let short = PutOptions::new().with_lease(granted.id());
    let base = client
        .put("rust/lease/c", "4", Some(short))
        .await
        .expect("put")
        .header()
        .expect("header")
        .revision();
    assert_eq!(events(&mut stream, 2, base).await, ["put c=4@0", "delete c@1"]);
    assert!(begun.elapsed() > Duration::from_millis(1500));
}

#[tokio::test]
async fn locks() {
    let mut client = member().await;
    let mut other = member().await;
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    let first =
        client.lock("rust/lock", Some(LockOptions::new().with_lease(lease))).await.expect("lock");
    assert_eq!(first.key(), format!("rust/lock/{lease:x}").as_bytes());
    let holder = client.get(first.key(), None).await.expect("get");
    assert_eq!(holder.kvs()[0].lease(), lease);
    assert_eq!(holder.kvs()[0].create_revision(), first.header().expect("header").revision());

    // Who comes second waits until the first has left.
    let mut waiting = tokio::spawn(async move { other.lock("rust/lock", None).await });
    let prefix = || Some(GetOptions::new().with_prefix().with_count_only());
    soon(async {
        while client.get("rust/lock/", prefix()).await.expect("get").count() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    client.unlock(first.key()).await.expect("unlock");
    let second = soon(waiting).await.expect("task").expect("lock");
    assert_ne!(second.key(), first.key());

    // A lock ends with its lease.
    let again = client
        .lock("rust/other lock", Some(LockOptions::new().with_lease(lease)))
        .await
        .expect("lock");
    client.lease_revoke(lease).await.expect("revoke");
    assert_eq!(client.get(again.key(), None).await.expect("get").count(), 0);
    client.unlock(second.key()).await.expect("unlock");
    assert_eq!(client.get("rust/lock/", prefix()).await.expect("get").count(), 0);
}

async fn campaign(client: &mut Client, value: &str, lease: i64) -> CampaignResponse {
    soon(client.campaign("rust/election", value, lease)).await.expect("campaign")
}

#[tokio::test]
async fn elections() {
    let mut client = member().await;
    let mut other = member().await;
    assert_eq!(refusal(client.leader("rust/election").await), "election: no leader");
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    let others_lease = client.lease_grant(600, None).await.expect("grant").id();
    let won = campaign(&mut client, "one", lease).await;
    let key = won.leader().expect("leader").clone();
    assert_eq!(key.name(), b"rust/election");
    assert_eq!(key.key(), format!("rust/election/{lease:x}").as_bytes());
    assert_eq!((key.lease(), key.rev()), (lease, won.header().expect("header").revision()));
    let told = other.leader("rust/election").await.expect("leader");
    assert_eq!(told.kv().expect("key").value(), b"one");

    let mut observed = other.observe("rust/election").await.expect("observe");
    let seen = soon(observed.message()).await.expect("response").expect("open");
    assert_eq!(seen.kv().expect("key").value(), b"one");
    client
        .proclaim("one again", Some(ProclaimOptions::new().with_leader(key.clone())))
        .await
        .expect("proclaim");
    let seen = soon(observed.message()).await.expect("response").expect("open");
    assert_eq!(seen.kv().expect("key").value(), b"one again");

    let waiting = tokio::spawn(async move { campaign(&mut other, "two", others_lease).await });
    soon(async {
        let prefix = || Some(GetOptions::new().with_prefix().with_count_only());
        while client.get("rust/election/", prefix()).await.expect("get").count() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // A leader's key can be made of what is known of it.
    let remade = LeaderKey::new()
        .with_name("rust/election")
        .with_key(key.key())
        .with_rev(key.rev())
        .with_lease(lease);
    assert_eq!(remade.name_str().expect("text"), "rust/election");
    client.resign(Some(ResignOptions::new().with_leader(remade))).await.expect("resign");
    let second = soon(waiting).await.expect("task");
    assert_eq!(second.leader().expect("leader").lease(), others_lease);
    let seen = soon(observed.message()).await.expect("response").expect("open");
    assert_eq!(seen.kv().expect("key").value(), b"two");
    let late = client.proclaim("one", Some(ProclaimOptions::new().with_leader(key))).await;
    assert_eq!(refusal(late), "election: not leader");
    client.lease_revoke(others_lease).await.expect("revoke");
    assert_eq!(refusal(client.leader("rust/election").await), "election: no leader");
    client.lease_revoke(lease).await.expect("revoke");
}

#[tokio::test]
async fn namespaces() {
    let mut client = member().await;
    let mut inside = KvClientPrefix::new(client.kv_client(), b"rust/space/".to_vec());
    inside.put("a", "1", None).await.expect("put");
    assert_eq!(value(&mut client, "rust/space/a").await.as_deref(), Some("1"));
    let got = inside.get("a", None).await.expect("get");
    assert_eq!(got.kvs()[0].key(), b"a");
    let txn = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("b", "2", None)]);
    assert!(inside.txn(txn).await.expect("txn").succeeded());
    assert_eq!(value(&mut client, "rust/space/b").await.as_deref(), Some("2"));
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    inside.put("leased", "3", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    let mut leases = LeaseClientPrefix::new(client.lease_client(), b"rust/space/".to_vec());
    let left = leases
        .time_to_live(lease, Some(LeaseTimeToLiveOptions::new().with_keys()))
        .await
        .expect("time to live");
    assert_eq!(left.keys(), [b"leased"]);
    client.lease_revoke(lease).await.expect("revoke");
    let deleted = inside
        .delete("", Some(DeleteOptions::new().with_prefix().with_prev_key()))
        .await
        .expect("delete");
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].key()), (2, &b"a"[..]));
}

#[tokio::test]
async fn maintenance() {
    let mut client = member().await;
    let revision = put(&mut client, "rust/kept", "a value that is looked for").await;
    let status = client.status().await.expect("status");
    let id = status.header().expect("header").member_id();
    assert_eq!(status.leader(), id);
    assert!(
        status.version().starts_with("3.") && !status.is_learner() && status.errors().is_empty()
    );
    assert!(status.raft_applied_index() <= status.raft_index() && status.raft_term() > 0);
    assert!(status.db_size() >= status.raft_used_db_size() && status.raft_used_db_size() > 0);

    // What 3.5 does not say yet.
    let newer = is_at_least(&mut client, "3.6").await;
    assert_eq!(status.db_size_quota(), if newer { 2 << 30 } else { 0 });
    assert!(status.downgrade_info().is_none_or(|info| !info.enabled()));
    let mut storage = status.storage_version().to_owned();
    if newer {
        // The version of a new cluster is decided after its first election.
        let cluster_version = format!("{}.0", &status.version()[..3]);
        soon(async {
            while storage != cluster_version {
                tokio::time::sleep(Duration::from_millis(20)).await;
                storage = client.status().await.expect("status").storage_version().to_owned();
            }
        })
        .await;
    }

    let mut raise = AlarmOptions::new();
    raise.with_member(id);
    let raised = client
        .alarm(AlarmAction::Activate, AlarmType::Nospace, Some(raise.clone()))
        .await
        .expect("alarm");
    assert_eq!(
        (raised.alarms()[0].alarm(), raised.alarms()[0].member_id()),
        (AlarmType::Nospace, id)
    );
    assert_eq!(
        refusal(client.put("rust/kept", "x", None).await),
        "etcdserver: mvcc: database space exceeded"
    );
    let listed = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarm");
    assert_eq!(listed.alarms().len(), 1);
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(raise)).await.expect("alarm");
    let listed = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarm");
    assert_eq!(listed.alarms().len(), 0);

    let hash = client.hash_kv(revision).await.expect("hash");
    assert_eq!(hash.hash(), client.hash_kv(0).await.expect("hash").hash());
    assert_eq!(hash.hash_revision(), if newer { revision } else { 0 });
    assert!(hash.compact_version() < revision);
    client.defragment().await.expect("defragment");
    assert_eq!(hash.hash(), client.hash_kv(revision).await.expect("hash").hash());
    assert_ne!(client.hash().await.expect("hash").hash(), 0);

    let mut snapshot = client.snapshot().await.expect("snapshot");
    let mut content = Vec::new();
    let mut remaining = None;
    while let Some(part) = soon(snapshot.message()).await.expect("part") {
        content.extend_from_slice(part.blob());
        assert_eq!(part.version(), storage);
        // What remains shrinks by what came. The sum at the end is not counted among it.
        if let Some(before) = remaining.replace(part.remaining_bytes()) {
            assert!(part.remaining_bytes() <= before);
        }
    }
    assert_eq!(remaining, Some(0));
    assert_eq!(content.len() % 4096, 32);
    assert!(content.windows(26).any(|window| window == b"a value that is looked for"));

    let downgrade =
        client.maintenance_client().downgrade(DowngradeOptions::Validate("3.1.0".into())).await;
    assert_eq!(refusal(downgrade), "etcdserver: invalid downgrade target version");
}

#[tokio::test]
async fn downgrades() {
    let mut client = connect(&addresses("ETCD_AUTH_MEMBER"), ConnectOptions::new()).await;
    let mut maintenance = client.maintenance_client();
    let version = client.status().await.expect("status").version().to_owned();
    let minor: u32 = version.split('.').nth(1).expect("minor").parse().expect("number");
    if minor == 5 {
        // One that is begun is carried out there, but not answered.
        assert_eq!(
            refusal(maintenance.downgrade(DowngradeOptions::Cancel).await),
            "etcdserver: no inflight downgrade job"
        );
        return;
    }
    let target = format!("3.{}.0", minor - 1);
    let begun = loop {
        match maintenance.downgrade(DowngradeOptions::Enable(target.clone())).await {
            // A new cluster has no version yet.
            Err(Error::GRpcStatus(status))
                if status.message().contains("cluster version not found") =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => break other.expect("downgrade"),
        }
    };
    assert_eq!(begun.version().split('.').nth(1), version.split('.').nth(1));
    assert_eq!(
        refusal(maintenance.downgrade(DowngradeOptions::Enable(target.clone())).await),
        "etcdserver: cluster has a downgrade job in progress"
    );
    let status = client.status().await.expect("status");
    let info = status.downgrade_info().expect("downgrade");
    assert_eq!((info.enabled(), info.target_version()), (true, &target[..]));
    maintenance.downgrade(DowngradeOptions::Cancel).await.expect("cancel");
    let status = client.status().await.expect("status");
    assert!(status.downgrade_info().is_none_or(|info| !info.enabled()));
}

#[tokio::test]
async fn cluster_of_three() {
    let mut each = cluster().await;
    let revision = put(&mut each[0], "rust/cluster", "1").await;
    let mut hashes = Vec::new();
    let mut clusters = std::collections::BTreeSet::new();
    for client in &mut each {
        let status = client.status().await.expect("status");
        clusters.insert(status.header().expect("header").cluster_id());
        assert_eq!(value(client, "rust/cluster").await.as_deref(), Some("1"));
        hashes.push(client.hash_kv(revision).await.expect("hash").hash());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    assert_eq!(clusters.len(), 1);

    let list = each[0].member_list().await.expect("members");
    assert_eq!(list.members().len(), 3);
    let mut urls: Vec<String> = list
        .members()
        .iter()
        .map(|member| member.client_urls()[0].replace("http://", ""))
        .collect();
    let mut endpoints = addresses("ETCD_CLUSTER");
    urls.sort();
    endpoints.sort();
    assert_eq!(urls, endpoints);

    // One client of all of them goes on when an endpoint goes.
    let mut all = connect(&addresses("ETCD_CLUSTER"), ConnectOptions::new()).await;
    let mut members = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let answer = all.get("rust/cluster", None).await.expect("get");
        members.insert(answer.header().expect("header").member_id());
    }
    assert!(members.len() > 1, "requests go to {} members", members.len());

    let mut stream = watch(&mut each[1], "rust/cluster/moved", WatchOptions::new()).await;
    let mut leader = 0;
    for (i, client) in each.iter_mut().enumerate() {
        let status = client.status().await.expect("status");
        if status.leader() == status.header().expect("header").member_id() {
            leader = i;
        }
    }
    let target = (leader + 1) % 3;
    let id = each[target].status().await.expect("status").header().expect("header").member_id();
    assert_eq!(refusal(each[target].move_leader(id).await), "etcdserver: not leader");
    each[leader].move_leader(id).await.expect("move");
    soon(async {
        while each[leader].status().await.expect("status").leader() != id {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let base = put(&mut each[target], "rust/cluster/moved", "1").await;
    assert_eq!(events(&mut stream, 1, base).await, ["put moved=1@0"]);
}

#[tokio::test]
async fn membership() {
    // The leader: a change that comes to it before it has applied the one before is dropped, and its client waits.
    let mut each = cluster().await;
    let mut leader = 0;
    for (i, client) in each.iter_mut().enumerate() {
        let status = client.status().await.expect("status");
        if status.leader() == status.header().expect("header").member_id() {
            leader = i;
        }
    }
    let mut client = each.remove(leader);
    let learner = || Some(MemberAddOptions::new().with_is_learner());
    let begun = Instant::now();
    // Members must have known each other for a while before they let others in.
    let added = loop {
        match client.member_add(["http://127.0.0.1:1"], learner()).await {
            Err(Error::GRpcStatus(status))
                if status.message() == "etcdserver: unhealthy cluster" =>
            {
                assert!(begun.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => break other.expect("add"),
        }
    };
    let member = added.member().expect("member");
    let id = member.id();
    assert!(member.is_learner());
    assert_eq!(member.peer_urls(), ["http://127.0.0.1:1"]);
    assert_eq!(added.member_list().len(), 4);
    assert_eq!(
        refusal(client.member_promote(id).await),
        "etcdserver: can only promote a learner member which is in sync with leader"
    );
    let updated =
        client.member_update(id, ["http://127.0.0.1:2".to_owned()]).await.expect("update");
    let moved = updated.members().iter().find(|member| member.id() == id).expect("there");
    assert_eq!(moved.peer_urls(), ["http://127.0.0.1:2"]);
    assert_eq!(client.member_remove(id).await.expect("remove").members().len(), 3);
    assert_eq!(refusal(client.member_remove(id).await), "etcdserver: member not found");
}

#[tokio::test]
async fn authentication() {
    let address = addresses("ETCD_AUTH_MEMBER");
    let mut anonymous = connect(&address, ConnectOptions::new()).await;
    assert_eq!(refusal(anonymous.auth_enable().await), "etcdserver: root user does not exist");
    for name in ["root", "alice", "bob"] {
        anonymous.user_add(name, format!("{name}'s password"), None).await.expect("user");
    }
    anonymous
        .user_add("certificate", "", Some(UserAddOptions::new().with_no_pwd()))
        .await
        .expect("user");
    assert_eq!(
        refusal(anonymous.user_add("bob", "x", None).await),
        "etcdserver: user name already exists"
    );
    assert_eq!(
        anonymous.user_list().await.expect("users").users(),
        ["alice", "bob", "certificate", "root"]
    );
    for name in ["root", "reader", "writer"] {
        anonymous.role_add(name).await.expect("role");
    }
    assert_eq!(anonymous.role_list().await.expect("roles").roles(), ["reader", "root", "writer"]);
    anonymous
        .role_grant_permission("reader", Permission::read("shared/").with_prefix())
        .await
        .expect("grant");
    anonymous
        .role_grant_permission("writer", Permission::read_write("shared/").with_prefix())
        .await
        .expect("grant");
    anonymous.role_grant_permission("writer", Permission::write("drop")).await.expect("grant");
    let permissions = anonymous.role_get("writer").await.expect("role").permissions();
    assert_eq!(permissions.len(), 2);
    assert_eq!(
        (permissions[0].key(), permissions[0].get_type()),
        (&b"drop"[..], PermissionType::Write as i32)
    );
    assert!(permissions[1].is_prefix());
    anonymous.role_revoke_permission("writer", "drop", None).await.expect("revoke");
    for (user, role) in
        [("root", "root"), ("alice", "reader"), ("bob", "writer"), ("bob", "reader")]
    {
        anonymous.user_grant_role(user, role).await.expect("grant");
    }
    anonymous.user_revoke_role("bob", "reader").await.expect("revoke");
    assert_eq!(anonymous.user_get("bob").await.expect("user").roles(), ["writer"]);
    anonymous.auth_enable().await.expect("enable");

    assert_eq!(
        refusal(anonymous.put("shared/a", "x", None).await),
        "etcdserver: user name is empty"
    );
    let login = |name: &str, password: &str| {
        ConnectOptions::new().with_user(name, password).with_auto_token_refresh(true)
    };
    let wrong = Client::connect(&address, Some(login("alice", "wrong"))).await;
    assert_eq!(
        refusal(wrong.map(|_| ())),
        "etcdserver: authentication failed, invalid user ID or password"
    );
    let mut root = connect(&address, login("root", "root's password")).await;
    let mut alice = connect(&address, login("alice", "alice's password")).await;
    let mut bob = connect(&address, login("bob", "bob's password")).await;
    put(&mut bob, "shared/a", "bob's").await;
    assert_eq!(value(&mut alice, "shared/a").await.as_deref(), Some("bob's"));
    let denied = "etcdserver: permission denied";
    assert_eq!(refusal(alice.put("shared/a", "alice's", None).await), denied);
    assert_eq!(
        refusal(alice.get("shared/", Some(GetOptions::new().with_from_key())).await),
        denied
    );
    assert_eq!(refusal(bob.put("drop", "x", None).await), denied);
    assert_eq!(refusal(alice.user_list().await), denied);
    let half =
        Txn::new().and_then([TxnOp::get("shared/a", None), TxnOp::put("shared/a", "x", None)]);
    assert_eq!(refusal(alice.txn(half).await), denied);
    let mut stream = alice.watch("elsewhere", None).await.expect("watch");
    let refused = soon(stream.message()).await.expect("response").expect("open");
    assert!(refused.canceled());
    assert!(refused.cancel_reason().contains("permission denied"), "{}", refused.cancel_reason());
    // Another user over the same connections; one who is not believed changes nothing.
    let mut changing = connect(&address, login("alice", "alice's password")).await;
    let user = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
    changing.update_user(user("bob", "bob's password")).await.expect("login");
    put(&mut changing, "shared/a", "bob's").await;
    assert_eq!(
        refusal(changing.update_user(user("alice", "wrong")).await),
        "etcdserver: authentication failed, invalid user ID or password"
    );
    put(&mut changing, "shared/a", "bob's").await;
    changing.update_user(None).await.expect("nobody");
    assert_eq!(
        refusal(changing.put("shared/a", "x", None).await),
        "etcdserver: user name is empty"
    );
    let token =
        anonymous.auth_client().authenticate("alice".into(), "alice's password".into()).await;
    assert!(!token.expect("login").token().is_empty());

    // Permissions of every shape, granted and taken.
    let (read, revoke) = (Permission::read, RoleRevokePermissionOptions::new);
    for (permission, options, key, (first, end)) in [
        (
            read("rights/").with_range_end("rights0"),
            revoke().with_range_end("rights0"),
            "rights/",
            ("rights/", "rights0"),
        ),
        (read("rights/").with_from_key(), revoke().with_from_key(), "rights/", ("rights/", "\0")),
        (read("").with_all_keys(), revoke().with_all_keys(), "", ("\0", "\0")),
    ] {
        assert_eq!(refusal(alice.get("rights/a", None).await), denied);
        root.role_grant_permission("reader", permission).await.expect("grant");
        alice.get("rights/a", None).await.expect("get");
        let granted = root.role_get("reader").await.expect("role").permissions();
        let is_it = |each: &Permission| {
            each.key() == first.as_bytes() && each.range_end() == end.as_bytes()
        };
        assert!(granted.iter().any(is_it), "{granted:?}");
        root.role_revoke_permission("reader", key, Some(options)).await.expect("revoke");
    }

    let lease = bob.lease_grant(600, None).await.expect("grant").id();
    bob.put("shared/leased", "1", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    assert_eq!(refusal(alice.lease_revoke(lease).await), denied);

    // Tokens are forgotten while authentication is off.
    root.auth_disable().await.expect("disable");
    anonymous.auth_enable().await.expect("enable");
    alice.refresh_token().await.expect("a new token");
    assert_eq!(value(&mut alice, "shared/a").await.as_deref(), Some("bob's"));
    root.refresh_token().await.expect("a new token");
    root.role_revoke_permission(
        "reader",
        "shared/",
        Some(RoleRevokePermissionOptions::new().with_prefix()),
    )
    .await
    .expect("revoke");
    assert_eq!(refusal(alice.get("shared/a", None).await), denied);
    root.user_change_password("alice", "another").await.expect("password");
    assert!(Client::connect(&address, Some(login("alice", "alice's password"))).await.is_err());
    connect(&address, login("alice", "another")).await;
    root.user_delete("alice").await.expect("delete");
    root.role_delete("reader").await.expect("delete");
    assert_eq!(refusal(root.user_get("alice").await), "etcdserver: user name not found");
    root.auth_disable().await.expect("disable");
    put(&mut anonymous, "shared/a", "anybody's").await;
}
