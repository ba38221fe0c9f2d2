use std::time::Duration;

use crate::entrance::Entrance;
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    Compare, LeaseGrantRequest, MemberAddRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchRequest,
};
use proto::mvccpb::KeyValue;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tower_service::Service as _;

use super::{Dialect, messages};
use crate::Member;
use crate::config::Config;
use crate::member::unconnected;
use crate::version::parse_emulated;

fn descriptor(message: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(rpc::API_DESCRIPTORS).unwrap();
    pool.get_message_by_name(message).unwrap()
}

fn read<T: Message + Default>(message: &str, json: &str) -> Result<T, Status> {
    messages::from_json(Dialect::V2, &descriptor(message), json.as_bytes())
        .map(|encoded| T::decode(encoded).unwrap())
}

/// What real etcd answered; read and written again, it is the same.
#[test]
fn answers_have_etcd_s_shape() {
    for (message, sample) in [
        (
            "etcdserverpb.PutResponse",
            r#"{"header":{"cluster_id":"16503991772837996232", "member_id":"9937498699207301625", "revision":"47", "raft_term":"4"}, "prev_kv":{"key":"Zm9v", "create_revision":"46", "mod_revision":"46", "version":"1", "value":"YmFy"}}"#,
        ),
        (
            "etcdserverpb.RangeResponse",
            r#"{"header":{"revision":"48"}, "kvs":[{"key":"Zm9v", "create_revision":"46", "mod_revision":"48", "version":"3", "value":"YmFy", "lease":"6483391275950012148"}], "more":true, "count":"1"}"#,
        ),
        (
            "etcdserverpb.DeleteRangeResponse",
            r#"{"header":{"revision":"49"}, "deleted":"1", "prev_kvs":[{"key":"Zm9v", "version":"3"}]}"#,
        ),
        (
            "etcdserverpb.TxnResponse",
            r#"{"header":{"revision":"51"}, "succeeded":true, "responses":[{"response_range":{"header":{"revision":"50"}, "kvs":[{"key":"Zm9v"}], "count":"1"}}, {"response_delete_range":{"header":{"revision":"51"}, "deleted":"1"}}, {"response_put":{"header":{"revision":"50"}}}]}"#,
        ),
        (
            "etcdserverpb.LeaseGrantResponse",
            r#"{"header":{"revision":"51"}, "ID":"777", "TTL":"100"}"#,
        ),
        (
            "etcdserverpb.LeaseTimeToLiveResponse",
            r#"{"header":{"revision":"51"}, "ID":"777", "TTL":"99", "grantedTTL":"100", "keys":["Zm9v"]}"#,
        ),
        (
            "etcdserverpb.LeaseLeasesResponse",
            r#"{"leases":[{"ID":"6483391275950012072"}, {"ID":"777"}]}"#,
        ),
        (
            "etcdserverpb.MemberListResponse",
            r#"{"header":{"raft_term":"4"}, "members":[{"ID":"9937498699207301625", "name":"n1", "peerURLs":["http://127.0.0.1:12380"], "clientURLs":["http://127.0.0.1:12379"], "isLearner":true}]}"#,
        ),
        (
            "etcdserverpb.StatusResponse",
            r#"{"header":{"raft_term":"4"}, "version":"3.5.30", "dbSize":"24576", "leader":"18222915235768097354", "raftIndex":"135", "raftTerm":"4", "raftAppliedIndex":"135", "errors":["etcdserver: no leader"], "dbSizeInUse":"20480", "isLearner":true, "storageVersion":"3.6.0", "dbSizeQuota":"2147483648", "downgradeInfo":{"enabled":true, "targetVersion":"3.5.0"}}"#,
        ),
        (
            "etcdserverpb.HashKVResponse",
            r#"{"hash":758606446, "compact_revision":"10", "hash_revision":"12"}"#,
        ),
        (
            "etcdserverpb.AlarmResponse",
            r#"{"alarms":[{"memberID":"9937498699207301625", "alarm":"NOSPACE"}]}"#,
        ),
        ("etcdserverpb.DefragmentResponse", "{}"),
        (
            "etcdserverpb.SnapshotResponse",
            r#"{"remaining_bytes":"32", "blob":"as1kBECFoi4cJnc0EGmYhkkrmSqpwMDmvq/bG6G7dnI="}"#,
        ),
        ("etcdserverpb.AuthStatusResponse", r#"{"authRevision":"1"}"#),
        (
            "etcdserverpb.AuthRoleGetResponse",
            r#"{"perm":[{"permType":"READWRITE", "key":"Zm9v"}]}"#,
        ),
        (
            "etcdserverpb.WatchResponse",
            r#"{"header":{"revision":"56"},"events":[{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"56"},"prev_kv":{"key":"Zm9v","create_revision":"54","value":"MQ=="}},{"kv":{"key":"Zm9v"}}]}"#,
        ),
        (
            "etcdserverpb.WatchResponse",
            r#"{"watch_id":"-1","canceled":true,"compact_revision":"10"}"#,
        ),
        (
            "v3electionpb.CampaignResponse",
            r#"{"leader":{"name":"ZWw=", "key":"ZWwvNTlm", "rev":"53", "lease":"6483391275950012148"}}"#,
        ),
    ] {
        let descriptor = descriptor(message);
        let encoded = messages::from_json(Dialect::V2, &descriptor, sample.as_bytes()).unwrap();
        let written = messages::to_json(&descriptor, encoded).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(sample).unwrap(), "{message}");
    }
}

#[test]
fn requests_by_either_name() {
    let expected = RangeRequest {
        key: "foo".into(),
        range_end: "fop".into(),
        limit: 1,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Version.into(),
        keys_only: true,
        ..RangeRequest::default()
    };
    for json in [
        r#"{"key":"Zm9v","range_end":"Zm9w","limit":"1","sort_order":"DESCEND","sort_target":"VERSION","keys_only":true}"#,
        r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":1,"sortOrder":2,"sortTarget":1,"keysOnly":true,"unknown":[{}]}"#,
    ] {
        assert_eq!(
            read::<RangeRequest>("etcdserverpb.RangeRequest", json).unwrap(),
            expected,
            "{json}"
        );
    }
    let grant: LeaseGrantRequest =
        read("etcdserverpb.LeaseGrantRequest", r#"{"TTL":100,"ID":"777"}"#).unwrap();
    assert_eq!(grant, LeaseGrantRequest { id: 777, ttl: 100 });
    let add: MemberAddRequest =
        read("etcdserverpb.MemberAddRequest", r#"{"peerURLs":["http://1:1"],"isLearner":true}"#)
            .unwrap();
    assert_eq!(
        add,
        MemberAddRequest { peer_urls: vec!["http://1:1".to_owned()], is_learner: true }
    );
}

#[test]
fn choices_are_flat() {
    let json = r#"{
        "compare": [{"target": "VERSION", "key": "Zm9v", "version": "0", "result": "GREATER"}],
        "success": [{"requestPut": {"key": "Zm9v", "value": "YmFy"}}],
        "failure": [{"request_range": {"key": "Zm9v"}}, {"request_put": null}]
    }"#;
    let request: TxnRequest = read("etcdserverpb.TxnRequest", json).unwrap();
    let put = PutRequest { key: "foo".into(), value: "bar".into(), ..PutRequest::default() };
    let range = RangeRequest { key: "foo".into(), ..RangeRequest::default() };
    let expected = TxnRequest {
        compare: vec![Compare {
            target: CompareTarget::Version.into(),
            result: CompareResult::Greater.into(),
            key: "foo".into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Compare::default()
        }],
        success: vec![RequestOp { request: Some(Op::RequestPut(put)) }],
        failure: vec![
            RequestOp { request: Some(Op::RequestRange(range)) },
            RequestOp { request: None },
        ],
    };
    assert_eq!(request, expected);

    let json = r#"{"create_request":{"key":"Zm9v","filters":["NOPUT"],"progress_notify":true,"watch_id":"7"}}"#;
    let create = WatchCreateRequest {
        key: "foo".into(),
        filters: vec![FilterType::Noput.into()],
        progress_notify: true,
        watch_id: 7,
        ..WatchCreateRequest::default()
    };
    assert_eq!(
        read::<WatchRequest>("etcdserverpb.WatchRequest", json).unwrap(),
        WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    );
}

#[test]
fn base64_of_either_alphabet() {
    for (text, expected) in [
        ("_-8=", &b"\xff\xef"[..]),
        ("/+8=", b"\xff\xef"),
        ("_-8", b"\xff\xef"),
        ("Zm9", b"fo"),
        ("", b""),
    ] {
        let request: PutRequest =
            read("etcdserverpb.PutRequest", &json!({ "key": text }).to_string()).unwrap();
        assert_eq!(request.key, expected, "{text}");
    }
    let request: PutRequest =
        read("etcdserverpb.PutRequest", r#"{"key":null,"lease":null}"#).unwrap();
    assert_eq!(request, PutRequest::default());
}

/// What real etcd 3.5.30 and 3.7.1 answered; `Ok` where they took it.
#[test]
fn what_does_not_fit_is_refused_as_by_the_version() {
    let range = "etcdserverpb.RangeRequest";
    let txn = "etcdserverpb.TxnRequest";
    let permission = "authpb.Permission";
    for (message, json, v1, v2) in [
        (
            range,
            "[]",
            Err("json: cannot unmarshal array into Go value of type map[string]json.RawMessage"),
            Err("proto: syntax error (line 1:1): unexpected token ["),
        ),
        (
            range,
            "null",
            Ok(json!({})),
            Err("proto: syntax error (line 1:1): unexpected token null"),
        ),
        (
            range,
            r#"{"key":1}"#,
            Err("json: cannot unmarshal number into Go value of type []uint8"),
            Err("proto: (line 1:8): invalid value for bytes field key: 1"),
        ),
        (
            range,
            r#"{"key":"!!"}"#,
            Err("illegal base64 data at input byte 0"),
            Err("proto: (line 1:8): invalid value for bytes field key: \"!!\""),
        ),
        (
            range,
            r#"{"key":"Zm9v","key":"YQ=="}"#,
            Ok(json!({ "key": "YQ==" })),
            Err("proto: (line 1:15): duplicate field \"key\""),
        ),
        (
            range,
            r#"{"key":"Zm9v","sortOrder":"DESCEND","sort_order":1}"#,
            Ok(json!({ "key": "Zm9v", "sort_order": "ASCEND" })),
            Err("proto: (line 1:37): duplicate field \"sort_order\""),
        ),
        (
            range,
            r#"{"limit":1.0}"#,
            Err("json: cannot unmarshal number 1.0 into Go value of type int64"),
            Ok(json!({ "limit": "1" })),
        ),
        (
            range,
            r#"{"limit":"12e1"}"#,
            Err("json: cannot unmarshal number 12e1 into Go value of type int64"),
            Ok(json!({ "limit": "120" })),
        ),
        (
            range,
            r#"{"limit":1.5}"#,
            Err("json: cannot unmarshal number 1.5 into Go value of type int64"),
            Err("proto: (line 1:10): invalid value for int64 field limit: 1.5"),
        ),
        (
            range,
            r#"{"limit":"x"}"#,
            Err("invalid character 'x' looking for beginning of value"),
            Err("proto: (line 1:10): invalid value for int64 field limit: \"x\""),
        ),
        (
            range,
            r#"{"limit":" 1"}"#,
            Ok(json!({ "limit": "1" })),
            Err("proto: (line 1:10): invalid value for int64 field limit: \" 1\""),
        ),
        (
            range,
            r#"{"limit":""}"#,
            Err("unexpected end of JSON input"),
            Err("proto: (line 1:10): invalid value for int64 field limit: \"\""),
        ),
        (
            range,
            r#"{"limit":9223372036854775808}"#,
            Err("json: cannot unmarshal number 9223372036854775808 into Go value of type int64"),
            Err("proto: (line 1:10): invalid value for int64 field limit: 9223372036854775808"),
        ),
        (
            range,
            r#"{"limit":true}"#,
            Err("json: cannot unmarshal bool into Go value of type int64"),
            Err("proto: (line 1:10): invalid value for int64 field limit: true"),
        ),
        (
            range,
            r#"{"serializable":"true"}"#,
            Err("json: cannot unmarshal string into Go value of type bool"),
            Err("proto: (line 1:17): invalid value for bool field serializable: \"true\""),
        ),
        (
            range,
            r#"{"range_end":"AA"}"#,
            Err("illegal base64 data at input byte 0"),
            Ok(json!({ "range_end": "AA==" })),
        ),
        (
            range,
            r#"{"key":"_-8="}"#,
            Err("illegal base64 data at input byte 0"),
            Ok(json!({ "key": "/+8=" })),
        ),
        (range, r#"{"key":"Zm9v\n"}"#, Ok(json!({ "key": "Zm9v" })), Ok(json!({ "key": "Zm9v" }))),
        (
            range,
            r#"{"key":{"a":1}}"#,
            Err("json: cannot unmarshal object into Go value of type []uint8"),
            Err("proto: (line 1:8): invalid value for bytes field key: {"),
        ),
        (
            range,
            r#"{"nosuch":{"a":["}",{}]},"key":"YQ=="}"#,
            Ok(json!({ "key": "YQ==" })),
            Ok(json!({ "key": "YQ==" })),
        ),
        // A permission that nobody named is READ: the first of them.
        (
            permission,
            r#"{"permType":"X","key":"YQ=="}"#,
            Err(r#"unknown value "\"X\"" for enum authpb.Permission.Type"#),
            Ok(json!({ "key": "YQ==" })),
        ),
        (
            permission,
            r#"{"permType":2}"#,
            Ok(json!({ "permType": "READWRITE" })),
            Ok(json!({ "permType": "READWRITE" })),
        ),
        (
            txn,
            r#"{"success":{}}"#,
            Err("json: cannot unmarshal object into Go value of type []json.RawMessage"),
            Err("proto: syntax error (line 1:12): unexpected token {"),
        ),
        (
            txn,
            r#"{"success":[null]}"#,
            Ok(json!({ "success": [{}] })),
            Err("proto: syntax error (line 1:13): unexpected token null"),
        ),
        (
            txn,
            r#"{"success":[{"requestPut":{},"request_range":{}}]}"#,
            Ok(json!({ "success": [{ "request_put": {} }] })),
            Err(
                "proto: (line 1:30): error parsing \"request_range\", oneof etcdserverpb.RequestOp.request is already set",
            ),
        ),
    ] {
        let descriptor = descriptor(message);
        for (dialect, expected) in [(Dialect::V1, v1), (Dialect::V2, v2)] {
            let found = messages::from_json(dialect, &descriptor, json.as_bytes());
            let found = found.map(|encoded| {
                let json = messages::to_json(&descriptor, encoded).unwrap();
                serde_json::from_slice::<Value>(&json).unwrap()
            });
            let found = found.map_err(|status| {
                assert_eq!(status.code(), Code::InvalidArgument, "{json}");
                status.message().to_owned()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{dialect:?} {json}");
        }
    }
}

/// What would be done, and could not be answered, is refused.
#[test]
fn nesting_is_bounded_to_what_can_be_answered() {
    let deep = |levels: usize| {
        let get = r#"{"success":[{"request_range":{"key":"Zm9v"}}]}"#.to_owned();
        let json = (1..levels)
            .fold(get, |inner, _| format!(r#"{{"success":[{{"request_txn":{inner}}}]}}"#));
        let txn = descriptor("etcdserverpb.TxnRequest");
        messages::from_json(Dialect::V2, &txn, json.as_bytes())
    };
    let answer = |levels: usize| {
        let response = |inner| TxnResponse {
            header: Some(ResponseHeader { revision: 3, ..ResponseHeader::default() }),
            responses: vec![ResponseOp { response: Some(inner) }],
            ..TxnResponse::default()
        };
        let range = RangeResponse { kvs: vec![KeyValue::default()], ..RangeResponse::default() };
        let txn = (1..levels)
            .fold(response(response_op::Response::ResponseRange(range)), |txn, _| {
                response(response_op::Response::ResponseTxn(txn))
            });
        messages::to_json(&descriptor("etcdserverpb.TxnResponse"), txn.encode_to_vec().into())
    };
    let allowed = (1..=127).take_while(|levels| deep(*levels).is_ok()).count();
    assert_eq!(allowed, 49);
    assert!(answer(allowed).is_ok());
    assert_eq!(deep(allowed + 1).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(deep(10_000).unwrap_err().code(), Code::InvalidArgument);
}

/// Encoding took a moment for each value and each message around it, before anybody was asked who they are.
#[test]
fn what_is_both_deep_and_wide_is_refused() {
    let nested = |levels: usize, op: &str, ops: usize| {
        let bottom = format!(r#"{{"success":[{}]}}"#, vec![op; ops].join(","));
        let json = (0..levels)
            .fold(bottom, |inner, _| format!(r#"{{"success":[{{"request_txn":{inner}}}]}}"#));
        let txn = descriptor("etcdserverpb.TxnRequest");
        [Dialect::V1, Dialect::V2].map(|dialect| {
            messages::from_json(dialect, &txn, json.as_bytes())
                .map(|_| ())
                .map_err(|status| (status.code(), status.message().to_owned()))
        })
    };
    let refusal =
        Err((Code::InvalidArgument, "too many values so deep within messages".to_owned()));
    assert_eq!(nested(48, "{}", 900_000), [refusal.clone(), refusal]);
    assert_eq!(nested(48, "{}", 1), [Ok(()), Ok(())]);
    let put = r#"{"request_put":{"key":"Zm9v","value":"YmFy"}}"#;
    assert_eq!(nested(0, put, 10_000), [Ok(()), Ok(())]);
    assert_eq!(nested(1, put, 10_000), [Ok(()), Ok(())]);
}

/// The exponent was turned around, which the least of them cannot be.
#[test]
fn the_least_exponent_is_no_integer() {
    for exponent in [i64::MIN, i64::MIN + 1, i64::MAX] {
        let json = format!(r#"{{"key":"Zm9v","limit":1e{exponent}}}"#);
        let refused = read::<RangeRequest>("etcdserverpb.RangeRequest", &json).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{json}");
        let json = format!(r#"{{"key":"Zm9v","limit":0e{exponent}}}"#);
        assert_eq!(read::<RangeRequest>("etcdserverpb.RangeRequest", &json).unwrap().limit, 0);
    }
}

/// A member whose routes are called as if a connection had brought the requests.
struct Server {
    member: Member,
    routes: Entrance,
    _data_dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut config = unconnected::config(data_dir.path());
        change(&mut config);
        let (member, routes) = unconnected::start(config).await;
        Self { member, routes, _data_dir: data_dir }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.routes.clone().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        Answer { status: head.status, headers: head.headers, body: Body::new(body) }
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    /// The answer to a call that succeeds.
    async fn call(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {body}");
        answer.json().await
    }

    /// HTTP status and body of a call that fails.
    async fn refusal(&self, path: &str, body: &str) -> (u16, Value) {
        let answer = self.post(path, body.to_owned()).await;
        assert!(!answer.headers.contains_key("grpc-metadata-content-type"), "{path} {body}");
        (answer.status.as_u16(), answer.json().await)
    }
}

impl Answer {
    async fn json(self) -> Value {
        serde_json::from_slice(&to_bytes(self.body, usize::MAX).await.unwrap()).unwrap()
    }

    fn lines(self) -> AnswerLines {
        AnswerLines { body: self.body.into_data_stream(), arrived: Vec::new() }
    }
}

/// A stream's answers, one JSON object a line.
struct AnswerLines {
    body: BodyDataStream,
    arrived: Vec<u8>,
}

impl AnswerLines {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.arrived.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.arrived.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.arrived.extend_from_slice(&self.body.next().await?.unwrap());
        }
    }
}

fn error(code: i32, message: &str) -> Value {
    json!({ "code": code, "message": message, "error": message })
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_leases() {
    let server = Server::start().await;
    let answer = server.post("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"} trailing"#).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers["grpc-metadata-content-type"], "application/grpc");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.json().await["header"]["revision"], "2");

    let found = server.call("/v3beta/kv/range", &json!({ "key": "Zm9v" })).await;
    let row = json!({ "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy" });
    assert_eq!(found["kvs"], json!([row]));
    assert_eq!(found["count"], "1");

    let txn = json!({
        "compare": [{ "target": "VERSION", "key": "Zm9v", "version": "1" }],
        "success": [{ "request_delete_range": { "key": "Zm9v", "prev_kv": true } }],
    });
    let done = server.call("/v3/kv/txn", &txn).await;
    assert_eq!(done["succeeded"], true);
    assert_eq!(done["responses"][0]["response_delete_range"]["deleted"], "1");

    assert_eq!(
        server.call("/v3/lease/grant", &json!({ "TTL": 100, "ID": "777" })).await["TTL"],
        "100"
    );
    server.call("/v3/kv/put", &json!({ "key": "bGVhc2Vk", "lease": "777" })).await;
    let left = server.call("/v3/kv/lease/timetolive", &json!({ "ID": 777, "keys": true })).await;
    assert_eq!((&left["grantedTTL"], &left["keys"]), (&json!("100"), &json!(["bGVhc2Vk"])));
    assert_eq!(
        server.call("/v3/lease/leases", &json!({})).await["leases"],
        json!([{ "ID": "777" }])
    );
    server.call("/v3/lease/revoke", &json!({ "ID": "777" })).await;

    let members = server.call("/v3/cluster/member/list", &json!({})).await;
    assert_eq!(members["members"][0]["peerURLs"], json!(["http://localhost:2380"]));
    assert_eq!(server.call("/v3/maintenance/status", &json!({})).await["version"], "3.5.30");
    assert_eq!(server.call("/v3/maintenance/defragment", &json!({})).await, json!({}));
    assert_eq!(server.call("/v3/auth/status", &json!({})).await["authRevision"], "1");
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors() {
    let server = Server::start().await;
    for (path, body, expected) in [
        ("/v3/kv/put", "", (400, error(3, "etcdserver: key is not provided"))),
        ("/v3/kv/put", " {} ", (400, error(3, "etcdserver: key is not provided"))),
        (
            "/v3/kv/put",
            "{bad",
            (400, error(3, "invalid character 'b' looking for beginning of object key string")),
        ),
        ("/v3/kv/put", "{\"key\":", (400, error(3, "unexpected EOF"))),
        (
            "/v3/kv/put",
            r#"{"key":"Zm9v","lease":"99"}"#,
            (404, error(5, "etcdserver: requested lease not found")),
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","revision":"99999"}"#,
            (400, error(11, "etcdserver: mvcc: required revision is a future revision")),
        ),
        ("/v3/lock/unlock", "{}", (500, error(2, "etcdserver: key is not provided"))),
        ("/v3/election/leader", "{}", (500, error(2, "election: no leader"))),
        ("/v3/auth/user/add", "{}", (400, error(3, "etcdserver: user name is empty"))),
        (
            "/v3/auth/authenticate",
            "{}",
            (400, error(9, "etcdserver: authentication is not enabled")),
        ),
    ] {
        assert_eq!(server.refusal(path, body).await, expected, "{path} {body}");
    }

    // A stream's first request, which is waited for; the stream would be silent without it.
    for path in ["/v3/watch", "/v3/lease/keepalive"] {
        let refused = server.refusal(path, "{").await;
        assert_eq!(refused, (500, error(2, "unexpected EOF")), "{path}");
    }
    server.member.stop().await;
}

/// etcd #9379: they ended the server.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_9379_locks_and_elections() {
    let server = Server::start().await;
    let lease = json!({ "ID": 7, "TTL": 100 });
    server.call("/v3/lease/grant", &lease).await;
    let locked = server.call("/v3/lock/lock", &json!({ "name": "bg==", "lease": 7 })).await;
    let key = json!({ "key": locked["key"] });
    server.call("/v3/lock/unlock", &key).await;
    let campaign = json!({ "name": "ZQ==", "value": "dg==", "lease": "7" });
    let won = server.call("/v3/election/campaign", &campaign).await;
    let named = json!({ "name": "ZQ==" });
    let seen = server.post("/v3/election/observe", named.to_string()).await.lines().next().await;
    assert_eq!(seen.unwrap()["result"]["kv"]["value"], "dg==");
    let proclaim = json!({ "leader": won["leader"], "value": "dw==" });
    server.call("/v3/election/proclaim", &proclaim).await;
    let led = server.call("/v3/election/leader", &named).await;
    assert_eq!(led["kv"]["value"], "dw==");
    server.call("/v3/election/resign", &json!({ "leader": won["leader"] })).await;
    for name in ["campaign", "proclaim", "resign"] {
        let path = format!("/v3/election/{name}");
        let (status, _) = server.refusal(&path, r#"{"leader":null,"lease":-1}"#).await;
        assert_ne!(status, 200, "{path}");
    }
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_there() {
    for (version, not_found, not_allowed, type_of) in [
        ("3.5", (404, "Not Found\n"), (405, "Method Not Allowed\n"), "text/plain; charset=utf-8"),
        (
            "3.6",
            (404, r#"{"code":5, "message":"Not Found"}"#),
            (501, r#"{"code":12, "message":"Method Not Allowed"}"#),
            "application/json",
        ),
    ] {
        let version = Some(parse_emulated(version).unwrap());
        let server = Server::with(|config| config.emulated_version = version).await;
        for (method, path, (status, body)) in [
            (Method::POST, "/v3/nosuch", not_found),
            (Method::POST, "/v3/kv/range/", not_found),
            (Method::POST, "/v3/maintenance/hash/kv", not_found),
            (Method::GET, "/v3/kv/put", not_allowed),
            (Method::PUT, "/v3/kv/put", not_allowed),
        ] {
            let request = Request::builder().method(&method).uri(path).body(Body::empty()).unwrap();
            let answer = server.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "{method} {path}");
            assert_eq!(answer.headers[CONTENT_TYPE], type_of);
            assert_eq!(to_bytes(answer.body, 1000).await.unwrap(), body);
        }
        // Who is not there cannot have a wrong address.
        let (status, found) = server.refusal("/v3/cluster/member/update", r#"{"ID":"5"}"#).await;
        assert_eq!((status, &found["message"]), (404, &json!("etcdserver: member not found")));
        server.member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_streams_of_v2_are_refused() {
    let version = Some(parse_emulated("3.7").unwrap());
    let server = Server::with(|config| config.emulated_version = version).await;
    let refused = server.refusal("/v3/watch", "{").await;
    assert_eq!(refused, (400, json!({ "code": 3, "message": "unexpected EOF" })));
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_bounded() {
    let server = Server::with(|config| config.max_request_bytes = 1000).await;
    let put =
        |bytes: usize| json!({ "key": "Zm9v", "value": "AAAA".repeat(bytes / 3) }).to_string();
    assert_eq!(
        server.refusal("/v3/kv/put", &put(1500)).await,
        (400, error(3, "etcdserver: request is too large"))
    );
    // What etcd adds to the largest request before it looks at none.
    let message_bytes_max = 1000 + 512 * 1024;
    let (status, body) = server.refusal("/v3/kv/put", &put(message_bytes_max + 3)).await;
    assert_eq!((status, &body["code"]), (429, &json!(8)));
    let text = body["message"].as_str().unwrap();
    assert!(text.starts_with("grpc: received message larger than max (525"), "{text}");
    assert!(text.ends_with(" vs. 525288)"), "{text}");
    // A value without an end is not kept.
    let (status, body) = server.refusal("/v3/kv/put", &" ".repeat(3 * message_bytes_max)).await;
    assert_eq!((status, &body["code"]), (429, &json!(8)));
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_goes_on_after_the_body() {
    let server = Server::start().await;
    let requests = r#"{"create_request":{"key":"Zm9v","prev_kv":true}} {"create_request":{"watch_id":"7","key":"Zg=="}}
        {"cancel_request":{"watch_id":"7"}}"#;
    let answer = server.post("/v3/watch", requests).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["grpc-metadata-content-type"], "application/grpc");
    let mut lines = answer.lines();
    assert_eq!(lines.next().await.unwrap()["result"]["created"], true);
    let second = lines.next().await.unwrap();
    assert_eq!(
        (&second["result"]["created"], &second["result"]["watch_id"]),
        (&json!(true), &json!("7"))
    );
    assert_eq!(lines.next().await.unwrap()["result"]["canceled"], true);

    server.call("/v3/kv/put", &json!({ "key": "Zm9v", "value": "MQ==" })).await;
    server.call("/v3/kv/deleterange", &json!({ "key": "Zm9v" })).await;
    let put = lines.next().await.unwrap();
    let row = json!({ "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "MQ==" });
    assert_eq!(put["result"]["events"], json!([{ "kv": row }]));
    let deleted = lines.next().await.unwrap();
    let event =
        json!({ "type": "DELETE", "kv": { "key": "Zm9v", "mod_revision": "3" }, "prev_kv": row });
    assert_eq!(deleted["result"]["events"], json!([event]));
    server.member.stop().await;
}

/// Requests are read one by one while the answers go out, in whatever pieces they come.
#[tokio::test(flavor = "multi_thread")]
async fn keep_alive_answers_as_it_is_asked() {
    let server = Server::start().await;
    server.call("/v3/lease/grant", &json!({ "TTL": 100, "ID": "777" })).await;
    let (asking, asked) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(asked));
    asking.send(Ok(Bytes::from_static(b"{\"ID\":\"7"))).await.unwrap();
    let answering = tokio::spawn({
        let mut routes = server.routes.clone();
        async move {
            routes.call(Request::post("/v3/lease/keepalive").body(body).unwrap()).await.unwrap()
        }
    });
    asking.send(Ok(Bytes::from_static(b"77\"}{\"ID\""))).await.unwrap();
    let (head, body) = answering.await.unwrap().into_parts();
    let mut lines =
        Answer { status: head.status, headers: head.headers, body: Body::new(body) }.lines();
    assert_eq!(lines.next().await.unwrap()["result"]["TTL"], "100");
    asking.send(Ok(Bytes::from_static(b":778}"))).await.unwrap();
    let unknown = lines.next().await.unwrap();
    assert_eq!((&unknown["result"]["ID"], unknown["result"].get("TTL")), (&json!("778"), None));
    // Malformed JSON ends the requests, and that ends this stream.
    asking.send(Ok(Bytes::from_static(b"{bad"))).await.unwrap();
    assert_eq!(lines.next().await, None);
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_ends_with_its_hash() {
    let server = Server::start().await;
    let mut lines = server.post("/v3/maintenance/snapshot", "{}").await.lines();
    let mut last = Value::Null;
    while let Some(line) = lines.next().await {
        last = line;
    }
    // 32 bytes.
    assert_eq!(last["result"]["blob"].as_str().unwrap().len(), 44);
    server.member.stop().await;
}

/// All calls together are one connection's streams: those beyond the limit wait, until their deadline if they have one.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_limited() {
    let server = Server::with(|config| config.max_concurrent_streams = 1).await;
    let mut lines = server.post("/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#).await.lines();
    assert_eq!(lines.next().await.unwrap()["result"]["created"], true);
    let put = || Request::post("/v3/kv/put").body(Body::from(r#"{"key":"Zm9v"}"#));
    let mut impatient = put().unwrap();
    impatient.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let answer = server.send(impatient).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.json().await, error(4, "context deadline exceeded"));
    drop(lines);
    assert_eq!(server.send(put().unwrap()).await.status, StatusCode::OK);
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_ends_a_stream() {
    let server = Server::start().await;
    let mut request = Request::post("/v3/watch")
        .body(Body::from(r#"{"create_request":{"key":"Zm9v"}}"#))
        .unwrap();
    request.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut lines = server.send(request).await.lines();
    assert_eq!(lines.next().await.unwrap()["result"]["created"], true);
    let last = tokio::time::timeout(Duration::from_secs(10), lines.next()).await.unwrap().unwrap();
    let expected = json!({
        "grpc_code": 4, "message": "context deadline exceeded", "http_code": 504, "http_status": "Gateway Timeout",
    });
    assert_eq!(last["error"], expected);
    assert_eq!(lines.next().await, None);
    server.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_may_be_off() {
    let server = Server::with(|config| config.enable_grpc_gateway = false).await;
    let answer = server.post("/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(to_bytes(answer.body, 100).await.unwrap(), "404 page not found\n");
    server.member.stop().await;
}
