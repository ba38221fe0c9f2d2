//! How the client behaves against servers that are down, lose their leader or drop streams: servers of this test, on ports of the kernel's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Client, Code, Error, Options};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::{Event, KeyValue};
use rpc::etcdserverpb::kv_server::{Kv, KvServer};
use rpc::etcdserverpb::lease_server::{Lease, LeaseServer};
use rpc::etcdserverpb::watch_server::{Watch, WatchServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// A server that answers as told, and remembers what it was asked.
#[derive(Clone, Default)]
struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Errors for the next calls of KV; then they succeed.
    errors: VecDeque<Status>,
    calls: usize,
    metadata: Vec<(String, String)>,
    /// Responses of each watch stream in turn, after which the server drops it; the last one stays open.
    streams: VecDeque<Vec<pb::WatchResponse>>,
    created: Vec<pb::WatchCreateRequest>,
    /// Renewals after which a keep-alive stream is dropped.
    renewals_per_stream: usize,
}

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    fn call<T, Q>(&self, request: &Request<Q>, answer: T) -> Answer<T> {
        self.with(|state| {
            state.calls += 1;
            let text = |key: &str| {
                request
                    .metadata()
                    .get(key)
                    .map(|value| (key.to_owned(), value.to_str().unwrap().to_owned()))
            };
            state.metadata =
                ["client-api-version", "hasleader"].iter().filter_map(|key| text(key)).collect();
            state.errors.pop_front().map_or(Ok(Response::new(answer)), Err)
        })
    }

    async fn listen(&self) -> SocketAddr {
        self.serve(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn serve(&self, listener: TcpListener) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(self.clone()))
            .add_service(WatchServer::new(self.clone()))
            .add_service(LeaseServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        self.call(&request, pb::RangeResponse::default())
    }

    type RangeStreamStream = ReceiverStream<Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        Err(Status::unimplemented("range_stream"))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.call(&request, pb::PutResponse::default())
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        self.call(&request, pb::DeleteRangeResponse::default())
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        self.call(&request, pb::TxnResponse::default())
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Answer<pb::CompactionResponse> {
        self.call(&request, pb::CompactionResponse::default())
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Answer<Self::WatchStream> {
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.clone();
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            let Ok(Some(pb::WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            })) = requests.message().await
            else {
                return;
            };
            let (responses, is_last) = fake.with(|state| {
                state.created.push(create);
                (state.streams.pop_front().unwrap_or_default(), state.streams.is_empty())
            });
            for response in responses {
                sender.send(Ok(response)).await.unwrap();
            }
            if is_last {
                // Held open until the client goes.
                while let Ok(Some(_)) = requests.message().await {}
            } else {
                sender.send(Err(Status::unavailable("etcdserver: server stopped"))).await.unwrap();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl Lease for Fake {
    async fn lease_grant(
        &self,
        _: Request<pb::LeaseGrantRequest>,
    ) -> Answer<pb::LeaseGrantResponse> {
        Err(Status::unimplemented("lease_grant"))
    }

    async fn lease_revoke(
        &self,
        _: Request<pb::LeaseRevokeRequest>,
    ) -> Answer<pb::LeaseRevokeResponse> {
        Err(Status::unimplemented("lease_revoke"))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<pb::LeaseKeepAliveResponse, Status>>;

    /// Like etcd's, answers nothing, not even the opening of the stream, before the first request.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let (sender, receiver) = mpsc::channel(16);
        let mut requests = request.into_inner();
        let mut left = self.with(|state| state.renewals_per_stream);
        let mut next = requests.message().await?;
        tokio::spawn(async move {
            while let Some(request) = next {
                // Lease 7 is gone.
                let ttl = if request.id == 7 { 0 } else { 1 };
                let response = pb::LeaseKeepAliveResponse { header: None, id: request.id, ttl };
                sender.send(Ok(response)).await.unwrap();
                left = left.saturating_sub(1);
                if left == 0 {
                    let _ = sender.send(Err(Status::unavailable("etcdserver: no leader"))).await;
                    return;
                }
                next = requests.message().await.unwrap_or(None);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        Err(Status::unimplemented("lease_time_to_live"))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Answer<pb::LeaseLeasesResponse> {
        Err(Status::unimplemented("lease_leases"))
    }
}

async fn connect(endpoints: &[SocketAddr]) -> Client {
    let options = Options { timeout: Some(Duration::from_secs(5)), ..Options::default() };
    Client::connect(endpoints.iter().map(ToString::to_string), options).await.unwrap()
}

fn unavailable() -> Status {
    Status::unavailable("etcdserver: leader changed")
}

#[tokio::test]
async fn reads_are_repeated_and_writes_are_not() {
    let fake = Fake::default();
    let client = connect(&[fake.listen().await]).await;
    fake.with(|state| state.errors.extend([unavailable(), unavailable()]));
    client.get("key").await.unwrap();
    assert_eq!(fake.with(|state| state.calls), 3);

    fake.with(|state| state.errors.push_back(unavailable()));
    let error = client.put("key", "value").await.unwrap_err();
    assert_eq!(error, Error::rpc(Code::Unavailable, "etcdserver: leader changed"));
    assert_eq!(error.to_string(), "etcdserver: leader changed");
    assert_eq!(fake.with(|state| state.calls), 4);

    fake.with(|state| {
        state.errors.push_back(Status::not_found("etcdserver: requested lease not found"))
    });
    assert_eq!(client.get("key").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(fake.with(|state| state.calls), 5);
}

#[tokio::test]
async fn endpoints_are_replaced_for_all_clones() {
    let (first, second) = (Fake::default(), Fake::default());
    let addresses = [first.listen().await, second.listen().await].map(|a| a.to_string());
    let options = Options { timeout: Some(Duration::from_secs(5)), ..Options::default() };
    let client = Client::connect([&addresses[0]], options).await.unwrap();
    let clone = client.clone();
    client.put("key", "1").await.unwrap();
    clone.set_endpoints([&addresses[1]]);
    assert_eq!(client.endpoints(), [addresses[1].as_str()]);
    client.put("key", "2").await.unwrap();
    // One that stays, beside one that comes back; none at all is a mistake.
    client.set_endpoints(&addresses);
    client.set_endpoints::<&str>([]);
    client.put("key", "3").await.unwrap();
    let calls = |fake: &Fake| fake.with(|state| state.calls);
    assert!(calls(&first) >= 1 && calls(&second) >= 1);
    assert_eq!(calls(&first) + calls(&second), 3);
}

#[tokio::test]
async fn calls_carry_the_metadata_that_servers_look_at() {
    let fake = Fake::default();
    let client = connect(&[fake.listen().await]).await;
    let version = ("client-api-version".to_owned(), "3.5".to_owned());
    client.get("key").await.unwrap();
    assert_eq!(fake.with(|state| state.metadata.clone()), std::slice::from_ref(&version));
    client.require_leader().get("key").await.unwrap();
    let leader = ("hasleader".to_owned(), "true".to_owned());
    assert_eq!(fake.with(|state| state.metadata.clone()), [version, leader]);
}

#[tokio::test]
async fn endpoints_take_turns() {
    let fakes = [Fake::default(), Fake::default()];
    let addresses = [fakes[0].listen().await, fakes[1].listen().await];
    let client = connect(&addresses).await;
    // Until both are connected, one of them may serve alone.
    while fakes.iter().any(|fake| fake.with(|state| state.calls) == 0) {
        client.get("key").await.unwrap();
    }
    let before = fakes.each_ref().map(|fake| fake.with(|state| state.calls));
    for _ in 0..10 {
        client.get("key").await.unwrap();
    }
    let after = fakes.each_ref().map(|fake| fake.with(|state| state.calls));
    assert_eq!((after[0] - before[0], after[1] - before[1]), (5, 5));
}

#[tokio::test]
async fn a_server_that_is_down_shows_as_an_expired_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = connect(&[address]).await.with_timeout(Some(Duration::from_millis(200)));
    let error = client.put("key", "value").await.unwrap_err();
    assert_eq!(error.to_string(), "context deadline exceeded");
    let expected = format!(
        "rpc error: code = DeadlineExceeded desc = latest balancer error: connection error: desc = \
         \"transport: Error while dialing: dial tcp {address}: connect: connection refused\""
    );
    assert_eq!(error.grpc_text(), expected);
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_comes_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = connect(&[address]).await;
    let call = tokio::spawn(async move { client.put("key", "value").await });
    // The first connection attempt is refused before this port is listened on again.
    tokio::task::yield_now().await;
    let fake = Fake::default();
    fake.serve(TcpListener::bind(address).await.unwrap());
    call.await.unwrap().unwrap();
    assert_eq!(fake.with(|state| state.calls), 1);
}

#[tokio::test]
async fn what_cannot_be_secured_and_nothing_are_refused() {
    let options = Options::default;
    let tls = Client::connect(["unixs://127.0.0.1:1"], options()).await.unwrap_err();
    let text = "TLS over Unix sockets is not served yet: \"unixs://127.0.0.1:1\"";
    assert_eq!(tls, Error::Tls(text.to_owned()));
    let absent =
        tls::Settings { trusted_ca: Some("/absent/ca.pem".into()), ..tls::Settings::default() };
    let with_absent = Options { tls: Some(absent), ..options() };
    let error = Client::connect(["127.0.0.1:1"], with_absent.clone()).await.unwrap_err();
    let text = "open /absent/ca.pem: No such file or directory (os error 2)";
    assert_eq!(error, Error::Tls(text.to_owned()));
    // A plain endpoint is plain, whatever is configured.
    assert!(Client::connect(["http://127.0.0.1:1"], with_absent).await.is_ok());
    assert_eq!(Client::connect([""; 0], options()).await.unwrap_err(), Error::NoEndpoints);
}

#[tokio::test]
async fn requests_too_large_do_not_travel() {
    let fake = Fake::default();
    let client = connect(&[fake.listen().await]).await;
    let error = client.put("key", vec![0; 2 << 20]).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(error.message(), "trying to send message larger than max (2097162 vs. 2097152)");
    assert_eq!(fake.with(|state| state.calls), 0);
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

fn created(revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { header: header(revision), created: true, ..pb::WatchResponse::default() }
}

fn events(revisions: &[i64], fragment: bool) -> pb::WatchResponse {
    let event = |revision: &i64| Event {
        kv: Some(KeyValue { mod_revision: *revision, ..KeyValue::default() }),
        ..Event::default()
    };
    pb::WatchResponse {
        header: header(revisions.last().copied().unwrap_or_default()),
        events: revisions.iter().map(event).collect(),
        fragment,
        ..pb::WatchResponse::default()
    }
}

async fn next_revisions(watch: &mut client::Watch) -> Vec<i64> {
    let response = watch.next().await.unwrap().unwrap();
    response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

#[tokio::test]
async fn a_watch_resumes_where_its_stream_broke() {
    let fake = Fake::default();
    let streams = [
        vec![
            created(10),
            events(&[11], false),
            events(&[12], true),
            events(&[13], false),
            events(&[14], true),
        ],
        vec![created(20), events(&[14, 15], false)],
    ];
    fake.with(|state| state.streams.extend(streams));
    let client = connect(&[fake.listen().await]).await;
    let request = pb::WatchCreateRequest { key: "key".into(), ..pb::WatchCreateRequest::default() };
    let mut watch = client.watch(request).await.unwrap();
    assert!(watch.next().await.unwrap().unwrap().created);
    assert_eq!(next_revisions(&mut watch).await, [11]);
    // Fragments are one response; the one whose rest was lost is asked for again, and the second confirmation is not shown.
    assert_eq!(next_revisions(&mut watch).await, [12, 13]);
    assert_eq!(next_revisions(&mut watch).await, [14, 15]);
    let starts = fake
        .with(|state| state.created.iter().map(|create| create.start_revision).collect::<Vec<_>>());
    assert_eq!(starts, [0, 14]);
}

#[tokio::test]
async fn a_watch_without_events_resumes_after_the_revision_of_its_creation() {
    let fake = Fake::default();
    fake.with(|state| {
        state.streams.extend([vec![created(10)], vec![created(12), events(&[11], false)]])
    });
    let client = connect(&[fake.listen().await]).await;
    let mut watch = client.watch(pb::WatchCreateRequest::default()).await.unwrap();
    assert!(watch.next().await.unwrap().unwrap().created);
    assert_eq!(next_revisions(&mut watch).await, [11]);
    assert_eq!(fake.with(|state| state.created[1].start_revision), 11);
}

#[tokio::test]
async fn keep_alives_survive_a_broken_stream_and_end_with_the_lease() {
    let fake = Fake::default();
    fake.with(|state| state.renewals_per_stream = 1);
    let client = connect(&[fake.listen().await]).await;
    assert_eq!(client.lease_keep_alive_once(5).await.unwrap().ttl, 1);
    let mut renewals = client.lease_keep_alive(5);
    for _ in 0..2 {
        assert_eq!(renewals.next().await.unwrap().unwrap().id, 5);
    }
    assert!(client.lease_keep_alive(7).next().await.is_none());
    let gone = client.lease_keep_alive_once(7).await.unwrap_err();
    assert_eq!(gone, Error::rpc(Code::NotFound, "etcdserver: requested lease not found"));
}
