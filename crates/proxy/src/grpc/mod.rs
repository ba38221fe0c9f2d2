//! The gRPC proxy: what it is told, and how its parts are put together.
//!
//! ```text
//!  listener ─► tonic ─┬─ KV, Watch, MemberList, LeaseTimeToLive, LeaseKeepAlive   looked into
//!                     ├─ other methods of etcd's services                         forwarded
//!                     └─ HTTP: /metrics, /health, /proxy/metrics, /proxy/health, /debug/pprof
//! ```
//!
//! Tasks beside the listener live as long as the proxy: the tracker of the leader, the registration, the list of proxies, the renewal of the
//! list of endpoints. Whoever drops [`GrpcProxy::run`]'s future ends them.
//!
//! Upstream: `server/etcdmain/grpc_proxy.go` (3.6.16).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use client::Client;
use rpc::etcdserverpb::kv_server::KvServer;
use rpc::etcdserverpb::watch_server::WatchServer;
use serving::is_call;
use tls::{Acceptor, Settings};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::service::Routes;
use tonic_prost::ProstCodec;

use crate::call_log::CallLog;
use crate::cluster::{self, MEMBER_LIST_PATH, MemberList, Proxies};
use crate::forward;
use crate::leader::Tracker;
use crate::lease::{KEEP_ALIVE_PATH, KeepAlive, TIME_TO_LIVE_PATH, TimeToLive};
use crate::leasing::Leasing;
use crate::metrics::Metrics;
use crate::namespace::Namespace;
use crate::register;
use crate::upstream::Upstream;
use crate::web::Web;
use crate::{kv, listen, watch};

pub use crate::register::Registration;

/// What a listener for clients speaks on TLS, best first.
const PROTOCOLS: &[&str] = &["h2", "http/1.1"];

/// How long the list of members is waited for.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` to accept clients on.
    pub listen_address: String,
    /// URL of one more listener, for metrics and health alone.
    pub metrics_address: Option<String>,
    /// The address that clients are told, and that the proxy's own health is asked at; empty for none.
    pub advertised: String,
    /// Where the cluster is. Must not be empty.
    pub endpoints: Vec<String>,
    /// How often the endpoints are renewed from the list of members.
    pub sync_interval: Option<Duration>,
    /// The entry among other proxies.
    pub registration: Option<Registration>,
    /// Put before all keys.
    pub namespace: String,
    /// Where the keys are that tell which proxy answers reads of a key from memory; empty for none.
    pub leasing_prefix: String,
    /// Whether serializable reads must not go back in time.
    pub is_ordered: bool,
    /// Largest message that is sent to the cluster.
    pub send_bytes_max: usize,
    /// Largest message that is taken from the cluster.
    pub recv_bytes_max: usize,
    /// Silence on a connection to the cluster after which it is probed.
    pub dial_keepalive_time: Option<Duration>,
    /// How long such a probe may go unanswered.
    pub dial_keepalive_timeout: Duration,
    /// Whether connections without calls are probed too.
    pub dial_keepalive_while_idle: bool,
    /// Shortest time between two pings of a client; zero for grpc's five minutes.
    pub keepalive_min_time: Duration,
    /// Silence on a client's connection after which it is probed.
    pub keepalive_interval: Option<Duration>,
    /// How long such a probe may go unanswered.
    pub keepalive_timeout: Duration,
    /// Streams of one client's connection.
    pub max_concurrent_streams: u32,
    /// How connections to the cluster are secured, unless the endpoints' scheme decides.
    pub upstream_tls: Option<Settings>,
    /// How clients' connections are secured; not at all without a certificate.
    pub listen_tls: Settings,
    /// Whether each message to and from clients gets a line in the log.
    pub logs_calls: bool,
    /// The command line without secrets, where clients may ask for profiles; not where they listen for metrics alone.
    pub profiled: Option<Vec<String>>,
    /// Where a certificate is generated, and for how many years, if clients' connections are to be secured without one.
    pub auto_tls: Option<(PathBuf, u32)>,
}

/// Why a proxy cannot start. The texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("listen tcp {address}: {}", serving::bind_error(source))]
    Listen {
        /// The address.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// The URL for metrics cannot be read.
    #[error("cannot parse {0:?}")]
    MetricsAddress(String),
    /// Connections cannot be secured as asked for.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// There is no way to the cluster.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A certificate that would make the proxy a user of the cluster, and with it all of the proxy's clients.
    #[error("cert has non empty Common Name ({name}): {file}", file = file.display())]
    CommonName {
        /// The name.
        name: String,
        /// The certificate's file.
        file: PathBuf,
    },
}

/// A proxy that listens.
#[derive(Debug)]
pub struct GrpcProxy {
    options: Options,
    listener: TcpListener,
    metrics_listener: Option<(TcpListener, bool)>,
    acceptor: Option<Acceptor>,
    client: Client,
    /// Speaks to this proxy itself.
    own_client: Option<Client>,
}

impl GrpcProxy {
    /// Reads all files, listens, and starts to connect to the cluster.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn bind(options: Options) -> Result<Self, StartError> {
        let listen_tls = listen_tls(&options)?;
        let acceptor = match &listen_tls {
            Some(settings) => {
                tracing::info!(tls_info = settings.summary(), "gRPC proxy server TLS");
                Some(Acceptor::new(settings, PROTOCOLS)?)
            }
            None => None,
        };
        let listener = bind(&options.listen_address).await?;
        let address = &options.listen_address;
        tracing::info!(address, "listening for gRPC proxy client requests");
        if let Some(settings) = &options.upstream_tls {
            check_common_name(settings)?;
            if settings.skip_server_check {
                tracing::warn!(
                    "--insecure-skip-tls-verify was given, this grpc proxy process skips authentication of etcd server TLS certificates. This option should be enabled only for testing purposes."
                );
            }
            tracing::info!(tls_info = settings.summary(), "gRPC proxy client TLS");
        }
        let client = Client::connect(&options.endpoints, client_options(&options)).await?;
        let own_client = own_client(&options.advertised, listen_tls).await?;
        let metrics_listener = match &options.metrics_address {
            Some(url) => Some(bind_metrics(url, acceptor.is_some()).await?),
            None => None,
        };
        Ok(Self { options, listener, metrics_listener, acceptor, client, own_client })
    }

    /// Where it listens for clients.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where it listens for those who want metrics alone.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Serves until a listener fails.
    pub async fn run(self) -> String {
        let Self { options, listener, metrics_listener, acceptor, client, own_client } = self;
        let mut tasks = Tasks::default();
        let namespace = Namespace::new(options.namespace.clone());
        let metrics = Arc::new(Metrics::default());
        let upstream = Upstream {
            client: client.clone(),
            send_bytes_max: options.send_bytes_max,
            recv_bytes_max: options.recv_bytes_max,
        };
        let leasing = match options.leasing_prefix.as_str() {
            "" => None,
            prefix => {
                let (leasing, session) = Leasing::start(&upstream, &namespace, prefix).await;
                tasks.0.push(session);
                Some(leasing)
            }
        };
        let kv = kv::Service::new(&upstream, &namespace, &metrics, leasing, options.is_ordered);
        kv.recover_order().await;
        let (leader, tracking) = Tracker::start(&client);
        let (keep_alive, renewing) = KeepAlive::start(&client, &leader);
        tasks.0.extend([tracking, renewing]);
        let proxies = Proxies::default();
        if let Some(registration) = options.registration.clone() {
            let prefix = registration.prefix.clone();
            let (client, namespace) = (client.clone(), namespace.clone());
            let following =
                cluster::follow(client.clone(), namespace.clone(), prefix, Arc::clone(&proxies));
            tasks.spawn(following);
            let advertised = options.advertised.clone();
            tasks.spawn(register::run(client, namespace, registration, advertised));
        }
        if let Some(interval) = options.sync_interval {
            tasks.spawn(sync_endpoints(client.clone(), interval));
        }
        let web = Web::new(client.clone(), kv.clone(), own_client, Arc::clone(&metrics), &options);
        let member_list =
            MemberList { upstream: upstream.clone(), advertised: options.advertised, proxies };
        let time_to_live = TimeToLive { upstream: upstream.clone(), namespace: namespace.clone() };
        let watch = watch::Service::new(&upstream, &kv, &namespace, &leader, &metrics);
        let looked_into = LookedInto { kv, watch, member_list, time_to_live, keep_alive };
        let profiled = options.profiled.map(Into::into);
        if profiled.is_some() {
            tracing::info!(path = "/debug/pprof", "gRPC proxy enabled pprof");
        }
        let web_of_all = web.clone().with_profiles(profiled);
        let routes = routes(looked_into, client, web_of_all, options.logs_calls);
        if let Some((listener, is_secure)) = metrics_listener {
            let tls = acceptor.clone().filter(|_| is_secure);
            let answer = move |request: Request| {
                let web = web.clone();
                async move { web.answer(request).await }
            };
            let routes = Routes::from(axum::Router::new().fallback(answer));
            tracing::info!("gRPC proxy server metrics URL serving");
            tasks.spawn(async move {
                let incoming = listen::incoming(listener, tls, None);
                let mut server = tonic::transport::Server::builder().accept_http1(true);
                let _ = server.add_routes(routes).serve_with_incoming(incoming).await;
            });
        }
        tracing::info!(address = options.listen_address, "started gRPC proxy");
        let served = tonic::transport::Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(options.max_concurrent_streams)
            .http2_keepalive_interval(options.keepalive_interval)
            .http2_keepalive_timeout(Some(options.keepalive_timeout))
            .add_routes(routes)
            .serve_with_incoming(listen::incoming(
                listener,
                acceptor,
                Some(options.keepalive_min_time),
            ))
            .await;
        match served {
            Ok(()) => "the listener is closed".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

/// Tasks that end with the proxy.
#[derive(Default)]
struct Tasks(Vec<AbortHandle>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task).abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What does not pass as it is.
struct LookedInto {
    kv: kv::Service,
    watch: watch::Service,
    member_list: MemberList,
    time_to_live: TimeToLive,
    keep_alive: KeepAlive,
}

/// Every path.
fn routes(services: LookedInto, client: Client, web: Web, logs_calls: bool) -> Routes {
    let LookedInto { kv, watch, member_list, time_to_live, keep_alive } = services;
    let mut services = Routes::builder();
    services.add_service(KvServer::new(kv)).add_service(WatchServer::new(watch));
    let members = any(move |request: Request| {
        let service = member_list.clone();
        async move {
            Grpc::new(ProstCodec::default())
                .unary(service, request)
                .await
                .map(axum::body::Body::new)
        }
    });
    let lives = any(move |request: Request| {
        let service = time_to_live.clone();
        async move {
            Grpc::new(ProstCodec::default())
                .unary(service, request)
                .await
                .map(axum::body::Body::new)
        }
    });
    let renewals = any(move |request: Request| {
        let service = keep_alive.clone();
        async move {
            Grpc::new(ProstCodec::default())
                .streaming(service, request)
                .await
                .map(axum::body::Body::new)
        }
    });
    // A method's path makes no call of it: a page of anybody's can have a browser post to any path.
    let own_web = web.clone();
    let calls_alone = from_fn(move |request: Request, next: Next| {
        let web = own_web.clone();
        async move {
            if is_call(&request) { next.run(request).await } else { web.answer(request).await }
        }
    });
    let rest = move |request: Request| {
        let (transport, web) = (client.transport(), web.clone());
        async move { answer(transport, web, request).await }
    };
    let router = services.routes().into_axum_router();
    let router = router
        .route(MEMBER_LIST_PATH, members)
        .route(TIME_TO_LIVE_PATH, lives)
        .route(KEEP_ALIVE_PATH, renewals);
    let router = router.route_layer(calls_alone).fallback(rest);
    if !logs_calls {
        return Routes::from(router);
    }
    let log = CallLog::new();
    Routes::from(router.layer(from_fn(move |request, next| log.clone().observe(request, next))))
}

async fn answer(transport: client::Transport, web: Web, request: Request) -> Response {
    if is_call(&request) {
        return forward::forward(transport, request.map(Body::new)).await.into_response();
    }
    web.answer(request).await
}

async fn bind(address: &str) -> Result<TcpListener, StartError> {
    listen::bind(address)
        .await
        .map_err(|source| StartError::Listen { address: address.to_owned(), source })
}

/// The listener of a URL, and whether it is secured.
async fn bind_metrics(url: &str, may_be_secure: bool) -> Result<(TcpListener, bool), StartError> {
    let refused = || StartError::MetricsAddress(url.to_owned());
    let (scheme, _) = url.split_once("://").ok_or_else(refused)?;
    let is_secure = match scheme {
        "http" => false,
        "https" if may_be_secure => true,
        "https" => return Err(StartError::Tls(tls::Error::NoPair)),
        _ => return Err(refused()),
    };
    let listener = bind(listen::without_scheme(url)).await?;
    tracing::info!(address = url, "gRPC proxy listening for metrics");
    Ok((listener, is_secure))
}

/// The settings of the listener, with the pair that is generated for it if that is asked for.
fn listen_tls(options: &Options) -> Result<Option<Settings>, StartError> {
    let settings = options.listen_tls.clone();
    if settings.has_pair() || settings.trusted_ca.is_some() {
        return Ok(Some(settings));
    }
    let Some((folder, years)) = &options.auto_tls else { return Ok(None) };
    let host = listen::host_and_port(&options.listen_address).map_or("", |(host, _)| host);
    let generated = tls::generate(folder, &[host.to_owned()], *years)?;
    // Nobody can check a certificate without an authority.
    Ok(Some(Settings { pair: Some(generated.pair), skip_server_check: true, ..settings }))
}

fn check_common_name(settings: &Settings) -> Result<(), StartError> {
    let Some(pair) = &settings.pair else { return Ok(()) };
    match tls::common_name(&pair.certificate)? {
        Some(name) => Err(StartError::CommonName { name, file: pair.certificate.clone() }),
        None => Ok(()),
    }
}

fn client_options(options: &Options) -> client::Options {
    client::Options {
        tls: options.upstream_tls.clone(),
        keepalive_time: options.dial_keepalive_time,
        keepalive_timeout: options.dial_keepalive_timeout,
        keepalive_while_idle: options.dial_keepalive_while_idle,
        request_bytes_max: options.send_bytes_max,
        ..client::Options::default()
    }
}

/// A client of the advertised address, which believes what the listener believes and shows what it shows.
async fn own_client(
    advertised: &str,
    settings: Option<Settings>,
) -> Result<Option<Client>, StartError> {
    if advertised.is_empty() {
        return Ok(None);
    }
    let options = client::Options { tls: settings, ..client::Options::default() };
    let client = Client::connect([advertised], options).await?;
    tracing::info!(grpc_proxy_advertise_client_url = advertised, "create proxy client");
    Ok(Some(client))
}

/// Renews the endpoints; does not end.
async fn sync_endpoints(client: Client, interval: Duration) {
    let client = client.with_timeout(Some(SYNC_LIMIT));
    loop {
        tokio::time::sleep(interval).await;
        let members = match client.member_list(true).await {
            Ok(response) => response.members,
            Err(error) => {
                tracing::warn!(error = %error, "failed to sync endpoints");
                continue;
            }
        };
        // One without a name has not started yet, and a learner serves next to nothing.
        let started = members.into_iter().filter(|m| !m.name.is_empty() && !m.is_learner);
        let endpoints: Vec<String> = started.flat_map(|member| member.client_urls).collect();
        if !endpoints.is_empty() && endpoints != client.endpoints() {
            tracing::info!(endpoints = ?endpoints, "set etcd endpoints by autoSync");
            client.set_endpoints(&endpoints);
        }
    }
}
