//! Against a service that answers by a script: what is asked, in which order, and what becomes of each answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A service: takes one request a connection, checks its first line, and answers.
struct Service {
    address: String,
    left: Arc<Mutex<VecDeque<(String, String)>>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Requests (`METHOD TARGET`, a part of it) with their answers (whole, as HTTP has them; empty closes the connection).
    async fn start(script: &[(&str, String)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = script.iter().map(|(asked, answer)| ((*asked).to_owned(), answer.clone()));
        let left = Arc::new(Mutex::new(script.collect::<VecDeque<_>>()));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let (script, seen) = (Arc::clone(&left), Arc::clone(&bodies));
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !is_whole(&request) {
                    let count = socket.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..count]);
                }
                let request = String::from_utf8(request).unwrap();
                let Some((asked, answer)) = script.lock().unwrap().pop_front() else {
                    panic!("one request too many: {request}");
                };
                let line = request.lines().next().unwrap().to_owned();
                assert!(line.contains(&asked), "{line:?} instead of {asked:?}");
                seen.lock().unwrap().push(request);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, left, bodies }
    }

    fn url(&self) -> String {
        format!("http://{}/v2/keys/t", self.address)
    }

    /// Joins as the member `a` with the id `a1`.
    async fn join(&self) -> Result<Vec<(String, Vec<Url>)>, Error> {
        self.join_at(&self.url(), "").await
    }

    async fn join_at(&self, url: &str, proxy: &str) -> Result<Vec<(String, Vec<Url>)>, Error> {
        let joined = session(url, proxy)?.join("a=http://10.0.0.1:2380").await;
        let left = self.left.lock().unwrap();
        assert!(left.is_empty(), "not asked for: {left:?}; {joined:?}");
        joined
    }
}

/// Of the member with the id `a1`. Nothing is waited for but the service.
fn session(url: &str, proxy: &str) -> Result<Session, Error> {
    let service = KeysService {
        url: url.to_owned(),
        proxy: proxy.to_owned(),
        falls_back_to_proxy: false,
        is_deprecated: false,
    };
    let limits = Limits { wait_min: Duration::ZERO, ..Limits::default() };
    Session::open(&service, 0xa1, limits, |_| Duration::ZERO)
}

fn keys_of(url: &str, limits: Limits) -> Keys {
    Keys::new(Web::new(None).unwrap(), WebUrl::parse(url).unwrap(), limits)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
    });
    body.len() >= length.unwrap_or(0)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn ok(body: &str) -> String {
    answer("200 OK", "X-Etcd-Index: 7\r\n", body)
}

fn size(text: &str) -> (&'static str, String) {
    let body = format!(r#"{{"action":"get","node":{{"key":"/t/_config/size","value":"{text}"}}}}"#);
    ("GET /v2/keys/t/_config/size?quorum=false&recursive=false&sorted=false ", ok(&body))
}

fn node(id: &str, index: u64) -> String {
    let name = &id[..1];
    let host = index - 3;
    format!(
        r#"{{"key":"/t/{id}","value":"{name}=http://10.0.0.{host}:2380","createdIndex":{index},"modifiedIndex":{index}}}"#
    )
}

fn directory(nodes: &[String]) -> (&'static str, String) {
    let nodes = nodes.join(",");
    let body = format!(r#"{{"action":"get","node":{{"key":"/t","dir":true,"nodes":[{nodes}]}}}}"#);
    ("GET /v2/keys/t?quorum=false", ok(&body))
}

fn event(action: &str, node: &str) -> String {
    ok(&format!(r#"{{"action":"{action}","node":{node}}}"#))
}

fn registration() -> [(&'static str, String); 2] {
    let made = event("create", &node("a1", 4)).replace("200 OK", "201 Created");
    [
        ("PUT /v2/keys/t/a1?prevExist=false ", made),
        (
            "GET /v2/keys/t/a1?recursive=false&wait=true&waitIndex=4 ",
            event("create", &node("a1", 4)),
        ),
    ]
}

fn refusal(code: u64) -> String {
    let body = format!(r#"{{"errorCode":{code},"message":"M","cause":"/c","index":9}}"#);
    answer("400 Bad Request", "", &body)
}

#[tokio::test]
async fn a_member_registers_and_waits_for_the_others() {
    let mut script = vec![size("3"), directory(&[])];
    script.extend(registration());
    script.extend([
        size("3"),
        // In the order of their keys, which is not that of creation.
        directory(&[node("b2", 5), node("a1", 4)]),
        // The service ended the wait.
        ("GET /v2/keys/t?recursive=true&wait=true&waitIndex=8 ", ok("")),
        ("GET /v2/keys/t?recursive=true&wait=true&waitIndex=8 ", event("delete", &node("b2", 8))),
        ("GET /v2/keys/t?recursive=true&wait=true&waitIndex=9 ", event("create", &node("c3", 9))),
    ]);
    let service = Service::start(&script).await;
    let cluster = service.join().await.unwrap();
    let names: Vec<String> =
        cluster.iter().map(|(name, urls)| format!("{name}={}", urls[0])).collect();
    let expected = ["a=http://10.0.0.1:2380", "b=http://10.0.0.2:2380", "c=http://10.0.0.6:2380"];
    assert_eq!(names, expected);
    let put = &service.bodies.lock().unwrap()[2];
    assert!(put.contains("content-type: application/x-www-form-urlencoded\r\n"), "{put}");
    assert!(put.ends_with("\r\n\r\nvalue=a%3Dhttp%3A%2F%2F10.0.0.1%3A2380"), "{put}");
}

#[tokio::test]
async fn a_service_that_is_away_is_asked_again() {
    let away = || answer("503 Service Unavailable", "", "");
    let mut script = vec![
        ("_config/size", away()),
        // Closed without an answer.
        ("_config/size", String::new()),
        size("2"),
        ("GET /v2/keys/t?", answer("502 Bad Gateway", "", "<html>")),
        size("2"),
        directory(&[]),
    ];
    script.extend(registration());
    script.extend([
        size("2"),
        directory(&[node("a1", 4)]),
        ("waitIndex=8", away()),
        size("2"),
        directory(&[node("a1", 4)]),
        // The change that is waited for is forgotten.
        ("waitIndex=8", refusal(401)),
        size("2"),
        directory(&[node("a1", 4), node("b2", 5)]),
    ]);
    let service = Service::start(&script).await;
    let mut session = session(&service.url(), "").unwrap();
    let cluster = session.join("a=http://10.0.0.1:2380").await.unwrap();
    assert_eq!((cluster.len(), session.failures), (2, 5));
    assert!(service.left.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_ends_a_start_is_told_in_etcds_words() {
    let html = answer("404 Not Found", "", "404 page not found");
    let long = ok(&"x".repeat(2 << 20));
    let deep = ok(&format!(r#"{{"node":{}"#, r#"{"nodes":["#.repeat(1000)));
    let full = directory(&[node("b2", 4), node("c3", 5)]);
    for (script, want) in [
        (vec![("size", refusal(100))], "100: M (/c) [9]"),
        (vec![("size", html)], "discovery: bad discovery endpoint"),
        (vec![("size", ok("<html>"))], "discovery: bad discovery endpoint"),
        (vec![("size", ok("{}"))], "discovery: bad discovery endpoint"),
        (vec![("size", deep)], "discovery: bad discovery endpoint"),
        (vec![("size", ok(""))], "client: response body is empty"),
        (vec![("size", long)], "client: response is longer than 1048576 bytes"),
        (vec![size("0")], "discovery: size key is bad"),
        (vec![size("2"), full], "discovery: cluster is full"),
        (vec![size("2"), directory(&[]), ("PUT ", refusal(105))], "discovery: found duplicate id"),
        (
            // Whether it was made, nobody knows: it is not tried again.
            vec![size("2"), directory(&[]), ("PUT ", answer("502 Bad Gateway", "", ""))],
            "returns server error [Bad Gateway]",
        ),
    ] {
        let error = Service::start(&script).await.join().await.unwrap_err().to_string();
        assert!(error.contains(want), "{error} instead of {want}");
    }
}

#[tokio::test]
async fn changes_that_lead_nowhere_are_refused() {
    let mut script = vec![size("2"), directory(&[])];
    script.extend(registration());
    script.extend([
        size("2"),
        directory(&[node("a1", 4)]),
        // Before what was asked for: it would come for ever.
        ("waitIndex=8", event("create", &node("b2", 5))),
    ]);
    let error = Service::start(&script).await.join().await.unwrap_err();
    assert!(matches!(error, Error::Keys(KeysError::NotKeys)), "{error}");
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_ends_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/t", listener.local_addr().unwrap());
    let limits = Limits { request: Duration::from_millis(20), ..Limits::default() };
    let mut session = Session { keys: keys_of(&url, limits), ..session(&url, "").unwrap() };
    let error = session.join("a=http://10.0.0.1:1").await.unwrap_err();
    assert_eq!(error.to_string(), "context deadline exceeded");
}

#[tokio::test]
async fn redirects_are_followed_without_the_password() {
    let second = Service::start(&[("GET /elsewhere ", refusal(100))]).await;
    let location = format!("Location: http://{}/elsewhere\r\n", second.address);
    let first = Service::start(&[("size", answer("307 Temporary Redirect", &location, ""))]).await;
    let url = first.url().replace("http://", "http://me:secret@");
    let error = first.join_at(&url, "").await.unwrap_err();
    assert_eq!(error.to_string(), "100: M (/c) [9]");
    assert!(first.bodies.lock().unwrap()[0].contains("authorization: Basic bWU6c2VjcmV0\r\n"));
    assert!(!second.bodies.lock().unwrap()[0].contains("authorization"));
}

#[tokio::test]
async fn a_proxy_gets_the_whole_url_and_opens_tunnels() {
    let asked = "GET http://service.invalid:4001/t/_config/size?quorum=false";
    let proxy = Service::start(&[(asked, refusal(100))]).await;
    // Without a scheme, as etcd takes it.
    let address = format!("me:secret@{}", proxy.address);
    let error = proxy.join_at("http://service.invalid:4001/t", &address).await.unwrap_err();
    assert_eq!(error.to_string(), "100: M (/c) [9]");
    let request = proxy.bodies.lock().unwrap()[0].clone();
    assert!(request.contains("proxy-authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    assert!(request.contains("host: service.invalid:4001\r\n"), "{request}");

    let tunnel = "CONNECT service.invalid:443 HTTP/1.1";
    let refused = answer("407 Proxy Authentication Required", "", "");
    let proxy = Service::start(&[(tunnel, refused)]).await;
    let web = Web::new(super::proxy(&format!("http://{}", proxy.address)).unwrap()).unwrap();
    let url = WebUrl::parse("https://service.invalid/t").unwrap();
    let error = Keys::new(web, url, Limits::default()).get("/t").await.unwrap_err();
    assert_eq!(error.to_string(), "Proxy Authentication Required");
}

#[test]
fn urls_that_cannot_be_asked_are_refused_at_once() {
    let open = |url, proxy| session(url, proxy).map(|_| ()).unwrap_err().to_string();
    assert_eq!(open("foo", ""), "discovery: invalid URL: unsupported protocol scheme \"\"");
    let error = open("http://h/t", "me:secret@ h");
    assert!(error.starts_with("invalid proxy address ") && !error.contains("secret"), "{error}");
}
