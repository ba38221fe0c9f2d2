//! Messages between members: all kinds, all channels, and what happens when they break.

use bytes::Bytes;
use http::{HeaderMap, Method};
use raft::{Rejection, VoteRequest};

use super::*;

fn every_kind(from: u64, to: u64) -> Vec<Message> {
    let id = |term, index| EntryId { term: Term(term), index: LogIndex(index) };
    let context = Bytes::from_static(b"12345678");
    let vote = VoteRequest { last: id(1, 3), transfer: true };
    let proposal = raft::Entry::normal(Bytes::from_static(b"proposal"));
    let bodies = [
        (0, Body::Propose { entries: vec![proposal] }),
        (3, Body::Append { prev: id(2, 9), entries: Vec::new(), commit: LogIndex(8) }),
        (
            3,
            Body::AppendResponse {
                index: LogIndex(7),
                rejection: Some(Rejection { hint: LogIndex(4), hint_term: Term(1) }),
            },
        ),
        (3, Body::Vote(vote)),
        (3, Body::VoteResponse { reject: true }),
        (3, Body::Heartbeat { commit: LogIndex(5), context: context.clone() }),
        (3, Body::HeartbeatResponse { context: context.clone() }),
        (3, Body::TransferLeader),
        (3, Body::TimeoutNow),
        (0, Body::ReadIndex { context: context.clone() }),
        (3, Body::ReadIndexResponse { index: LogIndex(6), context }),
        (4, Body::PreVote(VoteRequest { last: id(1, 3), transfer: false })),
        (4, Body::PreVoteResponse { reject: false }),
    ];
    bodies.into_iter().map(|(term, body)| message(from, to, term, body)).collect()
}

/// Compares without order: there are several ways.
fn assert_same(mut got: Vec<Message>, mut wanted: Vec<Message>) {
    got.sort_by_key(|message| message.body.kind().to_string());
    wanted.sort_by_key(|message| message.body.kind().to_string());
    assert_eq!(got, wanted);
}

async fn take(member: &mut Member, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(member.next().await);
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_message_arrives_over_streams() {
    let mut members = connected([1, 2, 3]).await;
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
        let sent = every_kind(members[from].id, members[to].id);
        members[from].transport.send(sent.clone());
        assert_same(take(&mut members[to], sent.len()).await, sent);
    }
    for member in &members {
        for other in [1, 2, 3].into_iter().filter(|other| *other != member.id) {
            assert!(member.transport.active_since(other).is_some());
        }
        assert_eq!(member.transport.active_since(9), None);
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_arrive_in_order_small_and_large() {
    let mut members = connected([1, 2]).await;
    let sizes = (0..3000_usize).map(|at| if at % 500 == 0 { 2_000_000 } else { at });
    let sent: Vec<Message> =
        sizes.zip(0..).map(|(payload, prev)| append(1, 2, prev, payload)).collect();
    for batch in sent.chunks(100) {
        members[0].transport.send(batch.to_vec());
    }
    for message in &sent {
        assert!(members[1].next().await == *message, "{:?}", message.body.kind());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_only_a_remote_is_sent_posts() {
    let sender = Member::start(1).await;
    let mut receiver = Member::start(2).await;
    sender.transport.add_remote(2, &receiver.urls());
    let sent = every_kind(1, 2);
    sender.transport.send(sent.clone());
    assert_same(take(&mut receiver, sent.len()).await, sent);
    // The receiver noted where the sender is reached, and can answer.
    let mut sender = sender;
    receiver.transport.send(vec![heartbeat(2, 1, 5)]);
    assert_eq!(sender.next().await, heartbeat(2, 1, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_append_responses_to_a_member_the_last_is_sent() {
    let mut members = connected([1, 2, 3]).await;
    let response = |to, index| {
        let body = Body::AppendResponse { index: LogIndex(index), rejection: None };
        message(1, to, 2, body)
    };
    members[0].transport.send(vec![
        response(2, 1),
        response(3, 1),
        response(2, 2),
        heartbeat(1, 2, 0),
        response(2, 3),
    ]);
    assert_same(take(&mut members[1], 2).await, vec![response(2, 3), heartbeat(1, 2, 0)]);
    assert_eq!(members[2].next().await, response(3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_ends_the_older_one() {
    let mut members = connected([1, 2]).await;
    let second = members.pop().unwrap();
    let mut first = members.pop().unwrap();
    // Another process that says it is the second member takes its streams away.
    let shared = &second.transport.shared;
    let mut headers = shared.request_headers.clone();
    headers.insert(headers::RAFT_TO, "1".parse().unwrap());
    let ask = async || {
        let url = crate::config::Url::parse(&first.url()).unwrap();
        let path = "/raft/stream/message/2";
        let body = axum::body::Body::empty();
        let request = client::request(Method::GET, &url, path, headers.clone(), body).unwrap();
        shared.client.send(&url, request).await.unwrap()
    };
    let (old, mut old_connection) = ask().await;
    assert_eq!(old.status(), 200);
    let (new, _new_connection) = ask().await;
    let ended = client_body(old.into_body(), usize::MAX).await;
    assert!(ended.len() < 200, "it ends after heartbeats at most");
    let closed = async {
        while old_connection.sender.ready().await.is_ok() {
            sleep(Duration::from_millis(2)).await
        }
    };
    timeout(PATIENCE, closed).await.expect("its connection takes no other request");
    // The second member asks again, as soon as it notices that its own stream ended.
    client_body(new.into_body(), usize::MAX).await;
    until("streams", || first.is_read_by(2)).await;
    let _ = &mut first;
}

/// Reads a body to its end, or until it has so many bytes.
async fn client_body(mut body: hyper::body::Incoming, enough: usize) -> Vec<u8> {
    use http_body_util::BodyExt as _;
    let mut read = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            read.extend(frame.into_data().unwrap_or_default());
            if read.len() >= enough {
                break;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the body ends");
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_nothing_to_say_says_so() {
    let mut members = connected([1, 2]).await;
    let second = members.pop().unwrap();
    let first = members.pop().unwrap();
    second.transport.replace_peers(&[]);
    let mut headers = second.transport.shared.request_headers.clone();
    headers.insert(headers::RAFT_TO, "1".parse().unwrap());
    let url = crate::config::Url::parse(&first.url()).unwrap();
    let body = axum::body::Body::empty();
    let path = "/raft/stream/msgapp/2";
    let request = client::request(Method::GET, &url, path, headers, body).unwrap();
    let (response, _connection) = second.transport.shared.client.send(&url, request).await.unwrap();
    let started = Instant::now();
    assert_eq!(client_body(response.into_body(), 1).await, [0]);
    assert!(started.elapsed() > Duration::from_millis(1600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_a_connection() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // A caller that never asks anything.
    let member = Member::start(1).await;
    let mut caller = tokio::net::TcpStream::connect(member.address).await.unwrap();
    let idle = async {
        let mut read = Vec::new();
        let _ = timeout(PATIENCE, caller.read_to_end(&mut read)).await.expect("it is closed");
        assert!(read.is_empty());
    };
    // A peer that answers every call while it is `answering`, and says nothing on any.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    member.transport.add_peer(2, &[format!("http://{}", silent.local_addr().unwrap())]);
    let answering = AtomicBool::new(true);
    let calls = AtomicUsize::new(0);
    let answers = async {
        let mut streams = Vec::new();
        loop {
            let (mut stream, _) = silent.accept().await.unwrap();
            calls.fetch_add(1, Ordering::SeqCst);
            let head =
                "HTTP/1.1 200 OK\r\nX-Server-Version: 3.5.30\r\nTransfer-Encoding: chunked\r\n\r\n";
            if answering.load(Ordering::SeqCst) {
                // A caller that has given up meanwhile calls again.
                let _ = stream.write_all(head.as_bytes()).await;
            }
            streams.push(stream);
        }
    };
    let asked = async {
        until("active", || member.transport.active_since(2).is_some()).await;
        answering.store(false, Ordering::SeqCst);
        until("inactive", || member.transport.active_since(2).is_none()).await;
        let before = calls.load(Ordering::SeqCst);
        until("another try", || calls.load(Ordering::SeqCst) > before).await;
    };
    let both = async { tokio::join!(idle, asked) };
    tokio::select! {
        _ = both => {}
        () = answers => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_down_is_found_again() {
    let mut members = connected([1, 2]).await;
    let second = members.pop().unwrap();
    let mut first = members.pop().unwrap();
    let (id, address) = (second.id, second.address);
    second.stop().await;
    first.hears(Told::Unreachable(2)).await;
    until("inactive", || first.transport.active_since(2).is_none()).await;
    // Without streams, messages go by POST, and are lost too.
    while first.told.try_recv().is_ok() {}
    first.transport.send(vec![heartbeat(1, 2, 1)]);
    first.hears(Told::Unreachable(2)).await;
    let mut second = Member::start_at(id, address, CLUSTER).await;
    second.knows(&first);
    until("streams", || first.is_read_by(2) && second.is_read_by(1)).await;
    until("active", || first.transport.active_since(2).is_some()).await;
    first.transport.send(vec![heartbeat(1, 2, 2)]);
    // One of those that were lost may have been on its way still.
    while second.next().await != heartbeat(1, 2, 2) {}
    second.transport.send(vec![append(2, 1, 7, 10)]);
    assert_eq!(first.next().await, append(2, 1, 7, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_url_is_tried_after_a_failure_and_new_ones_after_an_update() {
    let first = Member::start(1).await;
    let mut second = Member::start(2).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    second.knows(&first);
    first.transport.add_peer(2, &[format!("http://{closed}"), second.url()]);
    until("active", || first.transport.active_since(2).is_some()).await;
    first.transport.send(vec![heartbeat(1, 2, 1)]);
    assert_eq!(second.next().await, heartbeat(1, 2, 1));
    let third = Member::start(3).await;
    third.transport.add_peer(2, &[format!("http://{closed}")]);
    second.knows(&third);
    third.transport.update_peer(2, &second.urls());
    until("active", || third.transport.active_since(2).is_some()).await;
    third.transport.update_peer(2, &["nonsense".to_owned()]);
    assert_eq!(third.transport.peer(2).unwrap().urls.pick().to_string(), second.url());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_told_so() {
    let mut members = connected([1, 2]).await;
    let mut second = members.pop().unwrap();
    let first = members.pop().unwrap();
    first.host.removed.lock().unwrap().insert(2);
    first.transport.remove_peer(2);
    second.hears(Told::RemovedBy(1)).await;
    // What it still says is not heard: not on a stream, which is gone, and not by POST.
    second.transport.send(vec![heartbeat(2, 1, 1)]);
    second.hears(Told::Unreachable(1)).await;
    let mut first = first;
    assert!(first.delivered.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_cluster_is_not_heard() {
    let mut first = Member::start(1).await;
    let mut stranger = Member::start_at(2, "127.0.0.1:0".parse().unwrap(), CLUSTER + 1).await;
    first.knows(&stranger);
    stranger.knows(&first);
    stranger.transport.send(vec![heartbeat(2, 1, 1)]);
    stranger.hears(Told::Unreachable(1)).await;
    assert!(first.delivered.try_recv().is_err());
    assert!(!first.is_read_by(2) && !stranger.is_read_by(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_dropped_and_reported() {
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut member = Member::start(1).await;
    member.transport.add_peer(2, &[format!("http://{}", silent.local_addr().unwrap())]);
    let room = pipeline::QUEUE_MESSAGES + pipeline::SENDERS;
    for commit in 0..=room as u64 {
        member.transport.send(vec![heartbeat(1, 2, commit)]);
    }
    member.hears(Told::Unreachable(2)).await;
    // A host without room does not end the stream.
    let mut members = connected([3, 4]).await;
    members[1].host.is_full.store(true, Ordering::SeqCst);
    members[0].transport.send(vec![append(3, 4, 1, 1)]);
    let answer = post(&members[0], &members[1], &heartbeat(3, 4, 1)).await;
    assert_eq!(answer.to_string(), "500 Internal Server Error: error processing raft message");
    members[1].host.is_full.store(false, Ordering::SeqCst);
    members[0].transport.send(vec![append(3, 4, 2, 1)]);
    while members[1].next().await != append(3, 4, 2, 1) {}
}

async fn post(from: &Member, to: &Member, message: &Message) -> Answer {
    let headers: HeaderMap = from.transport.shared.request_headers.clone();
    let body = raft::codec::encode_message(message);
    let question = Question::post("/raft", body).with_headers(headers);
    from.transport.shared.client.call(&to.url(), question, PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_others_and_from_removed_ones_are_not_delivered() {
    let mut members = connected([1, 2]).await;
    members[1].host.removed.lock().unwrap().insert(7);
    members[0].transport.send(vec![heartbeat(7, 2, 1), heartbeat(1, 2, 2)]);
    assert_eq!(members[1].next().await, heartbeat(1, 2, 2));
    let (first, second) = (&members[0], &members[1]);
    for refused in [heartbeat(7, 2, 1), heartbeat(1, 9, 1)] {
        assert_eq!(post(first, second, &refused).await.status, 500);
    }
    assert_eq!(post(first, second, &heartbeat(1, 2, 3)).await.status, 204);
    assert_eq!(members[1].next().await, heartbeat(1, 2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_added_after_the_end_and_nothing_runs_on() {
    let mut members = connected([1, 2]).await;
    let second = members.pop().unwrap();
    let first = members.pop().unwrap();
    first.transport.stop().await;
    first.transport.add_peer(2, &second.urls());
    assert!(first.transport.peer(2).is_none());
    first.transport.send(vec![heartbeat(1, 2, 1)]);
    until("inactive", || second.transport.active_since(1).is_none() || !second.is_read_by(1)).await;
    // Only the transport itself holds on to what tasks held.
    assert_eq!(Arc::strong_count(&first.transport.shared), 1);
    first.stop().await;
}

#[test]
fn heartbeats_pass_appends_where_both_go_the_same_way() {
    let queue = queue::Queue::new(3);
    queue.push(append(1, 2, 1, 10)).unwrap();
    queue.push(append(1, 2, 2, 10)).unwrap();
    queue.push(heartbeat(1, 2, 1)).unwrap();
    assert_eq!(queue.push(heartbeat(1, 2, 2)), Err(queue::Refused::Full));
    let context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut batch = Vec::new();
    assert!(queue.poll_batch(&context, usize::MAX, &mut batch).is_ready());
    assert_eq!(batch, [heartbeat(1, 2, 1), append(1, 2, 1, 10), append(1, 2, 2, 10)]);
    assert!(queue.poll_batch(&context, usize::MAX, &mut Vec::new()).is_pending());
    queue.push(heartbeat(1, 2, 3)).unwrap();
    assert_eq!(queue.close(), 1);
    assert_eq!(queue.push(heartbeat(1, 2, 3)), Err(queue::Refused::Closed));
    assert!(queue.poll_batch(&context, usize::MAX, &mut Vec::new()).is_ready());
}
