//! What a member answers to requests of any kind, next to what etcd answered.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;

/// The part of the recording that is below `/raft`.
const RECORDED: &str = include_str!("../../../tests/fixtures/peer/probe-3.5.30.txt");
/// In the recording: the member that was removed.
const REMOVED: u64 = 0x99;
const MEMBER: u64 = 0x1234;

/// One request as the recording names it: note, method, path, changed headers, body.
type Probe = (&'static str, Method, &'static str, &'static [(&'static str, &'static str)], Vec<u8>);

fn encoded(from: u64, to: u64) -> Vec<u8> {
    // As the recording's: without the fields that are zero.
    use prost::encoding::{encode_key, encode_varint};
    let mut bytes = Vec::new();
    for (tag, value) in [(1, 8), (2, to), (3, from)] {
        encode_key(tag, prost::encoding::WireType::Varint, &mut bytes);
        encode_varint(value, &mut bytes);
    }
    bytes
}

fn probes() -> Vec<Probe> {
    let (get, post) = (Method::GET, Method::POST);
    let none: &[(&str, &str)] = &[];
    let short_head = [&2_u64.to_be_bytes()[..], &[8, 8]].concat();
    vec![
        ("wrong method", get.clone(), "/raft", none, vec![]),
        ("wrong method", post.clone(), "/raft/stream/message/abc", none, vec![]),
        ("unknown peer", get.clone(), "/raft/stream/message/abc", none, vec![]),
        ("removed peer", get.clone(), "/raft/stream/msgapp/99", none, vec![]),
        ("bad stream kind", get.clone(), "/raft/stream/foo/abc", none, vec![]),
        ("bad id", get.clone(), "/raft/stream/message/zz", none, vec![]),
        (
            "caller too old",
            get.clone(),
            "/raft/stream/message/abc",
            &[("x-server-version", "2.3.0")],
            vec![],
        ),
        (
            "caller wants newer",
            get.clone(),
            "/raft/stream/message/abc",
            &[("x-min-cluster-version", "9.0.0")],
            vec![],
        ),
        (
            "other cluster",
            get.clone(),
            "/raft/stream/message/abc",
            &[("x-etcd-cluster-id", "1")],
            vec![],
        ),
        ("no headers", get.clone(), "/raft/stream/message/abc", &[("none", "")], vec![]),
        ("not protobuf", post.clone(), "/raft", none, vec![0xff, 0xff]),
        ("from removed", post.clone(), "/raft", none, encoded(REMOVED, MEMBER)),
        ("to another", post.clone(), "/raft", none, encoded(0xabc, 5)),
        ("accepted", post.clone(), "/raft", none, encoded(0xabc, MEMBER)),
        (
            "other cluster",
            post.clone(),
            "/raft",
            &[("x-etcd-cluster-id", "1")],
            encoded(0xabc, MEMBER),
        ),
        ("empty message", post.clone(), "/raft/snapshot", none, vec![0; 8]),
        ("not a MsgSnap", post.clone(), "/raft/snapshot", none, short_head),
        ("short body", post, "/raft/snapshot", none, vec![0, 0]),
        ("probing", get, "/raft/probing", none, vec![]),
    ]
}

/// One line of the recording, made from an answer.
fn line(note: &str, method: &Method, path: &str, answer: &Answer) -> String {
    let cluster = format!("{CLUSTER:x}");
    let mut body = String::from_utf8(answer.body.to_vec()).unwrap();
    if let Some((before, after)) = body.split_once("\"Now\":\"") {
        let (_, after) = after.split_once('"').unwrap();
        body = format!("{before}\"Now\":\"<time>\"{after}");
    }
    let names = ["allow", "content-type", "x-etcd-cluster-id", "x-server-version"];
    let headers: Vec<String> = names
        .iter()
        .filter_map(|name| Some((name, answer.headers.get(*name)?.to_str().unwrap())))
        .map(|(name, value)| format!("\"{name}\": \"{}\"", value.replace(&cluster, "<cid>")))
        .collect();
    format!(
        "{note}: {method} {} -> {} '{}' {{{}}}",
        path.replace("/99", "/<removed>"),
        answer.status.as_u16(),
        body.replace('\n', "\\n"),
        headers.join(", "),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_that_etcd_gave() {
    let mut member = Member::start(MEMBER).await;
    member.host.removed.lock().unwrap().insert(REMOVED);
    let client = PeerClient::new(Dialler::new(PATIENCE, None));
    let mut lines = Vec::new();
    for (note, method, path, changed, body) in probes() {
        let mut headers = HeaderMap::new();
        if !changed.iter().any(|(name, _)| *name == "none") {
            headers = member.transport.shared.request_headers.clone();
            headers.remove(headers::PEER_URLS);
            headers.insert(headers::SERVER_FROM, HeaderValue::from_static("abc"));
            headers.insert(headers::RAFT_TO, HeaderValue::from_static("1234"));
            for (name, value) in changed {
                headers.insert(HeaderName::from_static(name), value.parse().unwrap());
            }
        }
        let question =
            if method == Method::GET { Question::get(path) } else { Question::post(path, body) };
        let question = question.with_headers(headers);
        let answer = client.call(&member.url(), question, PATIENCE).await;
        lines.push(line(note, &method, path, &answer.unwrap()));
    }
    // Where etcd breaks off a 500, the body here is whole.
    let recorded = RECORDED.replace(" [connection dropped after 5s]", "");
    let recorded: Vec<&str> = recorded.lines().take(lines.len()).collect();
    assert_eq!(lines, recorded);
    assert_eq!(member.next().await, heartbeat_of_abc());
    assert!(member.delivered.try_recv().is_err());
    assert!(member.files().is_empty());
}

fn heartbeat_of_abc() -> Message {
    Message { term: Term(0), ..heartbeat(0xabc, MEMBER, 0) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_with_its_urls_is_noted_and_their_number_is_bounded() {
    let member = Member::start(1).await;
    let client = PeerClient::new(Dialler::new(PATIENCE, None));
    let ask = async |from: u64, urls: &str| {
        let mut headers = member.transport.shared.request_headers.clone();
        headers.insert(headers::PEER_URLS, urls.parse().unwrap());
        headers.insert(headers::SERVER_FROM, format!("{from:x}").parse().unwrap());
        let path = format!("/raft/stream/message/{from:x}");
        let url = member.url();
        let question = Question::get(&path).with_headers(headers);
        let call = client.call(&url, question, PATIENCE);
        assert_eq!(call.await.unwrap().to_string(), "404 Not Found: error sender not found");
    };
    member.host.removed.lock().unwrap().insert(8);
    let known = || member.transport.read().remotes.keys().copied().collect::<Vec<u64>>();
    ask(7, "http://127.0.0.1:1,http://127.0.0.1:2").await;
    // Not twice, not without a URL that can be read, not this member itself.
    for (from, urls) in
        [(7, "http://127.0.0.1:1"), (9, "nonsense"), (10, ""), (1, "http://127.0.0.1:1")]
    {
        ask(from, urls).await;
    }
    assert_eq!(known(), [7]);
    for from in 100..200 {
        ask(from, "http://127.0.0.1:1").await;
    }
    assert_eq!(known().len(), REMOTES_MAX);
    // A peer is taken whatever others claimed.
    member.transport.add_peer(150, &["http://127.0.0.1:1".to_owned()]);
    assert!(!known().contains(&150) && member.transport.peer(150).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_for_another_member_is_refused() {
    let members = connected([1, 2]).await;
    let mut headers = members[1].transport.shared.request_headers.clone();
    headers.insert(headers::RAFT_TO, HeaderValue::from_static("3"));
    let client = PeerClient::new(Dialler::new(PATIENCE, None));
    let question = Question::get("/raft/stream/message/2").with_headers(headers);
    let answer = client.call(&members[0].url(), question, PATIENCE).await.unwrap();
    assert_eq!(answer.to_string(), "412 Precondition Failed: to field mismatch");
    assert!(members[0].is_read_by(2));
}

#[test]
fn versions_decide_who_may_speak_and_who_streams() {
    let identity = Identity {
        cluster_id: 1,
        member_id: 2,
        server_version: "3.5.30".to_owned(),
        peer_urls: Vec::new(),
    };
    let said = |version: Option<&str>, least: Option<&str>| {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [(headers::SERVER_VERSION, version), (headers::MIN_CLUSTER_VERSION, least)]
        {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        headers
    };
    for (version, least, is_compatible) in [
        (Some("3.5.30"), Some("3.0.0"), true),
        (Some("3.0.0"), Some("3.5.99"), true),
        (Some("4.0.0-alpha"), Some("3.0.0"), true),
        (Some("2.3.7"), Some("2.1.0"), false),
        (Some("3.6.0"), Some("3.6.0"), false),
        (None, Some("3.0.0"), false),
        (Some("3.5.30"), None, true),
        (Some("3.5"), Some("3.0.0"), false),
        (Some("3.5.30"), Some("three"), false),
        (Some("-3.5.0"), Some("3.0.0"), false),
    ] {
        let headers = said(version, least);
        assert_eq!(identity.is_compatible(&headers), is_compatible, "{version:?} {least:?}");
    }
    for (version, is_streaming) in [
        (Some("3.5.0"), true),
        (Some("3.0.1"), true),
        (Some("9.0.0"), true),
        (Some("2.3.0"), true),
        (Some("2.0.0"), false),
        (Some("2.4.0"), false),
        (Some("x"), false),
        (None, false),
    ] {
        assert_eq!(identity.is_streaming(&said(version, None)), is_streaming, "{version:?}");
    }
    assert_eq!(headers::parse_id("33eb27a47e8498d"), Some(0x33e_b27a_47e8_498d));
    for no_id in ["", "+1", "-1", "0x1", "11112222333344445", "zz"] {
        assert_eq!(headers::parse_id(no_id), None, "{no_id}");
    }
}
