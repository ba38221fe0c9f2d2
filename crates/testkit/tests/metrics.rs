//! `/metrics`: what dashboards and alerts read is there, says what was done, and has the form that real etcd gives it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "counts are for other tests")]
mod common;
#[path = "metrics/exposition.rs"]
mod exposition;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use exposition::{Family, Page, get, get_on, post};
use proto::etcdserverpb as pb;
use testkit::api::{Api, Request};
use testkit::member::{self, Member, Options};
use testkit::{embed, programs};

/// Puts that the load makes.
const PUTS: usize = 20;

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "value".into(), ..Default::default() }
}

/// A bit of everything, on one member.
async fn load(api: &Api) {
    let range = pb::RangeRequest { key: "k1".into(), ..Default::default() };
    for number in 0..PUTS {
        // Twice each, so that a compaction finds something.
        api.put(put(&format!("k{}", number % 10))).await.unwrap();
    }
    for _ in 0..10 {
        api.range(range.clone()).await.unwrap();
    }
    let delete = pb::DeleteRangeRequest { key: "k2".into(), ..Default::default() };
    api.call(Request::DeleteRange(delete)).await.unwrap();
    let op =
        |key: &str| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key))) };
    let txn = pb::TxnRequest { success: vec![op("t1"), op("t2")], ..Default::default() };
    api.call(Request::Txn(txn)).await.unwrap();
    let lease = pb::LeaseGrantRequest { id: 77, ttl: 600 };
    api.call(Request::LeaseGrant(lease)).await.unwrap();
    api.call(Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: 77 })).await.unwrap();
    api.call(Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 77 })).await.unwrap();
    let hash = Request::HashKv(pb::HashKvRequest { revision: 0 });
    api.call(hash).await.unwrap();
    // Physical: it returns when the work is done.
    let compact = pb::CompactionRequest { revision: 15, physical: true };
    api.call(Request::Compact(compact)).await.unwrap();
    assert!(api.call(Request::Compact(compact)).await.is_err(), "it is compacted already");
    let mut watch = api.watch_all(18).await.unwrap();
    watch.next().await.unwrap().unwrap();
}

/// Starts three members, works with the first, kills the last, and reads the pages of the other two.
fn pages(program: &Path, flags: &[&str]) -> Vec<Page> {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(program, &folder.path().join("cluster")).with(flags);
    let mut members = member::start_cluster(&options, 3).unwrap();
    common::runtime().block_on(async {
        let api = Api::connect(&members[0].url()).await.unwrap();
        load(&api).await;
        post_garbage(&api).await;
    });
    for path in ["/health", "/livez", "/readyz"] {
        let (head, _) = get(&members[0].endpoint(), path);
        assert!(head.contains(" 200 "), "{path}: {head}");
    }
    members.pop().unwrap().kill().unwrap();
    // The prober looks for the first time after 5 s, and messages to the dead member are lost at once.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let pages: Vec<Page> = members.iter().map(page).collect();
        let is_there = |name| pages.iter().any(|page| page.families.contains_key(name));
        let wanted = [
            "etcd_network_peer_round_trip_time_seconds",
            "etcd_network_peer_sent_failures_total",
            "etcd_network_disconnected_peers_total",
        ];
        if wanted.into_iter().all(is_there) {
            return pages;
        }
        assert!(Instant::now() < deadline, "no figures of peers");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Something of this cluster that is no message, at the peer port of this member.
async fn post_garbage(api: &Api) {
    let header = api.status().await.unwrap().header.unwrap();
    let known = api.member_list(false).await.unwrap();
    let own = known.iter().find(|member| member.id == header.member_id).unwrap();
    let address = own.peer_urls[0].strip_prefix("http://").unwrap();
    let headers = format!(
        "X-Etcd-Cluster-ID: {:x}\r\nX-Server-Version: 3.5.0\r\nX-Min-Cluster-Version: 3.0.0\r\n",
        header.cluster_id
    );
    let head = post(address, "/raft", &headers, "garbage");
    assert!(head.contains(" 400 "), "{head}");
}

fn page(member: &Member) -> Page {
    let (head, body) = get(&member.endpoint(), "/metrics");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    Page::parse(&body)
}

/// What all pages together say of each name.
fn families(pages: &[Page]) -> BTreeMap<String, Family> {
    let mut all: BTreeMap<String, Family> = BTreeMap::new();
    for page in pages {
        for (name, family) in &page.families {
            let known = all.entry(name.clone()).or_default();
            known.kind.clone_from(&family.kind);
            known.labels.extend(family.labels.iter().cloned());
            if known.bounds.is_empty() {
                known.bounds.clone_from(&family.bounds);
            }
        }
    }
    all
}

/// TOB-010 among others: a metric of etcd that nothing ever moved.
#[test]
fn tob_010_what_is_watched_is_there_and_says_what_was_done() {
    let ours = programs::ours().unwrap();
    let pages = pages(&ours.etcd, &["--metrics=extensive"]);
    let all = families(&pages);
    for line in include_str!("metrics/watched.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (kind, name) = (words.next().unwrap(), words.next().unwrap());
        let family = all.get(name).unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!(family.kind, kind, "{name}");
        let labels: BTreeSet<String> = words.map(str::to_owned).collect();
        assert_eq!(family.labels, labels, "{name}");
    }

    let page = &pages[0];
    let mut sorted = page.names.clone();
    sorted.sort();
    assert_eq!(page.names, sorted, "families are in order");
    let leaders: f64 = pages.iter().map(|page| page.value("etcd_server_is_leader")).sum();
    assert!(leaders <= 1.0, "{leaders} leaders");
    let puts = PUTS as f64;
    for (series, expected) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_mvcc_put_total", puts + 2.0),
        ("etcd_mvcc_delete_total", 1.0),
        ("etcd_mvcc_txn_total", 1.0),
        ("etcd_mvcc_range_total", 14.0),
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_revoked_total", 1.0),
        ("etcd_debugging_lease_ttl_total_sum", 600.0),
        ("etcd_debugging_mvcc_current_revision", puts + 3.0),
        ("etcd_debugging_mvcc_compact_revision", 15.0),
        ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", 1.0),
        ("etcd_debugging_auth_revision", 1.0),
        ("etcd_server_health_success", 1.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
        (r#"etcd_server_healthcheck{name="linearizable_read",type="readyz"}"#, 1.0),
        (
            r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#,
            puts,
        ),
        (
            r#"grpc_server_handled_total{grpc_code="OutOfRange",grpc_method="Compact",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#,
            1.0,
        ),
        (
            r#"grpc_server_msg_sent_total{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"}"#,
            1.0,
        ),
        (
            r#"grpc_server_msg_received_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}"#,
            1.0,
        ),
        (
            r#"grpc_server_handling_seconds_count{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#,
            10.0,
        ),
        (r#"etcd_server_apply_duration_seconds_count{op="Put",success="true",version="v3"}"#, puts),
        (
            r#"etcd_server_apply_duration_seconds_count{op="Compaction",success="false",version="v3"}"#,
            1.0,
        ),
    ] {
        assert_eq!(page.value(series), expected, "{series}");
    }
    // What followers apply counts like what the proposer does.
    assert_eq!(pages[1].value("etcd_mvcc_put_total"), puts + 2.0);
    for name in [
        "etcd_server_proposals_committed_total",
        "etcd_server_leader_changes_seen_total",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_backend_commit_duration_seconds_count",
        "etcd_debugging_disk_backend_commit_write_duration_seconds_sum",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_hash_rev_duration_seconds_count",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_peer_sent_bytes_total",
        "etcd_network_peer_received_bytes_total",
        "process_resident_memory_bytes",
    ] {
        assert!(page.sum(name) > 0.0, "{name} is {}", page.sum(name));
    }
    let used = page.value("etcd_mvcc_db_total_size_in_use_in_bytes");
    assert!(used <= page.value("etcd_mvcc_db_total_size_in_bytes"));
}

/// Names of real etcd 3.5 that we do not have, and why.
const ABSENT: &[(&str, &str)] = &[
    ("etcd_debugging_store_reads_total", "of the v2 store, which is not served"),
    ("etcd_debugging_store_writes_total", "of the v2 store, which is not served"),
];

#[test]
fn names_types_labels_and_buckets_are_real_etcd_s() {
    let Some(real) = programs::real_or_skip("names_types_labels_and_buckets") else { return };
    let ours = programs::ours().unwrap();
    let theirs = families(&pages(&real.etcd, &["--metrics=extensive"]));
    let ours = families(&pages(&ours.etcd, &["--metrics=extensive"]));
    let differences = differences(&theirs, &ours);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What is not ours as it is theirs.
fn differences(theirs: &BTreeMap<String, Family>, ours: &BTreeMap<String, Family>) -> Vec<String> {
    let is_etcd_s = |name: &str| name.starts_with("etcd_") || name.starts_with("grpc_");
    assert!(theirs.keys().filter(|name| is_etcd_s(name)).count() > 70, "{:?}", theirs.keys());
    let mut differences = Vec::new();
    for (name, theirs) in theirs.iter().filter(|(name, _)| is_etcd_s(name)) {
        let is_absent = ABSENT.iter().any(|(absent, _)| absent == name);
        match ours.get(name) {
            None if is_absent => {}
            None => differences.push(format!("{name} is missing")),
            Some(_) if is_absent => differences.push(format!("{name} is not absent")),
            Some(ours) if ours != theirs => {
                differences.push(format!("{name}: {ours:?} instead of {theirs:?}"));
            }
            Some(_) => {}
        }
    }
    differences
}

/// Who belongs to the cluster, and what is wrong with it: of 3.6 and later.
#[test]
fn members_and_alarms_are_there_by_name() {
    let ours = programs::ours().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(&ours.etcd, &folder.path().join("data"));
    let member = Member::start(&options.with(&["--emulated-version=3.6"])).unwrap();
    let id = common::runtime().block_on(async {
        let api = Api::connect(&member.url()).await.unwrap();
        let id = api.status().await.unwrap().header.unwrap().member_id;
        api.call(Request::Alarm(pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id: id,
            alarm: pb::AlarmType::Nospace.into(),
        }))
        .await
        .unwrap();
        id
    });
    let page = page(&member);
    for (name, series) in [
        ("etcd_network_known_peers", format!(r#"{{Local="{id:x}",Remote="{id:x}"}}"#)),
        ("etcd_debugging_server_alarms", format!(r#"{{alarm_type="NOSPACE",server_id="{id:x}"}}"#)),
    ] {
        assert_eq!(page.families[name].kind, "gauge", "{name}");
        assert_eq!(page.value(&format!("{name}{series}")), 1.0, "{name}");
    }
}

/// The figures of one member alone, of any version, after some work.
fn lone_page(program: &Path, flags: &[&str]) -> Page {
    let folder = tempfile::tempdir().unwrap();
    let member =
        Member::start(&Options::new(program, &folder.path().join("data")).with(flags)).unwrap();
    common::runtime().block_on(async {
        let api = Api::connect(&member.url()).await.unwrap();
        load(&api).await;
        let range = |revision| {
            let range = pb::RangeRequest { key: "k1".into(), revision, ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) }
        };
        let read = pb::TxnRequest { success: vec![range(0)], ..Default::default() };
        api.call(Request::Txn(read)).await.unwrap();
        let early = pb::RangeRequest { key: "k1".into(), revision: 1, ..Default::default() };
        assert!(api.range(early).await.is_err(), "it is compacted");
    });
    for path in ["/health", "/livez", "/readyz"] {
        get(&member.endpoint(), path);
    }
    page(&member)
}

/// The same for the newer versions, which have figures of their own; features are told apart by their labels' values.
#[test]
fn newer_versions_have_their_own() {
    if !embed::are_there_or_skip("newer_versions_have_their_own") {
        return;
    }
    let ours = programs::ours().unwrap();
    for version in embed::VERSIONS {
        let flags = ["--metrics=extensive", "--feature-gates=StopGRPCServiceOnDefrag=true"];
        let theirs = lone_page(&embed::find(version).unwrap(), &flags);
        let emulated = format!("--emulated-version={version}");
        let ours = lone_page(&ours.etcd, &[&flags[..], &[&emulated]].concat());
        let found = differences(&theirs.families, &ours.families);
        assert!(found.is_empty(), "{version}: {}", found.join("\n"));
        // Features with their values; of requests, which there were.
        let told_by_labels = |page: &Page| -> Vec<(String, Option<f64>)> {
            let is_feature = |series: &str| series.starts_with("etcd_server_feature_enabled{");
            let is_request =
                |series: &str| series.starts_with("etcd_server_request_duration_seconds_count{");
            page.series
                .iter()
                .filter(|(series, _)| is_feature(series) || is_request(series))
                .map(|(series, value)| (series.clone(), is_feature(series).then_some(*value)))
                .collect()
        };
        assert_eq!(told_by_labels(&ours), told_by_labels(&theirs), "{version}");
    }
}

#[test]
fn each_listener_serves_its_own() {
    let ours = programs::ours().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name).display().to_string();
    let (metrics, http) = (socket("metrics"), socket("http"));
    // One that a killed member left is no hindrance.
    drop(std::os::unix::net::UnixListener::bind(&metrics).unwrap());
    let member = Member::start(&Options::new(&ours.etcd, &folder.path().join("data")).with(&[
        &format!("--listen-metrics-urls=unix://{metrics}"),
        &format!("--listen-client-http-urls=unix://{http}"),
    ]))
    .unwrap();
    // gRPC alone is at the clients' port.
    let api = common::runtime().block_on(async {
        let api = Api::connect(&member.url()).await.unwrap();
        api.put(put("key")).await
    });
    assert!(api.is_ok(), "{api:?}");
    for (path, on_metrics, on_http) in [
        ("/metrics", "200", "200"),
        ("/health", "200", "200"),
        ("/readyz/linearizable_read", "200", "200"),
        ("/version", "404", "200"),
        ("/debug/vars", "404", "200"),
        ("/nosuch", "404", "404"),
    ] {
        for (place, expected) in [(&metrics, on_metrics), (&http, on_http)] {
            let (head, _) = get_on(UnixStream::connect(place).unwrap(), path);
            let status = head.split(' ').nth(1).unwrap();
            assert_eq!(status, expected, "{path} on {place}: {head}");
            let is_for_pages = head.to_lowercase().contains("access-control-allow-origin: *");
            assert_eq!(is_for_pages, place == &http, "{path} on {place}: {head}");
        }
    }
    member.stop().unwrap();
    assert!(
        !Path::new(&metrics).exists() && !Path::new(&http).exists(),
        "sockets go with the member"
    );
}
