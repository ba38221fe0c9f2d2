//! Outputs compared with what etcdctl 3.5.30 printed for the same answers.
//!
//! `fixtures/golden.txt` holds its standard output, copied from recorded sessions against a real cluster: a line `=== name/style` and then the
//! bytes. The messages below are those of the sessions. To add a case, record real etcdctl; never paste our own output.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcdctl::output::{Answer, Format, Health, Style, render};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::{Event, KeyValue};

const CLUSTER: u64 = 16_503_991_772_837_996_232;
const N1: u64 = 9_937_498_699_207_301_625;
const N2: u64 = 18_222_915_235_768_097_354;
const N3: u64 = 14_138_984_027_333_314_880;
const LEASE: i64 = 0x59f9_a203_d6dd_f63c;

/// The recorded outputs that no case has asked for yet.
struct Golden {
    recorded: BTreeMap<String, String>,
}

impl Golden {
    fn read() -> Self {
        let text = include_str!("fixtures/golden.txt");
        let section = |section: &str| {
            let (name, body) = section.split_once('\n').expect("a section has a name");
            (name.to_owned(), body.to_owned())
        };
        Self { recorded: text.split("=== ").skip(1).map(section).collect() }
    }

    /// Renders in the style that the name ends with.
    fn check(&mut self, name: &str, answer: Answer<'_>) {
        let (_, style) = name.split_once('/').expect("a name ends with a style");
        let mut words = style.split('-');
        let format = Format::parse(words.next().expect("a format")).expect("a known format");
        let rest: Vec<&str> = words.collect();
        let style = Style { format, hex: rest == ["hex"], value_only: rest == ["value", "only"] };
        let rendered = render(answer, style).expect("the format is supported");
        let expected =
            self.recorded.remove(name).unwrap_or_else(|| panic!("{name} is not recorded"));
        assert_eq!(String::from_utf8_lossy(&rendered.out), expected, "{name}");
        assert!(rendered.err.is_empty(), "{name}");
    }

    fn check_all(&mut self, name: &str, styles: &[&str], answer: Answer<'_>) {
        for style in styles {
            self.check(&format!("{name}/{style}"), answer);
        }
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: CLUSTER, member_id: N1, revision, raft_term: 2 })
}

fn late_header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: CLUSTER, member_id: N1, revision, raft_term: 4 })
}

/// The header of an answer within a transaction.
fn bare(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

fn kv(key: &[u8], revisions: (i64, i64, i64), value: &[u8], lease: i64) -> KeyValue {
    let (create_revision, mod_revision, version) = revisions;
    KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision,
        mod_revision,
        version,
        value: Bytes::copy_from_slice(value),
        lease,
    }
}

fn range(revision: i64, kvs: Vec<KeyValue>) -> pb::RangeResponse {
    let count = i64::try_from(kvs.len()).expect("few keys");
    pb::RangeResponse { header: header(revision), kvs, more: false, count }
}

#[test]
fn outputs_are_etcdctls() {
    let mut golden = Golden::read();
    puts(&mut golden);
    gets(&mut golden);
    deletes(&mut golden);
    transactions(&mut golden);
    watches(&mut golden);
    leases(&mut golden);
    members(&mut golden);
    endpoints(&mut golden);
    alarms(&mut golden);
    let unused: Vec<&String> = golden.recorded.keys().collect();
    assert!(unused.is_empty(), "recorded, but not checked: {unused:?}");
}

fn puts(golden: &mut Golden) {
    let put = |revision, prev_kv| pb::PutResponse { header: header(revision), prev_kv };
    golden.check("put/simple", Answer::Put(&put(2, None)));
    golden.check("put-prev/simple", Answer::Put(&put(3, Some(kv(b"foo", (2, 2, 1), b"bar", 0)))));
    golden.check("put-prev/json", Answer::Put(&put(4, Some(kv(b"foo", (2, 3, 2), b"bar2", 0)))));
    golden.check("put-prev/fields", Answer::Put(&put(5, Some(kv(b"foo", (2, 4, 3), b"bar3", 0)))));
}

fn gets(golden: &mut Golden) {
    let found = range(12, vec![kv(b"foo", (2, 10, 8), b"from stdin\n", 0)]);
    let styles = ["simple", "json", "fields", "simple-hex", "simple-value-only"];
    golden.check_all("get", &styles, Answer::Get(&found));
    golden.check_all("get-none", &["json", "fields"], Answer::Get(&range(12, Vec::new())));
    let keys = vec![
        kv(b"-k", (11, 11, 1), b"", 0),
        kv(b"a", (9, 9, 1), b"", 0),
        kv(b"foo", (2, 10, 8), b"", 0),
        kv(b"k", (12, 12, 1), b"", 0),
    ];
    golden.check_all("get-keys-only", &["json", "simple"], Answer::Get(&range(12, keys)));
    let bytes = range(13, vec![kv(b"bin", (13, 13, 1), b"\xff\x01\nline2", 0)]);
    golden.check_all("get-bytes", &["fields", "json", "simple-hex"], Answer::Get(&bytes));
    let leased = range(30, vec![kv(b"lk", (30, 30, 1), b"lv", LEASE)]);
    golden.check_all("get-lease", &["fields", "json"], Answer::Get(&leased));
}

fn deletes(golden: &mut Golden) {
    let del = |revision, kv| pb::DeleteRangeResponse {
        header: header(revision),
        deleted: 1,
        prev_kvs: vec![kv],
    };
    golden.check("del/simple", Answer::Del(&del(20, kv(b"d2", (15, 15, 1), b"v2", 0))));
    golden.check("del/json", Answer::Del(&del(23, kv(b"d5", (18, 18, 1), b"v5", 0))));
}

fn transactions(golden: &mut Golden) {
    let op = |response| pb::ResponseOp { response: Some(response) };
    let got = |revision, kv| {
        op(Response::ResponseRange(pb::RangeResponse {
            header: bare(revision),
            ..range(0, vec![kv])
        }))
    };
    let put = |revision| {
        op(Response::ResponsePut(pb::PutResponse { header: bare(revision), prev_kv: None }))
    };
    let deleted = |revision, prev_kvs: Vec<KeyValue>| {
        let deleted = i64::try_from(prev_kvs.len()).expect("few keys");
        let header = bare(revision);
        op(Response::ResponseDeleteRange(pb::DeleteRangeResponse { header, deleted, prev_kvs }))
    };
    let txn = |revision, succeeded, responses| pb::TxnResponse {
        header: header(revision),
        succeeded,
        responses,
    };

    let overwrote = || kv(b"key1", (24, 26, 3), b"overwrote-key1", 0);
    let failed = txn(27, false, vec![got(26, overwrote()), deleted(27, vec![overwrote()])]);
    golden.check("txn/json", Answer::Txn(&failed));
    let succeeded = txn(25, true, vec![put(25), got(25, overwrote()), deleted(25, Vec::new())]);
    golden.check("txn/simple", Answer::Txn(&succeeded));
    let created = txn(28, false, vec![put(28), got(28, kv(b"key1", (28, 28, 1), b"1", 0))]);
    golden.check("txn/fields", Answer::Txn(&created));
}

fn watches(golden: &mut Golden) {
    let lease = 6_483_391_275_950_012_058;
    let w1 = || kv(b"foo", (2, 32, 9), b"w1", 0);
    let w2 = || kv(b"foo", (2, 33, 10), b"w2\nx", lease);
    let response = |revision, event| pb::WatchResponse {
        header: late_header(revision),
        events: vec![event],
        ..pb::WatchResponse::default()
    };
    let styles = ["simple", "json", "fields"];
    let put = response(33, Event { r#type: 0, kv: Some(w2()), prev_kv: Some(w1()) });
    golden.check_all("watch-put", &styles, Answer::Watch(&put));
    let gone = kv(b"foo", (0, 34, 0), b"", 0);
    let delete = response(34, Event { r#type: 1, kv: Some(gone), prev_kv: Some(w2()) });
    golden.check_all("watch-delete", &styles, Answer::Watch(&delete));
}

fn leases(golden: &mut Golden) {
    let grant = |revision, id| pb::LeaseGrantResponse {
        header: header(revision),
        id,
        ttl: 100,
        error: String::new(),
    };
    golden.check("lease-grant/simple", Answer::LeaseGrant(&grant(29, 0x59f9_a203_d6dd_f63a)));
    golden.check("lease-grant/json", Answer::LeaseGrant(&grant(29, 6_483_391_275_950_011_966)));
    golden.check("lease-grant/fields", Answer::LeaseGrant(&grant(29, 6_483_391_275_950_011_968)));

    let mut live = pb::LeaseTimeToLiveResponse {
        header: header(30),
        id: LEASE,
        ttl: 499,
        granted_ttl: 500,
        keys: Vec::new(),
    };
    golden.check("lease-ttl/simple", Answer::LeaseTimeToLive { response: &live, keys: false });
    live.keys.push(Bytes::from_static(b"lk"));
    let answer = Answer::LeaseTimeToLive { response: &live, keys: true };
    golden.check_all("lease-ttl-keys", &["simple", "json", "fields"], answer);
    let expired = pb::LeaseTimeToLiveResponse {
        id: 0x1234,
        ttl: -1,
        granted_ttl: 0,
        keys: Vec::new(),
        ..live
    };
    let answer = Answer::LeaseTimeToLive { response: &expired, keys: false };
    golden.check_all("lease-expired", &["simple", "json"], answer);

    let ids = [0x42, 0x3a, 0x3c, 0x3e, 0x40];
    let list = pb::LeaseLeasesResponse {
        header: header(30),
        leases: ids.map(|low| pb::LeaseStatus { id: 0x59f9_a203_d6dd_f600 + low }).to_vec(),
    };
    golden.check("lease-list/simple", Answer::LeaseList(&list));
    let renewed = pb::LeaseKeepAliveResponse { header: header(30), id: LEASE, ttl: 500 };
    golden.check_all(
        "lease-keep-alive",
        &["simple", "json", "fields"],
        Answer::LeaseKeepAlive(&renewed),
    );
    let revoked = pb::LeaseRevokeResponse { header: header(31) };
    golden.check("lease-revoke/simple", Answer::LeaseRevoke { id: LEASE, response: &revoked });
}

fn member(id: u64, name: &str, ports: &str) -> pb::Member {
    pb::Member {
        id,
        name: name.to_owned(),
        peer_urls: vec![format!("http://127.0.0.1:{ports}2380")],
        client_urls: vec![format!("http://127.0.0.1:{ports}2379")],
        is_learner: false,
    }
}

fn unstarted(id: u64, is_learner: bool) -> pb::Member {
    pb::Member { id, client_urls: Vec::new(), is_learner, ..member(id, "", "4") }
}

fn three() -> Vec<pb::Member> {
    vec![member(N1, "n1", "1"), member(N3, "n3", "3"), member(N2, "n2", "2")]
}

fn members(golden: &mut Golden) {
    let list = pb::MemberListResponse { header: header(0), members: three() };
    let styles = ["simple", "table", "json", "fields", "json-hex"];
    golden.check_all("member-list", &styles, Answer::MemberList(&list));

    let with = |member: pb::Member| [vec![member], three()].concat();
    let learner = pb::MemberListResponse {
        header: late_header(0),
        members: with(unstarted(0x7912_b092_f1b2_ebd4, true)),
    };
    golden.check("member-list-learner/json-hex", Answer::MemberList(&learner));

    let added = unstarted(7_324_652_345_609_918_722, false);
    let add = |member: pb::Member| pb::MemberAddResponse {
        header: header(0),
        member: Some(member.clone()),
        members: with(member),
    };
    golden.check("member-add/json", Answer::MemberAdd(&add(added)));
    let id = 0x5aa2_7312_52d3_3211;
    golden.check("member-add/simple", Answer::MemberAdd(&add(unstarted(id, true))));
    let response = pb::MemberRemoveResponse { header: header(0), members: three() };
    golden.check("member-remove/simple", Answer::MemberRemove { id, response: &response });
    let response = pb::MemberUpdateResponse { header: header(0), members: three() };
    golden.check("member-update/simple", Answer::MemberUpdate { id, response: &response });
    let response = pb::MoveLeaderResponse { header: None };
    let answer = Answer::MoveLeader { from: N3, to: N1, response: &response };
    golden.check_all("move-leader", &["simple", "json"], answer);
}

fn health(endpoint: &str, took: &str, error: &str) -> Health {
    Health {
        endpoint: endpoint.to_owned(),
        is_healthy: error.is_empty(),
        took: took.to_owned(),
        error: error.to_owned(),
    }
}

fn endpoints(golden: &mut Golden) {
    let [first, second, third] = ["1", "2", "3"].map(|port| format!("http://127.0.0.1:{port}2379"));
    golden.check("health/simple", Answer::EndpointHealth(&[health(&first, "5.957573ms", "")]));
    golden.check("health/fields", Answer::EndpointHealth(&[health(&first, "6.243451ms", "")]));
    let all = [
        health(&second, "4.746233ms", ""),
        health(&third, "4.524116ms", ""),
        health(&first, "4.694459ms", ""),
    ];
    golden.check("health-cluster/table", Answer::EndpointHealth(&all));
    let down = |took| [health("127.0.0.1:9", took, "context deadline exceeded")];
    golden.check("health-down/table", Answer::EndpointHealth(&down("1.000894403s")));
    golden.check("health-down/json", Answer::EndpointHealth(&down("1.000496503s")));

    let status = pb::StatusResponse {
        header: header(31),
        version: "3.5.30".to_owned(),
        db_size: 24_576,
        db_size_in_use: 20_480,
        leader: N3,
        raft_index: 79,
        raft_term: 2,
        raft_applied_index: 79,
        // Sent by later servers: etcdctl 3.5 does not know them.
        storage_version: "3.6.0".to_owned(),
        db_size_quota: 2_147_483_648,
        ..pb::StatusResponse::default()
    };
    golden.check_all(
        "status",
        &["simple", "json", "fields"],
        Answer::EndpointStatus(&[(first.clone(), status)]),
    );
    let hash = pb::HashKvResponse {
        header: header(31),
        hash: 2_251_640_636,
        compact_revision: 8,
        ..pb::HashKvResponse::default()
    };
    golden.check_all(
        "hashkv",
        &["simple", "json", "fields"],
        Answer::EndpointHashKv(&[(first, hash)]),
    );
}

fn alarms(golden: &mut Golden) {
    let none = pb::AlarmResponse { header: header(31), alarms: Vec::new() };
    golden.check("alarm-none/json", Answer::Alarm(&none));

    // A member of its own, full.
    let id = 17_376_217_314_573_201_200;
    let full = Some(pb::ResponseHeader {
        cluster_id: 18_080_339_707_065_305_735,
        member_id: id,
        revision: 7,
        raft_term: 2,
    });
    let nospace = pb::AlarmMember { member_id: id, alarm: pb::AlarmType::Nospace.into() };
    let raised = pb::AlarmResponse { header: full, alarms: vec![nospace] };
    golden.check_all("alarm", &["simple", "json", "fields"], Answer::Alarm(&raised));
    let status = pb::StatusResponse {
        header: full,
        version: "3.5.30".to_owned(),
        db_size: 831_488,
        db_size_in_use: 831_488,
        leader: id,
        raft_index: 15,
        raft_term: 2,
        raft_applied_index: 15,
        errors: vec![format!("memberID:{id} alarm:NOSPACE ")],
        ..pb::StatusResponse::default()
    };
    let endpoint = "http://127.0.0.1:54379".to_owned();
    golden.check_all(
        "status-alarm",
        &["simple", "table", "json"],
        Answer::EndpointStatus(&[(endpoint, status)]),
    );
}

/// Recorded from etcdctl 3.5.16: formats that a command does not have, and what it says instead.
#[test]
fn formats_that_are_missing() {
    let refused = |answer, format: &str, expected: &str| {
        let style = Style {
            format: Format::parse(format).expect("a known format"),
            hex: false,
            value_only: false,
        };
        let failure = render(answer, style).expect_err("the format is not supported");
        assert_eq!(failure.exit.code(), 4);
        assert_eq!(failure.text.as_deref(), Some(expected));
    };
    let put = pb::PutResponse::default();
    refused(Answer::Put(&put), "table", "table not supported as output format");
    refused(Answer::EndpointHealth(&[]), "protobuf", "protobuf not supported as output format");
    let moved = pb::MoveLeaderResponse::default();
    let answer = Answer::MoveLeader { from: 1, to: 2, response: &moved };
    refused(answer, "fields", "fields not supported as output format");
    let revoked = pb::LeaseRevokeResponse { header: header(1) };
    let answer = Answer::LeaseRevoke { id: 1, response: &revoked };
    let text = "marshal unsupported for type clientv3.LeaseRevokeResponse \
                ({cluster_id:16503991772837996232 member_id:9937498699207301625 revision:1 raft_term:2  {} [] 0})";
    refused(answer, "protobuf", text);
    assert_eq!(
        Format::parse("bad").expect_err("no such format").text.as_deref(),
        Some("unsupported output format")
    );
}

/// An unhealthy endpoint is told on standard error, and only there.
#[test]
fn unhealthy_endpoints_go_to_standard_error() {
    let style = Style { format: Format::Simple, hex: false, value_only: false };
    let list = [health("a:1", "1ms", "Active Alarm(s): NOSPACE "), health("b:1", "2ms", "")];
    let rendered = render(Answer::EndpointHealth(&list), style).expect("simple has everything");
    let err = "a:1 is unhealthy: failed to commit proposal: Active Alarm(s): NOSPACE \n";
    let out = "b:1 is healthy: successfully committed proposal: took = 2ms\n";
    assert_eq!((rendered.err, rendered.out), (err.as_bytes().to_vec(), out.as_bytes().to_vec()));
}
