use futures_util::{Sink, Stream};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::*;
use crate::listen::served::Served;
use crate::version::parse_emulated;

/// The key of RFC 6455, section 1.3, and what it is answered with.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// `foo`, for the gateway.
const FOO: &str = "Zm9v";

/// Asks for a WebSocket in order, with more headers.
fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: WebSocket\r\n\
         Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// The head of the answer.
async fn ask(connection: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = connection.read_u8().await;
        head.push(byte.unwrap_or_else(|error| panic!("{error} after {head:?}")));
    }
    String::from_utf8(head).unwrap()
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: S,
    path: &str,
    more: &str,
) -> WebSocketStream<S> {
    let head = ask(&mut connection, &request(path, more)).await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains(&format!("sec-websocket-accept: {ACCEPT}\r\n")), "{head}");
    assert_eq!(head.contains("sec-websocket-protocol: Bearer\r\n"), more.contains("Bearer"));
    // A browser's page may read what it likes over a WebSocket; etcd has no word of CORS here.
    assert!(!head.contains("access-control"), "{head}");
    WebSocketStream::from_raw_socket(connection, Role::Client, None).await
}

async fn say<S>(websocket: &mut S, message: &Value)
where
    S: Sink<Message, Error = Error> + Unpin,
{
    websocket.send(Message::text(message.to_string())).await.unwrap();
}

/// The next answer; `None` when the connection ended without one.
async fn hear<S>(websocket: &mut S) -> Option<Value>
where
    S: Stream<Item = Result<Message, Error>> + Unpin,
{
    match websocket.next().await? {
        Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
        Ok(other) => panic!("{other:?}"),
        // Without a closing frame, as etcd does it.
        Err(_) => None,
    }
}

#[test]
fn a_line_of_many_pieces_is_searched_once() {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for piece in ["ab", "c", "\n\nd", "ef", "g\nh\ni", "", "j"] {
        lines.begun.extend_from_slice(piece.as_bytes());
        while let Some(line) = lines.next() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert_eq!(lines.searched, lines.begun.len(), "after {piece:?}");
    }
    assert_eq!(found, ["abc", "", "defg", "h"]);
    assert_eq!(&lines.begun[..], b"ij");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_fed_and_ends_with_its_client() {
    let server = Served::start(|_| {}).await;
    let mut watch = open(server.connect().await, "/v3/watch", "").await;
    say(&mut watch, &json!({ "create_request": { "key": FOO } })).await;
    assert_eq!(hear(&mut watch).await.unwrap()["result"]["created"], true);

    let mut put = open(server.connect().await, "/v3/kv/put?method=GET", "").await;
    say(&mut put, &json!({ "key": FOO, "value": FOO })).await;
    assert_eq!(hear(&mut put).await.unwrap()["header"]["revision"], "2");
    assert_eq!(hear(&mut put).await, None);
    let seen = hear(&mut watch).await.unwrap();
    assert_eq!(seen["result"]["events"][0]["kv"]["value"], FOO);

    watch.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
    let bye = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    watch.send(Message::Close(Some(bye.clone()))).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), Message::Close(Some(bye)));
    server.until_metrics(|page| page.contains("\netcd_debugging_mvcc_watcher_total 0\n")).await;
    server.stop().await;
}

/// Pieces, kinds of frames and lines within a message make no difference: what arrives is JSON.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_lines() {
    let server =
        Served::start(|config| config.emulated_version = Some(parse_emulated("3.6").unwrap()))
            .await;
    let mut alive = open(server.connect().await, "/v3beta/lease/keepalive", "").await;
    let piece = |text: &'static str, kind, is_last| {
        Message::Frame(Frame::message(text, OpCode::Data(kind), is_last))
    };
    for message in [
        Message::binary(&b"{\"ID\""[..]),
        Message::text(""),
        piece(": \"7", Data::Text, false),
        piece("8\"}\n{\"ID\"", Data::Continue, true),
    ] {
        alive.send(message).await.unwrap();
    }
    assert_eq!(hear(&mut alive).await.unwrap()["result"]["ID"], "78");
    alive.send(Message::text(":79}")).await.unwrap();
    assert_eq!(hear(&mut alive).await.unwrap()["result"]["ID"], "79");
    // As over HTTP, malformed JSON is the end of what is asked.
    alive.send(Message::text("{bad")).await.unwrap();
    assert_eq!(hear(&mut alive).await, None);

    let mut nowhere = open(server.connect().await, "/v3/nosuch", "").await;
    assert_eq!(hear(&mut nowhere).await.unwrap()["code"], 5);
    server.stop().await;
}

/// A token comes as subprotocol or cookie; what HTTP clients send does not count, in etcd neither.
#[tokio::test(flavor = "multi_thread")]
async fn websocket_bearer_tokens() {
    let server =
        Served::start(|config| config.emulated_version = Some(parse_emulated("3.6").unwrap()))
            .await;
    let token = server.enable_auth().await;
    let empty = "etcdserver: user name is empty";
    let invalid = "etcdserver: invalid auth token";
    for (more, refusal) in [
        (String::new(), Some(empty)),
        (format!("Authorization: {token}\r\n"), Some(empty)),
        ("Sec-WebSocket-Protocol: chat\r\n".to_owned(), Some(invalid)),
        ("Sec-WebSocket-Protocol: Bearer, nonsense\r\n".to_owned(), Some(invalid)),
        (format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"), None),
        (format!("Sec-WebSocket-Protocol: Bearer,{token}\r\n"), None),
        (format!("Cookie: a=b; token={token}\r\nSec-WebSocket-Protocol: Bearer, x\r\n"), None),
    ] {
        let mut range = open(server.connect().await, "/v3/kv/range", &more).await;
        say(&mut range, &json!({ "key": FOO })).await;
        let answer = hear(&mut range).await.unwrap();
        assert_eq!(answer.get("message").and_then(Value::as_str), refusal, "{more:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_none() {
    let server = Served::start(|_| {}).await;
    let good = request("/v3/watch", "");
    for (bad, status) in [
        (good.replace("GET", "POST"), 405),
        (good.replace("Version: 13", "Version: 8"), 400),
        (good.replace(KEY, ""), 400),
        (good.replace(KEY, "c2hvcnQ="), 400),
        (good.replace(KEY, &"=".repeat(10_000)), 400),
        (request("/v3/watch", "Content-Length: 5\r\n"), 400),
    ] {
        let mut connection = server.connect().await;
        let head = ask(&mut connection, &bad).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{bad}: {head}");
        assert!(head.contains("sec-websocket-version: 13\r\n"), "{bad}: {head}");
    }
    // Outside of the gateway, and where only half of it is asked for, it is a request like any other.
    for (path, change, status) in
        [("/version", "", 200), ("/nosuch", "", 404), ("/v3/watch", "Upgrade: WebSocket\r\n", 405)]
    {
        let plain = request(path, "").replace(change, "");
        let head = ask(&mut server.connect().await, &plain).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
    }
    // Who speaks before the answer has come may have spoken HTTP: the connection ends, whether or not the answer got through.
    let mut hasty = server.connect().await;
    hasty.write_all(format!("{good}\u{1}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = hasty.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.ends_with(b"\r\n\r\n"), "{answer:?}");
    server.stop().await;
}

/// What is no WebSocket any more is told so and closed; others are served all the while.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused() {
    let server = Served::start(|_| {}).await;
    let mut bystander = open(server.connect().await, "/v3/watch", "").await;
    let huge = [&[0x81, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let large = [&[0x81, 0xff][..], &(1_u64 << 33).to_be_bytes(), &[0; 4]].concat();
    for (bytes, code) in [
        // Not masked.
        (&b"\x81\x02{}"[..], CloseCode::Protocol),
        // A kind that is not known.
        (b"\x83\x80\0\0\0\0", CloseCode::Protocol),
        // A compressed message, which nobody agreed on.
        (b"\xc1\x80\0\0\0\0", CloseCode::Protocol),
        // A piece of nothing.
        (b"\x80\x80\0\0\0\0", CloseCode::Protocol),
        // A ping in pieces.
        (b"\x09\x80\0\0\0\0", CloseCode::Protocol),
        (b"\x81\x82\0\0\0\0\xff\xfe", CloseCode::Invalid),
        // Longer than any request may be: said before anything of it is there.
        (&large, CloseCode::Size),
        (&huge, CloseCode::Size),
    ] {
        let mut websocket = open(server.connect().await, "/v3/watch", "").await;
        websocket.get_mut().write_all(bytes).await.unwrap();
        let told = websocket.next().await.unwrap().unwrap();
        let Message::Close(Some(frame)) = told else { panic!("{told:?} to {bytes:?}") };
        assert_eq!(frame.code, code, "{bytes:?}");
    }
    // A message in ever more pieces is bounded as a whole.
    let mut endless = open(server.connect().await, "/v3/watch", "").await;
    let piece = Bytes::from(vec![b' '; 1024 * 1024]);
    let mut kind = Data::Text;
    loop {
        let frame = Frame::message(piece.clone(), OpCode::Data(kind), false);
        kind = Data::Continue;
        if endless.send(Message::Frame(frame)).await.is_err() {
            break;
        }
    }
    say(&mut bystander, &json!({ "create_request": { "key": FOO } })).await;
    assert_eq!(hear(&mut bystander).await.unwrap()["result"]["created"], true);
    server.stop().await;
}
