//! For tests: a member whose clients come over real connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tower_service::Service as _;

use super::*;
use crate::Member;
use crate::member::unconnected;

/// What a call of gRPC came to.
pub(crate) struct Answered {
    /// The code of HTTP.
    pub(crate) http: u16,
    /// All messages, framed.
    pub(crate) body: Bytes,
    pub(crate) status: Status,
}

/// A message as it is sent.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

/// A body that stays open.
pub(crate) fn open_body(first: Bytes) -> Body {
    let first = tokio_stream::once(Ok::<_, std::convert::Infallible>(first));
    Body::from_stream(first.chain(tokio_stream::pending()))
}

/// A member that listens.
pub(crate) struct Served {
    member: Member,
    routes: Entrance,
    address: SocketAddr,
    stopping: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    options: GrpcOptions,
    data_dir: tempfile::TempDir,
}

impl Served {
    /// Listens on a port of its own, without TLS.
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut served = Self::without_listener(change).await;
        served.listen_tcp(Security::Plain, None).await;
        served
    }

    pub(crate) async fn without_listener(change: impl FnOnce(&mut Config)) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut config = unconnected::config(data_dir.path());
        change(&mut config);
        let options = GrpcOptions::of(&config);
        let (member, routes) = unconnected::start(config).await;
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let stopping = watch::channel(false).0;
        Self { member, routes, address, stopping, listeners: Vec::new(), options, data_dir }
    }

    /// Listens on a port that the system chooses.
    pub(super) async fn listen_tcp(&mut self, security: Security, tls: Option<&Acceptor>) {
        let socket = TcpListener::bind(self.address).await.unwrap();
        self.address = socket.local_addr().unwrap();
        let url = Url::parse(&format!("http://{}", self.address)).unwrap();
        self.listen(Listener { url, security, door: socket.into() }, tls);
    }

    pub(super) fn listen(&mut self, listener: Listener, tls: Option<&Acceptor>) {
        let (tls, routes, options) = (tls.cloned(), self.routes.clone(), self.options.clone());
        let stopping = self.stopping.subscribe();
        self.listeners.push(tokio::spawn(async move {
            serve(listener, Traffic::All, tls.as_ref(), routes, options, stopping).await;
        }));
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) fn folder(&self) -> &std::path::Path {
        self.data_dir.path()
    }

    /// Answer of the gateway to a request that no connection brought.
    async fn call(&self, path: &str, body: &Value) -> Value {
        let request = Request::post(path).body(Body::from(body.to_string())).unwrap();
        let answer = self.routes.clone().call(request).await.unwrap();
        assert!(answer.status().is_success(), "{path} {body}");
        let body = to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// Calls a method of gRPC on a connection of its own. It is not for the client to end it.
    pub(crate) async fn grpc(&self, path: &str, headers: &[(&str, &str)], body: Body) -> Answered {
        self.grpc_over(self.connect().await, path, headers, body).await
    }

    /// The same on this connection.
    pub(super) async fn grpc_over(
        &self,
        connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answered {
        let io = TokioIo::new(connection);
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = client.send_request(request.body(body).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = Status::from_header_map(&trailers)
            .or_else(|| Status::from_header_map(&head.headers))
            .expect("a status");
        connection.abort();
        Answered { http: head.status.as_u16(), body: body.to_bytes(), status }
    }

    /// Makes root, turns authentication on, and returns root's token.
    pub(crate) async fn enable_auth(&self) -> String {
        let root = json!({ "name": "root", "password": "secret" });
        self.call("/v3/auth/user/add", &root).await;
        self.call("/v3/auth/role/add", &json!({ "name": "root" })).await;
        self.call("/v3/auth/user/grant", &json!({ "user": "root", "role": "root" })).await;
        self.call("/v3/auth/enable", &json!({})).await;
        let answer = self.call("/v3/auth/authenticate", &root).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    /// Waits for the page of metrics to say something.
    pub(crate) async fn until_metrics(&self, says: impl Fn(&str) -> bool) {
        let awaited = async {
            loop {
                let request = Request::get("/metrics").body(Body::empty()).unwrap();
                let answer = self.routes.clone().call(request).await.unwrap();
                let page = to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
                if says(std::str::from_utf8(&page).unwrap()) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), awaited).await.unwrap();
    }

    pub(crate) async fn stop(self) {
        self.stopping.send_replace(true);
        self.listeners.iter().for_each(JoinHandle::abort);
        self.member.stop().await;
    }
}
