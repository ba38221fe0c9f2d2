//! What is served over plain HTTP: metrics and health, of the cluster and of the proxy.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | a member's, as it gives them |
//! | `/health` | whether a read of the cluster succeeds |
//! | `/proxy/metrics` | the proxy's own |
//! | `/proxy/health` | whether a read and a watch succeed through the proxy's own listener |
//! | `/debug/pprof/` | the proxy's profiles, where they are asked for by flag |
//!
//! Upstream: `server/proxy/grpcproxy/{health,metrics}.go` (3.6.16). Differs: `/metrics` asks the other members when one does not answer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use client::{Client, Endpoint, Scheme};
use http::{Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use rpc::errors::Error;
use serde_json::json;
use serving::profile;
use tls::{Connector, Settings};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::grpc::Options;
use crate::kv;
use crate::metrics::Metrics;
use crate::upstream::Caller;
use crate::{listen, socket};

/// How long a read for health may take; upstream's.
const READ_LIMIT: Duration = Duration::from_secs(1);
/// How long a watch for health may take; upstream's.
const WATCH_LIMIT: Duration = Duration::from_secs(3);
/// The key that is asked for; upstream's.
const HEALTH_KEY: &str = "a";
/// How long a member may take with its metrics.
const METRICS_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a member's metrics, which are some hundred KiB.
const METRICS_BYTES_MAX: usize = 16 << 20;

/// Answers requests of HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    shared: Arc<Shared>,
    /// The command line, where there are profiles.
    profiled: Option<Arc<[String]>>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    kv: kv::Service,
    own_client: Option<Client>,
    metrics: Arc<Metrics>,
    /// For members that are asked over TLS; what is wrong with the files has been said by the client, which reads the same.
    connector: Option<Connector>,
    is_secure: bool,
}

impl Web {
    pub(crate) fn new(
        client: Client,
        kv: kv::Service,
        own_client: Option<Client>,
        metrics: Arc<Metrics>,
        options: &Options,
    ) -> Self {
        let settings = options.upstream_tls.clone();
        let is_secure = settings.is_some();
        let settings: Settings = settings.unwrap_or_default();
        let connector = Connector::new(&settings, &["http/1.1"]).ok();
        let shared = Shared { client, kv, own_client, metrics, connector, is_secure };
        Self { shared: Arc::new(shared), profiled: None }
    }

    /// The same, with profiles.
    pub(crate) fn with_profiles(self, profiled: Option<Arc<[String]>>) -> Self {
        Self { profiled, ..self }
    }

    pub(crate) async fn answer(&self, request: Request) -> Response {
        let Shared { metrics, .. } = self.shared.as_ref();
        if let Some(response) = self.profile(request.uri()).await {
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.members_metrics().await,
            "/proxy/metrics" => {
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], metrics.text()).into_response()
            }
            "/health" | "/proxy/health" if request.method() != Method::GET => {
                let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                let get = header::HeaderValue::from_static("GET");
                response.headers_mut().insert(header::ALLOW, get);
                response
            }
            "/health" => health(self.cluster_health().await),
            "/proxy/health" => health(self.own_health().await),
            _ => error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    /// The answer to a request for a profile.
    async fn profile(&self, uri: &Uri) -> Option<Response> {
        let command_line = self.profiled.as_ref()?;
        if uri.path() == "/debug/pprof" {
            let place = [(header::LOCATION, profile::PREFIX)];
            return Some((StatusCode::MOVED_PERMANENTLY, place).into_response());
        }
        let name = uri.path().strip_prefix(profile::PREFIX)?;
        let query = uri.query().unwrap_or_default();
        Some(profile::answer(command_line, name, query).await)
    }

    /// What is wrong with the cluster, as a read sees it.
    async fn cluster_health(&self) -> Result<(), String> {
        let request = RangeRequest { key: HEALTH_KEY.into(), ..RangeRequest::default() };
        let caller = Caller::default();
        let read = timeout(READ_LIMIT, self.shared.kv.read(&caller, request)).await;
        match read {
            Ok(Ok(_)) => Ok(()),
            // That a member refuses for want of rights says that it is well.
            Ok(Err(status)) if status.message() == Error::PermissionDenied.message() => Ok(()),
            Ok(Err(status)) => Err(format!("GET ERROR:{}", client::Error::from(status))),
            Err(_) => Err("GET ERROR:context deadline exceeded".to_owned()),
        }
    }

    /// What is wrong with the proxy, as its clients see it.
    async fn own_health(&self) -> Result<(), String> {
        let Some(client) = &self.shared.own_client else {
            return Err("no connection to proxy".to_owned());
        };
        let client = client.clone().with_timeout(Some(READ_LIMIT));
        match client.get(HEALTH_KEY).await {
            Ok(_) => {}
            Err(error) if error.etcd() == Some(Error::PermissionDenied) => {}
            Err(error) => return Err(format!("GET ERROR:{error}")),
        }
        let request =
            WatchCreateRequest { key: HEALTH_KEY.into(), ..WatchCreateRequest::default() };
        let watched = timeout(WATCH_LIMIT, async {
            match client.watch(request).await {
                Ok(mut watch) => drop(watch.next().await),
                Err(_) => std::future::pending().await,
            }
        });
        watched.await.map_err(|_| "WATCH TIMEOUT".to_owned())
    }

    /// The metrics of some member that answers.
    async fn members_metrics(&self) -> Response {
        let endpoints = self.shared.client.endpoints();
        for endpoint in &endpoints {
            match timeout(METRICS_LIMIT, self.metrics_of(endpoint)).await {
                Ok(Ok(body)) => {
                    let kind = "text/plain; version=0.0.4";
                    return ([(header::CONTENT_TYPE, kind)], body).into_response();
                }
                Ok(Err(why)) => {
                    tracing::debug!(endpoint, why, "failed to fetch metrics");
                }
                Err(_) => tracing::debug!(endpoint, "fetching metrics takes too long"),
            }
        }
        error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
    }

    async fn metrics_of(&self, endpoint: &str) -> Result<Bytes, String> {
        let endpoint = Endpoint::parse(endpoint);
        let address = endpoint.target();
        let text = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(&address).await.map_err(text)?;
        socket::set_up(&stream);
        let is_secure = match endpoint.scheme {
            Scheme::Tls => true,
            Scheme::Plain => false,
            Scheme::None => self.shared.is_secure,
        };
        let stream = match (is_secure, &self.shared.connector) {
            (false, _) => tls::Stream::Plain(stream.into()),
            (true, Some(connector)) => {
                let (host, _) = listen::host_and_port(&address).ok_or("no port")?;
                connector.connect(stream, host).await.map_err(text)?
            }
            (true, None) => return Err("no certificates".to_owned()),
        };
        get(stream, &address, "/metrics").await
    }
}

/// One request of HTTP/1.1.
async fn get(stream: tls::Stream, host: &str, path: &str) -> Result<Bytes, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let request = http::Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // Drives the connection until the answer is there; it is dropped with this call.
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), METRICS_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        ended = &mut connection => match ended {
            // It ends with its last byte, which may not have been looked at yet.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

fn health(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => {
            let body = json!({ "health": "true", "reason": "" }).to_string();
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
        }
        Err(reason) => {
            tracing::warn!(reason, "serving /health false");
            let body = json!({ "health": "false", "reason": reason }).to_string();
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// A text as Go's `http.Error` sends it.
fn error(status: StatusCode, text: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{text}\n")).into_response()
}
