//! Databases on their way from member to member.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use raft::{Snapshot, SnapshotMetadata};
use vfs::sim::{Fault, FaultKind, SimDisk};

use super::*;
use crate::told::lines::Lines;

fn snapshot_message(from: u64, to: u64, index: u64) -> Message {
    let conf_state =
        raft::ConfState { voters: vec![NodeId(from), NodeId(to)], ..Default::default() };
    let metadata = SnapshotMetadata { conf_state, index: LogIndex(index), term: Term(2) };
    let data = Bytes::from(vec![b'{'; 9000]);
    message(from, to, 2, Body::Snapshot(Box::new(Snapshot { data, metadata })))
}

/// A database of about so many MiB, and its bytes.
fn database(mib: u64) -> (backend::Reader, backend::Writer, Vec<u8>) {
    let disk = SimDisk::new();
    let options = backend::Options { page_size: 4096, initial_map_bytes: 0, sync: true };
    let (mut writer, reader) = backend::open(&disk.dir(), &options).unwrap();
    for main in 0..mib {
        let key = backend::schema::RowKey::put(backend::schema::Revision::new(
            i64::try_from(main).unwrap() + 1,
            0,
        ));
        let value: Vec<u8> =
            (0..1_048_576_u64).map(|at| u8::try_from((at * 31 + main) % 251).unwrap()).collect();
        writer.put_row(key, value.into());
    }
    writer.set_consistent_index(5, 2);
    writer.publish();
    writer.take_commit().unwrap().run().unwrap();
    let mut bytes = Vec::new();
    let mut snapshot = reader.view().snapshot();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match snapshot.read(&mut buffer).unwrap() {
            0 => break,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    (reader, writer, bytes)
}

fn read_file(member: &Member, name: &str) -> Vec<u8> {
    let file = member.disk.dir().open(name, vfs::OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_arrives_with_its_message() {
    let mut members = connected([1, 2]).await;
    let (reader, _writer, bytes) = database(9);
    assert!(bytes.len() > 9 << 20);
    let message = snapshot_message(1, 2, 0x3d);
    members[0].transport.send_snapshot(message.clone(), reader.view().snapshot());
    assert_eq!(members[1].next().await, message);
    let name = backend::snapshot_db_name(0x3d);
    assert_eq!(members[1].files(), std::slice::from_ref(&name));
    assert!(read_file(&members[1], &name) == bytes);
    members[0].hears(Told::SnapshotSent(2, true)).await;
    // It was durable, name included, before raft heard of it.
    members[1].disk.crash(&mut vfs::sim::LoseAll);
    assert!(read_file(&members[1], &name) == bytes);
}

/// What operators look for at both ends, with etcd's fields.
#[tokio::test]
async fn a_databases_way_is_told() {
    let (lines, _told) = Lines::gather();
    let mut members = connected([1, 2]).await;
    let (reader, _writer, bytes) = database(1);
    let (length, size) = (bytes.len(), crate::told::human_bytes(bytes.len() as u64));
    members[0].transport.send_snapshot(snapshot_message(1, 2, 7), reader.view().snapshot());
    members[0].hears(Told::SnapshotSent(2, true)).await;
    let sent = format!("snapshot_index=7 remote_peer_id=2 bytes={length} size={size}");
    for what in ["sending database snapshot", "sent database snapshot"] {
        assert_eq!(lines.with(&["INFO", what, &sent]), 1, "{what}");
    }
    let received = "local_member_id=2 remote_snapshot_sender_id=1 incoming_snapshot_index=7";
    assert_eq!(lines.with(&["INFO", "receiving database snapshot", received]), 1);
    let told = ["INFO", "received and saved database snapshot", received, "download_took="];
    assert_eq!(lines.with(&told), 1);
    let told = format!("incoming_snapshot_size_bytes={length} incoming_snapshot_size={size}");
    assert_eq!(lines.with(&["received and saved", &told]), 1);
    members[1].disk.inject(Fault::once(FaultKind::Write, 0));
    members[0].transport.send_snapshot(snapshot_message(1, 2, 8), reader.view().snapshot());
    members[0].hears(Told::SnapshotSent(2, false)).await;
    assert_eq!(lines.with(&["WARN", "failed to save incoming database snapshot"]), 1);
    assert_eq!(lines.with(&["WARN", "failed to send database snapshot", "snapshot_index=8"]), 1);
    assert_eq!(lines.with(&["received and saved database snapshot"]), 1);
    while members[1].delivered.try_recv().is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_arrive_is_reported_and_leaves_nothing() {
    let mut members = connected([1, 2]).await;
    let (reader, _writer, _) = database(1);
    let send = |member: &Member, message| {
        member.transport.send_snapshot(message, reader.view().snapshot());
    };
    // To nobody, as a message, to another member.
    send(&members[0], snapshot_message(1, 9, 5));
    members[0].hears(Told::SnapshotSent(9, false)).await;
    members[0].transport.send(vec![snapshot_message(1, 2, 5)]);
    members[0].hears(Told::SnapshotSent(2, false)).await;
    // The disk refuses.
    for kind in [FaultKind::Write, FaultKind::Sync, FaultKind::SyncDir] {
        members[1].disk.inject(Fault::once(kind, 0));
        send(&members[0], snapshot_message(1, 2, 5));
        members[0].hears(Told::SnapshotSent(2, false)).await;
        assert!(members[1].files().is_empty(), "{kind:?}");
    }
    // Raft has no room.
    members[1].host.is_full.store(true, Ordering::SeqCst);
    send(&members[0], snapshot_message(1, 2, 5));
    members[0].hears(Told::SnapshotSent(2, false)).await;
    assert!(members[1].files().is_empty());
    members[1].host.is_full.store(false, Ordering::SeqCst);
    // All is well again.
    send(&members[0], snapshot_message(1, 2, 5));
    members[0].hears(Told::SnapshotSent(2, true)).await;
    assert_eq!(members[1].next().await, snapshot_message(1, 2, 5));
    // Nobody is there.
    let second = members.pop().unwrap();
    let mut first = members.pop().unwrap();
    second.stop().await;
    send(&first, snapshot_message(1, 2, 6));
    first.hears(Told::SnapshotSent(2, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_given_up_with_its_peer() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut member = Member::start(1).await;
    let (reader, _writer, _) = database(1);
    for ends in [
        |transport: &Transport| transport.replace_peers(&[]),
        |transport: &Transport| transport.remove_peer(2),
    ] {
        member.transport.add_peer(2, &[format!("http://{}", silent.local_addr().unwrap())]);
        member.transport.send_snapshot(snapshot_message(1, 2, 5), reader.view().snapshot());
        ends(&member.transport);
        member.hears(Told::SnapshotSent(2, false)).await;
    }
    until("permits", || {
        member.transport.shared.sending.available_permits() == snapshot_send::AT_ONCE
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_of_one_index_do_not_mix() {
    let receiver = Member::start(2).await;
    let mut receiver = receiver;
    let (reader, _writer, bytes) = database(4);
    let (other_reader, _other_writer, other) = database(5);
    let mut leaders = Vec::new();
    for (id, reader) in [(1, &reader), (3, &other_reader)] {
        let leader = Member::start(id).await;
        leader.knows(&receiver);
        leader.transport.send_snapshot(snapshot_message(id, 2, 7), reader.view().snapshot());
        leaders.push(leader);
    }
    for leader in &mut leaders {
        leader.hears(Told::SnapshotSent(2, true)).await;
        receiver.next().await;
    }
    let name = backend::snapshot_db_name(7);
    assert_eq!(receiver.files(), std::slice::from_ref(&name));
    let kept = read_file(&receiver, &name);
    assert!(kept == bytes || kept == other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_snapshot_is_none() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut receiver = Member::start(2).await;
    let sender = Member::start(1).await;
    let mut head = BytesMut::new();
    codec::encode_sized(&snapshot_message(1, 2, 7), &mut head);
    let mut request = format!("POST /raft/snapshot HTTP/1.1\r\nHost: {}\r\n", receiver.address);
    for (name, value) in &sender.transport.shared.request_headers {
        request.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    request.push_str("Transfer-Encoding: chunked\r\n\r\n");
    let mut socket = tokio::net::TcpStream::connect(receiver.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let chunk =
        [format!("{:x}\r\n", head.len()).as_bytes(), &head[..], b"\r\n5\r\nhello\r\n"].concat();
    socket.write_all(&chunk).await.unwrap();
    until("a file", || receiver.files().iter().any(|name| name.starts_with("tmp"))).await;
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    until("no file", || receiver.files().is_empty()).await;
    assert!(receiver.delivered.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_snapshot_is_refused() {
    let receiver = Member::start(2).await;
    let sender = Member::start(1).await;
    let post = async |body: &[u8]| {
        let headers: HeaderMap = sender.transport.shared.request_headers.clone();
        let body = Bytes::copy_from_slice(body);
        let question = Question::post("/raft/snapshot", body).with_headers(headers);
        let client = &sender.transport.shared.client;
        client.call(&receiver.url(), question, PATIENCE).await.unwrap().to_string()
    };
    let mut whole = BytesMut::new();
    codec::encode_sized(&snapshot_message(1, 2, 7), &mut whole);
    let bad = "400 Bad Request: failed to decode raft message";
    assert_eq!(post(&whole[..200]).await, format!("{bad} (unexpected EOF)"));
    assert_eq!(post(b"").await, format!("{bad} (EOF)"));
    let mut huge = BytesMut::new();
    huge.put_u64(u64::MAX);
    assert_eq!(post(&huge).await, format!("{bad} (error limit exceeded)"));
    let failed = "500 Internal Server Error: failed to";
    assert_eq!(post(&whole).await, format!("{failed} save KV snapshot (no database came with it)"));
    let mut elsewhere = BytesMut::new();
    codec::encode_sized(&snapshot_message(1, 3, 7), &mut elsewhere);
    assert_eq!(
        post(&elsewhere).await,
        format!("{failed} process raft message (the message is addressed to another member)")
    );
    assert!(receiver.files().is_empty());
}
