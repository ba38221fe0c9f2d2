//! Strangers at the peer port, who want it to serve nobody else. In the clear, and with TLS.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::peer::timely::Patience;

/// Smaller than those of a port, so that a test is short.
const LIMITS: serve::Limits = serve::Limits {
    connections: 40,
    waiting: 20,
    head: Duration::from_millis(1500),
    body: Patience { pause: Duration::from_millis(500), bytes_per_second: 1024 },
};
/// No limit ends a connection within a test.
const PATIENT: serve::Limits = serve::Limits {
    head: PATIENCE,
    body: Patience { pause: PATIENCE, bytes_per_second: 1 },
    ..LIMITS
};

/// What the clear and the secured port have in common.
struct Port {
    member: Member,
    /// Asks as a member would.
    client: PeerClient,
    /// Dials as one who speaks TLS where it has to be.
    connector: Option<tls::Connector>,
    _folder: tempfile::TempDir,
}

impl Port {
    async fn open(limits: serve::Limits, is_secure: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (acceptor, connector) = if is_secure {
            let generated = tls::generate(folder.path(), &["127.0.0.1".to_owned()], 1).unwrap();
            let settings = tls::Settings {
                pair: Some(generated.pair),
                skip_server_check: true,
                ..tls::Settings::default()
            };
            let acceptor = tls::Acceptor::new(&settings, &["http/1.1"]).unwrap();
            (Some(acceptor), Some(tls::Connector::new(&settings, &[]).unwrap()))
        } else {
            (None, None)
        };
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let member =
            Member::start_within(1, address, CLUSTER, limits, acceptor, connector.clone()).await;
        let client = PeerClient::new(Dialler::new(PATIENCE, connector.clone()));
        Self { member, client, connector, _folder: folder }
    }

    /// A connection that has said nothing.
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.member.address).await.unwrap()
    }

    /// A connection to speak HTTP over.
    async fn dial(&self) -> tls::Stream {
        let Some(connector) = &self.connector else {
            return tls::Stream::Plain(self.connect().await.into());
        };
        // A machine so busy that a limit of time ends the handshake: once more.
        let secured = async {
            loop {
                if let Ok(stream) = connector.connect(self.connect().await, "127.0.0.1").await {
                    break stream;
                }
            }
        };
        timeout(PATIENCE, secured).await.expect("a handshake within the limits")
    }

    /// A connection over which something was said, before the limits ended it.
    async fn told(&self, bytes: &[u8]) -> tls::Stream {
        let told = async {
            loop {
                let mut stream = self.dial().await;
                if stream.write_all(bytes).await.is_ok() {
                    break stream;
                }
            }
        };
        timeout(PATIENCE, told).await.expect("it is said within the limits")
    }

    /// The head of a request that a member could have sent.
    fn head(&self, path: &str, rest: &str) -> String {
        let headers = &self.member.transport.shared.request_headers;
        let headers: String = headers
            .iter()
            .filter(|(name, _)| **name != headers::PEER_URLS)
            .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()))
            .collect();
        format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}{rest}\r\n\r\n")
    }

    async fn serves(&self) {
        let question = Question::get("/raft/probing");
        let answer = self.client.call(&self.member.url(), question, PATIENCE).await;
        assert_eq!(answer.unwrap().status, 200);
    }
}

/// Reads until the other side ends the connection.
async fn ended(mut socket: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut read = Vec::new();
    let end = timeout(PATIENCE, socket.read_to_end(&mut read)).await;
    // A reset ends it too.
    let _ = end.expect("the connection ends");
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_silent_connections_takes_no_place_from_one_that_speaks() {
    for is_secure in [false, true] {
        let port = Port::open(PATIENT, is_secure).await;
        let mut silent = Vec::new();
        // More than there is room for, waiting or not.
        for count in 0..3 * PATIENT.connections {
            silent.push(port.connect().await);
            if count % 10 == 0 {
                port.serves().await;
            }
        }
        port.serves().await;
        // The oldest have ended, although no limit of time has passed; the newest have not.
        let newest = silent.split_off(silent.len() - 5);
        silent.truncate(2 * PATIENT.connections);
        for socket in silent {
            assert_eq!(ended(socket).await, "");
        }
        for socket in newest {
            let mut byte = [0];
            let nothing = socket.try_read(&mut byte).unwrap_err();
            assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        }
        port.member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_6_14_connections_that_do_not_get_on_end_at_the_limits() {
    for is_secure in [false, true] {
        let port = Port::open(LIMITS, is_secure).await;
        let half_a_head = port.told(b"GET /raft/probing HTTP/1.1\r\nhost:").await;
        let length = format!("content-length: {}", u64::MAX >> 2);
        let huge = port.told(port.head("/raft", &length).as_bytes()).await;
        let head = port.head("/raft/snapshot", "content-length: 100");
        let cut = port.told(&[head.as_bytes(), &[0; 8]].concat()).await;
        let head = port.head("/raft", "transfer-encoding: chunked");
        let (slow, mut trickle) = tokio::io::split(port.told(head.as_bytes()).await);
        let trickle = tokio::spawn(async move {
            // Until the connection ends.
            while trickle.write_all(b"1\r\nx\r\n").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        port.serves().await;
        assert_eq!(ended(half_a_head).await, "");
        for (what, answer) in [
            ("Content-Length", ended(huge).await),
            ("a body that trickles", ended(slow).await),
            ("a snapshot", ended(cut).await),
        ] {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{what}: {answer}");
        }
        let answered = async {
            loop {
                let asked = port.told(b"GET /raft/probing HTTP/1.1\r\nhost: x\r\n\r\n").await;
                let answer = ended(asked).await;
                // Said in time, and yet read too late: once more.
                if !answer.is_empty() {
                    break answer;
                }
            }
        };
        let answer = timeout(PATIENCE, answered).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "and ends when no other follows: {answer}");
        trickle.await.unwrap();
        port.serves().await;
        assert!(port.member.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_connection_and_no_other() {
    let endless_head = [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(100_000)].concat();
    let garbage: [&[u8]; 6] = [
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /raft HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /raft HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        &endless_head,
    ];
    for is_secure in [false, true] {
        let port = Port::open(LIMITS, is_secure).await;
        for bytes in garbage {
            // On the bare connection, and on the secured one if there is one.
            let mut bare = port.connect().await;
            let _ = bare.write_all(bytes).await;
            let mut dialled = port.dial().await;
            let _ = dialled.write_all(bytes).await;
            port.serves().await;
            ended(bare).await;
            let answer = ended(dialled).await;
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
        port.serves().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_certificate_is_refused_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let generated = tls::generate(folder.path(), &["127.0.0.1".to_owned()], 1).unwrap();
    let trusted_ca = Some(generated.pair.certificate.clone());
    let dialling = tls::Settings {
        pair: Some(generated.pair.clone()),
        skip_server_check: true,
        ..tls::Settings::default()
    };
    let names = tls::Names::of(vec!["nobody".to_owned()], Vec::new()).unwrap();
    let accepting = tls::Settings { trusted_ca, client_cert_auth: true, names, ..dialling.clone() };
    let acceptor = tls::Acceptor::new(&accepting, &["http/1.1"]).unwrap();
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let member = Member::start_within(1, address, CLUSTER, PATIENT, Some(acceptor), None).await;
    let connector = tls::Connector::new(&dialling, &[]).unwrap();
    let client = PeerClient::new(Dialler::new(PATIENCE, Some(connector)));
    let url = format!("https://{}", member.address);
    let told = async {
        loop {
            let question = Question::get("/raft/probing");
            // Where the request was on its way already, the connection can be gone before the alert is read.
            let refused = client.call(&url, question, PATIENCE).await.unwrap_err().to_string();
            if refused == "remote error: tls: bad certificate" {
                break;
            }
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_without_a_database_does_not_reach_raft() {
    let mut members = connected([1, 2]).await;
    let metadata =
        raft::SnapshotMetadata { index: LogIndex(7), term: Term(2), ..Default::default() };
    let snapshot = raft::Snapshot { metadata, ..Default::default() };
    let snapshot = message(1, 2, 2, Body::Snapshot(Box::new(snapshot)));
    let shared = &members[0].transport.shared;
    let question = Question::post("/raft", raft::codec::encode_message(&snapshot))
        .with_headers(shared.request_headers.clone());
    let answer = shared.client.call(&members[1].url(), question, PATIENCE).await.unwrap();
    assert_eq!(answer.to_string(), "500 Internal Server Error: error processing raft message");
    members[0].transport.send(vec![heartbeat(1, 2, 5)]);
    assert_eq!(members[1].next().await, heartbeat(1, 2, 5), "and nothing before it");
}
